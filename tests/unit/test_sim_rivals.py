"""Rivals decide as they do at home: Dask's against Dask itself, the others against their documents, by hand."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Scheduler
from distributed.deploy.adaptive_core import AdaptiveCore
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_adaptive.model import Capacity, Group, IdleJob, Limits, Load, Past, Phase, Pool, PoolView, Shape, View
from dask_adaptive.policy.contracts import FRESH, Policy
from dask_adaptive.sim.rivals import (
    RIVALS,
    Dask,
    Dask2017,
    Parsl,
    Ray,
    Spark,
    dask_closable,
    dask_recommended,
    dask_target,
)

PREFIXES = {"a": 0.1, "b": 3.0, "c": 40.0}


def scheduler(queued: list[str], workers: list[tuple[int, int]], limit: int, threads: int) -> Any:
    """As much of a scheduler as ``adaptive_target`` reads; a worker is (tasks that it has, bytes that it holds)."""
    made = {
        str(number): SimpleNamespace(
            address=str(number),
            processing=dict.fromkeys(range(tasks)),
            nthreads=threads,
            memory_limit=limit,
            nbytes=held,
            long_running=set(),
        )
        for number, (tasks, held) in enumerate(workers)
    }
    fake = SimpleNamespace(
        queued=[SimpleNamespace(prefix=prefix) for prefix in queued],
        unrunnable={},
        total_occupancy=1.5 * sum(tasks for tasks, _ in workers),
        workers=made,
        plugins={},
        _get_prefix_duration=PREFIXES.__getitem__,
    )
    fake.workers_to_close = lambda: Scheduler.workers_to_close(fake)
    return fake


@settings(max_examples=300, deadline=None)
@given(
    queued=st.one_of(
        st.lists(st.sampled_from("abc"), max_size=8),
        st.tuples(st.sampled_from("abc"), st.integers(90, 130), st.sampled_from("abc")).map(
            lambda drawn: [drawn[0]] * drawn[1] + [drawn[2]] * 20
        ),
    ),
    workers=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 10, 60, 90])), max_size=8),
    limit=st.sampled_from([0, 100]),
    threads=st.integers(1, 4),
    seconds=st.sampled_from([0.5, 5.0, 30.0]),
)
def test_dask_asks_for_what_dask_asks_for(
    queued: list[str], workers: list[tuple[int, int]], limit: int, threads: int, seconds: float
) -> None:
    real = scheduler(queued, workers, limit, threads)
    held = sum(held for _, held in workers)
    idle = sorted(held for tasks, held in workers if not tasks)
    restated = dask_target(
        running_s=real.total_occupancy,
        queued_s=[PREFIXES[prefix] for prefix in queued[:100]],
        queued=len(queued),
        processing=sum(tasks for tasks, _ in workers),
        workers=len(workers),
        threads=threads * len(workers),
        memory_bytes=limit * len(workers),
        held_bytes=held,
        closable=dask_closable(idle, limit, limit * len(workers), held),
        target_duration_s=seconds,
    )
    assert Scheduler.adaptive_target(real, seconds) == restated


class Core(AdaptiveCore):
    """Dask's own rounds over sets of names that a test writes."""

    def __init__(self) -> None:
        super().__init__(minimum=0, maximum=1000, wait_count=3)
        self.present: list[str] = []
        self.asked: list[str] = []

    plan = property(lambda self: {*self.present, *self.asked})
    requested = property(lambda self: {*self.present, *self.asked})
    observed = property(lambda self: set(self.present))

    async def target(self) -> int:
        raise NotImplementedError

    async def workers_to_close(self, target: int) -> list[str]:
        return self.present[: max(0, len(self.present) - target)]

    async def scale_down(self, n: int) -> None:
        raise NotImplementedError

    async def scale_up(self, workers: Any) -> None:
        raise NotImplementedError


@settings(max_examples=200, deadline=None)
@given(
    present=st.integers(0, 6),
    asked=st.integers(0, 1),
    targets=st.lists(st.integers(0, 8), min_size=1, max_size=12),
)
def test_dask_recommends_what_dask_recommends(present: int, asked: int, targets: list[int]) -> None:
    """At most one has not arrived: which of several Dask takes is up to the order of a set."""
    core, counts, names = Core(), {}, itertools.count(present)
    core.present, core.asked = [f"w{number}" for number in range(present)], ["coming 0"][:asked]
    for target in targets:
        planned = len(core.present) + len(core.asked)
        advice = asyncio.run(core.recommendations(target))
        gone = set(advice["workers"]) if advice["status"] == "down" else set()
        real = advice["n"] if advice["status"] == "up" else planned - len(gone)
        size, counts = dask_recommended(target, planned, core.present, counts, coming=len(core.asked))
        assert real == size
        core.present = [name for name in core.present if name not in gone]
        core.asked = [name for name in core.asked if name not in gone]
        core.present += [f"w{next(names)}" for _ in range(size - planned)]


# --- views by hand ---------------------------------------------------------------------------------------------


