"""What the rows of the zoo have at hand: `from zoo import *`."""

import ast
import asyncio
import atexit
import builtins
import ctypes
import dataclasses
import functools
import gc
import itertools
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

libc = ctypes.CDLL(None)


def in_thread(function, *args):
    """What the function returns in a thread of its own; None if it raises."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(function(*args)))
    thread.start()
    thread.join()
    return returned[0] if returned else None


class ExitsInDel:
    """Ends the process when it goes."""

    def __init__(self, status):
        self.status = status

    def __del__(self):
        os._exit(self.status)


def throw(error):
    """Raises it."""
    raise error


def daemonise():
    """Leaves a process that has nothing in common with this one any more."""
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(read)
            for fd in range(16):
                if fd != write:
                    try:
                        os.close(fd)
                    except OSError:
                        pass
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.write(write, b"x")
            os.close(write)
            time.sleep(600)
        os._exit(0)
    os.close(write)
    os.waitpid(first, 0)
    os.read(read, 1)
    os.close(read)


def leave_memory(more):
    """From now on there is so much more memory for this process, in bytes, than it has now."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def use_up_descriptors():
    """Opens files until there are no more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    opened = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return opened
