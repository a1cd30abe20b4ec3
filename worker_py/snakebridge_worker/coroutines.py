"""Runs coroutines to their end, each on the event loop of its thread."""

from __future__ import annotations

import threading
from typing import Any


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

            idle._loop = asyncio.new_event_loop()
        return idle._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Nothing runs here any more."""
        if self._above is not None:
            self._above.close()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


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
