"""Results into pickles for Rust, and arguments out of them.

Plain data is left to the C pickler; ``reducer_override`` sees what is not plain and says what it
becomes. What that is, the caller's ``want`` decides: mode 0 keeps the kinds of Python and makes a
ref of anything else; mode 1 is one ref; mode 2 nothing; mode 3 brings the shape of what the Rust
type asks for. Rust's side is ``src/pickle``; the extension codes are also in ``opcode.rs``.
"""

import copyreg
import pickle
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import kinds
from .errors import EncodeError
from .host import Callback
from .kinds import MISSING, Wanted, complex_of, date, date_time, delta, number, time, uuid_of
from .refs import RefTable
from .shapes import Shape

VALUE, REF, DISCARD, EXTRACT = range(4)
_MOST_PLANS = 1_000
# The reader's limit. The C pickler gives up by itself at some 500, up to CPython 3.11.
_MOST_DEEP = 400
_NOTHING = pickle.dumps(None, 5)
_REF, _STREAM = (pickle.PROTO + b"\x05" + pickle.EXT1 + code for code in (b"\xf1", b"\xf2"))
_CALL = pickle.REDUCE + pickle.STOP


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, 5)


def _int(value: int, pack: Any = struct.Struct("<3sic").pack) -> bytes:
    return pack(b"\x80\x05J", value, b".") if -0x80000000 <= value <= 0x7FFFFFFF else pickle.dumps(value, 5)


def _float(value: float, pack: Any = struct.Struct(">3sdc").pack) -> bytes:
    return pack(b"\x80\x05G", value, b".")


#: What makes the pickle of an atom: by hand where a pickler takes longer to set up than to write.
ATOMS: Dict[type, Callable[[Any], bytes]] = {
    **dict.fromkeys(kinds.ATOMS, _pickled),
    type(None): {None: pickle.dumps(None, 5)}.get,
    bool: {value: pickle.dumps(value, 5) for value in (False, True)}.get,
    int: _int,
    float: _float,
}

_table: Optional[RefTable] = None


def resolve(ref_id: int) -> Any:
    """The object of a ref that Rust sent. Raises RefNotFound."""
    assert _table is not None, "an Encoder installs its table"
    return _table.get(ref_id)


def callback(function: int, want: bytes, name: str) -> Callback:
    """A function of the host."""
    return Callback(function, want, name)


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
    (callback, 0xFD),
)
_FUNCTIONS = frozenset(function for function, _ in _CODES)


def _register() -> None:
    """Once per process, by the first Encoder."""
    for function, code in _CODES:
        copyreg.add_extension(function.__module__, function.__name__, code)


def decode_args(body: Any) -> Any:
    """The object that Rust sent, from any buffer. Raises what a constructor raises."""
    return pickle.loads(body)


class _Pickler(pickle.Pickler):
    """One pickler, used again and again. Its reducers decide what is not plain."""

    def __init__(self, table: RefTable) -> None:
        self.table = table
        self.buffers: List[Any] = []
        self.new: List[int] = []
        self.by_value = False
        self.leaf_ref = True
        # It is its own file.
        self.write = self.buffers.append
        super().__init__(self, 5)

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = kinds.REDUCERS.get(kind)
        if reduce is not None:
            reduced = reduce(obj)
            if reduced is not None:
                return reduced
        elif kind is Wanted:
            return self.make_ref(obj.obj)
        elif kind is _Function and obj in _FUNCTIONS:
            return NotImplemented
        if self.by_value:
            return self.reduce_by_value(obj)
        item = kinds.numpy_scalar(obj)
        return self.make_ref(obj) if item is MISSING else (plain, (item,))

    def reduce_by_value(self, obj: Any) -> Any:
        names = kinds.tuple_names(obj)
        if names is not None:
            return record, (names, tuple(tuple.__iter__(obj)))
        value = kinds.by_value(obj)
        if value is MISSING:
            value = kinds.fields(obj)
        if value is not MISSING and value is not obj:
            return plain, (value,)
        if self.leaf_ref:
            return self.make_ref(obj)
        return opaque, kinds.name_of(type(obj))

    def make_ref(self, obj: Any) -> Tuple[Any, ...]:
        module, name, is_iterator = kinds.class_of(obj)
        ref_id = self.table.add(obj, self.new)
        return (stream if is_iterator else ref), (ref_id, module, name)


