"""The lower bound and the elasticity metrics, against oracles that try everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_adaptive.errors import ConfigError
from dask_adaptive.sim.bound import Elasticity, Start, elasticity, lower_bound, objective, sampled
from dask_adaptive.sim.workload import Graph, GraphBuilder, Release, Workload


def chain_and_rest(critical_s: int, others: int) -> Graph:
    build = GraphBuilder()
    before: list[int] = []
    for _ in range(critical_s):
        before = [build.add("chain", 1.0, before)]
    for _ in range(others):
        build.add("rest", 1.0)
    return build.graph()


def thinking(graphs: Sequence[Graph], thinks: Sequence[float]) -> Workload:
    releases = [Release(), *(Release(think, thinking=True) for think in thinks)]
    return Workload("w", tuple(graphs), tuple(releases))


def everything(
    sizes: Sequence[tuple[int, int]], thinks: Sequence[float], q: float, b: float, value: float, most: int
) -> float:
    """Every choice of how many workers each graph keeps busy; rank by rank, idle or started again."""
    works = [(critical, critical + others) for critical, others in sizes]
    best = math.inf
    for chosen in itertools.product(*(range(1, min(most, work) + 1) for _, work in works)):  # a second for each task
        responses = [max(critical, work / p) for (critical, work), p in zip(works, chosen, strict=True)]
        floors = [max(critical, work / most) for critical, work in works]
        cost = value * (q + b + sum(responses)) + sum(work for _, work in works)
        for rank in range(1, max(chosen) + 1):
            busy = [g for g, p in enumerate(chosen) if p >= rank]
            cost += b
            for g, h in itertools.pairwise(busy):
                cost += min(b, sum(thinks[g:h]) + sum(floors[g + 1 : h]))
        best = min(best, cost)
    return best


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=4),
    thinks=st.lists(st.sampled_from([0.0, 1.0, 5.0, 20.0, 300.0]), min_size=3, max_size=3),
    q=st.sampled_from([0.0, 3.0]),
    b=st.sampled_from([0.0, 1.0, 7.0, 60.0]),
    value=st.sampled_from([0.5, 1.0, 10.0, 100.0]),
    most=st.integers(1, 4),
)
def test_the_bound_is_the_minimum_over_all_choices(
    sizes: list[tuple[int, int]], thinks: list[float], q: float, b: float, value: float, most: int
) -> None:
    workload = thinking([chain_and_rest(*size) for size in sizes], thinks[: len(sizes) - 1])
    expected = everything(sizes, thinks, q, b, value, most)
    assert expected == pytest.approx(lower_bound(workload, Start(q, b), time_value=value, maximum=most))


def test_one_graph_by_hand() -> None:
    """16 s of work in one second at best, a start of 4 s: min over P of 1·(4 + 16 / P) + 16 + 4 P is at P = 2."""
    workload = thinking([chain_and_rest(1, 15)], [])
    assert 4 + 8 + 16 + 8 == pytest.approx(lower_bound(workload, Start(0, 4), time_value=1, maximum=100))
    assert 4 + 16 + 16 + 4 == pytest.approx(lower_bound(workload, Start(0, 4), time_value=1, maximum=1))
    assert 4 + 4 + 8 + 8 == pytest.approx(lower_bound(workload, Start(0, 4), time_value=1, maximum=100, slots=2))


def schedule(graph: Graph, workers: int, start_s: float) -> tuple[float, float]:
    """A plain list schedule with so many workers, each let go at its last task: makespan and billed seconds."""
    free = [start_s] * workers
    ends: list[float] = []
    for run_s, parents in zip(graph.run_s, graph.parents, strict=True):
        ready = max((ends[parent] for parent in parents), default=0.0)
        mine = min(range(workers), key=lambda each: max(free[each], ready))
        ends.append(max(free[mine], ready) + run_s)
        free[mine] = ends[-1]
    return max(ends), sum(free)


@settings(max_examples=100, deadline=None)
@given(
    tasks=st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 7), max_size=3)), min_size=1, max_size=9),
    workers=st.integers(1, 5),
    b=st.sampled_from([0.0, 1.0, 15.0]),
    value=st.sampled_from([0.1, 1.0, 10.0, 100.0]),
)
def test_no_schedule_is_below_the_bound(
    tasks: list[tuple[int, set[int]]], workers: int, b: float, value: float
) -> None:
    build = GraphBuilder()
    for index, (run_s, parents) in enumerate(tasks):
        build.add("x", run_s, [parent for parent in parents if parent < index])
    graph = build.graph()
    makespan_s, billed_s = schedule(graph, workers, b)
    bound = lower_bound(Workload("w", (graph,)), Start(0, b), time_value=value, maximum=5)
    assert bound <= objective(makespan_s, billed_s, time_value=value) * (1 + 1e-9)


def by_clock(graphs: Sequence[Graph], moments: Sequence[float]) -> Workload:
    return Workload("w", tuple(graphs), tuple(Release(moment) for moment in moments))


def test_graphs_by_the_clock_by_hand() -> None:
    """One task of a second at 0, 10 and 13; a worker that takes 5 s to come waits for the second and the third."""
    workload = by_clock([chain_and_rest(1, 0)] * 3, [0, 10, 13])
    assert 5 + 3 + 3 + 5 + 4 + 2 == pytest.approx(lower_bound(workload, Start(0, 5), time_value=1, maximum=4))
    assert 1 + 3 + 3 + 1 + 1 + 1 == pytest.approx(lower_bound(workload, Start(0, 1), time_value=1, maximum=4))
    together = by_clock([chain_and_rest(1, 0)] * 3, [0, 3, 9])  # the second waits for the first worker too
    assert (5 + 2) + 3 + 3 + 1 + 1 == pytest.approx(lower_bound(together, Start(4, 1), time_value=1, maximum=4))


def test_two_workers_between_bursts_by_hand() -> None:
    """Two bursts of two seconds' work: at 10 a second, two workers, which idle for 3 s or start again for 3 s."""
    workload = by_clock([chain_and_rest(1, 1)] * 2, [3, 100])
    assert 10 * 2 + 4 + 2 * (3 + 3) == pytest.approx(lower_bound(workload, Start(0, 3), time_value=10, maximum=9))


