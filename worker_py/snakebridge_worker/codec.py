"""Results into pickles for Rust, and arguments out of them.

Plain data is left to the C pickler; ``reducer_override`` sees what is not plain and says what it
becomes. What that is, the caller's ``want`` decides: mode 0 keeps the kinds of Python and makes a
ref of anything else; mode 1 is one ref; mode 2 nothing; mode 3 brings a *shape*, what the Rust type
asks for, node by node. Rust's side is ``src/pickle``; the extension codes are in ``opcode.rs``.
"""

import collections
import copyreg
import datetime
import decimal
import enum
import io
import itertools
import pickle
import sys
import uuid
from array import array
from collections import abc
from typing import Any, Callable, Dict, List, Optional, Tuple

from .errors import EncodeError
from .refs import RefTable

VALUE, REF, DISCARD, EXTRACT = range(4)

MOST_NODES = 10_000_000
MOST_DEEP = 400
_MOST_PLANS = 1_000
_LONGEST_NAME = 1_000

_table: Optional[RefTable] = None


# What Rust sends: called by the unpickler.


def resolve(ref_id: int) -> Any:
    """The object of a ref."""
    assert _table is not None, "an Encoder installs its table"
    return _table.get(ref_id)


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


# What only goes to Rust: names for the extension codes, never called.


def ref(*_: Any) -> None:
    """``(id, module, type name)`` of an object that stays here."""


def stream(*_: Any) -> None:
    """The same of an iterator."""


def plain(*_: Any) -> None:
    """``(x,)``: just ``x``, what an object became."""


def opaque(*_: Any) -> None:
    """``(module, type name)`` of an object that has no value."""


def record(*_: Any) -> None:
    """``(names, values)`` of a named tuple."""


_CODES = (
    (resolve, 0xF0),
    (ref, 0xF1),
    (stream, 0xF2),
    (plain, 0xF3),
    (opaque, 0xF4),
    (record, 0xF5),
    (date_time, 0xF6),
    (date, 0xF7),
    (time, 0xF8),
    (delta, 0xF9),
    (number, 0xFA),
    (uuid_of, 0xFB),
    (complex_of, 0xFC),
)
_FUNCTIONS = frozenset(function for function, _ in _CODES)


def _register() -> None:
    for function, code in _CODES:
        copyreg.add_extension(__name__, function.__name__, code)


def decode_args(body: Any) -> Any:
    """The object that Rust sent, from any buffer. Raises what a constructor raises."""
    return pickle.loads(body)


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


_REDUCERS: Dict[type, Callable[[Any], Optional[Tuple[Any, ...]]]] = {
    complex: _reduce_complex,
    datetime.datetime: _reduce_date_time,
    datetime.date: _reduce_date,
    datetime.time: _reduce_time,
    datetime.timedelta: _reduce_delta,
    decimal.Decimal: _reduce_decimal,
    uuid.UUID: _reduce_uuid,
}

# Types that the C pickler writes itself, without asking.
_ATOMS = frozenset((type(None), bool, int, float, str, bytes, bytearray))
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
_NATIVE = _ATOMS | _CONTAINERS
_PLAIN = _NATIVE | frozenset(_REDUCERS)

_MISSING = object()


def _name_of(kind: type) -> Tuple[str, str]:
    """Module and qualified name of a class, read past a metaclass that may lie."""
    module = type.__dict__["__module__"].__get__(kind)
    name = type.__dict__["__qualname__"].__get__(kind)
    return _short(module), _short(name)


