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
import threading
import traceback
from functools import reduce
from time import monotonic_ns
from typing import Any, Callable, Sequence

from snakebridge_worker import codec, coroutines, errors, host, streams, wire
from snakebridge_worker.blocks import Incoming, Outgoing
from snakebridge_worker.coroutines import CoroutineType
from snakebridge_worker.page import FIRST_REVOKE, HOST_SENT, POLL_BUDGET, REVOKE_WORDS, WORKER_SENT, Page
from snakebridge_worker.plans import Plans
from snakebridge_worker.refs import RefTable

#: A whole message fits, with room for what the kernel would refuse anyway.
BUFFER = 256 * 1024
#: Bodies above this travel in blocks; the host has the same limit.
INLINE = 32 * 1024
#: At most 64 blocks are lent, so the lowest byte of their count tells whether there are any.
RELEASED = wire.RELEASED_AT
ANSWER_RELEASED = wire.ANSWER_RELEASED_AT


def main(channel: int, side: int, page: Page, worker: str, ref_base: int, concurrency: int, init: str | None) -> None:
    """Serves until the host says stop, or closes the channel."""
    shared = Shared(channel, side, page, ref_base)
    if init is not None and not initialise(shared, init):
        return
    os.register_at_fork(after_in_child=shared.note_fork)
    shared.send(wire.hello())
    if concurrency == 1:
        serve(shared)
    else:
        serve_threads(shared, concurrency)


def initialise(shared: Shared, init: str) -> bool:
    """Calls the pool's ``init``; tells the host if it raises."""
    module, _, name = init.partition(":")
    try:
        reduce(getattr, name.split("."), importlib.import_module(module))()
    except BaseException as error:
        body = errors.describe(error)
        shared.send(wire.start_failed(len(body)) + body)
        return False
    return True


class Shared:
    """What all entries of a worker use."""

    __slots__ = ("channel", "page", "table", "incoming", "outgoing", "lock", "forked", "entries")

    def __init__(self, channel: int, side: int, page: Page, ref_base: int) -> None:
        side_socket = socket.socket(fileno=side)
        self.channel = channel
        self.page = page
        self.table = RefTable(ref_base)
        self.incoming = Incoming(side_socket)
        self.outgoing = Outgoing(side_socket)
        self.lock = threading.Lock()
        self.forked = False
        self.entries = [host.Entry(self, page.begun_at(index) + 1) for index in range(page.entries)]

    def note_fork(self) -> None:
        """Runs in a child that user code forked: it must never answer in the worker's name."""
        self.forked = True

    def send(self, message: bytes) -> None:
        """Sends one message; it is whole or not at all."""
        os.write(self.channel, message)
        self.page.count_sent()

    def large(self, body: list, length: int) -> int:
        """Puts a body into a block; says which."""
        with self.lock:
            return self.outgoing.put(body, length)[0]

    def large_arguments(self, block: int, length: int) -> Any:
        """Arguments that lie in a block."""
        with self.lock:
            body = self.incoming.view(block, length)
        with body:
            return codec.decode_args(body)

    def ask(self, seq: int, function: int, body: list, refs: Sequence[int]) -> None:
        """Sends a call of a function of the host. Raises HostError, and has sent nothing, if there is no room."""
        length = sum(map(len, body))
        if len(refs) > wire.MOST_REFS:
            raise host.HostError(f"the arguments hold more than {wire.MOST_REFS} objects without a value", "convert")
        released = self.unused() if self.incoming.lent else ()
        if length <= INLINE:
            head = wire.host_call(seq, function, wire.INLINE, 0, length, released, refs)
            os.writev(self.channel, [head, b"".join(body)])
            self.page.count_sent()
            return
        try:
            block = self.large(body, length)
        except BaseException as error:
            with self.lock:
                self.incoming.lent.update(released)
            raise host.HostError(f"arguments of {length} bytes that have no room: {error!r}", "convert") from error
        self.send(wire.host_call(seq, function, wire.BLOCK, block, length, released, refs))

    def answer(self, view: memoryview) -> tuple[int, int, int, Any]:
        """A ``host.Answer``. Decoded at once: the host may let go of its refs in the next message."""
        seq, ended, place, block, length, count = wire.HOST_REPLY_HEAD.unpack_from(view)
        released, at = wire.read_answer_released(view)
        if count:
            self.release(released)
        try:
            if not length:
                return seq, ended, None
            return seq, ended, self.large_arguments(block, length) if place else codec.decode_args(view[at : at + length])
        except BaseException as error:
            return seq, host.BROKEN, error

    def unused(self) -> list[int]:
        """Blocks of the host that were read."""
        with self.lock:
            return self.incoming.unused()

    def release(self, blocks: list[int]) -> None:
        """The host has read these blocks."""
        with self.lock:
            for block in blocks:
                self.outgoing.released(block)


