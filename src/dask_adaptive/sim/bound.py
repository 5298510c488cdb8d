"""How good a run was: what it cost, and what no policy could have gone below.

One second of waiting is worth ``time_value`` worker-seconds (λ), a worker-second costs ``price`` (c):

    J = λ · (sum over graphs of end - submission) + c · billed worker-seconds

The bound holds for clairvoyant and preemptive policies too. With at most ``P_g`` workers busy at once in graph g,

* its response is at least ``max(critical path, work / (slots · min(P_g, maximum)))``, the first one a start later;
* the workers are billed for the work itself, ``B`` for each start, and what they idle;
* the k-th worker (by rank: the last come, the first gone) that is busy in two graphs was either idle between them or
  started again, so it costs at least ``min(gap, B)`` once more. The gap is at least the time to think and the
  responses of the graphs between. Where a release goes by the clock graphs may overlap, and no gap is certain.

Run time that one more busy worker saves falls with every worker, so the ranks can be minimised one by one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

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
    graphs = [_Work(graph.work_s / slots, graph.critical_s) for graph in workload.graphs if len(graph)]
    if not graphs:
        return 0.0
    ranks = max(min(maximum, graph.width) for graph in graphs)
    gaps = _gaps(workload)
    certain = all(release.thinking for release in workload.releases[1:])
    lengths = [graph.response_s(maximum) if certain else 0.0 for graph in graphs]
    first_s = 0.0 if workload.releases[0].wait_s else start.queue_s + start.billed_s
    waited_s = first_s + math.fsum(graph.response_s(1) for graph in graphs)
    billed_s = math.fsum(graph.work_s for graph in graphs)
    billed_s += start.billed_s + math.fsum(min(gap, start.billed_s) for gap in gaps[1:])
    total = objective(waited_s, billed_s, time_value=time_value, price=price)
    for rank in range(2, ranks + 1):
        saves = [time_value * (graph.response_s(rank - 1) - graph.response_s(rank)) for graph in graphs]
        total -= max(0.0, _gain(saves, gaps, lengths, start.billed_s, price))
    return total


@dataclass(frozen=True, slots=True)
class _Work:
    """``work_s`` seconds of work for whole workers, ``critical_s`` of them one after the other."""

    work_s: float
    critical_s: float

    @property
    def width(self) -> int:
        """The number of workers beyond which more are of no use."""
        return max(1, math.ceil(self.work_s / self.critical_s)) if self.critical_s else 1

    def response_s(self, workers: int) -> float:
        return max(self.critical_s, self.work_s / workers)


def _gaps(workload: Workload) -> list[float]:
    """Seconds that surely lie between each graph and the one before it."""
    if not all(release.thinking for release in workload.releases[1:]):
        return [0.0] * len(workload.graphs)
    gaps, carried_s = [], 0.0
    for graph, release in zip(workload.graphs, workload.releases, strict=True):
        carried_s += release.wait_s
        if len(graph):
            gaps.append(carried_s)
            carried_s = 0.0
    return gaps


def _gain(
    saves: Sequence[float], gaps: Sequence[float], lengths: Sequence[float], billed_s: float, price: float
) -> float:
    """The most that one rank can gain, net of its starts and idle time, over all sets of graphs that it is busy in."""
    best: list[float] = []
    for here, saved in enumerate(saves):
        gain, idle_s = -price * billed_s, 0.0
        for before in range(here - 1, -1, -1):
            idle_s += gaps[before + 1]
            gain = max(gain, best[before] - price * min(idle_s, billed_s))
            idle_s += lengths[before]
        best.append(gain + saved)
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
