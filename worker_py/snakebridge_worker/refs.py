"""The objects that Rust holds handles to, and the namespaces of sessions. An id is never used twice."""

from typing import Any, Dict, Iterable, List

from .errors import RefNotFound
from .namespaces import Namespace

#: The bit of a namespace's id that no other id has; the rest numbers its session.
NAMESPACES = 1 << 63


class RefTable:
    """Ids are ``base + n``. Each step is one operation on a dict, whole under the GIL."""

    __slots__ = ("_next", "_objects")

    def __init__(self, base: int) -> None:
        self._next = iter(range(base, base + (1 << 62))).__next__
        self._objects: Dict[int, Any] = {}

    def add(self, obj: Any, ids: List[int]) -> int:
        """Keeps the object; returns its id, which it adds to those before, so that it is dropped with them
        whatever is raised, and whenever."""
        ref_id = self._next()
        ids.append(ref_id)
        self._objects[ref_id] = obj
        return ref_id

    def get(self, ref_id: int) -> Any:
        """The object. Raises RefNotFound if there is none of that id."""
        try:
            return self._objects[ref_id]
        except KeyError:
            raise RefNotFound(ref_id) from None

    def namespace(self, ref_id: int) -> Namespace:
        """The namespace, made at its first use."""
        found = self._objects.get(ref_id)
        if found is None:
            made = Namespace(ref_id ^ NAMESPACES)
            # Before it can be found, should this be the last that is done here.
            made.open()
            # Of two threads that come at once one makes it, and both have that.
            found = self._objects.setdefault(ref_id, made)
            found.open()
        return found

    def drop(self, ids: Iterable[int]) -> None:
        """Lets the objects go; ids that are not there are passed over."""
        pop = self._objects.pop
        for ref_id in ids:
            # What a destructor raises, Python itself reports and contains.
            dropped = pop(ref_id, None)
            if type(dropped) is Namespace:
                dropped.close()

    def __len__(self) -> int:
        return len(self._objects)
