"""Iterations that Rust drives: it asks for one batch after the other, and the worker is free in between."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Generator
from time import monotonic
from typing import Any, Callable

from snakebridge_worker import coroutines, errors
from snakebridge_worker.coroutines import CoroutineType

#: In seconds. A batch is over when it has taken so long, for others wait for the worker; so a slow
#: producer's items go out one by one.
SLICE = 0.002

#: How a batch ends: with more to come, or at the iterator's end; else the description of what it raised.
MORE, END = None, b""

#: Items of these are small, whatever they are.
_SMALL = frozenset((int, float, bool, type(None)))


def open_stream(value: Any) -> Stream | AsyncStream:
    """An iteration over the value. Raises TypeError for what cannot be iterated."""
    if type(value) is CoroutineType:
        value = coroutines.run(value)
    if hasattr(type(value), "__aiter__"):
        return AsyncStream(value.__aiter__())
    return Stream(iter(value))


class Stream:
    """An iterator, and the batches of it."""

    __slots__ = ("_iterator", "__weakref__")

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def batch(self, most: int, most_bytes: int) -> tuple[list[Any], bytes | None]:
        """So many items at most, and how the batch ends."""
        items: list[Any] = []
        until, size, keep = monotonic() + SLICE, 0, items.append
        try:
            for item in self._iterator:
                keep(item)
                if type(item) not in _SMALL:
                    size += sys.getsizeof(item)
                    if size >= most_bytes:
                        return items, MORE
                if len(items) >= most or monotonic() >= until:
                    return items, MORE
        except BaseException as error:
            self._iterator = ()
            return items, errors.describe(error)
        self._iterator = ()
        return items, END

    def close(self) -> None:
        """Has a generator run its ``finally`` blocks; what else is iterated is let go."""
        iterator, self._iterator = self._iterator, ()
        if isinstance(iterator, Generator):
            iterator.close()


class AsyncStream:
    """An asynchronous iterator, and the batches of it.

    It has an event loop of its own: each batch may run on another thread, and what the iterator has bound
    to a loop must find it again.
    """

    __slots__ = ("_iterator", "_loop", "__weakref__")

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator: AsyncIterator[Any] | None = iterator
        self._loop = coroutines.Loop()

    def batch(self, most: int, most_bytes: int) -> tuple[list[Any], bytes | None]:
        """As ``Stream.batch``."""
        items: list[Any] = []
        if self._iterator is None:
            return items, END
        try:
            ends = self._loop.run(_collect(self._iterator, items, most, most_bytes))
        except BaseException as error:
            ends = errors.describe(error)
        if ends is not MORE:
            self._end()
        return items, ends

    def close(self) -> None:
        """As ``Stream.close``."""
        close = getattr(self._iterator, "aclose", None)
        try:
            if close is not None:
                self._loop.run(close())
        finally:
            self._end()

    def _end(self) -> None:
        self._iterator = None
        self._loop.close()

    def __del__(self) -> None:
        if self._iterator is not None:
            self.close()


async def _collect(iterator: AsyncIterator[Any], items: list[Any], most: int, most_bytes: int) -> bytes | None:
    until, size = monotonic() + SLICE, 0
    async for item in iterator:
        items.append(item)
        if type(item) not in _SMALL:
            size += sys.getsizeof(item)
        if len(items) >= most or size >= most_bytes or monotonic() >= until:
            return MORE
    return END


def salvage(
    encode: Callable[[Any, bytes], tuple[list, list[int]]],
    drop: Callable[[list[int]], None],
    batch: tuple[list[Any], bytes | None],
    want: bytes,
    error: BaseException,
) -> tuple[list, list[int]]:
    """The body of a batch that cannot be sent as it is: the items before the one to blame, and the error as its end."""
    items, _ = batch
    for good, item in enumerate(items):
        try:
            _, refs = encode(([item], MORE), want)
        except BaseException as to_blame:
            return encode((items[:good], errors.describe(to_blame)), want)
        drop(refs)
    return encode(([], errors.describe(error)), want)
