"""The made-up world: what it does to work and to jobs, against rules that hold for any scheduler and manager."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dask_adaptive.errors import ConfigError, PolicyError, Unavailable
from dask_adaptive.model import Batch, JobState, Past, Record, Shape, Spec, Target, View, Want
from dask_adaptive.plan import view_of
from dask_adaptive.policy.classic import Fixed, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.sim import shapes
from dask_adaptive.sim.bound import lower_bound, objective
from dask_adaptive.sim.engine import SimEngine
from dask_adaptive.sim.nouns import Costs, Worker
from dask_adaptive.sim.scheduler import Scheduler
from dask_adaptive.sim.site import SITES, Bimodal, Constant, LogNormal, Site, SiteBackend
from dask_adaptive.sim.timeline import START_S, Timeline, VirtualLoop
from dask_adaptive.sim.trial import POLICIES, STATIC_BEST
from dask_adaptive.sim.workload import Graph, GraphBuilder, Release, Workload
from dask_adaptive.sim.world import Outcome, Setting, simulate

FREE = Costs(latency_s=0.0, bytes_per_s=math.inf, each_s=0.0)
AT_ONCE = Site("at-once", start=Constant(0.0))


def fixed(workload: Workload, jobs: int, **setting: Any) -> Outcome:
    """On a fixed number of jobs that start at once, with nothing to pay but run time."""
    return simulate(workload, Fixed(jobs), Setting(AT_ONCE, costs=FREE, linger_s=0.0, **setting))


def adaptive() -> Policy:
    return standard(TargetDuration(), 3.0)


# --- time ------------------------------------------------------------------------------------------------------


def test_the_clock_jumps_and_things_happen_in_order() -> None:
    timeline, seen = Timeline(), []
    loop = VirtualLoop(timeline)
    timeline.after(5.0, lambda: seen.append(("event", timeline.now_s - START_S)))

    async def wait() -> None:
        for _ in range(2):
            await asyncio.sleep(4.0)
            seen.append(("slept", timeline.now_s - START_S))

    loop.run_until_complete(wait())
    loop.close()
    assert [("slept", 4.0), ("event", 5.0), ("slept", 8.0)] == seen


def test_an_event_wakes_who_waits_for_it() -> None:
    timeline = Timeline()
    loop = VirtualLoop(timeline)

    async def wait() -> float:
        bell = asyncio.Event()
        timeline.after(7.0, bell.set)
        await bell.wait()
        return timeline.now_s - START_S

    assert 7.0 == loop.run_until_complete(wait())
    loop.close()


def test_waiting_for_nothing_is_said_and_does_not_hang() -> None:
    with Place() as place, pytest.raises(RuntimeError, match="nothing is left"):
        place.loop.run_until_complete(place.loop.create_future())


# --- the scheduler ---------------------------------------------------------------------------------------------


def random_graph(seed: int, tasks: int, need: float = 0.0) -> Graph:
    draw, build = random.Random(seed), GraphBuilder()
    for index in range(tasks):
        parents = draw.sample(range(index), min(index, draw.randrange(4)))
        wants = {"GPU": need} if need and draw.random() < 0.3 else {}
        build.add(f"g{index % 3}-{bool(wants)}", draw.choice([0.0, 0.5, 1.0, 3.0]), parents, nbytes=8, need=wants)
    return build.graph()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 60), jobs=st.integers(1, 6), threads=st.integers(1, 3))
def test_no_thread_rests_while_a_task_could_run(seed: int, tasks: int, jobs: int, threads: int) -> None:
    """So the makespan is at most work / threads + critical path (Graham, SIAM J. Appl. Math. 17(2), 1969)."""
    graph = random_graph(seed, tasks)
    done = fixed(Workload("w", (graph,)), jobs, shape=Shape(threads=threads))
    slots = jobs * threads
    assert max(graph.critical_s, graph.work_s / slots) <= done.makespan_s + 1e-6
    assert done.makespan_s <= graph.work_s / slots + graph.critical_s + 1e-6
    assert tasks == done.tasks
    assert 0 == done.recomputed


@pytest.mark.parametrize("saturation", [1.0, 1.1, 2.0, math.inf])
def test_even_work_takes_its_even_share(saturation: float) -> None:
    costs = replace(FREE, saturation=saturation)
    chains = shapes.pipelines(count=12, stages=3, seed=1).graphs[0]
    even = Workload("even", (Graph(chains.groups, chains.group, [2.0] * 36, chains.parents, chains.nbytes),))
    done = simulate(even, Fixed(4), Setting(AT_ONCE, costs=costs))
    assert 36 * 2.0 / 4 == pytest.approx(done.makespan_s)


def test_resources_are_taken_and_given_back() -> None:
    build = GraphBuilder()
    for _ in range(6):
        build.add("train", 2.0, need={"GPU": 1.0})
    for _ in range(6):
        build.add("plain", 2.0)
    shape = Shape(threads=4, resources={"GPU": 1.0})
    assert 6 * 2.0 / 2 == pytest.approx(fixed(Workload("w", (build.graph(),)), 2, shape=shape).makespan_s)


def test_fetching_inputs_takes_time() -> None:
    build = GraphBuilder()
    pair = [build.add("load", 1.0, nbytes=10**6) for _ in range(2)]
    build.add("sum", 1.0, pair)
    costs = Costs(each_s=0.0, latency_s=0.25, bytes_per_s=2e6)
    done = simulate(Workload("w", (build.graph(),)), Fixed(2), Setting(AT_ONCE, costs=costs))
    assert 1.0 + 0.25 + 0.5 + 1.0 == pytest.approx(done.makespan_s)


def test_one_scheduler_feeds_so_many_tasks_and_no_more() -> None:
    build = GraphBuilder()
    for _ in range(100):
        build.add("short", 0.0)
    costs = replace(FREE, each_s=0.5)
    done = simulate(Workload("w", (build.graph(),)), Fixed(9), Setting(AT_ONCE, costs=costs))
    assert 100 * 0.5 == pytest.approx(done.makespan_s)


class Place:
    """Somewhere with a clock that a test moves by hand."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.loop = VirtualLoop(self.timeline)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()

    @property
    def now_s(self) -> float:
        return self.timeline.now_s - START_S

    def run(self, work: Awaitable[Any]) -> Any:
        async def all_of_it() -> Any:
            return await work

        return self.loop.run_until_complete(all_of_it())

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))


