"""What a pool needs whatever its work is worth: memory for results, a job for who waits for one, workers kept for pins.

Shared by the policies; each floor adds its words to the reason of the want that it raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from dask_adaptive.model import Load, PoolView, View, Want
from dask_adaptive.phrases import count, number

__all__ = [
    "SPARE",
    "for_clients",
    "for_pinned",
    "for_results",
    "for_starved",
    "growth",
    "memory_jobs",
    "unique_bytes",
]

SPARE = 0.1
"""Part of a job that is not worth a start: the others work a little longer, or hold a little more."""


def for_results(want: Want, jobs: int) -> Want:
    """Never less than what holds the results."""
    return want if jobs <= want.jobs else Want(jobs, f"{want.reason}; {count(jobs, 'job')} for the results held")


def growth(load: Load) -> float:
    """How many times as many bytes of results there will be when the ready tasks have left theirs."""
    held = load.foreign.held_bytes + sum(capacity.held_bytes for capacity in load.pools.values())
    coming = sum(group.ready * group.held_bytes / group.done for group in load.groups if group.done)
    return 1.0 + coming / held if held else 1.0


def memory_jobs(pool: PoolView, held_bytes: float, memory: float) -> int:
    """Jobs that hold these results in ``memory`` of their limits; at most twice what serves, so that growth is seen."""
    if held_bytes <= 0:
        return 0
    usable = memory * pool.pool.shape.memory_bytes * pool.pool.shape.workers
    needed = max(1, math.ceil(held_bytes / usable - SPARE)) if usable > 0 else 1
    return min(needed, max(1, 2 * pool.ready))


def unique_bytes(pool: PoolView, load: Load) -> float:
    """Results that the pool holds, its part of the replicas left out."""
    everything = load.foreign.held_bytes + sum(capacity.held_bytes for capacity in load.pools.values())
    replicas = load.replicated_bytes * pool.capacity.held_bytes / everything if everything else 0.0
    return max(0.0, pool.capacity.held_bytes - replicas)


def for_clients(wants: Mapping[str, Want], view: View) -> Mapping[str, Want]:
    """One job at least for clients that wait for any worker, as in ``scatter``."""
    waiting = view.load.waiting_clients
    if not waiting or view.load.foreign.workers or any(want.jobs for want in wants.values()):
        return wants
    name = min(view.pools, key=lambda pool: (bool(pool.broken), pool.pool.price)).pool.name
    reason = f"{wants[name].reason}; {count(waiting, 'client')} waiting for a worker"
    return {**wants, name: Want(1, reason)}


def for_starved(want: Want, pool: PoolView, wait_s: float, worth_s: float) -> Want:
    """One job more than are busy for tasks that wait ``wait_s`` for a thread, if that is longer than ``worth_s``."""
    jobs = pool.ready - pool.idle + 1
    if not pool.ready or wait_s <= worth_s or want.jobs >= jobs:
        return want
    return Want(jobs, f"{want.reason}; 1 job more for tasks that would wait {number(wait_s)} s for what runs")


def for_pinned(want: Want, pool: PoolView, load: Load) -> Want:
    """Nothing that serves goes while tasks wait that are pinned to workers."""
    pinned = sum(group.waiting for group in load.groups if group.pinned)
    if not pinned or want.jobs >= pool.ready:
        return want
    kept = f"{count(pool.ready, 'job')} kept for {pinned} waiting tasks that are pinned to workers"
    return Want(pool.ready, f"{want.reason}; {kept}")
