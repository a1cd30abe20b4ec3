"""The call that runs here: ``snakebridge.call.deadline()``, ``is_cancelled()`` and ``shield()``."""

from snakebridge_worker.calls import deadline, is_cancelled, shield

__all__ = ["deadline", "is_cancelled", "shield"]
