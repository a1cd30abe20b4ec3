"""What the examples run in their workers."""

import itertools
import os


class Notebook:
    """State in the memory of one worker."""

    def __init__(self, owner):
        self.owner = owner
        self.notes = []

    def add(self, note):
        self.notes.append(note)
        return len(self.notes)

    def add_when_told(self, gate, note):
        hold(gate)
        return self.add(note)

    def read(self):
        return list(self.notes)

    def leaf_through(self):
        """The notes as they are now, one after the other."""
        yield from self.read()

    def draft(self):
        """Drafts without end; a note says when nobody wants more."""
        try:
            for number in itertools.count(1):
                yield f"draft {number}"
        finally:
            self.add("no more drafts")


def pid():
    """Which worker this is."""
    return os.getpid()


def hold(gate):
    """Says that it has begun, then waits until the host says go on, or is gone."""
    # The way on is opened first: what the host writes there is then not lost, however early.
    with open(os.path.join(gate, "go")) as go:
        with open(os.path.join(gate, "begun"), "w") as begun:
            begun.write("begun\n")
        go.readline()
    return os.getpid()


def primes_below(first, last):
    """How many primes there are from `first` to below `last`."""
    return sum(1 for n in range(max(first, 2), last) if all(n % d for d in range(2, int(n**0.5) + 1)))
