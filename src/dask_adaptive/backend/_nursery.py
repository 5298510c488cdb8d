"""The helper process of the local backend: starts workers, reads what they print, ends them, tells when they ended.

It is a program, run by path as ``python _nursery.py FD OPTIONS``, stays single-threaded, and imports nothing of this
package. With everything of Dask imported once, it forks a child per worker that goes on into the ordinary
``dask worker`` command line; that is why a worker starts in a fraction of the time that a new interpreter needs.

Protocol: JSON lines over a socket pair. The owner says:

    {"op": "start", "call": 1, "environment": {...}, "path": [...], "directory": "...", "jobs": [JOB, ...]}
        where JOB is {"number": 1, "log": "FILE", "memory_bytes": 0, "limit_bytes": 0, "workers": [WORKER, ...]}
        and WORKER is {"argv": [...], "environment": {...}}
    {"op": "cancel", "numbers": [1, ...]}

``argv`` starts with the interpreter to execute, or with null to fork. The helper says:

    {"op": "started", "call": 1, "groups": {"1": PGID, ...}, "error": ""}       0 for a job that could not start
    {"op": "changed" | "ending" | "ended", "number": 1, "reason": "...", "exit_code": null}

A job is one process group. It is *ending* once it was told to end or all its workers have exited, and *ended* when no
process of its group is left. The end of the socket, or of the owner, ends every job and then the helper.

Should the helper itself be killed, then (Linux) its workers die with it, and a second, tiny process (the guard) kills
whatever else their groups contain.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TICK_S = 0.1  # the interval at which Dask's nanny looks at memory
POLL_S = 0.02  # while a group is ending: nothing tells us when its last process is gone
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Born(BaseException):
    """Carries a forked child out of the helper's loop, so that nothing of the helper is left on its stack."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work


class Log:
    """What a job printed: the newest ``limit`` bytes at least, twice that at most, in two files."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.size = 0
        self.file = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, data: bytes) -> None:
        """Add to the log. A full disk loses output, never a worker."""
        with contextlib.suppress(OSError):
            if self.size + len(data) > self.limit:
                self.path.replace(self.path.with_suffix(".old"))
                full, self.file, self.size = self.file, self._open(), 0
                os.close(full)
            self.size += os.write(self.file, data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.file)


@dataclass
class Job:
    """One process group; ``pids`` are those of its workers that have not been reaped."""

    number: int
    pipe: int
    log: Log
    memory_bytes: int
    limit_bytes: int
    group: int = 0
    pids: set[int] = field(default_factory=set)
    exit_codes: list[int] = field(default_factory=list)
    reason: str = ""
    kill_at: float | None = None
    """When what is left of it is killed; None as long as nobody told it to end."""


def describe(exit_code: int) -> str:
    """The end of a process in words: ``exit code 1``, ``killed by signal 9 (SIGKILL)``."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    with contextlib.suppress(ValueError):
        return f"killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"killed by signal {-exit_code}"


