"""From what is and what should be to what to do: ``(Snapshot, Target) -> Plan``.

The rules, in this order:

1. While the job list of a pool is stale nothing is started or given up: "could not look" is not "is gone".
2. Every job that may still hold resources of the manager counts against the maximum, whoever knows of it.
3. Nothing is submitted to a pool that is broken, or while a submit for it is in flight.
4. Given up are whole jobs that serve nothing now, at most the surplus. A busy job stays, unless the target is firm
   (somebody said so); then it is drained: it finishes what it runs. One that refused is left alone for a while.
5. A job whose walltime is nearly over counts for nothing any more: it is replaced while it still serves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from dask_adaptive.errors import PolicyError, nearest
from dask_adaptive.model import (
    ALIVE,
    EXPECTED,
    Cancel,
    Capacity,
    IdleJob,
    Life,
    Load,
    Phase,
    Plan,
    PoolState,
    PoolView,
    Retire,
    Snapshot,
    Submit,
    Target,
    View,
    Want,
)
from dask_adaptive.policy.victims import victims
from dask_adaptive.walltime import leaving

__all__ = ["checked", "make_plan", "view_of"]

REFUSED_S = 5.0
"""How long a job whose drain was refused is not asked again, and not counted as idle."""

# The hash of an enum member is computed in Python, its identity is not: this is what makes 10,000 jobs cheap.
_PHASES = {id(phase): phase for phase in Phase}


def view_of(snapshot: Snapshot) -> View:
    """What a policy may know of a snapshot: jobs counted by pool and phase in one pass."""
    counts, load = _counts(snapshot.lives), _willing(snapshot)
    known, ready = snapshot.lives.get, Phase.READY
    serving = [life.pool for job in load.idle if (life := known(job.name)) is not None and life.phase is ready]
    idle = Counter(serving)
    pools = tuple(
        PoolView(
            pool=state.pool,
            phases=counts.get(name, {}),
            capacity=load.pools.get(name, Capacity()),
            startup=state.startup,
            broken=state.broken,
            idle=idle[name],
        )
        for name, state in snapshot.pools.items()
    )
    return View(snapshot.at_s, snapshot.interval_s, load, pools)


def make_plan(snapshot: Snapshot, target: Target, view: View | None = None) -> Plan:
    """What to start in this round so that each pool comes nearer to its target.

    Parameters
    ----------
    snapshot:
        Everything that is known as of this round.
    target:
        Jobs wanted by pool; see ``checked``.
    view:
        The view of this snapshot, if it is at hand; it saves counting the jobs again.

    Returns
    -------
    Plan
        Submits, retires and cancels; ``held`` says for each pool why less is started than the target asks for.
    """
    view = view or view_of(snapshot)
    counts = {pool.pool.name: pool.phases for pool in view.pools}
    submits: list[Submit] = []
    retires: list[Retire] = []
    cancels: list[Cancel] = []
    held: dict[str, str] = {}
    for name, state in snapshot.pools.items():
        want = target.pools[name]
        phases = counts.get(name, {})
        going = leaving(snapshot, name)
        expected = sum(phases.get(phase, 0) for phase in EXPECTED) - len(going)
        maximum = state.pool.limits.maximum
        jobs = want.jobs if maximum is None else min(want.jobs, maximum)
        if state.stale:
            if jobs != expected:
                held[name] = f"the job list is stale: {state.stale}"
        elif jobs > expected:
            alive = sum(phases.get(phase, 0) for phase in ALIVE) + state.strays
            count, why = _room(state, jobs - expected, alive, snapshot.at_s)
            if count:
                submits.append(Submit(name, count, want.reason))
            if why:
                held[name] = why
        elif jobs < expected:
            missed = _give_up(snapshot, name, expected - jobs, want, going, retires, cancels)
            if missed:
                held[name] = f"{missed} more than wanted: busy, or not to be given up now"
    return Plan(tuple(submits), tuple(retires), tuple(cancels), held)


def checked(target: Target, view: View) -> Target:
    """The target, if it keeps the contract of a policy.

    Raises
    ------
    PolicyError
        If it misses a pool or names one that is not there, if a size is not a whole number from 0 on, or if a reason
        is missing.
    """
    names = [pool.pool.name for pool in view.pools]
    for name in names:
        if name not in target.pools:
            raise PolicyError(f"the target does not name pool {name!r}")
    for name, want in target.pools.items():
        if name not in names:
            raise PolicyError(f"the target names pool {name!r}, which is not there; {nearest(name, names)}")
        if isinstance(want.jobs, bool) or not isinstance(want.jobs, int) or want.jobs < 0:
            raise PolicyError(f"the target for pool {name!r} is {want.jobs!r}, not a whole number from 0 on")
        if not want.reason.strip():
            raise PolicyError(f"the target for pool {name!r} has no reason")
    return target


def _counts(lives: Mapping[str, Life]) -> dict[str, dict[Phase, int]]:
    counts: dict[str, dict[Phase, int]] = {}
    numbers = Counter([(life.pool, id(life.phase)) for life in lives.values()])
    for (pool, phase), number in numbers.items():
        counts.setdefault(pool, {})[_PHASES[phase]] = number
    return counts


def _room(state: PoolState, missing: int, alive: int, at_s: float) -> tuple[int, str]:
    """How many of the missing jobs may be submitted now, and why not all of them."""
    if state.broken and at_s < state.retry_s:
        return 0, f"{state.broken}; next try in {math.ceil(state.retry_s - at_s)} s"
    if state.submitting:
        return 0, "a submit is in flight"
    maximum = state.pool.limits.maximum
    if maximum is None or alive + missing <= maximum:
        return missing, ""
    return max(0, maximum - alive), f"{alive} of at most {maximum} jobs are there, those that are ending included"


def _refused_lately(snapshot: Snapshot) -> frozenset[str]:
    """Jobs that serve again since a drain was refused, and are not asked for some time: what they hold stays."""
    after_s, ready = snapshot.at_s - REFUSED_S, Phase.READY
    recent = [life for life in snapshot.lives.values() if life.since_s > after_s]
    return frozenset(life.name for life in recent if life.phase is ready and life.since_s > life.ready_s)


def _willing(snapshot: Snapshot) -> Load:
    """The load, with those jobs only as idle that could be given up now."""
    load, refused = snapshot.load, _refused_lately(snapshot)
    return replace(load, idle=tuple(job for job in load.idle if job.name not in refused)) if refused else load


def _give_up(
    snapshot: Snapshot,
    pool: str,
    surplus: int,
    want: Want,
    going: frozenset[str],
    retires: list[Retire],
    cancels: list[Cancel],
) -> int:
    """Plan to give up at most ``surplus`` jobs, none of those ``going`` anyway; return how many could not be."""
    idle: dict[str, IdleJob] = {job.name: job for job in snapshot.load.idle}
    apart = going | _refused_lately(snapshot)
    own = [life for life in snapshot.lives.values() if life.pool == pool and life.name not in apart]
    chosen = victims(own, idle, snapshot.load.members, surplus, busy=want.firm)
    for life in chosen:
        if life.phase is Phase.READY:
            retires.append(Retire(life.name, want.reason, busy=life.name not in idle))
        else:
            cancels.append(Cancel(life.name, want.reason))
    return surplus - len(chosen)
