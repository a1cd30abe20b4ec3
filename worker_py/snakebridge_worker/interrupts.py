"""The end of calls that nobody wants any more: the host names one in the control page, and sends SIGURG.

An exception is raised in that call and in no other, once, and only where it runs in user code: from the
moment that it is ``running`` until that is taken back. Who waits in the host, or answers, is not running.
What strikes between the two ends up as the outcome of that very call, wherever it strikes.

It does not strike inside an import: a package that is left half imported cannot be imported again. The host
sends the signal until the call is over, so that one which comes behind the import strikes.

With a concurrency of one the handler raises on the thread that it interrupts. With more it runs on the main
thread, which only receives, and has the exception raised in the thread of the call. In both, a call that
runs a coroutine is not struck, but its task is cancelled.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import signal
import sys
import threading
from typing import Any, Protocol, Sequence

from snakebridge_worker.page import FIRST_INTERRUPT, INTERRUPT_WORDS, Page


_call = operator.methodcaller("__call__")
_IMPORTS = "<frozen importlib._bootstrap>"
#: Where calls are run from.
_LOOP = (lambda: None).__code__.co_filename.replace("interrupts.py", "loop.py")


class CallCancelled(BaseException):
    """The call was cancelled, and has to end: its deadline has passed, or nobody waits for it any more.

    Like ``KeyboardInterrupt`` it is no ``Exception``, so that ``except Exception`` lets it pass.
    """

    __module__ = "snakebridge"

    # It is made by the interpreter where it strikes, which may be where the stack has no room for a function.
    def __str__(self) -> str:
        return super().__str__() or "the call was cancelled"


class Awaited(Protocol):
    """What is told to end in the place of its call."""

    seq: int
    #: Whether it is to end, which it is told by ``cancel``.
    is_wanted: bool

    def cancel(self) -> None: ...


class Shields:
    """How many shields of a call are open."""

    __slots__ = ("seq", "open")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.open = 0


class Target:
    """The call that runs at an entry, for whoever wants to end it."""

    __slots__ = ("running", "deadline", "thread", "awaited", "shields", "struck", "_words", "_lock", "_is_aimed", "_moves")

    def __init__(self, page: Page) -> None:
        #: The innermost call, while it runs and does not wait. 0: there is none, or it is answered.
        self.running = 0
        #: When it is to be over, in nanoseconds of the monotonic clock; 0: at no particular time.
        self.deadline = 0
        #: The thread that runs the calls, where another one has the handler.
        self.thread: int | None = None
        #: The coroutine that runs, of whichever call.
        self.awaited: Awaited | None = None
        #: Those of the last call that was in one.
        self.shields: Shields | None = None
        #: The last call that was interrupted, which is done once.
        self.struck = 0
        self._words = page.words[FIRST_INTERRUPT : FIRST_INTERRUPT + INTERRUPT_WORDS]
        # Taken by who aims; of a kind that the handler, when it interrupts itself, can take twice.
        self._lock = threading.RLock()
        self._is_aimed = False
        #: How often the thread has changed who is to be interrupted, and when.
        self._moves = 0

    def is_cancelled(self) -> bool:
        """Whether the host wants the call that runs to end."""
        seq = self.running
        return seq != 0 and self._words[seq % INTERRUPT_WORDS] == seq

    def strike(self) -> None:
        """Raises CallCancelled in the call that runs if it is interrupted and was not told before. On its thread."""
        seq = self.running
        awaited = self._next(seq)
        # It may have been told while that was found out.
        if awaited is not None and self.struck != seq:
            self.struck = seq
            if awaited is not self:
                awaited.cancel()
                return
            # Once is enough, should it have been aimed at meanwhile.
            self._settle()
            raise CallCancelled

    def aim(self) -> None:
        """The same, on another thread: the exception comes between two bytecodes of the call, if that is in time."""
        moves, seq, async_exc = self._moves, self.running, _async_exc()
        awaited = self._next(seq)
        if awaited is None:
            return
        with self._lock:
            # No Python is called under the lock: that may begin with a garbage collection, and a finalizer wait for
            # the very thread that waits for the lock.
            if self._moves == moves and self.struck != seq:
                self.struck = seq
                if awaited is self:
                    self._is_aimed = True
                    async_exc(self.thread, CallCancelled)
                    return
                awaited.is_wanted = True
        if awaited is not self and awaited.is_wanted:
            awaited.cancel()

    def leave(self) -> bool:
        """No call runs for now; whether it was hit in this moment. What is raised on the way out is its own."""
        self.running = 0
        return self._settle()

    def await_in(self, awaited: Awaited | None) -> None:
        """From now on that is told to end, and its thread is left alone. Raises CallCancelled if it was just hit."""
        self.awaited = awaited
        if self._settle():
            raise CallCancelled

    def shield(self) -> Shields | None:
        """Puts off what would strike the call that runs, until ``unshield`` of what is returned."""
        seq, shields = self.running, self.shields
        if not seq:
            return None
        if shields is None or shields.seq != seq:
            shields = self.shields = Shields(seq)
        shields.open += 1
        try:
            if self._settle():
                raise CallCancelled
        except BaseException:
            shields.open -= 1
            raise
        return shields

    def unshield(self, shields: Shields, is_here: bool) -> None:
        """The end of ``shield``, and of its call if that was put off and runs on this thread."""
        # A generator may be left in another call than that which entered it, or by another thread.
        shields.open -= 1
        if is_here and self.running == shields.seq and not shields.open:
            self.strike()

    def take_back(self) -> None:
        """What was raised here has been swallowed: the next signal is to strike again."""
        self.struck = 0

    def _next(self, seq: int) -> Any:
        """Whom to interrupt: the coroutine of the call that runs, which is given, or this; None for nobody."""
        if not seq or self._words[seq % INTERRUPT_WORDS] != seq or self.struck == seq:
            return None
        shields = self.shields
        if shields is not None and shields.open and shields.seq == seq:
            return None
        awaited = self.awaited
        if awaited is not None and awaited.seq == seq:
            return awaited
        return None if _imports(self.thread) else self

    def _settle(self) -> bool:
        """Has whoever aims see what this thread has just changed; whether it was hit before."""
        if self.thread is None:
            return False
        self._moves += 1
        pass_through(self._lock)
        return self._drain()

    def _drain(self) -> bool:
        """Takes what was aimed at this thread and has not struck yet; nobody aims any more."""
        if not self._is_aimed:
            return False
        try:
            self._is_aimed = False
            # It strikes where a loop begins anew, at the latest. A function may have no room on the stack.
            for _ in (0, 0):
                pass
        except CallCancelled:
            return True
        finally:
            _async_exc()(self.thread, ctypes.py_object())
        return False


def pass_through(lock: Any) -> None:
    """Waits until whoever is within the lock has left.

    It is taken and let go in one step of the interpreter. An interrupt may strike behind a bare ``acquire``,
    and with CPython 3.14 also between the two halves of ``with lock``; then nobody would let it go.
    """
    tuple(map(_call, (lock.acquire, lock.release)))


def _swallowed(targets: Sequence[Target], previous: Any, unraisable: Any) -> None:
    """Python goes on behind what a finalizer or a callback of a weakref raises, and containers are full of these."""
    if unraisable.exc_type is not CallCancelled:
        return previous(unraisable)
    here = threading.get_ident()
    for target in targets:
        if target.thread is None or target.thread == here:
            target.take_back()


def _imports(thread: int | None) -> bool:
    """Whether the call that runs there, or here, is inside an import."""
    frame = sys._getframe() if thread is None else sys._current_frames().get(thread)
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _IMPORTS:
            return True
        # What is below is another call.
        if code.co_name == "run" and code.co_filename == _LOOP:
            return False
        frame = frame.f_back
    return False


@functools.lru_cache(None)
def _async_exc() -> Any:
    function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    function.argtypes = (ctypes.c_ulong, ctypes.py_object)
    return function


def listen(targets: Sequence[Target], shared: Any) -> None:
    """Installs the handler, on the main thread. One target is struck, several are aimed at."""
    sys.unraisablehook = functools.partial(_swallowed, targets, sys.unraisablehook)
    if len(targets) == 1:
        (target,) = targets

        def handle(*_: Any) -> None:
            if not shared.forked:
                target.strike()

    else:

        def handle(*_: Any) -> None:
            if not shared.forked:
                for target in targets:
                    target.aim()

    signal.signal(signal.SIGURG, handle)
