"""The zygote: loads `preload` once, forks workers, reaps and reports them, and leaves nothing behind.

It runs no user calls and has one thread. Until it is ready its own lifeline, which was armed before it
was executed, kills it; then it watches the host, and when the host is gone it first kills every descendant.
"""

import array
import collections
import errno
import gc
import json
import os
import select
import signal
import socket
import time
import traceback
from typing import NoReturn

from snakebridge_worker import child, kernel, pid_namespace, prepare, start
from snakebridge_worker.pid_namespace import PidNamespace, Refused
from snakebridge_worker.prepare import BUNDLE, CONTROL, HOST, LIFELINE

MAX_FDS = 8
REQUEST_LIMIT = 64 * 1024


def main(bundle: dict, fds: "list[int]", exec_because: "str | None", namespace_before: "list[int]") -> None:
    bundle_fd, control, lifeline, host = fds
    spec = bundle["spec"]
    prepare.settle(control, lifeline, host, bundle_fd, kept=namespace_before[1:])
    kernel.adopt_orphans()
    channel = socket.socket(fileno=CONTROL)
    namespace = None
    try:
        if namespace_before:
            namespace = PidNamespace(namespace_before[0], namespace_before[1:])
        elif spec["pid_namespace"]:
            # Before anything else runs, so that no code of a user is in its first process.
            namespace = pid_namespace.create(HOST)
        start.set_up_path(spec)
        spec["exec"] = spec["exec"] or exec_because is not None
        failure = None
        if not spec["exec"]:
            # The loop too: each fork would else compile it again.
            failure, exec_because = prepare.preload(["snakebridge_worker.loop", *spec["preload"]])
            if failure is None and exec_because is not None:
                prepare.execute_anew(bundle, exec_because, namespace)
        if failure is None and namespace is not None:
            namespace.join()
        if spec["exec"]:
            failure = prepare.probe(spec["preload"], namespace)
    except Refused as refused:
        fail(channel, str(refused), permanent=not refused.passes, namespace=namespace)
    if failure is not None:
        fail(channel, failure, permanent=True, namespace=namespace)
    prepare.hold_standard_fds()
    # A module may ignore SIGCHLD, which has the kernel reap our children, or reap them in a handler.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    spec["lifeline"] = spec["lifeline"] and prepare.lifeline_works()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    zygote = Zygote(bundle, channel, namespace)
    # The host is watched from here on, so that its death costs no descendant its killer.
    kernel.disarm(LIFELINE)
    kernel.outlive_parent()
    if os.getppid() != spec["host"]:
        zygote.end()
    ready = {"lifeline": spec["lifeline"], "exec_because": exec_because, "pid_namespace": namespace is not None}
    zygote.report({"ready": ready}, None if namespace is None else kernel.pidfd_open(namespace.init))
    zygote.run()


def fail(channel: socket.socket, what: str, permanent: bool, namespace: "PidNamespace | None") -> NoReturn:
    """Tells the host why there will be no zygote."""
    prepare.flush()
    if namespace is not None:
        kill_all()  # its first process would have to be reaped by somebody else
    channel.send(encode({"failed": {"permanent": permanent, "what": what[-prepare.REPORT_LIMIT:]}}))
    os._exit(1)


def kill_all() -> None:
    """Kills until nothing is left, what is adopted meanwhile too. With the first process of a PID namespace
    the kernel kills all that is in there.
    """
    pause = 0.0005
    while True:
        for pid in kernel.children():
            kernel.kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def encode(report: dict) -> bytes:
    return json.dumps(report, ensure_ascii=False).encode(errors="backslashreplace")


