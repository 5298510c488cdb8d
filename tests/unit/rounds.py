"""What would be decided of jobs as an actuator shows them."""

from __future__ import annotations

from collections.abc import Iterable

from dask_adaptive.actuator import Observed
from dask_adaptive.model import IdleJob, Load, Snapshot, Target, Want
from dask_adaptive.plan import make_plan, view_of


def idle_and_asked(seen: Observed, idle: Iterable[str], now_s: float) -> tuple[int, tuple[str, ...]]:
    """How many of these jobs, all without work, count as idle, and which would be retired if none were wanted."""
    load = Load(now_s, idle=tuple(IdleJob(job, 0.0) for job in idle))
    snapshot = Snapshot(now_s, 1.0, load, seen.lives, seen.pools)
    view = view_of(snapshot)
    plan = make_plan(snapshot, Target({name: Want(0, "nobody works") for name in seen.pools}), view)
    assert sum(pool.idle for pool in view.pools) == len(view.load.idle)
    return len(view.load.idle), tuple(retire.job for retire in plan.retires)