def runner(shared: Shared, index: int) -> Callable[..., None]:
    """Makes the function that runs the calls of one entry of the control page, each given as its message.

    Nested calls are given with the word that says that they have begun, and run while others are running.

    A closure, since everything that it needs is then a local: this is the path of every call.
    """
    encoder = codec.Encoder(shared.table)
    plans, channel, head_size = Plans(encoder.takes_atoms, shared.table), shared.channel, wire.CALL_HEAD.size
    words, known, begun = shared.page.words, plans.known, shared.page.begun_at(index)
    revoked = words[FIRST_REVOKE : FIRST_REVOKE + REVOKE_WORDS]
    unpack, decode, encode = wire.CALL_HEAD.unpack_from, pickle.loads, encoder.encode
    write, pack, sent, value_kind, most = os.write, wire.PLAIN_REPLY.pack, WORKER_SENT, wire.REPLY, INLINE
    fine, entry, lent = wire.VALUE, shared.entries[index], shared.incoming.lent
    flusher = streams.Flusher(lambda seq, want, items: send_part(shared, encoder, seq, want, items))

    def run(view: Any, begun: int = begun) -> None:
        """Runs a call and answers it, unless it was taken back."""
        seq, place, block, length, count, plan_length = unpack(view)
        # Before anything of the call is looked at, then the revoke word: see `Page.begun_at`.
        words[begun] = seq
        if revoked[seq % REVOKE_WORDS] == seq:
            shared.send(wire.passed(seq, [block] if place else []))
            return
        entry.running = seq
        ended, refs = fine, ()
        try:
            if count:
                raw, at = wire.read_plan(view, wire.read_released(view)[1])
            else:
                at = head_size + plan_length
                raw = view[head_size:at].tobytes()
            plan = known.get(raw) or plans.find(raw)
            arguments = shared.large_arguments(block, length) if place else decode(view[at : at + length])
            value = flusher.run(seq, plan.want, *arguments) if plan.is_batch else plan.run(arguments)
            atom = plan.atoms.get(type(value))
            if atom:
                body = atom(value)
            else:
                if type(value) is CoroutineType:
                    value = coroutines.run(value) if plan.last is None else await_last(value, plan.last)
                try:
                    body, refs = encode(value, plan.want)
                except BaseException as error:
                    if not plan.is_batch:
                        raise
                    body, refs = streams.salvage(encode, shared.table.drop, value, plan.want, error)
                if len(refs) > wire.MOST_REFS:
                    shared.table.drop(refs)
                    refs = ()
                    raise errors.EncodeError(f"the result holds more than {wire.MOST_REFS} objects without a value")
                body = body[0] if len(body) == 1 else body
        except BaseException as error:
            ended, body = failure(error)
        if shared.forked:
            os._exit(0)
        # What its values do when they go is no part of it.
        entry.running = 0
        if type(body) is bytes and not lent and not refs and len(body) <= most:
            write(channel, pack(value_kind, seq, ended, len(body)) + body)
            words[sent] += 1
        else:
            released = shared.unused() if lent else ()
            if type(body) is list:
                length = sum(map(len, body))
                if length <= INLINE:
                    body = b"".join(body)
            else:
                length = len(body)
            reply(shared, seq, ended, body, length, refs, released)
        # What is idle must not keep the last call's values alive.
        arguments = value = body = None

    entry.encoder, entry.run = encoder, run
    return run


def reply(
    shared: Shared, seq: int, ended: int, body: Any, length: int, refs: Sequence[int], released: Sequence[int]
) -> None:
    """Sends a reply that is large, then maybe in parts, or has something to tell beside its body."""
    try:
        deliver(shared, seq, ended, body, length, refs, released)
    except NoRoom as error:
        # The value is lost, and says so.
        shared.table.drop(refs)
        body = pickle.dumps(f"a result of {length} bytes that has no room: {error}", 5)
        deliver(shared, seq, wire.UNSENDABLE, body, len(body), (), released)


def send_part(shared: Shared, encoder: codec.Encoder, seq: int, want: bytes, items: list[Any]) -> None:
    """Sends items of a batch that goes on. Raises, and has sent nothing, if they cannot be sent."""
    body, refs = encoder.encode((items, streams.MORE), want)
    length = sum(map(len, body))
    try:
        if len(refs) > wire.MOST_REFS:
            raise errors.EncodeError("too many objects without a value")
        deliver(shared, seq, wire.PART, b"".join(body) if length <= INLINE else body, length, refs, ())
    except BaseException:
        shared.table.drop(refs)
        raise


class NoRoom(MemoryError):
    """A body that no block can be had for."""


def deliver(
    shared: Shared, seq: int, ended: int, body: Any, length: int, refs: Sequence[int], released: Sequence[int]
) -> None:
    """Sends a reply whole. Raises NoRoom, and has sent nothing, if its body has no room."""
    if length <= INLINE:
        os.writev(shared.channel, [wire.reply(seq, ended, wire.INLINE, 0, length, released, refs), body])
        shared.page.count_sent()
        return
    try:
        block = shared.large(body if type(body) is list else [body], length)
    except BaseException as error:
        raise NoRoom(repr(error)) from error
    shared.send(wire.reply(seq, ended, wire.BLOCK, block, length, released, refs))


