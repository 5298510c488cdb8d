"""In which order jobs are given up: the cheapest loss first."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping

from dask_adaptive.model import IdleJob, Life, Phase

__all__ = ["victims"]

_Rank = tuple[float, float, float, float, str]


def victims(
    lives: Iterable[Life], idle: Mapping[str, IdleJob], members: Collection[str], count: int, *, busy: bool = False
) -> list[Life]:
    """At most ``count`` jobs that may be given up, the cheapest loss first.

    1. submitted, but not in the manager's queue yet; 2. queued, the newest first: an older place in the queue is
    worth more; 3. starting, the newest first; 4. idle, with the least data of which it has the only copy, then the
    least data, then the longest idle; 5. only where ``busy`` allows it, serving jobs that are not idle, the newest
    first. Never a job that has a part of its workers registered, whose submit is in flight, or of which nothing is
    known.

    Parameters
    ----------
    lives:
        The jobs to choose from, all of one pool.
    idle:
        Jobs all of whose workers are idle, by name.
    members:
        Names of all jobs that have registered workers.
    count:
        How many to give up.
    busy:
        Whether serving jobs that are not idle may be drained too.
    """
    ranked: list[tuple[_Rank, Life]] = []
    for life in lives:
        rank = _rank(life, idle, members, busy)
        if rank is not None:
            ranked.append((rank, life))
    return [life for _, life in heapq.nsmallest(count, ranked, key=lambda pair: pair[0])]


def _rank(life: Life, idle: Mapping[str, IdleJob], members: Collection[str], busy: bool) -> _Rank | None:
    phase = life.phase
    if phase is Phase.READY:
        job = idle.get(life.name)
        if job is not None:
            return (3, job.only_bytes, job.held_bytes, job.since_s, life.name)
        return (4, -life.ready_s, -life.since_s, 0, life.name) if busy else None
    if life.present or life.name in members:
        return None
    if phase is Phase.SUBMITTED:
        return (0, -life.submitted_s, -life.since_s, 0, life.name)
    if phase is Phase.QUEUED:
        return (1, -life.submitted_s, -life.since_s, 0, life.name)
    if phase is Phase.STARTING:
        return (2, -life.running_s, -life.since_s, 0, life.name)
    return None
