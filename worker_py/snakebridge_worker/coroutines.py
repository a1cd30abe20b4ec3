"""Runs coroutines to their end, each on the event loop of its thread."""

from __future__ import annotations

import threading
from typing import Any


async def _coroutine() -> None: ...


_sample = _coroutine()
CoroutineType = type(_sample)
_sample.close()


class Loop:
    """An event loop, made when it is first needed: importing asyncio takes longer than forking a worker."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        self._loop: Any = None

    def run(self, coroutine: Any) -> Any:
        """What the coroutine returns."""
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Nothing runs here any more."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


class _Own(threading.local):
    def __init__(self) -> None:
        self.loop = Loop()


_own = _Own()


def run(coroutine: Any) -> Any:
    """What the coroutine returns."""
    return _own.loop.run(coroutine)
