"""Runs the worker's loop against a host that follows a script: calls of the host, and nested calls.

``python3 callbacks.py worker_py``. Each test forks a worker, whose user code is in this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import traceback
import unittest
from typing import Any, Iterator

sys.path.insert(0, sys.argv[1])

import snakebridge
from snakebridge_worker import blocks, codec, loop, page, plans, streams, wire

# ---- user code

seen: list[Any] = []


def add(a: int, b: int) -> int:
    return a + b


def note(what: Any) -> int:
    seen.append(what)
    return len(seen)


def noted() -> list[Any]:
    return seen


def relay(*args: Any, **kwargs: Any) -> Any:
    return snakebridge.host.call(*args, **kwargs)


def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def describe_callback(function: Any) -> Any:
    return type(function).__module__, type(function).__name__, function.__name__, repr(function)


async def relay_in_coroutine(*args: Any) -> Any:
    task = asyncio.current_task()
    running = asyncio.get_running_loop()
    await asyncio.sleep(0)
    answer = snakebridge.host.call(*args)
    assert asyncio.current_task() is task and asyncio.get_running_loop() is running
    await asyncio.sleep(0)
    return answer


def has_no_loop() -> bool:
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop() is None
    return asyncio.run(asyncio.sleep(0, True))


async def relayed(*names: str) -> Any:
    for name in names:
        yield name
        yield snakebridge.host.call(name)


def caught(*args: Any) -> Any:
    return caught_from(lambda: snakebridge.host.call(*args))


def caught_from(function: Any) -> Any:
    try:
        return function()
    except BaseException as error:
        printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return [type(error).__module__, type(error).__name__, str(error), getattr(error, "code", None), printed]


def in_handling(name: str) -> Any:
    try:
        raise KeyError("first")
    except KeyError:
        return snakebridge.host.call(name)


def raises(text: str) -> None:
    raise ValueError(text)


def raises_in_handling(text: str) -> None:
    try:
        raises("own")
    except ValueError:
        raise LookupError(text)


def make_batches_long() -> None:
    streams.SLICE = 600.0


def raises_in_batch() -> Iterator[Any]:
    raise ValueError("batch")
    yield


def import_half() -> None:
    """What another thread sees while asyncio is being imported."""
    for name in ("asyncio.events", "asyncio.tasks"):
        sys.modules[name] = type(sys)(name)


class CallsWhenGone:
    def __del__(self) -> None:
        note(caught("gone")[:3])


def drops_when_over(calls: CallsWhenGone) -> None:
    """The last who holds it is the call itself."""
    note("returned")


def while_it_waits(name: str) -> Any:
    """A handler that calls the host while a call of it is under way, and then raises."""

    def handler(*_: Any) -> None:
        note(caught("inner")[:3])
        raise TimeoutError("too late")

    signal.signal(signal.SIGUSR1, handler)
    return [caught(name)[:3], relay("after")]


def on_a_thread(name: str) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(caught(name)[:3]))
    thread.start()
    thread.join()
    return answers[0]


def in_a_fork(name: str) -> Any:
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, pickle.dumps(caught(name)[:3]))
        return None
    os.wait()
    return pickle.loads(os.read(read, 4096))


def deep(levels: int, name: str) -> Any:
    return deep(levels - 1, name) if levels else snakebridge.host.call(name)


def too_deep(name: str) -> Any:
    """Calls the host at every depth that there is, from the deepest on."""
    try:
        return too_deep(name)
    except RecursionError:
        return snakebridge.host.call(name)


class CallsWhenRead:
    def __hash__(self) -> int:
        return snakebridge.host.call("hash")


class Refuses(Exception):
    def __init__(self, text: str) -> None:
        raise TypeError("no")


class OwnError(Exception):
    pass


@dataclasses.dataclass
class Hostile:
    x: int

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise ValueError("no x for you")
        return object.__getattribute__(self, name)


def hostile_argument() -> Any:
    return snakebridge.host.call("f", Hostile(1))


def nested_argument() -> Any:
    items: list[Any] = []
    for _ in range(100_000):
        items = [items]
    return snakebridge.host.call("f", items)


def too_many_refs() -> Any:
    return snakebridge.host.call("f", [object() for _ in range(wire.MOST_REFS + 1)])


def generated(name: str) -> Any:
    return snakebridge.host.call(name, (number for number in range(3)))


def shapes_of_arguments() -> None:
    call = snakebridge.host.call
    call("f")
    call("f", 1)
    call("f", 1, 2)
    call("f", 1, k=2)
    call("f", k=2, name=3)
    call("f", [1])
    call("f", (1,))
    call("g", k=2)
    call("g", 1, k=2)
    call("g", 1)
    call("g")


def gives_itself(name: str) -> bool:
    mine = object()
    return snakebridge.host.call(name, mine)[0] is mine


def large_argument(name: str, body: bytes) -> Any:
    return snakebridge.host.call(name, len(body))


def relayed_plainly(*names: str) -> Iterator[Any]:
    for name in names:
        yield name
        yield snakebridge.host.call(name)


def open_relayed(name: str, *names: str) -> Any:
    return streams.open_stream(globals()[name](*names))


def dict_with(key: Any) -> dict[Any, int]:
    return {key: 1}


def keys_of(mapping: dict[Any, int]) -> int:
    return len(mapping)


def calls_at_start() -> None:
    snakebridge.host.call("f")


def size_of(name: str, size: int) -> int:
    return len(snakebridge.host.call(name, b"x" * size))


# ---- the host

ITEMS = b"\3" + b"q\1\0s"
STRUCT = b"\3" + b"f" + struct.pack("<HH1sH", 1, 1, b"k", 1) + b"s"
ANYTHING = b"\3a"
VALUE = b"\0"


class Made:
    """Pickled as one of the extension codes that the host writes."""

    def __init__(self, make: Any, *args: Any) -> None:
        self.reduced = make, args

    def __reduce__(self) -> Any:
        return self.reduced


class Host:
    """A worker and what its host knows."""

    def __init__(self, entries: int = 1, init: str | None = None) -> None:
        self.channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        side, far_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = os.memfd_create("page")
        os.ftruncate(memory, page.SIZE)
        os.pwrite(memory, struct.pack("<QQ", page.MAGIC, entries), 0)
        self.page = page.Page(os.dup(memory))
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.channel.close()
                side.close()
                signal.alarm(60)
                # As in a zygote. What this process let go would be unmapped here, where something else may lie: a
                # fork has none of the mappings of blocks.
                gc.freeze()
                loop.main(far.detach(), far_side.detach(), page.Page(memory), "w", 1 << 36, entries, init)
                status = 0
            finally:
                os._exit(status)
        for end in (far, far_side):
            end.close()
        os.close(memory)
        self.channel.settimeout(30)
        self.side, self.sent, self.received = side, blocks.Outgoing(side), blocks.Incoming(side)
        self.seq = 0
        self.deadline = 0
        self.is_over = False

    def state(self) -> str:
        """What the worker's process does, as the kernel calls it."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(") ")[2][0]

    def status(self) -> int:
        """How the worker ended, which it does by itself."""
        self.is_over = True
        return os.waitpid(self.pid, 0)[1]

    def close(self) -> None:
        """The end, whatever came before."""
        if not self.is_over:
            os.kill(self.pid, signal.SIGKILL)
            self.status()
        self.channel.close()
        self.side.close()

    # what it says

    def order(self, kind: int, name: str, args: Any, entry: int, want: bytes, step: int, released: list[int]) -> int:
        self.seq += 1
        texts = (b"" if step != plans.FUNCTION else
                 b"".join(struct.pack("<Q", len(text)) + text for text in (b"__main__", name.encode())))
        plan = struct.pack("<BQI", 0, 1, step) + texts + struct.pack("<Q", len(want)) + want
        place, block, length, body = self.place(pickle.dumps(args, 5))
        head = struct.pack("<IQQQIIIQQ", kind, self.seq, 99, self.deadline, entry, place, block, length, len(released))
        self.say(head + struct.pack(f"<{len(released)}IQ", *released, len(plan)) + plan + body)
        return self.seq

    def call(self, name: str, *args: Any, entry: int = 0, want: bytes = VALUE, released: list[int] = []) -> int:
        return self.order(wire.CALL, name, args, entry, want, plans.FUNCTION, released)

    def nested(self, name: str, *args: Any, entry: int = 0, want: bytes = VALUE, released: list[int] = []) -> int:
        return self.order(wire.NESTED, name, args, entry, want, plans.FUNCTION, released)

    def answer(self, seq: int, value: Any = None, ended: int = wire.HOST_VALUE, entry: int = 0, released: list[int] = []) -> None:
        bodiless = ended in (wire.NO_SUCH_FUNCTION, wire.CANCELLED)
        place, block, length, body = (0, 0, 0, b"") if bodiless else self.place(pickle.dumps(value, 5))
        head = struct.pack("<IQIIIIQQ", wire.HOST_REPLY, seq, entry, ended, place, block, length, len(released))
        self.say(head + struct.pack(f"<{len(released)}I", *released) + body)

    def free(self, *refs: int) -> None:
        self.say(struct.pack(f"<IQ{len(refs)}QQ", wire.FREE, len(refs), *refs, 0))

    def say(self, message: bytes) -> None:
        self.channel.send(message)
        self.page.words[page.HOST_SENT] += 1

    def place(self, body: bytes) -> tuple[int, int, int, bytes]:
        if len(body) <= loop.INLINE:
            return wire.INLINE, 0, len(body), body
        block, length = self.sent.put([body], len(body))
        return wire.BLOCK, block, length, b""

    # what it hears

    def hear(self) -> dict[str, Any]:
        message = self.channel.recv(256 * 1024)
        assert message, "the worker is gone"
        kind = message[0]
        if kind == wire.HOST_CALL:
            names, head = ("kind", "seq", "function", "place", "block", "length"), struct.Struct("<IQQIIQ")
        elif kind == wire.REPLY:
            names, head = ("kind", "seq", "ended", "place", "block", "length"), struct.Struct("<IQIIIQ")
        elif kind == wire.PASSED:
            names, head = ("kind", "seq"), struct.Struct("<IQ")
        else:
            return {"kind": kind, "body": message[4:]}
        heard = dict(zip(names, head.unpack_from(message)))
        (count,) = struct.unpack_from("<Q", message, head.size)
        at = head.size + 8 + 4 * count
        heard["released"] = list(struct.unpack_from(f"<{count}I", message, at - 4 * count))
        for block in heard["released"]:
            self.sent.released(block)
        if kind == wire.PASSED:
            return heard
        (count,) = struct.unpack_from("<Q", message, at)
        heard["refs"] = list(struct.unpack_from(f"<{count}Q", message, at + 8))
        body = memoryview(message)[at + 8 + 8 * count :]
        if heard["place"]:
            assert not body
            body = bytes(self.received.view(heard["block"], heard["length"]))
        assert len(body) == heard["length"]
        heard["value"] = pickle.loads(body)
        return heard


