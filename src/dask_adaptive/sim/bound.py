"""How good a run was: what it cost, and what no policy could have gone below.

One second of waiting is worth ``time_value`` worker-seconds (λ), a worker-second costs ``price`` (c):

    J = λ · (sum over graphs of end - submission) + c · billed worker-seconds

The bound holds for clairvoyant and preemptive policies too. With at most ``P_g`` workers busy at once in graph g,

* it takes at least ``max(critical path, work / (slots · min(P_g, maximum)))`` from its submission on, or from when the
  first worker can be there;
* the workers are billed for the work itself, ``B`` for each start, and what they idle;
* the k-th worker (by rank: the last come, the first gone) that is busy in two graphs was either idle between them or
  started again, so it costs at least ``min(gap, B)`` once more.

Where a graph comes when somebody has seen the result of the one before, the gap is at least the time to think and the
responses of the graphs between. Where graphs come by the clock it is what is left between them when each takes the
least time it can. Who takes d_g seconds longer for graph g makes gaps shorter by at most d_g at each rank, and pays
λ · d_g for it. So the gaps of λ / c ranks can be charged in full; or those of fewer, and the rest of λ charges that
fewer workers take longer. The bound holds for each such division of λ, and the largest one is taken. Where releases
are of both kinds no gap is certain.

Run time that one more busy worker saves falls with every worker, so the ranks can be minimised one by one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from dask_adaptive.errors import ConfigError
from dask_adaptive.sim.workload import Workload

__all__ = ["Elasticity", "Start", "elasticity", "lower_bound", "objective", "sampled"]


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker start takes at least: ``queue_s`` seconds that nobody pays, then ``billed_s`` that somebody does.

    Where starts are random, these are the smallest ones that were drawn in the run.
    """

    queue_s: float = 0.0
    billed_s: float = 0.0


def objective(waited_s: float, billed_s: float, *, time_value: float, price: float = 1.0) -> float:
    """What a run cost: ``waited_s`` seconds of waiting and ``billed_s`` worker-seconds, in units of the price."""
    return time_value * waited_s + price * billed_s


def lower_bound(
    workload: Workload, start: Start, *, time_value: float, maximum: int, slots: int = 1, price: float = 1.0
) -> float:
    """What no policy can go below.

    Parameters
    ----------
    workload, start:
        The graphs, and when they come; the fastest start of a worker.
    time_value:
        Worker-seconds that one second of waiting is worth (λ).
    maximum, slots:
        Most workers there may be; tasks that one of them runs at the same time.
    price:
        What one worker-second costs (c).

    Raises
    ------
    ConfigError
        If ``maximum`` or ``slots`` is below 1.
    """
    if maximum < 1 or slots < 1:
        raise ConfigError(f"work needs at least 1 worker and 1 slot, not {maximum} and {slots}")
    line = _line(workload, start.queue_s + start.billed_s, maximum, slots)
    if not line.works:
        return 0.0
    surely = objective(line.waited_s, math.fsum(work.work_s for work in line.works), time_value=time_value, price=price)
    ranks = max(min(maximum, work.width) for work in line.works)
    kept = _divisions(time_value, price, ranks) if line.by_clock else [0.0]
    return surely + max(_beyond(line, ranks, start.billed_s, time_value, price, gaps) for gaps in kept)


@dataclass(frozen=True, slots=True)
class _Work:
    """A graph of ``tasks``: ``work_s`` seconds of work for whole workers, ``critical_s`` of them one after the other.

    With ``maximum`` workers it begins at ``begin_s`` at the earliest, on a time line of which differences matter.
    """

    work_s: float
    critical_s: float
    maximum: int
    tasks: int
    begin_s: float = 0.0

    @property
    def width(self) -> int:
        """The number of workers beyond which more are of no use."""
        return max(1, math.ceil(self.work_s / self.critical_s)) if self.critical_s else 1

    @property
    def least_s(self) -> float:
        return self.response_s(self.maximum)

    def response_s(self, workers: int) -> float:
        return max(self.critical_s, self.work_s / workers)


@dataclass(frozen=True, slots=True)
class _Line:
    """Graphs one after the other, each as early and as short as it can be.

    ``ends`` are those of all graphs so far. ``waited_s``: the least that is waited for all graphs together.
    """

    works: Sequence[_Work]
    ends: Sequence[float]
    waited_s: float
    by_clock: bool = False

    def gap_s(self, before: int, after: int) -> float:
        return max(0.0, self.works[after].begin_s - self.ends[before])


