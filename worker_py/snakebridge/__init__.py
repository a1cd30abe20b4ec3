"""What user code in a worker imports: calls of the functions of the Rust program that started it, and its own call."""

from snakebridge import call, host
from snakebridge_worker.errors import HostError
from snakebridge_worker.host import Callback
from snakebridge_worker.interrupts import CallCancelled

__all__ = ["CallCancelled", "Callback", "HostError", "call", "host"]