class Case(unittest.TestCase):
    """A worker for each test; one of concurrency 1, or with threads."""

    entries = 1

    def setUp(self) -> None:
        self.host = Host(self.entries)
        self.addCleanup(self.host.close)
        self.assertEqual(self.host.hear()["kind"], wire.HELLO)

    def tearDown(self) -> None:
        if not self.host.is_over:
            self.host.say(struct.pack("<I", wire.STOP))
            self.assertEqual(self.host.status(), 0)

    def asks(self, seq: int, function: int, value: Any) -> dict[str, Any]:
        """The next message is a call of the host with that argument."""
        heard = self.host.hear()
        self.assertEqual(heard["kind"], wire.HOST_CALL, heard)
        self.assertEqual((heard["seq"], heard["function"], heard["value"]), (seq, function, value))
        return heard

    def looks_up(self, seq: int, name: str, function: int, want: bytes = VALUE, entry: int = 0) -> None:
        self.asks(seq, 0, name)
        self.host.answer(seq, (function, want), entry=entry)

    def replies(self, seq: int, value: Any) -> dict[str, Any]:
        heard = self.host.hear()
        self.assertEqual(heard["kind"], wire.REPLY, heard)
        self.assertEqual((heard["seq"], heard["ended"], heard["value"]), (seq, wire.VALUE, value))
        return heard

    def raises(self, seq: int) -> list[Any]:
        """The next message is a reply that says what was raised: its chain."""
        heard = self.host.hear()
        self.assertEqual((heard["kind"], heard["seq"], heard["ended"]), (wire.REPLY, seq, wire.RAISED), heard)
        return heard["value"][1]


