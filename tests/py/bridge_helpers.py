"""What the integration tests run in a worker."""

import os
import signal
import subprocess
import sys
import time


def hold(gate: str, value=None):
    """Says that it has begun, then goes on when the gate is opened."""
    with open(gate + ".begun", "a"):
        pass
    while not os.path.exists(gate):
        time.sleep(0.001)
    return value


class Counter:
    """State in a worker's memory."""

    def __init__(self, start=0):
        self.count = start

    def add(self, n=1):
        self.count += n
        return self.count

    def hold(self, gate, value=None):
        return hold(gate, value)


class Tracked:
    """Objects whose life can be seen from outside: how many live is kept in a file."""

    live = 0

    def __init__(self):
        Tracked.live += 1

    def __del__(self):
        Tracked.live -= 1


def tracked_live():
    return Tracked.live


_log = []


def append(item):
    """Remembers an item; says where in the order of this worker it stands."""
    _log.append(item)
    return len(_log) - 1


def log():
    return list(_log)


def pid():
    return os.getpid()


def die(how="kill"):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "stderr":
        sys.stderr.write("the last words\n")
        os._exit(4)
    time.sleep(60)


def fail(text="on purpose"):
    try:
        int("x")
    except ValueError as cause:
        error = RuntimeError(text)
        if sys.version_info >= (3, 11):
            error.add_note("a note")
        raise error from cause


def garbage():
    """Writes what is no message to the host."""
    os.write(3, b"\xff" * 100)
    time.sleep(60)


def start_child(daemonise=False):
    """Starts a process that would live on by itself."""
    code = "import time; time.sleep(600)"
    if not daemonise:
        return subprocess.Popen([sys.executable, "-c", code]).pid
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second == 0:
            os.close(read)
            os.write(write, str(os.getpid()).encode())
            os.close(write)
            time.sleep(600)
            os._exit(0)
        os._exit(0)
    os.close(write)
    os.waitpid(first, 0)
    daemon = int(os.read(read, 32))
    os.close(read)
    return daemon


def stuck_in_c():
    import itertools

    return sum(itertools.repeat(0))


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def cyclic():
    value = []
    value.append(value)
    return value


def fork_and_return():
    """A fork whose child comes back into the worker's loop."""
    return os.fork() != 0


def _running():
    """The entry whose call runs here, and that call's number."""
    import threading

    from snakebridge_worker import host

    entry = host.entries[threading.get_ident()]
    return entry, entry.running


def asks_without_end():
    """Asks for what there is none of, and never reads an answer."""
    from snakebridge_worker import wire

    entry, seq = _running()
    message = wire.host_call(seq, 1 << 40, wire.INLINE, 0, 0, (), range(1, 1000))
    while True:
        os.write(entry.shared.channel, message)


def parts_without_end():
    """A generator that sends items in its own way, and many more than anybody wants."""
    import pickle

    from snakebridge_worker import wire

    yield 0
    entry, seq = _running()
    body = pickle.dumps(([1], None), 5)
    message = wire.reply(seq, wire.PART, wire.INLINE, 0, len(body), (), ()) + body
    while True:
        os.write(entry.shared.channel, message)


class ForksWhenItGoes:
    """Its finalizer forks, and the child comes back into whatever let it go."""

    def __del__(self):
        os.fork()


def call_host_with(value, name):
    """Lets the host let go of something, and calls it meanwhile."""
    import snakebridge

    return snakebridge.host.call(name, value)


def fork_if_told():
    if told := os.environ.get("FORK_IF"):
        with open(told, "a") as forks:
            forks.write(f"{os.fork()}\n")


async def coroutine(value):
    import asyncio

    await asyncio.sleep(0)
    return value


async def coroutine_that_fails():
    raise ValueError("on purpose")


def fail_if_told():
    if os.path.exists(os.environ["FAIL_IF"]):
        raise RuntimeError("told to fail")


def hold_if_told():
    if os.path.exists(os.environ["HOLD_IF"]):
        hold(os.environ["GATE"])


def objects(count):
    return [object() for _ in range(count)]


def more_than_a_gigabyte():
    return bytes((1 << 30) + 1)


def fail_start_late():
    """Tells the host that this worker could not start, though it greeted long ago."""
    import pickle
    import struct

    body = pickle.dumps([("ValueError", "builtins", "late", "", [], [])], 5)
    os.write(3, struct.pack("<IIIQ", 1, 0, 0, len(body)) + body)
    time.sleep(60)


def forge_next_id(ref_id):
    """An object whose id is one of another worker."""
    from snakebridge_worker import codec

    codec._table._next = iter([ref_id]).__next__
    return Counter()


def stop_reading(told):
    """Answers, and then neither takes a message nor goes; makes the file once it takes none."""

    def wait_for_ever():
        import socket

        sys.setprofile(None)
        socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RD)
        with open(told, "w"):
            pass
        time.sleep(600)

    # What the loop has bound is out of reach; its next read is not.
    sys.setprofile(lambda frame, event, argument: wait_for_ever() if event == "c_call" and argument is os.readv else None)


def die_first(times, runs, _held=None):
    """Leaves a line; dies the first so many times, then says how often it ran."""
    with open(runs, "a") as file:
        file.write("run\n")
    with open(runs) as file:
        count = len(file.readlines())
    if count <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return count


def sleep_if_told():
    if os.path.exists(os.environ["SLEEP_IF"]):
        time.sleep(3)
