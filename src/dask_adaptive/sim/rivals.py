"""Other autoscalers, restated as policies from their documented rules: what ours are compared with.

Each looks as often as it does in its own home, and gives the same answer in between. They size the first pool; others
have their minimum. A rival sees what every policy sees: it does not know which of the ready tasks are assigned to a
worker and not begun, so these count as queued.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice, repeat
from typing import Any

from dask_adaptive.model import Past, PoolView, Target, View, Want

__all__ = ["RIVALS", "Dask", "Dask2017", "Parsl", "Ray", "Spark", "dask_closable", "dask_recommended", "dask_target"]

UNKNOWN_S = 0.5
"""What Dask expects of a task of an unknown prefix: ``distributed.scheduler.unknown-task-duration``."""


class _Periodic:
    """Decides by ``size`` every ``interval_s`` seconds.

    While nothing happens it looks every ``quiet_s`` seconds where that could change anything, else not at all.
    """

    interval_s = 1.0
    quiet_s = 1.0

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The jobs of the first pool, with a reason; see ``Policy``."""
        left_s = past.get("due_s", -math.inf) - view.now_s
        again_s: float | None = left_s
        if left_s <= 1e-6:
            jobs, reason, state = self.size(view, view.pools[0], past.get("state", {}))
            jobs = view.pools[0].pool.limits.clip(jobs)
            past = {"due_s": view.now_s + self.interval_s, "jobs": jobs, "reason": reason, "state": state}
            again_s = self.quiet_s if view.load.idle or self.waits(state) else None
        wants = {pool.pool.name: Want(pool.pool.limits.minimum, "the minimum") for pool in view.pools}
        wants[view.pools[0].pool.name] = Want(past["jobs"], past["reason"])
        return Target(wants, look_again_s=again_s), past

    def waits(self, state: Mapping[str, Any]) -> bool:
        """Whether the answer may change by time alone, although no job is idle."""
        return bool(state)

    def size(self, view: View, pool: PoolView, state: Mapping[str, Any]) -> tuple[int, str, dict[str, Any]]:
        """Jobs, the reason, and what to remember."""
        raise NotImplementedError


def _tasks(view: View) -> int:
    return sum(group.ready for group in view.load.groups)


def _running(view: View) -> int:
    return sum(group.running for group in view.load.groups)


def _expired(view: View, idle_s: float) -> int:
    """Jobs that were idle for so long."""
    return sum(view.now_s - job.since_s >= idle_s for job in view.load.idle)


# --- Dask ------------------------------------------------------------------------------------------------------


def dask_target(
    *,
    running_s: float,
    queued_s: Sequence[float],
    queued: int,
    processing: int,
    workers: int,
    threads: int,
    memory_bytes: float,
    held_bytes: float,
    closable: int,
    target_duration_s: float = 5.0,
) -> int:
    """How many workers Dask asks for: ``Scheduler.adaptive_target`` of ``distributed`` 2026.8, restated.

    Parameters
    ----------
    running_s:
        Expected run time of the tasks that workers have (``total_occupancy``).
    queued_s, queued:
        Expected run time of the first 100 tasks that wait in the scheduler; how many wait there.
    processing:
        How many tasks workers have.
    workers, threads, memory_bytes, held_bytes:
        What is registered, with the sum of the memory limits and of the results held.
    closable:
        Workers that could be closed: see ``dask_closable``.
    target_duration_s:
        Seconds in which the work should be done.
    """
    expected_s = math.fsum(queued_s) * (queued / 100 if queued > 100 else 1)
    wanted = min(math.ceil((running_s + expected_s) / target_duration_s), queued + processing)
    if workers:
        wanted = math.ceil(wanted / threads * workers)
    elif queued:
        wanted = max(1, wanted)
    if held_bytes > 0.6 * memory_bytes > 0:
        wanted = max(wanted, 2 * workers)
    return wanted if wanted >= workers else workers - closable


def dask_closable(idle_bytes: Sequence[float], each_bytes: float, memory_bytes: float, held_bytes: float) -> int:
    """How many idle workers may go: as long as twice the results fit into what stays, those with the least first.

    ``Scheduler.workers_to_close(memory_ratio=2)`` of ``distributed`` 2026.8, restated. ``idle_bytes``: results that
    each idle worker holds; ``each_bytes``: memory limit of one; ``memory_bytes``, ``held_bytes``: of all workers.
    """
    closable = 0
    for _ in idle_bytes:
        memory_bytes -= each_bytes
        if memory_bytes < 2 * held_bytes:
            break
        closable += 1
    return closable


