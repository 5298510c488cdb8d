"""Starts and ends named heads from outside: here in the background, or as a job of the resource manager."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from dask_adaptive.backend.contracts import Backend
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, BackendError, ConfigError, EngineError
from dask_adaptive.head.control import ask
from dask_adaptive.head.state import Entry, Running, Setup, claim, this_process
from dask_adaptive.model import Batch, JobId, JobState
from dask_adaptive.options import backends_of
from dask_adaptive.tags import new_key
from dask_adaptive.waiting import within

__all__ = ["down", "nothing_can_be_left", "reap", "up"]

Say = Callable[[str], None]

LOOK_S = 0.1
END_S = 120.0
KILL_S = 20.0
QUIET_END_S = 60.0


# --- up ----------------------------------------------------------------------------------------------------------


async def up(name: str, description: Description, *, say: Say, wait_s: float = 0.0) -> Running:
    """Start a head and wait until clients can come.

    Parameters
    ----------
    name:
        Name of the cluster.
    description:
        The cluster; ``headed`` says where its head lives.
    say:
        Told what is waited for.
    wait_s:
        How long to wait for a head; it is ended then. 0: as long as it takes.

    Raises
    ------
    ConfigError
        If the name is taken, the state directory cannot be written, or what was asked for cannot be.
    AdaptiveError
        If the head did not come up; nothing is left of it.
    """
    backend = _head_backend(description) if description.headed.where == "job" else None
    entry = claim(name, is_lost=nothing_can_be_left)
    setup = Setup(this_process(), asdict(description), key=new_key() if backend is not None else "")
    try:
        entry.write(setup)
        if backend is not None:
            await _submit(entry, setup, backend, description)
            say(f"the head is a job of {backend.name}; waiting for it to start")
        process = None if backend is not None else _spawn(entry)
        running = await _arrival(entry, process, backend, wait_s)
    except BaseException:
        await _give_up(entry)
        raise
    finally:
        if backend is not None:
            await backend.aclose()
    return running


def _spawn(entry: Entry) -> subprocess.Popen[bytes]:
    """The head in a session of its own, so that neither the end of this shell nor its ctrl-C reaches it."""
    entry.write_text("log", b"")
    command = [sys.executable, "-m", "dask_adaptive.head", str(entry.folder)]
    with entry.log.open("ab") as log:
        try:
            return subprocess.Popen(  # noqa: S603 - our own program, no shell
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except OSError as error:
            raise AdaptiveError(f"the head cannot be started: {error.strerror}") from error


async def _arrival(
    entry: Entry, process: subprocess.Popen[bytes] | None, backend: Backend | None, wait_s: float
) -> Running:
    """Wait until the head can be reached."""
    waited_s = 0.0
    while not wait_s or waited_s < wait_s:
        running = entry.running()
        if running is not None and running.failed:
            raise AdaptiveError(f"cluster {entry.name!r} did not come up: {running.failed}")
        if running is not None and running.address:
            return running
        if process is not None and process.poll() is not None:
            raise AdaptiveError(f"cluster {entry.name!r} did not come up: {_last_words(entry, process.returncode)}")
        if backend is not None and round(waited_s / LOOK_S) % 50 == 49:
            await _check_job(entry, backend)
        await asyncio.sleep(LOOK_S)
        waited_s += LOOK_S
    raise AdaptiveError(f"cluster {entry.name!r} did not come up within {wait_s:g} s")


def _last_words(entry: Entry, exit_code: int) -> str:
    with suppress(OSError):
        lines = entry.log.read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1].removeprefix("Error: ")
    return f"its process ended with exit code {exit_code}"


async def _give_up(entry: Entry) -> None:
    """Ctrl-C, or a head that failed: end what was begun, and leave nothing."""
    with suppress(AdaptiveError):
        setup, running = entry.setup(), entry.running()
        if running is not None and running.process.here and running.process.alive:
            await _terminate(running)
        if setup is not None and setup.key:
            await _clean(_described(setup), [setup.key])
    entry.remove()


# --- as a job ----------------------------------------------------------------------------------------------------


def _head_backend(description: Description) -> Backend:
    """The backend of the pool that the head belongs to."""
    name = description.headed.pool or next(iter(description.pools))
    backend = backends_of(description.options)[name]
    if getattr(backend, "ends_with_owner", False):
        raise ConfigError(
            f"a head cannot be a job of the backend {backend.name!r}: its jobs end with the command that started them; "
            "say --head here, or another backend"
        )
    return backend


async def _submit(entry: Entry, setup: Setup, backend: Backend, description: Description) -> None:
    """One job whose command is the head."""
    name = description.headed.pool or next(iter(description.pools))
    options = {**description.pools[name], "workers_per_job": 1, **description.headed.options}
    spec = Description(pools={name: options}).options[name].spec("", {}, "")
    command = (spec.request.python or sys.executable, "-m", "dask_adaptive.head", str(entry.folder))
    shape = replace(spec.shape, workers=1, resources={})
    spec = replace(spec, shape=shape, gpus=0, preload=(), worker_arguments=(), command=command)
    tag = setup.key + new_key()
    [job] = await backend.submit(Batch(setup.key, name, tag, 1, spec))
    entry.write(replace(setup, job=job))


async def _check_job(entry: Entry, backend: Backend) -> None:
    """Raise where the manager says that the job ended before the head came up."""
    setup = entry.setup()
    if setup is None or entry.running() is not None:
        return
    try:
        jobs = {job.id: job for job in await backend.jobs(setup.key)}
    except BackendError:
        return  # could not look is not gone
    job = jobs.get(JobId(setup.job))
    if job is not None and job.state is JobState.ENDED:
        words = (await backend.log(job.id)).strip().splitlines()
        raise AdaptiveError(
            f"cluster {entry.name!r} did not come up: its job {job.id} ended, {job.reason or job.exit_code}"
            + (f"; it printed last: {words[-1]}" if words else "")
        )


# --- down --------------------------------------------------------------------------------------------------------


async def down(entry: Entry, *, say: Say, timeout_s: float = END_S) -> Sequence[str]:
    """End a head with everything that is its own; what had to be done beyond asking it, a sentence each.

    Raises
    ------
    AdaptiveError
        If something of it may be left; its entry stays then, so that it can be tried again.
    """
    running, setup = entry.running(), entry.setup()
    notes: list[str] = []
    if running is not None and running.address:
        try:
            await ask(running.address, entry.security(), "end", why="`dask adaptive down`")
            say(f"cluster {entry.name!r} is ending its jobs")
        except EngineError as error:
            notes.append(str(error))
    if running is not None and not await _gone(entry, running, timeout_s if not notes else 0.0):
        if not running.process.here:
            await _end_far(entry, running, setup)
        else:
            notes.append(f"its process {running.process.pid} had to be told by a signal")
            await _terminate(running)
    if entry.folder.exists():
        notes += await reap(entry)
    return notes


async def _gone(entry: Entry, running: Running, timeout_s: float) -> bool:
    """Wait until the head has ended: its process is gone, or, elsewhere, its entry."""
    waited_s = 0.0
    while True:
        if not entry.folder.exists() and (not running.process.here or not running.process.alive):
            return True
        if running.process.here and not running.process.alive:
            return True
        if waited_s >= timeout_s:
            return False
        await asyncio.sleep(LOOK_S)
        waited_s += LOOK_S


async def _terminate(running: Running) -> None:
    """SIGTERM, and SIGKILL to what does not listen. Never to anybody else: the start of the process is compared."""
    for number, wait_s in ((signal.SIGTERM, KILL_S), (signal.SIGKILL, KILL_S)):
        with suppress(ProcessLookupError, PermissionError):
            if running.process.alive:
                os.kill(running.process.pid, number)
        waited_s = 0.0
        while running.process.alive and waited_s < wait_s:
            await asyncio.sleep(LOOK_S)
            waited_s += LOOK_S


async def _end_far(entry: Entry, running: Running, setup: Setup | None) -> None:
    """A head on another machine that does not answer can only be ended through the manager that runs it."""
    if setup is None or not setup.key:
        raise AdaptiveError(
            f"the head of cluster {entry.name!r} is process {running.process.pid} on {running.process.host} and does "
            f"not answer; `dask adaptive down {entry.name}` there ends it"
        )


# --- reap --------------------------------------------------------------------------------------------------------


def nothing_can_be_left(entry: Entry) -> bool:
    """Whether every job of this head ended with it, so that its entry may be forgotten without asking anybody."""
    with suppress(AdaptiveError):
        setup = entry.setup()
        if setup is None:
            return True
        backends = backends_of(_described(setup).options).values()
        return not setup.key and all(getattr(each, "ends_with_owner", False) for each in backends)
    return False


async def reap(entry: Entry) -> Sequence[str]:
    """Cancel what a lost head left with its resource managers, wait until they show nothing, and forget the head.

    Returns
    -------
    Sequence[str]
        What was cancelled, a sentence each.

    Raises
    ------
    AdaptiveError
        If the head is alive, or a manager cannot be asked or still shows something; the entry stays.
    """
    setup, running = entry.setup(), entry.running()
    if running is not None and running.process.here and running.process.alive:
        raise AdaptiveError(f"cluster {entry.name!r} runs; `dask adaptive down {entry.name}` ends it")
    keys = [key for key in (setup.key if setup else "", running.key if running else "") if key]
    notes = await _clean(_described(setup), keys) if setup is not None else []
    entry.remove()
    return notes


async def _clean(description: Description, keys: Sequence[str]) -> list[str]:
    """Cancel every job with one of these keys, at every backend that may have some."""
    notes: list[str] = []
    unique = {id(each): each for each in backends_of(description.options).values()}
    for backend in unique.values():
        if getattr(backend, "ends_with_owner", False):
            continue
        try:
            for key in keys:
                count = await within(QUIET_END_S, _emptied(backend, key))
                notes += [f"{count} jobs of {backend.name} were cancelled"] if count else []
        except (BackendError, asyncio.TimeoutError) as error:
            words = str(error) or f"jobs are left after {QUIET_END_S:g} s"
            raise AdaptiveError(f"{backend.name} may still have jobs of this cluster: {words}") from error
        finally:
            await backend.aclose()
    return notes


async def _emptied(backend: Backend, key: str) -> int:
    """Cancel until the manager shows no living job of this key any more; how many there were."""
    told: set[JobId] = set()
    while alive := {job.id for job in await backend.jobs(key) if job.state is not JobState.ENDED}:
        if alive - told:
            await backend.cancel(alive)
            told |= alive
        await asyncio.sleep(max(LOOK_S, min(getattr(backend, "poll_s", 1.0), 5.0)))
    return len(told)


def _described(setup: Setup) -> Description:
    return Description(**setup.description)