class Stage(Place):
    """A scheduler with its workers."""

    def __init__(self, costs: Costs = FREE) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.timeline, costs)
        self.closed: list[str] = []
        self.words: list[str] = []
        self.done: list[float] = []
        self.engine = SimEngine(self.scheduler, self.timeline, closed=self.closed.append)
        self.engine.watch(self.words.append)

    def join(self, *jobs: str, shape: Shape | None = None) -> None:
        for job in jobs:
            self.engine.join([Worker(f"{job}-0-0", job, "default", shape or Shape(), self.timeline.now_s)])

    def submit(self, graph: Graph) -> None:
        self.scheduler.submit(graph, lambda: self.done.append(self.now_s))


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 40), losses=st.lists(st.integers(1, 30), max_size=6))
@example(seed=2503, tasks=27, losses=[6, 1, 3, 11, 16])  # a backlog entry of a finished task made it run again
def test_lost_workers_cost_time_and_never_a_result(seed: int, tasks: int, losses: list[int]) -> None:
    with Stage() as stage:
        stage.join("a", "b", "c")
        stage.submit(random_graph(seed, tasks, need=0.0))
        for number, after in enumerate(losses):
            stage.wait(after / 4)
            if stage.done:
                break
            stage.engine.leave(min(stage.engine._jobs))
            stage.join(f"late{number}")
        stage.wait(1000.0)
        assert 1 == len(stage.done)
        assert tasks + stage.scheduler.recomputed == stage.scheduler.finished
        assert 0 == stage.scheduler.busy_threads
        assert [0, 0, 0] == [worker.held_bytes for worker in stage.scheduler.workers.values()]
        assert {} == stage.scheduler.crowds


def test_a_lost_result_is_made_again_only_where_it_is_needed(stage: Stage) -> None:
    build = GraphBuilder()
    first = build.add("load", 1.0, nbytes=5)
    second = build.add("clean", 1.0, [first], nbytes=5)
    build.add("sum", 10.0, [second])
    stage.join("a")
    stage.submit(build.graph())
    stage.wait(2.5)
    stage.engine.leave("a")
    stage.join("b")
    stage.wait(30.0)
    assert 2 == stage.scheduler.recomputed
    assert [2.5 + 1 + 1 + 10] == stage.done


