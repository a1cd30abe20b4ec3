"""Runs the worker's loop against a host that follows a script, and interrupts its calls.

``python3 interrupts.py worker_py``. As in ``callbacks.py`` each test forks a worker, whose user code is here.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import dataclasses
import functools
import gc
import itertools
import operator
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
import unittest
import weakref
from typing import Any, AsyncIterator, Callable, Iterator

sys.path[:0] = [sys.argv[1], os.path.dirname(os.path.abspath(__file__))]

import snakebridge
from callbacks import ANYTHING, VALUE, Case, Made
from snakebridge_worker import codec, host, interrupts, page, plans, streams, wire

# ---- user code

#: What it writes to when it has come where it is to be interrupted.
reached, reaches = os.pipe()
seen: list[Any] = []


def here() -> None:
    os.write(reaches, b"h")


def taken() -> list[Any]:
    """What was seen since it was last asked for."""
    given = seen[:]
    seen.clear()
    return given


def add(a: int, b: int) -> int:
    return a + b


def spins() -> None:
    here()
    while True:
        pass


def sleeps() -> None:
    here()
    time.sleep(60)


def waits_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    here()
    lock.acquire()


def imports_slowly() -> None:
    import slow_package  # noqa: F401

    while True:
        pass


def imports_it_again() -> int:
    from slow_package import value

    return value


class Thing:
    pass


def fills_weak_sets() -> None:
    """Most of its time Python is in callbacks of weakrefs."""
    here()
    while True:
        things = weakref.WeakSet()
        for _ in range(20):
            things.add(Thing())


def guards_itself() -> None:
    try:
        while True:
            try:
                spins()
            except Exception:
                seen.append("swallowed")
    finally:
        seen.append("finally")


def swallows(turns: int) -> str:
    for _ in range(turns):
        try:
            sleeps()
        except BaseException as error:
            seen.append(type(error).__name__)
    return "all the same"


#: Says that it is there while it is imported, and that it was.
SLOW_PACKAGE = """
import os, sys, time
seen = sys.modules["__main__"].seen
seen.append("begins")
value = 7
os.write({reaches}, b"h")
time.sleep(0.3)
seen.append("ends")
"""


class NeverDescribed(Exception):
    def __str__(self) -> str:
        spins()
        return ""


def raises_what_takes_for_ever() -> None:
    raise NeverDescribed


@dataclasses.dataclass
class NeverRead:
    x: int = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            spins()
        return object.__getattribute__(self, name)


def never_pickled() -> list[Any]:
    return [object(), NeverRead()]


def many_objects(count: int) -> list[Any]:
    return [object() for _ in range(count)]


def kept_objects() -> int:
    gc.collect()
    return len(codec._table)


def spins_for(seconds: float) -> str:
    here()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass
    return "whole"


released = 0


def release(number: int) -> None:
    global released
    released = number


def spins_until_released(number: int) -> str:
    here()
    while released < number:
        pass
    return "whole"


def relay(*args: Any) -> Any:
    seen.append("asks")
    return snakebridge.host.call(*args)


def relay_twice(name: str) -> None:
    for _ in range(2):
        try:
            snakebridge.host.call(name)
        except BaseException as error:
            seen.append(type(error).__name__)


async def awaits(seconds: float) -> str:
    here()
    try:
        await asyncio.sleep(seconds)
    except BaseException as error:
        seen.append(type(error).__name__)
        raise
    return "awaited"


async def blocks_its_loop() -> str:
    here()
    spins_until_cancelled()
    await asyncio.sleep(60)
    return "blocked"


async def shields_in_coroutine() -> None:
    with snakebridge.call.shield():
        here()
        while not snakebridge.call.is_cancelled():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        seen.append("shielded")
    await asyncio.sleep(60)


async def relay_in_coroutine(name: str) -> None:
    try:
        snakebridge.host.call(name)
        seen.append("answered")
        await asyncio.sleep(60)
    except BaseException as error:
        seen.append(type(error).__name__)
        raise


async def gives_slowly() -> AsyncIterator[int]:
    try:
        here()
        await asyncio.sleep(60)
        yield 1
    except BaseException as error:
        seen.append(type(error).__name__)
        raise
    finally:
        seen.append("finally")


async def gives_at_once() -> AsyncIterator[int]:
    """It is found between two items, since its loop does nothing else in between."""
    try:
        here()
        awaited = host.entries[threading.get_ident()].awaited
        while not awaited.is_wanted:
            pass
        # The batch is over with the next item.
        time.sleep(2 * streams.SLICE)
        yield 1
    finally:
        await asyncio.sleep(0)
        seen.append("finally")


class StruckBeforeItCloses:
    is_struck = False

    def __aiter__(self) -> StruckBeforeItCloses:
        return self

    def aclose(self) -> Any:
        if not self.is_struck:
            self.is_struck = True
            spins()
        return self._closes()

    async def _closes(self) -> None:
        seen.append("closes")


def gives_plainly() -> Iterator[int]:
    try:
        here()
        while True:
            pass
        yield 1
    finally:
        seen.append("finally")


def open_stream(name: str) -> Any:
    return streams.open_stream(globals()[name]())


def spins_until_cancelled() -> None:
    while not snakebridge.call.is_cancelled():
        pass


def shields(depth: int) -> None:
    try:
        with snakebridge.call.shield():
            if depth > 1:
                with snakebridge.call.shield():
                    here()
                    spins_until_cancelled()
                    seen.append("inner")
                seen.append("between")
            else:
                here()
                spins_until_cancelled()
            seen.append("outer")
        seen.append("beyond")
    except BaseException as error:
        seen.append(type(error).__name__)
        raise


def shields_what_raises() -> None:
    with snakebridge.call.shield():
        here()
        spins_until_cancelled()
        raise KeyError("first")


def leaves_a_shield_open() -> Iterator[int]:
    with snakebridge.call.shield():
        yield 1
        yield 2


kept: list[Any] = []


def keeps(name: str) -> int:
    kept.append(globals()[name]())
    return next(kept[0])


def relays_in_a_shield_that_is_closed_meanwhile(name: str) -> None:
    keeps("leaves_a_shield_open")
    snakebridge.host.call(name)
    spins()


def closes_what_was_kept(is_shielded: bool) -> None:
    with snakebridge.call.shield() if is_shielded else contextlib.nullcontext():
        kept.pop().close()


def relays_when_it_was_told(name: str) -> Any:
    try:
        spins()
    except BaseException as error:
        seen.append(type(error).__name__)
    return snakebridge.host.call(name)


def shields_and_relays(name: str) -> Any:
    with snakebridge.call.shield():
        return snakebridge.host.call(name)


def asks_for_its_deadline() -> float | None:
    return snakebridge.call.deadline()


def watched_by_a_thread() -> Any:
    answers: list[Any] = []

    def watch() -> None:
        here()
        ends = time.monotonic() + 10
        while not snakebridge.call.is_cancelled() and time.monotonic() < ends:
            time.sleep(0.001)
        with snakebridge.call.shield():
            answers.append((snakebridge.call.is_cancelled(), snakebridge.call.deadline() is not None))

    with snakebridge.call.shield():
        thread = threading.Thread(target=watch)
        thread.start()
        thread.join()
        seen.append(answers[0])


class LockWithAGap:
    """A lock as ``with`` has it from CPython 3.14 on: an exception may come between the two halves.

    Where it is taken first, one does: it has come by then.
    """

    def __init__(self, lock: Any, strike: Callable[[], Any]) -> None:
        call = operator.methodcaller("__call__")
        first = functools.partial(tuple, map(call, (strike, lock.acquire)))
        # No bytecode runs in between.
        self.acquire = map(call, itertools.chain((first,), itertools.repeat(lock.acquire))).__next__
        self.release = lock.release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: Any) -> None:
        self.release()


def struck_where_it_takes_a_lock(name: str) -> Any:
    here = threading.get_ident()
    entry = host.entries[here]
    entry._lock = LockWithAGap(entry._lock, functools.partial(interrupts._async_exc(), here, interrupts.CallCancelled))
    return globals()[name]()


def returns() -> None:
    pass


async def returns_in_coroutine() -> None:
    pass


def returns_from_a_shield() -> None:
    with snakebridge.call.shield():
        pass


def struck_where_a_batch_ends() -> None:
    class UnderWay(streams._UnderWay):
        # The thread that looks after batches does not take it first.
        is_old = property(lambda _: False, lambda *_: None)

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.lock = LockWithAGap(self.lock, functools.partial(_thread.interrupt_main, signal.SIGURG))

    streams._UnderWay = UnderWay


def gives_nothing() -> Iterator[int]:
    here()
    spins_until_cancelled()
    yield from ()


def looked_for_by_way_of(waits: Callable[[], Any]) -> None:
    """What is looked at before the next interrupt is aimed runs other code first, as a garbage collection may."""
    imports = interrupts._imports

    def run(thread: int | None) -> bool:
        interrupts._imports = imports
        is_importing = imports(thread)
        waits()
        return is_importing

    interrupts._imports = run


def goes_on_while_it_is_aimed_at() -> None:
    reached, passed = threading.Event(), threading.Event()
    looked_for_by_way_of(lambda: (reached.set(), passed.wait()))
    here()
    reached.wait()
    with snakebridge.call.shield():
        passed.set()
    spins()


def is_aimed_at_while_it_is_aimed_at(number: int) -> str:
    told = threading.Event()
    looked_for_by_way_of(lambda: (signal.raise_signal(signal.SIGURG), told.wait()))
    try:
        spins()
    except BaseException as error:
        seen.append(type(error).__name__)
        told.set()
    return spins_until_released(number)


def spins_where_the_stack_ends() -> None:
    try:
        spins_where_the_stack_ends()
    except RecursionError:
        # There is room for one function.
        here()
        while True:
            pass


def replaces_the_handler() -> str:
    # The host sends the signal until the call is over.
    signal.signal(signal.SIGURG, lambda *_: seen.append("own handler") if not seen else None)
    return swallows_nothing()


def swallows_nothing() -> str:
    here()
    ends = time.monotonic() + 10
    while not seen and time.monotonic() < ends:
        time.sleep(0.001)
    return "by itself"


# ---- the host


class Interrupts(Case):
    def setUp(self) -> None:
        super().setUp()
        # Nothing is left in it by the test before.
        while select.select([reached], [], [], 0)[0]:
            os.read(reached, 1)

        self.is_interrupted, hear = False, self.host.hear

        def hear_and_signal() -> dict[str, Any]:
            self.signals_until_there_is(self.host.channel)
            return hear()

        self.host.hear = hear_and_signal

    def signals_until_there_is(self, what: Any) -> None:
        """As the host does: a signal that comes just before a sleep in the kernel is not noticed."""
        ends = time.monotonic() + 30
        while self.is_interrupted and not select.select([what], [], [], 0.02)[0] and time.monotonic() < ends:
            self.signal()

    def name(self, seq: int) -> None:
        self.host.page.words[page.FIRST_INTERRUPT + seq % page.INTERRUPT_WORDS] = seq

    def signal(self) -> None:
        os.kill(self.host.pid, signal.SIGURG)

    def interrupt(self, seq: int) -> None:
        self.name(seq)
        self.signal()
        self.is_interrupted = True

    def interrupt_there(self, seq: int) -> None:
        """As soon as its user code says that it is there."""
        self.is_there()
        self.interrupt(seq)

    def is_there(self) -> None:
        self.signals_until_there_is(reached)
        self.assertTrue(select.select([reached], [], [], 30)[0], "it does not come there")
        os.read(reached, 1)

    def begins(self, seq: int) -> None:
        ends = time.monotonic() + 30
        while self.host.page.words[page.FIRST_ENTRY] < seq:
            self.assertLess(time.monotonic(), ends, "it does not begin")

    def is_cancelled(self, seq: int, name: str = "CallCancelled") -> list[Any]:
        chain = self.raises(seq)
        self.assertEqual(chain[0][0], name, chain)
        return chain

    def has_seen(self, *what: Any) -> None:
        self.replies(self.host.call("taken"), list(what))


class Alone(Interrupts):
    """What there is only with a concurrency of one."""

    def test_what_waits_in_the_kernel_is_woken(self) -> None:
        for name in ("sleeps", "waits_for_a_lock"):
            seq = self.host.call(name)
            self.interrupt_there(seq)
            self.is_cancelled(seq)
        self.replies(self.host.call("add", 1, 2), 3)

    def test_a_signal_that_is_not_the_hosts_does_nothing(self) -> None:
        for _ in range(100):
            self.signal()
        seq = self.host.call("spins_for", 0.3)
        self.is_there()
        for _ in range(100):
            self.signal()
        self.replies(seq, "whole")

    def test_user_code_that_has_the_handler_replaced_is_not_interrupted(self) -> None:
        seq = self.host.call("replaces_the_handler")
        self.interrupt_there(seq)
        self.replies(seq, "by itself")
        self.has_seen("own handler")

    def test_a_thread_of_user_code_sees_that_the_call_is_cancelled(self) -> None:
        self.host.deadline = 1
        seq = self.host.call("watched_by_a_thread")
        self.interrupt_there(seq)
        self.is_cancelled(seq)
        self.has_seen((True, True))

    def test_a_call_that_swallows_it_is_told_once_and_ends_when_it_likes(self) -> None:
        seq = self.host.call("swallows", 1)
        self.interrupt_there(seq)
        self.replies(seq, "all the same")
        self.has_seen("CallCancelled")

    def test_a_batch_that_is_struck_where_it_takes_a_lock_lets_it_go(self) -> None:
        self.replies(self.host.call("struck_where_a_batch_ends"), None)
        self.host.call("open_stream", "gives_nothing", want=b"\1")
        (ref,) = self.host.hear()["refs"]
        batch = self.host.order(wire.CALL, "", (Made(codec.resolve, ref), 100, 1 << 20), 0, VALUE, plans.BATCH, [])
        self.is_there()
        self.name(batch)
        self.is_cancelled(batch)
        self.host.free(ref)

    def test_interrupts_that_come_late_hit_nothing(self) -> None:
        """Aimed at the call before, while one runs, and while none does."""
        before = 0
        for number in range(10_000):
            seq = self.host.call("add", number, 1)
            if before:
                self.interrupt(before)
            self.replies(seq, number + 1)
            before = seq
        self.replies(self.host.call("kept_objects"), 0)

    def test_wherever_it_strikes_the_call_has_one_outcome_and_nothing_is_left(self) -> None:
        """In user code, in a codec, between the two, at the very end: by chance, two thousand times."""
        chance, outcomes = random.Random(1), set()
        for number in range(2_000):
            name, args = some_call(chance)
            seq = self.host.call(name, *args)
            if number % 2:
                # Else a worker that the kernel lets wait has never begun when it is struck.
                self.begins(seq)
            ends = time.perf_counter() + chance.random() * 300e-6
            while time.perf_counter() < ends:
                pass
            self.interrupt(seq)
            heard = self.host.hear()
            self.assertEqual((heard["kind"], heard["seq"]), (wire.REPLY, seq), heard)
            outcomes.add(heard["ended"])
            if heard["ended"] == wire.RAISED:
                self.assertIn(heard["value"][1][0][0], ("CallCancelled", "CancelledError"))
                self.assertFalse(heard["refs"])
            self.host.free(*heard["refs"])
        self.assertEqual(outcomes, {wire.VALUE, wire.RAISED})
        self.replies(self.host.call("kept_objects"), 0)


def some_call(chance: random.Random) -> tuple[str, tuple[int, ...]]:
    """From far shorter than the time until it is struck to longer than the kernel lets the host wait for a processor.

    The one is struck too late, the other in its midst.
    """
    name, most = chance.choice([("many_objects", 100), ("counts_to", 1_000_000), ("awaits_nothing", 1_000)])
    return name, (int(most ** chance.random()),)


def counts_to(count: int) -> int:
    for _ in range(count):
        pass
    return count


async def awaits_nothing(times: int) -> int:
    for _ in range(times):
        await asyncio.sleep(0)
    return times


class Everywhere(Interrupts):
    """What there is with threads, too."""

    def test_a_loop_ends_and_the_next_call_runs(self) -> None:
        for _ in range(20):
            seq = self.host.call("spins")
            later = self.host.call("add", 1, 2)
            self.interrupt_there(seq)
            self.is_cancelled(seq)
            self.replies(later, 3)

    def test_what_a_callback_of_a_weakref_swallows_is_raised_again(self) -> None:
        for _ in range(30):
            seq = self.host.call("fills_weak_sets")
            self.interrupt_there(seq)
            self.is_cancelled(seq)
        self.replies(self.host.call("add", 1, 2), 3)

    def test_an_import_is_whole_and_what_comes_after_it_is_struck(self) -> None:
        seq = self.host.call("imports_slowly")
        self.interrupt_there(seq)
        self.is_cancelled(seq)
        self.replies(self.host.call("imports_it_again"), 7)
        self.has_seen("begins", "ends")

    def test_except_exception_does_not_swallow_it_and_finally_runs(self) -> None:
        seq = self.host.call("guards_itself")
        self.interrupt_there(seq)
        self.is_cancelled(seq)
        self.has_seen("finally")

    def test_a_call_that_was_interrupted_before_it_runs_ends_with_the_next_signal(self) -> None:
        self.interrupt(1)
        self.assertEqual(self.host.call("spins"), 1)
        self.is_cancelled(1)
        self.replies(self.host.call("add", 1, 2), 3)

    def test_a_call_is_struck_where_its_stack_ends_too(self) -> None:
        seq = self.host.call("spins_where_the_stack_ends")
        self.interrupt_there(seq)
        self.is_cancelled(seq)

    def test_what_takes_for_ever_in_a_description_or_a_pickle_ends(self) -> None:
        seq = self.host.call("raises_what_takes_for_ever")
        self.interrupt_there(seq)
        self.assertEqual(self.host.hear()["ended"], wire.RAISED)
        seq = self.host.call("never_pickled", want=ANYTHING)
        self.interrupt_there(seq)
        self.is_cancelled(seq)
        self.replies(self.host.call("kept_objects"), 0)

    def test_a_nested_call_is_struck_and_not_the_one_below(self) -> None:
        outer = self.host.call("relay", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.nested("spins")
        self.interrupt_there(inner)
        self.is_cancelled(inner)
        self.host.answer(outer, 7)
        self.replies(outer, 7)

    def test_a_call_that_waits_is_struck_when_it_goes_on_and_not_the_one_on_top(self) -> None:
        outer = self.host.call("relay", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.nested("spins_for", 0.2)
        self.interrupt_there(outer)
        self.replies(inner, "whole")
        self.host.answer(outer, 7)
        self.is_cancelled(outer)

    def test_both_of_two_calls_within_one_another_are_struck(self) -> None:
        outer = self.host.call("relay", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.nested("spins")
        self.is_there()
        self.name(outer)
        self.interrupt(inner)
        self.is_cancelled(inner)
        self.host.answer(outer, 7)
        self.is_cancelled(outer)

    def test_a_wait_that_ends_as_cancelled_is_not_struck_as_well(self) -> None:
        seq = self.host.call("relay_twice", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        self.interrupt(seq)
        self.host.answer(seq, ended=wire.CANCELLED)
        self.asks(seq, 5, ())
        self.host.answer(seq, 7)
        self.replies(seq, None)
        self.has_seen("CallCancelled")

    def test_a_coroutine_is_cancelled_and_its_loop_is_whole(self) -> None:
        for _ in range(5):
            seq = self.host.call("awaits", 60)
            self.interrupt_there(seq)
            self.is_cancelled(seq, "CancelledError")
            self.has_seen("CancelledError")
        seq = self.host.call("blocks_its_loop")
        self.interrupt_there(seq)
        self.is_cancelled(seq, "CancelledError")
        self.replies(self.host.call("awaits", 0.01), "awaited")
        self.is_there()

    def test_a_coroutine_that_was_interrupted_before_it_goes_on_is_cancelled(self) -> None:
        seq = self.host.call("relay_in_coroutine", "f")
        self.looks_up(seq, "f", 5)
        self.asks(seq, 5, ())
        self.name(seq)
        self.host.answer(seq, 7)
        self.is_cancelled(seq, "CancelledError")
        self.has_seen("answered", "CancelledError")

    def test_a_call_on_top_of_a_coroutine_is_struck_and_not_the_coroutine(self) -> None:
        outer = self.host.call("relay_in_coroutine", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        for name, ends in (("spins", "CallCancelled"), ("awaits", "CancelledError")):
            inner = self.host.nested(name, *([60] if name == "awaits" else []))
            self.interrupt_there(inner)
            self.is_cancelled(inner, ends)
        self.host.answer(outer, ended=wire.CANCELLED)
        self.is_cancelled(outer)
        self.has_seen("CancelledError", "CallCancelled")

    def test_a_batch_of_a_stream_ends_with_it(self) -> None:
        kinds = {"gives_slowly": "CancelledError", "gives_at_once": "CallCancelled", "gives_plainly": "CallCancelled"}
        for name, ends in kinds.items():
            self.host.call("open_stream", name, want=b"\1")
            (ref,) = self.host.hear()["refs"]
            arguments = (Made(codec.resolve, ref), 100, 1 << 20)
            batch = self.host.order(wire.CALL, "", arguments, 0, VALUE, plans.BATCH, [])
            self.interrupt_there(batch)
            heard = self.host.hear()
            while heard["ended"] == wire.PART:
                heard = self.host.hear()
            self.assertEqual((heard["seq"], heard["ended"]), (batch, wire.VALUE))
            self.assertIn(ends.encode(), heard["value"][1])
            batch = self.host.order(wire.CALL, "", arguments, 0, VALUE, plans.BATCH, [])
            self.replies(batch, ([], b""))
            self.host.free(ref)
            self.has_seen(*([ends] if name == "gives_slowly" else []), "finally")

    def test_a_stream_that_is_struck_before_it_closes_is_closed_all_the_same(self) -> None:
        self.host.call("open_stream", "StruckBeforeItCloses", want=b"\1")
        (ref,) = self.host.hear()["refs"]
        close = self.host.order(wire.CALL, "", (Made(codec.resolve, ref),), 0, VALUE, plans.CLOSE, [])
        self.interrupt_there(close)
        self.is_cancelled(close)
        self.has_seen("closes")
        self.host.free(ref)

    def test_a_shield_puts_it_off_until_its_end(self) -> None:
        for depth, done in ((1, ["outer"]), (2, ["inner", "between", "outer"])):
            seq = self.host.call("shields", depth)
            self.interrupt_there(seq)
            self.is_cancelled(seq)
            self.has_seen(*done, "CallCancelled")
        seq = self.host.call("shields_what_raises")
        self.interrupt_there(seq)
        self.assertEqual([link[0] for link in self.is_cancelled(seq)], ["CallCancelled", "KeyError"])
        seq = self.host.call("shields_in_coroutine")
        self.interrupt_there(seq)
        self.is_cancelled(seq, "CancelledError")
        self.has_seen("shielded")

    def test_a_shield_is_of_its_call_alone(self) -> None:
        # One that is left open by a call does not shield the next, nor one on top.
        self.replies(self.host.call("keeps", "leaves_a_shield_open"), 1)
        seq = self.host.call("spins")
        self.interrupt_there(seq)
        self.is_cancelled(seq)
        outer = self.host.call("shields_and_relays", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.nested("shields", 1)
        self.interrupt_there(inner)
        self.is_cancelled(inner)
        inner = self.host.nested("spins")
        self.interrupt_there(inner)
        self.is_cancelled(inner)
        self.name(outer)
        self.host.answer(outer, 7)
        self.is_cancelled(outer)

    def test_a_shield_that_a_call_on_top_has_closed_is_closed(self) -> None:
        for number, is_shielded in enumerate((False, True)):
            outer = self.host.call("relays_in_a_shield_that_is_closed_meanwhile", "f")
            if not number:
                self.looks_up(outer, "f", 5)
            self.asks(outer, 5, ())
            self.replies(self.host.nested("closes_what_was_kept", is_shielded), None)
            self.host.answer(outer, 7)
            self.interrupt_there(outer)
            self.is_cancelled(outer)

    def test_a_call_that_was_told_is_not_told_again_when_one_on_top_was(self) -> None:
        outer = self.host.call("relays_when_it_was_told", "f")
        self.interrupt_there(outer)
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        inner = self.host.nested("spins")
        self.interrupt_there(inner)
        self.is_cancelled(inner)
        self.host.answer(outer, 7)
        self.replies(outer, 7)
        self.has_seen("CallCancelled")

    def test_a_call_knows_its_deadline(self) -> None:
        self.replies(self.host.call("asks_for_its_deadline"), None)
        self.host.deadline = 1_500_000_000
        self.replies(self.host.call("asks_for_its_deadline"), 1.5)
        outer = self.host.call("relay", "f")
        self.looks_up(outer, "f", 5)
        self.asks(outer, 5, ())
        self.host.deadline = 0
        self.replies(self.host.nested("asks_for_its_deadline"), None)
        self.host.answer(outer, 7)
        self.replies(outer, 7)


class Threads(Everywhere):
    entries = 3

    def test_a_call_that_is_struck_where_it_takes_a_lock_lets_it_go(self) -> None:
        # There is a loop from now on.
        self.replies(self.host.call("returns_in_coroutine"), None)
        for name in ("returns", "returns_in_coroutine", "returns_from_a_shield"):
            self.is_cancelled(self.host.call("struck_where_it_takes_a_lock", name))
            seq = self.host.call("spins")
            self.interrupt_there(seq)
            self.is_cancelled(seq)

    def test_a_finalizer_that_runs_while_a_call_is_aimed_at_may_wait_for_it(self) -> None:
        seq = self.host.call("goes_on_while_it_is_aimed_at")
        self.interrupt_there(seq)
        self.is_cancelled(seq)

    def test_a_signal_that_comes_while_a_call_is_aimed_at_does_not_tell_it_twice(self) -> None:
        seq = self.host.call("is_aimed_at_while_it_is_aimed_at", 1)
        self.interrupt_there(seq)
        self.is_there()
        # It is read when nobody aims any more.
        self.host.call("release", 1, entry=1)
        self.assertEqual({self.host.hear()["value"] for _ in range(2)}, {"whole", None})
        self.has_seen("CallCancelled")

    def test_calls_beside_it_are_not_struck(self) -> None:
        for number in range(1, 11):
            beside = [self.host.call("spins_until_released", number, entry=entry) for entry in (0, 2)]
            for _ in beside:
                self.is_there()
            for _ in range(3):
                seq = self.host.call("spins", entry=1)
                self.interrupt_there(seq)
                self.is_cancelled(seq)
            self.host.call("release", number, entry=1)
            self.assertEqual({self.host.hear()["value"] for _ in range(3)}, {"whole", None})

    def test_interrupts_that_come_late_hit_nothing(self) -> None:
        before = [0, 0, 0]
        for number in range(10_000):
            entry = number % 3
            seq = self.host.call("add", number, 1, entry=entry)
            if before[entry]:
                self.interrupt(before[entry])
            self.replies(seq, number + 1)
            before[entry] = seq

    def test_wherever_it_strikes_the_call_has_one_outcome_and_nothing_is_left(self) -> None:
        chance, outcomes = random.Random(1), set()
        for number in range(1_000):
            open_calls = {}
            for entry in range(3):
                name, args = some_call(chance)
                open_calls[self.host.call(name, *args, entry=entry)] = chance.random() < 0.7
            ends = time.perf_counter() + chance.random() * 500e-6
            while time.perf_counter() < ends:
                pass
            for seq, is_wanted in open_calls.items():
                if is_wanted:
                    self.interrupt(seq)
            for _ in range(3):
                heard = self.host.hear()
                is_struck = open_calls.pop(heard["seq"])
                self.assertIn(heard["ended"], (wire.VALUE, wire.RAISED) if is_struck else (wire.VALUE,), heard)
                outcomes.add(heard["ended"])
                self.host.free(*heard["refs"])
        self.assertEqual(outcomes, {wire.VALUE, wire.RAISED})
        self.replies(self.host.call("kept_objects"), 0)


if __name__ == "__main__":
    codec._register()
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "slow_package.py"), "w") as module:
            module.write(SLOW_PACKAGE.format(reaches=reaches))
        sys.path.insert(0, folder)
        unittest.main(argv=sys.argv[:1])
