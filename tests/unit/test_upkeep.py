"""What has to end although nobody asked for it, and what was started and not waited for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.waiting import until

from dask_adaptive.model import Life, Load, Phase, Plan, Pool, PoolState, Snapshot, Timeouts
from dask_adaptive.operations import Operations
from dask_adaptive.upkeep import overdue

NOW_S = 1000.0
TIMEOUTS = Timeouts(start_s=120.0, lost_s=30.0, end_s=15.0)


def reasons(life: Life, **state: object) -> list[str]:
    pool = PoolState(Pool("default"), timeouts=TIMEOUTS, **state)  # type: ignore[arg-type]
    snapshot = Snapshot(NOW_S, 1.0, Load(NOW_S), {life.name: life}, {"default": pool})
    plan = overdue(snapshot)
    assert all(retire.busy for retire in plan.retires), "whoever is left finishes first"
    serves = life.phase in (Phase.READY, Phase.STARTING) and life.present > 0
    assert len(plan.retires) == (serves and plan != Plan())
    return [step.reason for step in (*plan.retires, *plan.cancels)]


def job(phase: Phase, **more: object) -> Life:
    return replace(Life("abcdefgh.0", "default", phase, since_s=0.0), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.STARTING, Phase.ENDING)])
def test_a_job_that_waits_for_its_turn_or_serves_is_never_overdue(phase: Phase) -> None:
    """A queue may take hours: time-outs begin when the manager says running."""
    assert [] == reasons(job(phase))


@pytest.mark.parametrize(
    ("late", "in_time", "words"),
    [
        (
            job(Phase.STARTING, running_s=NOW_S - 120.1),
            job(Phase.STARTING, running_s=NOW_S - 119.9),
            "did not register within 120 s",
        ),
        (
            job(Phase.STARTING, running_s=NOW_S - 120.1, present=1),
            job(Phase.STARTING, running_s=NOW_S - 119.9, present=1),
            "only 1 of its workers registered within 120 s",
        ),
        (
            job(Phase.READY, lost_s=NOW_S - 31.0),
            job(Phase.READY, lost_s=NOW_S - 29.0),
            "left the scheduler 31 s ago",
        ),
        (
            job(Phase.READY, lost_s=NOW_S - 31.0, present=1),
            job(Phase.READY, lost_s=NOW_S - 99.0, present=1, since_s=NOW_S - 1.0),
            "only 1 of its workers are left since 31 s",
        ),
        (job(Phase.ENDING, deadline_s=NOW_S), job(Phase.ENDING, deadline_s=NOW_S + 0.1), "did not end within 15 s"),
    ],
)
def test_what_is_overdue_has_its_reason_in_numbers(late: Life, in_time: Life, words: str) -> None:
    assert [] == reasons(in_time)
    (reason,) = reasons(late)
    assert words in reason


def test_nothing_is_overdue_while_the_list_cannot_be_trusted() -> None:
    late = job(Phase.STARTING, running_s=1.0)
    assert 1 == len(reasons(late))
    assert [] == reasons(late, stale="no route")


# --- operations ---------------------------------------------------------------------------------------------------


async def test_an_outcome_is_heard_once_at_the_time_of_the_round() -> None:
    operations, heard, woken = Operations(), [], asyncio.Event()
    operations.wake = lambda _: woken.set()

    async def work() -> str:
        return "done"

    operations.begin(work(), lambda outcome, now_s: heard.append((outcome, now_s)))
    await asyncio.wait_for(woken.wait(), 60)
    assert ([], True) == (heard, operations.has_news)
    operations.settle(7.0)
    operations.settle(8.0)
    assert ([("done", 7.0)], False) == (heard, operations.has_news)


async def test_an_operation_that_dies_is_news_like_any_other() -> None:
    operations, heard, woken = Operations(), [], asyncio.Event()
    operations.wake = lambda _: woken.set()
    error = KeyError("anything")

    async def work() -> None:
        raise error

    operations.begin(work(), lambda outcome, _: heard.append(outcome))
    await asyncio.wait_for(woken.wait(), 60)
    operations.settle(0.0)
    assert [error] == heard


async def test_a_lost_cancellation_does_not_hang_the_end() -> None:
    """``asyncio.wait_for`` before Python 3.12 loses one that meets its result."""
    operations, lost = Operations(), []

    async def work() -> None:
        while not lost:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                lost.append(error)
        await asyncio.Event().wait()

    operations.begin(work(), lambda *_: None)
    await asyncio.sleep(0)
    await asyncio.wait_for(operations.stop(), 60)
    assert 1 == len(lost)


async def test_what_is_in_flight_at_the_end_is_cancelled_and_not_heard() -> None:
    operations, heard = Operations(), []
    operations.begin(asyncio.Event().wait(), lambda outcome, _: heard.append(outcome))
    await asyncio.sleep(0)
    await operations.stop()
    operations.settle(0.0)
    assert [] == heard


async def test_an_operation_that_was_cancelled_by_somebody_else_is_heard_of() -> None:
    operations, heard = Operations(), []

    async def cancelled() -> None:
        raise asyncio.CancelledError

    operations.begin(cancelled(), lambda outcome, _: heard.append(outcome))
    await until(lambda: operations.has_news)
    operations.settle(0.0)
    assert ["it was cancelled, and not by us"] == [str(each) for each in heard]
