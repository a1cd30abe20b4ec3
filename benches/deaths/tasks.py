"""What the tasks do that are run in each pool: the same for all peers."""

import ctypes
import os
import signal
import subprocess
import sys
import time


def value(x):
    return x


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def pid():
    return os.getpid()


def exits(after):
    time.sleep(after)
    os._exit(3)


def segfaults(after):
    time.sleep(after)
    ctypes.string_at(0)


def leaves(after):
    time.sleep(after)
    sys.exit(0)


class TwoArguments(Exception):
    """Pickles, and does not unpickle: a mistake that many libraries make."""

    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")


def raises_what_does_not_unpickle(after):
    time.sleep(after)
    raise TwoArguments("this", "that")


def returns_what_does_not_pickle(after):
    time.sleep(after)
    return lambda: None


def endless():
    while True:
        pass


def starts_a_child():
    return subprocess.Popen(["sleep", "1000"]).pid


def starts_a_daemon():
    """As a daemon does it: forks twice, in a session of its own, with its descriptors closed."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        child = os.fork()
        if child:
            os.write(write, str(child).encode())
            os._exit(0)
        os.closerange(0, 256)
        os.execvp("sleep", ["sleep", "1000"])
    os.wait()
    return int(os.read(read, 20))