def _line(workload: Workload, first_s: float, maximum: int, slots: int) -> _Line:
    """The first worker serves after ``first_s``."""
    releases = workload.releases
    works = [_Work(graph.work_s / slots, graph.critical_s, maximum, len(graph)) for graph in workload.graphs]
    kinds = {release.thinking for release in releases[1:]}
    late_s = max(0.0, first_s - releases[0].wait_s) if releases else 0.0
    if kinds == {False}:
        pairs = sorted(zip(releases, works, strict=True), key=lambda pair: pair[0].wait_s)
        late_s = math.fsum(max(0.0, first_s - release.wait_s) for release, work in pairs if work.tasks)
        placed = [replace(work, begin_s=max(first_s, release.wait_s)) for release, work in pairs]
    elif kinds == {True}:
        placed, now_s = [], 0.0
        for release, work in zip(releases, works, strict=True):
            now_s += release.wait_s
            placed.append(replace(work, begin_s=now_s))
            now_s += work.least_s
    else:
        placed = works
    placed = [work for work in placed if work.tasks]
    ends = list(accumulate((work.begin_s + work.least_s for work in placed), max))
    return _Line(placed, ends, late_s + math.fsum(work.least_s for work in placed), by_clock=kinds == {False})


def _divisions(time_value: float, price: float, ranks: int) -> list[float]:
    """How much of the time value may be kept to charge gaps: nothing, for one rank, for two, four ... or for all."""
    most = min(time_value, price * ranks)
    doubled = [price * 2**power for power in range(ranks.bit_length())]
    return [0.0, *(each for each in doubled if each < most), most]


def _beyond(line: _Line, ranks: int, billed_s: float, time_value: float, price: float, kept: float) -> float:
    """What is paid for starts, gaps and having fewer workers; ``kept`` of the time value charges gaps by the clock."""
    left = time_value - kept
    total = left * math.fsum(work.response_s(1) - work.least_s for work in line.works)
    for rank in range(1, ranks + 1):
        charge = min(price, max(0.0, kept - (rank - 1) * price)) if line.by_clock else price
        if rank == 1:
            gaps = (line.gap_s(before, after) for before, after in pairwise(range(len(line.works))))
            total += price * billed_s + charge * math.fsum(min(gap_s, billed_s) for gap_s in gaps)
            continue
        saves = [left * (work.response_s(rank - 1) - work.response_s(rank)) for work in line.works]
        total -= max(0.0, _gain(line, rank, saves, billed_s, price, charge))
    return total


def _gain(line: _Line, rank: int, saves: Sequence[float], billed_s: float, price: float, charge: float) -> float:
    """The most that one rank can gain, net of its starts and idle time, over all sets of graphs that it is busy in."""
    best: list[float] = []
    for here, saved in enumerate(saves):
        if line.works[here].tasks < rank:  # so many are never busy
            best.append(-math.inf)
            continue
        before = (best[each] - charge * min(line.gap_s(each, here), billed_s) for each in range(here))
        best.append(max((-price * billed_s, *before)) + saved)
    return max(best)


# --- elasticity ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Elasticity:
    """The elasticity metrics of the SPEC Research Group (Herbst et al., ACM TOMPECS 3(4), 2018).

    ``under``, ``over``: average workers missing and spare, as parts of the maximum; ``under_time``, ``over_time``:
    parts of the time; ``spare_moves``: part of the moments when supply rose or fell and demand did not follow it that
    way; ``missed_moves``: the same with the roles swapped. Not for ranking alone: in a task engine demand depends on
    supply.
    """

    under: float
    over: float
    under_time: float
    over_time: float
    spare_moves: float
    missed_moves: float


def elasticity(demand: Sequence[float], supply: Sequence[float], maximum: float) -> Elasticity:
    """The metrics of two series that were sampled at the same equidistant moments.

    Raises
    ------
    ConfigError
        If the series differ in length, have fewer than two samples, or the maximum is not above 0.
    """
    count = len(demand)
    if count != len(supply) or count < 2 or maximum <= 0:
        raise ConfigError("elasticity takes two series of the same length, at least 2, and a maximum above 0")
    pairs = list(zip(demand, supply, strict=True))
    moves = [(_sign(pairs[i + 1][0] - pairs[i][0]), _sign(pairs[i + 1][1] - pairs[i][1])) for i in range(count - 1)]
    return Elasticity(
        under=math.fsum(max(0.0, d - s) for d, s in pairs) / (count * maximum),
        over=math.fsum(max(0.0, s - d) for d, s in pairs) / (count * maximum),
        under_time=sum(d > s for d, s in pairs) / count,
        over_time=sum(d < s for d, s in pairs) / count,
        spare_moves=sum(min(1, max(0, moved - asked)) for asked, moved in moves) / (count - 1),
        missed_moves=sum(min(1, max(0, asked - moved)) for asked, moved in moves) / (count - 1),
    )


def sampled(series: Sequence[tuple[float, float]], begin_s: float, end_s: float, count: int = 1000) -> list[float]:
    """A series of (time, value), each value valid until the next one, at ``count`` equidistant moments."""
    times = [at_s for at_s, _ in series]
    moments = (begin_s + (end_s - begin_s) * (number + 0.5) / count for number in range(count))
    return [series[max(0, bisect_right(times, at_s) - 1)][1] for at_s in moments]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
