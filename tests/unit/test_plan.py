"""What is planned, whatever the jobs are doing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.errors import PolicyError
from dask_adaptive.model import (
    Cancel,
    Capacity,
    IdleJob,
    Life,
    Limits,
    Load,
    Member,
    Phase,
    Plan,
    Pool,
    PoolState,
    Retire,
    Shape,
    Snapshot,
    Submit,
    Target,
    View,
    Want,
)
from dask_adaptive.plan import checked, make_plan, view_of

from .strategies import snapshots

NOW_S = 1000.0
HOLDS = {"wanted", "submitted", "queued", "starting", "ready", "unknown", "draining", "ending"}
SERVES = HOLDS - {"draining", "ending"}


def life(i: int, phase: Phase, **more) -> Life:
    return Life(f"abcdefgh.{i}", "default", phase, since_s=more.pop("since_s", 0.0), **more)


def snapshot(*lives: Life, idle=(), members=(), maximum=10, **state) -> Snapshot:
    pool = Pool("default", Shape(), Limits(0, maximum))
    load = Load(
        NOW_S,
        idle=tuple(job if isinstance(job, IdleJob) else IdleJob(f"abcdefgh.{job}", 0.0) for job in idle),
        members={f"abcdefgh.{i}": (Member("tcp://x", "x"),) for i in members},
        pools={"default": Capacity(workers=3)},
    )
    return Snapshot(NOW_S, 1.0, load, {one.name: one for one in lives}, {"default": PoolState(pool, **state)})


def want(jobs: int, *, firm: bool = False) -> Target:
    return Target({"default": Want(jobs, "because", firm)})


def given_up(plan: Plan) -> list[str]:
    return [step.job.partition(".")[2] for step in (*plan.cancels, *plan.retires)]


def test_grows_by_what_is_missing():
    plan = make_plan(snapshot(life(0, Phase.QUEUED), life(1, Phase.READY)), want(5))
    assert Plan(submits=(Submit("default", 3, "because"),)) == plan


def test_nothing_to_do_is_an_empty_plan():
    assert Plan() == make_plan(snapshot(life(0, Phase.WANTED), life(1, Phase.UNKNOWN)), want(2))


def test_ended_jobs_are_replaced():
    plan = make_plan(snapshot(life(0, Phase.GONE), life(1, Phase.FAILED), life(2, Phase.DRAINING)), want(1))
    assert (Submit("default", 1, "because"),) == plan.submits


def test_ending_jobs_and_strays_count_against_the_maximum():
    plan = make_plan(snapshot(life(0, Phase.ENDING), life(1, Phase.DRAINING), maximum=5, strays=1), want(5))
    assert 2 == plan.submits[0].count
    assert "3 of at most 5" in plan.held["default"]


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"broken": "no such queue", "retry_s": NOW_S + 30}, "no such queue; next try in 30 s"),
        ({"stale": "does not answer"}, "does not answer"),
        ({"submitting": True}, "in flight"),
    ],
)
def test_growth_is_held_with_the_reason(state, word):
    plan = make_plan(snapshot(**state), want(3))
    assert () == plan.submits
    assert word in plan.held["default"]


def test_a_broken_pool_is_tried_again_when_its_time_has_come():
    plan = make_plan(snapshot(broken="no such queue", retry_s=NOW_S), want(3))
    assert 3 == plan.submits[0].count


def test_a_stale_list_gives_nothing_up():
    plan = make_plan(snapshot(life(0, Phase.QUEUED), life(1, Phase.READY), idle=[1], stale="silent"), want(0))
    assert ((), ()) == (plan.cancels, plan.retires)
    assert "silent" in plan.held["default"]


def test_gives_up_the_cheapest_first():
    lives = (
        life(0, Phase.READY),
        life(1, Phase.READY),
        life(2, Phase.READY),
        life(3, Phase.STARTING, running_s=5.0),
        life(4, Phase.QUEUED, submitted_s=1.0),
        life(5, Phase.QUEUED, submitted_s=2.0),
        life(6, Phase.SUBMITTED, submitted_s=3.0),
        life(7, Phase.READY),
    )
    idle = [
        IdleJob("abcdefgh.0", since_s=1.0, held_bytes=5, only_bytes=5),
        IdleJob("abcdefgh.1", since_s=9.0, held_bytes=5),
        IdleJob("abcdefgh.2", since_s=2.0, held_bytes=5),
    ]
    orders = [given_up(make_plan(snapshot(*lives, idle=idle), want(8 - surplus))) for surplus in range(9)]
    everything = ["6", "5", "4", "3", "2", "1", "0"]
    assert [everything[:surplus] for surplus in range(9)] == orders


def test_idle_jobs_are_retired_and_others_cancelled():
    plan = make_plan(snapshot(life(0, Phase.READY), life(1, Phase.QUEUED), idle=[0]), want(0))
    assert (Retire("abcdefgh.0", "because"),) == plan.retires
    assert (Cancel("abcdefgh.1", "because"),) == plan.cancels


def test_a_busy_job_stays_and_the_plan_says_so():
    plan = make_plan(snapshot(life(0, Phase.READY), life(1, Phase.READY), idle=[1]), want(0))
    assert ["1"] == given_up(plan)
    assert "1 more than wanted" in plan.held["default"]


def test_a_firm_target_drains_busy_jobs_after_the_idle_ones():
    plan = make_plan(snapshot(*(life(i, Phase.READY) for i in range(3)), idle=[2]), want(1, firm=True))
    assert (Retire("abcdefgh.2", "because"), Retire("abcdefgh.0", "because", busy=True)) == plan.retires


@pytest.mark.parametrize("phase", [Phase.WANTED, Phase.UNKNOWN, Phase.DRAINING, Phase.ENDING])
def test_what_is_in_flight_or_unknown_is_left_alone(phase):
    plan = make_plan(snapshot(life(0, phase)), want(0))
    assert ((), ()) == (plan.cancels, plan.retires)


@pytest.mark.parametrize("phase", [Phase.SUBMITTED, Phase.QUEUED, Phase.STARTING])
def test_a_job_with_registered_workers_is_not_cancelled_although_the_list_is_late(phase):
    assert () == make_plan(snapshot(life(0, phase), members=[0]), want(0)).cancels
    assert () == make_plan(snapshot(life(0, phase, present=1)), want(0)).cancels


def test_a_lowered_maximum_makes_a_surplus():
    lives = [life(i, Phase.READY) for i in range(4)]
    assert 2 == len(make_plan(snapshot(*lives, idle=range(4), maximum=2), want(9)).retires)


def test_pools_are_planned_apart():
    one = snapshot(life(0, Phase.READY), idle=[0])
    both = Snapshot(NOW_S, 1.0, one.load, one.lives, {**one.pools, "gpu": PoolState(Pool("gpu"))})
    plan = make_plan(both, Target({"default": Want(0, "idle"), "gpu": Want(2, "work")}))
    assert (Submit("gpu", 2, "work"),) == plan.submits
    assert (Retire("abcdefgh.0", "idle"),) == plan.retires


@given(snapshots(), st.integers(0, 60), st.booleans())
def test_never_above_the_maximum_and_never_more_than_asked_for(seen, jobs, firm):
    plan = make_plan(seen, Target({name: Want(jobs, "because", firm) for name in seen.pools}))
    for submit in plan.submits:
        state = seen.pools[submit.pool]
        held = sum(one.pool == submit.pool and one.phase.value in HOLDS for one in seen.lives.values())
        serving = sum(one.pool == submit.pool and one.phase.value in SERVES for one in seen.lives.values())
        assert 0 < submit.count
        assert jobs >= serving + submit.count
        if state.pool.limits.maximum is not None:
            assert state.pool.limits.maximum >= held + state.strays + submit.count
        assert not state.stale
        assert not state.submitting


@given(snapshots(), st.integers(0, 60))
def test_only_idle_jobs_are_retired_and_only_workerless_ones_cancelled(seen, jobs):
    plan = make_plan(seen, Target({name: Want(jobs, "because") for name in seen.pools}))
    idle = {job.name for job in seen.load.idle}
    for retire in plan.retires:
        assert retire.job in idle
        assert not retire.busy
    for cancel in plan.cancels:
        assert cancel.job not in seen.load.members
        assert seen.lives[cancel.job].phase.value in {"submitted", "queued", "starting"}
    gone = [step.job for step in (*plan.cancels, *plan.retires)]
    assert len(set(gone)) == len(gone)


@given(snapshots(), st.integers(0, 60), st.booleans())
def test_never_gives_up_more_than_the_surplus(seen, jobs, firm):
    plan = make_plan(seen, Target({name: Want(jobs, "because", firm) for name in seen.pools}))
    for name, state in seen.pools.items():
        serving = sum(one.pool == name and one.phase.value in SERVES for one in seen.lives.values())
        left = serving - sum(seen.lives[step.job].pool == name for step in (*plan.cancels, *plan.retires))
        maximum = jobs if state.pool.limits.maximum is None else state.pool.limits.maximum
        assert min(serving, jobs, maximum) <= left


@given(snapshots())
def test_the_view_counts_every_job_once(seen):
    view = view_of(seen)
    assert list(seen.pools) == [pool.pool.name for pool in view.pools]
    for pool in view.pools:
        for phase in Phase:
            expected = sum(one.pool == pool.pool.name and one.phase is phase for one in seen.lives.values())
            assert expected == pool.phases.get(phase, 0)
        mine = [one for job in seen.load.idle if (one := seen.lives[job.name]).pool == pool.pool.name]
        assert pool.idle == sum(one.since_s == one.ready_s or seen.at_s - one.since_s >= 5.0 for one in mine)
    assert sum(pool.idle for pool in view.pools) == len(view.load.idle)


def test_the_view_passes_on_capacity_and_what_is_broken():
    view = view_of(snapshot(life(0, Phase.READY), broken="no such queue"))
    assert ("no such queue", 3) == (view.pools[0].broken, view.pools[0].capacity.workers)


@pytest.mark.parametrize(
    ("pools", "word"),
    [
        ({}, "does not name pool 'default'"),
        ({"default": Want(1, "x"), "defualt": Want(1, "x")}, "did you mean 'default'"),
        ({"default": Want(-1, "x")}, "-1"),
        ({"default": Want(1.5, "x")}, "1.5"),  # type: ignore[arg-type]
        ({"default": Want(True, "x")}, "True"),
        ({"default": Want(1, " ")}, "no reason"),
    ],
)
def test_a_target_that_breaks_its_contract_is_refused(pools, word):
    view: View = view_of(snapshot())
    with pytest.raises(PolicyError, match=word):
        checked(Target(pools), view)


def test_a_target_that_keeps_its_contract_is_passed_on():
    target = want(3)
    assert target is checked(target, view_of(snapshot()))


@pytest.mark.parametrize(("ago_s", "asked"), [(1.0, ["1"]), (4.9, ["1"]), (5.1, ["0", "1"])])
def test_a_job_that_refused_its_drain_is_left_alone_for_a_while(ago_s: float, asked: list[str]) -> None:
    refused = life(0, Phase.READY, ready_s=NOW_S - 100, since_s=NOW_S - ago_s)
    other = life(1, Phase.READY, ready_s=NOW_S - 50, since_s=NOW_S - 50)
    plan = make_plan(snapshot(refused, other, members=[0, 1]), want(0, firm=True))
    assert asked == sorted(given_up(plan))
    idle = view_of(snapshot(refused, other, members=[0, 1], idle=[0, 1]))
    assert (len(asked), asked) == (idle.pools[0].idle, [job.name.partition(".")[2] for job in idle.load.idle])


def test_where_all_refused_nobody_is_asked() -> None:
    lives = [life(i, Phase.READY, ready_s=NOW_S - 100, since_s=NOW_S - 1) for i in range(3)]
    assert () == make_plan(snapshot(*lives, members=[0, 1, 2]), want(0, firm=True)).retires