# --- what the engine says --------------------------------------------------------------------------------------


def test_a_look_says_what_is_ready_running_and_waiting(stage: Stage) -> None:
    build = GraphBuilder()
    loads = [build.add("load", 4.0, nbytes=10) for _ in range(5)]
    build.add("sum", 1.0, loads)
    stage.join("a", "b")
    stage.submit(build.graph())
    stage.wait(1.0)
    load = stage.run(stage.engine.look())
    rows = {group.prefix: group for group in load.groups}
    assert (5, 2, 0, 0) == (rows["load"].ready, rows["load"].running, rows["load"].waiting, rows["load"].done)
    assert (0, 0, 1, (rows["load"].name,)) == (
        rows["sum"].ready,
        rows["sum"].running,
        rows["sum"].waiting,
        rows["sum"].after,
    )
    assert (None, 1.0) == (rows["load"].mean_s, rows["load"].oldest_s)
    capacity = load.pools["default"]
    assert (2, 2, 2, 0) == (capacity.workers, capacity.threads, capacity.busy, capacity.idle)
    stage.wait(4.0)
    load = stage.run(stage.engine.look())
    row = next(group for group in load.groups if group.prefix == "load")
    assert (3, 2, 2, 20, 4.0) == (row.ready, row.running, row.done, row.held_bytes, row.mean_s)
    assert load.members is stage.run(stage.engine.look()).members


def test_idle_jobs_are_those_without_any_work(stage: Stage) -> None:
    build = GraphBuilder()
    build.add("one", 4.0)
    stage.join("a", "b", "c")
    stage.submit(build.graph())
    stage.wait(1.0)
    assert {"b", "c"} == {job.name for job in stage.run(stage.engine.look()).idle}
    stage.wait(4.0)
    since = {job.name: job.since_s - START_S for job in stage.run(stage.engine.look()).idle}
    assert {"a": 4.0, "b": 0.0, "c": 0.0} == since


def test_what_nobody_can_run_is_unrunnable(stage: Stage) -> None:
    build = GraphBuilder()
    build.add("train", 4.0, need={"GPU": 2.0})
    stage.join("a")
    stage.submit(build.graph())
    assert [1] == [group.unrunnable for group in stage.run(stage.engine.look()).groups]
    stage.join("b", shape=Shape(resources={"GPU": 2.0}))
    assert [(0, 1)] == [(group.unrunnable, group.running) for group in stage.run(stage.engine.look()).groups]


def test_pushes_come_for_graphs_workers_demand_and_quiet(stage: Stage) -> None:
    stage.run(stage.engine.look())
    stage.join("a")
    build = GraphBuilder()
    loads = [build.add("load", 0.9)]
    for _ in range(9):
        build.add("many", 1.0, loads)
    stage.submit(build.graph())
    stage.wait(1.2)
    assert ["worker joined", "graph", "demand", "interval"] == stage.words
    stage.wait(8.0)
    assert "quiet" not in stage.words
    stage.wait(2.0)
    stage.engine.leave("a")
    assert ["quiet", "worker left"] == stage.words[-2:]


def test_a_drain_moves_results_and_closes(stage: Stage) -> None:
    build = GraphBuilder()
    loads = [build.add("load", 1.0, nbytes=10) for _ in range(2)]
    slow = build.add("slow", 5.0, loads[:1])
    build.add("sum", 1.0, [slow, loads[1]])
    stage.join("a", "b")
    stage.submit(build.graph())
    stage.wait(2.0)
    (idle,) = stage.run(stage.engine.look()).idle
    busy = {"a": "b", "b": "a"}[idle.name]
    assert {busy: "it has work"} == stage.run(stage.engine.drain({busy: []}, 9.0))
    assert {idle.name: ""} == stage.run(stage.engine.drain({idle.name: []}, 9.0))
    assert [idle.name] == stage.closed
    stage.wait(20.0)
    assert 0 == stage.scheduler.recomputed
    assert [1 + 5 + 1] == stage.done


