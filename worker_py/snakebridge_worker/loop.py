"""The worker's loop: takes calls, runs them in order, answers.

With a concurrency of one the main thread runs calls itself. With more, the main thread only receives,
and each entry of the control page has a thread that runs its calls in the order in which they came.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import socket
import sys
import threading
from functools import reduce
from typing import Any

from snakebridge_worker import codec, errors, wire
from snakebridge_worker.blocks import Incoming, Outgoing
from snakebridge_worker.page import Page
from snakebridge_worker.plans import Plans
from snakebridge_worker.refs import RefTable

#: A whole message fits, with room for what the kernel would refuse anyway.
BUFFER = 256 * 1024
#: Bodies above this travel in blocks; the host has the same limit.
INLINE = 32 * 1024


def main(channel: int, side: int, page: Page, worker: str, ref_base: int, concurrency: int, init: str | None) -> None:
    """Serves until the host says stop, or closes the channel."""
    shared = Shared(channel, side, page, ref_base)
    if init is not None and not initialise(shared, init):
        return
    os.register_at_fork(after_in_child=shared.note_fork)
    shared.send(wire.hello(), ())
    if concurrency == 1:
        serve(shared, Entry(shared, 0))
    else:
        serve_threads(shared, concurrency)


def initialise(shared: Shared, init: str) -> bool:
    """Calls the pool's ``init``; tells the host if it raises."""
    module, _, name = init.partition(":")
    try:
        reduce(getattr, name.split("."), importlib.import_module(module))()
    except BaseException as error:
        body = errors.describe(error)
        shared.send(wire.start_failed(len(body)), (body,))
        return False
    return True


class Shared:
    """What all entries of a worker use."""

    __slots__ = ("channel", "page", "table", "plans", "incoming", "outgoing", "lock", "forked")

    def __init__(self, channel: int, side: int, page: Page, ref_base: int) -> None:
        side_socket = socket.socket(fileno=side)
        self.channel = channel
        self.page = page
        self.table = RefTable(ref_base)
        self.plans = Plans()
        self.incoming = Incoming(side_socket)
        self.outgoing = Outgoing(side_socket)
        self.lock = threading.Lock()
        self.forked = False

    def note_fork(self) -> None:
        """Runs in a child that user code forked: it must never answer in the worker's name."""
        self.forked = True

    def send(self, head: bytes, body: tuple | list) -> None:
        """Sends one message; it is whole or not at all."""
        if self.forked:
            os._exit(0)
        os.writev(self.channel, [head, *body])
        self.page.count_sent()

    def large(self, body: list, length: int) -> int:
        """Puts a body into a block; says which."""
        with self.lock:
            return self.outgoing.put(body, length)[0]

    def read(self, view: memoryview, place: int, block: int, at: int, length: int) -> Any:
        """The arguments of a call."""
        if place == wire.INLINE:
            return codec.decode_args(view[at : at + length])
        with self.lock:
            body = self.incoming.view(block, length)
        with body:
            return codec.decode_args(body)

    def unused(self) -> list[int]:
        """Blocks of the host that were read."""
        with self.lock:
            return self.incoming.unused()

    def release(self, blocks: list[int]) -> None:
        """The host has read these blocks."""
        with self.lock:
            for block in blocks:
                self.outgoing.released(block)


