"""What one job more is worth, and what one job fewer would cost: the decision for one pool.

Grow: the next job is asked for while

    time value x [M(n - 1) - M(n)] > price x (billed starts + idle time between its phases)

where M is the profile of what will be left when it serves, and the job is kept, given up, or left out between two
phases, whatever is cheapest. It is asked for just in time: when its first phase begins within the 80th percentile of
the start-up.

Where jobs queue for long and nobody pays that, a request costs only if it has its turn, see ``turns``: M is then what
the work takes with jobs that come one after the other, and one more is weighed with the part of it that starts until
the end. What queues is kept while it is worth half of its cost: who asks again waits from the beginning.

Shrink: a job that has nothing to do is kept if its next phase comes before a restart would have paid off. If no phase
is known to come it is a ski rental, see ``release``. A restart is worth

    billed start + launch + time value x what its absence costs / 2 / price    seconds

as every other one has somebody waiting. Each job that is missing in a phase of n jobs makes it longer by 1 / n of the
start-up; where a start takes longer than the work, the few that do it meanwhile save all of that. A job that nothing
has needed since the last pause will more likely than not have nothing to do after the next one either, and is kept for
half of that at most.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dask_adaptive.model import Want
from dask_adaptive.phrases import count, number
from dask_adaptive.policy.profile import Profile
from dask_adaptive.policy.release import LEAST_S, Idle, rental
from dask_adaptive.policy.turns import Turns

__all__ = ["Answer", "Margin", "Terms", "answer", "margin", "worthwhile"]

_KEPT = 0.5
"""Part of its cost that a request in a queue has to be worth to stay there."""

_ROUNDING_S = 1e-3
_WAITED = 0.5
"""Chance that somebody waits for a job that is started again."""

_UNLIKELY = 0.5
"""Part of a restart's worth that a job is kept for if the work as it is has not needed it."""

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Terms:
    """A pool at one moment, as far as its size is decided by it.

    ``rate``: what one job costs each second; ``billed_s``, ``queued_s``: medians of a start that is paid and of the
    queue before it; ``late_s``: by how much the 80th percentile of both is longer; ``launch_s``: what a start costs
    besides, in seconds of a job. ``size`` jobs serve or will, ``serving`` take tasks, ``busy`` have some; ``maximum``:
    there may be so many. ``peak`` and ``peak_s``: the most jobs that were needed, and the most work in job-seconds,
    since there was no work; ``pauses``: how long earlier times without work lasted; ``quiet_s``: since when there is
    none; ``rest_s``: how long the work of all pools lasts at least; ``idle``: since when ranks idle. ``sole``: nobody
    else could do the work. ``turns``: when requests have theirs, where they queue for long; ``queued`` of ``size`` do.
    """

    now_s: float
    time_value: float
    rate: float
    billed_s: float
    queued_s: float = 0.0
    late_s: float = 0.0
    launch_s: float = 0.0
    size: int = 0
    serving: int = 0
    busy: int = 0
    maximum: float = math.inf
    peak: int = 1
    peak_s: float = 0.0
    quiet_s: float | None = None
    rest_s: float = 0.0
    sole: bool = True
    pauses: Sequence[float] = ()
    idle: Idle = field(default_factory=Idle)
    turns: Turns = field(default_factory=Turns)
    queued: int = 0

    @property
    def start_s(self) -> float:
        """The whole start-up."""
        return self.billed_s + self.queued_s

    def restart_s(self, jobs: float) -> float:
        """What a restart is worth where so many jobs are needed, in seconds of the price of a job."""
        return self._worth_s(self.start_s / max(1.0, min(jobs, self.maximum)))

    def absence_s(self, rank: int) -> float:
        """The same for one rank, if work like the last comes again and finds the ranks below it."""
        jobs, work_s, start_s = max(1, self.peak), self.peak_s, self.start_s
        if work_s >= jobs * start_s:
            return self._worth_s(start_s / jobs)
        # few jobs that are there do more than many that come too late: the first ones are worth most, and alike
        whole_s = start_s + work_s / jobs
        if work_s <= 0 or rank * whole_s <= 2 * work_s:
            return self._worth_s(whole_s * whole_s / (4 * work_s) if work_s > 0 else start_s)
        return self._worth_s(work_s / (rank * (rank - 1)) if rank > 1 else start_s)

    def _worth_s(self, saves_s: float) -> float:
        return self.billed_s + self.launch_s + _WAITED * self.time_value * min(saves_s, self.start_s) / self.rate


