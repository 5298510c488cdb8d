"""What task groups ask of each pool."""

from __future__ import annotations

import pytest
from hypothesis import given

from dask_adaptive.model import Capacity, Group, Limits, Load, Pool, PoolView, Shape, View
from dask_adaptive.policy.demand import Guess, demands, gaps_s, guess, whole

from .strategies import views


def group(name: str = "f", **more) -> Group:
    return Group(f"{name}-1", name, **more)


def load(*groups: Group, **more) -> Load:
    return Load(0.0, groups, **more)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (group(ready=1), Guess(0.5, 0.5, known=False)),
        (group(ready=8), Guess(0.25, 0.25, known=False)),
        (group(ready=3, waiting=5), Guess(0.25, 0.25, known=False)),
        (group(ready=8, running=1, oldest_s=0.29), Guess(0.25, 0.25, known=False)),
        (group(ready=8, running=1, oldest_s=0.5), Guess(1.5, 1.5, known=False)),
        (group(ready=1, running=1, oldest_s=0.4), Guess(0.5, 0.5, known=False)),
        (group(ready=4, mean_s=2.0), Guess(2.0, 2.0, known=True)),
        (group(ready=4, running=1, mean_s=2.0, oldest_s=1.0), Guess(2.0, 2.0, known=True)),
        (group(ready=4, running=1, mean_s=2.0, oldest_s=9.0), Guess(2.0, 9.0, known=True)),
        (group(ready=4, mean_s=2.0, oldest_s=9.0), Guess(2.0, 2.0, known=True)),
    ],
)
def test_expected_run_time(seen, expected):
    assert expected == guess(seen, 0.5)


def test_a_task_never_takes_more_than_a_slot():
    slow = Guess(8.0, 100.0, known=True)
    assert (132.0, 5.0) == (slow.work_s(5), slow.slots(5, 4.0))
    quick = Guess(1.0, 100.0, known=True)
    assert 2.0 == quick.slots(5, 4.0)


def test_whole_jobs_cover_the_scarcest_dimension():
    assert [0, 1, 3, 4] == [
        whole(jobs) for jobs in ({}, {"threads": 0.1}, {"threads": 3.0}, {"threads": 1, "GPU": 3.2})
    ]


def test_tasks_with_and_without_a_resource_share_the_workers():
    pool = PoolView(Pool("default", Shape(workers=2, threads=4, resources={"GPU": 1.0})))
    both = load(group(ready=6, mean_s=9.0, need={"GPU": 1.0}), group("g", ready=10, mean_s=9.0))
    demand = demands(both, [pool], within_s=3.0, unknown_s=0.5).pools["default"]
    assert {"threads": 2.0, "GPU": 3.0} == demand.jobs
    assert ("GPU", 16.0, 144.0, 16.0) == (demand.scarcest, demand.tasks, demand.work_s, demand.slots)


def test_groups_that_fewer_pools_can_serve_choose_first():
    gpu = PoolView(Pool("gpu", Shape(resources={"GPU": 1.0}), Limits(0, 4), price=1.0))
    plain = PoolView(Pool("plain", price=2.0))
    work = load(group(ready=3, mean_s=9.0), group("g", ready=3, mean_s=9.0, need={"GPU": 1.0}))
    asked = demands(work, [gpu, plain], within_s=3.0, unknown_s=0.5).pools
    assert (4.0, 2.0) == (asked["gpu"].slots, asked["plain"].slots)


def test_pools_of_one_price_are_asked_in_the_order_given():
    pools = [PoolView(Pool("b")), PoolView(Pool("a"))]
    asked = demands(load(group(ready=3, mean_s=9.0)), pools, within_s=3.0, unknown_s=0.5).pools
    assert (3.0, 0.0) == (asked["b"].tasks, asked["a"].tasks)


def test_work_that_only_foreign_workers_can_run_is_theirs():
    work = group(ready=3, need={"TPU": 1.0})
    pools = [PoolView(Pool("default"))]
    foreign = Capacity(workers=1, threads=4)
    assert () == demands(load(work, foreign=foreign), pools, within_s=3.0, unknown_s=0.5).impossible
    assert 1 == len(demands(load(work), pools, within_s=3.0, unknown_s=0.5).impossible)


def test_waiting_work_is_in_sight_one_step_ahead():
    running = group("a", ready=1, running=1, mean_s=5.0, oldest_s=2.0)
    assert {"b-1": pytest.approx(3.0)} == gaps_s(load(running, group("b", waiting=9, after=("a-1",))), 0.5)
    assert {} == gaps_s(load(running), 0.5)
    two_steps = (running, group("b", waiting=9, after=("a-1",)), group("c", waiting=9, after=("b-1",)))
    assert {"b-1": pytest.approx(3.0)} == gaps_s(load(*two_steps), 0.5)
    about_to_run = (group("a", ready=1), group("b", waiting=9, after=("a-1",)))
    assert {"b-1": pytest.approx(0.5)} == gaps_s(load(*about_to_run), 0.5)


def test_what_runs_longer_than_expected_will_take_as_long_again():
    late = group("a", ready=1, running=1, mean_s=5.0, oldest_s=20.0)
    assert {"b-1": pytest.approx(20.0)} == gaps_s(load(late, group("b", waiting=9, after=("a-1",))), 0.5)


@given(seen=views())
def test_all_tasks_are_assigned_once_or_served_by_foreign_workers(seen: View):
    asked = demands(seen.load, seen.pools, within_s=5.0, unknown_s=0.5)
    shapes = [view.pool.shape for view in seen.pools]
    able = [one for one in seen.load.groups if not one.pinned and any(shape.slots(one.need) for shape in shapes)]
    tasks = sum(demand.tasks for demand in asked.pools.values())
    total = sum(one.ready for one in able)
    if seen.load.foreign.threads:
        assert tasks <= total + 1e-6
    else:
        assert pytest.approx(total) == tasks
    pinned = [one for one in seen.load.groups if one.pinned and one.ready]
    assert len(pinned) == len(asked.declined)
