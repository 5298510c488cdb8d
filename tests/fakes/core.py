"""Batch systems that are not there: programs on PATH over one shared state file, whose jobs really run.

A *front* (``pbs.py`` and its neighbours: one class for each manager) gives the programs of one manager, which print
what the recordings in ``tests/recorded`` print. Everything behind is here: the queue, the slots, the processes of the
jobs, and faults that a test switches on and off. There is no daemon: each program does its part under a lock, and
each running job has a process beside it that waits for its end and starts the next one.

A test holds a ``Fake``; the programs hold a ``Front``. Programs run without site-packages: standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PENDING, HELD, RUNNING, ENDED = "pending", "held", "running", "ended"

FAULTS: Mapping[str, Any] = {"down": (), "hang": (), "lost": (), "reject": "", "slow_s": 0.0, "late_s": 0.0}
"""What can be wrong. For ``submit``, ``query`` and ``cancel`` each: ``down`` (nothing listens), ``hang`` (no answer,
nothing done), ``lost`` (done, but no answer). ``reject``: a word that the front knows. ``slow_s``: every program takes
longer. ``late_s``: the job list is as old as that.
"""


@dataclass
class FakeJob:
    """One job, or one element of an array (``index``, as the manager counts; None: not an array)."""

    number: int
    index: int | None
    count: int
    name: str
    script: str
    slots: int = 1
    state: str = PENDING
    output: str = ""
    cwd: str = ""
    limit_s: float = 0.0
    submitted_s: float = 0.0
    started_s: float = 0.0
    ended_s: float = 0.0
    pid: int = 0
    exit: int | None = None
    """As ``subprocess`` tells it: negative for a signal."""
    cancelled: bool = False
    overran: bool = False
    requeued: bool = False
    attempt: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    """What the front wants to know later."""


@dataclass
class State:
    """What the programs share."""

    number: int = 1
    jobs: list[FakeJob] = field(default_factory=list)

    def add(self, count: int, indices: Sequence[int | None], **what: Any) -> list[FakeJob]:
        """A new job with the next number; ``indices`` of its elements, ``[None]`` for no array."""
        made = [FakeJob(self.number, index, count, submitted_s=time.time(), **what) for index in indices]
        self.number += 1
        self.jobs += made
        return made


class Front:
    """The programs of one manager. A subclass has a method for each program, which takes the arguments and returns
    the exit code, and may override what comes first here.
    """

    manager = ""
    """The folder of its recordings."""

    programs: Mapping[str, str] = {}
    """Each program: ``submit``, ``query`` or ``cancel``."""

    first = 1
    """The number of the first job."""

    def variables(self, job: FakeJob) -> Mapping[str, str]:
        """What the manager adds to the environment of a job."""
        raise NotImplementedError

    def environment(self, job: FakeJob) -> Mapping[str, str]:
        """The whole environment of a job: as after a login, not the one of whoever submitted it."""
        home = str(self.directory)
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "LOGNAME": user(), **self.variables(job)}

    def command(self, job: FakeJob) -> list[str]:
        """What runs the job script."""
        return [job.script] if Path(job.script).read_bytes().startswith(b"#!") else ["/bin/sh", job.script]

    def limited(self, job: FakeJob) -> None:
        """End a job that is over its time: SIGTERM, SIGKILL 10 s later."""
        end(job.pid, signal.SIGTERM, 10.0)

    # --- the machine room ---

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings: dict[str, Any] = json.loads((directory / "settings.json").read_text())
        self.faults: dict[str, Any] = {**FAULTS, **_read(directory / "faults.json", {})}

    def run(self, program: str, arguments: list[str]) -> int:
        """Run one of the programs; returns its exit code."""
        if program == "turn":
            with self.state():
                return 0
        kind = self.programs[program]
        with (self.directory / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps({"program": program, "arguments": arguments, "kind": kind}) + "\n")
        time.sleep(self.faults["slow_s"])
        if kind in self.faults["hang"]:
            sys.stdin.read() if kind == "submit" else None
            time.sleep(3600)
        if kind in self.faults["down"]:
            return self.down(program)
        code: int = getattr(self, program)(arguments)
        if kind in self.faults["lost"]:
            time.sleep(3600)
        sys.stdout.flush()
        return code

    def down(self, program: str) -> int:
        """What the program says when nothing listens: as recorded."""
        return self.replay(f"daemon-down-{self.programs[program].replace('query', 'status').replace('_', '-')}")

    def replay(self, case: str, **changes: str) -> int:
        """Print a recording, some words changed, and return its exit code."""
        found = json.loads((ROOT / "tests" / "recorded" / self.manager / f"{case}.json").read_text())
        for old, new in changes.items():
            found["stdout"], found["stderr"] = (found[s].replace(old, new) for s in ("stdout", "stderr"))
        sys.stdout.write(found["stdout"])
        sys.stderr.write(found["stderr"])
        return int(found["exit"])

    @contextmanager
    def state(self, *, start: bool = True) -> Iterator[State]:
        """The state under the lock; what fits into the slots is started before it is let go."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = _read(self.directory / "state.json", {"number": self.first, "jobs": []})
            state = State(kept["number"], [FakeJob(**job) for job in kept["jobs"]])
            yield state
            if start:
                self._start_what_fits(state)
            fresh = self.directory / "state.new"
            fresh.write_text(json.dumps(asdict(state)))
            fresh.replace(self.directory / "state.json")
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process that was forked meanwhile holds the same lock

    def listed(self, state: State) -> list[FakeJob]:
        """The jobs as the list has them: as they were ``late_s`` ago; ended ones for ``keep_s`` seconds."""
        at = time.time() - self.faults["late_s"]
        known = [as_of(job, at) for job in state.jobs if job.submitted_s <= at]
        keep_s = self.settings["keep_s"]
        return [job for job in known if job.state != ENDED or job.ended_s > at - keep_s]

    def cancel(self, job: FakeJob, first: signal.Signals, grace_s: float, *, top_only: bool = False) -> None:
        """End a job: a waiting one at once, a running one with this signal, and SIGKILL after the grace."""
        if job.state in (PENDING, HELD):
            job.state, job.ended_s, job.cancelled = ENDED, time.time(), True
        elif job.state == RUNNING and not job.cancelled:
            job.cancelled = True
            end(job.pid, first, grace_s, top_only=top_only)

    def _start_what_fits(self, state: State) -> None:
        free = self.settings["capacity"] - sum(job.slots for job in state.jobs if job.state == RUNNING)
        for job in state.jobs:
            if job.state == PENDING and job.slots <= free:
                free -= job.slots
                job.state, job.started_s = RUNNING, time.time()
                job.pid = self._start(job)

    def _start(self, job: FakeJob) -> int:
        """Start a job and a process beside it; returns the process id of the job, which leads a session."""
        receive, send = os.pipe()
        if os.fork() == 0:
            try:
                self._stay_with(job, send)
            finally:
                os._exit(0)
        os.close(send)
        with os.fdopen(receive) as line:
            return int(line.read() or 0)

    def _stay_with(self, job: FakeJob, send: int) -> None:
        os.setsid()
        os.dup2(send, 3)
        os.closerange(4, 256)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        code = 127
        with suppress(OSError), Path(job.output or os.devnull).open("a") as output:
            job_process = subprocess.Popen(
                self.command(job),
                env=dict(self.environment(job)),
                cwd=job.cwd or self.directory,
                stdin=nothing,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            job.pid = job_process.pid
            os.write(3, str(job.pid).encode())
            os.close(3)
            code, job.overran = self._wait(job, job_process)
        with suppress(OSError):
            os.close(3)
        with suppress(OSError), self.state() as state:  # the folder may be gone by now
            self._ended(next(each for each in state.jobs if (each.number, each.index) == (job.number, job.index)), code)

    def _wait(self, job: FakeJob, process: subprocess.Popen[bytes]) -> tuple[int, bool]:
        try:
            return process.wait(job.limit_s or None), False
        except subprocess.TimeoutExpired:
            with suppress(OSError), self.state() as state:
                for each in state.jobs:
                    each.overran |= (each.number, each.index) == (job.number, job.index)
            self.limited(job)
            return process.wait(), True

    def _ended(self, job: FakeJob, code: int) -> None:
        end(job.pid, signal.SIGKILL, 0.0)  # whatever it left behind
        job.pid = 0
        if job.requeued and not job.cancelled:
            job.state, job.requeued, job.attempt = PENDING, False, job.attempt + 1
        else:
            job.state, job.exit, job.ended_s = ENDED, code, time.time()


def as_of(job: FakeJob, at_s: float) -> FakeJob:
    """The job as it was at that time."""
    if job.state == ENDED and job.ended_s > at_s:
        job = replace(job, state=RUNNING if job.started_s else PENDING, exit=None)
    if job.state == RUNNING and job.started_s > at_s:
        job = replace(job, state=PENDING)
    return job


def end(pid: int, first: signal.Signals, grace_s: float, *, top_only: bool = False) -> None:
    """Send a signal to a job's process group (or only to the process on top), and SIGKILL to all after the grace."""
    if not pid:
        return
    with suppress(OSError):
        (os.kill if top_only else os.killpg)(pid, first)
    if first == signal.SIGKILL:
        return
    if os.fork() == 0:
        try:
            os.setsid()
            os.closerange(0, 256)
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and _alive(pid):
                time.sleep(0.02)
            os.killpg(pid, signal.SIGKILL)
        finally:
            os._exit(0)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def user() -> str:
    """Whose jobs these are."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _read(path: Path, otherwise: Any) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return otherwise


class Fake:
    """A batch system for a test: its programs in ``bin``, to be put on PATH.

    ``front`` is ``module:Class`` below ``tests.fakes``. ``capacity`` is in slots; ended jobs stay listed for
    ``keep_s`` seconds where the manager has such a thing. Other settings are the front's own.
    """

    def __init__(self, directory: Path, front: str, *, capacity: int = 64, keep_s: float = 1e9, **settings: Any):
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        _write(directory / "settings.json", {"capacity": capacity, "keep_s": keep_s, **settings})
        module, _, name = front.partition(":")
        self._front: Callable[[Path], Front] = getattr(import_module(f"tests.fakes.{module}"), name)
        for path in [*(self.bin / program for program in self._front(directory).programs), directory / "turn"]:
            path.write_text(_PROGRAM.format(sys.executable, str(ROOT), module, name, str(directory), path.name))
            path.chmod(0o755)

    @contextmanager
    def on_path(self) -> Iterator[Fake]:
        """The programs come first on PATH; at the end every job is killed."""
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{self.bin}{os.pathsep}{before}"
        try:
            yield self
        finally:
            os.environ["PATH"] = before
            self.close()

    def fault(self, **faults: Any) -> None:
        """Switch these faults on, and every other one off; without any: heal."""
        assert set(faults) <= set(FAULTS), faults
        _write(self.directory / "faults.json", faults)

    def settings(self, **settings: Any) -> None:
        """Change settings, such as the capacity."""
        path = self.directory / "settings.json"
        _write(path, {**_read(path, {}), **settings})
        subprocess.run([str(self.directory / "turn")], check=True)  # starts what fits now, outside of this process

    def jobs(self) -> list[FakeJob]:
        """The truth about every job that ever was."""
        return [FakeJob(**job) for job in _read(self.directory / "state.json", {"jobs": []})["jobs"]]

    def left(self) -> list[str]:
        """What has not ended."""
        return [f"{job.name} {job.number}[{job.index}] {job.state}" for job in self.jobs() if job.state != ENDED]

    def calls(self, kind: str = "") -> list[list[str]]:
        """Every command so far, the program first; of one kind (``submit``, ``query``, ``cancel``) or all."""
        path = self.directory / "calls.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [[line["program"], *line["arguments"]] for line in lines if kind in ("", line["kind"])]

    def kill(self, which: Callable[[FakeJob], bool] = lambda _: True, *, requeue: bool = False) -> int:
        """Kill running jobs as a failing machine does; ``requeue``: the manager starts them again. How many it were."""
        with self._front(self.directory).state(start=False) as state:
            hit = [job for job in state.jobs if job.state == RUNNING and which(job)]
            for job in hit:
                job.requeued = requeue
        for job in hit:
            end(job.pid, signal.SIGKILL, 0.0)
        return len(hit)

    def close(self) -> None:
        """Kill every job, and start no other."""
        path = self.directory / "settings.json"
        _write(path, {**_read(path, {}), "capacity": 0})
        with self._front(self.directory).state(start=False) as state:
            for job in state.jobs:
                if job.state == RUNNING:
                    job.cancelled = True
                    end(job.pid, signal.SIGKILL, 0.0)


def _write(path: Path, value: Any) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)


_PROGRAM = """#!{} -S
import sys
from pathlib import Path
sys.path.insert(0, {!r})
from tests.fakes.{} import {} as Front
sys.exit(Front(Path({!r})).run({!r}, sys.argv[1:]))
"""
