"""Is the simulator to be believed? The same graphs, once for real and once simulated, under the same policy.

    python -m benchmarks.believable                      about three minutes; prints the table
    python -m benchmarks.believable --docs               and writes it into docs/simulator.md

For real means: a cluster of ours with its scheduler, workers and controller, and a client that submits the graphs and
waits; tasks sleep, and workers serve some seconds after they were asked for. How long that took is measured and told to
the simulator. Every run has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.order
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Worker

from benchmarks.report import markdown_table
from dask_adaptive import Cluster
from dask_adaptive.backend.contracts import Wake
from dask_adaptive.model import Batch, Job, JobId, JobState, worker_name
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.sim import shapes
from dask_adaptive.sim.site import Constant, Site
from dask_adaptive.sim.trial import WAIT_S, equipped
from dask_adaptive.sim.workload import Graph, Release, Workload
from dask_adaptive.sim.world import Setting, simulate

__all__ = ["GRAPHS", "Measured", "Pair", "apart", "compared", "placed", "run_real", "run_simulated"]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "simulator.md"
BEGIN, END = "<!-- believable: written by python -m benchmarks.believable --docs -->", "<!-- believable: end -->"

MAXIMUM = 8
SEED = 1
LIMIT_S = 150.0
BEFORE_S = 0.5
"""How long a cluster is there before anything is asked of it: policies remember pauses."""

DELAYS_S = (1.0, 3.0)

GRAPHS: Mapping[str, Callable[[], Workload]] = {
    "map-reduce": partial(shapes.map_reduce, tasks=48, reducers=4, mean_s=0.8, nbytes=100, seed=SEED),
    "tree-reduction": partial(shapes.tree_reduction, leaves=32, mean_s=0.6, nbytes=100, seed=SEED),
    "fork-join": partial(shapes.fork_join, rounds=3, width=16, mean_s=0.6, seed=SEED),
    "stencil": partial(shapes.stencil, cells=10, steps=5, mean_s=0.8, nbytes=100, seed=SEED),
    "pipelines": partial(shapes.pipelines, count=10, stages=4, mean_s=0.8, seed=SEED),
    "triplets": partial(shapes.triplets, count=20, mean_s=0.7, nbytes=100, seed=SEED),
    "gridcat": partial(shapes.gridcat, files=30, mean_s=0.8, nbytes=100, seed=SEED),
    "long-tail": partial(shapes.long_tail, tasks=40, mean_s=0.5, slow=2, factor=12.0, seed=SEED),
    "trickle": partial(shapes.trickle, count=15, every_s=1.0, mean_s=0.7, seed=SEED),
    "bursts": partial(shapes.bursts, count=3, every_s=8.0, tasks=20, mean_s=0.5, seed=SEED),
    "unseen": partial(shapes.unseen, kinds=4, tasks=8, longest_s=3.0, seed=SEED),
    "session": partial(shapes.session, graphs=3, think_s=5.0, tasks=20, mean_s=0.6, seed=SEED),
}
"""Small ones, a function each; they take seconds, so that this can be run by anybody."""


@dataclass(frozen=True)
class Measured:
    """What came of a run: seconds from the first submission to the last result, and billed until then; jobs started.

    ``start_s``: how long a job took from the request until its worker served, in the median; ``end_s``: from the order
    to close until it had ended.
    """

    makespan_s: float
    worker_s: float
    starts: int
    start_s: float
    end_s: float = 0.0


@dataclass(frozen=True)
class Pair:
    """The same graph for real and simulated, with workers that take ``delay_s`` to start."""

    name: str
    delay_s: float
    real: Measured
    simulated: Measured


# --- for real --------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """One job: its worker, and when it was asked for, served and ended, on the clock of ``time.monotonic``."""

    name: str
    state: JobState = JobState.RUNNING
    begun_s: float = field(default_factory=time.monotonic)
    served_s: float | None = None
    ended_s: float | None = None
    worker: Timed | None = None
    life: asyncio.Task[None] | None = None


class Timed(Worker):
    """Keeps when it was told to close."""

    closing_s: float | None = None

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        self.closing_s = self.closing_s or time.monotonic()
        return await super().close(*args, **kwargs)


class Delayed:
    """A backend whose workers live in this process and take ``delay_s`` to start."""

    name = "delayed"
    lag_s = 0.0
    timeout_s = 30.0
    ends_with_owner = True

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.places: dict[JobId, Place] = {}
        self._wake: Wake = lambda _: None

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        ids = [JobId(f"d{len(self.places) + index}") for index in range(batch.count)]
        for each, name in zip(ids, batch.names, strict=True):
            place = self.places[each] = Place(name)
            place.life = asyncio.create_task(self._live(place, batch))
        return ids

    async def _live(self, place: Place, batch: Batch) -> None:
        shape = batch.spec.shape
        try:
            await asyncio.sleep(self.delay_s)
            options = {"nthreads": shape.threads, "resources": dict(shape.resources), "memory_limit": 0}
            name = worker_name(place.name, 0)
            worker = Timed(batch.spec.scheduler, name=name, host="127.0.0.1", dashboard=False, **options)
            place.worker = await worker
            place.served_s = time.monotonic()
            await worker.finished()
        finally:
            place.state, place.ended_s = JobState.ENDED, time.monotonic()
            self._wake("a job ended")

    async def jobs(self, cluster: str) -> Sequence[Job]:
        del cluster
        return [Job(each, place.name, place.state) for each, place in self.places.items()]

    async def cancel(self, ids: Collection[JobId]) -> None:
        for each in ids:
            place = self.places[each]
            if place.worker is not None:
                await place.worker.close(nanny=False)
            elif place.life is not None:
                place.life.cancel()

    async def log(self, id: JobId) -> str:
        del id
        return ""

    async def aclose(self) -> None:
        await self.cancel(list(self.places))

    def watch(self, wake: Wake) -> None:
        self._wake = wake


def nap(seconds: float, *_: Any) -> float:
    """A task that takes ``seconds`` and no processor time."""
    time.sleep(seconds)
    return seconds


def dask_graph(graph: Graph, number: int) -> tuple[HighLevelGraph, list[tuple[str, int]]]:
    """The same graph for Dask, with the same groups, and the keys of the tasks that no other task takes a result of."""
    names = [name_of(graph, number, group) for group in range(len(graph.groups))]
    keys = [key_of(graph, number, index) for index in range(len(graph))]
    layers: dict[str, dict[Any, Any]] = {name: {} for name in names}
    needs: dict[str, set[str]] = {name: set() for name in names}
    for key, run_s, parents in zip(keys, graph.run_s, graph.parents, strict=True):
        layers[key[0]][key] = (nap, run_s, [keys[parent] for parent in parents])
        needs[key[0]] |= {keys[parent][0] for parent in parents} - {key[0]}
    taken = {parent for parents in graph.parents for parent in parents}
    made = {name: MaterializedLayer(layer) for name, layer in layers.items()}
    return HighLevelGraph(made, needs), [key for index, key in enumerate(keys) if index not in taken]


def key_of(graph: Graph, number: int, index: int) -> tuple[str, int]:
    """The key of a task."""
    return name_of(graph, number, graph.group[index]), index


def name_of(graph: Graph, number: int, group: int) -> str:
    """The name of a group, which Dask sees the prefix in."""
    return f"{letters(graph.groups[group].prefix)}-{number:04x}{group:04x}{'0' * 24}"


def letters(prefix: str) -> str:
    """A prefix that Dask reads as it stands: numbers in it would be left out."""
    return "".join(chr(ord("a") + int(char)) if char.isdigit() else char for char in prefix)


async def submit_all(workload: Workload, client: Client) -> tuple[float, float]:
    """Submit as the releases say and wait for all results: when the first was submitted and the last came."""
    begun_s, ends = time.monotonic(), []

    async def one(number: int) -> None:
        graph, wanted = dask_graph(workload.graphs[number], number)
        await client.gather(client.get(graph, wanted, sync=False))

    for number, release in enumerate(workload.releases):
        if release.thinking and ends:
            await ends[-1]
            await asyncio.sleep(release.wait_s)
        else:
            await asyncio.sleep(max(0.0, begun_s + release.wait_s - time.monotonic()))
        ends.append(asyncio.create_task(one(number)))
    await asyncio.gather(*ends)
    return begun_s, time.monotonic()


async def run_real(workload: Workload, delay_s: float) -> Measured:
    """One run for real."""
    backend = Delayed(delay_s)
    async with AsyncExitStack() as stack:
        dask.config.set({"adaptive.history": False})  # every run is the first one
        options = {"scheduler_options": {"dashboard": False, "dashboard_address": ":0"}, "threads": 1}
        cluster = await stack.enter_async_context(Cluster(backend, asynchronous=True, security=False, **options))
        client = await stack.enter_async_context(Client(cluster, asynchronous=True, set_as_default=False))
        cluster.adapt(minimum=0, maximum=MAXIMUM, interval="1s")
        await asyncio.sleep(BEFORE_S)
        begun_s, end_s = await asyncio.wait_for(submit_all(workload, client), LIMIT_S)
        places = list(backend.places.values())
        billed_s = sum(min(end_s, place.ended_s or end_s) - place.begun_s for place in places if place.begun_s < end_s)
        starts = [place.served_s - place.begun_s for place in places if place.served_s is not None]
        ends = [
            place.ended_s - place.worker.closing_s
            for place in places
            if place.ended_s and place.worker is not None and place.worker.closing_s
        ]
        median = statistics.median
        return Measured(end_s - begun_s, billed_s, len(places), median(starts), median(ends or [0.0]))


def in_dask_order(graph: Graph) -> Graph:
    """The same graph, its tasks in the order in which Dask would begin them on one thread."""
    made, _ = dask_graph(graph, 0)
    places = dask.order.order(dict(made))
    order = sorted(range(len(graph)), key=lambda index: places[key_of(graph, 0, index)])
    new = {old: index for index, old in enumerate(order)}
    parents = [[new[parent] for parent in graph.parents[old]] for old in order]
    group, run_s, nbytes = ([column[old] for old in order] for column in (graph.group, graph.run_s, graph.nbytes))
    return Graph(graph.groups, group, run_s, parents, nbytes)


def run_simulated(workload: Workload, start_s: float, end_s: float = 0.0) -> Measured:
    """The same run in the made-up world, with jobs that take as long to start and to end."""
    releases = [Release(each.wait_s + (0 if each.thinking else BEFORE_S), each.thinking) for each in workload.releases]
    workload = Workload(workload.name, tuple(in_dask_order(graph) for graph in workload.graphs), tuple(releases))
    site = Site("delayed", start=Constant(start_s), end_s=end_s)
    setting = Setting(site, shape=equipped(Setting(site).shape, workload), maximum=MAXIMUM)
    outcome = simulate(workload, standard(CostAware(), WAIT_S), setting)
    return Measured(outcome.makespan_s, outcome.billed_s, outcome.starts, start_s, end_s)


# --- the comparison --------------------------------------------------------------------------------------------


def apart(real: float, simulated: float) -> float:
    """How far the simulated number is from the real one, as a part of the real one."""
    return abs(simulated - real) / real


def compared(pairs: Sequence[Pair]) -> str:
    """The table, and the medians of what lies between real and simulated."""
    head = (
        "graph, workers start in",
        "makespan: real, simulated",
        "apart",
        "worker-s: real, simulated",
        "apart",
        "starts",
    )
    body = [
        (
            f"{pair.name}, {pair.delay_s:g} s",
            f"{pair.real.makespan_s:.1f} s, {pair.simulated.makespan_s:.1f} s",
            f"{apart(pair.real.makespan_s, pair.simulated.makespan_s):.0%}",
            f"{pair.real.worker_s:.0f}, {pair.simulated.worker_s:.0f}",
            f"{apart(pair.real.worker_s, pair.simulated.worker_s):.0%}",
            f"{pair.real.starts}, {pair.simulated.starts}",
        )
        for pair in pairs
    ]
    makespan = statistics.median(apart(pair.real.makespan_s, pair.simulated.makespan_s) for pair in pairs)
    worker = statistics.median(apart(pair.real.worker_s, pair.simulated.worker_s) for pair in pairs)
    held = "both are within the 10 % that are wanted" if max(makespan, worker) <= 0.1 else "wanted are 10 % at most"
    text = (
        f"In the median of {len(pairs)} runs the simulated makespan is {makespan:.1%} apart from the real one, and the "
        f"worker-seconds {worker:.1%}: {held}."
    )
    return f"{text}\n\n{markdown_table(head, body)}"


def placed(page: str, table: str) -> str:
    """The page with this table between its two marks.

    Raises
    ------
    ValueError
        If the page does not have both.
    """
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the page has no place for the table, between {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


# --- the command -----------------------------------------------------------------------------------------------


async def in_process(name: str, delay_s: float) -> Measured:
    """Run for real in a new process."""
    command = (sys.executable, "-m", "benchmarks.believable", "--one", name, str(delay_s))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, cwd=ROOT)
    try:
        out, err = await asyncio.wait_for(process.communicate(), LIMIT_S + 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SystemExit(f"{name}, {delay_s:g} s: {err.decode().strip().splitlines()[-1:]}")
    return Measured(**json.loads(out.decode().splitlines()[-1]))


async def all_real(runs: Sequence[tuple[str, float]], parallel: int) -> list[Measured]:
    free = asyncio.Semaphore(parallel)

    async def one(name: str, delay_s: float) -> Measured:
        async with free:
            real = await in_process(name, delay_s)
        print(f"{name}, {delay_s:g} s: {real.makespan_s:.1f} s, {real.worker_s:.0f}", file=sys.stderr, flush=True)
        return real

    return list(await asyncio.gather(*(one(name, delay_s) for name, delay_s in runs)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--only", nargs="+", choices=list(GRAPHS), default=list(GRAPHS), help="some graphs")
    parser.add_argument("--parallel", type=int, default=2, help="so many runs at the same time (2)")
    parser.add_argument("--one", nargs=2, metavar=("GRAPH", "DELAY_S"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        name, delay_s = options.one
        print(json.dumps(asdict(asyncio.run(run_real(GRAPHS[name](), float(delay_s))))), flush=True)
        os._exit(0)  # a worker that was dropped may still sleep in its thread
    runs = [(name, delay_s) for name in options.only for delay_s in DELAYS_S]
    real = asyncio.run(all_real(runs, options.parallel))
    table = compared(
        [
            Pair(name, delay_s, each, run_simulated(GRAPHS[name](), each.start_s, each.end_s))
            for (name, delay_s), each in zip(runs, real, strict=True)
        ]
    )
    print(table)
    if options.docs:
        PAGE.write_text(placed(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
