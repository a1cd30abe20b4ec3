"""The shape of what a Rust type asks for, compiled into a function that prepares an object for it.

Only a type that asks for refs or for a `Value` somewhere needs one: there, what an object becomes
depends on where it stands. For all others its class says everything, and the pickler's reducer does.
"""

import struct
from typing import Any, Callable, Dict, List, Tuple

from . import kinds
from .kinds import MISSING, Wanted

Convert = Callable[[Any], Any]
Node = Tuple[int, Any]

ANY, VALUE, REF, IGNORED = b"avri"
OPTION, SEQ, NEWTYPE, TUPLE, MAP, STRUCT, ENUM = b"oqntmfe"


class Shape:
    """A parsed descriptor: `convert` is None where the reducer suffices, `is_map` for a map or a struct."""

    __slots__ = ("convert", "collects", "has_any", "is_map")

    def __init__(self, descriptor: bytes) -> None:
        nodes = _parse(descriptor)
        letters = {letter for letter, _ in nodes}
        self.has_any = ANY in letters
        self.collects = _root(nodes) == SEQ
        self.is_map = _root(nodes) in (MAP, STRUCT)
        self.convert = _compile(nodes, 0, {}) if letters & {VALUE, REF} else None


def _parse(descriptor: bytes) -> List[Node]:
    nodes: List[Node] = []
    at = 0

    def number() -> int:
        nonlocal at
        at += 2
        return struct.unpack_from("<H", descriptor, at - 2)[0]

    while at < len(descriptor):
        letter = descriptor[at]
        at += 1
        below: Any = None
        if letter in (OPTION, SEQ, NEWTYPE):
            below = number()
        elif letter in (TUPLE, MAP):
            below = [number() for _ in range(number())]
        elif letter in (STRUCT, ENUM):
            below = {}
            for _ in range(number()):
                length = number()
                name = descriptor[at : at + length].decode()
                at += length
                below[name] = number()
        nodes.append((letter, below))
    return nodes


def _root(nodes: List[Node]) -> int:
    """The kind of the whole; of what an option has in it."""
    place, seen = 0, set()
    while nodes[place][0] == OPTION and place not in seen:
        seen.add(place)
        place = nodes[place][1]
    return nodes[place][0]


def _compile(nodes: List[Node], place: int, known: Dict[int, Convert]) -> Convert:
    if place in known:
        return known[place]
    # A shape may hold itself: what is inside finds the outside when it runs.
    known[place] = lambda obj: convert(obj)
    letter, below = nodes[place]
    if letter == VALUE:
        convert = as_value
    elif letter == REF:
        convert = Wanted
    elif letter == IGNORED:
        convert = _nothing
    elif letter in (OPTION, NEWTYPE):
        inner = _compile(nodes, below, known)
        convert = _option(inner) if letter == OPTION else inner
    elif letter == SEQ:
        convert = _seq(_compile(nodes, below, known))
    elif letter == TUPLE:
        convert = _tuple([_compile(nodes, child, known) for child in below])
    elif letter == MAP:
        convert = _map(*(_compile(nodes, child, known) for child in below))
    elif letter in (STRUCT, ENUM):
        parts = {name: _compile(nodes, child, known) for name, child in below.items()}
        convert = _struct(parts) if letter == STRUCT else _enum(parts)
    else:
        convert = _same
    known[place] = convert
    return convert


def _same(obj: Any) -> Any:
    return obj


def _nothing(obj: Any) -> None:
    return None


def _option(inner: Convert) -> Convert:
    return lambda obj: None if obj is None else inner(obj)


def _plainer(obj: Any) -> Any:
    """The object by value, until it is of a plain kind; itself if it has no value."""
    for _ in range(8):
        if type(obj) in kinds.PLAIN:
            return obj
        value = kinds.by_value(obj)
        if value is MISSING:
            return obj
        obj = value
    return obj


def _items(obj: Any) -> Any:
    obj = _plainer(obj)
    return obj if type(obj) in kinds.SEQUENCES else None


def _entries(obj: Any, only: Any) -> Any:
    names = kinds.tuple_names(obj)
    if names is not None:
        return dict(zip(names, tuple.__iter__(obj)))
    value = _plainer(obj)
    if type(value) is dict:
        return value
    value = kinds.fields(obj, only)
    return None if value is MISSING else value


def _seq(item: Convert) -> Convert:
    def convert(obj: Any) -> Any:
        items = _items(obj)
        return obj if items is None else [item(each) for each in items]

    return convert


def _tuple(parts: List[Convert]) -> Convert:
    def convert(obj: Any) -> Any:
        items = _items(obj)
        # A set has no order, and a wrong length is for Rust to refuse.
        if items is None or type(items) in kinds.SETS or len(items) != len(parts):
            return obj
        return tuple(part(each) for part, each in zip(parts, items))

    return convert


def _map(key: Convert, value: Convert) -> Convert:
    def convert(obj: Any) -> Any:
        entries = _entries(obj, None)
        return obj if entries is None else {key(k): value(v) for k, v in entries.items()}

    return convert


def _struct(parts: Dict[str, Convert]) -> Convert:
    def convert(obj: Any) -> Any:
        entries = _entries(obj, parts)
        if entries is None:
            return obj
        # What nobody asks for is not sent, but its name is: Rust may refuse unknown names.
        return {name: parts[name](part) if name in parts else None for name, part in entries.items()}

    return convert


def _enum(parts: Dict[str, Convert]) -> Convert:
    def convert(obj: Any) -> Any:
        value = _plainer(obj)
        if type(value) is not dict or len(value) != 1:
            return value
        ((name, content),) = value.items()
        return {name: parts[name](content)} if name in parts else value

    return convert


def as_value(obj: Any) -> Any:
    """As a `Value` holds it: plain kinds exactly, containers by content, a ref of anything else."""
    kind = type(obj)
    if kind in kinds.ATOMS:
        return obj
    if kind is list:
        return [as_value(item) for item in obj]
    if kind is tuple:
        return tuple([as_value(item) for item in obj])
    if kind is dict:
        return {as_value(key): as_value(value) for key, value in obj.items()}
    if kind is set or kind is frozenset:
        return kind([as_value(item) for item in obj])
    reduce = kinds.REDUCERS.get(kind)
    if reduce is not None:
        return Wanted(obj) if reduce(obj) is None else obj
    item = kinds.numpy_scalar(obj)
    return Wanted(obj) if item is MISSING else item
