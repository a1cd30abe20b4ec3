"""Where an executed interpreter begins, as a zygote or as one worker: everything that comes before any user code."""

import importlib
import os
import signal
import site
import sys
import traceback


def main(bundle: dict, arguments: "list[str]") -> None:
    """`BUNDLE worker NAME REF_BASE` is a worker, `BUNDLE CONTROL LIFELINE HOST` (descriptors) a zygote, with
    `REASON [INIT FD…]` one that has executed itself, and what it has of its PID namespace.
    """
    reset_signals()
    if arguments[1] == "worker":
        from snakebridge_worker import child

        child.executed(bundle["spec"], int(arguments[0]), arguments[2], int(arguments[3]))
    else:
        from snakebridge_worker import zygote

        fds = [int(fd) for fd in arguments[:4]]
        reason = arguments[4] if len(arguments) > 4 else None
        zygote.main(bundle, fds, reason, [int(number) for number in arguments[5:]])


def reset_signals() -> None:
    """Dispositions as in a shell, whatever the host ignores: an ignored SIGCHLD would reap children by itself."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def set_up_path(spec: dict) -> None:
    """The site's directories, virtual environments and PYTHONPATH as usual, `python_path` in front, never the cwd."""
    try:
        site.main()
    except BaseException:  # a broken sitecustomize costs a message, as in Python itself, and not the worker
        print("snakebridge: setting up site-packages failed:", file=sys.stderr)
        traceback.print_exc()
    sys.path[:] = [entry for entry in sys.path if entry]
    sys.path[:0] = [os.fsdecode(bytes.fromhex(entry)) for entry in spec["python_path"]]


def preload(modules: "list[str]") -> "str | None":
    """Imports modules; answers what went wrong, in Python's own words."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # SystemExit too: a module may try to end the process
            lines = traceback.format_exception(type(error), error, error.__traceback__.tb_next)
            return f"preload of {name!r} failed:\n{''.join(lines)}"
    return None
