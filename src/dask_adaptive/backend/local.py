"""Jobs on this machine: each one a process group of real ``dask worker`` processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import dask.config

from dask_adaptive.backend._helper import Helper, Message, end_groups
from dask_adaptive.backend._remote import find_devices
from dask_adaptive.backend.command import (
    MODULE,
    terminate_bytes,
    worker_arguments,
    worker_config,
    worker_environment,
)
from dask_adaptive.backend.contracts import Wake
from dask_adaptive.errors import ConfigError, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Batch, Job, JobId, JobState, Spec

__all__ = ["Local"]

KEEP_ENDED = 1000
KEEP_ENDED_S = 3600.0


@dataclass
class Kept:
    """What this backend knows of one job; ``job.id`` is ``<name>#<number>``, ``devices`` are the GPUs it holds."""

    cluster: str
    job: Job
    log: Path
    devices: tuple[str, ...] = ()
    group: int = 0
    ended_s: float = 0.0


class Local:
    """Runs jobs as processes of this machine.

    A helper process with Dask imported forks the workers, so that they start several times faster than new
    interpreters; it ends them all when this object, or the process that holds it, is gone.

    Parameters
    ----------
    directory:
        Where logs go; created if missing, and then kept. Default: a private temporary one, removed by ``aclose``.
    grace_s:
        Seconds between SIGTERM and SIGKILL.
    log_bytes:
        How much of the output of a job is kept: the newest ``log_bytes`` at least, twice that at most.
    python:
        The interpreter of the workers; implies ``start="exec"``. Default: this one.
    start:
        ``"fork"`` from the helper process, or ``"exec"`` a new interpreter. Default: fork on Linux, exec elsewhere
        (macOS: its system libraries do not survive a fork).
    environment:
        Variables for every worker.
    gpus:
        The GPUs to hand out, by number or by the names that ``CUDA_VISIBLE_DEVICES`` takes. Default: those of
        ``CUDA_VISIBLE_DEVICES``, else what ``nvidia-smi`` lists.
    timeout_s:
        After how many seconds without an answer the helper process is given up.

    Attributes
    ----------
    directory:
        Where the logs are; None before the helper process is started.

    Raises
    ------
    ConfigError
        For arguments that cannot be.
    """

    name = "local"
    lag_s = 0.0
    ends_with_owner = True

    def __init__(
        self,
        *,
        directory: str | None = None,
        grace_s: float = 5.0,
        log_bytes: int = 1_000_000,
        python: str | None = None,
        start: Literal["fork", "exec"] | None = None,
        environment: Mapping[str, str] | None = None,
        gpus: int | Sequence[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if not grace_s >= 0 or log_bytes < 1 or not timeout_s > 0:
            raise ConfigError("grace_s must not be negative; log_bytes and timeout_s must be positive")
        if start not in (None, "fork", "exec") or (start == "fork" and python is not None):
            raise ConfigError(f"start={start!r}: 'fork', or 'exec' (the only one with python=)")
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self.log_bytes = log_bytes
        self._python = python or sys.executable
        self._fork = (start or ("fork" if sys.platform == "linux" and python is None else "exec")) == "fork"
        self._environment = {str(key): str(value) for key, value in (environment or {}).items()}
        self.directory = Path(directory).absolute() if directory is not None else None
        self._made_directory = directory is None
        self._gpus = [str(n) for n in range(gpus)] if isinstance(gpus, int) else None if gpus is None else list(gpus)
        self._helper: Helper | None = None
        self._kept: dict[JobId, Kept] = {}
        self._submitted: dict[int, Kept] = {}  # every job that has not ended, by its number
        self._numbers = itertools.count(1)
        self._wakes: list[Wake] = []
        self._burial: asyncio.Task[None] | None = None
        self._closed = False

    # --- the contract ---

    async def start(self) -> None:
        """Start the helper process now, so that the first submit finds it ready. ``submit`` does it otherwise."""
        self._running_helper()

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        """Start the jobs. Returns as soon as their processes exist."""
        helper = self._running_helper()
        config = worker_config(batch.spec)
        environment = self._worker_environment(config, batch.spec)
        wanted = await self._wanted(batch, helper.directory, terminate_bytes(config, batch.spec))
        made = {job["number"]: self._submitted[job["number"]] for job in wanted}
        world = {"environment": environment, "path": _path(), "directory": str(_here())}
        try:
            answer = await helper.call({"op": "start", **world, "jobs": wanted}, self.timeout_s)
        except Unavailable:
            self._forget(made)
            raise
        if answer["error"] and not any(answer["groups"].values()):
            raise NoCapacity(f"no process could be started: {answer['error']}")
        return [kept.job.id for number, kept in made.items() if answer["groups"][str(number)]]

    async def jobs(self, cluster: str) -> Sequence[Job]:
        """Every job of the cluster that this object started; ended ones for an hour, the newest thousand of them."""
        self._prune()
        return [kept.job for kept in self._kept.values() if kept.cluster == cluster]

    async def cancel(self, ids: Collection[JobId]) -> None:
        """SIGTERM to the process groups, SIGKILL after ``grace_s``."""
        wanted = set(ids)
        numbers = [
            number
            for number, kept in self._submitted.items()
            if kept.job.id in wanted and kept.job.state is JobState.RUNNING and kept.group
        ]
        if numbers and self._helper is not None:
            with contextlib.suppress(Unavailable):  # a helper that is gone has taken its jobs with it
                await self._helper.say({"op": "cancel", "numbers": numbers})
        for number in numbers:
            if number in self._submitted:
                self._change(number, JobState.ENDING, "cancelled")

    async def log(self, id: JobId) -> str:
        """The newest ``log_bytes`` of what the job printed."""
        kept = self._kept.get(id)
        return await asyncio.to_thread(_tail, kept.log, self.log_bytes) if kept else ""

    async def aclose(self) -> None:
        """End every job and the helper process, and remove the directory if it was made here."""
        self._closed = True
        if self._helper is not None:
            await self._helper.aclose(2 * self.grace_s + 5)
        if self._burial is not None:
            await self._burial
        if self._made_directory and self.directory is not None:
            await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    def watch(self, wake: Wake) -> None:
        """Call ``wake`` when a process ended."""
        self._wakes.append(wake)

    # --- submitting ---

    def _running_helper(self) -> Helper:
        if self._closed:
            raise Rejected("this backend is closed")
        if self._helper is None:
            try:
                self._helper = self._new_helper()
            except OSError as error:
                raise NoCapacity(f"the helper process could not be started: {error}") from error
        return self._helper

    def _new_helper(self) -> Helper:
        if self.directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="dask-adaptive-"))
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = {
            "fork": self._fork,
            "grace_s": self.grace_s,
            "log_bytes": self.log_bytes,
            "path": _path(),
            "remove": str(self.directory) if self._made_directory else "",
        }
        spec = Spec(scheduler="")
        environment = self._worker_environment(worker_config(spec), spec)
        return Helper(self.directory, options, environment, self._hear, self._lost)

    def _worker_environment(self, config: Mapping[str, Any], spec: Spec) -> dict[str, str]:
        base = {**os.environ, **self._environment, "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(config)}
        if not self._fork:
            base["PYTHONPATH"] = os.pathsep.join(_own_path())
            base.setdefault("PYTHONUNBUFFERED", "1")  # what a killed worker printed last is in its log
        return worker_environment(base, config, spec)

    async def _wanted(self, batch: Batch, directory: Path, limit_bytes: int) -> list[dict[str, Any]]:
        """The jobs of a start message; as many as there are GPUs for."""
        spec = batch.spec
        if self._made_directory and not (spec.local_directory or dask.config.get("temporary-directory", None)):
            spec = replace(spec, local_directory=str(directory))  # what a killed worker leaves goes with it
        python = None if self._fork else shutil.which(self._python)
        if python is None and not self._fork:
            raise Rejected(f"there is no Python interpreter {self._python!r}")
        wanted = []
        for name, devices in zip(batch.names, await self._devices(batch), strict=False):
            workers = _workers(spec, name, python, devices)
            number = next(self._numbers)
            log = directory / f"{name}.{number}.log"
            job = Job(JobId(f"{name}#{number}"), name, JobState.RUNNING)
            self._submitted[number] = Kept(batch.cluster, job, log, devices)
            limits = {"memory_bytes": spec.shape.memory_bytes, "limit_bytes": limit_bytes}
            wanted.append({"number": number, "log": str(log), "workers": workers, **limits})
        return wanted

    async def _devices(self, batch: Batch) -> list[tuple[str, ...]]:
        """The GPUs of each job that can be started now."""
        each = batch.spec.gpus * batch.spec.shape.workers
        if not each:
            return [()] * batch.count
        if self._gpus is None:
            self._gpus = await asyncio.to_thread(find_devices)
        if each > len(self._gpus):
            raise Rejected(f"a job takes {each} GPUs, and there are {len(self._gpus)}")
        taken = {device for kept in self._submitted.values() for device in kept.devices}
        free = [device for device in self._gpus if device not in taken]
        shares = [tuple(free[i : i + each]) for i in range(0, len(free) - each + 1, each)][: batch.count]
        if not shares:
            raise NoCapacity(f"a job takes {each} GPUs, and {len(free)} of {len(self._gpus)} are free")
        return shares

    # --- what the helper says ---

    def _hear(self, message: Message) -> None:
        if message["op"] == "started":
            for number, group in message["groups"].items():
                self._started(int(number), group)
        elif message["number"] in self._submitted:
            state = {"changed": JobState.RUNNING, "ending": JobState.ENDING, "ended": JobState.ENDED}[message["op"]]
            self._change(message["number"], state, message["reason"], message["exit_code"])

    def _started(self, number: int, group: int) -> None:
        kept = self._submitted.get(number)
        if kept is not None and group:
            kept.group = group
            self._kept[kept.job.id] = kept
        elif kept is not None:
            del self._submitted[number]

    def _change(self, number: int, state: JobState, reason: str, exit_code: int | None = None) -> None:
        kept = self._submitted[number]
        before, kept.job = kept.job, replace(kept.job, state=state, reason=reason, exit_code=exit_code)
        if state is JobState.ENDED:
            kept.ended_s = time.monotonic()
            del self._submitted[number]
        for wake in self._wakes if kept.job != before else ():
            asyncio.get_running_loop().call_soon(wake, f"{kept.job.name} {state.value}: {reason}")

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number in self._submitted and not self._submitted[number].group:
                del self._submitted[number]

    def _lost(self, helper: Helper) -> None:
        """The helper is gone: see to it that its jobs are, too."""
        if self._helper is helper:
            self._helper = None
        left = [number for number, kept in self._submitted.items() if kept.group]
        self._forget(list(self._submitted))
        for number in left:
            self._change(number, JobState.ENDING, "its helper process died")
        if left:
            self._burial = asyncio.ensure_future(self._bury(left))

    async def _bury(self, numbers: Sequence[int]) -> None:
        await asyncio.to_thread(end_groups, [self._submitted[number].group for number in numbers])
        for number in numbers:
            self._change(number, JobState.ENDED, "its helper process died")

    def _prune(self) -> None:
        """Forget, oldest first, what ended too long ago or is too much."""
        ended = sorted((kept for kept in self._kept.values() if kept.ended_s), key=lambda kept: kept.ended_s)
        oldest_s = time.monotonic() - KEEP_ENDED_S
        for place, kept in enumerate(ended):
            if kept.ended_s < oldest_s or place < len(ended) - KEEP_ENDED:
                del self._kept[kept.job.id]
                for path in _log_files(kept.log):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)