def test_a_busy_drain_waits_for_what_runs_and_gives_up_in_time(stage: Stage) -> None:
    build = GraphBuilder()
    for _ in range(4):
        build.add("load", 4.0, nbytes=10)
    stage.join("a", "b")
    stage.submit(build.graph())
    assert {"a": "it still runs 1 tasks"} == stage.run(stage.engine.drain({"a": []}, 2.0, busy=True))
    assert {"a": ""} == stage.run(stage.engine.drain({"a": []}, 9.0, busy=True))
    assert 4.0 == stage.now_s
    stage.wait(20.0)
    assert [12.0] == stage.done
    assert 0 == stage.scheduler.recomputed


def test_the_last_worker_keeps_results_that_nobody_else_could_take(stage: Stage) -> None:
    build = GraphBuilder()
    build.add("train", 1.0, [build.add("load", 1.0, nbytes=10)], need={"GPU": 1.0})
    stage.join("a")
    stage.submit(build.graph())
    stage.wait(2.0)
    refused = stage.run(stage.engine.drain({"a": []}, 9.0))
    assert {"a": "nobody is left to take its 10 bytes of results"} == refused
    assert ["a"] == [job.name for job in stage.run(stage.engine.look()).idle]


# --- resource managers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "middle"), [(Constant(3.0), 3.0), (LogNormal(120.0, 1.0), 120.0), (Bimodal(5.0, 60.0, 0.3), 5.0)]
)
def test_latencies_have_their_median(latency: Constant | LogNormal | Bimodal, middle: float) -> None:
    rng = random.Random(7)
    drawn = sorted(latency.draw(rng) for _ in range(2001))
    assert middle == pytest.approx(drawn[1000], rel=0.1)


class Manager(Place):
    """A site, and what it did to workers."""

    def __init__(self, site: Site, seed: int = 0) -> None:
        super().__init__()
        self.joined: list[tuple[str, float]] = []
        self.left: list[str] = []
        self.backend = SiteBackend(site, self.timeline, seed, join=self._join, leave=self.left.append)

    def _join(self, batch: Batch, name: str) -> None:
        self.joined.append((name, self.now_s))

    def submit(self, count: int, tag: str = "abcdefgh") -> list[str]:
        return self.run(self.backend.submit(Batch("c", "default", tag, count, Spec("x"))))

    def states(self) -> dict[str, JobState]:
        return {job.name: job.state for job in self.run(self.backend.jobs("c"))}


@pytest.fixture
def place() -> Iterator[Callable[..., Manager]]:
    with ExitStack() as made:
        yield lambda site, seed=0: made.enter_context(Manager(site, seed))


def test_jobs_queue_run_and_register(place: Callable[..., Manager]) -> None:
    manager = place(Site("s", queue=Constant(10.0), start=Constant(5.0)))
    manager.submit(2)
    assert {JobState.QUEUED} == set(manager.states().values())
    manager.wait(12.0)
    assert {JobState.RUNNING} == set(manager.states().values())
    manager.wait(8.0)
    assert [("abcdefgh.0", 15.0), ("abcdefgh.1", 15.0)] == manager.joined
    assert 2 * 10.0 == manager.backend.billed_s()
    assert (10.0, 5.0) == (manager.backend.fastest.queue_s, manager.backend.fastest.billed_s)


def test_a_full_site_runs_the_next_when_one_ends(place: Callable[..., Manager]) -> None:
    manager = place(Site("s", capacity=1, end_s=2.0))
    first, _ = manager.submit(2)
    manager.wait(10.0)
    assert [("abcdefgh.0", 1.0)] == manager.joined
    manager.run(manager.backend.cancel([first]))
    assert ["abcdefgh.0"] == manager.left
    manager.wait(10.0)
    assert [("abcdefgh.0", 1.0), ("abcdefgh.1", 13.0)] == manager.joined
    assert (2, 0) == (manager.backend.starts, manager.backend.cancelled)


def test_some_jobs_never_arrive_and_some_never_serve(place: Callable[..., Manager]) -> None:
    manager = place(Site("s", missing=0.3, mute=0.3), seed=3)
    manager.submit(1000)
    manager.wait(10_000.0)
    running = sum(state is JobState.RUNNING for state in manager.states().values())
    assert 700 == pytest.approx(running, abs=60)
    assert 490 == pytest.approx(len(manager.joined), abs=60)


