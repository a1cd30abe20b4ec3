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
from collections import deque
from functools import reduce
from time import monotonic_ns
from typing import Any, Callable, Iterable, Iterator, Sequence

from snakebridge_worker import codec, coroutines, errors, host, interrupts, streams, wire
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


def main(channel: int, side: int, page: Page, worker: str, ref_base: int, concurrency: int, init: str | None) -> None:
    """Serves until the host says stop, or closes the channel."""
    shared = Shared(channel, side, page, ref_base)
    interrupts.listen(shared.entries, shared)
    # Before any user code, which may fork.
    os.register_at_fork(after_in_child=shared.note_fork)
    if init is not None and not initialise(shared, init):
        return
    shared.send(wire.hello())
    try:
        if concurrency == 1:
            serve(shared)
        else:
            serve_threads(shared, concurrency)
    finally:
        if shared.forked:
            os._exit(0)


def initialise(shared: Shared, init: str) -> bool:
    """Calls the pool's ``init``; tells the host if it raises."""
    module, _, name = init.partition(":")
    failure = None
    try:
        reduce(getattr, name.split("."), importlib.import_module(module))()
    except BaseException as error:
        failure = errors.describe(error)
    if shared.forked:
        os._exit(0)
    if failure is not None:
        shared.send(wire.start_failed(len(failure)) + failure)
    return failure is None


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
        self.entries = [host.Entry(self, page, page.begun_at(index) + 1) for index in range(page.entries)]

    def note_fork(self) -> None:
        """Runs in a child that user code forked: it must never take a message of the worker's, or answer in its name.

        Where it was forked in a finalizer, it comes out of that into the middle of a loop.
        """
        self.forked = True
        try:
            self._leave_channel()
            self.page.detach()
        except BaseException:
            # What is raised here, Python reports and passes over.
            os._exit(70)

    def _leave_channel(self) -> None:
        try:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            # To read from where one can only write is an error, and an end as good.
            os.dup2(2, self.channel, inheritable=False)
            return
        os.dup2(nothing, self.channel, inheritable=False)
        os.close(nothing)

    def send(self, message: bytes) -> None:
        """Sends one message; it is whole or not at all."""
        os.write(self.channel, message)
        self.page.count_sent()

    def large(self, body: list, length: int) -> int:
        """Puts a body into a block; says which."""
        with self.lock:
            return self.outgoing.put(body, length)[0]

    def large_body(self, block: int, length: int) -> memoryview:
        """A body that lies in a block."""
        with self.lock:
            return self.incoming.view(block, length)

    def host_call(self, seq: int, function: int, body: list, refs: Sequence[int]) -> tuple[bytes, list[int]]:
        """The message that calls a function of the host, and the block of its body. Raises NoRoom if it has none."""
        length = sum(map(len, body))
        place, blocks = wire.INLINE, []
        if length > INLINE:
            try:
                place, blocks = wire.BLOCK, [self.large(body, length)]
            except Exception as error:
                raise NoRoom(f"{length} bytes: {error!r}") from error
        released = self.unused() if self.incoming.lent else ()
        head = wire.host_call(seq, function, place, *(blocks or [0]), length, released, refs)
        return head if place else head + b"".join(body), blocks

    def answer(self, view: memoryview) -> host.Answer:
        """What the host says to such a call. Decoded at once: it may let go of the refs in its next message."""
        seq, entry, ended, place, block, length, count = wire.HOST_REPLY_HEAD.unpack_from(view)
        released, at = wire.read_answer_released(view)
        if count:
            self.release(released)
        if not length:
            return host.Answer(entry, seq, ended, None)
        try:
            body = self.large_body(block, length) if place else view[at : at + length]
            return host.Answer(entry, seq, ended, codec.decode_args(body))
        except BaseException as error:
            return host.Answer(entry, seq, host.BROKEN, error)

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
    fine, entry, lent, is_alone = wire.VALUE, shared.entries[index], shared.incoming.lent, len(shared.entries) == 1
    flusher = streams.Flusher(lambda seq, want, items: send_part(shared, encoder, seq, want, items))

    def run(view: Any, begun: int = begun) -> None:
        """Runs a call and answers it, unless it was taken back.

        A nested call runs on top of the one that waits, so this is entered anew while it is under way.
        """
        seq, deadline, place, block, length, count, plan_length = unpack(view)
        # Before anything of the call is looked at, then the revoke word: see `Page.begun_at`.
        words[begun] = seq
        if revoked[seq % REVOKE_WORDS] == seq:
            shared.send(wire.passed(seq, [block] if place else []))
            return
        ended, refs = fine, ()
        # While the call is `running` an interrupt may strike before any bytecode, once. So there is one `try`
        # more than what user code raises would need.
        try:
            try:
                if count:
                    raw, at = wire.read_plan(view, wire.read_released(view)[1])
                else:
                    at = head_size + plan_length
                    raw = view[head_size:at].tobytes()
                plan = known.get(raw) or plans.find(raw)
                entry.deadline = deadline
                # As soon as user code may run, which it does in a decode, it may call the host; not before, since
                # a finalizer that did so while the block is looked for would want the same lock.
                if place:
                    with shared.large_body(block, length) as body:
                        entry.running = seq
                        arguments = decode(body)
                else:
                    entry.running = seq
                    arguments = decode(view[at : at + length])
                value = flusher.run(seq, plan.want, *arguments) if plan.is_batch else plan.run(arguments)
                atom = plan.atoms.get(type(value))
                if atom:
                    body = atom(value)
                else:
                    if type(value) is CoroutineType:
                        value = coroutines.run(value) if plan.last is None else await_last(value, plan.last)
                    refs = []
                    try:
                        body, _ = encode(value, plan.want, refs)
                    except BaseException as error:
                        if not plan.is_batch:
                            raise
                        body = streams.salvage(encode, shared.table.drop, value, plan.want, error, refs)
                    if len(refs) > wire.MOST_REFS:
                        raise errors.EncodeError(f"the result holds more than {wire.MOST_REFS} objects without a value")
                    body = body[0] if len(body) == 1 else body
            except BaseException as error:
                ended, body = failure(error)
            if shared.forked:
                os._exit(0)
            # What its values do when they go is no part of it any more.
            if is_alone:
                entry.running = 0
            else:
                entry.leave()
        except BaseException as error:
            if shared.forked:
                os._exit(0)
            entry.leave()
            # One that is not caused by what the call had raised: to describe that may take for ever.
            ended, body = failure(interrupts.CallCancelled() if type(error) is interrupts.CallCancelled else error)
        if refs and ended != fine:
            shared.table.drop(refs)
            refs = ()
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
    # One that user code has made may hold anything.
    if type(error) is errors.RefNotFound and type(error.ref_id) is int and error.ref_id >> 64 == 0:
        return wire.NO_SUCH_REF, pickle.dumps(error.ref_id, 5)
    if type(error) is errors.EncodeError:
        return wire.UNSENDABLE, pickle.dumps(str(error), 5)
    return wire.RAISED, errors.describe(error, step)


