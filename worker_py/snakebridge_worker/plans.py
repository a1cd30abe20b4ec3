"""What a call does, compiled once for each call site.

A plan is a list of steps, each on the result of the one before, and what is wanted of the last. The
host sends its bytes with each call; ``Plans`` keeps what was made of them.
"""

from __future__ import annotations

import importlib
import struct
import sys
from functools import partial, reduce
from typing import Any, Callable

from snakebridge_worker import contexts, streams
from snakebridge_worker.codec import ATOMS
from snakebridge_worker.errors import InStep
from snakebridge_worker.refs import RefTable

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")

#: Call sites are few; a host that makes names up must not make a worker grow.
MOST_PLANS = 4096

FUNCTION, GLOBAL, MODULE, ITSELF, CALL, METHOD, GETATTR, SETATTR, GETITEM, SETITEM, DELITEM, LEN, STR, REPR = range(14)
STREAM, BATCH, CLOSE, ENTER, EXIT = range(14, 19)
EXEC, EVAL = range(19, 21)
#: What the host's language calls each kind of step, and how many texts follow it.
_KINDS = {
    FUNCTION: ("call", 2),
    GLOBAL: ("get", 2),
    MODULE: ("import", 1),
    ITSELF: ("itself", 0),
    CALL: (".call_with", 0),
    METHOD: (".call_method", 1),
    GETATTR: (".getattr", 1),
    SETATTR: (".setattr", 1),
    GETITEM: (".get_item", 0),
    SETITEM: (".set_item", 0),
    DELITEM: (".del_item", 0),
    LEN: (".len", 0),
    STR: (".str", 0),
    REPR: (".repr", 0),
    STREAM: (".stream", 0),
    BATCH: (".batch", 0),
    CLOSE: (".close", 0),
    ENTER: (".enter", 0),
    EXIT: (".exit", 0),
    EXEC: ("exec", 0),
    EVAL: ("eval", 0),
}

#: A step: the object, the positional and the keyword arguments make the next object.
_Step = Callable[[Any, tuple, dict], Any]


class Plan:
    """``run(body)`` makes the result; ``want`` says what the codec makes of it.

    ``atoms`` makes, by their type, the pickles of values that are sent as the plain pickle of themselves.
    ``last`` names the last of several steps, for a result that has to be awaited.
    """

    __slots__ = ("run", "want", "is_batch", "last", "atoms")

    def __init__(
        self, run: Callable[[Any], Any], want: bytes, is_batch: bool = False, last: str | None = None
    ) -> None:
        self.run = run
        self.want = want
        self.is_batch = is_batch
        self.last = last
        self.atoms: dict[type, Callable[[Any], bytes]] = {}


class Plans:
    """The plans of this worker, by their bytes."""

    __slots__ = ("known", "_takes_atoms", "_table")

    def __init__(self, takes_atoms: Callable[[bytes], bool], table: RefTable) -> None:
        self.known: dict[bytes, Plan] = {}
        self._takes_atoms = takes_atoms
        self._table = table

    def find(self, raw: bytes) -> Plan:
        """The plan of these bytes. Imports nothing: that is part of running it."""
        plan = self.known.get(raw)
        if plan is None:
            if len(self.known) >= MOST_PLANS:
                self.known.clear()
            plan = parse(raw, self._table)
            if self._takes_atoms(plan.want):
                plan.atoms = ATOMS
            self.known[raw] = plan
        return plan


def parse(raw: bytes, table: RefTable) -> Plan:
    """Reads a plan: whether it is long, its steps, its want. The host wrote it, so it is one."""
    long, at = raw[0], 1
    (count,) = _U64.unpack_from(raw, at)
    at += 8
    steps = []
    for _ in range(count):
        (kind,) = _U32.unpack_from(raw, at)
        at += 4
        texts = []
        for _ in range(_KINDS[kind][1]):
            text, at = _bytes(raw, at)
            texts.append(text.decode())
        if kind in (EXEC, EVAL):
            texts.append(partial(table.namespace, *_U64.unpack_from(raw, at)))
            at += 8
        steps.append((kind, *texts))
    want, at = _bytes(raw, at)
    if not long:
        return Plan(_short(*steps[0]), want, steps[0][0] == BATCH)
    compiled = [_step(*step) for step in steps]
    if count == 1:
        return Plan(lambda body: _run_step(compiled[0], body), want)
    names = [f"step {number} of {count}: {_name(*step)}" for number, step in enumerate(steps, 1)]
    return Plan(lambda body: _run_chain(compiled, names, body), want, last=names[-1])


