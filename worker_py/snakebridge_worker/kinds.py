"""What each kind of object is for Rust: by exact type where it is plain, by value, or by its fields."""

import collections
import datetime
import decimal
import enum
import io
import itertools
import sys
import uuid
from array import array
from collections import abc
from typing import Any, Callable, Dict, List, Optional, Tuple

from .errors import EncodeError

MOST_NODES = 10_000_000
_MOST_CLASSES = 1_000
_LONGEST_NAME = 250

# The constructors behind the extension codes that go both ways.


def date_time(*parts: Any) -> datetime.datetime:
    """A datetime of seven integers and an offset in seconds, or None."""
    *numbers, offset = parts
    if offset is None:
        return datetime.datetime(*numbers)
    zone = datetime.timezone(datetime.timedelta(seconds=offset)) if offset else datetime.timezone.utc
    return datetime.datetime(*numbers, tzinfo=zone)


def date(year: int, month: int, day: int) -> datetime.date:
    """A date."""
    return datetime.date(year, month, day)


def time(hour: int, minute: int, second: int, micro: int) -> datetime.time:
    """A time of day without a zone."""
    return datetime.time(hour, minute, second, micro)


def delta(days: int, seconds: int, micros: int) -> datetime.timedelta:
    """A duration."""
    return datetime.timedelta(days, seconds, micros)


def number(text: str) -> decimal.Decimal:
    """A Decimal of its text."""
    return decimal.Decimal(text)


def uuid_of(raw: bytes) -> uuid.UUID:
    """A UUID of its bytes."""
    return uuid.UUID(bytes=raw)


def complex_of(re: float, im: float) -> complex:
    """A complex of its parts."""
    return complex(re, im)



# Kinds that have a value of their own, by exact type.


def _reduce_complex(obj: complex) -> Tuple[Any, ...]:
    return complex_of, (obj.real, obj.imag)


def _reduce_date_time(obj: datetime.datetime) -> Optional[Tuple[Any, ...]]:
    zone = obj.tzinfo
    seconds = None
    if zone is None:
        if obj.fold:
            return None
    elif type(zone) is datetime.timezone:
        offset = obj.utcoffset()
        if offset is None or offset.microseconds:
            return None
        seconds = offset.days * 86_400 + offset.seconds
    else:
        return None
    return date_time, (obj.year, obj.month, obj.day, obj.hour, obj.minute, obj.second, obj.microsecond, seconds)


def _reduce_date(obj: datetime.date) -> Tuple[Any, ...]:
    return date, (obj.year, obj.month, obj.day)


def _reduce_time(obj: datetime.time) -> Optional[Tuple[Any, ...]]:
    if obj.tzinfo is not None or obj.fold:
        return None
    return time, (obj.hour, obj.minute, obj.second, obj.microsecond)


def _reduce_delta(obj: datetime.timedelta) -> Tuple[Any, ...]:
    return delta, (obj.days, obj.seconds, obj.microseconds)


def _reduce_decimal(obj: decimal.Decimal) -> Tuple[Any, ...]:
    return number, (str(obj),)


def _reduce_uuid(obj: uuid.UUID) -> Tuple[Any, ...]:
    return uuid_of, (obj.bytes,)


REDUCERS: Dict[type, Callable[[Any], Optional[Tuple[Any, ...]]]] = {
    complex: _reduce_complex,
    datetime.datetime: _reduce_date_time,
    datetime.date: _reduce_date,
    datetime.time: _reduce_time,
    datetime.timedelta: _reduce_delta,
    decimal.Decimal: _reduce_decimal,
    uuid.UUID: _reduce_uuid,
}

# Types that the C pickler writes itself, without asking.
ATOMS = frozenset((type(None), bool, int, float, str, bytes, bytearray))
CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
SETS = frozenset((set, frozenset))
SEQUENCES = frozenset((list, tuple)) | SETS
PLAIN = ATOMS | CONTAINERS | frozenset(REDUCERS)

MISSING = object()