def view(
    at_s: float,
    *,
    ready: int = 0,
    running: int = 0,
    jobs: int = 0,
    coming: int = 0,
    idle: dict[str, float] | None = None,
    mean_s: float | None = 1.0,
    threads: int = 1,
    maximum: int = 100,
) -> View:
    shape = Shape(threads=threads)
    capacity = Capacity(workers=jobs, threads=jobs * threads, busy=jobs - len(idle or {}), idle=len(idle or {}))
    pool = PoolView(
        Pool("default", shape, Limits(0, maximum)),
        {Phase.READY: jobs, Phase.STARTING: coming},
        capacity,
        idle=len(idle or {}),
    )
    groups = (Group("g", "g", ready=ready, running=running, mean_s=mean_s),) if ready else ()
    rows = tuple(IdleJob(name, since_s) for name, since_s in (idle or {}).items())
    return View(at_s, 1.0, Load(at_s, groups, {}, rows, {"default": capacity}), (pool,))


def sizes(policy: Policy, *views: View) -> list[int]:
    past: Past = FRESH
    asked = []
    for each in views:
        target, past = policy.decide(each, past)
        asked.append(target.pools["default"].jobs)
    return asked


def test_dask_scales_for_five_seconds_and_waits_three_rounds_for_each_worker() -> None:
    idle = {"a.0": 0.0, "a.1": 0.0}
    assert [20] == sizes(Dask(), view(0, ready=100))
    assert [1] == sizes(Dask(), view(0, ready=3, mean_s=None))
    assert [4, 4, 3, 3] == sizes(
        Dask(),
        view(0, ready=2, running=2, jobs=4, idle=idle),
        view(1, ready=2, running=2, jobs=4, idle=idle),
        view(2, ready=1, running=1, jobs=4, idle={"a.0": 0.0}),
        view(3, ready=2, running=2, jobs=3, idle={"a.1": 0.0}),
    )


def test_dask_of_2017_doubles_and_drops() -> None:
    assert [1, 2, 8, 3] == sizes(
        Dask2017(),
        view(0, ready=99),
        view(1, ready=99, jobs=1),
        view(2, ready=99, jobs=4),
        view(3, ready=3, running=3, jobs=4, idle={"a.0": 2.9}),
    )


def test_spark_doubles_its_steps_after_a_second_of_backlog() -> None:
    views = [view(second / 2, ready=20) for second in range(9)]
    assert [0, 0, 1, 1, 3, 3, 7, 7, 15] == sizes(Spark(), *views)
    ends = view(9.0, ready=4, running=4, jobs=15, idle={f"a.{number}": 5.0 for number in range(11)})
    late = view(65.0, ready=4, running=4, jobs=15, idle={f"a.{number}": 5.0 for number in range(11)})
    assert [15, 4] == sizes(Spark(), *views, ends, late)[-2:]


def test_spark_never_asks_for_more_than_tasks_fill() -> None:
    assert 3 == sizes(Spark(), *(view(second, ready=9, threads=3) for second in range(9)))[-1]


def test_ray_adds_five_or_as_many_as_run() -> None:
    assert [5, 5, 10, 20] == sizes(
        Ray(), view(0, ready=50), view(5, ready=50, coming=5), view(10, ready=50, jobs=5), view(15, ready=50, jobs=10)
    )
    idle = {"a.0": 0.0, "a.1": 100.0}
    assert [2, 1] == sizes(Ray(), view(299, jobs=2, idle=idle), view(304, jobs=2, idle=idle))


def test_parsl_wants_a_slot_for_each_task_until_all_was_quiet() -> None:
    assert [25, 25, 25, 25, 0] == sizes(
        Parsl(),
        view(0, ready=50, threads=2),
        view(5, ready=9, running=9, jobs=25, threads=2),
        view(10, jobs=25, threads=2),
        view(129, jobs=25, threads=2),
        view(134, jobs=25, threads=2),
    )


@pytest.mark.parametrize("name", sorted(RIVALS))
def test_a_rival_keeps_its_own_rhythm_and_the_limits(name: str) -> None:
    policy = RIVALS[name]()
    assert isinstance(policy, Policy)
    busy = view(100.0, ready=500, running=2, jobs=3, idle={"a.0": 99.0}, maximum=7)
    first, past = policy.decide(busy, FRESH)
    assert first.look_again_s == policy.quiet_s
    between, same = policy.decide(view(100.0 + policy.interval_s / 2, ready=1, maximum=7), past)
    assert (first.pools, past) == (between.pools, same)
    assert policy.interval_s / 2 == pytest.approx(between.look_again_s)
    assert first.pools["default"].jobs <= 7
    assert policy.decide(busy, FRESH) == (first, past)


def test_who_waits_for_nothing_does_not_look_again() -> None:
    """Nothing is idle, nothing is counted: only what happens can change the answer."""
    for policy in (Dask(), Dask2017(), Ray(), Parsl()):
        assert policy.decide(view(100.0, ready=3, running=3, jobs=3, mean_s=5.0), FRESH)[0].look_again_s is None
    assert Spark().decide(view(100.0, ready=3, running=1, jobs=1), FRESH)[0].look_again_s == 1.0
    assert Spark().decide(view(100.0, ready=3, running=3, jobs=3), FRESH)[0].look_again_s is None