def await_last(coroutine: Any, step: str) -> Any:
    """Runs the coroutine that the last step of a chain gave; what it raises is of that step."""
    try:
        return coroutines.run(coroutine)
    except BaseException as error:
        raise errors.InStep(step, error)


def failure(error: BaseException) -> tuple[int, bytes]:
    """How a call ended that raised, and the body that says so."""
    step = None
    if type(error) is errors.InStep:
        step, error = error.step, error.error
    if type(error) is errors.RefNotFound:
        return wire.NO_SUCH_REF, pickle.dumps(error.ref_id, 5)
    if type(error) is errors.EncodeError:
        return wire.UNSENDABLE, pickle.dumps(str(error), 5)
    return wire.RAISED, errors.describe(error, step)


def serve(shared: Shared) -> None:
    """Takes messages and runs calls, both on this thread. An error of the channel ends the worker."""
    run, entry, receiver = runner(shared, 0), shared.entries[0], Receiver(shared)
    nested, kept = shared.page.begun_at(0) + 1, entry.kept
    entry.take = receiver.take
    host.entries[threading.get_ident()] = entry
    # Not the receiver's own: a call reads its message while it runs.
    buffer = bytearray(BUFFER)
    view, buffers = memoryview(buffer), [buffer]
    channel, readv, call, released = shared.channel, os.readv, wire.CALL, RELEASED
    words, received = shared.page.words, 0
    while readv(channel, buffers):
        kind = buffer[0]
        received += 1
        if kind == call:
            if buffer[released]:
                shared.release(wire.read_released(view)[0])
            run(view)
        elif kind == wire.FREE:
            free(shared, view)
            continue
        elif kind == wire.NESTED:
            # The call that it is nested in has just ended.
            if buffer[released]:
                shared.release(wire.read_released(view)[0])
            run(view, nested)
        elif kind == wire.HOST_REPLY:
            shared.answer(view)
            continue
        else:
            return
        while kept:
            message = kept.popleft()
            if message is None:
                return
            run(memoryview(message))
        if words[POLL_BUDGET]:
            poll(words, received + receiver.received)


class Receiver:
    """Takes messages from the channel for whoever has to go on with others meanwhile."""

    __slots__ = ("received", "entry", "_shared", "_buffer", "_view", "_buffers")

    def __init__(self, shared: Shared) -> None:
        #: How many messages.
        self.received = 0
        #: The entry that the last message was for.
        self.entry = 0
        self._shared = shared
        self._buffer = bytearray(BUFFER)
        self._view, self._buffers = memoryview(self._buffer), [self._buffer]

    def take(self) -> Any:
        """The next message that is for an entry: see ``host.Entry.take``."""
        shared, buffer, view = self._shared, self._buffer, self._view
        while size := os.readv(shared.channel, self._buffers):
            self.received += 1
            kind = buffer[0]
            if kind == wire.FREE:
                free(shared, view)
            elif kind == wire.HOST_REPLY:
                self.entry = buffer[wire.ANSWER_ENTRY_AT]
                return shared.answer(view)
            elif kind == wire.STOP:
                return None
            else:
                self.entry = buffer[wire.ENTRY_AT]
                if buffer[RELEASED]:
                    shared.release(wire.read_released(view)[0])
                return bytes(view[:size])
        return b""


def poll(words: memoryview, received: int) -> None:
    """Waits for the next message as long as the host says: two that look for each other meet sooner."""
    until = monotonic_ns() + words[POLL_BUDGET]
    while words[HOST_SENT] <= received and monotonic_ns() < until:
        pass


def serve_threads(shared: Shared, concurrency: int) -> None:
    """Takes messages on this thread; a thread for each entry runs its calls."""
    coroutines.threads = True
    queues: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in range(concurrency)]
    threads = [
        threading.Thread(target=serve_entry, args=(shared, index, waiting), name=f"entry-{index}", daemon=True)
        for index, waiting in enumerate(queues)
    ]
    for thread in threads:
        thread.start()
    receiver = Receiver(shared)
    while message := receiver.take():
        queues[receiver.entry].put(message)
    if message is None:
        for waiting in queues:
            waiting.put(None)
        for thread in threads:
            thread.join()


def serve_entry(shared: Shared, index: int, waiting: queue.SimpleQueue) -> None:
    """Runs the calls of one entry, in order."""
    entry, plain, nested = shared.entries[index], shared.page.begun_at(index), shared.page.begun_at(index) + 1
    try:
        run, entry.take = runner(shared, index), waiting.get
        host.entries[threading.get_ident()] = entry
        while (message := entry.kept.popleft() if entry.kept else waiting.get()) is not None:
            if type(message) is bytes:
                run(memoryview(message), nested if message[0] == wire.NESTED else plain)
            # An idle thread keeps nothing alive.
            message = None
    except BaseException:
        # Its calls would wait for ever: the worker is of no use any more.
        traceback.print_exc()
        os._exit(70)


def free(shared: Shared, view: memoryview) -> None:
    """Lets go of objects and blocks."""
    refs, blocks = wire.read_free(view)
    shared.table.drop(refs)
    if blocks:
        shared.release(blocks)