def class_of(obj: Any) -> Tuple[str, str, bool]:
    """Module and name of an object's class, and whether it is one of iterators."""
    kind = type(obj)
    known = _classes.get(kind)
    if known is None:
        if len(_classes) >= _MOST_CLASSES:
            _classes.clear()
        known = _classes[kind] = (*name_of(kind), _is_iterator(kind))
    return known


_classes: Dict[type, Tuple[str, str, bool]] = {}


def name_of(kind: type) -> Tuple[str, str]:
    """Module and qualified name of a class, read past a metaclass that may lie."""
    module = type.__dict__["__module__"].__get__(kind)
    name = type.__dict__["__qualname__"].__get__(kind)
    return _short(module), _short(name)


def _short(text: Any) -> str:
    if not isinstance(text, str):
        return "?"
    return str.__getitem__(text, slice(0, _LONGEST_NAME)).encode("utf-8", "replace").decode("utf-8")


def _is_iterator(kind: type) -> bool:
    # By the class, not `isinstance`: that asks the object, which may lie.
    if issubclass(kind, (abc.Iterator, abc.AsyncIterator)):
        return not issubclass(kind, io.IOBase)
    return False


def numpy_scalar(obj: Any) -> Any:
    """What a numpy scalar is in plain Python; `MISSING` if it is none, or would lose something."""
    numpy = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)
    if generic is None or not issubclass(type(obj), generic):
        return MISSING
    item = obj.item()
    if issubclass(type(obj), (numpy.datetime64, numpy.timedelta64)):
        if type(item) is int:
            # A finer unit than Python has, or a time out of its range, is given as a bare number.
            exact = obj.astype(obj.dtype.str[:2] + "8[us]")
            item = exact.item() if exact == obj else None
        # NaT is None here.
        return MISSING if item is None or type(item) is int else item
    return item if type(item) in PLAIN and type(item) not in CONTAINERS else MISSING


def _as_array(obj: Any) -> Any:
    """The items of an array as lists; `MISSING` if it is none."""
    if issubclass(type(obj), (array, memoryview)):
        return obj.tolist()
    ndarray = getattr(sys.modules.get("numpy"), "ndarray", None)
    if ndarray is not None and issubclass(type(obj), ndarray):
        return obj.tolist()
    return MISSING


def tuple_names(obj: Any) -> Optional[Tuple[str, ...]]:
    """The names of a named tuple."""
    if not issubclass(type(obj), tuple):
        return None
    names = getattr(type(obj), "_fields", None)
    if type(names) is tuple and len(names) == tuple.__len__(obj) and all(type(name) is str for name in names):
        return names
    return None


def fields(obj: Any, only: Any = None) -> Any:
    """A dataclass, attrs or pydantic object as a dict, or what is wanted of it; `MISSING` if it is none."""
    kind = type(obj)
    names = _field_names.get(kind)
    if names is None:
        names = _find_field_names(kind)
        if len(_field_names) >= _MOST_CLASSES:
            _field_names.clear()
        _field_names[kind] = names
    if names is False:
        return MISSING
    return {name: getattr(obj, name) for name in names if only is None or name in only}


_field_names: Dict[type, Any] = {}


def _find_field_names(kind: type) -> Any:
    for place in ("__dataclass_fields__", "__attrs_attrs__", "model_fields", "__pydantic_fields__", "__fields__"):
        if place in ("model_fields", "__fields__") and not _is_pydantic(kind):
            continue
        found = getattr(kind, place, None)
        if place == "__dataclass_fields__" and isinstance(found, dict):
            # ClassVar and InitVar are listed too, but are no fields.
            return tuple(name for name, field in found.items() if field._field_type.name == "_FIELD")
        if place == "__attrs_attrs__" and isinstance(found, tuple):
            return tuple(attribute.name for attribute in found)
        if isinstance(found, dict):
            return tuple(found)
    return False


def _is_pydantic(kind: type) -> bool:
    return any(base.__module__.partition(".")[0] == "pydantic" for base in kind.__mro__)