def test_preempted_jobs_lose_their_workers_and_end(place: Callable[..., Manager]) -> None:
    manager = place(Site("s", life_s=100.0), seed=3)
    manager.submit(1000)
    manager.wait(101.0)
    assert 1000 * (1 - math.exp(-1)) == pytest.approx(len(manager.left), abs=60)
    manager.wait(5_000.0)
    assert 0 == manager.backend.alive
    assert 1000 * 100.0 == pytest.approx(manager.backend.billed_s(), rel=0.1)


def test_a_list_lags_and_may_go_back_in_time(place: Callable[..., Manager]) -> None:
    manager = place(Site("s", lag_s=5.0))
    manager.submit(1)
    assert {} == manager.states()
    manager.wait(5.5)
    assert {"abcdefgh.0": JobState.RUNNING} == manager.states()
    wandering = place(Site("s", queue=Constant(50.0), lag_s=100.0, wandering=True), seed=1)
    wandering.submit(1)
    seen = []
    for _ in range(60):
        wandering.wait(2.0)
        seen.append(wandering.states().get("abcdefgh.0"))
    order = [None, JobState.QUEUED, JobState.RUNNING]
    steps = [order.index(state) for state in seen]
    assert steps != sorted(steps)


def test_calls_fail_or_hang_as_often_as_they_should(place: Callable[..., Manager]) -> None:
    manager = place(Site("s", failing=0.3, hanging=0.2, timeout_s=7.0), seed=2)
    outcomes = []
    for _ in range(400):
        began_s = manager.now_s
        try:
            manager.run(manager.backend.jobs("c"))
            outcomes.append("well")
        except Unavailable:
            outcomes.append("failed" if manager.now_s == began_s else "hung")
    assert [200, 120, 80] == [pytest.approx(outcomes.count(each), abs=40) for each in ("well", "failed", "hung")]


def test_the_same_job_draws_the_same_latencies_whatever_came_before(place: Callable[..., Manager]) -> None:
    fast, slow = (place(SITES["queue"], seed=5) for _ in range(2))
    fast.submit(3)
    slow.submit(1)
    slow.wait(1000.0)
    slow.submit(2, tag="zbcdefgh")
    fast.wait(5000.0)
    slow.wait(5000.0)
    waits = {name.partition(".")[0]: at_s for name, at_s in slow.joined}
    assert dict(fast.joined)["abcdefgh.0"] == waits["abcdefgh"]
    later = sorted(at_s - 1000.0 for name, at_s in slow.joined if name.startswith("z"))
    assert sorted(at_s for name, at_s in fast.joined if name != "abcdefgh.0") == pytest.approx(later)


# --- everything together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", sorted(SITES))
def test_adaptive_runs_end_and_stay_above_the_bound(site: str) -> None:
    shape = Shape(resources={"GPU": 1.0})
    for name, most in [("map-reduce", 20), ("session", 7), ("trickle", 5), ("resource-bound", 9)]:
        workload = shapes.SHAPES[name](seed=1)
        done = simulate(workload, adaptive(), Setting(SITES[site], shape, maximum=most, linger_s=30.0))
        cost = objective(done.waited_s, done.billed_s, time_value=10)
        assert cost >= lower_bound(workload, done.fastest, time_value=10, maximum=most) * (1 - 1e-9)
        assert workload.tasks + done.recomputed == done.tasks
        assert done.most_threads <= most
        assert done.worker_s <= done.billed_s + 1e-6
        assert site == "preempting" or 0 == done.recomputed


def test_the_same_seed_gives_the_same_rounds_and_another_does_not() -> None:
    def rounds(seed: int) -> list[Record]:
        kept: list[Record] = []
        setting = Setting(replace(SITES["queue"], failing=0.1), maximum=9)
        simulate(shapes.fork_join(rounds=2, seed=1), adaptive(), setting, seed=seed, on_record=kept.append)
        return kept

    first = rounds(1)
    assert first == rounds(1)
    assert first != rounds(2)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lag_s=st.sampled_from([0.0, 3.0, 20.0]),
    faults=st.tuples(*[st.sampled_from([0.0, 0.1, 0.3])] * 3),
    life_s=st.sampled_from([math.inf, 200.0]),
    wandering=st.booleans(),
    most=st.integers(1, 8),
)
def test_a_bad_manager_never_leads_to_more_than_the_maximum_and_the_work_ends(
    seed: int, lag_s: float, faults: tuple[float, float, float], life_s: float, wandering: bool, most: int
) -> None:
    failing, hanging, mute = faults
    site = Site(
        "bad",
        queue=LogNormal(5.0, 1.0),
        start=Constant(2.0),
        end_s=1.0,
        lag_s=lag_s,
        wandering=wandering,
        failing=failing,
        hanging=hanging / 2,
        mute=mute,
        life_s=life_s,
    )
    workload = shapes.map_reduce(tasks=30, reducers=3, seed=seed)
    done = simulate(workload, standard(Fixed(most), 3.0), Setting(site, maximum=most), seed=seed)
    assert workload.tasks + done.recomputed == done.tasks
    assert done.most_alive <= most


