"""From task groups to the demand of each pool.

A task never uses more than one slot, so a group of ``n`` tasks of ``d`` seconds that should be done within ``h``
seconds takes ``n * min(1, d / h)`` slots: never more slots than tasks, and one slow task is never more than one slot.

Slots become jobs dimension by dimension: threads first, then every resource that some task needs. A pool needs as many
jobs as its scarcest dimension asks for; a task that takes a GPU and one that does not share a worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dask_adaptive.model import Group, Load, Need, PoolView, Shape

__all__ = [
    "THREADS",
    "Demand",
    "Demands",
    "Guess",
    "demands",
    "gaps_s",
    "guess",
    "guess_again_s",
    "impossible_words",
    "pinned_words",
    "shares",
    "whole",
]

THREADS = "threads"
_EPSILON = 1e-9
_DOUBT, _FACTOR = 0.6, 3.0


@dataclass(frozen=True, slots=True)
class Guess:
    """What the pending tasks of a group are expected to take.

    ``each_s``: run time of one task; ``oldest_s``: what is left of the one that runs longest, expected to take as long
    again as it has taken already; ``known``: whether any task of the kind was ever finished.
    """

    each_s: float
    oldest_s: float
    known: bool

    def work_s(self, tasks: int) -> float:
        """Seconds of work in so many tasks, the one that runs longest among them."""
        return (tasks - 1) * self.each_s + self.oldest_s

    def slots(self, tasks: int, within_s: float) -> float:
        """Slots that so many tasks take in order to be done within ``within_s`` seconds."""
        return (tasks - 1) * min(1.0, self.each_s / within_s) + min(1.0, self.oldest_s / within_s)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one pool is asked to serve.

    ``tasks`` could run now; ``guessed`` of them are of a kind that never finished one.
    ``slots``: slots that it takes to be done in time. ``jobs`` and ``work_jobs_s``: the same, and the work, in jobs
    and seconds of a whole job of this pool, by dimension (``threads`` or the name of a resource). ``width``: jobs
    that would run all tasks at once.
    """

    tasks: float = 0.0
    guessed: float = 0.0
    work_s: float = 0.0
    slots: float = 0.0
    jobs: Mapping[str, float] = field(default_factory=dict)
    width: Mapping[str, float] = field(default_factory=dict)
    work_jobs_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def scarcest(self) -> str:
        """The dimension that asks for most jobs."""
        return max(self.jobs, key=lambda name: self.jobs[name], default=THREADS)


@dataclass(frozen=True, slots=True)
class Demands:
    """Demand by pool; ``impossible`` and ``declined`` are sentences about work that drives no growth."""

    pools: Mapping[str, Demand]
    impossible: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()


def guess(group: Group, unknown_s: float) -> Guess:
    """Expected run time of the pending tasks of a group, in seconds.

    While no task of the kind has finished, each of ``n`` is expected to take ``unknown_s`` divided by the cube root of
    ``n``: the more pieces work is cut into, the smaller they are. Once one runs for longer than that, and longer than
    0.6 ``unknown_s``, the guess was wrong: then it is three times what the oldest has taken, which is the mean where
    run times have a long tail (Pareto, exponent 1.5). As soon as a mean is known a straggler tells only about itself.
    """
    oldest_s = group.oldest_s if group.running else 0.0
    if group.mean_s is None:
        prior_s = _prior_s(group, unknown_s)
        each_s = prior_s if oldest_s < max(prior_s, _DOUBT * unknown_s) else _FACTOR * oldest_s
        return Guess(each_s, each_s, known=False)
    return Guess(group.mean_s, max(group.mean_s, oldest_s), known=True)


def _prior_s(group: Group, unknown_s: float) -> float:
    return unknown_s / float(max(1, group.ready + group.waiting) ** (1 / 3))


def guess_again_s(load: Load, unknown_s: float) -> float | None:
    """Seconds until more may be known of a kind that never finished a task, although nothing happens; else None."""
    if not any(capacity.threads for capacity in load.pools.values()):
        return None
    unknown = [group for group in load.groups if group.mean_s is None and group.ready and not group.pinned]
    steps = [(_prior_s(group, unknown_s), group.oldest_s) for group in unknown]
    return min((_next_step_s(age_s, (prior_s, _DOUBT * unknown_s)) for prior_s, age_s in steps), default=None)


def _next_step_s(age_s: float, steps: tuple[float, ...]) -> float:
    return min((step - age_s for step in steps if age_s < step), default=age_s / 4)


def whole(jobs: Mapping[str, float], spare: float = 0.0) -> int:
    """Whole jobs that cover the scarcest dimension, up to ``spare`` of a job."""
    return math.ceil(max(jobs.values(), default=0.0) - spare - _EPSILON)


