"""Context managers whose block is in Rust."""

from __future__ import annotations

from typing import Any


def enter(manager: Any) -> Any:
    """What ``with manager as it`` calls it; a coroutine of it for an asynchronous one. Raises TypeError for no manager."""
    kind = type(manager)
    begin = getattr(kind, "__enter__", None) or getattr(kind, "__aenter__", None)
    if begin is None:
        raise TypeError(f"{kind.__name__!r} object does not support the context manager protocol")
    return begin(manager)


def leave(manager: Any) -> Any:
    """The end of the block, without an exception."""
    kind = type(manager)
    end = getattr(kind, "__exit__", None) or kind.__aexit__
    return end(manager, None, None, None)
