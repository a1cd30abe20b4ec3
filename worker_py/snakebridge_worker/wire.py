"""Messages between host and worker, as ``struct`` reads and writes them.

One datagram is one message: a header of little-endian integers, then the inline body. The layout is
that of ``docs/wire-protocol.md``; the host writes the same bytes with bincode.
"""

from __future__ import annotations

import os
import struct
from typing import Sequence

PROTOCOL = 1

CALL, FREE, STOP, NESTED, HOST_REPLY, PING = range(6)
HELLO, START_FAILED, REPLY, PASSED, HOST_CALL, PONG = range(6)
VALUE, RAISED, NO_SUCH_REF, UNSENDABLE, PART = range(5)
HOST_VALUE, HOST_FAILED, NO_SUCH_FUNCTION, CANCELLED = range(4)
INLINE, BLOCK = range(2)

# A call that releases no block: kind, seq, call, deadline, entry, place, block, length, released (a count),
# plan (a length), of which the loop needs not all. With blocks the plan's length stands behind them.
CALL_HEAD = struct.Struct("<4xQ8xQ4xIIQQQ")
RELEASED_AT = CALL_HEAD.size - 16
ENTRY_AT = 28
_KIND_AND_COUNT = struct.Struct("<IQ")
_COUNT = struct.Struct("<Q")
# kind, seq, ended, place, block, length, released (a count), refs (a count)
REPLY_HEAD = struct.Struct("<IQIIIQQQ")
#: The same with an inline body and neither blocks nor refs: kind, seq, ended, length.
PLAIN_REPLY = struct.Struct("<IQI8xQ16x")
# An answer of the host that releases no block: kind, seq, entry, ended, place, block, length, released (a count).
HOST_REPLY_HEAD = struct.Struct("<4xQIIIIQQ")
ANSWER_RELEASED_AT = HOST_REPLY_HEAD.size - 8
_HELLO = struct.Struct("<III")
_START_FAILED = struct.Struct("<IIIQ")
_PASSED = struct.Struct("<IQQ")

#: The answer to a ping.
PONG_MESSAGE = struct.pack("<I", PONG)

#: Their ids stand in the head of a reply, which has to fit into a datagram.
MOST_REFS = 16_384


def read_released(view: memoryview) -> tuple[list[int], int]:
    """The blocks that a call's header releases, and where its plan's length stands."""
    (count,) = _COUNT.unpack_from(view, RELEASED_AT)
    first = RELEASED_AT + 8
    return list(struct.unpack_from(f"<{count}I", view, first)), first + 4 * count


def read_plan(view: memoryview, at: int) -> tuple[bytes, int]:
    """The plan whose length stands at ``at``, and where it ends."""
    (length,) = _COUNT.unpack_from(view, at)
    return bytes(view[at + 8 : at + 8 + length]), at + 8 + length


def read_answer_released(view: memoryview) -> tuple[list[int], int]:
    """The blocks that an answer's header releases, and where its inline body begins."""
    (count,) = _COUNT.unpack_from(view, ANSWER_RELEASED_AT)
    first = ANSWER_RELEASED_AT + 8
    return list(struct.unpack_from(f"<{count}I", view, first)), first + 4 * count


def read_free(view: memoryview) -> tuple[list[int], list[int]]:
    """The refs and the blocks that the host lets go of."""
    _, count = _KIND_AND_COUNT.unpack_from(view)
    refs = list(struct.unpack_from(f"<{count}Q", view, 12))
    at = 12 + 8 * count
    (count,) = _COUNT.unpack_from(view, at)
    return refs, list(struct.unpack_from(f"<{count}I", view, at + 8))


def hello() -> bytes:
    """Says that this worker takes calls."""
    return _HELLO.pack(HELLO, PROTOCOL, os.getpid())


def start_failed(length: int) -> bytes:
    """Says that this worker cannot take calls; the description of the exception follows."""
    return _START_FAILED.pack(START_FAILED, INLINE, 0, length)


def passed(seq: int, released: list[int]) -> bytes:
    """Says that a call which was taken back never began; a block that its body lies in is released unread."""
    return _PASSED.pack(PASSED, seq, len(released)) + struct.pack(f"<{len(released)}I", *released)


def reply(seq: int, ended: int, place: int, block: int, length: int, released: Sequence[int], refs: Sequence[int]) -> bytes:
    """The head of a reply; the inline body follows."""
    if not released and not refs:
        if place == INLINE:
            return PLAIN_REPLY.pack(REPLY, seq, ended, length)
        return REPLY_HEAD.pack(REPLY, seq, ended, place, block, length, 0, 0)
    count, ids = len(released), len(refs)
    return struct.pack(
        f"<IQIIIQQ{count}IQ{ids}Q", REPLY, seq, ended, place, block, length, count, *released, ids, *refs
    )


def host_call(
    seq: int, function: int, place: int, block: int, length: int, released: Sequence[int], refs: Sequence[int]
) -> bytes:
    """The head of a call of the host's functions; the inline body follows."""
    count, ids = len(released), len(refs)
    return struct.pack(
        f"<IQQIIQQ{count}IQ{ids}Q", HOST_CALL, seq, function, place, block, length, count, *released, ids, *refs
    )