def by_value(obj: Any) -> Any:
    """What an object that is not plain is by value: plain outside, not below. `MISSING`: nothing."""
    if issubclass(type(obj), enum.Enum):
        return obj.value
    item = numpy_scalar(obj)
    if item is not MISSING:
        return item
    kind = type(obj)
    for base, convert in _BASES:
        if issubclass(kind, base):
            return convert(obj)
    return _as_array(obj)


def _plain_time(obj: Any) -> Any:
    if type(obj) is datetime.time or obj.tzinfo is not None:
        return obj.isoformat()
    return datetime.time(obj.hour, obj.minute, obj.second, obj.microsecond)


def _plain_date_time(obj: datetime.datetime) -> Any:
    """A datetime with a zone by its offset, which is what is left of it."""
    offset = obj.utcoffset()
    if offset is None:
        zone = None
    elif offset.microseconds:
        return obj.isoformat()
    else:
        zone = datetime.timezone(offset)
    return datetime.datetime(
        obj.year, obj.month, obj.day, obj.hour, obj.minute, obj.second, obj.microsecond, zone
    )


# A subclass may have methods of its own that lie, so its content is read by the base's.
_BASES: Tuple[Tuple[Any, Callable[[Any], Any]], ...] = (
    (int, lambda obj: int.__int__(obj)),
    (float, lambda obj: float.__float__(obj)),
    (complex, lambda obj: complex(complex.__add__(obj, 0j)) if type(obj) is not complex else obj),
    (str, lambda obj: str.__str__(obj) if type(obj) is str else "".join(str.__iter__(obj))),
    (bytes, lambda obj: bytes.__getitem__(obj, slice(None))),
    (bytearray, lambda obj: bytes(memoryview(obj))),
    (list, lambda obj: list(list.__iter__(obj))),
    (tuple, lambda obj: tuple(tuple.__iter__(obj))),
    (collections.OrderedDict, lambda obj: dict(collections.OrderedDict.items(obj))),
    (dict, lambda obj: dict(dict.items(obj))),
    (set, lambda obj: set(set.__iter__(obj))),
    (frozenset, lambda obj: frozenset(frozenset.__iter__(obj))),
    (collections.deque, lambda obj: list(collections.deque.__iter__(obj))),
    (range, lambda obj: bounded(obj)),
    ((abc.KeysView, abc.ValuesView, abc.ItemsView), lambda obj: bounded(obj)),
    (type(type.__dict__), lambda obj: dict(obj)),
    ((collections.UserList, collections.UserString, collections.UserDict), lambda obj: obj.data),
    (collections.ChainMap, lambda obj: dict(obj)),
    (datetime.datetime, _plain_date_time),
    (datetime.date, lambda obj: datetime.date(obj.year, obj.month, obj.day)),
    (datetime.time, _plain_time),
    (
        datetime.timedelta,
        lambda obj: datetime.timedelta(
            datetime.timedelta.days.__get__(obj),
            datetime.timedelta.seconds.__get__(obj),
            datetime.timedelta.microseconds.__get__(obj),
        ),
    ),
    (decimal.Decimal, lambda obj: decimal.Decimal(decimal.Decimal.__str__(obj))),
    (uuid.UUID, lambda obj: uuid.UUID(int=obj.int)),
)


def bounded(items: Any) -> List[Any]:
    """The items as a list, unless they are more than any result may hold."""
    out = list(itertools.islice(items, MOST_NODES + 1))
    if len(out) > MOST_NODES:
        raise EncodeError(f"the result has more than {MOST_NODES} values: ask for less at once, or stream it")
    return out


def collect(obj: Any) -> Any:
    """An iterator as a list; anything else, an async iterator too, as it is."""
    return bounded(obj) if type(obj) not in PLAIN and class_of(obj)[2] and issubclass(type(obj), abc.Iterator) else obj


class Wanted:
    """Stands for an object that is wanted as a ref, whatever it is."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj
