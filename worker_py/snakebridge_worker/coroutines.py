"""Runs coroutines to their end, each on the event loop of its thread."""

from __future__ import annotations

import threading
from typing import Any

from snakebridge_worker import calls, host
from snakebridge_worker.interrupts import CallCancelled


async def _coroutine() -> None: ...


_sample = _coroutine()
CoroutineType = type(_sample)
_sample.close()


class Loop:
    """An event loop, made when it is first needed: importing asyncio takes longer than forking a worker.

    A loop cannot run within itself. While it runs, what a nested call gives it runs on another.
    """

    __slots__ = ("_loop", "_above")

    def __init__(self) -> None:
        self._loop: Any = None
        self._above: Loop | None = None

    def run(self, coroutine: Any) -> Any:
        """What the coroutine returns."""
        idle = self
        while idle._loop is not None and idle._loop.is_running():
            if idle._above is None:
                idle._above = Loop()
            idle = idle._above
        if idle._loop is None:
            import asyncio

            with calls.shield():
                idle._loop = asyncio.new_event_loop()
        return _run_on(idle._loop, coroutine)

    def close(self) -> None:
        """Nothing runs here any more."""
        if self._above is not None:
            self._above.close()
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                _run_on(loop, loop.shutdown_asyncgens())
            finally:
                loop.close()


class _Awaited:
    """A coroutine of a call while a loop runs it. What is raised in the loop itself would break that, so an
    interrupt has the loop cancel the task."""

    __slots__ = ("seq", "_loop", "_task", "is_wanted", "_is_told")

    def __init__(self, seq: int, loop: Any) -> None:
        self.seq = seq
        self._loop = loop
        self._task: Any = None
        self.is_wanted = False
        self._is_told = False

    def cancel(self) -> None:
        """Has the task cancelled by the loop, or as soon as there is one. From any thread."""
        self.is_wanted = True
        if self._task is not None:
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except Exception:
                # User code has closed the loop, or has one of its own making.
                pass

    def _tell(self) -> None:
        self._is_told = self._is_told or self._task.cancel()

    def run(self, awaitable: Any) -> Any:
        import asyncio

        is_new = not asyncio.isfuture(awaitable)
        task = self._task = asyncio.ensure_future(awaitable, loop=self._loop)
        if is_new:
            # As the loop does with tasks of its own making, here and below.
            task._log_destroy_pending = False
        if self.is_wanted:
            self.cancel()
        try:
            value = self._loop.run_until_complete(task)
        except BaseException:
            if is_new and task.done() and not task.cancelled():
                task.exception()
            raise
        return value

    def has_begun(self) -> bool:
        return self._task is not None

    def is_missed(self) -> bool:
        """Whether its end was wanted when it had just ended by itself."""
        return self.is_wanted and not self._is_told


def _run_on(loop: Any, awaitable: Any) -> Any:
    entry = host.entries.get(threading.get_ident())
    if entry is None or not entry.running:
        return loop.run_until_complete(awaitable)
    awaited, below = _Awaited(entry.running, loop), entry.awaited
    try:
        entry.await_in(awaited)
        value = awaited.run(awaitable)
    finally:
        entry.await_in(below)
        if not awaited.has_begun():
            # It would complain that nobody awaits it.
            getattr(awaitable, "close", int)()
    if awaited.is_missed():
        raise CallCancelled
    return value


class _Own(threading.local):
    def __init__(self) -> None:
        self.loop = Loop()


_own = _Own()

#: Whether calls run on more threads than one: then no loop of a thread is there for what outlives a call.
threads = False


def run(coroutine: Any) -> Any:
    """What the coroutine returns."""
    return _own.loop.run(coroutine)


def loop_for_long() -> Loop:
    """A loop for what goes on from call to call: that of the thread if all calls run on it, since objects
    that earlier calls made may be bound to it; else one of its own."""
    return Loop() if threads else _own.loop


def done_with(loop: Loop) -> None:
    """Nothing that was given this loop runs there any more."""
    if loop is not _own.loop:
        loop.close()
