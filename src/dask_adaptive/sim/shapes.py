"""Generators of work: the shapes that tell autoscalers apart. Every one is a function of its numbers and a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

from dask_adaptive.errors import ConfigError
from dask_adaptive.sim.workload import Graph, GraphBuilder, Release, Workload

__all__ = [
    "SHAPES",
    "bursts",
    "fork_join",
    "gridcat",
    "long_tail",
    "map_reduce",
    "pipelines",
    "resource_bound",
    "session",
    "stencil",
    "tree_reduction",
    "trickle",
    "triplets",
    "unseen",
]


class _Times:
    """Run times around a mean: log-normal, as measured run times are; ``spread=0`` gives the mean itself."""

    def __init__(self, seed: int, spread: float = 0.5) -> None:
        self._random, self._spread = random.Random(seed), spread  # noqa: S311

    def __call__(self, mean_s: float) -> float:
        sigma = self._spread
        return mean_s * self._random.lognormvariate(-sigma * sigma / 2, sigma) if sigma else mean_s


def _one(name: str, build: GraphBuilder) -> Workload:
    return Workload(name, (build.graph(),))


def map_reduce(
    tasks: int = 200, reducers: int = 10, mean_s: float = 2.0, nbytes: int = 10**7, seed: int = 0
) -> Workload:
    """``tasks`` maps, then ``reducers`` that take a result of all of them, then one that joins them."""
    build, times = GraphBuilder(), _Times(seed)
    maps = [build.add("map", times(mean_s), nbytes=nbytes) for _ in range(tasks)]
    reduced = [build.add("reduce", times(2 * mean_s), maps, nbytes=nbytes) for _ in range(reducers)]
    build.add("join", times(mean_s), reduced)
    return _one("map-reduce", build)


def tree_reduction(
    leaves: int = 256, fan_in: int = 2, mean_s: float = 1.0, nbytes: int = 10**7, seed: int = 0
) -> Workload:
    """``leaves`` results that are joined ``fan_in`` at a time until one is left: work that halves with every level."""
    if fan_in < 2:
        raise ConfigError(f"a tree joins at least 2 results at a time, not {fan_in}")
    build, times = GraphBuilder(), _Times(seed)
    row = [build.add("load", times(2 * mean_s), nbytes=nbytes) for _ in range(leaves)]
    level = 0
    while len(row) > 1:
        parts = [row[i : i + fan_in] for i in range(0, len(row), fan_in)]
        row = [build.add(f"sum-{level}", times(mean_s), part, nbytes=nbytes, prefix="sum") for part in parts]
        level += 1
    return _one("tree-reduction", build)


def fork_join(rounds: int = 5, width: int = 60, mean_s: float = 2.0, seed: int = 0) -> Workload:
    """Rounds of ``width`` tasks with one slow task between them: demand that comes and goes."""
    build, times = GraphBuilder(), _Times(seed)
    before = [build.add("start", times(mean_s))]
    for number in range(rounds):
        wide = [build.add(f"fork-{number}", times(mean_s), before, prefix="fork") for _ in range(width)]
        before = [build.add(f"join-{number}", times(4 * mean_s), wide, prefix="join")]
    return _one("fork-join", build)


def pipelines(count: int = 40, stages: int = 6, mean_s: float = 3.0, seed: int = 0) -> Workload:
    """Chains side by side that never meet: constant width."""
    build, times = GraphBuilder(), _Times(seed)
    last: dict[int, int] = {}
    for stage in range(stages):
        for chain in range(count):
            parents = [last[chain]] if stage else []
            last[chain] = build.add(f"stage-{stage}", times(mean_s), parents)
    return _one("pipelines", build)


def triplets(count: int = 100, mean_s: float = 2.0, nbytes: int = 10**7, seed: int = 0) -> Workload:
    """Many small graphs in one: two loads that one task combines."""
    build, times = GraphBuilder(), _Times(seed)
    for _ in range(count):
        pair = [build.add("load", times(mean_s), nbytes=nbytes) for _ in range(2)]
        build.add("combine", times(mean_s), pair)
    return _one("triplets", build)


def gridcat(files: int = 150, mean_s: float = 2.0, nbytes: int = 10**7, seed: int = 0) -> Workload:
    """Files in a row, of which every two neighbours are joined: joins can begin long before all is loaded."""
    build, times = GraphBuilder(), _Times(seed)
    loaded = [build.add("load", times(mean_s), nbytes=nbytes) for _ in range(files)]
    for left, right in itertools.pairwise(loaded):
        build.add("join", times(mean_s / 2), (left, right), nbytes=2 * nbytes)
    return _one("gridcat", build)


def stencil(cells: int = 40, steps: int = 8, mean_s: float = 2.0, nbytes: int = 10**6, seed: int = 0) -> Workload:
    """A row of cells, step after step, each from itself and its neighbours: a slow one holds back ever more of them."""
    build, times = GraphBuilder(), _Times(seed)
    row = [build.add("step-0", times(mean_s), nbytes=nbytes, prefix="step") for _ in range(cells)]
    for number in range(1, steps):
        near = [row[max(0, cell - 1) : cell + 2] for cell in range(cells)]
        row = [build.add(f"step-{number}", times(mean_s), each, nbytes=nbytes, prefix="step") for each in near]
    return _one("stencil", build)


def long_tail(tasks: int = 200, mean_s: float = 2.0, slow: int = 4, factor: float = 40.0, seed: int = 0) -> Workload:
    """Many tasks of one kind, of which a few take ``factor`` times as long and nobody knows which."""
    build, times = GraphBuilder(), _Times(seed)
    chosen = set(random.Random(seed).sample(range(tasks), slow))  # noqa: S311
    for index in range(tasks):
        build.add("work", times(mean_s) * (factor if index in chosen else 1.0))
    return _one("long-tail", build)


def trickle(count: int = 60, every_s: float = 3.0, mean_s: float = 2.0, seed: int = 0) -> Workload:
    """One task after the other, submitted every few seconds on average: never idle, never busy."""
    times, moments = _Times(seed), random.Random(seed + 1)  # noqa: S311
    graphs, releases, at_s = [], [], 0.0
    for _ in range(count):
        build = GraphBuilder()
        build.add("request", times(mean_s))
        graphs.append(build.graph())
        releases.append(Release(at_s))
        at_s += moments.expovariate(1 / every_s)
    return Workload("trickle", tuple(graphs), tuple(releases))


def bursts(count: int = 6, every_s: float = 60.0, tasks: int = 60, mean_s: float = 2.0, seed: int = 0) -> Workload:
    """The same wide graph again and again, by the clock."""
    times = _Times(seed)
    graphs = tuple(_wide("burst", tasks, mean_s, times) for _ in range(count))
    return Workload("bursts", graphs, tuple(Release(number * every_s) for number in range(count)))


def unseen(kinds: int = 8, tasks: int = 12, longest_s: float = 60.0, seed: int = 0) -> Workload:
    """Stages of functions that nobody has seen before, from very short to very long: nothing learned helps."""
    build, draw = GraphBuilder(), random.Random(seed)  # noqa: S311
    before: list[int] = []
    for kind in range(kinds):
        run_s = longest_s ** draw.uniform(-0.25, 1.0)
        stage = [build.add(f"kind-{kind}", run_s * draw.uniform(0.8, 1.2), before) for _ in range(tasks)]
        before = [build.add(f"gather-{kind}", 0.05, stage, prefix="gather")]
    return _one("unseen", build)


def resource_bound(tasks: int = 60, gpu_tasks: int = 20, mean_s: float = 4.0, seed: int = 0) -> Workload:
    """Plain tasks beside tasks that take a ``GPU`` each, one for the results of a few plain ones."""
    build, times = GraphBuilder(), _Times(seed)
    plain = [build.add("prepare", times(mean_s)) for _ in range(tasks)]
    share = max(1, tasks // gpu_tasks)
    for number in range(gpu_tasks):
        mine = plain[number * share : (number + 1) * share] or plain[-1:]
        build.add("train", times(2 * mean_s), mine, need={"GPU": 1.0})
    return _one("resource-bound", build)


def session(graphs: int = 8, think_s: float = 60.0, tasks: int = 60, mean_s: float = 3.0, seed: int = 0) -> Workload:
    """Somebody at a notebook: graph, ``think_s`` seconds of looking at the result, the next graph."""
    times = _Times(seed)
    made = tuple(_wide("query", tasks, mean_s, times) for _ in range(graphs))
    releases = tuple(Release(think_s if number else 0.0, thinking=number > 0) for number in range(graphs))
    return Workload(f"session-{think_s:g}", made, releases)


def _wide(name: str, tasks: int, mean_s: float, times: _Times) -> Graph:
    build = GraphBuilder()
    done = [build.add(name, times(mean_s)) for _ in range(tasks)]
    build.add(f"{name}-sum", times(mean_s / 4), done)
    return build.graph()


SHAPES: Mapping[str, Callable[..., Workload]] = {
    "map-reduce": map_reduce,
    "tree-reduction": tree_reduction,
    "fork-join": fork_join,
    "stencil": stencil,
    "pipelines": pipelines,
    "triplets": triplets,
    "gridcat": gridcat,
    "long-tail": long_tail,
    "trickle": trickle,
    "bursts": bursts,
    "unseen": unseen,
    "resource-bound": resource_bound,
    "session": session,
}
"""Every generator by its name; each takes a ``seed`` and has defaults for the rest."""
