"""The PID namespace that a zygote may have for its workers: the making, its first process, and entering it.

The zygote itself stays outside, so that the numbers it tells are the host's. The kernel kills everything in the
namespace when the first process ends, which nothing inside can hinder, and nothing inside can leave it.
"""

import array
import errno
import json
import os
import select
import signal
import socket
import traceback
from typing import NoReturn

from snakebridge_worker import child, kernel

MESSAGE_LIMIT = 4096
MAX_FDS = 2
# What may forbid a namespace, and with which value.
SWITCHES = (
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ("user.max_user_namespaces", "0"),
    ("user.max_pid_namespaces", "0"),
)


class Refused(Exception):
    """There is no namespace to be had. `passes`: there may be one the next time."""

    def __init__(self, why: str, passes: bool) -> None:
        super().__init__(why)
        self.passes = passes


class PidNamespace:
    """What the zygote has of it: a socket to the first process, and descriptors by which it can be joined."""

    __slots__ = ("init", "socket", "fds")

    def __init__(self, init: int, fds: "list[int]") -> None:
        """`fds` are the socket, the namespace, and the user namespace that it took to make it, if it did."""
        for fd in fds:
            os.set_inheritable(fd, False)
        self.init = init
        self.socket = socket.socket(fileno=fds[0])
        self.socket.setblocking(False)
        self.fds = fds

    def join(self) -> None:
        """All children from now on are in it. Not before: the kernel gives no threads to a process whose children
        are elsewhere, and a preload may need some.
        """
        try:
            for fd, flag in reversed(list(zip(self.fds[1:], ("CLONE_NEWPID", "CLONE_NEWUSER")))):
                kernel.setns(fd, flag)
        except OSError as error:
            raise _refused(error) from None

    def tell(self, pid: int, pidfd: int) -> None:
        """A child was forked, whose death may leave something behind."""
        number = str(kernel.numbers(pid)[-1]).encode()
        self.socket.sendmsg([number], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))])

    def enter(self) -> None:
        """For a child, before any code of a user: it sees itself in /proc, and the user namespace gives it nothing."""
        try:
            kernel.mount_proc()
        except OSError:
            pass  # not in a container that masks parts of /proc: it stays the one of the host
        if len(self.fds) > 2:
            kernel.drop_capabilities()


def create(host: int) -> PidNamespace:
    """Makes one, with its first process, which is a child of ours. `host` is a pidfd."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # By its number it could not be found from inside.
    zygote = kernel.pidfd_open(os.getpid())
    try:
        maker = os.fork()
    except OSError as error:
        raise _refused(error) from None
    if maker == 0:
        try:
            _make(host, zygote, theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(child.FAILED)
    theirs.close()
    os.close(zygote)
    message, fds = _receive(ours)
    os.waitpid(maker, 0)
    made = json.loads(message or '{"why": "the process that was to make it ended", "passes": true}')
    if "why" in made:
        raise Refused(**made)
    return PidNamespace(made["init"], [ours.detach(), *fds])


def _make(host: int, zygote: int, zygote_socket: socket.socket) -> None:
    """In a process of its own, since none can take its own children back out."""
    try:
        flags = _unshare()
        init = os.fork()
    except OSError as error:
        refused = _refused(error)
        zygote_socket.send(json.dumps({"why": str(refused), "passes": refused.passes}).encode())
        os._exit(1)
    if init == 0:
        _Init(host, zygote, zygote_socket).run()
    fds = [os.open(f"/proc/self/ns/{file}", os.O_RDONLY) for file in ("pid_for_children", "user")[: len(flags)]]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    zygote_socket.sendmsg([json.dumps({"init": init}).encode()], rights)
    os._exit(0)


def _unshare() -> "tuple[str, ...]":
    """Answers what it took."""
    try:
        kernel.unshare("CLONE_NEWPID")
        return ("CLONE_NEWPID",)
    except PermissionError:
        pass
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare("CLONE_NEWUSER", "CLONE_NEWPID")
    # Who is mapped is the same inside, and nobody else is; the kernel wants this order.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"writing {name} of a user namespace: {error.strerror}") from None
    return ("CLONE_NEWPID", "CLONE_NEWUSER")


def _refused(error: OSError) -> Refused:
    forbidden = "; ".join(f"{switch} is {value}" for switch, value in SWITCHES if _sysctl(switch) == value)
    hint = forbidden or "a container, a sandbox or a security module may forbid it"
    why = f"no pid_namespace: {error.strerror} (it takes CAP_SYS_ADMIN, or user namespaces: {hint})"
    return Refused(why, error.errno in (errno.EAGAIN, errno.ENOMEM))


def _sysctl(name: str) -> "str | None":
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _receive(from_: socket.socket) -> "tuple[bytes, list[int]]":
    """The next message; an empty one is the end."""
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    message, rights, _, _ = from_.recvmsg(MESSAGE_LIMIT, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload)
    return message, list(fds)


class _Init:
    """The first process, which runs no code of a user. It ends, and everything with it, when the host is gone, or
    the zygote and all its workers are. Until then it kills what they leave behind: the kernel gives it to it.
    """

    __slots__ = ("host", "zygote", "socket", "woken", "poll", "workers")

    def __init__(self, host: int, zygote: int, zygote_socket: socket.socket) -> None:
        # What signals the zygote, in its own group, is none of its business.
        os.setpgid(0, 0)
        # From inside only a signal with a handler gets through to it, and nobody is to change its memory.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        kernel.forbid_tracing()
        child.close_all_but({0, 1, 2, host, zygote, zygote_socket.fileno()})
        self.woken, wakes = os.pipe()
        for end in (self.woken, wakes):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self.host = host
        self.zygote: "int | None" = zygote
        self.socket: "socket.socket | None" = zygote_socket
        zygote_socket.setblocking(False)
        self.poll = select.poll()
        for fd in (host, zygote, zygote_socket.fileno(), self.woken):
            self.poll.register(fd, select.POLLIN)
        # pidfd -> pid
        self.workers: "dict[int, int]" = {}

    def run(self) -> NoReturn:
        while True:
            ready = {fd for fd, _ in self.poll.poll()}
            if self.host in ready:
                os._exit(0)
            if self.woken in ready:
                os.read(self.woken, 4096)
            for pidfd in ready & self.workers.keys():
                self.poll.unregister(pidfd)
                os.close(pidfd)
                del self.workers[pidfd]
            if self.zygote in ready:
                self.poll.unregister(self.zygote)
                self.zygote = None
            # After its end, so that all is read that it wrote.
            while self.socket is not None and self.receive():
                pass
            if self.zygote is None and not self.workers:
                os._exit(0)
            self.reap()
            self.sweep()

    def receive(self) -> bool:
        """Takes one message of the zygote; answers whether there may be another."""
        try:
            message, fds = _receive(self.socket)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True  # told once, before the end
        if not message:
            self.poll.unregister(self.socket)
            self.socket = None
        for pidfd in fds:
            self.workers[pidfd] = int(message)
            self.poll.register(pidfd, select.POLLIN)
        return True

    def reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass

    def sweep(self) -> None:
        """Kills all that was adopted. What those leave behind comes here when they end, which SIGCHLD tells."""
        workers = frozenset(self.workers.values())
        for pid in kernel.children():
            kernel.kill(pid, spared=workers)