def _short(text: Any) -> str:
    if not isinstance(text, str):
        return "?"
    return str.__getitem__(text, slice(0, _LONGEST_NAME // 4)).encode("utf-8", "replace").decode("utf-8")


def _is_iterator(obj: Any) -> bool:
    kind = type(obj)
    # By the class, not `isinstance`: that asks the object, which may lie.
    if issubclass(kind, (abc.Iterator, abc.AsyncIterator)):
        return not issubclass(kind, io.IOBase)
    return False


def _numpy_scalar(obj: Any) -> Any:
    """What a numpy scalar is in plain Python; `_MISSING` if it is none, or would lose something."""
    numpy = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)
    if generic is None or not isinstance(obj, generic):
        return _MISSING
    if isinstance(obj, (numpy.datetime64, numpy.timedelta64)):
        exact = obj.astype(obj.dtype.str[:2] + "8[us]")
        if exact != obj:
            return _MISSING
        obj = exact
    item = obj.item()
    return item if type(item) in _PLAIN and type(item) not in _CONTAINERS else _MISSING


def _as_array(obj: Any) -> Any:
    """The items of an array as lists; `_MISSING` if it is none."""
    if isinstance(obj, array):
        return obj.tolist()
    if isinstance(obj, memoryview):
        return obj.tolist()
    ndarray = getattr(sys.modules.get("numpy"), "ndarray", None)
    if ndarray is not None and isinstance(obj, ndarray):
        return obj.tolist()
    return _MISSING


def _fields(obj: Any) -> Any:
    """Names and values of a dataclass, attrs or pydantic object; `_MISSING` if it is none."""
    kind = type(obj)
    names = _field_names.get(kind)
    if names is None:
        names = _find_field_names(kind)
        if len(_field_names) >= _MOST_PLANS:
            _field_names.clear()
        _field_names[kind] = names
    if names is False:
        return _MISSING
    return {name: getattr(obj, name) for name in names}


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


def _by_value(obj: Any) -> Any:
    """What an object that is not plain is by value: plain outside, not below. `_MISSING`: nothing."""
    if isinstance(obj, enum.Enum):
        return obj.value
    item = _numpy_scalar(obj)
    if item is not _MISSING:
        return item
    kind = type(obj)
    for base, convert in _BASES:
        if issubclass(kind, base):
            return convert(obj)
    return _as_array(obj)


def _string_of_time(obj: Any) -> str:
    return obj.isoformat()


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
    (range, lambda obj: _bounded(obj)),
    ((abc.KeysView, abc.ValuesView, abc.ItemsView), lambda obj: _bounded(obj)),
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


def _bounded(items: Any) -> List[Any]:
    """The items as a list, unless they are more than any result may hold."""
    out = list(itertools.islice(items, MOST_NODES + 1))
    if len(out) > MOST_NODES:
        raise EncodeError(f"the result has more than {MOST_NODES} values: ask for less at once, or stream it")
    return out


class _Ref:
    """Stands for an object that is wanted as a ref, whatever it is."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj


class _Pickler(pickle.Pickler):
    """One pickler, reused. Its reducers decide what is not plain."""

    # What a leaf that has no value becomes, and whether objects come by value.
    by_value = False
    leaf_ref = True

    def __init__(self, table: RefTable) -> None:
        self.buffers: List[Any] = []
        self.new: List[int] = []
        self.table = table
        self.write = self.buffers.append
        super().__init__(self, 5)

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            reduced = reduce(obj)
            if reduced is not None:
                return reduced
        elif kind is _Ref:
            return self.make_ref(obj.obj)
        elif kind is _Function and obj in _FUNCTIONS:
            return NotImplemented
        if not self.by_value:
            item = _numpy_scalar(obj)
            return self.make_ref(obj) if item is _MISSING else (plain, (item,))
        return self.reduce_by_value(obj)

    def reduce_by_value(self, obj: Any) -> Any:
        if isinstance(obj, tuple):
            names = getattr(type(obj), "_fields", None)
            if isinstance(names, tuple) and len(names) == tuple.__len__(obj):
                if all(type(name) is str for name in names):
                    return record, (names, tuple(tuple.__iter__(obj)))
        value = _by_value(obj)
        if value is _MISSING:
            value = _fields(obj)
        if value is not _MISSING and value is not obj:
            return plain, (value,)
        if self.leaf_ref:
            return self.make_ref(obj)
        return opaque, _name_of(type(obj))

    def make_ref(self, obj: Any) -> Tuple[Any, ...]:
        ref_id = self.table.add(obj)
        self.new.append(ref_id)
        return (stream if _is_iterator(obj) else ref), (ref_id, *_name_of(type(obj)))


_Function = type(resolve)