class Entry:
    """Runs the calls of one entry of the control page."""

    __slots__ = ("shared", "index", "encoder", "asyncio_loop")

    def __init__(self, shared: Shared, index: int) -> None:
        self.shared = shared
        self.index = index
        self.encoder = codec.Encoder(shared.table)
        self.asyncio_loop = None

    def run(self, view: memoryview) -> None:
        """Runs the call in ``view`` and answers it, unless it was taken back."""
        shared = self.shared
        page = shared.page
        _, seq, _, _, place, block, length, count, plan_length = wire.CALL_HEAD.unpack_from(view)
        if not page.begin(self.index, seq):
            shared.send(wire.passed(seq), ())
            return
        if count:
            _, at = wire.read_released(view)
            raw, at = wire.read_plan(view, at)
        else:
            at = wire.CALL_HEAD.size + plan_length
            raw = bytes(view[wire.CALL_HEAD.size : at])
        ended, refs = wire.VALUE, []
        try:
            plan = shared.plans.find(raw)
            value = plan.run(shared.read(view, place, block, at, length))
            if type(value) is CoroutineType:
                value = self.await_(value)
            body, refs = self.encoder.encode(value, plan.want)
        except BaseException as error:
            ended, body = failure(error)
        value = None
        if shared.forked:
            os._exit(0)
        self.reply(seq, ended, body, refs, shared.unused() if place else [])
        page.end(self.index)

    def reply(self, seq: int, ended: int, body: list, refs: list[int], released: list[int]) -> None:
        """Sends a reply, its body inline or in a block."""
        shared = self.shared
        length = sum(map(len, body))
        if length <= INLINE:
            if len(body) > wire.MOST_PARTS:
                body = [b"".join(body)]
            shared.send(wire.reply(seq, ended, wire.INLINE, 0, length, released, refs), body)
            return
        try:
            block = shared.large(body, length)
        except BaseException as error:
            shared.table.drop(refs)
            ended, body = failure(error)
            self.reply(seq, ended, body, [], released)
            return
        shared.send(wire.reply(seq, ended, wire.BLOCK, block, length, released, refs), ())

    def await_(self, coroutine: Any) -> Any:
        """Runs a coroutine to its end, on this entry's own event loop."""
        if self.asyncio_loop is None:
            import asyncio

            self.asyncio_loop = asyncio.new_event_loop()
        return self.asyncio_loop.run_until_complete(coroutine)


async def _coroutine() -> None: ...


_sample = _coroutine()
CoroutineType = type(_sample)
_sample.close()


def failure(error: BaseException) -> tuple[int, list[bytes]]:
    """How a call ended that raised, and the body that says so."""
    if type(error) is errors.RefNotFound:
        return wire.NO_SUCH_REF, [pickle.dumps(error.ref_id, 5)]
    if type(error) is errors.EncodeError:
        return wire.UNSENDABLE, [pickle.dumps(str(error), 5)]
    return wire.RAISED, [errors.describe(error)]


def receive(shared: Shared, buffers: list[bytearray]) -> int:
    """One message; 0 at the end."""
    try:
        return os.readv(shared.channel, buffers)
    except ConnectionResetError:
        # The host closed with our messages unread: it is gone.
        return 0


def serve(shared: Shared, entry: Entry) -> None:
    """Takes messages and runs calls, both on this thread."""
    buffer = bytearray(BUFFER)
    view, buffers = memoryview(buffer), [buffer]
    while receive(shared, buffers):
        kind = buffer[0]
        if kind == wire.CALL:
            note_released(shared, view)
            entry.run(view)
        elif kind == wire.FREE:
            free(shared, view)
        else:
            return


def serve_threads(shared: Shared, concurrency: int) -> None:
    """Takes messages on this thread; a thread for each entry runs its calls."""
    queues: list[queue.SimpleQueue] = []
    for index in range(concurrency):
        waiting: queue.SimpleQueue = queue.SimpleQueue()
        queues.append(waiting)
        arguments = (Entry(shared, index), waiting)
        threading.Thread(target=serve_entry, args=arguments, name=f"snakebridge-{index}", daemon=True).start()
    buffer = bytearray(BUFFER)
    view, buffers = memoryview(buffer), [buffer]
    while size := receive(shared, buffers):
        kind = buffer[0]
        if kind == wire.CALL:
            note_released(shared, view)
            index = int.from_bytes(view[wire.ENTRY_AT : wire.ENTRY_AT + 4], "little")
            queues[index].put(bytes(view[:size]))
        elif kind == wire.FREE:
            free(shared, view)
        else:
            for waiting in queues:
                waiting.put(None)
            for thread in threading.enumerate():
                if thread.name.startswith("snakebridge-"):
                    thread.join()
            return


def serve_entry(entry: Entry, waiting: queue.SimpleQueue) -> None:
    """Runs the calls of one entry, in order."""
    try:
        while (message := waiting.get()) is not None:
            entry.run(memoryview(message))
    except BaseException as error:
        # Its calls would wait for ever: the worker is of no use any more.
        sys.__stderr__.write(f"snakebridge: an entry of the worker failed: {error!r}\n")
        os._exit(70)


def note_released(shared: Shared, view: memoryview) -> None:
    """Takes back the blocks that a call's header releases."""
    if view[wire.RELEASED_AT : wire.RELEASED_AT + 8] != NONE_RELEASED:
        shared.release(wire.read_released(view)[0])


NONE_RELEASED = bytes(8)


def free(shared: Shared, view: memoryview) -> None:
    """Lets go of objects and blocks."""
    refs, blocks = wire.read_free(view)
    shared.table.drop(refs)
    if blocks:
        shared.release(blocks)
