#!/usr/bin/env python3
"""Who loses, hangs or leaves what: the same deaths in pools of processes, one row for each.

    python3 benches/deaths/peers.py [peer ...]

Makes a virtual environment in a temporary folder with loky and Ray from PyPI, and builds the host of
snakebridge with cargo. Each cell of the table is a host program of its own, with a pool of two workers; it
is found with all that it started by a mark in the environment. Prints a line of JSON for each, then the
table in Markdown.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
MARK = "SNAKEBRIDGE_DEATHS_MARK"
PEERS = ["snakebridge", "multiprocessing.Pool", "ProcessPoolExecutor", "loky", "ray"]
#: A task that has not answered by then is taken for lost: each is over in a second or two.
PATIENCE = 10.0
#: What a host that was killed leaves is counted after so many seconds.
AFTER_DEATH = (1.0, 10.0)

#: Each with what it shows. A task that is run beside the one that dies, one that waits, and one that
#: comes later tell what the death did to others.
CASES = {
    "exits": "a task calls `os._exit(3)`",
    "segfaults": "a task reads address 0",
    "leaves": "a task calls `sys.exit(0)`",
    "raises_what_does_not_unpickle": "a task raises what cannot be unpickled",
    "returns_what_does_not_pickle": "a task returns what cannot be pickled",
    "kill_idle": "an idle worker gets SIGKILL",
    "stop_idle": "an idle worker gets SIGSTOP",
    "endless": "a task loops for ever, and is given up",
    "child": "a task leaves a child process",
    "daemon": "a task leaves a daemon",
    "host_idle": "the host gets SIGKILL, idle",
    "host_busy": "the host gets SIGKILL, its tasks running",
    "host_daemon": "the host gets SIGKILL, a task has left a daemon",
}


# -- the hosts of the peers ---------------------------------------------------------------------------


class Pool:
    """`multiprocessing.Pool`."""

    def __init__(self):
        import multiprocessing

        self.pool = multiprocessing.get_context("spawn").Pool(2)

    def submit(self, task, *args):
        return self.pool.apply_async(task, args)

    def result(self, handle, within):
        return handle.get(within)

    def give_up(self, handle):
        """There is no way to."""

    def close(self):
        self.pool.terminate()
        self.pool.join()


class Executor:
    """`concurrent.futures.ProcessPoolExecutor`."""

    def __init__(self):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))

    def submit(self, task, *args):
        return self.pool.submit(task, *args)

    def result(self, handle, within):
        return handle.result(within)

    def give_up(self, handle):
        handle.cancel()

    def close(self):
        self.pool.shutdown(cancel_futures=True)


class Loky(Executor):
    """loky, its reusable executor: the one that comes back after a death."""

    def __init__(self):
        self.submit(int)

    def submit(self, task, *args):
        import loky

        self.pool = loky.get_reusable_executor(max_workers=2, timeout=600)
        return self.pool.submit(task, *args)

    def close(self):
        self.pool.shutdown(wait=True, kill_workers=True)


class Ray:
    """Ray's tasks, without retries: a task that died has maybe done its work."""

    def __init__(self):
        import logging

        import ray

        self.ray = ray
        path = {"PYTHONPATH": HERE}
        ray.init(num_cpus=2, logging_level=logging.ERROR, include_dashboard=False, log_to_driver=False,
                 runtime_env={"env_vars": path})

    def submit(self, task, *args):
        return self.ray.remote(max_retries=0)(task).remote(*args)

    def result(self, handle, within):
        return self.ray.get(handle, timeout=within)

    def give_up(self, handle):
        self.ray.cancel(handle, force=True)

    def close(self):
        self.ray.shutdown()


HOSTS = {"multiprocessing.Pool": Pool, "ProcessPoolExecutor": Executor, "loky": Loky, "ray": Ray}


def outcome(pool, handle, within=PATIENCE):
    begin = time.monotonic()
    try:
        pool.result(handle, within)
        how = "value"
    except BaseException as error:
        is_late = time.monotonic() - begin >= within - 0.1
        how = "none" if is_late else type(error).__name__
    return {"how": how, "after": round(time.monotonic() - begin, 2)}


def submitted(pool, task, *args):
    """As a call that a broken pool refuses at once is an outcome too."""
    try:
        return outcome(pool, pool.submit(task, *args))
    except BaseException as error:
        return {"how": type(error).__name__, "after": 0.0}


def several(pool, count, task, *args):
    """Tasks at once: the outcome of the one that fared worst."""
    try:
        handles = [pool.submit(task, *args) for _ in range(count)]
    except BaseException as error:
        return {"how": type(error).__name__, "after": 0.0}
    return max((outcome(pool, handle) for handle in handles), key=lambda told: told["how"] != "value")


