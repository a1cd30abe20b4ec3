"""Deaths at a chosen point of a call. Patches of the worker's loop call ``at``: see tests/it/matrix."""

import os
import signal
import socket
import time
from decimal import Decimal

HOST_SENT = 8

#: What ``arm`` was given, until the loop comes round; then what holds, and how many calls were read since.
_given = None
_fault = None
_calls = 0


def arm(journal, phase, death, call):
    """The worker dies in that phase of that call, counted from the next one. Gives its process id."""
    global _given
    _given = (journal, phase, death, call)
    return os.getpid()


def at(phase, words=None, received=0):
    """The loop is there; with its page and how many messages it took, where it is about to take the next."""
    global _given, _fault, _calls
    if phase == "idle":
        if _given is not None:
            _fault, _given, _calls = _given, None, 0
        if _fault is None or _calls != _fault[3] - 1:
            return
        if _fault[1] == "granted":
            while not os.path.exists(_fault[0] + ".gate"):
                time.sleep(0.0005)
            phase = "granted"
        elif _fault[1] == "unread":
            while words[HOST_SENT] <= received:
                time.sleep(0.0005)
            phase = "unread"
    elif phase == "read":
        _calls += 1
    # Where there is no page it is a call that is in that phase.
    if _fault is not None and phase == _fault[1] and _calls == _fault[3] - (words is not None):
        journal, _, death, _ = _fault
        _fault = None
        _die(journal, death)


def note(journal, what):
    """One line, whatever happens to this process afterwards."""
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what}\n".encode())
    os.close(fd)


def _die(journal, death):
    note(journal, f"reached {time.monotonic_ns()}")
    if death == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif death == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif death == "exit0":
        os._exit(0)
    elif death == "exit1":
        os._exit(1)
    elif death == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    elif death == "closed":
        socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
    elif death == "garbage":
        os.write(3, b"\xff" * 100)
    note(journal, "done")
    while death == "garbage" and not os.path.exists(journal + ".again"):
        time.sleep(0.001)
    if death == "garbage":
        os.write(3, b"\xff" * 100)
    while True:
        time.sleep(600)


def run(journal, is_gated=False):
    """Its result has a part that is pickled by code of the worker's own."""
    note(journal, "ran")
    while is_gated and not os.path.exists(journal + ".gate"):
        time.sleep(0.0005)
    at("user")
    return [Decimal(1)]


class Thing:
    def run(self, journal):
        return run(journal)

    def peek(self):
        return 1


def items(journal):
    """An iterator of two items, the second of which comes with the end in the second batch."""
    note(journal, "ran")
    at("user")

    def each():
        for n in range(2):
            at("user")
            yield Decimal(n)

    return each()
