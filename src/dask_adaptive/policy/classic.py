"""The simple policies: a fixed size, doubling, and a target duration.

None of them remembers anything: their answer is a function of the view alone. Patience, limits and budgets are put
around them by ``combine``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from dask_adaptive.errors import ConfigError, PolicyError, nearest
from dask_adaptive.model import Load, Past, PoolView, Target, View, Want
from dask_adaptive.phrases import bytes_text, count, number
from dask_adaptive.policy.demand import THREADS, Demand, demands, gaps_s, guess, guess_again_s, whole
from dask_adaptive.policy.floors import SPARE, for_clients, for_pinned, for_results, growth, memory_jobs, unique_bytes

__all__ = ["Doubling", "Fixed", "TargetDuration"]

_ROUGH = 1.25
"""How many times as many jobs a guess must ask for to be heard."""

_WORTH = 0.75
"""A new job must have work for this part of the time that it takes to start."""


class Fixed:
    """Always the same number of jobs.

    Parameters
    ----------
    jobs:
        Jobs by pool; a pool that is not named has its minimum. A plain number is meant for the first pool.

    Raises
    ------
    ConfigError
        If a number is negative or not whole.
    """

    def __init__(self, jobs: int | Mapping[str, int]) -> None:
        for amount in jobs.values() if isinstance(jobs, Mapping) else [jobs]:
            if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
                raise ConfigError(f"a number of jobs is a whole number from 0 on, not {amount!r}")
        self.jobs = jobs

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The numbers that were asked for."""
        names = [pool.pool.name for pool in view.pools]
        jobs = self.jobs if isinstance(self.jobs, Mapping) else {names[0]: self.jobs}
        for name in jobs:
            if name not in names:
                raise PolicyError(f"no pool {name!r}; {nearest(name, names)}")
        impossible = demands(view.load, view.pools, within_s=1.0, unknown_s=1.0).impossible
        return Target({pool.pool.name: _fixed(pool, jobs) for pool in view.pools}, impossible=impossible), past


def _fixed(pool: PoolView, jobs: Mapping[str, int]) -> Want:
    if pool.pool.name in jobs:
        return Want(jobs[pool.pool.name], f"{count(jobs[pool.pool.name], 'job')} asked for", firm=True)
    return Want(pool.pool.limits.minimum, "no number asked for: the minimum", firm=True)


class Doubling:
    """Grow by a factor while tasks wait and no worker is idle; the idea of Dask's first adaptive deployment.

    The next step is taken only when all jobs of the last one serve. Idle jobs are given up as soon as nothing waits.

    Parameters
    ----------
    factor:
        How many times as many jobs after one step; above 1, default 2.
    memory:
        Part of the workers' memory limits (0 to 1, default 0.5) above which results ask for more jobs too.
    """

    def __init__(self, factor: float = 2.0, memory: float = 0.5) -> None:
        _check_above("factor", factor, 1.0)
        _check_share("memory", memory)
        self.factor = factor
        self.memory = memory

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """One step up, or down to what is needed."""
        asked = demands(view.load, view.pools, within_s=1.0, unknown_s=1.0)
        wants = {pool.pool.name: self._want(pool, asked.pools[pool.pool.name], view.load) for pool in view.pools}
        return Target(for_clients(wants, view), None, asked.declined, asked.impossible), past

    def _want(self, pool: PoolView, demand: Demand, load: Load) -> Want:
        width = max(whole(demand.width), 1 if demand.tasks else 0)
        step = max(1, math.ceil(pool.size * self.factor))
        held = unique_bytes(pool, load)
        full = pool.capacity.memory_bytes > 0 and held > self.memory * pool.capacity.memory_bytes
        waiting = demand.tasks > pool.capacity.threads and width > pool.size
        if pool.coming and (waiting or full):
            want = Want(pool.size, f"{count(pool.coming, 'job')} of the last step do not serve yet")
        elif full:
            memory = (
                f"{bytes_text(held)} of results are above {self.memory:.0%} of {bytes_text(pool.capacity.memory_bytes)}"
            )
            want = Want(step, f"{memory}: {self.factor:g} times {count(pool.size, 'job')}")
        elif waiting and not (pool.ready and pool.capacity.idle):
            more = f"{_tasks(demand)} ready, {pool.capacity.threads} threads, no idle worker"
            limit = f"at most one thread per task, {count(width, 'job')}"
            want = Want(min(step, width), f"{more}: {self.factor:g} times {count(pool.size, 'job')}, {limit}")
        else:
            want = Want(min(width, pool.size) if pool.size else width, f"{_tasks(demand)} ready")
        return for_results(want, memory_jobs(pool, held, self.memory))


