"""Calls of functions of the host: what user code calls, and how its thread waits for the answer.

While it waits, a thread runs the *nested* calls that the function makes of this worker, on top of the one
that waits. Calls that have nothing to do with it are kept until that one is over.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import traceback
from collections import deque
from functools import reduce
from threading import get_ident
from typing import Any, Callable, NamedTuple, Union

from snakebridge_worker import errors, wire
from snakebridge_worker.errors import HostError
from snakebridge_worker.interrupts import CallCancelled, Target
from snakebridge_worker.page import INTERRUPT_WORDS, Page

#: The answer could not be decoded: what that raised is its value.
BROKEN = -1
#: Names come from user code; one that makes them up must not make a worker grow.
_MOST_NAMES = 4096

#: So many Python frames have to be left on the stack when a call begins to wait: what happens until it has
#: its answer is not the user's, who could neither understand nor undo that it failed.
_ROOM = 30


class Answer(NamedTuple):
    """An answer: the entry and the call that it is for, how the function's call ended, and its value, decoded."""

    entry: int
    seq: int
    ended: int
    value: Any


class _Mark:
    __slots__ = ()


#: What comes to an entry beside calls: the worker is to end, and the host has closed the channel.
STOP, GONE = _Mark(), _Mark()

#: What comes to an entry. A call is its message.
Message = Union[bytes, Answer, _Mark]

#: The entry of each thread that runs calls.
entries: dict[int, Entry] = {}
#: What the host has said of names: the function's id, and what is wanted of its arguments.
_known: dict[str, tuple[int, bytes]] = {}


class Callback:
    """A function of the host that was passed to Python: called like any other.

    Its arguments and result are those of ``snakebridge.host.call``.
    """

    __module__ = "snakebridge"
    __slots__ = ("_function", "_want", "__name__", "__weakref__")

    def __init__(self, function: int, want: bytes, name: str) -> None:
        self._function = function
        self._want = want
        self.__name__ = name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        ended, value = _entry().ask(self._function, self._want, list(args), kwargs)
        if ended == wire.HOST_VALUE:
            return value
        if ended == wire.NO_SUCH_FUNCTION:
            raise HostError(f"the callback {self.__name__} is gone", "no_such_function")
        raise _error(ended, value)

    # Each call that carries it makes another.
    def __eq__(self, other: object) -> bool:
        return type(other) is Callback and other._function == self._function

    def __hash__(self) -> int:
        return hash(self._function)

    def __repr__(self) -> str:
        return f"<snakebridge.Callback {self.__name__}>"


def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Calls the function that the host has registered under a name; returns what it returns.

    With one positional argument and no keywords the function gets that value; else a tuple of the
    positional arguments, with the keywords as a map at its end if there are any. A function that asks for a
    map or a struct can be given keywords alone.

    The thread waits for the answer. That may be long: what the function calls in this worker, runs here
    meanwhile.

    Raises HostError if the function fails or there is none, or the exception that it asks for;
    CallCancelled if the call that runs here is cancelled; RuntimeError outside of a call, on a thread that
    user code started, and in a forked process; whatever an argument raises when it is read.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a function is a str, not {type(name).__name__}")
    entry, name, given = _entry(), str.__str__(name), list(args)
    for _ in range(2):
        ended, value = wire.HOST_VALUE, _known.get(name)
        if value is None:
            ended, value = entry.ask(0, b"", [name], {})
            if ended == wire.HOST_VALUE:
                if value is None:
                    break
                if len(_known) >= _MOST_NAMES:
                    _known.clear()
                _known[name] = value
        if ended == wire.HOST_VALUE:
            ended, value = entry.ask(*value, given, kwargs)
        if ended == wire.HOST_VALUE:
            return value
        if ended != wire.NO_SUCH_FUNCTION:
            raise _error(ended, value)
        # It may have been registered anew.
        _known.pop(name, None)
    raise HostError(f"no function {name!r} is registered", "no_such_function")


def _entry() -> Entry:
    """The entry whose call runs here. Raises RuntimeError if there is none."""
    entry = entries.get(get_ident())
    if entry is None:
        raise RuntimeError("the host can be called only from within a call, and on the thread that runs it")
    if entry.shared.forked:
        raise RuntimeError("the host cannot be called by a process that a worker forked")
    if not entry.running:
        raise RuntimeError("the host can be called only from within a call, and none runs here now")
    return entry


