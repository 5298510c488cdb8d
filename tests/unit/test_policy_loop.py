"""Policy and plan together, round after round, in a world without a clock: what a user sees as calm or flapping."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.model import (
    Capacity,
    Group,
    IdleJob,
    Life,
    Limits,
    Load,
    Past,
    Phase,
    Plan,
    Pool,
    PoolState,
    Shape,
    Snapshot,
    Startup,
)
from dask_adaptive.plan import checked, make_plan, view_of
from dask_adaptive.policy.classic import Doubling, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import FRESH, Policy

from .strategies import groups

START_S = 2.0


class World:
    """One pool whose jobs start within two seconds and end when they are told to; looked at every second."""

    def __init__(self, policy: Policy, *, maximum: int = 20, threads: int = 1) -> None:
        self.policy = policy
        self.pool = Pool("default", Shape(threads=threads), Limits(0, maximum))
        self.now_s = 1e9
        self.past: Past = FRESH
        self.lives: dict[str, Life] = {}
        self.submitted = 0
        self.given_up = 0

    @property
    def ready(self) -> list[str]:
        return sorted(life.name for life in self.lives.values() if life.phase is Phase.READY)

    def look(self, *work: Group, busy: int | None = None) -> Plan:
        """One round; ``busy`` of the jobs work, by default as many as there are tasks for."""
        self._start()
        tasks = sum(group.ready for group in work if not group.pinned and not group.need)
        busy = min(len(self.ready), tasks if busy is None else busy)
        workers = len(self.ready)
        capacity = Capacity(workers, workers * self.pool.shape.threads, busy=busy, idle=workers - busy)
        idle = tuple(IdleJob(name, self.now_s) for name in self.ready[busy:])
        load = Load(self.now_s, work, idle=idle, pools={"default": capacity})
        state = PoolState(self.pool, Startup(start_s=(START_S,)))
        snapshot = Snapshot(self.now_s, 1.0, load, dict(self.lives), {"default": state})
        view = view_of(snapshot)
        target, past = self.policy.decide(view, json.loads(json.dumps(self.past)))
        self.past = past
        plan = make_plan(snapshot, checked(target, view))
        self._act(plan)
        self.now_s += 1.0
        return plan

    def run(self, rounds: int, *work: Group) -> None:
        for _ in range(rounds):
            self.look(*work)

    def _start(self) -> None:
        for name, life in self.lives.items():
            if life.phase is Phase.STARTING and self.now_s - life.since_s >= START_S:
                self.lives[name] = replace(life, phase=Phase.READY, since_s=self.now_s)

    def _act(self, plan: Plan) -> None:
        for submit in plan.submits:
            for _ in range(submit.count):
                name = f"abcdefgh.{self.submitted}"
                self.lives[name] = Life(name, "default", Phase.STARTING, self.now_s)
                self.submitted += 1
        for step in (*plan.cancels, *plan.retires):
            del self.lives[step.job]
            self.given_up += 1


def tasks(ready: int, mean_s: float | None = 0.5, **more) -> Group:
    return Group("f-1", "f", ready=ready, mean_s=mean_s, **more)


@given(work=st.lists(groups(), max_size=3), threads=st.integers(1, 4), maximum=st.integers(1, 20))
def test_frozen_demand_makes_one_decision(work, threads, maximum):
    world = World(standard(TargetDuration(), 3.0), maximum=maximum, threads=threads)
    world.look(*work)
    first = world.submitted
    world.run(12, *work)
    assert (first, 0) == (world.submitted, world.given_up)
    assert first == len(world.ready) <= maximum


def test_doubling_reaches_what_its_work_needs_in_steps_that_each_served_before_the_next():
    world = World(standard(Doubling(), 3.0), maximum=8)
    sizes = []
    for _ in range(16):
        world.look(tasks(100))
        sizes.append(len(world.lives))
    assert sorted(sizes) == sizes
    assert {1, 2, 4, 8} == set(sizes)


def test_complaint_flapping_periodic_work_keeps_its_jobs():
    world = World(standard(TargetDuration(), 3.0))
    for _ in range(6):
        world.run(2, tasks(20))
        world.run(2)
    assert (3, 0) == (world.submitted, world.given_up)


def test_complaint_flapping_pauses_that_are_longer_than_the_wait_teach_patience():
    world = World(standard(TargetDuration(), 3.0))
    submitted = []
    for _ in range(6):
        world.run(3, tasks(20))
        world.run(5)
        submitted.append(world.submitted)
    assert [3, 6, 6, 6, 6, 6] == submitted
    world.run(5)
    assert {} == world.lives


def test_complaint_workers_that_no_task_can_use_are_not_started():
    world = World(standard(TargetDuration(), 3.0))
    world.run(20, tasks(64, 10.0, need={"GPU": 1.0}, unrunnable=64))
    assert 0 == world.submitted


def test_complaint_a_tail_is_never_evicted():
    world = World(standard(TargetDuration(), 3.0))
    world.run(4, tasks(8, 100.0))
    for left in range(8, 0, -1):
        before = set(world.ready[:left])
        world.run(5, tasks(left, 100.0, running=left, oldest_s=200.0))
        assert before <= set(world.ready)
    assert 8 == world.submitted


def test_everything_is_given_up_when_nothing_is_left_to_do():
    world = World(standard(TargetDuration(), 3.0))
    world.run(4, tasks(100))
    assert 13 == len(world.ready)
    world.run(8)
    assert {} == world.lives


def test_what_demand_no_longer_asks_for_goes_as_soon_as_it_is_idle():
    world = World(standard(TargetDuration(), 3.0))
    world.run(4, tasks(8, 100.0))
    for _ in range(6):
        world.look(tasks(8, 0.5), busy=8)
    assert 8 == len(world.ready)
    world.look(tasks(1, 0.5), busy=1)
    assert 1 == len(world.ready)


def test_a_lost_job_is_replaced_once():
    world = World(standard(TargetDuration(), 3.0))
    world.run(5, tasks(100))
    del world.lives[world.ready[0]]
    world.run(5, tasks(100))
    assert (14, 0) == (world.submitted, world.given_up)


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 8])
def test_a_restart_of_the_controller_goes_on_where_it_was(rounds):
    whole, stopped = (World(standard(TargetDuration(), 3.0)) for _ in range(2))
    for world in (whole, stopped):
        world.run(4, tasks(100))
        world.run(rounds)
    stopped.policy = standard(TargetDuration(), 3.0)
    assert [whole.look() for _ in range(6)] == [stopped.look() for _ in range(6)]


@given(work=st.lists(groups(pinned=False, need={}), min_size=1, max_size=3), maximum=st.integers(1, 9))
def test_never_above_the_maximum_while_work_comes_and_goes(work, maximum):
    world = World(standard(TargetDuration(), 1.0), maximum=maximum)
    for i in range(16):
        world.look(*(work if i % 5 < 3 else ()))
        assert maximum >= len(world.lives)
