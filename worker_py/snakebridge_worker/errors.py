"""Exceptions of the bridge, and the description of any exception for Rust.

What is described comes from user code and may be hostile: each part is read on its own, bounded,
and replaced if reading it fails.
"""

import pickle
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, Callable, List, Optional, Tuple

_LONGEST = 64 * 1024
_MOST_LINKS = 20
_MOST_FRAMES = 200
_MOST_PRINTED = 2_000
_MOST_NOTES = 100
_OWN_FOLDER = "/snakebridge_worker/"

# Read past the class of the exception, which may have names of its own.
_TYPE_NAME = type.__dict__["__qualname__"].__get__
_TYPE_MODULE = type.__dict__["__module__"].__get__
_DICT = BaseException.__dict__["__dict__"].__get__


class RefNotFound(LookupError):
    """No object of that id is held here."""

    def __init__(self, ref_id: int) -> None:
        super().__init__(f"no object ref-{ref_id} is held here")
        self.ref_id = ref_id


class EncodeError(ValueError):
    """A result that cannot be sent: too deep, too large, or holding itself."""


class InStep(BaseException):
    """Carries what a step of a chain raised, and the step's name, to where it is described."""

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(step)
        self.step = step
        self.error = error


class HostError(Exception):
    """A function of the host failed, or could not be called.

    ``code`` is the code of the error in Rust, as ``"timeout"``; ``"convert"`` if an argument cannot be
    sent, ``"no_such_function"`` if nothing of that name is registered. If an exception of Python was
    behind it, ``__cause__`` is one of the same name, with its message, notes and traceback.
    """

    __module__ = "snakebridge"

    def __init__(self, message: str = "", code: str = "python") -> None:
        super().__init__(message)
        self.code = code


Link = Tuple[str, str, str, str, List[Tuple[str, int, str]], List[str], Optional[str]]


class Rebuilt(Exception):
    """Base of the exceptions that stand for those of another worker. What describes those describes them."""

    link: Link


def rebuilt(chain: List[Link]) -> Optional[BaseException]:
    """Exceptions that are to Python what those of a chain were: the outermost, with its causes; None for none."""
    made = None
    for link in reversed(chain):
        name, module, message, _, frames, notes, _ = link
        members = {"__module__": module, "__qualname__": name}
        error = type(name.rpartition(".")[2].replace("\0", "?"), (Rebuilt,), members)(message)
        error.link = link
        error.__cause__ = made
        error.__traceback__ = _guarded(lambda: _traceback(frames), None)
        if notes:
            error.__notes__ = list(notes)
        made = error
    return made


_FRAME = compile("frame()", "", "eval")


def _traceback(frames: List[Tuple[str, int, str]]) -> Optional[TracebackType]:
    """A traceback with these frames, of code that does nothing."""
    made = None
    for file, line, name in reversed(frames):
        code = _FRAME.replace(co_filename=file, co_name=name)
        # Without a place in the code no column of the line is marked.
        made = TracebackType(made, eval(code, {"frame": sys._getframe}), -1, line)
    return made


class _Outside(threading.local):
    """What the calls below a nested one are handling: Python takes it for the context of what is raised there."""

    handled: Optional[BaseException] = None


outside = _Outside()


def describe(exc: BaseException, step: Optional[str] = None) -> bytes:
    """The step that raised, if one of several, with the exception and its causes, outermost first.

    Pickled as plain data. Never raises.
    """
    try:
        if outside.handled is not None:
            _cut(exc, outside.handled)
        links = _links(exc)
        messages = [_message(link) for link in links]
        # What is small enough Python itself prints, with all its causes.
        whole = len(links) < _MOST_LINKS and all(len(message) <= _LONGEST for message in messages)
        chain = [_link(link, message, whole) for link, message in zip(links, messages)]
    except BaseException as error:  # the one place: nothing of the caller's may pass
        chain = [_last_resort(exc, error)]
    return pickle.dumps((step, chain), 5)


def _cut(exc: BaseException, handled: BaseException) -> None:
    """Takes away what is only there because it is being handled in another call."""
    todo: List[Optional[BaseException]] = [exc]
    seen = set()
    while todo:
        part = todo.pop()
        if part is None or part is handled or id(part) in seen:
            continue
        seen.add(id(part))
        context = BaseException.__context__.__get__(part)
        if context is handled:
            BaseException.__context__.__set__(part, None)
        else:
            todo.append(context)
        todo.append(BaseException.__cause__.__get__(part))


def _links(exc: BaseException) -> List[BaseException]:
    links = [exc]
    seen = {id(exc)}
    while len(links) < _MOST_LINKS:
        cause = _cause(links[-1])
        if cause is None or id(cause) in seen:
            break
        seen.add(id(cause))
        links.append(cause)
    return links