def test_when_nothing_happens_rounds_are_rare() -> None:
    """Eight hours of thinking are a round a minute, and one for each list that it asks for: not thirty thousand."""
    done = simulate(shapes.session(graphs=2, think_s=8 * 3600.0), adaptive(), Setting(SITES["local"]))
    assert done.rounds < 2 * 8 * 60 + 200


def test_jobs_of_several_workers_and_threads() -> None:
    shape = Shape(workers=2, threads=3)
    done = fixed(shapes.pipelines(count=12, stages=2), 2, shape=shape)
    assert 12 == done.most_threads
    assert 2 == done.starts
    assert 4 * done.makespan_s == pytest.approx(done.billed_s)


def test_releases_by_the_clock_and_after_thinking() -> None:
    build = GraphBuilder()
    build.add("one", 10.0)
    graphs = (build.graph(),) * 3
    clock = Workload("w", graphs, (Release(0.0), Release(5.0), Release(5.0)))
    assert (30.0, 15.0) == pytest.approx((lambda done: (done.waited_s, done.makespan_s))(fixed(clock, 3)))
    thinking = Workload("w", graphs, (Release(0.0), Release(5.0, thinking=True), Release(5.0, thinking=True)))
    assert (30.0, 40.0) == pytest.approx((lambda done: (done.waited_s, done.makespan_s))(fixed(thinking, 3)))


def test_work_that_nobody_can_do_is_refused_before_it_starts() -> None:
    with pytest.raises(ConfigError, match="GPU=1, which no worker has"):
        simulate(shapes.resource_bound(), adaptive(), Setting(SITES["local"]))


def test_work_that_does_not_end_is_given_up() -> None:
    with pytest.raises(ConfigError, match="not done after 100 s"):
        simulate(shapes.pipelines(), Fixed(0), Setting(SITES["local"], at_most_s=100.0))


def test_a_policy_that_breaks_its_contract_ends_the_run() -> None:
    class Wrong:
        def decide(self, view: View, past: Past) -> tuple[Target, Past]:
            return Target({"default": Want(-1, "wrong")}), past

    with pytest.raises(PolicyError, match="-1"):
        simulate(shapes.pipelines(), Wrong(), Setting(SITES["local"]))


def test_whoever_stays_pays_until_the_user_leaves() -> None:
    def bill(linger_s: float) -> float:
        setting = Setting(SITES["local"], linger_s=linger_s)
        return simulate(shapes.triplets(count=3), Fixed(2), setting).billed_s

    assert 2 * 50.0 == pytest.approx(bill(50.0) - bill(0.0))


@pytest.mark.parametrize("name", [name for name in POLICIES if name != STATIC_BEST])
def test_every_round_of_a_run_can_be_replayed(name: str) -> None:
    """Policies are pure: the kept snapshot and past give the same target again, whenever they are asked."""
    kept: list[Record] = []
    make = POLICIES[name]
    assert make is not None
    work = shapes.session(graphs=2, seed=1)
    simulate(work, make(10.0, work), Setting(SITES["queue"], maximum=9), on_record=kept.append)
    again = [make(10.0, work).decide(view_of(record.snapshot), record.past)[0] for record in kept]
    assert [record.target for record in kept] == again
    assert kept


def test_elasticity_of_a_run_by_hand() -> None:
    """Two workers of four at once: four tasks of 10 s, then none; half of the demand is met, then all of it."""
    build = GraphBuilder()
    for _ in range(4):
        build.add("work", 10.0)
    found = fixed(Workload("w", (build.graph(),)), 2, maximum=4).elasticity
    assert (0.25, 0.0, 0.5, 0.0) == pytest.approx(
        (found.under, found.over, found.under_time, found.over_time), abs=0.03
    )
