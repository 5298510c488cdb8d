"""Requests that keep coming: small graphs one after the other, which no look at what is left foresees.

Each of them alone is not worth a job that comes when it is done. Together they are a queue, and how many wait follows
from how often they come and how long they take: Erlang's C formula for so many servers, with the correction of Allen
and Cunneen for arrivals more or less regular than chance (A. O. Allen, *Probability, Statistics and Queueing Theory*,
2nd ed., 1990, section 5.3). What came before anybody served waits besides, and shrinks by what servers do beyond that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean, pvariance
from typing import Any

from dask_adaptive.model import PoolView, Want
from dask_adaptive.phrases import count, number
from dask_adaptive.policy.remaining import Piece
from dask_adaptive.policy.worth import Terms

__all__ = ["Stream", "erlang_c"]

_KEPT = 16
_LEAST = 6
_GROUPS = 256
_MOST = 1000
_OVER = 4.0
"""So many times as long as they were apart in the mean, nothing has come: it is over."""

_SMALL = 1.5
"""Tasks of a small graph for each thread of a job, in the mean."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The last arrivals, when and how many tasks, of a stream that began at ``since_s``.

    ``each_s``: what a task takes, or None while that is a guess. ``tasks``: how many there are in each group, done ones
    too.
    """

    arrivals: tuple[tuple[float, int], ...] = ()
    since_s: float = 0.0
    each_s: float | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def read(plain: Mapping[str, Any]) -> Stream:
        """From plain JSON values."""
        if not plain:
            return Stream()
        arrivals = tuple((float(at_s), int(tasks)) for at_s, tasks in plain["arrivals"])
        return Stream(arrivals, plain["since_s"], plain["each_s"], plain["tasks"])

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        arrivals = [list(each) for each in self.arrivals]
        return {"arrivals": arrivals, "since_s": self.since_s, "each_s": self.each_s, "tasks": dict(self.tasks)}

    def now(self, pieces: Sequence[Piece], now_s: float) -> Stream:
        """The same after a look at what is left."""
        tasks: dict[str, int] = {}
        left: dict[str, int] = {}
        for piece in pieces[:_GROUPS]:
            name, group = piece.group.name, piece.group
            left[name] = left.get(name, 0) + group.ready + group.waiting
            tasks[name] = tasks.get(name, 0) + group.ready + group.waiting + group.done
        came = sum(max(0, min(left[name], now - self.tasks.get(name, 0))) for name, now in tasks.items())
        found = replace(self, tasks=tasks)
        if pieces:
            known = all(piece.expected.known for piece in pieces)
            found = replace(found, each_s=fmean(piece.expected.mean_s for piece in pieces) if known else None)
        if not came:
            return found
        if len(self.arrivals) > 1 and now_s > self.arrivals[-1][0] + _OVER * self.gap_s:
            return replace(found, arrivals=((now_s, came),), since_s=now_s)
        since_s = self.since_s if self.arrivals else now_s
        return replace(found, arrivals=(*self.arrivals, (now_s, came))[-_KEPT:], since_s=since_s)

    @property
    def gap_s(self) -> float:
        """Seconds between two arrivals, in the mean."""
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / (len(self.arrivals) - 1)

    @property
    def size(self) -> float:
        """Tasks of an arrival, in the mean."""
        return fmean(tasks for _, tasks in self.arrivals)

    @property
    def load(self) -> float:
        """Servers that are busy in the mean."""
        return self.size * (self.each_s or 0.0) / self.gap_s

    def left_s(self, now_s: float, threads: int) -> float:
        """Seconds until it is over if nothing comes; 0 if there is none: too few, too seldom, not small, not known."""
        if len(self.arrivals) < _LEAST or not self.gap_s or not self.each_s:
            return 0.0
        if self.size > _SMALL * threads:
            return 0.0
        return max(0.0, self.arrivals[-1][0] + _OVER * self.gap_s - now_s)

    def pauses(self, seen: Sequence[float], now_s: float, threads: int) -> Sequence[float]:
        """The pauses to go by: those ``seen``, or while it lasts those that its arrivals leave, if they are more.

        While nothing serves everything waits, and no pause is seen however long it goes on.
        """
        if not self.left_s(now_s, threads):
            return seen
        gaps = [after[0] - before[0] - (self.each_s or 0.0) for before, after in pairwise(self.arrivals)]
        return max(seen, [gap_s for gap_s in gaps if gap_s > 0], key=len)

    def raised(self, want: Want, pool: PoolView, tasks: int, terms: Terms) -> Want:
        """As many jobs as are worth their cost if it lasts as long again as it has; ``tasks`` are there to do.

        One alone is kept through a pause or not, as ever.
        """
        threads = pool.pool.shape.job_threads
        lasts_s = max(self.gap_s, terms.now_s - self.since_s)
        cost = terms.rate * (lasts_s + terms.billed_s + terms.launch_s)
        more = self.size / self.gap_s * min(terms.start_s, lasts_s)
        backlog = 0.0 if terms.serving else tasks + more

        def saves_s(jobs: int) -> float:
            fewer_s, more_s = (self.waited_s(each * threads, backlog, lasts_s) for each in (jobs - 1, jobs))
            return math.inf if fewer_s == math.inf else fewer_s - more_s

        jobs = min(1 + int(self.load / threads), int(min(terms.maximum, _MOST)))
        while jobs < min(terms.maximum, _MOST) and terms.time_value * saves_s(jobs + 1) > cost:
            jobs += 1
        if jobs <= max(1, want.jobs):
            return want
        came = f"{count(jobs, 'job')} for requests that come every {number(self.gap_s)} s"
        saved_s = saves_s(jobs)
        if saved_s == math.inf:
            return Want(jobs, f"{want.reason}; {came}: fewer would never have done them")
        worth = f"saves {number(saved_s)} s, worth {number(terms.time_value * saved_s)}"
        return Want(jobs, f"{want.reason}; {came}: the last {worth}, and costs {number(cost)} worker-seconds")

    def waited_s(self, servers: int, backlog: float, lasts_s: float) -> float:
        """Seconds that tasks wait for one of so many servers while it lasts, with so many tasks to begin with."""
        load, each_s = self.load, self.each_s or 0.0
        if servers <= load:
            return math.inf
        gaps = [after[0] - before[0] for before, after in pairwise(self.arrivals)]
        uneven = pvariance(gaps) / self.gap_s**2
        steady = erlang_c(servers, load) * load / (servers - load) * uneven / 2
        return steady * lasts_s + backlog * backlog * each_s / (servers - load) / 2


def erlang_c(servers: int, load: float) -> float:
    """The part of arrivals that wait for one of so many servers, of which ``load`` are busy (A. K. Erlang, 1917)."""
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = load * blocked / (server + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))
