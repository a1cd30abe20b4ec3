"""What the code of a call may ask about that call, and ask of it: ``snakebridge.call``."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from snakebridge_worker import host
from snakebridge_worker.interrupts import Shields, Target


def deadline() -> float | None:
    """The moment at which the call that runs here is to be over, as ``time.monotonic`` tells it; None: no particular one.

    Then its caller is answered, and ``CallCancelled`` is raised in it. Outside of a call it is None. Which
    threads have a call, ``is_cancelled`` says.
    """
    target = _target()
    return target.deadline / 1e9 if target is not None and target.running and target.deadline else None


def is_cancelled() -> bool:
    """Whether the call that runs here is to end: its deadline has passed, or nobody waits for it any more.

    It looks at one word of memory. It works in a ``shield``, and wherever ``CallCancelled`` does not reach. On
    a thread that user code started it tells of the call that runs in the worker, if the pool has a
    concurrency of 1; with more it is False there, as it is outside of a call.
    """
    target = _target()
    return target is not None and target.is_cancelled()


def shield() -> Shield:
    """A context manager: ``CallCancelled`` is not raised within its block, but at its end.

    Shields may lie within one another; the outermost counts. In a coroutine the task is cancelled at the
    end of the block, so ``CancelledError`` comes where it awaits next. The worker is killed ``cancel_grace``
    after the end of the call was wanted, shield or not. A call of the host is not shielded: when the call is
    cancelled it raises ``CallCancelled``, for it has nothing to return. On threads that user code started,
    where nothing is raised, it does nothing.
    """
    return Shield(host.entries.get(get_ident()))


class Shield:
    """What ``shield`` makes."""

    __slots__ = ("_target", "_shields")

    def __init__(self, target: Target | None) -> None:
        self._target = target
        self._shields: Shields | None = None

    def __enter__(self) -> None:
        if self._target is not None:
            self._shields = self._target.shield()

    def __exit__(self, *_: Any) -> None:
        if self._target is not None and self._shields is not None:
            self._target.unshield(self._shields, host.entries.get(get_ident()) is self._target)


def _target() -> Target | None:
    """The entry of this thread; that of the worker, if it has but one."""
    target = host.entries.get(get_ident())
    if target is None and len(host.entries) == 1:
        (target,) = host.entries.values()
    return target