def dask_recommended(
    target: int, planned: int, idle: Sequence[str], counts: Mapping[str, int], *, coming: int, wait_count: int = 3
) -> tuple[int, dict[str, int]]:
    """The size after one round, and how often each worker was to be closed: ``AdaptiveCore.recommendations``, restated.

    Parameters
    ----------
    target, planned:
        Workers wanted, and asked for so far; ``coming`` of them have not arrived.
    idle:
        Names of the workers that may go, the first to go first.
    counts:
        What the round before returned.
    wait_count:
        Rounds in a row in which a worker must be superfluous.
    """
    if target >= planned:
        return target, {}
    gone = [f"coming {number}" for number in range(min(coming, planned - target))]
    if target < planned - len(gone):
        gone += idle[: max(0, planned - coming - target)]
    counted = {name: counts.get(name, 0) + 1 for name in gone}
    closed = {name for name, count in counted.items() if count >= wait_count}
    return planned - len(closed), {name: count for name, count in counted.items() if name not in closed}


class Dask(_Periodic):
    """``distributed.deploy.Adaptive`` of today, with its defaults.

    Parameters
    ----------
    target_duration_s, wait_count:
        As of Dask: the work should be done within so many seconds; rounds before a worker is closed.
    """

    def __init__(self, target_duration_s: float = 5.0, wait_count: int = 3) -> None:
        self.target_duration_s, self.wait_count = target_duration_s, wait_count

    def size(self, view: View, pool: PoolView, state: Mapping[str, Any]) -> tuple[int, str, dict[str, Any]]:
        """See ``dask_target`` and ``dask_recommended``."""
        workers, capacity = pool.pool.shape.workers, pool.capacity
        idle = sorted(view.load.idle, key=lambda job: job.held_bytes)
        each_bytes = pool.pool.shape.memory_bytes * workers
        running_s, queued_s = _expected_s(view)
        wanted = dask_target(
            running_s=running_s,
            queued_s=queued_s,
            queued=_tasks(view) - _running(view),
            processing=_running(view),
            workers=capacity.workers,
            threads=max(1, capacity.threads),
            memory_bytes=capacity.memory_bytes,
            held_bytes=capacity.held_bytes,
            closable=workers
            * dask_closable([job.held_bytes for job in idle], each_bytes, capacity.memory_bytes, capacity.held_bytes),
            target_duration_s=self.target_duration_s,
        )
        target = pool.pool.limits.clip(math.ceil(wanted / workers))
        jobs, counts = dask_recommended(
            target, pool.size, [job.name for job in idle], state, coming=pool.coming, wait_count=self.wait_count
        )
        return jobs, f"adaptive_target is {wanted}", counts


def _expected_s(view: View) -> tuple[float, list[float]]:
    """Expected run time of what runs, and of the first 100 tasks that wait."""
    rows = [(group, UNKNOWN_S if group.mean_s is None else group.mean_s) for group in view.load.groups]
    waiting = (each for group, mean_s in rows for each in repeat(mean_s, group.ready - group.running))
    return math.fsum(group.running * mean_s for group, mean_s in rows), list(islice(waiting, 100))


class Dask2017(_Periodic):
    """The first ``Adaptive`` of Dask: twice as many while there is much to do, every idle one closed at once.

    Source: ``distributed/deploy/adaptive.py`` of distributed 1.20 (2017), ``scale_factor`` 2.

    Parameters
    ----------
    startup_s:
        Its ``startup_cost``: there is much to do while it takes twice as long as a start.
    """

    def __init__(self, startup_s: float = 1.0) -> None:
        self.startup_s = startup_s

    def size(self, view: View, pool: PoolView, state: Mapping[str, Any]) -> tuple[int, str, dict[str, Any]]:  # noqa: ARG002
        """Double, or let go what is idle."""
        capacity, ready = pool.capacity, _tasks(view)
        running_s, _ = _expected_s(view)
        work_s = running_s + sum(
            (UNKNOWN_S if group.mean_s is None else group.mean_s) * (group.ready - group.running)
            for group in view.load.groups
        )
        slow = ready > capacity.threads and work_s / (capacity.threads + 1e-9) > 2.0 * self.startup_s
        full = capacity.memory_bytes > 0 and capacity.held_bytes > 0.6 * capacity.memory_bytes
        if slow or full or (ready and not pool.size):
            jobs = max(1, 2 * pool.ready, pool.size)
            return jobs, f"{work_s:.1f} s of work on {capacity.threads} threads", {}
        idle = sorted(job.held_bytes for job in view.load.idle)
        each_bytes = pool.pool.shape.memory_bytes * pool.pool.shape.workers
        closable = dask_closable(idle, each_bytes, capacity.memory_bytes, capacity.held_bytes)
        return pool.size - closable, f"{closable} are idle", {}


