"""From a fork, or an exec, to the worker's loop. Nothing here ever returns into the zygote."""

import faulthandler
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from snakebridge_worker import kernel, start
from snakebridge_worker.page import Page

if TYPE_CHECKING:
    from snakebridge_worker.pid_namespace import PidNamespace

CHANNEL, SIDE, LIFELINE, PAGE = 3, 4, 5, 6
# How many descriptors a fork request carries: these, stdout and stderr.
REQUESTED = 6
# Only between the fork and the exec of a worker that is executed.
BUNDLE = 7
# The exit status of a worker that could not be set up; its stderr says why.
FAILED = 70


def forked(
    bundle: dict,
    bundle_fd: int,
    request: dict,
    fds: "list[int]",
    kept: "frozenset[int]",
    zygote: int,
    namespace: "PidNamespace | None",
) -> None:
    """Becomes the worker that was asked for. `kept` are descriptors that preloaded modules hold; all else is closed."""
    spec = bundle["spec"]
    channel, side, lifeline, page, stdout, stderr = fds
    os.setpgid(0, 0)
    if spec["lifeline"]:
        kernel.arm(lifeline, os.getpid())
    else:
        kernel.die_with_parent(zygote)
    if namespace is not None:
        namespace.enter()
    kernel.adopt_orphans()
    # What arrives is numbered above the zygote's own descriptors, whose numbers are taken over here.
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    bundle_fd = os.dup(bundle_fd)
    for fd, number in ((channel, CHANNEL), (side, SIDE), (lifeline, LIFELINE), (page, PAGE)):
        os.dup2(fd, number, inheritable=spec["exec"])
    if spec["exec"]:
        os.dup2(bundle_fd, BUNDLE)
        os.set_inheritable(BUNDLE, True)  # dup2 to its own number changes nothing
        close_all_but({0, 1, 2, CHANNEL, SIDE, LIFELINE, PAGE, BUNDLE})
        executable = os.fsdecode(bytes.fromhex(spec["executable"]))
        arguments = [str(BUNDLE), "worker", request["worker"], str(request["ref_base"])]
        os.execv(executable, [executable, "-S", "-c", bundle["bootstrap"], *arguments])
    close_all_but({0, 1, 2, CHANNEL, SIDE, LIFELINE, PAGE} | kept)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # `random` does this by itself, numpy's global generator does not
        numpy_random.seed()
    run(spec, request["worker"], request["ref_base"])


def executed(spec: dict, bundle_fd: int, worker: str, ref_base: int) -> None:
    """The same, in an interpreter of its own: its guards are already set, before the exec, and survive it."""
    os.close(bundle_fd)
    for fd in (CHANNEL, SIDE, LIFELINE, PAGE):
        os.set_inheritable(fd, False)
    start.set_up_path(spec)
    failure = start.preload(spec["preload"])
    if failure is not None:
        print(failure, file=sys.stderr)
        os._exit(FAILED)
    run(spec, worker, ref_base)


def run(spec: dict, worker: str, ref_base: int) -> None:
    """Hands over to the loop; exits when it returns or raises."""
    status = FAILED
    try:
        faulthandler.enable(file=2)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.reconfigure(line_buffering=True, errors="backslashreplace")
            except Exception:
                pass  # a preload may have closed it, or put anything in its place
        page = Page(PAGE)
        if kernel.register_for_barriers():
            page.set_fenced()
        from snakebridge_worker import loop

        loop.main(CHANNEL, SIDE, page, worker, ref_base, spec["concurrency"], spec["init"])
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        status = 1
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:
                pass
        os._exit(status & 0xFF)


def close_all_but(kept: "set[int]") -> None:
    for fd in kernel.open_fds():
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass
