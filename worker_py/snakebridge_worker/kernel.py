"""What the standard library does not say to the kernel: guards against outliving, and their checks."""

import ctypes
import fcntl
import functools
import os
import select
import signal
import struct
import sys

# Constants of the Linux interface; Python's own modules have them only if its build saw the right headers.
F_SETOWN = 8
F_SETSIG = 10
O_ASYNC = 0o20000
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
CLONE_FLAGS = {"CLONE_NEWNS": 0x0002_0000, "CLONE_NEWUSER": 0x1000_0000, "CLONE_NEWPID": 0x2000_0000}
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 19
CAPABILITY_VERSION = 0x2008_0522
MEMBARRIER_REGISTER_GLOBAL_EXPEDITED = 1 << 2
PROT_READ, PROT_WRITE = 1, 2
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x02, 0x10, 0x20
MFD_CLOEXEC = 1
MFD_ALLOW_SEALING = 2

# System calls that an old C library, which a portable build of Python may be linked to, has no name for.
# Since 5.1 numbers are the same on every architecture; the two older ones differ.
SYS_PIDFD_OPEN = 434
SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
SYS_MEMFD_CREATE = {"x86_64": 319, "aarch64": 279, "riscv64": 279, "ppc64le": 360, "s390x": 350}

POLL_HANGUP = select.POLLIN | select.POLLHUP | select.POLLERR | 0x2000  # POLLRDHUP


@functools.lru_cache(None)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: "int | bytes") -> int:
    converted = (argument if isinstance(argument, bytes) else ctypes.c_long(argument) for argument in arguments)
    result = getattr(_libc(), name)(*converted)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _number(table: "dict[str, int]") -> int:
    machine = os.uname().machine
    if machine not in table or sys.maxsize < 1 << 32:
        raise OSError(f"system call numbers of {machine} are not known")
    return table[machine]


def adopt_orphans() -> None:
    """What a descendant leaves behind becomes a child of this process, also after it forks (but not of its forks)."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Dies when the thread that forked this process ends; at once, if it has ended. `parent` is its `number()`:
    one outside of our PID namespace has none that `getppid` could tell.
    """
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if _parent("self") != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def outlive_parent() -> None:
    _call("prctl", PR_SET_PDEATHSIG, 0, 0, 0, 0)


def register_for_barriers() -> bool:
    """Lets the host order its reads of the control page after this process's writes; per exec."""
    try:
        _call("syscall", _number(SYS_MEMBARRIER), MEMBARRIER_REGISTER_GLOBAL_EXPEDITED, 0, 0)
    except OSError:
        return False
    return True


def pidfd_open(pid: int) -> int:
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _call("syscall", SYS_PIDFD_OPEN, pid, 0)


def memfd_create(name: str) -> int:
    """Memory that can be sealed."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)
    return _call("syscall", _number(SYS_MEMFD_CREATE), name.encode(), MFD_CLOEXEC | MFD_ALLOW_SEALING)


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    _call("fallocate", fd, mode, offset, size)


def arm(lifeline: int, group: int) -> None:
    """From now on the kernel kills the process group when the other end of the lifeline closes.

    It needs no thread, no lock and no handler, so nothing that Python code does delays it. The owner
    and the signal belong to the open file: they survive an exec.
    """
    fcntl.fcntl(lifeline, F_SETOWN, -group)
    fcntl.fcntl(lifeline, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | O_ASYNC)
    if hung_up(lifeline):  # before it was armed, so that no signal will come
        os.killpg(group, signal.SIGKILL)


def disarm(lifeline: int) -> None:
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) & ~O_ASYNC)


def hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, POLL_HANGUP)
    return bool(poll.poll(0))


def open_fds() -> "list[int]":
    # Listing opens descriptors of its own, which are listed and gone afterwards.
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def children() -> "list[int]":
    """The children of this process, which has one thread; those that have ended and are not reaped too."""
    try:
        with open("/proc/thread-self/children", "rb") as listing:
            found = [int(pid) for pid in listing.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        me = number()
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == me]
    # Where /proc is of a namespace around ours, theirs are not the numbers by which a child is waited for or killed.
    outer = len(numbers("self")) - 1
    return found if outer <= 0 else [numbers(pid)[outer] for pid in found]


def number() -> int:
    """This process, as /proc counts: from any PID namespace in it, the same."""
    return int(os.readlink("/proc/self"))


def numbers(pid: "int | str") -> "list[int]":
    """The numbers of a process that /proc shows: there, and in each PID namespace from there to its own."""
    with open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"NSpid:"):
                return [int(number) for number in line.split()[1:]]
    return []  # a kernel without such namespaces


def _parent(pid: "int | str") -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def kill(pid: int, spared: "frozenset[int]" = frozenset()) -> None:
    """Kills a child that was not reaped yet, with the process group it is in unless that is ours or spared."""
    try:
        group = os.getpgid(pid)
        # 0: one outside of our PID namespace.
        if group not in (0, os.getpgid(0)) and group not in spared:
            os.killpg(group, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # a zombie, or not ours to kill any more (it changed its user)


def unshare(*flags: str) -> None:
    try:
        _call("unshare", sum(CLONE_FLAGS[flag] for flag in flags))
    except OSError as error:
        raise OSError(error.errno, f"unshare({' | '.join(flags)}): {os.strerror(error.errno)}") from None


def setns(fd: int, flag: str) -> None:
    try:
        _call("setns", fd, CLONE_FLAGS[flag])
    except OSError as error:
        raise OSError(error.errno, f"setns({flag}): {os.strerror(error.errno)}") from None


def mount_proc() -> None:
    """From now on /proc shows the PID namespace that this process is in, to it and its descendants alone."""
    unshare("CLONE_NEWNS")
    # What is mounted outside still comes in here, and nothing goes out.
    _call("mount", b"none", b"/", b"", MS_REC | MS_SLAVE, 0)
    _call("mount", b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0)


def drop_capabilities() -> None:
    """For good: what is executed later, by the user 0 too, gets none of them back."""
    for capability in range(64):
        try:
            _call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError:
            break  # the kernel knows no more
    # The effective, the permitted and the inheritable ones, and with those the ambient ones.
    _call("capset", struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24))


def unshare_memory(address: int, size: int) -> None:
    """Makes shared pages private to this process, with what is in them."""
    kept = ctypes.string_at(address, size)
    mmap = _libc().mmap
    mmap.restype = ctypes.c_void_p
    mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
    if mmap(address, size, PROT_READ | PROT_WRITE, flags, -1, 0) != address:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap: {os.strerror(code)}")
    ctypes.memmove(address, kept, size)


def forbid_tracing() -> None:
    """No process of the same user may look into this one, or change it."""
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
