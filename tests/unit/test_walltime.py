"""Jobs whose time runs out are drained in time, one after the other, and replaced before."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive import life as lives
from dask_adaptive.model import (
    Group,
    IdleJob,
    Job,
    JobId,
    JobState,
    Life,
    Limits,
    Load,
    Member,
    Phase,
    Pool,
    PoolState,
    Snapshot,
    Startup,
    Target,
    Want,
)
from dask_adaptive.plan import make_plan
from dask_adaptive.walltime import drain_at_s, ending, leaving, outlasting

HOUR = 3600.0
BEGAN_S = 1e6


def job(i: int, *, running_s: float = BEGAN_S, phase: Phase = Phase.READY, **more: float) -> Life:
    return Life(f"aaaabbbb.{i}", "default", phase, running_s, JobId(str(i)), running_s=running_s, served=True, **more)  # type: ignore[arg-type]


def at(after_s: float, *jobs: Life, state: PoolState | None = None, groups: tuple[Group, ...] = ()) -> Snapshot:
    now_s = BEGAN_S + after_s
    state = state or PoolState(Pool("default", limits=Limits(0, 10), walltime_s=HOUR))
    members = {each.name: (Member(f"tcp://{each.name}", each.name),) for each in jobs if each.phase is Phase.READY}
    load = Load(now_s, groups=groups, members=members, idle=tuple(IdleJob(each, now_s) for each in members))
    return Snapshot(now_s, 1.0, load, {each.name: each for each in jobs}, {"default": state})


def test_a_job_without_walltime_never_ends() -> None:
    snapshot = at(1e9, job(0), state=PoolState(Pool("default")))
    assert () == ending(snapshot)
    assert frozenset() == leaving(snapshot, "default")


def test_a_job_is_drained_before_its_end_and_not_long_before() -> None:
    assert () == ending(at(HOUR * 0.8, job(0)))
    (retire,) = ending(at(HOUR - 100, job(0)))
    assert ("aaaabbbb.0", True) == (retire.job, retire.busy)
    assert "its walltime ends in 100 s" == retire.reason


def test_what_a_drain_takes_is_learned() -> None:
    slow = PoolState(Pool("default", walltime_s=HOUR), startup=Startup(drain_s=(600.0,)))
    assert 1 == len(ending(at(HOUR - 600 - 120, job(0), state=slow)))
    assert 0 == len(ending(at(HOUR - 600 - 120, job(0))))


def test_tasks_that_run_long_are_waited_for() -> None:
    groups = (Group("x", "x", running=1, mean_s=500.0, spread_s=100.0),)
    assert 1 == len(ending(at(HOUR - 600 - 120, job(0), groups=groups)))


@given(st.floats(20.0, 1e6), st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.integers(0, 10_000))
def test_a_drain_begins_within_the_life_of_the_job_and_ends_with_a_margin(
    walltime_s: float, drain_s: float, longest_s: float, i: int
) -> None:
    state = PoolState(Pool("default", walltime_s=walltime_s), startup=Startup(drain_s=(drain_s,)))
    begins_s = drain_at_s(job(i), state, longest_s) - BEGAN_S
    assert 0.35 * walltime_s < begins_s < walltime_s


def test_jobs_that_began_together_are_not_drained_together() -> None:
    state = PoolState(Pool("default", walltime_s=HOUR))
    begins = sorted(drain_at_s(job(i), state, 0.0) for i in range(20))
    gaps = [later - earlier for earlier, later in pairwise(begins)]
    assert min(gaps) > 1.0
    assert begins[-1] - begins[0] > 0.08 * HOUR


def test_a_refused_drain_is_asked_again_after_a_while() -> None:
    refused = replace(job(0), since_s=BEGAN_S + HOUR - 100)
    assert () == ending(at(HOUR - 95, refused))
    assert 1 == len(ending(at(HOUR - 80, refused)))


def test_nothing_is_drained_on_a_list_that_cannot_be_trusted() -> None:
    stale = PoolState(Pool("default", walltime_s=HOUR), stale="squeue failed")
    assert () == ending(at(HOUR - 10, job(0), state=stale))


def test_the_word_of_the_manager_counts_more_than_our_clock() -> None:
    shown = Job(JobId("0"), "aaaabbbb.0", JobState.RUNNING, left_s=60.0)
    adopted = lives.listed(lives.wanted("aaaabbbb.0", "default", 1000.0), shown, 1000.0)
    assert 1060.0 == adopted.ends_s
    assert 1060.0 == lives.listed(adopted, replace(shown, left_s=59.0), 1002.0).ends_s, "it is not moved by every look"
    requeued = lives.listed(adopted, replace(shown, state=JobState.QUEUED, left_s=None), 1010.0)
    assert 0.0 == requeued.ends_s


def test_what_the_manager_says_counts_also_where_no_walltime_was_asked_for() -> None:
    state = PoolState(Pool("default", limits=Limits(0, 10)))
    told, others = job(0, ends_s=BEGAN_S + HOUR), job(1)
    assert () == ending(at(60, told, others, state=state))
    late = at(HOUR - 10, told, others, state=state)
    assert ["aaaabbbb.0"] == [each.job for each in ending(late)]
    assert {"aaaabbbb.0"} == leaving(late, "default")


def test_a_job_that_leaves_is_replaced_while_it_serves() -> None:
    state = PoolState(Pool("default", limits=Limits(0, 10), walltime_s=HOUR), startup=Startup((30.0,), (30.0,)))
    begins_s = drain_at_s(job(0), state, 0.0) - BEGAN_S
    target = Target({"default": Want(1, "one is wanted")})
    assert () == make_plan(at(begins_s - 61, job(0), state=state), target).submits
    plan = make_plan(at(begins_s - 59, job(0), state=state), target)
    assert [1] == [submit.count for submit in plan.submits]
    both = at(begins_s - 30, job(0), job(1, running_s=BEGAN_S + begins_s - 40), state=state)
    assert ((), (), ()) == (plan.retires, *(getattr(make_plan(both, target), k) for k in ("submits", "retires")))


def test_at_the_maximum_the_limit_wins() -> None:
    state = PoolState(Pool("default", limits=Limits(0, 1), walltime_s=HOUR))
    plan = make_plan(at(HOUR - 10, job(0), state=state), Target({"default": Want(1, "one is wanted")}))
    assert () == plan.submits
    assert "1 of at most 1 jobs are there" in plan.held["default"]


@pytest.mark.parametrize(("mean_s", "told"), [(HOUR * 2, 1), (HOUR / 2, 0), (None, 0)])
def test_work_that_no_job_can_finish_is_reported(mean_s: float | None, told: int) -> None:
    groups = (Group("long-1", "long", ready=1, mean_s=mean_s), Group("over", "over", done=5, mean_s=HOUR * 3))
    found = outlasting(at(0.0, job(0), groups=groups))
    assert told == len(found)
    assert all("no job may run longer than 3600 s" in sentence for sentence in found.values())


def test_a_job_that_its_manager_told_to_end_is_drained_at_once_and_replaced() -> None:
    state = PoolState(Pool("default", limits=Limits(0, 10)))
    fine = at(10.0, job(0), job(1, ready_s=BEGAN_S), state=state)
    told = replace(fine, load=replace(fine.load, leaving=("aaaabbbb.1", "zzzzzzzz.0")))
    assert [("aaaabbbb.1", True)] == [(retire.job, retire.busy) for retire in ending(told)]
    assert frozenset({"aaaabbbb.1"}) == leaving(told, "default")
    plan = make_plan(told, Target({"default": Want(2, "two are wanted")}))
    assert [1] == [submit.count for submit in plan.submits]
