"""Ends named heads, cleans up after those that died, and tells what has become of each."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dask_adaptive.alerts import Alerts, Event, hooks_of
from dask_adaptive.backend.contracts import Backend
from dask_adaptive.config import setting
from dask_adaptive.controller import clock
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, BackendError, ConfigError, EngineError
from dask_adaptive.head.control import ask
from dask_adaptive.head.orphans import clear, end_jobs
from dask_adaptive.head.state import Entry, Running, Setup, Standing, claim
from dask_adaptive.model import JobId, JobState
from dask_adaptive.options import backends_of
from dask_adaptive.owners import owner_of, owners

__all__ = [
    "clean",
    "described_in",
    "down",
    "head_backend",
    "head_log",
    "lost",
    "nothing_can_be_left",
    "overview",
    "reap",
    "terminate",
]

LOOK_S = 0.1
GLANCE_S = 8.0
END_S = 120.0
KILL_S = 20.0
PATIENCE_S = 15.0
"""How long a manager may show a job that ended by itself, before it is told to end it."""


def described_in(setup: Setup) -> Description:
    """The cluster that was asked for."""
    return Description(**setup.description)


def head_backend(description: Description) -> Backend:
    """The backend of the pool that the head belongs to."""
    name = description.headed.pool or next(iter(description.pools))
    backend = backends_of(description.options)[name]
    if getattr(backend, "ends_with_owner", False):
        raise ConfigError(
            f"a head cannot be a job of the backend {backend.name!r}: its jobs end with the command that started them; "
            "say --head here, or another backend"
        )
    return backend


# --- down --------------------------------------------------------------------------------------------------------


async def down(entry: Entry, *, say: Callable[[str], None], timeout_s: float = END_S) -> Sequence[str]:
    """End a head with everything that is its own; what had to be done beyond asking it, a sentence each.

    Raises
    ------
    AdaptiveError
        If something of it may be left; its entry stays then, so that it can be tried again. A head that ended in order
        had no job left: a manager that cannot be asked whether that is so is a note.
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
            await terminate(running)
    if entry.folder.exists():
        notes += await reap(entry, tells=False)
    elif setup is not None:
        notes += await _looked_after(entry, setup, running)
    return notes


async def _looked_after(entry: Entry, setup: Setup, running: Running | None) -> list[str]:
    """Look whether the managers show nothing either, after a head that ended in order.

    Where they do and it cannot be helped, the head has its entry again.
    """
    keys = _keys(setup, running)
    vouched = running is not None and owner_of(running.key) is None  # what a head leaves has an owner still
    try:
        return await clean(described_in(setup), keys, patience_s=PATIENCE_S, vouched=vouched)
    except AdaptiveError as error:
        with suppress(ConfigError):  # somebody else has the name by now
            again = claim(entry.name)
            again.write(setup)
            if running is not None:
                again.write(replace(running, address="", failed=str(error)))
        raise


def _keys(setup: Setup, running: Running | None) -> list[str]:
    """What the names of all jobs of this head begin with: its own, and those of its cluster."""
    return [key for key in (setup.key, running.key if running is not None else "") if key]


async def _gone(entry: Entry, running: Running, timeout_s: float) -> bool:
    """Wait until the head has ended: its process is gone, or, elsewhere, its entry."""
    waited_s = 0.0
    while True:
        if not entry.folder.exists() and (not running.process.here or not running.process.alive):
            return True
        if running.process.here and not running.process.alive:
            return True
        if running.failed and not running.process.here:
            return True
        if waited_s >= timeout_s:
            return False
        await asyncio.sleep(LOOK_S)
        waited_s += LOOK_S


async def terminate(running: Running) -> None:
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


# --- all of them -------------------------------------------------------------------------------------------------


