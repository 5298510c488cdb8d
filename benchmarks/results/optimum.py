"""How loose the bound is: the exact optimum of graphs of a few tasks, beside the bound and beside what policies cost.

A run that knows everything is a path: in each second it begins some of the ready tasks, and has so many workers as are
busy, or keeps some of those it had. Worker starts cost what is billed for them. Whole seconds lose nothing, as all run
times are whole. The best path from each state is looked for once.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from dask_adaptive.sim.bound import Start, lower_bound
from dask_adaptive.sim.workload import Graph, GraphBuilder, Workload

__all__ = ["best_cost", "optimum", "small"]


def small(seed: int, tasks: int = 6, longest_s: int = 4) -> Workload:
    """A graph of a few tasks of whole seconds; each takes results of some that come before it."""
    rng = random.Random(seed)
    build, chance = GraphBuilder(), rng.choice((0.0, 0.1, 0.3))
    for index in range(tasks):
        build.add("task", float(rng.randint(1, longest_s)), [each for each in range(index) if rng.random() < chance])
    return Workload(f"small-{seed}", (build.graph(),))


@dataclass(frozen=True)
class _Task:
    run_s: int
    needs: int


def best_cost(graph: Graph, start: Start, time_value: float) -> float:
    """What a run costs at least: the optimum itself, for a graph of a few tasks of whole seconds."""
    tasks = [
        _Task(int(run_s), sum(1 << parent for parent in parents))
        for run_s, parents in zip(graph.run_s, graph.parents, strict=True)
    ]
    everything = (1 << len(tasks)) - 1

    @cache
    def left(done: int, running: tuple[tuple[int, int], ...], workers: int) -> float:
        """The cheapest way on: ``running`` are tasks with the seconds that they still take."""
        if done == everything:
            return 0.0
        begun = done | sum(1 << task for task, _ in running)
        ready = [i for i, task in enumerate(tasks) if not begun >> i & 1 and task.needs & ~done == 0]
        best = float("inf")
        for chosen in _subsets(ready):
            now = (*running, *((task, tasks[task].run_s) for task in chosen))
            if not now:
                continue
            after = done | sum(1 << task for task, left_s in now if left_s == 1)
            then = tuple(sorted((task, left_s - 1) for task, left_s in now if left_s > 1))
            for size in range(len(now), max(len(now), workers) + 1):
                starts = max(0, size - workers)
                best = min(best, starts * start.billed_s + time_value + size + left(after, then, size))
        return best

    sys.setrecursionlimit(10_000)
    return time_value * (start.queue_s + start.billed_s) + left(0, (), 0)


def _subsets(items: list[int]) -> Iterator[tuple[int, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(items, count) for count in range(len(items) + 1))


def optimum(workload: Workload, start: Start, time_value: float) -> tuple[float, float]:
    """The optimum and the bound of one graph."""
    (graph,) = workload.graphs
    return best_cost(graph, start, time_value), lower_bound(workload, start, time_value=time_value, maximum=len(graph))
