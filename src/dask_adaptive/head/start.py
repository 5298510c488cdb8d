"""Starts named heads: here in the background, or as a job of the resource manager."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace

from dask_adaptive.backend.contracts import Backend
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, BackendError
from dask_adaptive.head.end import clean, described_in, head_backend, nothing_can_be_left, terminate
from dask_adaptive.head.state import Entry, Running, Setup, claim, this_process
from dask_adaptive.model import Batch, JobId, JobState
from dask_adaptive.tags import new_key

__all__ = ["up"]

Say = Callable[[str], None]

LOOK_S = 0.1


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
    backend = head_backend(description) if description.headed.where == "job" else None
    entry = claim(name, is_lost=nothing_can_be_left)
    setup = Setup(this_process(), asdict(description), key=new_key() if backend is not None else "")
    process: subprocess.Popen[bytes] | None = None
    try:
        entry.write(setup)
        if backend is not None:
            await _submit(entry, setup, backend, description)
            say(f"the head is a job of {backend.name}; waiting for it to start")
        process = None if backend is not None else _spawn(entry)
        running = await _arrival(entry, process, backend, wait_s)
        if process is not None:
            process.returncode = 0  # it outlives us: nobody waits for it, and Python is not to complain of that
    except BaseException:
        await _give_up(entry)
        if process is not None:
            process.wait()
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
    with suppress(AdaptiveError):
        lines = entry.printed().strip().splitlines()
        if lines:
            return lines[-1].removeprefix("Error: ")
    return f"its process ended with exit code {exit_code}"


async def _give_up(entry: Entry) -> None:
    """Ctrl-C, or a head that failed: end what was begun, and leave nothing."""
    with suppress(AdaptiveError):
        setup, running = entry.setup(), entry.running()
        if running is not None and running.process.here and running.process.alive:
            await terminate(running)
        if setup is not None and setup.key:
            await clean(described_in(setup), [setup.key])
    entry.remove()


# --- as a job ----------------------------------------------------------------------------------------------------


async def _submit(entry: Entry, setup: Setup, backend: Backend, description: Description) -> None:
    """One job whose command is the head."""
    name = description.headed.pool or next(iter(description.pools))
    options = {**description.pools[name], "workers_per_job": 1, **description.headed.options}
    spec = Description(pools={name: options}).options[name].spec("", {}, "")
    command = (spec.request.python or sys.executable, "-m", "dask_adaptive.head", str(entry.folder))
    shape = replace(spec.shape, workers=1, resources={})
    environment = {"PATH": os.environ.get("PATH", os.defpath), **spec.environment}  # where the manager's commands are
    spec = replace(spec, shape=shape, gpus=0, preload=(), worker_arguments=(), environment=environment, command=command)
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