async def overview(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row for each head, in plain values: name, state, workers, jobs, host, pid, since_s, address, dashboard."""
    return list(await asyncio.gather(*(_row(entry) for entry in entries)))


async def _row(entry: Entry) -> dict[str, Any]:
    running, setup = entry.running(), entry.setup()
    process = running.process if running is not None else setup.starter if setup is not None else None
    state, about = await _state(entry)
    return {
        "name": entry.name,
        "state": state,
        "workers": about.get("workers"),
        "jobs": sum(pool["jobs"] for pool in about["pools"]) if about else None,
        "host": process.host if process else "",
        "pid": process.pid if process else None,
        "since_s": running.since_s if running else process.started_s if process else 0.0,
        "address": running.address if running else "",
        "dashboard": running.dashboard if running else "",
    }


async def _state(entry: Entry) -> tuple[str, Mapping[str, Any]]:
    """What to call its state, and what it says of itself where it can be asked."""
    running, standing = entry.running(), entry.standing()
    if standing is Standing.LOST or standing is Standing.STARTING:
        return standing.value, {}
    if running is None or not running.address:
        return "queued", {}
    try:
        return "running", await ask(running.address, entry.security(), "status", timeout_s=GLANCE_S)
    except AdaptiveError:
        return "unreachable", {}


async def head_log(entry: Entry) -> str:
    """The end of what the head printed: here, or as the job that it is."""
    setup = entry.setup()
    if setup is None or not setup.job:
        return entry.printed()
    backend = head_backend(described_in(setup))
    try:
        await backend.jobs(setup.key)
        return await backend.log(JobId(setup.job))
    finally:
        await backend.aclose()


async def lost(entries: Sequence[Entry]) -> list[Entry]:
    """The heads that died: their process is gone, or a manager says that the job that they were has ended."""
    return [entry for entry in entries if entry.standing() is Standing.LOST or await _job_ended(entry)]


async def _job_ended(entry: Entry) -> bool:
    """Whether this head is a job elsewhere that does not answer, and whose manager shows it no more."""
    setup = entry.setup()
    if setup is None or not setup.key or (await _state(entry))[0] == "running":
        return False
    backend = head_backend(described_in(setup))
    try:
        jobs = await backend.jobs(setup.key)
    except BackendError:
        return False  # could not look is not gone
    finally:
        await backend.aclose()
    return not any(job.state is not JobState.ENDED for job in jobs)


# --- reap --------------------------------------------------------------------------------------------------------


def nothing_can_be_left(entry: Entry) -> bool:
    """Whether every job of this head ended with it, so that its entry may be forgotten without asking anybody."""
    with suppress(AdaptiveError):
        setup = entry.setup()
        if setup is None:
            return True
        backends = backends_of(described_in(setup).options).values()
        return not setup.key and all(getattr(each, "ends_with_owner", False) for each in backends)
    return False


async def reap(entry: Entry, *, tells: bool = True) -> Sequence[str]:
    """Cancel what a lost head left with its resource managers, wait until they show nothing, and forget the head.

    The hooks of its cluster are told, unless ``tells`` is False.

    Returns
    -------
    Sequence[str]
        What was cancelled, a sentence each.

    Raises
    ------
    ConfigError
        If the head is alive.
    AdaptiveError
        If a manager cannot be asked or still shows something; the entry stays.
    """
    setup, running = entry.setup(), entry.running()
    if running is not None and running.process.here and running.process.alive:
        raise ConfigError(f"it runs; `dask adaptive down {entry.name}` ends it")
    notes: list[str] = []
    keys = _keys(setup, running) if setup is not None else []
    for owner in owners():
        if owner.key in keys or (running is not None and owner.process == running.process):
            notes += await clear(owner)
    notes += await clean(described_in(setup), keys) if setup is not None else []
    entry.remove()
    if setup is not None and tells:
        await asyncio.to_thread(_tell_of, entry.name, described_in(setup), notes)
    return notes


def _tell_of(name: str, description: Description, notes: Sequence[str]) -> None:
    """Tell the hooks of a cluster that it lost its head."""
    sentence = "; ".join(["its head was lost, and nothing of it is left", *notes])
    with suppress(ConfigError):  # a hook that is not on this machine
        alerts = Alerts(hooks_of(setting("on-event") if description.on_event is None else description.on_event))
        alerts.tell([Event("head-lost", name, "", sentence, clock())])
        alerts.close()


async def clean(
    description: Description, keys: Sequence[str], *, patience_s: float = 0.0, vouched: bool = False
) -> list[str]:
    """Ask every backend that may have jobs with one of these keys, and cancel those that live on after ``patience_s``.

    Returns what had to be cancelled, a sentence each. Raises ``AdaptiveError`` where jobs may be left; ``vouched`` as
    of ``end_jobs``.
    """
    notes: list[str] = []
    unique = {id(each): each for each in backends_of(description.options).values()}
    for backend in unique.values():
        if not getattr(backend, "ends_with_owner", False):
            notes += await end_jobs(backend, keys, patience_s=patience_s, vouched=vouched)
    return notes
