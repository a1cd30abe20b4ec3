"""The Rust program that started this worker: ``snakebridge.host.call("lookup", 21)``."""

from snakebridge_worker.host import call

__all__ = ["call"]
