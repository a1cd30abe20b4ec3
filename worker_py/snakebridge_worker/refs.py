"""The objects that Rust holds handles to. An id is never used twice."""

from typing import Any, Dict, Iterable

from .errors import RefNotFound


class RefTable:
    """Ids are ``base + n``. Each step is one operation on a dict, whole under the GIL."""

    __slots__ = ("_next", "_objects")

    def __init__(self, base: int) -> None:
        self._next = iter(range(base, base + (1 << 62))).__next__
        self._objects: Dict[int, Any] = {}

    def add(self, obj: Any) -> int:
        """Keeps the object; returns its id."""
        ref_id = self._next()
        self._objects[ref_id] = obj
        return ref_id

    def get(self, ref_id: int) -> Any:
        """The object. Raises RefNotFound if there is none of that id."""
        try:
            return self._objects[ref_id]
        except KeyError:
            raise RefNotFound(ref_id) from None

    def drop(self, ids: Iterable[int]) -> None:
        """Lets the objects go; ids that are not there are passed over."""
        pop = self._objects.pop
        for ref_id in ids:
            # What a destructor raises, Python itself reports and contains.
            pop(ref_id, None)

    def __len__(self) -> int:
        return len(self._objects)