_Function = type(resolve)


class Encoder:
    """Encodes results; what becomes a ref goes into the table."""

    __slots__ = ("_table", "_idle", "_plans")

    def __init__(self, table: RefTable) -> None:
        global _table
        if _table is None:
            _register()
        _table = self._table = table
        # User code runs in an encode and may begin another, so there may be several at once.
        self._idle: List[_Pickler] = [_Pickler(table)]
        self._plans: Dict[bytes, Shape] = {}

    def encode(self, value: Any, want: bytes, made: Optional[List[int]] = None) -> Tuple[List[Any], List[int]]:
        """The body of a result, in parts, and the ids of the refs that it makes, which are added to ``made``.

        Raises EncodeError for what cannot be sent, and whatever user code raises on the way; no ref
        is left then. Where an interrupt may strike, ``made`` is to be dropped: it may come at the very end.
        """
        if made is None:
            made = []
        mode = want[0]
        shape = None
        if mode == EXTRACT:
            shape = self._plans.get(want) or self._plan(want)
            if shape.convert is None and type(value) in ATOMS:
                return [ATOMS[type(value)](value)], made
        elif mode == REF:
            return self._one_ref(value, made)
        elif mode == DISCARD:
            return [_NOTHING], made
        elif type(value) in ATOMS:
            return [ATOMS[type(value)](value)], made
        try:
            pickler = self._idle.pop()
        except IndexError:
            pickler = _Pickler(self._table)
        try:
            if shape is None:
                pickler.by_value = False
                pickler.leaf_ref = True
            else:
                pickler.by_value = True
                pickler.leaf_ref = shape.has_any
                if shape.collects:
                    value = kinds.collect(value)
                if shape.convert is not None:
                    value = shape.convert(value)
            pickler.dump(value)
            made += pickler.new
        except RecursionError as error:
            self._table.drop(pickler.new)
            raise EncodeError(f"the result is nested more than {_MOST_DEEP} deep, or holds itself") from error
        except BaseException:
            self._table.drop(pickler.new)
            raise
        else:
            return pickler.buffers[:], made
        finally:
            pickler.clear_memo()
            pickler.buffers.clear()
            pickler.new.clear()
            self._idle.append(pickler)

    def _one_ref(self, obj: Any, made: List[int]) -> Tuple[List[Any], List[int]]:
        """One ref by hand: a pickler would look up and check the code's function first (5 us)."""
        module, name, is_iterator = kinds.class_of(obj)
        ref_id = self._table.add(obj, made)
        arguments = pickle.dumps((ref_id, module, name), 5)
        return [b"%b%b%b" % (_STREAM if is_iterator else _REF, arguments[2:-1], _CALL)], made

    def argument(self, args: List[Any], kwargs: Dict[str, Any], want: bytes) -> Any:
        """What stands for the arguments of a function of the host.

        An iterator that is collected is exchanged for its items in ``args``, should they be asked for again.
        """
        shape = (self._plans.get(want) or self._plan(want)) if want[0] == EXTRACT else None
        if len(args) == 1 and not kwargs:
            if shape is not None and shape.collects:
                args[0] = kinds.collect(args[0])
            return args[0]
        if kwargs and not args and shape is not None and shape.is_map:
            return kwargs
        return (*args, kwargs) if kwargs else tuple(args)

    def takes_atoms(self, want: bytes) -> bool:
        """Whether an atom is sent as the plain pickle of itself, so that nobody needs to ask for it each time."""
        if want[0] == EXTRACT:
            return (self._plans.get(want) or self._plan(want)).convert is None
        return want[0] == VALUE

    def _plan(self, want: bytes) -> Shape:
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        want = bytes(want)
        shape = self._plans[want] = Shape(want[1:])
        return shape
