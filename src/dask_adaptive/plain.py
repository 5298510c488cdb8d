"""A cluster of which nothing is known but that it has ``scale_up(n)`` and ``scale_down(workers)``, plain or ``async``.

Every registered worker is a job, or every group of workers that ``worker_key`` puts together. What was asked for and
is not there yet has a made-up name until a new worker takes its place.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distributed.deploy.cluster import Cluster

from dask_adaptive.foreign import POOL, Members, Seen, Work
from dask_adaptive.model import Load, Member, Shape

__all__ = ["Plain"]


class Plain:
    """The side of any cluster.

    Parameters
    ----------
    cluster:
        Has ``scale_up(n)`` or ``scale(n)``: have ``n`` workers in all; and ``scale_down(workers)``: forget these, which
        were drained and closed. It gets their addresses; one that derives from ``distributed.deploy.Cluster`` gets
        their names, as from Dask's own ``Adaptive``.
    scale_up, scale_down:
        To be called instead.
    """

    one_by_one = True
    resized = ""

    def __init__(
        self,
        cluster: Any,
        scale_up: Callable[[int], Any] | None = None,
        scale_down: Callable[[Sequence[Any]], Any] | None = None,
    ) -> None:
        self._cluster = cluster
        self._scale_up = scale_up or getattr(cluster, "scale_up", None) or cluster.scale
        self._scale_down = scale_down or cluster.scale_down
        self._by_name = isinstance(cluster, Cluster) and scale_down is None and not hasattr(cluster, "controller")
        self._coming: dict[str, None] = {}
        self._there: Members = {}
        self._numbers = itertools.count(1)

    def shape(self, load: Load) -> Shape:
        """See ``Side``: as seen, else one thread; with the resources that one task needs."""
        resources = {name: amount for group in load.groups for name, amount in group.need.items()}
        seen = load.pools.get(POOL)
        if seen is None or not seen.workers:
            return Shape(resources=resources)
        threads = round(seen.threads / max(1, seen.workers - seen.paused))
        workers = max(1, round(seen.workers / max(1, len(load.members))))
        return Shape(workers, max(1, threads), seen.memory_bytes // seen.workers, resources)

    def jobs(self, members: Members) -> Mapping[str, Seen]:
        """See ``Side``."""
        new = sum(name not in self._there for name in members)
        for name in list(itertools.islice(self._coming, new)):
            del self._coming[name]
        self._there = members
        return {name: Seen(len(each)) for name, each in members.items()} | dict.fromkeys(self._coming, Seen())

    def grow(self, count: int, members: Members) -> Work:
        """See ``Side``."""
        names = tuple(f"coming-{next(self._numbers)}" for _ in range(count))
        self._coming.update(dict.fromkeys(names))
        present = sum(len(each) for each in members.values())
        per_job = max(1, round(present / len(members))) if members else 1
        return [(names, _called(self._scale_up, present + per_job * len(self._coming)))]

    def handles(self, members: Sequence[Member]) -> tuple[Any, ...]:
        """See ``Side``: names as the scheduler has them (perhaps numbers), or addresses."""
        if not self._by_name:
            return tuple(member.address for member in members)
        known = self._cluster.scheduler_info.get("workers", {})
        return tuple(known.get(member.address, {}).get("name", member.name) for member in members)

    def release(self, jobs: Mapping[str, tuple[Any, ...]]) -> Work:
        """See ``Side``. Nothing is told of a job that never came."""
        self.forget(jobs)
        workers = [worker for each in jobs.values() for worker in each]
        return [(tuple(jobs), _called(self._scale_down, workers))] if jobs else []

    def forget(self, names: Iterable[str]) -> None:
        """See ``Side``."""
        for name in names:
            self._coming.pop(name, None)


async def _called(function: Callable[[Any], Any], argument: Any) -> Any:
    """The outcome of a function that may be plain or ``async``; not called at all for no workers."""
    if argument == []:
        return None
    outcome = function(argument)
    return await outcome if inspect.isawaitable(outcome) else outcome