def send_signal(group: int, signum: int) -> bool:
    """Signal a process group (0 only asks); False when there is no such group any more."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS answers so for a group of zombies; elsewhere the number belongs to somebody else
        return False
    return True


def control_process(option: int, value: int) -> None:
    """Linux's prctl; does nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class Nursery:
    """The helper's loop: one selector, no thread, no call that can block on what a worker does."""

    def __init__(self, control: socket.socket, guard: int, options: dict[str, Any]) -> None:
        self.control = control
        self.guard = guard
        self.grace_s: float = options["grace_s"]
        self.log_bytes: int = options["log_bytes"]
        self.owner: int = options["owner"]
        self.jobs: dict[int, Job] = {}
        self.incoming = b""
        self.outgoing = b""
        self.closing = False
        self.next_tick = 0.0
        self.selector = selectors.DefaultSelector()
        self.wakeup, self.waker = socket.socketpair()
        for end in (self.control, self.wakeup, self.waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for signum in SIGNALS:
            signal.signal(signum, lambda *_: None)
        self.selector.register(self.control, selectors.EVENT_READ, self.receive)
        self.selector.register(self.wakeup, selectors.EVENT_READ, self.signalled)

    def run(self) -> None:
        """Until the owner is gone and every job has ended."""
        while self.jobs or not self.closing:
            for key, _ in self.selector.select(self.pause_s()):
                key.data()
            now = time.monotonic()
            if now >= self.next_tick:
                self.next_tick = now + TICK_S
                self.tick()
            for job in list(self.jobs.values()):
                self.advance(job, now)
            self.flush()

    def pause_s(self) -> float:
        if any(job.kill_at is not None for job in self.jobs.values()):
            return POLL_S
        return TICK_S if any(job.limit_bytes for job in self.jobs.values()) else 1.0

    # --- the owner ---

    def receive(self) -> None:
        try:
            data = self.control.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self.incoming = (self.incoming + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "start":
                self.start(message)
            else:
                for number in message["numbers"]:
                    self.end(number, "cancelled")

    def say(self, **message: Any) -> None:
        self.outgoing += json.dumps(message).encode() + b"\n"

    def flush(self) -> None:
        """Send what the socket takes now; the owner may be slow to read, or gone."""
        with contextlib.suppress(OSError):
            while self.outgoing:
                self.outgoing = self.outgoing[self.control.send(self.outgoing) :]
        if self.closing:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        self.selector.modify(self.control, wanted, self.receive)

    def close(self) -> None:
        """The owner is gone: end everything."""
        if not self.closing:
            self.closing = True
            self.selector.unregister(self.control)
            for number in list(self.jobs):
                self.end(number, "its owner is gone")

    # --- starting ---

    def start(self, message: dict[str, Any]) -> None:
        groups: dict[int, int] = {}
        error = ""
        for wanted in message["jobs"]:
            groups[wanted["number"]] = 0
            try:
                groups[wanted["number"]] = 0 if error else self.start_job(wanted, message)
            except OSError as problem:
                error = str(problem)
        self.say(op="started", call=message["call"], groups=groups, error=error)

    def start_job(self, wanted: dict[str, Any], message: dict[str, Any]) -> int:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        try:
            log = Log(Path(wanted["log"]), self.log_bytes)
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        job = Job(wanted["number"], reader, log, wanted["memory_bytes"], wanted["limit_bytes"])
        self.jobs[job.number] = job
        self.selector.register(reader, selectors.EVENT_READ, lambda: self.drain(job))
        try:
            for worker in wanted["workers"]:
                self.fork(job, worker, message, writer)
        except OSError:
            self.end(job.number, "not all of its workers could be started", signal.SIGKILL)
            raise
        finally:
            os.close(writer)
        return job.group

    def fork(self, job: Job, worker: dict[str, Any], message: dict[str, Any], writer: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # Blocked, so that no signal for the child is swallowed by the helper's handlers before it takes them off.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        parent = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                self.leave(job.group, writer, parent)
                raise Born(lambda: become_worker(worker, message))
            with contextlib.suppress(OSError):  # parent and child both: whoever comes first, nobody waits
                os.setpgid(pid, job.group or pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        job.group = job.group or pid
        job.pids.add(pid)
        self.tell_guard("+", job.group)

    def leave(self, group: int, writer: int, parent: int) -> None:
        """In a child: stop being the helper. What fails here must not come back to the helper's loop."""
        try:
            self.abandon()
            settle(group, writer, parent)
        except OSError as problem:
            os.write(writer, f"The worker could not be started: {problem}\n".encode())
            os._exit(1)

    def abandon(self) -> None:
        """In a child: close what belongs to the helper, through its objects, so that none closes it again later."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        for end in (self.control, self.wakeup, self.waker):
            end.close()
        for job in self.jobs.values():
            os.close(job.pipe)
            job.log.close()
        os.close(self.guard)
        self.jobs.clear()

    # --- ending ---

    def end(self, number: int, reason: str, signum: int = signal.SIGTERM) -> None:
        """Signal the job's group, and kill what is left after the grace. Once told, telling again changes nothing."""
        job = self.jobs.get(number)
        if job is None or (job.kill_at is not None and signum != signal.SIGKILL):
            return
        if job.kill_at is None:
            job.reason = reason
            self.say(op="ending", number=number, reason=job.reason, exit_code=None)
        job.kill_at = time.monotonic() + self.grace_s
        if job.group:
            send_signal(job.group, signum)

    def advance(self, job: Job, now: float) -> None:
        """Bring a job that is ending one step further."""
        if not job.pids and job.kill_at is None:
            code = next((code for code in job.exit_codes if code), 0)
            self.end(job.number, job.reason or describe(code))
        if job.kill_at is None:
            return
        if not job.pids and not (job.group and send_signal(job.group, 0)):
            self.bury(job)
        elif now >= job.kill_at:
            job.kill_at = now + self.grace_s
            send_signal(job.group, signal.SIGKILL)

    def bury(self, job: Job) -> None:
        self.drain(job)
        del self.jobs[job.number]
        with contextlib.suppress(KeyError):
            self.selector.unregister(job.pipe)
        os.close(job.pipe)
        job.log.close()
        self.tell_guard("-", job.group)
        code = next((code for code in job.exit_codes if code), 0)
        self.say(op="ended", number=job.number, reason=job.reason, exit_code=code)

    def tell_guard(self, sign: str, group: int) -> None:
        with contextlib.suppress(OSError):
            os.write(self.guard, f"{sign}{group}\n".encode())

    # --- looking ---

    def drain(self, job: Job) -> None:
        """Take what the job printed: a bounded part per call, so that one chatty job cannot keep the others waiting."""
        for _ in range(16):
            try:
                data = os.read(job.pipe, min(1 << 16, self.log_bytes))
            except OSError:
                return
            if not data:  # nobody holds the other end any more
                with contextlib.suppress(KeyError):
                    self.selector.unregister(job.pipe)
                return
            job.log.write(data)

    def signalled(self) -> None:
        with contextlib.suppress(OSError):
            if signal.SIGTERM in self.wakeup.recv(4096):
                self.close()
        for pid, status in reaped():
            code = os.waitstatus_to_exitcode(status)
            for job in self.jobs.values():
                if pid in job.pids:
                    self.exited(job, pid, code)

    def exited(self, job: Job, pid: int, code: int) -> None:
        job.pids.remove(pid)
        job.exit_codes.append(code)
        if job.pids and code and job.kill_at is None:
            job.reason = f"a worker ended: {describe(code)}"
            self.say(op="changed", number=job.number, reason=job.reason, exit_code=None)

    def orphaned(self) -> bool:
        return os.getppid() != self.owner  # a child that the owner forked may keep the socket open: look for ourselves

    def tick(self) -> None:
        if self.orphaned():
            self.close()
        for job in list(self.jobs.values()):
            used = max(map(memory_bytes, job.pids), default=0) if job.limit_bytes else 0
            if job.limit_bytes and used > job.limit_bytes:
                reason = f"used {in_words(used)} of its limit of {in_words(job.memory_bytes)}"
                self.end(job.number, reason, signal.SIGKILL)  # at once: what it still allocates is not its own


def in_words(size_bytes: int) -> str:
    """A size as people write it: ``2.1 GB``."""
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


def reaped() -> Iterator[tuple[int, int]]:
    """Every child that has ended, with its status."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, status


def memory_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        if Path("/proc/self/statm").exists():
            return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        psutil = importlib.import_module("psutil")
        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # noqa: BLE001 - it ends while we look; psutil has errors of its own for that
        return 0


# --- in the child ------------------------------------------------------------------------------------------------


def settle(group: int, writer: int, parent: int) -> None:
    """In a new child: its group, its end with the helper's, its output, its signals."""
    with contextlib.suppress(OSError):
        os.setpgid(0, group)
    control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the helper died before the line above
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (writer, 1), (writer, 2)):
        os.dup2(source, target)
    os.close(null)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def become_worker(worker: dict[str, Any], message: dict[str, Any]) -> None:
    """In a new child, free of the helper: be the worker that was asked for."""
    with contextlib.suppress(OSError):
        os.chdir(message["directory"])
    os.environ.clear()
    os.environ.update(message["environment"])
    os.environ.update(worker["environment"])
    python, *arguments = worker["argv"]
    if python is not None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(python, [python, *arguments], os.environ)  # noqa: S606 - no shell is the point
    sys.path[:] = message["path"]
    sys.argv = ["dask-worker", *arguments]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    refresh()
    from distributed.cli.dask_worker import main

    main(args=arguments, prog_name="dask worker")


def refresh() -> None:
    """What an interpreter does once at its start and a fork has inherited: configuration, random numbers."""
    import dask.config

    dask.config.update(dask.config.config, dask.config.collect_env(), priority="new")
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


# --- the program -------------------------------------------------------------------------------------------------


def start_guard(control: int) -> tuple[int, int]:
    """Fork the guard; returns its process id and the pipe on which it is told ``+GROUP`` and ``-GROUP``.

    ``control`` is not its own: while it held that, the owner would not see the helper's end.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        return pid, writer
    os.setsid()
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    os.close(control)
    os.close(writer)
    groups: set[int] = set()
    with os.fdopen(reader) as lines:
        for line in lines:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        send_signal(group, signal.SIGKILL)
    os._exit(0)


def prepare() -> None:
    """Import what a worker needs, and keep the pages of it shared with the children."""
    importlib.import_module("distributed.cli.dask_worker")
    config = importlib.import_module("dask.config")
    for module in ("tornado.platform.asyncio", *config.get("distributed.worker.http.routes", ())):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Be the helper, or, once forked, a worker."""
    control, options = int(sys.argv[1]), json.loads(sys.argv[2])
    sys.path[:] = options["path"]
    guard_pid, guard = start_guard(control)
    control_process(PR_SET_CHILD_SUBREAPER, 1)  # orphans of workers come to us, so that their groups do vanish
    work: Callable[[], None] | None = None
    if options["fork"]:
        prepare()
    try:
        Nursery(socket.socket(fileno=control), guard, options).run()
    except Born as born:
        work = born.work
    if work is not None:
        work()
        return
    os.close(guard)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(guard_pid, 0)
    if options["remove"]:
        shutil.rmtree(options["remove"], ignore_errors=True)


if __name__ == "__main__":
    main()
