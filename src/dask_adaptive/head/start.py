"""Starts named heads: here in the background, or as a job of the resource manager."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace

from dask_adaptive.backend.contracts import Backend, Keeping
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, BackendError
from dask_adaptive.head.control import ask
from dask_adaptive.head.end import clean, described_in, head_backend, nothing_can_be_left, terminate
from dask_adaptive.head.state import Entry, Running, Setup, claim, entry_of, this_process
from dask_adaptive.model import Batch, Job, JobId, JobState
from dask_adaptive.tags import new_key

__all__ = ["troubles", "up"]

Say = Callable[[str], None]

LOOK_S = 0.1
TROUBLE_S = 2.0
"""How long to listen for what keeps a new cluster from getting jobs: the managers are first asked once it is up."""
UNSEEN_S = 2.0
"""How much longer than its list may lag a manager may not show the job before it is taken for gone."""


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


async def troubles(name: str, description: Description) -> dict[str, str]:
    """What the managers answered a head that has just come up, by pool, where that keeps it from getting jobs now.

    Jobs of the local backend need nobody's answer. A head that cannot be asked tells nothing.
    """
    entry, end_s = entry_of(name), time.monotonic() + TROUBLE_S
    running = entry.running()
    found: dict[str, str] = {}
    asked = [pool for pool, options in description.options.items() if options.backend != "local"]
    with suppress(AdaptiveError):
        while running is not None and asked and not found and time.monotonic() < end_s:
            await asyncio.sleep(LOOK_S)
            about = await ask(running.address, entry.security(), "status")
            words = {pool["pool"]: pool["stale"] or pool["broken"] for pool in about["pools"]}
            found = {pool: words[pool] for pool in asked if words.get(pool)}
    return found


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
    begun_s = time.monotonic()
    watch = None if backend is None else asyncio.ensure_future(_job_end(entry, backend))
    try:
        while not wait_s or time.monotonic() - begun_s < wait_s:
            running = entry.running()
            if running is not None and running.address:
                return running
            why = running.failed if running is not None else ""
            if process is not None and process.poll() is not None:
                why = why or _last_words(entry, process.returncode)
            if watch is not None and watch.done():
                why = why or watch.result()
            if why:
                raise AdaptiveError(f"cluster {entry.name!r} did not come up: {why}")
            await asyncio.sleep(LOOK_S)
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.wait({watch})  # a command that it runs is ended, too
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
    ours = {"PATH": os.environ.get("PATH", os.defpath), "XDG_STATE_HOME": str(entry.folder.parents[2])}
    environment = {**ours, **spec.environment}  # where the manager's commands are, and what is written down
    spec = replace(spec, shape=shape, gpus=0, preload=(), worker_arguments=(), environment=environment, command=command)
    tag = setup.key + new_key()
    [job] = await backend.submit(Batch(setup.key, name, tag, 1, spec))
    folders = await backend.folders(setup.key) if isinstance(backend, Keeping) else ()
    entry.write(replace(setup, job=job, folders=tuple(folders)))


async def _job_end(entry: Entry, backend: Backend) -> str:
    """Wait until the manager says that the job has ended, or shows it no more; its reason and last words."""
    setup = entry.setup()
    key, job_id = (setup.key, JobId(setup.job)) if setup is not None else ("", JobId(""))
    missing_s, patience_s = 0.0, backend.lag_s + UNSEEN_S
    job: Job | None = None
    while missing_s < patience_s:
        pause_s = float(getattr(backend, "poll_s", 1.0))
        await asyncio.sleep(pause_s)
        try:
            job = {job.id: job for job in await backend.jobs(key)}.get(job_id)
        except BackendError:
            continue  # could not look is not gone
        if job is not None and job.state is JobState.ENDED:
            break
        missing_s = 0.0 if job is not None else missing_s + pause_s
    reason = f", {job.reason}" if job is not None and job.reason else ""
    lines = (await backend.log(job_id)).strip().splitlines()
    return f"its job {job_id} ended{reason}" + (f"; it printed last: {lines[-1]}" if lines else "")
