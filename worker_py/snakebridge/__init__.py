"""What user code in a worker imports: calls of the functions of the Rust program that started it."""

from snakebridge import host
from snakebridge_worker.errors import HostError
from snakebridge_worker.host import Callback, CallCancelled

__all__ = ["CallCancelled", "Callback", "HostError", "host"]