class Entry(Target):
    """One entry of the control page: which call runs there, and what came while it waited."""

    __slots__ = ("kept", "shared", "encoder", "run", "wait", "take", "_answers", "_nested")

    def __init__(self, shared: Any, page: Page, nested: int) -> None:
        super().__init__(page)
        #: Calls that are not nested, each as its message, and STOP.
        self.kept: deque[Message] = deque()
        self.shared = shared
        self.encoder: Any = None
        self.run: Callable[[memoryview, int], None] | None = None
        #: Waits for a message. What it raises is not its own, and costs no message.
        self.wait: Callable[[], Any] | None = None
        #: That message; None if it is done with.
        self.take: Callable[[], Message | None] | None = None
        self._answers: dict[int, Answer] = {}
        self._nested = nested

    def ask(self, function: int, want: bytes, args: list[Any], kwargs: dict[str, Any]) -> tuple[int, Any]:
        """Calls a function and waits for it: how that ended, and its value. With a name for 0: which one that is.

        Running the nested calls here and not in a function of their own spares their stack a frame.
        """
        _need_room(_ROOM)
        seq, answers = self.running, self._answers
        sent: list[int] = []
        refs: list[int] = []
        raised = None
        is_at_work = False
        try:
            body = self._encode(function, want, args, kwargs, refs)
            # A call waits for one answer at a time: until it is there, no finalizer and no handler can call the
            # host, and no interrupt strikes.
            if self.leave():
                raise CallCancelled
            try:
                self._send(seq, function, body, refs, sent)
            except BaseException as error:
                if not sent:
                    raise
                raised = error
            while seq not in answers:
                try:
                    self.wait()
                    is_at_work = True
                    message = self.take()
                    if type(message) is Answer:
                        # If not for this call, then for one below it, which has still to come up.
                        answers[message.seq] = message
                    elif message is GONE:
                        os._exit(0)
                    elif type(message) is bytes and message[0] == wire.NESTED:
                        aside, before = _put_aside(), errors.outside.handled
                        own = self.deadline, self.shields, self.struck
                        errors.outside.handled = sys.exc_info()[1]
                        self.run(memoryview(message), self._nested)
                        errors.outside.handled = before
                        self.deadline, self.shields, self.struck = own
                        if aside is not None:
                            _put_back(*aside)
                    elif message is not None:
                        self.kept.append(message)
                    is_at_work = False
                except BaseException as error:
                    if is_at_work or type(error) is OSError:
                        # A message is lost, and somebody would wait for ever: the worker is of no use any more.
                        traceback.print_exc()
                        os._exit(70)
                    # A signal handler raised it. The answer that is on its way must not be taken for that
                    # of another call of the host, so it is waited for all the same.
                    raised = raised or error
            answer = answers.pop(seq)
            if answer.ended == wire.CANCELLED:
                # That is how it is told.
                self.struck = seq
        finally:
            if not sent:
                self.shared.table.drop(refs)
            self.running = seq
        if self._words[seq % INTERRUPT_WORDS] == seq:
            self.strike()
        if raised is not None:
            try:
                raise raised
            finally:
                # Its traceback holds this frame.
                del raised
        return answer.ended, answer.value

    def _encode(self, function: int, want: bytes, args: list[Any], kwargs: dict[str, Any], refs: list[int]) -> list:
        """The body of the arguments; adds the refs that it makes. Raises HostError, or what user code raises."""
        if not function:
            # What is no text for Rust raises here.
            args[0].encode()
            return [pickle.dumps(args[0], 5)]
        encoder = self.encoder
        try:
            body, _ = encoder.encode(encoder.argument(args, kwargs, want), want, refs)
        except errors.EncodeError as error:
            # It speaks of results, and of what to do about them.
            what = str(error).partition(":")[0].replace("the result", "an argument", 1)
            raise HostError(what, "convert") from error
        if len(refs) > wire.MOST_REFS:
            raise HostError(f"the arguments hold more than {wire.MOST_REFS} objects without a value", "convert")
        return body

    def _send(self, seq: int, function: int, body: list, refs: list[int], sent: list[int]) -> None:
        """Sends a call of a function. If it raises and ``sent`` is empty, nothing was sent."""
        shared = self.shared
        blocks: list[int] = []
        try:
            if shared.forked:
                raise RuntimeError("the host cannot be called by a process that a worker forked")
            message, blocks = shared.host_call(seq, function, body, refs)
            # Written and noted in one step: whether the host has it has to be known, whatever is raised.
            sent.extend(map(os.write, (shared.channel,), (message,)))
        except MemoryError as error:
            raise HostError(f"the arguments have no room: {error}", "convert") from error
        finally:
            if sent:
                shared.page.count_sent()
            else:
                shared.release(blocks)


def _need_room(frames: int) -> None:
    """Raises RecursionError if the stack has no room for so many frames."""
    if frames:
        _need_room(frames - 1)


def _error(ended: int, value: Any) -> BaseException:
    """What to raise for an answer that is no value."""
    if ended == wire.CANCELLED:
        return CallCancelled()
    if ended == BROKEN:
        if type(value) is errors.RefNotFound:
            return HostError(str(value), "ref_not_found")
        return value
    raises, code, message, chain = value
    made = HostError(message, code)
    if raises is not None:
        try:
            made = _made(raises, message)
        except Exception as error:
            made = HostError(f"{message} ({raises} cannot be raised: {type(error).__name__}: {error})")
    cause = errors.rebuilt(chain)
    if cause is not None:
        made.__cause__ = cause
    return made


def _made(raises: str, message: str) -> BaseException:
    """An exception of a class that is named as in ``builtins``, or with its module."""
    module, _, name = raises.rpartition(".")
    names = [name]
    while True:
        try:
            found = importlib.import_module(module or "builtins")
            break
        except ModuleNotFoundError:
            # What is no module may be a class that holds the other.
            module, _, name = module.rpartition(".")
            if not module:
                raise
            names.insert(0, name)
    kind = reduce(getattr, names, found)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise TypeError("it is no class of exceptions")
    made = kind(message)
    if not isinstance(made, BaseException):
        raise TypeError("its constructor makes no exception")
    return made


def _put_aside() -> tuple[Any, Any] | None:
    """Takes the event loop that runs here, and its task, from the thread: a nested call is not within them."""
    # What was never imported runs nowhere, nor does what another thread has half imported.
    running = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    loop = running and running()
    if loop is None:
        return None
    tasks = sys.modules["asyncio.tasks"]
    task = tasks.current_task(loop)
    if task is not None:
        tasks._leave_task(loop, task)
    tasks.events._set_running_loop(None)
    return loop, task


def _put_back(loop: Any, task: Any) -> None:
    """The end of ``_put_aside``."""
    tasks = sys.modules["asyncio.tasks"]
    tasks.events._set_running_loop(loop)
    if task is not None:
        tasks._enter_task(loop, task)
