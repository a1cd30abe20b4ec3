"""The control page, shared with the host; its layout is specified in docs/process-model.md.

One aligned 64-bit word per fact, each with one writer. A store through a memoryview of format "Q" is
one machine store; `struct.pack_into` would zero the word first, and a death in between would lie.
"""

import ctypes
import mmap
import os
from typing import Iterable, Iterator

from snakebridge_worker import kernel

SIZE = 4096
MAGIC = 0x5342504147450002

ENTRIES = 1
HOST_SENT = 8
POLL_BUDGET = 9
WORKER_SENT = 16
FENCED = 17
FREED = 18
FIRST_REVOKE = 64
REVOKE_WORDS = 64
FIRST_ENTRY = 128
ENTRY_WORDS = 8
FIRST_INTERRUPT = 384
INTERRUPT_WORDS = 64


class Page:
    """The page of this worker. Each word has one writer, and is read and written whole."""

    __slots__ = ("words", "entries")

    def __init__(self, fd: int) -> None:
        """Maps the page, and keeps its descriptor number taken by the mapping's own duplicate."""
        moved = os.dup(fd)
        os.close(fd)
        self.words = memoryview(mmap.mmap(moved, SIZE)).cast("Q")
        os.close(moved)
        if self.words[0] != MAGIC:
            raise ValueError("the control page has another layout")
        self.entries = self.words[ENTRIES]

    def begun_at(self, entry: int) -> int:
        """Which word says what has *begun* at an entry; the next one does so for nested calls.

        A call is marked there before anything of it is looked at; then its revoke word is read. The
        host writes the revoke word, makes every processor order its accesses, and reads the word
        here: one of the two sides sees the other.
        """
        return FIRST_ENTRY + entry * ENTRY_WORDS

    def revoked(self, seq: int) -> bool:
        """Whether the host has taken the call back."""
        return self.words[FIRST_REVOKE + seq % REVOKE_WORDS] == seq

    def interrupted(self, seq: int) -> bool:
        """Whether the host wants that call, which has begun, to end."""
        return self.words[FIRST_INTERRUPT + seq % INTERRUPT_WORDS] == seq

    def host_sent(self) -> int:
        """How many messages the host has sent."""
        return self.words[HOST_SENT]

    def poll_budget(self) -> int:
        """For how many nanoseconds to poll `host_sent` before sleeping."""
        return self.words[POLL_BUDGET]

    def count_sent(self) -> None:
        """Counts a message sent to the host; after the send, never before. Threads may lose counts."""
        self.words[WORKER_SENT] += 1

    def count_freed(self, ids: Iterable[int]) -> Iterator[int]:
        """The ids of objects that are let go one by one, and how far that is for the host to see."""
        words = self.words
        for ref_id in ids:
            words[FREED] += 1
            yield ref_id

    def detach(self) -> None:
        """In a forked child: from now on the page is its own, and nobody sees what it writes."""
        kernel.unshare_memory(ctypes.addressof(ctypes.c_char.from_buffer(self.words)), SIZE)

    def set_fenced(self) -> None:
        """Tells the host that its barriers reach this process."""
        self.words[FENCED] = 1
