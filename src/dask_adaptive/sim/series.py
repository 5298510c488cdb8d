"""Graphs that are really several, one after the other: every task of a part waits for all of the part before it.

A bound that takes such a graph as a whole believes that the widest part could fill the time of the narrow ones. Taken
part by part, as if somebody had seen each result before asking for the next, it is never lower, and no less valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dask_adaptive.sim.workload import Graph, Release, Workload

__all__ = ["parts", "taken_apart"]


def taken_apart(workload: Workload) -> Workload:
    """The same work with every graph in parts. Graphs that come by the clock may overlap, and stay whole."""
    if not all(release.thinking for release in workload.releases[1:]):
        return workload
    graphs: list[Graph] = []
    releases: list[Release] = []
    for graph, release in zip(workload.graphs, workload.releases, strict=True):
        cut = parts(graph)
        graphs += cut
        releases += [release, *(Release(thinking=True) for _ in cut[1:])]
    return Workload(workload.name, tuple(graphs), tuple(releases))


def parts(graph: Graph) -> list[Graph]:
    """The graph in as many parts as it has, in their order; one that has no parts is one."""
    cuts = [*_cuts(graph), len(graph)]
    return (
        [_between(graph, begin, end) for begin, end in zip([0, *cuts], cuts, strict=False)]
        if len(cuts) > 1
        else [graph]
    )


def _cuts(graph: Graph) -> Iterator[int]:
    """Indices before which everything is needed for everything from there on.

    Parents come before children, so what comes before a cut is a beginning of the columns. It is a cut when each task
    that could begin then takes the results of all those before that nothing before takes.
    """
    children: list[list[int]] = [[] for _ in range(len(graph))]
    for task, parents in enumerate(graph.parents):
        for parent in parents:
            children[parent].append(task)
    missing = [len(parents) for parents in graph.parents]
    ready = {task for task, count in enumerate(missing) if not count}
    ends: set[int] = set()
    joined = 0  # pairs of an end and a ready task that takes its result
    for task in range(len(graph)):
        if ends and joined == len(ends) * len(ready):
            yield task
        ready.discard(task)
        for parent in graph.parents[task]:
            if parent in ends:
                ends.discard(parent)
                joined -= 1 + sum(child in ready for child in children[parent])
        ends.add(task)
        for child in children[task]:
            missing[child] -= 1
            if not missing[child]:
                ready.add(child)
                joined += sum(parent in ends for parent in graph.parents[child])


def _between(graph: Graph, begin: int, end: int) -> Graph:
    def own(parents: Sequence[int]) -> list[int]:
        return [parent - begin for parent in parents if parent >= begin]

    inside = slice(begin, end)
    return Graph(
        graph.groups,
        graph.group[inside],
        graph.run_s[inside],
        [own(parents) for parents in graph.parents[inside]],
        graph.nbytes[inside],
    )
