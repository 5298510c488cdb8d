"""What happened in a run, as series over time: the pure part of every picture and summary.

A series holds one value per round; each value stands until the next round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from dask_adaptive.model import ALIVE, EXPECTED, Cancel, Phase, Record, Retire, Snapshot

__all__ = [
    "Decision",
    "Timeline",
    "Totals",
    "Work",
    "decisions_of",
    "jobs_by_phase",
    "timeline_of",
    "work_of",
    "workers_of",
]


@dataclass(frozen=True, slots=True)
class Work:
    """Tasks at one moment: ``waiting`` for other tasks, ``ready`` to run but not running, ``running``."""

    waiting: int = 0
    ready: int = 0
    running: int = 0

    @property
    def pending(self) -> int:
        """All that is still to be finished."""
        return self.waiting + self.ready + self.running


@dataclass(frozen=True, slots=True)
class Decision:
    """A round that changed the size of a pool: from ``before`` to ``after`` jobs, and why.

    ``at_s`` counts from the start of the timeline; decisions are numbered from 1 in the order of time.
    """

    number: int
    at_s: float
    pool: str
    before: int
    after: int
    reason: str

    @property
    def change(self) -> int:
        """How many jobs more; negative for fewer."""
        return self.after - self.before

    @property
    def sizes(self) -> str:
        """``0 → 2``."""
        return f"{self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run took.

    ``worker_s`` are the seconds of workers inside jobs that the manager was running, ``largest`` the largest number
    of such workers at one time, ``submits`` the calls to the manager, ``submitted`` the jobs that they asked for,
    ``failures`` the jobs that failed, ``errors`` the rounds that could not decide.
    """

    duration_s: float = 0.0
    worker_s: float = 0.0
    largest: int = 0
    submits: int = 0
    submitted: int = 0
    failures: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run: ``at_s`` (seconds since its first round) and series of the same length.

    ``phases`` has a series of jobs for every phase that occurred, ``workers`` those inside running jobs.
    ``minimum`` and ``maximum`` are the limits summed over the pools; a maximum of None means without limit.
    """

    started_s: float = 0.0
    at_s: tuple[float, ...] = ()
    phases: Mapping[Phase, tuple[int, ...]] = field(default_factory=dict)
    workers: tuple[int, ...] = ()
    work: tuple[Work, ...] = ()
    minimum: tuple[int, ...] = ()
    maximum: tuple[int | None, ...] = ()
    decisions: tuple[Decision, ...] = ()
    totals: Totals = field(default_factory=Totals)


def timeline_of(records: Sequence[Record]) -> Timeline:
    """The timeline of these rounds, which are in the order of time."""
    if not records:
        return Timeline()
    started_s = records[0].at_s
    at_s = tuple(record.at_s - started_s for record in records)
    counts = [jobs_by_phase(record.snapshot) for record in records]
    seen = [phase for phase in Phase if any(count[phase] for count in counts)]
    workers = tuple(sum(workers_of(record.snapshot).values()) for record in records)
    limits = [_limits(record.snapshot) for record in records]
    return Timeline(
        started_s=started_s,
        at_s=at_s,
        phases={phase: tuple(count[phase] for count in counts) for phase in seen},
        workers=workers,
        work=tuple(work_of(record.snapshot) for record in records),
        minimum=tuple(minimum for minimum, _ in limits),
        maximum=tuple(maximum for _, maximum in limits),
        decisions=tuple(decisions_of(records)),
        totals=_totals(records, at_s, workers),
    )


def jobs_by_phase(snapshot: Snapshot) -> Counter[Phase]:
    """How many jobs are in each phase."""
    return Counter(life.phase for life in snapshot.lives.values())


def work_of(snapshot: Snapshot) -> Work:
    """The tasks of all groups, each counted once."""
    groups = snapshot.load.groups
    return Work(
        waiting=sum(group.waiting for group in groups),
        ready=sum(max(group.ready - group.running, 0) for group in groups),
        running=sum(group.running + group.long_running for group in groups),
    )


def decisions_of(records: Sequence[Record]) -> Iterator[Decision]:
    """Every decision to change the size of a pool, with the reasons that the plan gave."""
    number = 0
    for record in records:
        pool_of = {name: life.pool for name, life in record.snapshot.lives.items()}
        more: Counter[str] = Counter()
        fewer: Counter[str] = Counter()
        reasons: dict[str, list[str]] = {}
        for submit in record.plan.submits:
            more[submit.pool] += submit.count
            reasons.setdefault(submit.pool, []).append(submit.reason)
        given_up: tuple[Retire | Cancel, ...] = (*record.plan.retires, *record.plan.cancels)
        for order in given_up:
            pool = pool_of.get(order.job, "?")
            fewer[pool] += 1
            reasons.setdefault(pool, []).append(order.reason)
        for pool, why in reasons.items():
            number += 1
            before = _size(record.snapshot, pool)
            yield Decision(
                number=number,
                at_s=record.at_s - records[0].at_s,
                pool=pool,
                before=before,
                after=max(before + more[pool] - fewer[pool], 0),
                reason="; ".join(dict.fromkeys(why)),
            )


def _size(snapshot: Snapshot, pool: str) -> int:
    return sum(life.pool == pool and life.phase in EXPECTED for life in snapshot.lives.values())


def workers_of(snapshot: Snapshot) -> dict[str, int]:
    """Workers inside jobs that run, by pool; a queued job takes nothing from anybody."""
    running = (life for life in snapshot.lives.values() if life.running_s > 0 and life.phase in ALIVE)
    jobs = Counter(life.pool for life in running if life.pool in snapshot.pools)
    return {pool: count * snapshot.pools[pool].pool.shape.workers for pool, count in jobs.items()}


def _limits(snapshot: Snapshot) -> tuple[int, int | None]:
    limits = [state.pool.limits for state in snapshot.pools.values()]
    known = [limit.maximum for limit in limits if limit.maximum is not None]
    return sum(limit.minimum for limit in limits), sum(known) if len(known) == len(limits) else None


def _totals(records: Sequence[Record], at_s: Sequence[float], workers: Sequence[int]) -> Totals:
    submits = [submit for record in records for submit in record.plan.submits]
    failed = {name for record in records for name, life in record.snapshot.lives.items() if life.phase is Phase.FAILED}
    # numbers that start anew are another run in the same file: nothing is known of the time between the two
    spans = (0.0 if again.number < one.number else again.at_s - one.at_s for one, again in pairwise(records))
    return Totals(
        duration_s=at_s[-1],
        worker_s=sum(span * count for span, count in zip(spans, workers, strict=False)),
        largest=max(workers),
        submits=len(submits),
        submitted=sum(submit.count for submit in submits),
        failures=len(failed),
        errors=sum(bool(record.error) for record in records),
    )
