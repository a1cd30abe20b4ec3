"""Large bodies in shared memory blocks that are recycled, so that only their names travel.

The same pools as on the host's side (docs/process-model.md). A block is mapped once on each side; one
that is received is worked on in place.
"""

import array
import errno
import fcntl
import mmap
import os
import socket
import struct
import sys

from snakebridge_worker import kernel

SMALLEST = 64 * 1024
LARGEST = 1 << 30
MAX_BLOCKS = 64
MAX_IN_USE = 4 << 30
MAX_IDLE = 64 << 20
IOV_MAX = 1024
ANNOUNCEMENT = struct.Struct("<QQ")
F_ADD_SEALS = 1033
SEALS = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
FALLOC_KEEP_SIZE_PUNCH_HOLE = 1 | 2


class BlocksFull(Exception):
    """Every block is lent: try again after the host has released one."""


class _Block:
    __slots__ = ("fd", "view", "size", "touched", "lent")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.view = memoryview(_map(fd, size))
        self.size = size
        self.touched = 0
        self.lent = None


class Outgoing:
    """The blocks that bodies are sent in."""

    __slots__ = ("_side", "_blocks", "_in_use")

    def __init__(self, side: socket.socket) -> None:
        self._side = side
        self._blocks: "list[_Block]" = []
        self._in_use = 0

    def put(self, buffers: list, total: int) -> "tuple[int, int]":
        """Writes bytes-like objects of `total` bytes into a block and lends it; answers its index and length.

        Raises BlocksFull, ValueError above 1 GiB, OSError without memory or descriptors.
        """
        if total > LARGEST:
            raise ValueError(f"a body of {total} bytes; 1 GiB is the limit")
        if self._in_use and self._in_use + total > MAX_IN_USE:
            raise BlocksFull
        fitting = [
            (block.touched < total, block.size, index)
            for index, block in enumerate(self._blocks)
            if block.lent is None and block.size >= total
        ]
        index = min(fitting)[2] if fitting else self._add(total)
        block = self._blocks[index]
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        if block.touched >= total and len(views) <= IOV_MAX:
            _copy(block.view, views, total)
        else:
            # Memory that is not there yet is written by the kernel: no page fault, nothing zeroed before.
            block.touched = max(block.touched, total)
            _write(block.fd, views, total)
        block.lent = total
        self._in_use += total
        return index, total

    def released(self, index: int) -> None:
        """The host gives a block back."""
        block = self._blocks[index]
        self._in_use -= block.lent
        block.lent = None
        idle = [block for block in self._blocks if block.lent is None]
        held = sum(block.touched for block in idle)
        for block in sorted(idle, key=lambda block: -block.touched):
            if held <= MAX_IDLE:
                break
            held -= block.touched
            _empty(block)

    def trim(self) -> None:
        """Gives the memory of all idle blocks back to the system."""
        for block in self._blocks:
            if block.lent is None:
                _empty(block)

    def _add(self, total: int) -> int:
        if len(self._blocks) == MAX_BLOCKS:
            raise BlocksFull
        size = SMALLEST
        while size < total:
            size *= 4
        size = min(size, LARGEST)
        fd = kernel.memfd_create("snakebridge-block")
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
            index = len(self._blocks)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._side.sendmsg([ANNOUNCEMENT.pack(index, size)], rights)
        except BaseException:
            os.close(fd)
            raise
        self._blocks.append(_Block(fd, size))
        return index


def _empty(block: _Block) -> None:
    # A hole, not a shorter file: descriptors and mappings stay, only the memory goes.
    if block.touched:
        mode, offset, size = FALLOC_KEEP_SIZE_PUNCH_HOLE, 0, block.size
        try:
            kernel.fallocate(block.fd, mode, offset, size)
        except OSError:
            pass  # the memory stays until this process ends
        block.touched = 0


def _map(fd: int, size: int) -> mmap.mmap:
    mapping = mmap.mmap(fd, size)
    # A fork of the worker must neither see nor copy bodies that may change under its feet.
    mapping.madvise(mmap.MADV_DONTFORK)
    return mapping


def _copy(target: memoryview, views: "list[memoryview]", total: int) -> None:
    offset = 0
    for view in views:
        end = offset + len(view)
        target[offset:end] = view
        offset = end
    if offset != total:
        raise ValueError(f"a body of {offset} bytes was announced with {total}")


def _write(fd: int, views: "list[memoryview]", total: int) -> None:
    offset = first = 0
    while first < len(views):
        written = os.pwritev(fd, views[first : first + IOV_MAX], offset)
        offset += written
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
    if offset != total:
        raise ValueError(f"a body of {offset} bytes was announced with {total}")


class Incoming:
    """The blocks that the host has sent bodies in."""

    __slots__ = ("_side", "_maps", "lent", "_base")

    def __init__(self, side: socket.socket) -> None:
        self._side = side
        self._maps: "list[mmap.mmap]" = []
        #: Always the same set: the blocks that something may refer to.
        self.lent: "set[int]" = set()
        self._base = 0

    def view(self, index: int, length: int) -> memoryview:
        """A body in place: writable, and the worker's own until nothing refers to it any more.

        Raises OSError where the process has no descriptor or memory left for it. It is given back unread then.
        """
        self.lent.add(index)
        while len(self._maps) <= index:
            self._receive()
        return memoryview(self._maps[index])[:length]

    def unused(self) -> "list[int]":
        """The blocks that nothing refers to any more, each told once: to be named as released in the next message."""
        # Exact, also for views of views and arrays over them: each holds the mapping itself.
        released = [index for index in self.lent if self._references(index) == self._base]
        self.lent.difference_update(released)
        return released

    def _references(self, index: int) -> int:
        return sys.getrefcount(self._maps[index]) if index < len(self._maps) else self._base

    def _receive(self) -> None:
        room = socket.CMSG_LEN(array.array("i").itemsize)
        # It stays in the socket until it is mapped: it is sent once, and may be wanted again when there is room.
        peek = socket.MSG_CMSG_CLOEXEC | socket.MSG_PEEK
        bytes_, rights, _flags, _address = self._side.recvmsg(ANNOUNCEMENT.size, room, peek)
        index, size = ANNOUNCEMENT.unpack(bytes_)
        if not rights:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        fds = array.array("i")
        fds.frombytes(rights[0][2])
        try:
            mapping = _map(fds[0], size)
        finally:
            os.close(fds[0])  # the mapping keeps its own
        self._side.recv(ANNOUNCEMENT.size)
        if index != len(self._maps):
            raise ValueError(f"block {index} came out of turn")
        self._maps.append(mapping)
        del mapping
        if not self._base:
            self._base = self._references(index)
