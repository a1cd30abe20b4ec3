"""What the chaos runs call. Each function says itself when it begins and ends, in a journal that the bridge does not know."""

import mmap
import os
import resource
import struct
import sys
import time

#: at, call, seq, value, generation; session, slot, pid; pool, kind. A power of two, so that no record crosses
#: a page of the file, where a kill could cut it.
RECORD = struct.Struct("<QQQQQIIIBB10x")
START, BEGIN, END, CLOSED = 1, 2, 3, 4

_journal = -1
_noise = b""
_pool, _slot, _generation = 0, 0, 0
_lists = {}


def start():
    """Runs in each worker before its first call."""
    global _journal, _noise, _pool, _slot, _generation
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Who it is, a worker tells nobody; but whoever called this was told.
    frame = sys._getframe()
    while "worker" not in frame.f_locals:
        frame = frame.f_back
    pool, _, rest = frame.f_locals["worker"].rpartition("/")
    slot, _, generation = rest.partition("#")
    _pool, _slot, _generation = ord(pool), int(slot), int(generation)
    _journal = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    with open(os.environ["CHAOS_NOISE"], "rb") as noise:
        _noise = mmap.mmap(noise.fileno(), 0, prot=mmap.PROT_READ)
    note(START)


def note(kind, call=0, session=0, seq=0, value=0):
    """One record, by one write to the end of the file."""
    place = session, _slot, os.getpid(), _pool, kind
    os.write(_journal, RECORD.pack(time.monotonic_ns(), call, seq, value, _generation, *place))


def work(microseconds):
    if microseconds:
        time.sleep(microseconds / 1e6)


def append(call, session, seq, microseconds, offset, payload, echoes):
    note(BEGIN, call, session, seq)
    mine = _lists.setdefault(session, [])
    mine.append(seq)
    index = len(mine) - 1
    work(microseconds)
    is_whole = payload == _noise[offset : offset + len(payload)]
    note(END, call, session, seq, index)
    return index, is_whole, payload if echoes else b""


def read(call, session, seq, microseconds, offset, size):
    note(BEGIN, call, session, seq)
    mine = list(_lists.get(session, ()))
    work(microseconds)
    padding = _noise[offset : offset + size]
    note(END, call, session, seq, len(mine))
    return mine, padding


def fail(call, session, seq, microseconds):
    note(BEGIN, call, session, seq)
    work(microseconds)
    note(END, call, session, seq)
    raise ValueError("on purpose")


class Holder:
    """Holds a token."""

    live = 0

    def __init__(self, call, session, seq, token):
        note(BEGIN, call, session, seq)
        self.token = token
        Holder.live += 1
        note(END, call, session, seq, token)

    def __del__(self):
        Holder.live -= 1

    def tell(self, call, session, seq, microseconds):
        note(BEGIN, call, session, seq)
        work(microseconds)
        note(END, call, session, seq, self.token)
        return self.token


def items(call, session, seq, count, microseconds):
    note(BEGIN, call, session, seq)
    made = numbered(call, session, seq, count, microseconds)
    note(END, call, session, seq, count)
    return made


def numbered(call, session, seq, count, microseconds):
    made = 0
    try:
        for n in range(count):
            work(microseconds)
            made += 1
            yield call << 20 | n
    finally:
        note(CLOSED, call, session, seq, made)


def at_rest():
    """Who this is, and what it still holds."""
    import gc

    from snakebridge_worker import codec

    gc.collect()
    return os.getpid(), Holder.live, len(codec._table)