class Zygote:
    """The one loop."""

    __slots__ = ("bundle", "namespace", "control", "outbox", "poll", "workers", "strays", "kept_children", "kept_fds")

    def __init__(self, bundle: dict, control: socket.socket, namespace: "PidNamespace | None") -> None:
        self.bundle = bundle
        self.namespace = namespace
        self.control = control
        self.control.setblocking(False)
        self.outbox: "collections.deque[tuple[bytes, int | None]]" = collections.deque()
        # pidfd -> (pid, the id that the host gave it)
        self.workers: "dict[int, tuple[int, int]]" = {}
        # pidfd -> pid of what dead workers left behind
        self.strays: "dict[int, int]" = {}
        # What preloaded modules started belongs to all workers, and lives as long as the zygote; so does the first
        # process of the PID namespace.
        self.kept_children = frozenset(kernel.children())
        ours = {0, 1, 2, CONTROL, LIFELINE, HOST, BUNDLE}.union(namespace.fds if namespace is not None else ())
        self.kept_fds = frozenset(kernel.open_fds()) - ours
        self.poll = select.poll()
        self.poll.register(CONTROL, select.POLLIN)
        self.poll.register(LIFELINE, kernel.POLL_HANGUP)
        self.poll.register(HOST, select.POLLIN)
        if namespace is not None:
            self.poll.register(namespace.socket, kernel.POLL_HANGUP)

    def run(self) -> None:
        gc.collect()
        gc.freeze()
        prepare.flush()
        while True:
            ready = self.poll.poll()
            if any(fd in (LIFELINE, HOST) for fd, _ in ready):
                self.end()
            if self.namespace is not None and any(fd == self.namespace.socket.fileno() for fd, _ in ready):
                # It took the workers with it, and nothing can be forked any more.
                os.write(2, b"snakebridge: the first process of the PID namespace ended\n")
                self.end()
            for fd, event in ready:
                if fd != CONTROL:
                    self.reap(fd)
                elif event & ~select.POLLOUT:
                    self.receive()
            self.send()

    def receive(self) -> None:
        """Takes one fork request; the others stay in the socket, so that deaths are told in between."""
        room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            request, rights, _, _ = self.control.recvmsg(REQUEST_LIMIT, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.end()
        if not request:
            self.end()
        fds = array.array("i")
        for level, kind, payload in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload)
        try:
            request = json.loads(request)
            if len(fds) == child.REQUESTED:
                self.fork(request, list(fds))
            else:  # the kernel dropped what does not fit under our limit
                self.report({"fork_failed": {"id": request["id"], "why": "the zygote is out of descriptors"}})
        finally:
            for fd in fds:
                os.close(fd)

    def fork(self, request: dict, fds: "list[int]") -> None:
        me = kernel.number()
        try:
            pid = os.fork()
        except OSError as error:
            return self.report({"fork_failed": {"id": request["id"], "why": f"fork: {error.strerror}"}})
        if pid == 0:
            try:
                child.forked(self.bundle, BUNDLE, request, fds, self.kept_fds, me, self.namespace)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(child.FAILED)
        try:
            os.setpgid(pid, pid)  # the child does so too: whichever comes first
        except OSError:
            pass
        opened = []
        try:
            opened.append(pidfd := kernel.pidfd_open(pid))
            opened.append(told := os.dup(pidfd))
            if self.namespace is not None:
                self.namespace.tell(pid, pidfd)
        except OSError as error:
            kernel.kill(pid)
            os.waitpid(pid, 0)
            for fd in opened:
                os.close(fd)
            return self.report({"fork_failed": {"id": request["id"], "why": f"pidfd: {error.strerror}"}})
        self.workers[pidfd] = (pid, request["id"])
        self.poll.register(pidfd, select.POLLIN)
        self.report({"forked": {"id": request["id"], "pid": pid}}, told)

    def reap(self, pidfd: int) -> None:
        pid, id_ = self.workers[pidfd] if pidfd in self.workers else (self.strays[pidfd], None)
        reaped, status, usage = os.wait4(pid, os.WNOHANG)
        if reaped == 0:
            return
        self.poll.unregister(pidfd)
        os.close(pidfd)
        if id_ is None:
            del self.strays[pidfd]
        else:
            del self.workers[pidfd]
            self.report({"exited": {"id": id_, "status": status, "max_rss": usage.ru_maxrss * 1024}})
        self.sweep()

    def sweep(self) -> None:
        """Kills every child that was not forked here: it was adopted from a worker that is dead."""
        workers = frozenset(pid for pid, _ in self.workers.values())
        known = self.kept_children.union(self.strays.values(), workers)
        for pid in kernel.children():
            if pid not in known:
                kernel.kill(pid, spared=workers)
                try:
                    pidfd = kernel.pidfd_open(pid)
                except OSError:
                    continue  # out of descriptors: it is dead, and the next sweep reaps it
                self.strays[pidfd] = pid
                self.poll.register(pidfd, select.POLLIN)

    def report(self, report: dict, fd: "int | None" = None) -> None:
        self.outbox.append((encode(report), fd))
        self.send()

    def send(self) -> None:
        """Sends what the host takes; never waits, or the zygote could not see the host die."""
        while self.outbox:
            report, fd = self.outbox[0]
            rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            try:
                self.control.sendmsg([report], rights)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    break
                if error.errno in (errno.ENOBUFS, errno.ETOOMANYREFS):
                    time.sleep(0.001)  # it passes, and the socket would not tell when
                    break
                self.end()
            if fd is not None:
                os.close(fd)
            self.outbox.popleft()
        self.poll.modify(CONTROL, select.POLLIN | select.POLLOUT if self.outbox else select.POLLIN)

    def end(self) -> NoReturn:
        """The host is gone, or wants an end."""
        kill_all()
        os._exit(0)
