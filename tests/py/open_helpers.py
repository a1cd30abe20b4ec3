"""Iterations and context managers that the integration tests drive."""

import os
import sys
import time

import bridge_helpers

made = 0
closed = []


def numbers(most=None):
    """Counts what it makes; says when it was closed."""
    global made
    made = 0
    try:
        n = 0
        while most is None or n < most:
            made += 1
            yield n
            n += 1
    finally:
        closed.append(n)


def made_so_far():
    return made


def closings():
    return list(closed)


def slow(seconds, most):
    for n in range(most):
        time.sleep(seconds)
        yield n


def fails_after(good):
    yield from range(good)
    raise LookupError(f"after {good}")


def one_of_them(value):
    yield 1
    yield value
    yield 3


def unsendable():
    deep = []
    for _ in range(5000):
        deep = [deep]
    yield 1
    yield 2
    yield deep
    yield 4


def objects(count, pause=0.0):
    for _ in range(count):
        if pause:
            time.sleep(pause)
        yield bridge_helpers.Tracked()


def blocks(size, count):
    for _ in range(count):
        yield b"x" * size


def dies_after(good):
    yield from range(good)
    os._exit(7)


def held(gate):
    yield 1
    bridge_helpers.hold(gate)
    yield 2


async def ticks(count):
    import asyncio

    try:
        for n in range(count):
            await asyncio.sleep(0)
            yield n
    finally:
        await asyncio.sleep(0)
        closed.append(f"ticks {count}")


def burst(most, gate):
    yield from range(most)
    bridge_helpers.hold(gate)
    yield most


def tracked_burst(most, gate):
    yield from ((bridge_helpers.Tracked(),) for _ in range(most))
    bridge_helpers.hold(gate)


def reused(kind):
    """Gives the same object again and again, changed."""
    if kind == "list":
        row = [0]
        for n in range(5):
            row[0] = n
            yield row
    elif kind == "dict":
        row = {}
        for n in range(5):
            row["n"] = n
            yield row
    elif kind == "nested":
        row = [[0]]
        for n in range(5):
            row[0][0] = n
            yield row
    else:
        row = bytearray(1)
        for n in range(5):
            row[0] = n
            yield row


async def listed():
    return [1, 2]


def stubborn():
    """Neither its close nor an interrupt of that ends it."""
    try:
        yield 1
    finally:
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass


class Manager:
    """A context manager that remembers what happened to it."""

    def __init__(self, raises=False):
        self.events = []
        self.raises = raises

    def __enter__(self):
        self.events.append("entered")
        return "inside"

    def __exit__(self, *what):
        self.events.append(f"left {what}")
        if self.raises:
            raise OSError("cannot leave")


class AsyncManager:
    def __init__(self):
        self.events = []

    async def __aenter__(self):
        self.events.append("entered")
        return self

    async def __aexit__(self, *what):
        self.events.append("left")


class Restarting:
    """The iterator of many a textbook: ``iter`` begins anew."""

    def __init__(self, most):
        self.most = most

    def __iter__(self):
        self.n = 0
        return self

    def __next__(self):
        if self.n == self.most:
            raise StopIteration
        self.n += 1
        return self.n


class NextOnly:
    """What ``for`` takes from ``__iter__``: it need not be iterable itself."""

    def __init__(self, most):
        self.made, self.most = 0, most

    def __next__(self):
        if self.made == self.most:
            raise StopIteration
        self.made += 1
        return self.made


class Bare:
    def __init__(self, most):
        self.most = most

    def __iter__(self):
        return NextOnly(self.most)


class RestartingTicks:
    """The asynchronous one."""

    def __init__(self, most):
        self.most = most

    def __aiter__(self):
        self.n = 0
        return self

    async def __anext__(self):
        if self.n == self.most:
            raise StopAsyncIteration
        self.n += 1
        return self.n


def forks():
    yield 1
    child = os.fork()
    yield 2
    if child:
        os.waitpid(child, 0)
    yield 3


def raises(name):
    import builtins

    yield 1
    raise getattr(builtins, name)("from inside")


def marks(path):
    try:
        while True:
            yield 1
    finally:
        with open(path, "w") as file:
            file.write("closed")


def shared(size, count):
    item = [0] * size
    for _ in range(count):
        yield item


class Client:
    """Bound to the event loop that it was made on, as those of most libraries are."""

    def __init__(self):
        import asyncio

        self.loop = asyncio.get_running_loop()

    async def rows(self, count):
        import asyncio

        for n in range(count):
            if asyncio.get_running_loop() is not self.loop:
                raise RuntimeError("another event loop")
            yield n


async def connected():
    return Client()


class StubbornManager:
    """Is entered all the same when its entry is cancelled."""

    def __init__(self):
        self.events = []

    def __enter__(self):
        try:
            time.sleep(60)
        except BaseException:
            pass
        self.events.append("entered")

    def __exit__(self, *_):
        self.events.append("left")
