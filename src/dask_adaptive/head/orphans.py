"""Clusters whose owner was killed, heads or not: found by what they wrote down, and cleaned up after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from dask_adaptive.backend.contracts import Backend, Keeping
from dask_adaptive.errors import AdaptiveError, BackendError, ConfigError
from dask_adaptive.head.state import entries
from dask_adaptive.model import JobId, JobState
from dask_adaptive.owners import Owner, forget, owners
from dask_adaptive.registry import made_backend
from dask_adaptive.waiting import within

__all__ = ["clear", "elsewhere", "end_jobs", "named", "orphans", "reap_orphan"]

LOOK_S = 0.1
QUIET_END_S = 60.0


def orphans(backend: str | None = None) -> list[Owner]:
    """The clusters that are no heads and whose owner on this machine is gone; only those with jobs of this backend.

    One whose scheduler was not its own is not among them: its jobs may serve still, until an owner comes back.
    """
    return [owner for owner in _of(backend) if owner.process.here and not owner.process.alive and not owner.scheduler]


def elsewhere(backend: str | None = None) -> list[Owner]:
    """The clusters that are no heads, and of which cannot be told from here whether they are orphans."""
    return [owner for owner in _of(backend) if not owner.process.here]


def named(name: str) -> list[Owner]:
    """The clusters with this name or key."""
    return [owner for owner in owners() if name in (owner.name, owner.key)]


def _of(backend: str | None) -> list[Owner]:
    heads = [running.process for entry in entries() if (running := entry.running()) is not None]
    found = [owner for owner in owners() if owner.process not in heads]
    return [owner for owner in found if backend in (None, *(source.backend for source in owner.sources))]


async def reap_orphan(owner: Owner) -> Sequence[str]:
    """Cancel the jobs of an owner that is gone, wait until their managers show nothing, remove what they read.

    Returns
    -------
    Sequence[str]
        What was cancelled, a sentence each.

    Raises
    ------
    ConfigError
        If the owner lives or is on another machine.
    AdaptiveError
        If a manager cannot be asked or still shows something.
    """
    process = owner.process
    if not process.here:
        raise ConfigError(
            f"it belongs to process {process.pid} on {process.host}; `dask adaptive reap` there knows more"
        )
    if process.alive:
        raise ConfigError(f"it belongs to process {process.pid}, which runs; its close() ends it")
    return await clear(owner)


async def clear(owner: Owner) -> Sequence[str]:
    """The same, without asking what has become of the owner."""
    notes = []
    for source in owner.sources:
        backend: Backend = made_backend(source.backend, source.options)
        if isinstance(backend, Keeping):
            backend.take_over(source.folders)
        notes += await end_jobs(backend, [owner.key])
    forget(owner.key)
    return notes


async def end_jobs(
    backend: Backend, keys: Collection[str], *, patience_s: float = 0.0, vouched: bool = False
) -> list[str]:
    """Cancel the jobs with one of these keys that live on after ``patience_s``, and close the backend.

    Returns what had to be cancelled, a sentence each. Raises ``AdaptiveError`` where jobs may be left; what they read
    stays then. ``vouched``: their owner said that none is left; its word is taken where the manager cannot be asked.
    """
    notes = []
    seen: set[JobId] = set()
    try:
        for key in keys:
            count = await within(QUIET_END_S, _emptied(backend, key, patience_s, seen))
            notes += [f"jobs of {backend.name} that had to be cancelled: {count}"] if count else []
    except BaseException as error:
        await getattr(backend, "leave", backend.aclose)()
        if not isinstance(error, BackendError | asyncio.TimeoutError):
            raise
        if vouched and not seen:
            return [f"{backend.name} could not be asked; the head had no job left"]
        words = str(error) or f"jobs are left after {QUIET_END_S:g} s"
        raise AdaptiveError(f"{backend.name} may still have jobs of this cluster: {words}") from error
    await backend.aclose()
    return notes


async def _emptied(backend: Backend, key: str, patience_s: float, seen: set[JobId]) -> int:
    """Look until the manager shows no living job of this key any more; how many had to be cancelled."""
    told: set[JobId] = set()
    begun_s = time.monotonic()
    while alive := {job.id for job in await backend.jobs(key) if job.state is not JobState.ENDED}:
        seen |= alive
        if alive - told and time.monotonic() - begun_s >= patience_s:
            await backend.cancel(alive)
            told |= alive
        await asyncio.sleep(max(LOOK_S, min(getattr(backend, "poll_s", 1.0), 5.0)))
    return len(told)