def test_gaps_between_releases_of_both_kinds_cost_nothing() -> None:
    graphs = [chain_and_rest(1, 3)] * 3
    mixed = Workload("w", tuple(graphs), (Release(), Release(100.0), Release(200.0, thinking=True)))
    by_hand = 5 + 3 * 2 + 12 + 2 * 5  # two workers, started once
    assert by_hand == pytest.approx(lower_bound(mixed, Start(0, 5), time_value=1, maximum=4))


@settings(max_examples=300, deadline=None)
@given(
    moments=st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, 6.0, 20.0, 21.0, 90.0]), min_size=2, max_size=5),
    widths=st.lists(st.integers(1, 4), min_size=5, max_size=5),
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 4.0, 15.0, 70.0]), min_size=5, max_size=5),
    most=st.lists(st.integers(1, 4), min_size=5, max_size=5),
    q=st.sampled_from([0.0, 3.0]),
    b=st.sampled_from([0.0, 1.0, 4.0, 15.0, 60.0]),
    value=st.sampled_from([0.3, 1.0, 2.0, 10.0, 100.0]),
)
def test_no_schedule_by_the_clock_is_below_the_bound(
    moments: list[float], widths: list[int], delays: list[float], most: list[int], q: float, b: float, value: float
) -> None:
    """Graphs are delayed and given fewer workers at will; workers that are known to be needed come in time."""
    moments = sorted(moments)
    free: list[list[tuple[float, float]]] = [[] for _ in range(4)]
    waited_s = 0.0
    for moment, width, delay_s, workers in zip(moments, widths, delays, most, strict=False):
        begin_s = max(moment + delay_s, q + b)
        ends: list[float] = []
        for _ in range(width):  # a second each, by the worker of the smallest rank that is free first
            mine = min(free[:workers], key=lambda busy: max(begin_s, busy[-1][1] if busy else 0.0))
            at_s = max(begin_s, mine[-1][1] if mine else 0.0)
            mine.append((at_s, at_s + 1))
            ends.append(at_s + 1)
        waited_s += max(ends) - moment
    billed_s = 0.0
    for busy in filter(None, free):
        billed_s += b + len(busy) + sum(min(b, after[0] - before[1]) for before, after in itertools.pairwise(busy))
    workload = by_clock([chain_and_rest(1, width - 1) for width, _ in zip(widths, moments, strict=False)], moments)
    bound = lower_bound(workload, Start(q, b), time_value=value, maximum=4)
    assert bound <= objective(waited_s, billed_s, time_value=value) * (1 + 1e-9)


def test_a_price_scales_what_is_billed() -> None:
    workload = thinking([chain_and_rest(1, 15)], [])
    cheap = lower_bound(workload, Start(0, 4), time_value=10, maximum=9)
    assert 3 * cheap == pytest.approx(lower_bound(workload, Start(0, 4), time_value=30, maximum=9, price=3))


def test_nothing_to_do_costs_nothing() -> None:
    assert 0.0 == lower_bound(Workload("w", (GraphBuilder().graph(),)), Start(1, 1), time_value=1, maximum=1)
    with pytest.raises(ConfigError, match="at least 1"):
        lower_bound(thinking([chain_and_rest(1, 1)], []), Start(), time_value=1, maximum=0)


def test_elasticity_by_hand() -> None:
    """Of four moments supply is 2 short once and 2 long once; it moves up while demand stays, and while it falls."""
    found = elasticity([0, 2, 2, 0], [0, 0, 2, 2], maximum=4)
    assert Elasticity(2 / 16, 2 / 16, 1 / 4, 1 / 4, spare_moves=2 / 3, missed_moves=1 / 3) == found


def test_supply_that_is_demand_is_perfect() -> None:
    assert Elasticity(0, 0, 0, 0, 0, 0) == elasticity([1, 5, 3], [1, 5, 3], maximum=5)


@pytest.mark.parametrize(("demand", "supply", "maximum"), [([1], [1], 1), ([1, 2], [1], 1), ([1, 2], [1, 2], 0)])
def test_elasticity_of_nothing_is_refused(demand: list[float], supply: list[float], maximum: float) -> None:
    with pytest.raises(ConfigError, match="two series"):
        elasticity(demand, supply, maximum)


def test_a_series_is_sampled_in_the_middle_of_equal_parts() -> None:
    series = [(10.0, 1.0), (12.0, 5.0), (13.5, 2.0)]
    assert [1.0, 1.0, 5.0, 2.0] == sampled(series, 10.0, 14.0, 4)
    assert [1.0, 1.0] == sampled(series, 8.0, 10.0, 2)
