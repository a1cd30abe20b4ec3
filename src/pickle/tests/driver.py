"""Answers the tests of the codec over stdin and stdout; one request is an operation and its parts."""

import random
import struct
import sys

sys.path.insert(0, sys.argv[1])

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import uuid
from array import array

try:
    import numpy
except ImportError:
    numpy = None

from snakebridge_worker import codec, errors, kinds, refs


@dataclasses.dataclass
class Point:
    x: int
    y: float
    label: str = "p"
    path: object = None


Pair = collections.namedtuple("Pair", "first second")


class Color(enum.Enum):
    RED = "red"
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1


class Names(list):
    def __len__(self):
        return 99


class Ratio(float):
    pass


class Text(str):
    def __str__(self):
        return "a lie"

    def __iter__(self):
        raise AssertionError("a lie")


class Node:
    def __init__(self, next):
        self.next = next


@dataclasses.dataclass
class Link:
    next: object


@dataclasses.dataclass
class Hostile:
    x: int

    def __getattribute__(self, name):
        if name == "x":
            raise ValueError("no x for you")
        return object.__getattribute__(self, name)


@dataclasses.dataclass
class Nested:
    """Encodes while it is being encoded."""

    x: int

    def __getattribute__(self, name):
        if name == "x":
            encoder.encode({"inner": [1, object()]}, b"\0")
            return 7
        return object.__getattribute__(self, name)


def deep(levels, make=lambda inner: [inner], inner=1):
    for _ in range(levels):
        inner = make(inner)
    return inner


def cycle():
    items = []
    items.append(items)
    return items


def random_value(rng, depth=0):
    """A value that is equal to itself after the way there and back."""
    kind = rng.randrange(22 if depth < 4 else 17)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.randrange(-300, 300)
    if kind == 3:
        return rng.randrange(-(2**40), 2**40)
    if kind == 4:
        return rng.choice([1, -1]) * rng.getrandbits(rng.randrange(1, 2100))
    if kind == 5:
        return struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64) & ~(1 << 62)))[0]
    if kind == 6:
        return rng.choice([0.0, -0.0, 1.5, float("inf"), float("-inf"), 5e-324])
    if kind in (7, 8):
        return "".join(rng.choice("ab'\"\\\n\t é€😀\0\x7f") for _ in range(rng.choice([0, 1, 5, 300])))
    if kind == 9:
        return bytes(rng.getrandbits(8) for _ in range(rng.choice([0, 1, 5, 300])))
    if kind == 10:
        return complex(rng.gauss(0, 1), rng.choice([0.0, -2.5]))
    if kind == 11:
        zone = rng.choice([None, datetime.timezone.utc, datetime.timezone(datetime.timedelta(seconds=rng.randrange(-86399, 86400)))])
        when = datetime.datetime(1, 1, 3) + datetime.timedelta(seconds=rng.randrange(315537638400), microseconds=rng.choice([0, 7]))
        return when.replace(tzinfo=zone)
    if kind == 12:
        return datetime.date.fromordinal(rng.randrange(1, 3652060))
    if kind == 13:
        return datetime.time(rng.randrange(24), rng.randrange(60), rng.randrange(60), rng.choice([0, 999999]))
    if kind == 14:
        return datetime.timedelta(rng.randrange(-999999999, 999999999), rng.randrange(86400), rng.randrange(1000000))
    if kind == 15:
        return decimal.Decimal(rng.randrange(-(10**20), 10**20)).scaleb(rng.randrange(-30, 30))
    if kind == 16:
        return uuid.UUID(int=rng.getrandbits(128))
    count = rng.choice([0, 1, 2, 3, 4, 7])
    if kind == 17:
        return [random_value(rng, depth + 1) for _ in range(count)]
    if kind == 18:
        return tuple(random_value(rng, depth + 1) for _ in range(count))
    if kind == 19:
        return {hashable(rng, depth): random_value(rng, depth + 1) for _ in range(count)}
    if kind == 20:
        return {hashable(rng, depth) for _ in range(count)}
    shared = random_value(rng, depth + 1)
    return [shared, frozenset(hashable(rng, depth) for _ in range(count)), shared]


def hashable(rng, depth):
    while True:
        value = random_value(rng, max(depth, 3))
        try:
            hash(value)
        except TypeError:
            continue
        return value


def same(left, right):
    """Equal, and of the same kinds all the way down; -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (set, frozenset)):
        return left == right and sorted(map(repr, left)) == sorted(map(repr, right))
    return left == right and repr(left) == repr(right)


nan, inf = float("nan"), float("inf")
table = refs.RefTable(1 << 32)
encoder = codec.Encoder(table)


def answer(operation, want, payload):
    if operation == b"E":  # an expression, encoded
        return b"".join(encoder.encode(eval(payload.decode(), globals()), want)[0])
    if operation == b"D":  # a body, as its repr
        return ascii(codec.decode_args(memoryview(payload))).encode()
    if operation == b"R":  # a body, there and back
        return b"".join(encoder.encode(codec.decode_args(memoryview(payload)), want)[0])
    if operation == b"G":  # a random value of a seed
        return b"".join(encoder.encode(random_value(random.Random(payload)), want)[0])
    if operation == b"C":  # whether a body is that value
        given = codec.decode_args(memoryview(payload))
        return b"same" if same(given, random_value(random.Random(want))) else repr(given).encode()
    if operation == b"X":  # what a statement raises
        try:
            exec(compile(payload.decode(), "<test>", "exec"), {"errors": errors})
        except BaseException as error:
            return errors.describe(error)
    if operation == b"S":  # a statement, here
        exec(payload.decode(), globals())
        return b""
    if operation == b"L":
        return str(len(table)).encode()
    raise ValueError(operation)


def main():
    read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
    while head := read(9):
        operation, length, rest = struct.unpack("<cII", head)
        want, payload = read(length), read(rest)
        try:
            status, reply = b"+", answer(operation, want, payload)
        except BaseException as error:
            status, reply = b"-", f"{type(error).__name__}: {error}".encode()
        write(status + struct.pack("<I", len(reply)) + reply)
        sys.stdout.flush()


main()