def serve(shared: Shared) -> None:
    """Takes messages and runs calls, both on this thread. An error of the channel ends the worker."""
    run, entry, nested = runner(shared, 0), shared.entries[0], shared.page.begun_at(0) + 1
    buffer = bytearray(BUFFER)
    view, buffers = memoryview(buffer), [buffer]
    channel, readv, call, released = shared.channel, os.readv, wire.CALL, RELEASED
    words, received = shared.page.words, 0
    receiver = Receiver(shared, lambda: poll(words, received + receiver.received))
    entry.wait, entry.take = receiver.wait, receiver.take
    kept = entry.kept
    host.entries[threading.get_ident()] = entry
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
            # The call that it was to run on top of has just ended.
            shared.release(wire.read_released(view)[0])
            run(view, nested)
        elif kind == wire.HOST_REPLY:
            # Likewise: nobody waits for it.
            shared.answer(view)
            continue
        elif kind == wire.PING:
            shared.send(wire.PONG_MESSAGE)
            continue
        else:
            return
        while kept:
            message = kept.popleft()
            if message is host.STOP:
                return
            run(memoryview(message))
        if words[POLL_BUDGET]:
            poll(words, received + receiver.received)


class Receiver:
    """Takes messages from the channel for those who do not run each at once."""

    __slots__ = ("received", "_shared", "_look", "_buffer", "_view", "_read", "_sizes")

    def __init__(self, shared: Shared, look: Callable[[], None]) -> None:
        #: How many messages.
        self.received = 0
        self._shared = shared
        self._look = look
        # One of its own: a call reads its message in the loop's while it runs.
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._read = (os.readv, (shared.channel,), ([self._buffer],))
        self._sizes: deque[int] = deque()

    def wait(self) -> None:
        """Waits for a message. Raises what a signal handler raises; no message is lost by that."""
        if self._sizes:
            return
        if self._shared.page.words[POLL_BUDGET]:
            self._look()
        # Read and noted in one step: no handler runs in between.
        self._sizes.extend(map(*self._read))

    def take(self) -> host.Message | None:
        """That message, if an entry has to do with it."""
        shared, view, size = self._shared, self._view, self._sizes.popleft()
        self.received += 1
        if not size:
            return host.GONE
        kind = view[0]
        if kind == wire.FREE:
            return free(shared, view)
        if kind == wire.HOST_REPLY:
            return shared.answer(view)
        if kind == wire.PING:
            return shared.send(wire.PONG_MESSAGE)
        if kind == wire.STOP:
            return host.STOP
        if view[RELEASED]:
            shared.release(wire.read_released(view)[0])
        return bytes(view[:size])


