"""What a zygote does before it forks anyone: its descriptors, `preload`, and proofs of what it relies on."""

import fcntl
import os
import select
import signal
import socket
import sys
import time

from snakebridge_worker import child, kernel, start
from snakebridge_worker.pid_namespace import PidNamespace

CONTROL, LIFELINE, HOST, BUNDLE = 3, 4, 5, 6
# How many characters of what went wrong are told, the last ones; each may take six bytes in a report.
REPORT_LIMIT = 10_000
# Libraries that start a thread per core when they are loaded, which no fork survives.
THREAD_LIMITS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
# How long a thread that was joined may still be listed.
THREAD_GRACE = 0.1
PROOF_LIMIT = 1.0


def settle(control: int, lifeline: int, host: int, bundle: int, kept: "list[int]") -> None:
    """Gives the descriptors their fixed numbers, and closes whatever else the host let leak but for those `kept`."""
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (control, lifeline, host, bundle)]
    child.close_all_but({0, 1, 2, *above, *kept})
    for fd, number in zip(above, (CONTROL, LIFELINE, HOST, BUNDLE)):
        os.dup2(fd, number, inheritable=False)
        os.close(fd)


def preload(modules: "list[str]") -> "tuple[str | None, str | None]":
    """Answers what failed, and why the result cannot be forked."""
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    os.environ.update(dict.fromkeys(THREAD_LIMITS, "1"))
    threaded = None
    failure = None
    for name in modules:
        failure = start.preload([name])
        if failure is not None:
            break
        if threaded is None and kernel.threads() > 1:
            threaded = name
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    deadline = time.monotonic() + THREAD_GRACE
    while kernel.threads() > 1:
        if time.monotonic() > deadline:
            return failure, f"{threaded or 'the start of Python'} leaves {kernel.threads()} threads running"
        time.sleep(0.001)
    if any(target.startswith("/dev/nvidia") for target in map(fd_target, kernel.open_fds())):
        return failure, "a preloaded module has initialised the CUDA driver"
    return failure, None


def fd_target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def probe(modules: "list[str]", namespace: "PidNamespace | None") -> "str | None":
    """Tries `preload` in a throw-away child, so that a bad one is told at the start and not by each worker."""
    if not modules:
        return None
    parent = kernel.number()
    reader, writer = os.pipe()
    flush()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.die_with_parent(parent)
            if namespace is not None:
                namespace.enter()
            failure = start.preload(modules)
            os.write(writer, (failure or "")[-REPORT_LIMIT:].encode(errors="backslashreplace"))
            flush()
            os._exit(1 if failure else 0)
        finally:
            os._exit(child.FAILED)
    os.close(writer)
    if namespace is not None:
        pidfd = kernel.pidfd_open(pid)
        namespace.tell(pid, pidfd)
        os.close(pidfd)
    with open(reader, "rb") as pipe:
        # Not to the end of the pipe: a process that a module started may hold it open.
        _, status = os.waitpid(pid, 0)
        os.set_blocking(pipe.fileno(), False)
        failure = (pipe.read() or b"").decode()
    kill_children(namespace)
    if status != 0 and not failure:
        code = os.waitstatus_to_exitcode(status)
        return f"preload of {', '.join(modules)} ended Python: " + (f"exit status {code}" if code >= 0 else f"signal {-code}")
    return failure or None


def execute_anew(bundle: dict, because: str, namespace: "PidNamespace | None") -> None:
    """Starts over in a clean process, one that may be forked; its guards and descriptors stay."""
    kill_children(namespace)
    flush()
    fds = [BUNDLE, CONTROL, LIFELINE, HOST]
    of_namespace = [] if namespace is None else namespace.fds
    for fd in (*fds, *of_namespace):
        os.set_inheritable(fd, True)
    executable = os.fsdecode(bytes.fromhex(bundle["spec"]["executable"]))
    arguments = [*map(str, fds), because, *([] if namespace is None else map(str, (namespace.init, *of_namespace)))]
    os.execv(executable, [executable, "-S", "-c", bundle["bootstrap"], *arguments])


def kill_children(namespace: "PidNamespace | None") -> None:
    """What a preload has started."""
    for pid in kernel.children():
        if namespace is None or pid != namespace.init:
            kernel.kill(pid)


def hold_standard_fds() -> None:
    """A module may have closed some: their numbers must not go to what is opened or received later."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def lifeline_works() -> bool:
    """Whether the kernel kills a throw-away child when its lifeline closes: some sandboxes do not."""
    parent = kernel.number()
    here, there = socket.socketpair()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            here.close()
            os.close(reader)
            kernel.die_with_parent(parent)
            os.setpgid(0, 0)
            kernel.arm(there.fileno(), os.getpid())
            os.write(writer, b"x")
            time.sleep(2 * PROOF_LIMIT)
        finally:
            os._exit(0)
    there.close()
    os.close(writer)
    pidfd = kernel.pidfd_open(pid)
    armed = os.read(reader, 1) == b"x"
    os.close(reader)
    here.close()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    died = bool(poll.poll(PROOF_LIMIT * 1000))
    os.close(pidfd)
    if not died:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return armed and died and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def flush() -> None:
    """What is buffered would else be written again by each child."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # a preload may have closed it, or put anything in its place