# --- others ----------------------------------------------------------------------------------------------------


class Spark(_Periodic):
    """Spark's dynamic allocation: after 1 s of backlog one more, then 2, 4, 8 ... each second; idle ones go after 60 s.

    Source: "Job Scheduling", section "Dynamic Resource Allocation", and ``spark.dynamicAllocation.*`` of the
    configuration page of Spark 3.5, with their defaults.

    Parameters
    ----------
    idle_s:
        Seconds that an executor is idle before it goes (``executorIdleTimeout``).
    """

    interval_s = 0.1

    def __init__(self, idle_s: float = 60.0) -> None:
        self.idle_s = idle_s

    def size(self, view: View, pool: PoolView, state: Mapping[str, Any]) -> tuple[int, str, dict[str, Any]]:
        """What was asked for so far, and one step more when it is due."""
        tasks = _tasks(view)
        needed = math.ceil(tasks / pool.pool.shape.job_threads)
        target, step, due_s = state.get("target", 0), state.get("step", 1), state.get("due_s")
        if needed < target:
            target, step = needed, 1
        if tasks <= _running(view):
            step, due_s = 1, None
        elif due_s is None:
            due_s = view.now_s + 1.0
        elif view.now_s >= due_s - 1e-6:
            before = max(target, pool.ready)
            target = min(before + step, needed)
            step, due_s = (2 * step if target - before == step else 1), view.now_s + 1.0
        jobs = max(target, pool.ready - _expired(view, self.idle_s))
        return jobs, f"{target} asked for, at most {needed} needed", {"target": target, "step": step, "due_s": due_s}

    def waits(self, state: Mapping[str, Any]) -> bool:
        """Whether a step is due."""
        return state["due_s"] is not None


class Ray(_Periodic):
    """Ray's autoscaler: as many as pending tasks fill, at most max(5, those running) at once; idle ones go after 5 min.

    Source: "Cluster YAML configuration" of Ray 2: ``upscaling_speed`` 1.0, ``idle_timeout_minutes`` 5, an update every
    5 s.

    Parameters
    ----------
    idle_s:
        Seconds that a node is idle before it goes (``idle_timeout_minutes``).
    """

    interval_s = quiet_s = 5.0

    def __init__(self, idle_s: float = 300.0) -> None:
        self.idle_s = idle_s

    def size(self, view: View, pool: PoolView, state: Mapping[str, Any]) -> tuple[int, str, dict[str, Any]]:  # noqa: ARG002
        """Fill what there is, ask for the rest."""
        missing = math.ceil(_tasks(view) / pool.pool.shape.job_threads) - pool.size
        more = min(missing, max(5, pool.ready) - pool.coming)
        if more > 0:
            return pool.size + more, f"{missing} missing", {}
        return pool.size - _expired(view, self.idle_s), f"idle ones go after {self.idle_s:g} s", {}


class Parsl(_Periodic):
    """Parsl's ``simple`` strategy: a slot for each task at once; all go when nothing was to be done for 120 s.

    Source: "Elasticity" in the user guide of Parsl; ``parallelism`` 1, ``max_idletime`` 120 s, every 5 s.

    Parameters
    ----------
    parallelism:
        Slots for each task.
    idle_s:
        Seconds without a task before all go (``max_idletime``).
    """

    interval_s = quiet_s = 5.0

    def __init__(self, parallelism: float = 1.0, idle_s: float = 120.0) -> None:
        self.parallelism, self.idle_s = parallelism, idle_s

    def size(self, view: View, pool: PoolView, state: Mapping[str, Any]) -> tuple[int, str, dict[str, Any]]:
        """As many slots as tasks."""
        tasks = _tasks(view)
        if tasks:
            needed = math.ceil(tasks * self.parallelism / pool.pool.shape.job_threads)
            return max(pool.size, needed), f"{tasks} tasks", {}
        since_s = state.get("idle_since_s", view.now_s)
        if view.now_s - since_s >= self.idle_s - 1e-6:
            return 0, f"nothing to do for {self.idle_s:g} s", {"idle_since_s": since_s}
        return pool.size, "nothing to do", {"idle_since_s": since_s}


RIVALS = {"dask": Dask, "dask-2017": Dask2017, "spark": Spark, "ray": Ray, "parsl": Parsl}
"""Every rival by its name; each has the defaults of its home. ``static-best`` is a search and not a policy."""