def host(peer, case):
    """The program that dies, or sees its workers die. Speaks JSON on stdout."""
    sys.path.insert(0, HERE)
    import tasks

    pool = HOSTS[peer]()
    pids = pids_of(pool, tasks)
    say = {}
    if case in ("exits", "segfaults", "leaves", "raises_what_does_not_unpickle", "returns_what_does_not_pickle"):
        victim = pool.submit(getattr(tasks, case), 0.5)
        beside = pool.submit(tasks.sleep, 1.5)
        waiting = pool.submit(tasks.value, 1)
        say["victim"] = outcome(pool, victim)
        say["beside"] = outcome(pool, beside)
        say["waiting"] = outcome(pool, waiting)
        say["next"] = submitted(pool, tasks.value, 2)
    elif case in ("kill_idle", "stop_idle"):
        os.kill(pids[0], signal.SIGKILL if case == "kill_idle" else signal.SIGSTOP)
        time.sleep(0.3)
        say["next"] = several(pool, 4, tasks.sleep, 0.2)
    elif case == "endless":
        stuck = pool.submit(tasks.endless)
        time.sleep(1)
        pool.give_up(stuck)
        time.sleep(4)
        begin = time.monotonic()
        both = several(pool, 2, tasks.sleep, 1.0)
        took = round(time.monotonic() - begin, 2)
        say["next"] = {"how": "**one worker less**", "after": took} if both["how"] == "value" and took > 1.8 else both
    elif case == "child":
        pool.result(pool.submit(tasks.starts_a_child), PATIENCE)
    elif case in ("daemon", "host_daemon"):
        pool.result(pool.submit(tasks.starts_a_daemon), PATIENCE)
    elif case == "host_busy":
        for _ in range(2):
            pool.submit(tasks.endless)
        time.sleep(0.5)
    print(json.dumps(say), flush=True)
    if case.startswith("host_"):
        signal.pause()
    pool.close()
    print("closed", flush=True)


def pids_of(pool, tasks):
    """Both workers, each of which has run something."""
    pids = set()
    while len(pids) < 2:
        for handle in [pool.submit(tasks.sleep, 0.2) for _ in range(2)]:
            pids.add(pool.result(handle, 60))
    return sorted(pids)


# -- the watch over them ------------------------------------------------------------------------------


def marked(mark):
    """The processes that have the mark in their environment, zombies not counted."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if mark.encode() in environ.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def run(command, peer, case):
    mark = f"{peer}-{case}-{uuid.uuid4()}"
    environment = dict(os.environ, **{MARK: mark})
    program = subprocess.Popen(command + [case], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    os.set_blocking(program.stdout.fileno(), False)
    row = {"peer": peer, "case": case}
    said = []
    listen(program, said, 90, 1)
    row.update(json.loads(said[0]) if said else {"host": "said nothing in 90 s"})
    if case.startswith("host_"):
        program.kill()
        program.wait()
        row["left"] = {}
        begin = time.monotonic()
        for after in AFTER_DEATH:
            time.sleep(max(0.0, begin + after - time.monotonic()))
            row["left"][f"{after:g} s"] = len(marked(mark))
    else:
        listen(program, said, 20, 2)
        row["closes"] = "closed" in said
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            row["closes"] = False
        time.sleep(1)
        row["left"] = {"1 s": len([pid for pid in marked(mark) if pid != program.pid])}
    program.kill()
    program.wait()
    for _ in range(20):
        for pid in marked(mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    print(json.dumps(row), flush=True)
    return row


def listen(program, said, within, count):
    """Reads on until the program has said so many lines, or ends."""
    until = time.monotonic() + within
    while len(said) < count and time.monotonic() < until:
        is_over = program.poll() is not None
        # A line is written whole; some libraries have lines of their own.
        lines = (program.stdout.read() or b"").decode().splitlines()
        said.extend(line for line in lines if line == "closed" or line.startswith("{"))
        if is_over:
            break
        time.sleep(0.02)


def told(row):
    """A cell of the table: what became of it, and of others where that is not what it should be."""
    if "host" in row:
        return f"**{row['host']}**"
    parts = []
    if "victim" in row:
        how = row["victim"]["how"]
        parts.append(f"**{became(how)}**" if how == "none" else became(how))
    others = {}
    for who, name in (("beside", "what runs beside it"), ("waiting", "what waits"), ("next", "the next")):
        if who in row and row[who]["how"] != "value":
            others.setdefault(row[who]["how"], []).append(name)
    parts += [f"**{', '.join(names)}: {became(how)}**" for how, names in others.items()]
    if row.get("closes") is False:
        parts.append("**the pool does not close**")
    left = [f"{count} after {when}" for when, count in row["left"].items() if count]
    if left:
        parts.append(f"**processes left: {', '.join(left)}**")
    return "; ".join(parts) or "all is well"


def became(how):
    return {"none": f"no answer in {PATIENCE:g} s", "value": "served"}.get(how, how.strip("*") if "*" in how else f"`{how}`")


def main():
    peers = sys.argv[1:] or PEERS
    folder = tempfile.mkdtemp(prefix="snakebridge-deaths-")
    rows = {}
    try:
        python = sys.executable
        if {"loky", "ray"} & set(peers):
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            python = os.path.join(folder, "bin", "python")
            subprocess.run([python, "-m", "pip", "-q", "install", "loky", "ray"], check=True)
        for peer in peers:
            command = [python, os.path.abspath(__file__), "host", peer]
            if peer == "snakebridge":
                command = [built()]
            for case in CASES:
                rows[peer, case] = run(command, peer, case)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n| | {' | '.join(peers)} |\n|---|{'---|' * len(peers)}")
    for case, what in CASES.items():
        print(f"| {what} | {' | '.join(told(rows[peer, case]) for peer in peers)} |")


def built():
    """The host of snakebridge, which plays the same cases."""
    command = ["cargo", "bench", "--bench", "deaths", "--no-run", "--message-format=json"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=HERE)
    for line in made.stdout.splitlines():
        artefact = json.loads(line)
        if artefact.get("executable") and artefact["target"]["name"] == "deaths":
            return artefact["executable"]
    raise SystemExit("cargo has built no program named deaths")


if __name__ == "__main__":
    if sys.argv[1:2] == ["host"]:
        host(*sys.argv[2:])
    else:
        main()
