from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.model import Limits, Phase
from dask_adaptive.show.timeline import Timeline, Totals, Work, timeline_of

from .records import burst, record, work


def test_a_run_without_rounds_is_an_empty_timeline():
    assert Timeline() == timeline_of([])


def test_times_count_from_the_first_round():
    line = timeline_of(burst())
    assert (0, 1, 2, 3, 5, 7, 7.5, 8, 10) == line.at_s
    assert line.started_s == burst()[0].at_s


def test_jobs_are_counted_by_phase_and_absent_phases_left_out():
    line = timeline_of(burst())
    assert {Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.GONE} == set(line.phases)
    assert (0, 0, 0, 2, 2, 2, 0, 0, 0) == line.phases[Phase.READY]


def test_a_running_task_is_not_counted_as_ready_too():
    line = timeline_of([record(0, groups=[work(waiting=4, ready=12, running=2), work(ready=1)])])
    assert (Work(waiting=4, ready=11, running=2),) == line.work
    assert line.work[0].pending == 4 + 12 + 1


def test_decisions_carry_sizes_and_the_reason_of_the_plan():
    grow, shrink = timeline_of(burst(reason="much to do")).decisions
    assert (1, 1.0, 0, 2, "much to do") == (grow.number, grow.at_s, grow.before, grow.after, grow.reason)
    assert (2, 7.0, 2, 0, "idle for 2 s") == (shrink.number, shrink.at_s, shrink.before, shrink.after, shrink.reason)
    assert (2, -2) == (grow.change, shrink.change)


def test_different_reasons_of_one_round_are_all_kept():
    rounds = [record(0, {Phase.READY: 1, Phase.QUEUED: 1}, retire=["ready000.0"], cancel=["queue000.0"], reason="idle")]
    (decision,) = timeline_of(rounds).decisions
    assert (2, 0, "idle") == (decision.before, decision.after, decision.reason)


def test_totals_of_a_burst():
    # two jobs run from 2 s to 8 s
    expected = Totals(duration_s=10, worker_s=12, largest=2, submits=1, submitted=2, failures=0, errors=0)
    assert expected == timeline_of(burst()).totals


def test_a_queued_job_costs_nothing():
    rounds = [record(0, {Phase.QUEUED: 5}), record(100, {Phase.QUEUED: 5})]
    assert timeline_of(rounds).totals.worker_s == 0


def test_workers_inside_a_job_all_count():
    rounds = [record(0, {Phase.READY: 3}, workers=4), record(10)]
    totals = timeline_of(rounds).totals
    assert (12, 120) == (totals.largest, totals.worker_s)


def test_a_failed_job_is_counted_once_however_long_it_is_listed():
    rounds = [record(0, {Phase.FAILED: 1}), record(1, {Phase.FAILED: 2}), record(2, {Phase.FAILED: 2})]
    assert timeline_of(rounds).totals.failures == 2


def test_a_round_that_could_not_decide_is_counted():
    assert timeline_of([record(0, error="scheduler lost"), record(1)]).totals.errors == 1


@pytest.mark.parametrize("maximum", [7, None])
def test_limits_follow_the_pool(maximum):
    line = timeline_of([record(0, limits=Limits(1, maximum))])
    assert ((1,), (maximum,)) == (line.minimum, line.maximum)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6)), min_size=1, max_size=20))
def test_worker_seconds_add_up_whatever_the_rounds(steps):
    at, rounds, expected = 0, [], 0
    for span, size in steps:
        rounds.append(record(at, {Phase.READY: size}))
        at += span
        expected += span * size
    rounds.append(record(at))
    assert expected == timeline_of(rounds).totals.worker_s