class Calls(Case):
    def test_a_name_is_looked_up_once_and_its_function_called(self) -> None:
        for number in range(3):
            seq = self.host.call("relay", "lookup", number)
            if number == 0:
                self.looks_up(seq, "lookup", 5)
            self.asks(seq, 5, number)
            self.host.answer(seq, {"n": number})
            self.replies(seq, {"n": number})

    def test_a_name_whose_function_is_gone_is_looked_up_once_more(self) -> None:
        seq = self.host.call("relay", "lookup", 1)
        self.looks_up(seq, "lookup", 5)
        self.asks(seq, 5, 1)
        self.host.answer(seq, ended=wire.NO_SUCH_FUNCTION)
        self.looks_up(seq, "lookup", 6)
        self.asks(seq, 6, 1)
        self.host.answer(seq, "new")
        self.replies(seq, "new")
        seq = self.host.call("caught", "lookup", 1)
        self.asks(seq, 6, 1)
        self.host.answer(seq, ended=wire.NO_SUCH_FUNCTION)
        self.looks_up(seq, "lookup", 7)
        self.asks(seq, 7, 1)
        self.host.answer(seq, ended=wire.NO_SUCH_FUNCTION)
        heard = self.host.hear()
        self.assertEqual(heard["value"][:4], ["snakebridge", "HostError", "no function 'lookup' is registered", "no_such_function"])

    def test_a_name_that_is_not_registered_is_asked_for_each_time(self) -> None:
        for _ in range(2):
            seq = self.host.call("caught", "nobody")
            self.asks(seq, 0, "nobody")
            self.host.answer(seq, None)
            self.assertEqual(self.host.hear()["value"][3], "no_such_function")

    def test_an_iterator_that_is_collected_is_there_when_its_function_is_asked_for_again(self) -> None:
        seq = self.host.call("generated", "f")
        self.looks_up(seq, "f", 5, ITEMS)
        self.asks(seq, 5, [0, 1, 2])
        self.host.answer(seq, ended=wire.NO_SUCH_FUNCTION)
        self.looks_up(seq, "f", 6, ITEMS)
        self.asks(seq, 6, [0, 1, 2])
        self.host.answer(seq, None)
        self.replies(seq, None)

    def test_arguments_are_one_value_or_a_tuple_or_keywords_for_a_map(self) -> None:
        seq = self.host.call("shapes_of_arguments")
        self.looks_up(seq, "f", 5, ANYTHING)
        for value in ((), 1, (1, 2), (1, {"k": 2}), ({"k": 2, "name": 3},), [1], (1,)):
            self.asks(seq, 5, value)
            self.host.answer(seq, None)
        self.looks_up(seq, "g", 6, STRUCT)
        for value in ({"k": 2}, (1, {"k": 2}), 1, ()):
            self.asks(seq, 6, value)
            self.host.answer(seq, None)
        self.replies(seq, None)

    def test_what_is_no_plain_data_goes_as_a_ref_and_comes_back_as_itself(self) -> None:
        seq = self.host.call("gives_itself", "f")
        self.looks_up(seq, "f", 5)
        heard = self.host.hear()
        (ref,) = heard["refs"]
        self.host.answer(seq, [Made(codec.resolve, ref)])
        # It is resolved before this is heeded.
        self.host.free(ref)
        self.replies(seq, True)

    def test_a_callable_is_an_argument_and_an_answer(self) -> None:
        made = Made(codec.callback, 9, VALUE, "double")
        seq = self.host.call("describe_callback", made)
        self.replies(seq, ("snakebridge", "Callback", "double", "<snakebridge.Callback double>"))
        seq = self.host.call("apply", made, 21)
        self.asks(seq, 9, 21)
        self.host.answer(seq, Made(codec.callback, 10, ANYTHING, "other"))
        heard = self.host.hear()
        self.assertEqual((heard["kind"], len(heard["refs"])), (wire.REPLY, 1))
        seq = self.host.call("caught_from", made)
        self.asks(seq, 9, ())
        self.host.answer(seq, ended=wire.NO_SUCH_FUNCTION)
        gone = ["snakebridge", "HostError", "the callback double is gone", "no_such_function"]
        self.assertEqual(self.host.hear()["value"][:4], gone)

    def test_large_arguments_and_answers_lie_in_blocks_that_are_released(self) -> None:
        for size in (loop.INLINE - 200, loop.INLINE + 200, 3 << 20):
            seq = self.host.call("size_of", "big", size)
            heard = self.host.hear()
            if heard["function"] == 0:
                self.host.answer(seq, (5, VALUE))
                heard = self.host.hear()
            self.assertEqual((heard["value"], heard["place"]), (b"x" * size, int(size > loop.INLINE)))
            released = [heard["block"]] if heard["place"] else []
            self.host.answer(seq, b"y" * size, released=released)
            heard = self.replies(seq, size)
            # The answer's block comes back with the first message, and the argument's is used again.
            self.assertEqual(len(heard["released"]), int(size > loop.INLINE))
        self.assertEqual(max(block.lent or 0 for block in self.host.sent._blocks), 0)

    def test_a_host_call_releases_the_block_of_the_arguments_of_its_call(self) -> None:
        seq = self.host.call("large_argument", "f", b"x" * 100_000)
        heard = self.host.hear()
        self.assertEqual((heard["function"], heard["released"]), (0, [0]))
        self.host.answer(seq, (5, VALUE))
        self.asks(seq, 5, 100_000)
        self.host.answer(seq, 1)
        self.replies(seq, 1)