def _cause(exc: BaseException) -> Optional[BaseException]:
    cause = BaseException.__cause__.__get__(exc)
    if cause is None and not BaseException.__suppress_context__.__get__(exc):
        cause = BaseException.__context__.__get__(exc)
    return cause


def _link(exc: BaseException, message: str, whole: bool) -> Link:
    if issubclass(type(exc), Rebuilt):
        return exc.link
    name = _guarded(lambda: _name(type(exc)), "?")
    module = _guarded(lambda: _module(type(exc)), "?")
    plain = _plain_text(name, module, message)
    text = _guarded(lambda: _with_causes(exc), "") if whole else ""
    return (
        name,
        module,
        message,
        text or _guarded(lambda: _alone(exc, plain), plain),
        _guarded(lambda: _frames(exc), []),
        _guarded(lambda: _notes(exc), []),
        _guarded(lambda: _code(exc), None),
    )


def _last_resort(exc: BaseException, error: BaseException) -> Link:
    name = _guarded(lambda: _name(type(exc)), "?")
    why = _guarded(lambda: _name(type(error)), "?")
    return (name, "?", f"<an exception that could not be described: {why}>", "", [], [], None)


def _guarded(read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return read()
    except Exception:
        return otherwise


def _clean(text: str) -> str:
    """Plain, bounded text that UTF-8 can hold."""
    length = str.__len__(text)
    # A slice of a subclass of `str` by its own class is a plain `str`.
    text = str.__getitem__(text, slice(0, _LONGEST))
    if length > _LONGEST:
        text += f"... ({length} characters)"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _name(kind: type) -> str:
    return _clean(_TYPE_NAME(kind))


def _module(kind: type) -> str:
    module = _TYPE_MODULE(kind)
    return _clean(module) if isinstance(module, str) else "?"


def _message(exc: BaseException) -> str:
    try:
        return _clean(str(exc))
    except Exception:
        return "<exception str() failed>"


def _notes(exc: BaseException) -> List[str]:
    notes = _DICT(exc).get("__notes__", ())
    if not isinstance(notes, (list, tuple)):
        return []
    return [_guarded(lambda: _clean(str(note)), "<note str() failed>") for note in notes[:_MOST_NOTES]]


def _code(exc: BaseException) -> Optional[str]:
    """What a function of the host failed with."""
    code = _DICT(exc).get("code") if issubclass(type(exc), HostError) else None
    return _clean(code) if isinstance(code, str) else None


def _plain_text(name: str, module: str, message: str) -> str:
    where = "" if module in ("builtins", "__main__") else f"{module}."
    return f"{where}{name}: {message}\n" if message else f"{where}{name}\n"


def _with_causes(exc: BaseException) -> str:
    printed = traceback.TracebackException(
        type(exc), exc, BaseException.__traceback__.__get__(exc), limit=_MOST_PRINTED, compact=True
    )
    _strip(printed)
    return _clean_traceback("".join(printed.format()))


def _alone(exc: BaseException, plain: str) -> str:
    frames = _without_own(traceback.extract_tb(BaseException.__traceback__.__get__(exc), _MOST_FRAMES))
    head = ["Traceback (most recent call last):\n", *frames.format()] if frames else []
    return _clean_traceback("".join(head) + plain)


def _clean_traceback(text: str) -> str:
    """Bounded from the middle: the head says where it began, the tail what it was."""
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]}\n... ({len(text) - 2 * half} characters)\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _strip(top: "traceback.TracebackException") -> None:
    """Takes the worker's own frames from the top of each traceback."""
    todo, seen = [top], set()
    while todo:
        part = todo.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        part.stack = _without_own(part.stack)
        todo += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]


def _is_own(filename: str) -> bool:
    return filename.startswith("<snakebridge") or _OWN_FOLDER in filename


def _without_own(stack: "traceback.StackSummary") -> "traceback.StackSummary":
    first = 0
    while first < len(stack) and _is_own(stack[first].filename):
        first += 1
    return traceback.StackSummary.from_list(stack[first:])


def _frames(exc: BaseException) -> List[Tuple[str, int, str]]:
    """The outermost frames and the innermost, where there are too many."""
    frames = []
    tb = BaseException.__traceback__.__get__(exc)
    while tb is not None:
        code = tb.tb_frame.f_code
        if frames or not _is_own(code.co_filename):
            frames.append((code.co_filename, tb.tb_lineno or 0, code.co_name))
        tb = tb.tb_next
    if len(frames) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        frames = frames[:half] + frames[-half:]
    return [(_clean(file), max(line, 0), _clean(name)) for file, line, name in frames]