@dataclass(frozen=True, slots=True)
class Margin:
    """One more job, weighed: the seconds that it saves, and in worker-seconds of price 1 what these and it are worth.

    ``now``: whether it pays to start it for its first use; else a later one comes first.
    """

    rank: int
    saves_s: float
    gain: float
    cost: float
    now: bool

    @property
    def pays(self) -> bool:
        """Whether it is worth its cost."""
        return self.gain > self.cost

    @property
    def stays(self) -> bool:
        """Whether it is worth so much of it that it keeps its place in a queue."""
        return self.gain > _KEPT * self.cost

    @property
    def words(self) -> str:
        """The numbers that decide."""
        if self.saves_s == math.inf:
            return f"does the work, and costs {number(self.cost)} worker-seconds"
        saves = f"saves {number(self.saves_s)} s, worth {number(self.gain)}"
        return f"{saves}, and costs {number(self.cost)} worker-seconds"


@dataclass(frozen=True, slots=True)
class Answer:
    """Jobs for one pool and why.

    ``more``: whether they are more than there are. ``spare``: part of its work (0 to 1) that is beyond its maximum.
    """

    want: Want
    look_s: float | None
    needed: int
    spare: float
    declined: tuple[str, ...] = ()
    more: bool = False


def margin(left: Profile, terms: Terms, rank: int) -> Margin:
    """Weigh the job of this rank: at each use it is started, or was kept, or is left out, whatever is best.

    Backwards over its uses, ``alive`` and ``absent`` are what the rest is worth with and without it.
    """
    start = terms.rate * (terms.billed_s + terms.launch_s)
    if rank == 1 and terms.sole:
        return Margin(rank, math.inf, math.inf, start, now=True)
    if terms.turns:
        return _in_turn(left, terms, rank)
    uses = left.uses(rank)
    alive = absent = _Value()
    gap_s, now = 0.0, False
    for use in reversed(uses):
        kept = max(alive.less(terms.rate * gap_s), absent, _Value(), key=_net)
        here = kept.plus(use.saves_s, terms.time_value)
        now = here.less(start).net > absent.net
        alive, absent = here, max(here.less(start), absent, key=_net)
        gap_s = use.gap_s
    now = now and bool(uses) and uses[0].start_s <= terms.late_s
    if not absent.cost:  # it is worth nothing: say what the best try would be
        absent = alive.less(start)
    return Margin(rank, absent.saves_s, absent.saves_s * terms.time_value, absent.cost, now)


def _in_turn(left: Profile, terms: Terms, rank: int) -> Margin:
    """Weigh one more request that waits for its turn with those before it."""
    come = terms.size - terms.queued
    fewer, more = (terms.turns.run(left, min(come, jobs), max(0, jobs - come)) for jobs in (rank - 1, rank))
    saves_s = fewer.end_s - more.end_s
    starts, idle_s = max(0.0, more.starts - fewer.starts), max(0.0, more.idle_s - fewer.idle_s)
    cost = terms.rate * (starts * (terms.billed_s + terms.launch_s) + idle_s)
    return Margin(rank, saves_s, saves_s * terms.time_value, cost, now=True)


@dataclass(frozen=True, slots=True)
class _Value:
    net: float = 0.0
    saves_s: float = 0.0
    cost: float = 0.0

    def less(self, cost: float) -> _Value:
        return _Value(self.net - cost, self.saves_s, self.cost + cost)

    def plus(self, saves_s: float, time_value: float) -> _Value:
        return _Value(self.net + time_value * saves_s, self.saves_s + saves_s, self.cost)


def _net(value: _Value) -> float:
    return value.net


