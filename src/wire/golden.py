"""Checks the golden messages against ``wire.py`` and ``plans.py``.

``python3 golden.py worker_py tests/golden/wire/messages.txt``; the file says of itself how it is read.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
import unittest
from typing import Any, Iterator
from unittest import mock

sys.path.insert(0, sys.argv[1])

import snakebridge
import snakebridge_worker
from snakebridge_worker import plans, refs, streams, wire


def lines(writer: str) -> Iterator[tuple[bytes, str]]:
    """The messages of one writer: their bytes, and what is said of them."""
    found = 0
    with open(sys.argv[2], encoding="ascii") as messages:
        for line in messages:
            if line.startswith(f"{writer} "):
                _, message, said = line.rstrip("\n").split(" ", 2)
                found += 1
                yield bytes.fromhex(message), said
    assert found, f"no line of {writer}"


def read(message: bytes) -> dict[str, Any]:
    """What the worker's loop takes from a message of the host."""
    view = memoryview(message)
    kind = message[0]
    if kind in (wire.STOP, wire.PING):
        return {"kind": kind}
    if kind == wire.FREE:
        refs, released = wire.read_free(view)
        return {"kind": kind, "refs": refs, "released": released}
    if kind == wire.HOST_REPLY:
        seq, entry, ended, place, block, length, count = wire.HOST_REPLY_HEAD.unpack_from(view)
        released, at = wire.read_answer_released(view)
        assert count == len(released)
        names = ("kind", "seq", "entry", "ended", "place", "block", "length", "released", "body")
        return dict(zip(names, (kind, seq, entry, ended, place, block, length, released, message[at:])))
    seq, deadline, place, block, length, count, _ = wire.CALL_HEAD.unpack_from(view)
    # The loop has no use for the call's id.
    call = int.from_bytes(view[wire.ENTRY_AT - 16 : wire.ENTRY_AT - 8], "little")
    entry = int.from_bytes(view[wire.ENTRY_AT : wire.ENTRY_AT + 4], "little")
    released, at = wire.read_released(view)
    assert count == len(released)
    plan, at = wire.read_plan(view, at)
    names = ("kind", "seq", "call", "deadline", "entry", "place", "block", "length", "released", "plan", "body")
    return dict(zip(names, (kind, seq, call, deadline, entry, place, block, length, released, plan, message[at:])))


class Box:
    """Something with attributes."""


class GoldenMessages(unittest.TestCase):
    def test_what_the_host_writes_is_read_as_said(self) -> None:
        for message, said in lines("host"):
            with self.subTest(said):
                self.assertEqual(read(message), eval(said, dict(vars(wire))))

    def test_what_is_said_to_be_written_is_what_the_host_reads(self) -> None:
        with mock.patch("os.getpid", return_value=4242):
            for message, said in lines("worker"):
                with self.subTest(said):
                    self.assertEqual(eval(said, dict(vars(wire))), message)

    def test_plans_do_as_said_each_time_that_they_run(self) -> None:
        known = plans.Plans(lambda want: False, refs.RefTable(1 << 36))
        for message, said in [*lines("plan"), *lines("plan")]:
            with self.subTest(said):
                plan = known.find(message)
                names = {"run": plan.run, "want": plan.want, "box": Box(), "bag": {"b": 2}, "streams": streams, "contextlib": contextlib}
                self.assertIs(eval(said, names), True)

    def test_every_module_can_be_imported(self) -> None:
        for package, known in ((snakebridge_worker, "loop"), (snakebridge, "host")):
            names = [module.name for module in pkgutil.iter_modules(package.__path__)]
            self.assertIn(known, names)
            for name in names:
                importlib.import_module(f"{package.__name__}.{name}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