class TargetDuration:
    """As many jobs as it takes to do the pending work within a target duration: Dask's rule without its faults.

    Work is the expected run time of the tasks that could run now, and a task never takes more than one slot. It counts
    in slots of the pool's own shape, with the resources that tasks need. Pinned and impossible work asks for nothing;
    paused workers are no capacity. Results are a floor in bytes: what they need beyond ``memory`` of the workers'
    limits is added, at most doubling what serves; what ready tasks will leave behind, going by the results that their
    group holds already, counts too. No memory limit means no such rule.

    How long a task of a kind takes that never finished one is guessed (``demand.guess``); to be heard, a guess must ask
    for more than a quarter more than there is, or more than double while nothing serves that could tell. Nothing is
    asked for that would have less to do than three quarters of its own start-up, and waiting tasks keep jobs that they
    need before a new one could start, or within ``soon_s``. What is busy is not counted here: ``Patience`` keeps it.

    Parameters
    ----------
    target_duration_s:
        Seconds in which the pending work should be done; default 4.
    memory:
        Part of a worker's memory limit that results may fill, 0 to 1; default 0.6.
    unknown_s:
        Run time of a single task of an unknown kind, in seconds; default 1.9. Of ``n`` tasks each is expected to take
        ``unknown_s`` / ∛n: 0.66 s of 24 tasks, 0.5 s of 55, as Dask guesses always, 0.2 s of 1,000.
    soon_s:
        Jobs that waiting tasks need within so many seconds are kept for them; default 2.

    Notes
    -----
    Source of the rule and its numbers: ``Scheduler.adaptive_target`` of ``distributed``.
    """

    def __init__(
        self, target_duration_s: float = 4.0, memory: float = 0.6, unknown_s: float = 1.9, soon_s: float = 2.0
    ) -> None:
        _check_above("target_duration_s", target_duration_s, 0.0)
        _check_share("memory", memory)
        _check_above("unknown_s", unknown_s, 0.0)
        _check_above("soon_s", soon_s, 0.0)
        self.target_duration_s = target_duration_s
        self.memory = memory
        self.unknown_s = unknown_s
        self.soon_s = soon_s

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The size at which the pending work is done in time."""
        asked = demands(view.load, view.pools, within_s=self.target_duration_s, unknown_s=self.unknown_s)
        declined = list(asked.declined)
        wants = {}
        for pool in view.pools:
            name = pool.pool.name
            demand = asked.pools[name]
            startup_s = pool.startup.quantile_s(0.5)
            want = _work(pool, demand, self.target_duration_s)
            want = _sure(want, pool, demand)
            want = _in_time(want, pool, demand, startup_s, declined)
            want = self._ahead(want, pool, view.load, max(startup_s, self.soon_s))
            to_hold = unique_bytes(pool, view.load) * growth(view.load)
            wants[name] = for_results(want, memory_jobs(pool, to_hold, self.memory))
        again_s = guess_again_s(view.load, self.unknown_s)
        return Target(for_clients(wants, view), again_s, tuple(declined), asked.impossible), past

    def _ahead(self, want: Want, pool: PoolView, load: Load, within_s: float) -> Want:
        """Waiting tasks that start within so many seconds keep what serves and what they will surely need."""
        if want.jobs >= pool.ready:
            return want
        want = for_pinned(want, pool, load)
        if want.jobs >= pool.ready:
            return want
        gaps = {name: gap_s for name, gap_s in gaps_s(load, self.unknown_s).items() if gap_s <= within_s}
        needed = 0.0
        for group in load.groups:
            if group.name in gaps and (slots := pool.pool.shape.slots(group.need)):
                expected = guess(group, self.unknown_s)
                needed += expected.slots(group.waiting, self.target_duration_s) / slots
        if not needed:
            return want
        jobs = min(pool.ready, max(1, math.floor(needed)))
        if jobs <= want.jobs:
            return want
        soon = f"waiting tasks start in about {number(min(gaps.values()))} s, at most {number(within_s)} s"
        return Want(jobs, f"{want.reason}; {count(jobs, 'job')} kept: {soon}")


def _work(pool: PoolView, demand: Demand, within_s: float) -> Want:
    """Jobs for the work that could run now."""
    if not demand.tasks:
        return Want(0, "nothing to do")
    jobs = max(1, whole(demand.jobs, SPARE))
    each = f" at {number(demand.work_s / demand.tasks)} s each" if demand.tasks > 1 else ""
    guessed = f" (guessed for {demand.guessed:.0f})" if demand.guessed else ""
    capped = ", at most one slot per task," if demand.slots < demand.work_s / within_s * (1 - 1e-9) else ""
    slots, shape = number(demand.slots), pool.pool.shape
    if demand.scarcest == THREADS:
        size = f"{slots} threads = {count(jobs, 'job')} of {count(shape.job_threads, 'thread')}"
    else:
        amount = shape.resources[demand.scarcest] * shape.workers
        size = f"{slots} slots = {count(jobs, 'job')} of {amount:g} {demand.scarcest}"
    work = f"{_tasks(demand)} ready, {demand.work_s:.1f} s of work{each}{guessed}"
    reason = f"{work}; in {number(within_s)} s{capped} that takes {size}"
    paused = math.ceil(pool.capacity.paused / shape.workers)
    if paused:
        return Want(jobs + paused, f"{reason}; {count(paused, 'job')} more, as workers are paused for lack of memory")
    return Want(jobs, reason)


def _sure(want: Want, pool: PoolView, demand: Demand) -> Want:
    """A guess is too rough to ask for a little more, and while nothing serves that could tell, for less than double."""
    more = _ROUGH if pool.ready else 2.0
    if demand.guessed < demand.tasks or not pool.size < want.jobs <= more * pool.size:
        return want
    rough = f"{count(pool.size, 'job')} there or coming, and a guess is too rough for less than {more:g} times as many"
    return Want(pool.size, f"{want.reason}; {rough}")


def _in_time(want: Want, pool: PoolView, demand: Demand, startup_s: float, declined: list[str]) -> Want:
    """Nothing that would arrive when the work is done, or nearly so."""
    if want.jobs <= pool.size or not pool.ready or pool.capacity.paused or not startup_s:
        return want
    work_s = max(demand.work_jobs_s.values(), default=0.0)
    left_s = max(0.0, work_s - pool.ready * startup_s)
    jobs = max(pool.size, math.floor(left_s / (_WORTH * startup_s)))
    if jobs >= want.jobs:
        return want
    there = f"a new job takes {number(startup_s)} s to start, and the {count(pool.ready, 'job')} there leave"
    there += f" {number(left_s)} s of work by then: less than {_WORTH:.0%} of that for each"
    declined.append(f"{pool.pool.name}: {want.jobs - jobs} more not worth it, {there}")
    return Want(jobs, f"{want.reason}; {there}")


def _tasks(demand: Demand) -> str:
    return count(math.ceil(demand.tasks - 1e-9), "task") if demand.tasks else "no task"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_above(name: str, value: float, bound: float) -> None:
    if not _is_number(value) or not (value > bound and math.isfinite(value)):
        raise ConfigError(f"{name} is a number above {bound:g}, not {value!r}")


def _check_share(name: str, value: float) -> None:
    if not _is_number(value) or not 0 < value <= 1:
        raise ConfigError(f"{name} is a part of the memory limit, above 0 and at most 1, not {value!r}")
