"""The control page, shared with the host; its layout is specified in docs/process-model.md.

One aligned 64-bit word per fact, each with one writer. A store through a memoryview of format "Q" is
one machine store; `struct.pack_into` would zero the word first, and a death in between would lie.
"""

import mmap
import os
import time

SIZE = 4096
MAGIC = 0x5342504147450001

ENTRIES = 1
HOST_SENT = 8
POLL_BUDGET = 9
INTERRUPT = 10
WORKER_SENT = 16
FENCED = 17
FIRST_REVOKE = 64
REVOKE_WORDS = 64
FIRST_ENTRY = 128

BEGUN = 0
BEGUN_NESTED = 1
DEPTH = 2
DONE = 3
BEGAN_AT = 4
STACK = 8


class Page:
    """The page of this worker. Each word has one writer, and is read and written whole."""

    __slots__ = ("words", "entries", "_entry_words", "_room")

    def __init__(self, fd: int) -> None:
        """Maps the page, and keeps its descriptor number taken by the mapping's own duplicate."""
        moved = os.dup(fd)
        os.close(fd)
        self.words = memoryview(mmap.mmap(moved, SIZE)).cast("Q")
        os.close(moved)
        if self.words[0] != MAGIC:
            raise ValueError("the control page has another layout")
        self.entries = self.words[ENTRIES]
        self._entry_words = (SIZE // 8 - FIRST_ENTRY) // self.entries
        self._room = self._entry_words - STACK

    def begin(self, entry: int, seq: int, nested: bool = False) -> bool:
        """Marks a call as begun, before anything of it is looked at; `False`: it was taken back, pass it over."""
        words = self.words
        base = FIRST_ENTRY + entry * self._entry_words
        words[base + nested] = seq  # BEGUN or BEGUN_NESTED
        # The host writes the revoke word, makes every processor order its accesses, and reads the
        # word above: one of the two sides sees the other.
        if words[FIRST_REVOKE + seq % REVOKE_WORDS] == seq:
            return False
        depth = words[base + DEPTH]
        if depth < self._room:
            words[base + STACK + depth] = seq
        if depth == 0:
            words[base + BEGAN_AT] = time.monotonic_ns()
        words[base + DEPTH] = depth + 1
        return True

    def end(self, entry: int) -> None:
        """Marks the innermost running call of an entry as over, after its reply was sent."""
        words = self.words
        base = FIRST_ENTRY + entry * self._entry_words
        words[base + DONE] += 1
        words[base + DEPTH] -= 1

    def entry_words(self, entry: int) -> "tuple[int, int, int, int, int]":
        """Where *begun*, depth, calls done, the moment of the beginning and the first running call of an entry stand.

        For the loop, which writes them itself: a method call for each would stand in every call's way.
        """
        base = FIRST_ENTRY + entry * self._entry_words
        return base + BEGUN, base + DEPTH, base + DONE, base + BEGAN_AT, base + STACK

    def running(self, entry: int) -> int:
        """The innermost running call of an entry; 0: none, or nested deeper than the page shows."""
        base = FIRST_ENTRY + entry * self._entry_words
        depth = self.words[base + DEPTH]
        return self.words[base + STACK + depth - 1] if 0 < depth <= self._room else 0

    def revoked(self, seq: int) -> bool:
        """Whether the host has taken the call back."""
        return self.words[FIRST_REVOKE + seq % REVOKE_WORDS] == seq

    def interrupt(self) -> int:
        """The call that an interrupt is meant for; 0: none."""
        return self.words[INTERRUPT]

    def host_sent(self) -> int:
        """How many messages the host has sent."""
        return self.words[HOST_SENT]

    def poll_budget(self) -> int:
        """For how many nanoseconds to poll `host_sent` before sleeping."""
        return self.words[POLL_BUDGET]

    def count_sent(self) -> None:
        """Counts a message sent to the host; after the send, never before."""
        self.words[WORKER_SENT] += 1

    def set_fenced(self) -> None:
        """Tells the host that its barriers reach this process."""
        self.words[FENCED] = 1