# --- the parts without state --------------------------------------------------------------------------------------


def _workers(spec: Spec, job: str, python: str | None, devices: tuple[str, ...]) -> list[dict[str, Any]]:
    """The processes of one job."""
    if spec.command:
        return [{"argv": [shutil.which(spec.command[0]) or spec.command[0], *spec.command[1:]], "environment": {}}]
    return [_worker(spec, job, i, python, devices) for i in range(spec.shape.workers)]


def _worker(spec: Spec, job: str, index: int, python: str | None, devices: tuple[str, ...]) -> dict[str, Any]:
    arguments = worker_arguments(spec, job, index)
    mine = devices[index * spec.gpus : (index + 1) * spec.gpus]
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {}
    return {"argv": [python, *(("-m", MODULE) if python else ()), *arguments], "environment": environment}


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path("/")


def _path() -> list[str]:
    """Our own search path, independent of the working directory."""
    return [str(_here()) if entry == "" else str(Path(entry).absolute()) for entry in sys.path]


def _own_path() -> list[str]:
    """The part of the path that a new interpreter does not have by itself: what the user and the script added."""
    given = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots = tuple(f"{Path(entry)}{os.sep}" for entry in given)
    return [entry for entry in _path() if not f"{entry}{os.sep}".startswith(roots) and not entry.endswith(".zip")]


def _log_files(log: Path) -> tuple[Path, Path]:
    return log.with_suffix(".old"), log


def _tail(log: Path, limit: int) -> str:
    data = b""
    for path in _log_files(log):
        with contextlib.suppress(OSError):
            data += path.read_bytes()
    return data[-limit:].decode(errors="replace")
