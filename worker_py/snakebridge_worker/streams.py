"""Iterations that Rust drives: it asks for one batch after the other, and the worker is free in between."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import AsyncIterator, Generator
from numbers import Number
from time import monotonic
from typing import Any, Callable

from snakebridge_worker import calls, coroutines, errors, interrupts, kinds
from snakebridge_worker.coroutines import CoroutineType

#: In seconds. A batch is over when it has taken so long, for others wait for the worker; and what it has
#: by then is sent, though its next item is not there.
SLICE = 0.002
#: After so many slices without a batch nobody looks after them any more.
_IDLE = 50

#: How a batch ends: with more to come, or at the iterator's end; else the description of what it raised.
MORE, END = None, b""

_OVER = object()

#: Items of these are small, whatever they are, and never change.
_SMALL = frozenset((int, float, bool, type(None)))
_FIXED = (kinds.ATOMS - {bytearray}) | frozenset(kinds.REDUCERS)
_fixed_kinds: dict[type, bool] = {}


def open_stream(value: Any) -> Stream | AsyncStream:
    """An iteration over the value. Raises TypeError for what cannot be iterated."""
    if type(value) is CoroutineType:
        value = coroutines.run(value)
    if hasattr(type(value), "__aiter__"):
        return AsyncStream(value.__aiter__())
    return Stream(iter(value))


def batch(stream: Stream | AsyncStream, most: int, most_bytes: int) -> tuple[list[Any], bytes | None]:
    """The next items, so many at most, and how their batch ends."""
    items: list[Any] = []
    return items, stream.fill(items, most, most_bytes)


def _weigh(item: Any, room: int) -> tuple[Any, int]:
    """What is to be sent of an item, and how much room it leaves in its batch: none if that ends with it.

    The iterator may change what it has given when it goes on, and an item is pickled with its batch: so
    the batch ends with one that can change, unless a copy can be taken at once.
    """
    kind = type(item)
    is_fixed = True
    if kind not in _FIXED:
        item, is_fixed = _fix(item, kind)
    return item, (room - sys.getsizeof(item) if is_fixed else 0)


def _fix(item: Any, kind: type) -> tuple[Any, bool]:
    """The item, or a copy of it, and whether it stays as it is."""
    if kind is tuple:
        return item, all(type(part) in _FIXED for part in item)
    if kind is list:
        return (item[:], True) if all(type(part) in _FIXED for part in item) else (item, False)
    if kind is dict:
        plain = all(type(key) in _FIXED and type(value) in _FIXED for key, value in item.items())
        return (item.copy(), True) if plain else (item, False)
    is_fixed = _fixed_kinds.get(kind)
    if is_fixed is None:
        if len(_fixed_kinds) >= 1_000:
            _fixed_kinds.clear()
        # The numbers of numpy say that they are.
        is_fixed = _fixed_kinds[kind] = issubclass(kind, Number)
    return item, is_fixed


class Stream:
    """An iterator, and the batches of it."""

    __slots__ = ("_iterator", "__weakref__")

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def fill(self, items: list[Any], most: int, most_bytes: int) -> bytes | None:
        """Adds the next items, so many at most; how the batch ends."""
        iterator = self._iterator
        keep, small, now, until, left, room = items.append, _SMALL, monotonic, monotonic() + SLICE, most, most_bytes
        try:
            # Not with `for`, which would call `iter` again: some begin anew then.
            while (item := next(iterator, _OVER)) is not _OVER:
                if type(item) not in small:
                    item, room = _weigh(item, room)
                keep(item)
                left -= 1
                if left <= 0 or room <= 0 or now() >= until:
                    return MORE
        except BaseException as error:
            self._iterator = iter(())
            return errors.describe(error)
        self._iterator = iter(())
        return END

    def close(self) -> None:
        """Has a generator run its ``finally`` blocks; what else is iterated is let go."""
        iterator, self._iterator = self._iterator, iter(())
        if isinstance(iterator, Generator):
            iterator.close()


class AsyncStream:
    """An asynchronous iterator, and the batches of it, all on one event loop: what the iterator has bound to
    it must find it again."""

    __slots__ = ("_iterator", "_loop", "__weakref__")

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator: AsyncIterator[Any] | None = iterator
        self._loop = coroutines.loop_for_long()

    def fill(self, items: list[Any], most: int, most_bytes: int) -> bytes | None:
        """As ``Stream.fill``."""
        if self._iterator is None:
            return END
        try:
            ends = self._loop.run(_fill(self._iterator, items, most, most_bytes))
        except BaseException as error:
            ends = self._fail(error)
        else:
            if ends is not MORE:
                self._end()
        return ends

    def close(self) -> None:
        """As ``Stream.close``."""
        try:
            self._close()
        except interrupts.CallCancelled:
            # It may have struck before anything was closed. It does so once.
            self._close()
            raise
        finally:
            self._end()

    def _fail(self, error: BaseException) -> bytes:
        """The description of what ended it."""
        try:
            # An interrupt may have found it between two items: let go as it is, it would be closed by the loop,
            # in the next call that has one run.
            self.close()
        except interrupts.CallCancelled as last:
            return errors.describe(last)
        except BaseException:
            # What the reader is told is what ended the stream.
            pass
        return errors.describe(error)

    def _close(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            self._loop.run(close())

    def _end(self) -> None:
        self._iterator = None
        coroutines.done_with(self._loop)

    def __del__(self) -> None:
        if self._iterator is not None:
            self.close()


async def _fill(iterator: AsyncIterator[Any], items: list[Any], left: int, room: int) -> bytes | None:
    until, step = monotonic() + SLICE, type(iterator).__anext__
    while True:
        try:
            item = await step(iterator)
        except StopAsyncIteration:
            return END
        item, room = _weigh(item, room)
        items.append(item)
        left -= 1
        if left <= 0 or room <= 0 or monotonic() >= until:
            return MORE


class _UnderWay:
    """A batch that is being filled; what it has may be sent before it is over."""

    __slots__ = ("seq", "want", "items", "lock", "is_old", "is_over")

    def __init__(self, seq: int, want: bytes) -> None:
        self.seq = seq
        self.want = want
        self.items: list[Any] = []
        self.lock = threading.Lock()
        self.is_old = False
        self.is_over = False


class Flusher:
    """Sends what batches have that are held up by their next item.

    Only the iterator's own thread knows how long that takes, and it is in the iterator: so a thread
    looks after them, while there are any.
    """

    __slots__ = ("_send", "_under_way", "_wake", "_is_started")

    def __init__(self, send: Callable[[int, bytes, list[Any]], None]) -> None:
        self._send = send
        self._under_way: set[_UnderWay] = set()
        self._wake = threading.Event()
        self._is_started = False

    def run(self, seq: int, want: bytes, stream: Stream | AsyncStream, most: int, most_bytes: int) -> tuple[list[Any], bytes | None]:
        """As ``batch``, of what was not sent before."""
        if most == 1:
            return batch(stream, most, most_bytes)
        filled = _UnderWay(seq, want)
        try:
            try:
                self._under_way.add(filled)
                if not self._wake.is_set():
                    # Half of it would leave the event locked, or nobody awake.
                    with calls.shield():
                        self._begin()
                ends = stream.fill(filled.items, most, most_bytes)
            finally:
                self._end(filled)
        finally:
            # Once more, should an interrupt have struck there: nothing is sent of a batch that is over.
            self._end(filled)
        return filled.items, ends

    def _begin(self) -> None:
        self._wake.set()
        if not self._is_started:
            # Two of them would be no harm, none would be.
            threading.Thread(target=self._look_after, name="snakebridge-streams", daemon=True).start()
            self._is_started = True

    def _end(self, filled: _UnderWay) -> None:
        self._under_way.discard(filled)
        filled.is_over = True
        # What is being sent of it is sent.
        interrupts.pass_through(filled.lock)

    def _look_after(self) -> None:
        idle = 0
        while self._wake.wait():
            time.sleep(SLICE)
            idle = 0 if self._flush_all() else idle + 1
            if idle >= _IDLE:
                idle = 0
                self._wake.clear()
                # One that came in between saw that somebody was awake.
                if self._under_way:
                    self._wake.set()

    def _flush_all(self) -> bool:
        """Whether there was anything to look at. It is not in a frame that lives on, which would keep the items."""
        under_way = list(self._under_way)
        for filled in under_way:
            self._flush(filled)
        return bool(under_way)

    def _flush(self, filled: _UnderWay) -> None:
        if not filled.is_old:
            filled.is_old = True
            return
        with filled.lock:
            items = filled.items[:]
            if filled.is_over or not items:
                return
            try:
                self._send(filled.seq, filled.want, items)
            except BaseException:
                # It is said with the end of the batch, where nothing else is lost.
                filled.is_over = True
            else:
                del filled.items[: len(items)]


def salvage(
    encode: Callable[[Any, bytes, list[int]], tuple[list, list[int]]],
    drop: Callable[[list[int]], None],
    batch: tuple[list[Any], bytes | None],
    want: bytes,
    error: BaseException,
    made: list[int],
) -> list:
    """The body of a batch that cannot be sent as it is: the items before the one to blame, and the error as its end.

    Adds the refs that it makes to those made.
    """
    items, _ = batch
    for good, item in enumerate(items):
        try:
            encode(([item], MORE), want, made)
        except BaseException as to_blame:
            return encode((items[:good], errors.describe(to_blame)), want, made)[0]
        drop(made)
        made.clear()
    return encode(([], errors.describe(error)), want, made)[0]