def poll(words: memoryview, received: int) -> None:
    """Waits for the next message as long as the host says: two that look for each other meet sooner."""
    until = monotonic_ns() + words[POLL_BUDGET]
    while words[HOST_SENT] <= received and monotonic_ns() < until:
        pass


def serve_threads(shared: Shared, concurrency: int) -> None:
    """Takes messages on this thread; a thread for each entry runs its calls."""
    coroutines.threads = True
    queues = [queue.SimpleQueue() for _ in range(concurrency)]
    threads = [
        threading.Thread(target=serve_entry, args=(shared, index, waiting), name=f"entry-{index}", daemon=True)
        for index, waiting in enumerate(queues)
    ]
    for thread in threads:
        thread.start()
    buffer = bytearray(BUFFER)
    view, buffers = memoryview(buffer), [buffer]
    while size := os.readv(shared.channel, buffers):
        kind = buffer[0]
        if kind == wire.CALL or kind == wire.NESTED:
            if buffer[RELEASED]:
                shared.release(wire.read_released(view)[0])
            queues[buffer[wire.ENTRY_AT]].put(bytes(view[:size]))
        elif kind == wire.FREE:
            free(shared, view)
        elif kind == wire.HOST_REPLY:
            answer = shared.answer(view)
            queues[answer.entry].put(answer)
        elif kind == wire.PING:
            shared.send(wire.PONG_MESSAGE)
        else:
            for waiting in queues:
                waiting.put(host.STOP)
            for thread in threads:
                thread.join()
            return


def serve_entry(shared: Shared, index: int, waiting: queue.SimpleQueue) -> None:
    """Runs the calls of one entry, in order."""
    entry, plain = shared.entries[index], shared.page.begun_at(index)
    taken: deque[host.Message] = deque()
    try:
        run = runner(shared, index)
        entry.thread = threading.get_ident()
        # Taken and noted in one step: what is raised in this thread while it waits loses no message.
        entry.wait, entry.take = lambda: taken or taken.extend(map(type(waiting).get, (waiting,))), taken.popleft
        host.entries[threading.get_ident()] = entry
        while (message := entry.kept.popleft() if entry.kept else waiting.get()) is not host.STOP:
            # An answer that nobody waits for any more is passed over.
            if type(message) is bytes:
                run(memoryview(message), plain + (message[0] == wire.NESTED))
            # What is idle keeps nothing alive.
            message = None
            if shared.forked:
                os._exit(0)
    except BaseException:
        # Its calls would wait for ever: the worker is of no use any more.
        traceback.print_exc()
        os._exit(70)


def unless_forked(shared: Shared, ids: Iterable[int]) -> Iterator[int]:
    """Those ids; a child that the finalizer of one of their objects forks does not go on to the next."""
    for ref_id in ids:
        yield ref_id
        if shared.forked:
            os._exit(0)


def free(shared: Shared, view: memoryview) -> None:
    """Lets go of objects and blocks."""
    refs, blocks = wire.read_free(view)
    shared.table.drop(unless_forked(shared, shared.page.count_freed(refs)))
    if blocks:
        shared.release(blocks)
