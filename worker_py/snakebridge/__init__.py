"""What user code in a worker imports: calls of the functions of the Rust program that started it."""

from snakebridge import host
from snakebridge_worker.host import Callback, CallCancelled, HostError

__all__ = ["CallCancelled", "Callback", "HostError", "host"]