def demands(load: Load, pools: Sequence[PoolView], *, within_s: float, unknown_s: float) -> Demands:
    """Assign the work that could run now to the pools that may serve it.

    A group goes to the cheapest capable pool (then the first given) that is not broken; what is beyond a pool's
    maximum goes to the next one, and what is beyond all of them stays with the first. Workers that are not ours take
    their part of the work without needs before. Groups that fewer pools can serve choose first.

    Parameters
    ----------
    load:
        What the Dask scheduler said.
    pools:
        The pools in the order of preference.
    within_s:
        Seconds in which the pending work should be done.
    unknown_s:
        Run time of the only task of a kind that never finished one; see ``guess``.
    """
    ordered = sorted(pools, key=lambda view: view.pool.price)
    drafts = {view.pool.name: _Draft(view) for view in pools}
    impossible: list[str] = []
    declined: list[str] = []
    parts: list[tuple[_Part, list[_Draft]]] = []
    for group in load.groups:
        if not group.ready:
            continue
        able = [drafts[view.pool.name] for view in ordered if view.pool.shape.slots(group.need) > 0]
        if group.pinned:
            declined.append(pinned_words(group))
        elif able:
            expected = guess(group, unknown_s)
            slots, work_s = expected.slots(group.ready, within_s), expected.work_s(group.ready)
            parts.append((_Part(group.need, group.ready, 0 if expected.known else group.ready, slots, work_s), able))
        elif group.unrunnable or not load.foreign.workers:
            impossible.append(impossible_words(group, pools))
    foreign = float(load.foreign.threads)
    for part, able in sorted(parts, key=lambda pair: len(pair[1])):
        foreign = _assign(part, able, foreign)
    return Demands({name: draft.demand() for name, draft in drafts.items()}, tuple(impossible), tuple(declined))


def gaps_s(load: Load, unknown_s: float) -> dict[str, float]:
    """Seconds until the waiting tasks of a group become ready, by group, as far as one step ahead tells.

    Waiting tasks are in sight when all tasks that they come after could run now: they start when the slowest of the
    running ones ends.
    """
    pending = {group.name: group for group in load.groups if group.ready or group.waiting}
    gaps: dict[str, float] = {}
    for group in load.groups:
        before = [pending[name] for name in group.after if name in pending and name != group.name]
        if group.waiting and before and all(other.ready and not other.waiting for other in before):
            gaps[group.name] = max(_left_s(other, unknown_s) for other in before)
    return gaps


def _left_s(group: Group, unknown_s: float) -> float:
    if group.mean_s is not None and group.oldest_s <= group.mean_s:
        return group.mean_s - group.oldest_s
    return max(_prior_s(group, unknown_s), group.oldest_s)


@dataclass(frozen=True, slots=True)
class _Part:
    """The tasks of a group that could run now, or a part of them."""

    need: Need
    tasks: float
    guessed: float
    slots: float
    work_s: float

    def share(self, part: float) -> _Part:
        """A part (0 to 1) of it."""
        return _Part(self.need, part * self.tasks, part * self.guessed, part * self.slots, part * self.work_s)


class _Draft:
    """The demand of a pool while it is added up."""

    def __init__(self, view: PoolView) -> None:
        self.shape = view.pool.shape
        self.broken = bool(view.broken)
        self._maximum = math.inf if view.pool.limits.maximum is None else view.pool.limits.maximum
        self._parts: list[_Part] = []
        self._jobs: dict[str, float] = {}

    def room(self, need: Need) -> float:
        """Slots for such tasks until the maximum is reached."""
        return min(
            max(0.0, self._maximum - self._jobs.get(name, 0.0)) / share for name, share in shares(self.shape, need)
        )

    def add(self, part: _Part) -> None:
        self._parts.append(part)
        for name, share in shares(self.shape, part.need):
            self._jobs[name] = self._jobs.get(name, 0.0) + part.slots * share

    def demand(self) -> Demand:
        width: dict[str, float] = {}
        work_jobs_s: dict[str, float] = {}
        for part in self._parts:
            for name, share in shares(self.shape, part.need):
                width[name] = width.get(name, 0.0) + part.tasks * share
                work_jobs_s[name] = work_jobs_s.get(name, 0.0) + part.work_s * share
        return Demand(
            tasks=sum(part.tasks for part in self._parts),
            guessed=sum(part.guessed for part in self._parts),
            work_s=sum(part.work_s for part in self._parts),
            slots=sum(part.slots for part in self._parts),
            jobs=self._jobs,
            width=width,
            work_jobs_s=work_jobs_s,
        )


def _assign(part: _Part, able: Sequence[_Draft], foreign: float) -> float:
    """Spread the tasks over capable pools; return the foreign slots that are left."""
    left = 1.0
    if foreign and not any(part.need.values()):
        taken = min(foreign, part.slots)
        left = 1.0 - taken / part.slots if part.slots else 0.0
        foreign -= taken
    for draft in able:
        if left > _EPSILON and not draft.broken:
            wanted = left * part.slots
            fits = left if wanted <= draft.room(part.need) else left * draft.room(part.need) / wanted
            if fits:
                draft.add(part.share(fits))
                left -= fits
    if left > _EPSILON:
        next((draft for draft in able if not draft.broken), able[0]).add(part.share(left))
    return foreign


def shares(shape: Shape, need: Need) -> list[tuple[str, float]]:
    """Which part of a whole job one task takes, by dimension."""
    found = [(THREADS, 1.0 / shape.job_threads)]
    for name, amount in need.items():
        if amount > 0:
            per_worker = int(shape.resources.get(name, 0.0) / amount + _EPSILON)
            found.append((name, 1.0 / (shape.workers * per_worker)))
    return found


def pinned_words(group: Group) -> str:
    """Why pinned tasks ask for nothing."""
    return f"{group.ready} tasks of {group.prefix!r} are pinned to named workers: a new worker could not run them"


def impossible_words(group: Group, pools: Sequence[PoolView]) -> str:
    """What no pool can run, and why."""
    need = ", ".join(f"{name}={amount:g}" for name, amount in sorted(group.need.items()))
    names = ", ".join(view.pool.name for view in pools)
    return f"{group.ready} tasks of {group.prefix!r} need {need}, which no worker of {names} offers"