def _name(kind: int, *texts: Any) -> str:
    """A step as the host's program has it, without its arguments: ``.call_method("as_posix")``."""
    inside = ", ".join(f'"{text}"' for text in texts if type(text) is str)
    return f"{_KINDS[kind][0]}({inside})"


def _bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    """The bytes whose length stands at ``at``, and where they end."""
    (length,) = _U64.unpack_from(raw, at)
    return raw[at + 8 : at + 8 + length], at + 8 + length


def _run_step(step: _Step, body: Any) -> Any:
    """Runs a plan of one step, whose body is the object and a list with the arguments of that step."""
    target, ((args, kwargs),) = body
    return step(target, args, kwargs or {})


def _run_chain(steps: list[_Step], names: list[str], body: Any) -> Any:
    """Runs a plan of several steps; raises ``InStep`` with what one of them raised."""
    target, arguments = body
    at = 0
    try:
        for step, (args, kwargs) in zip(steps, arguments):
            target = step(target, args, kwargs or {})
            at += 1
    except BaseException as error:
        raise InStep(names[min(at, len(names) - 1)], error)
    return target


def _finder(module: str, name: str) -> Callable[[], Any]:
    """Finds ``module.name`` anew at each call: a module may be patched or reloaded."""
    modules, names, imported = sys.modules, name.split("."), False

    def find() -> Any:
        nonlocal imported
        # Only the import itself waits for a module that another thread has half loaded.
        found = modules.get(module) if imported else None
        if found is None:
            found = importlib.import_module(module)
            imported = True
        return reduce(getattr, names, found)

    return find


def _short(kind: int, *texts: Any) -> Callable[[tuple], Any]:
    """A plan of one step without keywords: the commonest, so each gets the shortest way."""
    if kind == FUNCTION:
        module, name = texts
        if "." not in name:
            return _plain_function(module, name)
        find = _finder(module, name)
        return lambda args: find()(*args)
    if kind == METHOD and "." not in texts[0]:
        (name,) = texts
        return lambda args: getattr(args[0], name)(*args[1:])
    step = _step(kind, *texts)
    if kind in (GLOBAL, MODULE, EXEC, EVAL):
        return lambda args: step(None, args, {})
    return lambda args: step(args[0], args[1:], {})


def _plain_function(module: str, name: str) -> Callable[[tuple], Any]:
    """``module.name(*args)``, where the name has no dots."""
    find, modules = _finder(module, name), sys.modules
    find_first = True

    def run(args: tuple) -> Any:
        nonlocal find_first
        found = None if find_first else modules.get(module)
        if found is None:
            function = find()
            find_first = False
        else:
            function = getattr(found, name)
        return function(*args)

    return run


def _step(kind: int, *texts: Any) -> _Step:
    """The step of that kind. Names are looked up, and modules imported, when it runs."""
    if kind in (FUNCTION, GLOBAL):
        find = _finder(*texts)
        return (lambda _, args, kwargs: find()(*args, **kwargs)) if kind == FUNCTION else (lambda *_: find())
    if kind == MODULE:
        return lambda *_: importlib.import_module(texts[0])
    if kind in (METHOD, GETATTR):
        names = texts[0].split(".")
        if kind == GETATTR:
            return lambda target, *_: reduce(getattr, names, target)
        return lambda target, args, kwargs: reduce(getattr, names, target)(*args, **kwargs)
    if kind == SETATTR:
        return lambda target, args, _: setattr(target, texts[0], args[0])
    if kind in (EXEC, EVAL):
        (find,) = texts
        if kind == EXEC:
            return lambda _, args, kwargs: find().exec(*args, **kwargs)
        return lambda _, args, kwargs: find().eval(*args, **kwargs)
    return _OPERATIONS[kind]


def _set_item(target: Any, args: tuple, _: dict) -> None:
    target[args[0]] = args[1]


def _del_item(target: Any, args: tuple, _: dict) -> None:
    del target[args[0]]


_OPERATIONS: dict[int, _Step] = {
    ITSELF: lambda target, *_: target,
    CALL: lambda target, args, kwargs: target(*args, **kwargs),
    GETITEM: lambda target, args, _: target[args[0]],
    SETITEM: _set_item,
    DELITEM: _del_item,
    LEN: lambda target, *_: len(target),
    STR: lambda target, *_: str(target),
    REPR: lambda target, *_: repr(target),
    STREAM: lambda target, *_: streams.open_stream(target),
    BATCH: lambda target, args, _: streams.batch(target, *args),
    CLOSE: lambda target, *_: target.close(),
    ENTER: lambda target, *_: contexts.enter(target),
    EXIT: lambda target, *_: contexts.leave(target),
}
