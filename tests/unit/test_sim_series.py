"""Graphs that are several, one after the other: where they are cut, against a search of all paths."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_adaptive.sim.bound import Start, lower_bound
from dask_adaptive.sim.series import parts, taken_apart
from dask_adaptive.sim.shapes import fork_join, map_reduce, trickle
from dask_adaptive.sim.workload import Graph, GraphBuilder, Release, Workload


def made(parents: Sequence[set[int]]) -> Graph:
    build = GraphBuilder()
    for index, mine in enumerate(parents):
        build.add("x", 1.0 + index, sorted(mine), nbytes=index)
    return build.graph()


def everything_before(graph: Graph) -> list[set[int]]:
    """Of each task, all whose results it takes, and theirs."""
    found: list[set[int]] = []
    for mine in graph.parents:
        found.append(set(mine).union(*(found[parent] for parent in mine)))
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 8), max_size=4), max_size=9).map(
        lambda rows: [{parent for parent in row if parent < index} for index, row in enumerate(rows)]
    )
)
def test_a_cut_is_where_all_wait_for_all(rows: list[set[int]]) -> None:
    graph = made(rows)
    before = everything_before(graph)
    count = len(graph)
    cuts = [at for at in range(1, count) if all(before[task].issuperset(range(at)) for task in range(at, count))]
    assert [b - a for a, b in zip([0, *cuts], [*cuts, count], strict=True)] == [len(part) for part in parts(graph)]


def test_parts_are_the_graph_again() -> None:
    graph = made([set(), set(), {0, 1}, {2}, {2}, {3, 4}])
    cut = parts(graph)
    assert [[[], []], [[]], [[], []], [[]]] == [[list(each) for each in part.parents] for part in cut]
    assert list(graph.run_s) == [run_s for part in cut for run_s in part.run_s]
    assert list(graph.nbytes) == [size for part in cut for size in part.nbytes]


def test_what_comes_by_the_clock_stays_whole() -> None:
    workload = trickle(count=3)
    assert workload is taken_apart(workload)


def test_parts_follow_each_other_without_a_pause() -> None:
    graph = made([set(), {0}])
    workload = Workload("w", (graph, graph), (Release(3.0), Release(60.0, thinking=True)))
    expected = (Release(3.0), Release(thinking=True), Release(60.0, thinking=True), Release(thinking=True))
    assert expected == taken_apart(workload).releases


@pytest.mark.parametrize("workload", [map_reduce(), fork_join()], ids=["map-reduce", "fork-join"])
@pytest.mark.parametrize("value", [1.0, 10.0, 100.0])
def test_the_bound_of_the_parts_is_higher(workload: Workload, value: float) -> None:
    start = Start(0.0, 15.0)
    whole, in_parts = (lower_bound(w, start, time_value=value, maximum=100) for w in (workload, taken_apart(workload)))
    assert whole < in_parts


def test_two_parts_by_hand() -> None:
    """Two tasks of a second, one of four that takes both, two more: the second worker idles for 4 s, or starts anew."""
    build = GraphBuilder()
    first = [build.add("a", 1.0) for _ in range(2)]
    middle = build.add("b", 4.0, first)
    for _ in range(2):
        build.add("c", 1.0, [middle])
    workload = taken_apart(Workload("w", (build.graph(),)))
    assert 100 * (3 + 6) + 8 + 2 * 3 + 3 == pytest.approx(lower_bound(workload, Start(0, 3), time_value=100, maximum=9))