def worthwhile(left: Profile, terms: Terms, least: int) -> tuple[int, int]:
    """How many jobs are worth their cost, and how many of them already now; at least ``least``.

    What a rank is worth falls with the rank, so the last one that pays is found by halving.
    """
    most = math.ceil(min(terms.maximum, left.width) - _EPSILON)
    worth = _last(least, most, lambda rank: margin(left, terms, rank).pays)
    return worth, _last(least, worth, lambda rank: margin(left, terms, rank).now)


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The last number after ``low`` up to ``high`` for which it holds, if it holds for all before; else ``low``."""
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def answer(work: Profile, ready: float, words: str, terms: Terms) -> Answer:
    """Decide.

    Parameters
    ----------
    work:
        What is left to do, in jobs of this pool.
    ready:
        Jobs that the tasks which could run now would keep busy.
    words:
        The work in words.
    terms:
        The pool.
    """
    left = work if terms.turns else work.after(terms.start_s, terms.serving)
    worth, jobs = worthwhile(left, terms, terms.size)
    spare = work.beyond(terms.maximum).work_s / work.work_s if worth >= terms.maximum and work.work_s else 0.0
    needed = terms.size if jobs > terms.size else min(terms.size, math.ceil(ready - _EPSILON))
    declined = _declined(left, worth, terms, worth - jobs)
    if jobs > terms.size:
        each = "it" if jobs == terms.size + 1 else "the last"
        reason = f"{words}; {count(jobs - terms.size, 'job')} more: {each} {margin(left, terms, jobs).words}"
        return Answer(Want(jobs, reason), None, needed, spare, declined, more=True)
    keep, look_s, why = _kept(work, needed, terms)
    if (waiting := _queued(work, keep, terms)) is not None:
        keep, look_s, why = waiting
    return Answer(Want(keep, f"{words}; {why}" if why else words), look_s, needed, spare, declined)


def _declined(left: Profile, worth: int, terms: Terms, later: int) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if worth < min(terms.maximum, left.width):
        found += (f"job {worth + 1} is not worth it: it {margin(left, terms, worth + 1).words}",)
    if later:
        found += (f"{count(later, 'job')} more will be worth it, but not yet: a start takes {number(terms.start_s)} s",)
    return found


def _kept(work: Profile, needed: int, terms: Terms) -> tuple[int, float | None, str]:
    """How many of the present jobs stay, when that may change by time alone, and why."""
    least = max(needed, min(terms.busy, terms.size))
    if least >= terms.size:
        return least, None, ""
    stay = _Stay(work, needed, terms)
    keep = _last(least, terms.size, lambda rank: stay.left_s(rank) > _ROUNDING_S)
    look_s = stay.left_s(keep) if keep > least else math.inf
    why = stay.words(keep + 1 if keep < terms.size else keep)
    words = f"{needed} needed now, {keep - least} kept idle, {terms.size - keep} given up: {why}"
    return keep, None if look_s == math.inf else look_s, words


def _queued(work: Profile, kept: int, terms: Terms) -> tuple[int, None, str] | None:
    """The same as ``_kept`` with what keeps its place in the queue, if that is more and there is something to do."""
    come = max(kept, terms.size - terms.queued)
    if not terms.turns or not work.phases:
        return None
    stay = _last(come, terms.size, lambda rank: margin(work, terms, rank).stays)
    if stay == come:
        return None
    requests = count(stay + terms.queued - terms.size, "request")
    return stay, None, f"{requests} kept in the queue: the last {margin(work, terms, stay).words}"


class _Stay:
    """For how long a rank that has nothing to do stays; the higher the rank the shorter."""

    def __init__(self, work: Profile, needed: int, terms: Terms) -> None:
        self._terms = terms
        self._needs = work.needs(max(1, needed))
        self._widths = [width for width, _ in self._needs]
        self._rest_s = max(terms.rest_s, work.takes_s(max(1, needed)) if self._needs else 0.0)
        self._idle = terms.idle.now(needed, terms.now_s)

    def left_s(self, rank: int) -> float:
        """Seconds, if nothing happens. However sure it is what comes, idle time is bounded."""
        terms = self._terms
        idle_s = terms.now_s - self._idle.since_s(rank, terms.now_s)
        least_s = LEAST_S - idle_s
        gap_s = self._gap_s(rank)
        if gap_s < math.inf:
            even_s = terms.restart_s(self._widths[-1])
            return max(least_s, 2 * even_s - idle_s) if gap_s <= even_s else least_s
        even_s = terms.absence_s(rank)
        wait_s, pause_s = rental(terms.pauses, even_s)
        if terms.quiet_s is not None:
            left_s = min(wait_s - (terms.now_s - terms.quiet_s), 2 * even_s - idle_s)
        else:
            left_s = even_s - idle_s if self._rest_s + pause_s < even_s else least_s
        if rank > terms.peak:
            left_s = min(left_s, _UNLIKELY * even_s - idle_s)
        return max(least_s, left_s)

    def words(self, rank: int) -> str:
        """The numbers that decide."""
        terms, gap_s = self._terms, self._gap_s(rank)
        if gap_s < math.inf:
            even_s = terms.restart_s(self._widths[-1])
            return f"job {rank} is needed again in {number(gap_s)} s, and a restart is worth {number(even_s)} s"
        even_s = terms.absence_s(rank)
        wait_s, pause_s = rental(terms.pauses, even_s)
        worth = f"a restart of job {rank} is worth {number(even_s)} s"
        if rank > terms.peak:
            worth += f", and half of that as {count(terms.peak, 'job')} did without it"
        if terms.quiet_s is not None:
            return f"{worth}, and after pauses as they were that is {number(wait_s)} s of waiting"
        return (
            f"{worth}, and it has nothing to do for {number(self._rest_s)} s and a pause that costs {number(pause_s)} s"
        )

    def _gap_s(self, rank: int) -> float:
        index = bisect_left(self._widths, rank - 1 + _EPSILON)
        return self._needs[index][1] if index < len(self._needs) else math.inf