class Nested(Case):
    def test_nested_calls_run_at_once_and_others_after_the_outermost(self) -> None:
        outer = self.host.call("relay", "f")
        self.asks(outer, 0, "f")
        later = [self.host.call("note", "later"), self.host.call("noted")]
        inner = self.host.nested("note", "inner")
        self.replies(inner, 1)
        self.host.answer(outer, (5, VALUE))
        self.asks(outer, 5, ())
        self.assertEqual((self.host.page.words[page.FIRST_ENTRY], self.host.page.words[page.FIRST_ENTRY + 1]), (outer, inner))
        inner = self.host.nested("relay", "f")
        self.asks(inner, 5, ())
        innermost = self.host.nested("note", "innermost")
        self.replies(innermost, 2)
        self.host.answer(inner, 1)
        self.replies(inner, 1)
        self.host.answer(outer, 0)
        self.replies(outer, 0)
        self.replies(later[0], 3)
        self.replies(later[1], ["inner", "innermost", "later"])

    def test_calls_that_were_kept_keep_their_order_when_they_call_the_host_themselves(self) -> None:
        first = self.host.call("relay", "f")
        self.looks_up(first, "f", 5)
        self.asks(first, 5, ())
        second, third = self.host.call("relay", "f"), self.host.call("note", "third")
        self.host.answer(first, 1)
        self.replies(first, 1)
        self.asks(second, 5, ())
        fourth = self.host.call("note", "fourth")
        self.host.answer(second, 2)
        self.replies(second, 2)
        self.replies(third, 1)
        self.replies(fourth, 2)

    def test_a_nested_call_that_was_taken_back_is_passed(self) -> None:
        outer = self.host.call("relay", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.seq + 1
        self.host.page.words[page.FIRST_REVOKE + inner % page.REVOKE_WORDS] = inner
        self.host.nested("note", b"x" * 100_000)
        heard = self.host.hear()
        self.assertEqual((heard["kind"], heard["seq"], heard["released"]), (wire.PASSED, inner, [0]))
        self.host.answer(outer, 1)
        self.replies(outer, 1)

    def test_a_nested_call_that_comes_when_nothing_waits_is_run(self) -> None:
        nested = self.host.nested("add", 1, 2)
        self.replies(nested, 3)
        self.assertEqual(self.host.page.words[page.FIRST_ENTRY + 1], nested)

    def test_an_answer_for_a_call_below_is_kept_for_it(self) -> None:
        outer = self.host.call("gives_itself", "f")
        self.looks_up(outer, "f", 5)
        (ref,) = self.host.hear()["refs"]
        inner = self.host.nested("relay", "f")
        self.asks(inner, 5, ())
        self.host.answer(outer, [Made(codec.resolve, ref)])
        self.host.free(ref)
        late = self.host.call("note", "late")
        self.host.answer(inner, ended=wire.CANCELLED)
        self.assertEqual(self.raises(inner)[0][:2], ("CallCancelled", "snakebridge"))
        self.replies(outer, True)
        self.replies(late, 1)

    def test_large_nested_calls_run_within_large_ones(self) -> None:
        outer = self.host.call("large_argument", "f", b"x" * 100_000)
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, 100_000)
        inner = self.host.nested("large_argument", "f", b"y" * 200_000)
        self.asks(inner, 5, 200_000)
        innermost = self.host.nested("apply", Made(codec.callback, 8, VALUE, "c"), b"z" * 40_000)
        heard = self.asks(innermost, 8, b"z" * 40_000)
        for seq, answer in ((innermost, b"1" * 50_000), (inner, 2), (outer, 3)):
            self.host.answer(seq, answer, released=[heard["block"]] if seq == innermost else [])
            reply = self.replies(seq, answer)
            self.assertEqual(reply["place"], int(seq == innermost))
        self.assertEqual(max(block.lent or 0 for block in self.host.sent._blocks), 0)

    def test_64_calls_within_one_another_leave_room_for_frames_of_the_user(self) -> None:
        for name, levels in (("deep", 6), ("relay_in_coroutine", 0)):
            seqs = []
            for depth in range(64):
                order = self.host.nested if depth else self.host.call
                seqs.append(order(name, *([levels] if name == "deep" else []), "f"))
                if not depth and name == "deep":
                    self.looks_up(seqs[-1], "f", 5)
                self.asks(seqs[-1], 5, ())
            for seq in reversed(seqs):
                self.host.answer(seq, seq)
                self.replies(seq, seq)

    def test_coroutines_run_within_coroutines_and_nested_calls_see_no_loop_of_another(self) -> None:
        outer = self.host.call("relay_in_coroutine", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.nested("relay_in_coroutine", "f")
        self.asks(inner, 5, ())
        self.replies(self.host.nested("has_no_loop"), True)
        self.host.answer(inner, 1)
        self.replies(inner, 1)
        self.host.answer(outer, 2)
        self.replies(outer, 2)
        seq = self.host.call("relay_in_coroutine", "f")
        self.asks(seq, 5, ())
        self.host.answer(seq, 3)
        self.replies(seq, 3)

    def test_a_nested_call_runs_while_another_thread_has_half_imported_asyncio(self) -> None:
        seq = self.host.call("import_half")
        self.replies(seq, None)
        outer = self.host.call("relay", "f")
        self.asks(outer, 0, "f")
        self.replies(self.host.nested("add", 1, 2), 3)
        self.host.answer(outer, (5, VALUE))
        self.asks(outer, 5, ())
        self.host.answer(outer, 1)
        self.replies(outer, 1)

    def test_what_the_call_below_is_handling_is_no_cause_of_what_a_nested_call_raises(self) -> None:
        self.host.call("open_relayed", "raises_in_batch", want=b"\1")
        (ref,) = self.host.hear()["refs"]
        outer = self.host.call("in_handling", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        for name, kinds in (("raises", ["ValueError"]), ("raises_in_handling", ["LookupError", "ValueError"])):
            chain = self.raises(self.host.nested(name, "text"))
            self.assertEqual([link[0] for link in chain], kinds)
            self.assertNotIn("first", chain[0][3])
        self.host.order(wire.NESTED, "", (Made(codec.resolve, ref), 9, 1 << 20), 0, VALUE, plans.BATCH, [])
        self.assertEqual([link[0] for link in pickle.loads(self.host.hear()["value"][1])[1]], ["ValueError"])
        # The same one level up, where the one in between handles nothing.
        inner = self.host.nested("relay", "f")
        self.asks(inner, 5, ())
        self.assertEqual([link[0] for link in self.raises(self.host.nested("raises", "text"))], ["ValueError"])
        self.host.answer(inner, (None, "timeout", "inner", []), wire.HOST_FAILED)
        self.assertEqual([link[0] for link in self.raises(inner)], ["HostError"])
        # What it handles itself is its context, as ever.
        self.host.answer(outer, (None, "timeout", "outer", []), wire.HOST_FAILED)
        self.assertEqual([link[0] for link in self.raises(outer)], ["HostError", "KeyError"])

    def test_a_batch_calls_the_host_and_another_runs_within_it(self) -> None:
        # However slow the machine is, no batch ends before its second item.
        self.replies(self.host.call("make_batches_long"), None)
        for name in ("relayed", "relayed_plainly"):
            refs = []
            for _ in range(2):
                self.host.call("open_relayed", name, "f", want=b"\1")
                refs += self.host.hear()["refs"]
            outer, inner = (Made(codec.resolve, ref) for ref in refs)
            first = self.host.order(wire.CALL, "", (outer, 9, 1 << 20), 0, VALUE, plans.BATCH, [])
            if name == "relayed":
                self.looks_up(first, "f", 5)
            items: dict[int, list[Any]] = {first: []}
            self.asks_in_batch(first, items)
            second = self.host.order(wire.NESTED, "", (inner, 9, 1 << 20), 0, VALUE, plans.BATCH, [])
            items[second] = []
            self.asks_in_batch(second, items)
            self.host.answer(second, "b")
            self.ends_batch(second, items)
            self.assertEqual(items[second], ["f", "b"])
            self.host.answer(first, "c")
            self.ends_batch(first, items)
            self.assertEqual(items[first], ["f", "c"])

    # A batch that is held up is sent in parts.

    def asks_in_batch(self, seq: int, items: dict[int, list[Any]]) -> None:
        while (heard := self.host.hear())["kind"] == wire.REPLY:
            self.assertEqual(heard["ended"], wire.PART)
            items[heard["seq"]] += heard["value"][0]
        self.assertEqual((heard["kind"], heard["seq"], heard["function"]), (wire.HOST_CALL, seq, 5))

    def ends_batch(self, seq: int, items: dict[int, list[Any]]) -> None:
        is_part = True
        while is_part:
            heard = self.host.hear()
            items[heard["seq"]] += heard["value"][0]
            is_part = heard["ended"] == wire.PART
        self.assertEqual((heard["kind"], heard["seq"], heard["ended"]), (wire.REPLY, seq, wire.VALUE))
        self.assertIn(heard["value"][1], (None, b""))


class Failures(Case):
    def fail(self, raises: Any, code: str, message: str, chain: list[Any]) -> list[Any]:
        """What user code has of that failure."""
        seq = self.host.call("caught_from", Made(codec.callback, 5, VALUE, "f"))
        self.asks(seq, 5, ())
        self.host.answer(seq, (raises, code, message, chain), wire.HOST_FAILED)
        return self.host.hear()["value"]

    def test_an_error_is_a_host_error_with_its_code(self) -> None:
        module, name, message, code, _ = self.fail(None, "timeout", "too late", [])
        self.assertEqual((module, name, message, code), ("snakebridge", "HostError", "too late", "timeout"))

    def test_an_error_asks_for_a_class_of_python(self) -> None:
        for asked, module, name in (
            ("ValueError", "builtins", "ValueError"),
            ("zipfile.BadZipFile", "zipfile", "BadZipFile"),
            ("__main__.OwnError", "__main__", "OwnError"),
            ("asyncio.exceptions.CancelledError", "asyncio.exceptions", "CancelledError"),
            ("snakebridge.CallCancelled", "snakebridge", "CallCancelled"),
        ):
            with self.subTest(asked):
                self.assertEqual(self.fail(asked, "python", "text", [])[:3], [module, name, "text"])
        for asked, why in (
            ("nowhere.Error", "ModuleNotFoundError: No module named 'nowhere'"),
            ("NoError", "AttributeError: module 'builtins' has no attribute 'NoError'"),
            ("int", "TypeError: it is no class of exceptions"),
            ("UnicodeDecodeError", "TypeError: function takes exactly 5 arguments (1 given)"),
            ("__main__.Refuses", "TypeError: no"),
            ("", "AttributeError: module 'builtins' has no attribute ''"),
        ):
            with self.subTest(asked):
                said = self.fail(asked, "python", "text", [])
                self.assertEqual(said[:4], ["snakebridge", "HostError", f"text ({asked} cannot be raised: {why})", "python"])

    def test_the_exception_behind_an_error_goes_on_whole(self) -> None:
        frames = [(__file__, 12, "outer"), ("/nowhere/x.py", 7, "inner")]
        chain = [
            ("Odd.Error", "some.module", "it broke", "Traceback: as it was\n", frames, ["a note", "another"], None),
            ("KeyError", "builtins", "'k'", "KeyError: 'k'\n", [], [], None),
        ]
        printed = self.fail(None, "python", "Odd.Error: it broke", chain)[4]
        for part in (
            "KeyError: 'k'",
            "direct cause",
            f'File "{__file__}", line 12, in outer',
            'File "/nowhere/x.py", line 7, in inner',
            "some.module.Odd.Error: it broke",
            "snakebridge.HostError: Odd.Error: it broke",
        ):
            self.assertIn(part, printed)
        if sys.version_info >= (3, 11):
            self.assertIn("a note\nanother", printed)
        seq = self.host.call("relay", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        self.host.answer(seq, (None, "python", "Odd.Error: it broke", chain), wire.HOST_FAILED)
        described = self.raises(seq)
        self.assertEqual(described[0][:3], ("HostError", "snakebridge", "Odd.Error: it broke"))
        self.assertIn('File "/nowhere/x.py", line 7, in inner', described[0][3])
        self.assertEqual(described[1:], chain)

    def test_what_was_handled_before_is_told_as_for_any_exception(self) -> None:
        seq = self.host.call("in_handling", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        self.host.answer(seq, (None, "timeout", "text", []), wire.HOST_FAILED)
        self.assertEqual([link[0] for link in self.raises(seq)], ["HostError", "KeyError"])

    def test_a_cancelled_call_gets_an_exception_that_is_no_error(self) -> None:
        seq = self.host.call("caught", "f")
        self.asks(seq, 0, "f")
        self.host.answer(seq, ended=wire.CANCELLED)
        self.assertEqual(self.host.hear()["value"][:2], ["snakebridge", "CallCancelled"])
        self.assertFalse(issubclass(snakebridge.CallCancelled, Exception))
        seq = self.host.call("relay_in_coroutine", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        self.host.answer(seq, ended=wire.CANCELLED)
        self.assertEqual(self.raises(seq)[0][:2], ("CallCancelled", "snakebridge"))

    def test_an_answer_that_cannot_be_read_is_raised_in_user_code(self) -> None:
        seq = self.host.call("caught", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        self.host.answer(seq, [1, Made(codec.resolve, 77)])
        self.assertEqual(self.host.hear()["value"][:4], ["snakebridge", "HostError", "no object ref-77 is held here", "ref_not_found"])
        self.host.call("CallsWhenRead", want=b"\1")
        (ref,) = self.host.hear()["refs"]
        seq = self.host.call("caught", "f")
        self.asks(seq, 5, ())
        self.host.answer(seq, Made(dict_with, Made(codec.resolve, ref)))
        self.assertEqual(self.host.hear()["value"][:2], ["builtins", "RuntimeError"])

    def test_arguments_that_cannot_be_sent_are_raised_in_user_code_and_nothing_is_sent(self) -> None:
        seq = self.host.call("hostile_argument")
        self.looks_up(seq, "f", 5, ANYTHING)
        self.assertEqual(self.raises(seq)[0][:3], ("ValueError", "builtins", "no x for you"))
        seq = self.host.call("nested_argument")
        nested = "an argument is nested more than 400 deep, or holds itself"
        self.assertEqual(self.raises(seq)[0][:3], ("HostError", "snakebridge", nested))
        seq = self.host.call("too_many_refs")
        self.assertEqual(self.raises(seq)[0][2], "the arguments hold more than 16384 objects without a value")
        self.host.call("caught", 5)
        self.assertEqual(self.host.hear()["value"][1:3], ["TypeError", "the name of a function is a str, not int"])
        self.host.call("caught", "\ud800")
        self.assertEqual(self.host.hear()["value"][1], "UnicodeEncodeError")

    def test_user_code_in_arguments_and_encoding_may_call_the_host(self) -> None:
        self.host.call("CallsWhenRead", want=b"\1")
        (ref,) = self.host.hear()["refs"]
        seq = self.host.call("keys_of", Made(dict_with, Made(codec.resolve, ref)))
        self.looks_up(seq, "hash", 6)
        self.asks(seq, 6, ())
        inner = self.host.nested("add", 1, 1)
        self.replies(inner, 2)
        self.host.answer(seq, 12)
        self.replies(seq, 1)

    def test_a_thread_and_a_fork_and_a_finalizer_are_no_calls(self) -> None:
        for name in ("on_a_thread", "in_a_fork"):
            seq = self.host.call(name, "f")
            module, kind, _ = self.host.hear()["value"]
            self.assertEqual((module, kind), ("builtins", "RuntimeError"), name)
        # One goes with the host's order, the other with the last call that has it.
        for name in ("noted", "drops_when_over"):
            self.host.call("CallsWhenGone", want=b"\1")
            (ref,) = self.host.hear()["refs"]
            if name == "drops_when_over":
                self.host.call(name, Made(codec.resolve, ref))
                self.host.free(ref)
                self.host.hear()
            else:
                self.host.free(ref)
            self.host.call("noted")
            refused = [said for said in self.host.hear()["value"] if said != "returned"]
            self.assertEqual([said[:2] for said in refused], [["builtins", "RuntimeError"]] * (1 + (name != "noted")))

    def test_a_call_at_the_end_of_the_stack_raises_and_the_worker_lives(self) -> None:
        seq = self.host.call("too_deep", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        inner = self.host.nested("add", 1, 2)
        heard = self.host.hear()
        self.assertEqual((heard["kind"], heard["seq"]), (wire.REPLY, inner))
        self.host.answer(seq, 4)
        self.replies(seq, 4)


class Alone(Case):
    """What there is with a concurrency of one only."""

    def test_what_a_signal_handler_raises_comes_after_the_answer(self) -> None:
        seq = self.host.call("while_it_waits", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        # It sleeps nowhere but where it waits for messages.
        while self.host.state() != "S":
            pass
        os.kill(self.host.pid, signal.SIGUSR1)
        # It runs when the handler has run, and tells what that has seen.
        while True:
            inner = self.host.nested("noted")
            heard = self.host.hear()
            self.assertEqual((heard["kind"], heard["seq"]), (wire.REPLY, inner))
            if heard["value"]:
                break
        ((module, kind, _),) = heard["value"]
        self.assertEqual((module, kind), ("builtins", "RuntimeError"))
        self.host.answer(seq, "in time")
        self.looks_up(seq, "after", 6)
        self.asks(seq, 6, ())
        self.host.answer(seq, "right")
        self.replies(seq, [["builtins", "TimeoutError", "too late"], "right"])

    def test_the_end_is_kept_until_the_outermost_call_is_over(self) -> None:
        seq = self.host.call("relay", "f")
        self.asks(seq, 0, "f")
        later = self.host.call("add", 1, 2)
        self.host.say(struct.pack("<I", wire.STOP))
        self.host.answer(seq, (5, VALUE))
        self.asks(seq, 5, ())
        self.host.answer(seq, 1)
        self.replies(seq, 1)
        self.replies(later, 3)
        self.assertEqual(self.host.status(), 0)

    def test_a_worker_whose_host_is_gone_ends_though_it_waits(self) -> None:
        seq = self.host.call("relay", "f")
        self.asks(seq, 0, "f")
        self.host.channel.close()
        self.assertEqual(self.host.status(), 0)

    def test_a_worker_that_waits_looks_for_messages_as_long_as_it_is_told_to(self) -> None:
        self.host.page.words[page.POLL_BUDGET] = 2_000_000
        for number in range(20):
            seq = self.host.call("relay", "f", number)
            if not number:
                self.looks_up(seq, "f", 5)
            self.asks(seq, 5, number)
            self.host.answer(seq, number)
            self.replies(seq, number)

    def test_init_cannot_call_the_host(self) -> None:
        other = Host(1, "__main__:calls_at_start")
        self.addCleanup(other.close)
        heard = other.hear()
        self.assertEqual(heard["kind"], wire.START_FAILED)
        self.assertIn(b"only from within a call", heard["body"])


class Entries(Case):
    """What there is with more entries than one."""

    entries = 3

    def test_each_entry_waits_and_runs_for_itself(self) -> None:
        seqs = [self.host.call("relay", "f", entry, entry=entry) for entry in range(3)]
        asked = sorted((self.host.hear() for _ in seqs), key=lambda heard: heard["seq"])
        self.assertEqual([(heard["seq"], heard["value"]) for heard in asked], [(seq, "f") for seq in seqs])
        for entry, seq in enumerate(seqs):
            self.host.answer(seq, (5, VALUE), entry=entry)
            self.asks(seq, 5, entry)
        later = self.host.call("note", "later", entry=1)
        inner = self.host.nested("note", "inner", entry=1)
        self.replies(inner, 1)
        self.assertEqual(self.host.page.words[page.FIRST_ENTRY + page.ENTRY_WORDS + 1], inner)
        for entry, seq in reversed(list(enumerate(seqs))):
            self.host.answer(seq, entry, entry=entry)
            self.replies(seq, entry)
            if entry == 1:
                self.replies(later, 2)


class CallsOfThreads(Calls):
    entries = 2


class NestedOfThreads(Nested):
    entries = 2


class FailuresOfThreads(Failures):
    entries = 2


if __name__ == "__main__":
    codec._register()
    unittest.main(argv=sys.argv[:1])
