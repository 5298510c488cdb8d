"""Safety first: never above a limit, whatever the job list does. Then the world heals, and liveness has a bound."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.memory import After, Partly
from tests.simulation.world import World

from dask_adaptive.errors import Ambiguous, Garbled, NoCapacity, Rejected, Throttled, Unavailable
from dask_adaptive.model import Limits, Phase
from dask_adaptive.policy.classic import Fixed, TargetDuration
from dask_adaptive.policy.combine import standard

LAG_S = 30.0

errors = st.sampled_from(
    [
        Unavailable("no route"),
        Throttled("slow down", retry_after_s=7.0),
        Rejected("bad queue"),
        NoCapacity("full"),
        After(Ambiguous("the answer was lost")),
        After(Garbled("?")),
        Ambiguous("nothing happened, but who knows"),
        Partly(1),
        None,
    ]
)
faults = st.one_of(
    st.tuples(st.just("late"), st.floats(0, LAG_S)),
    st.tuples(st.just("submit"), errors),
    st.tuples(st.just("jobs"), st.sampled_from([Unavailable("down"), Garbled("half a list"), None])),
    st.tuples(st.just("cancel"), st.sampled_from([Unavailable("down"), After(Ambiguous("lost")), None])),
    st.tuples(st.just("demand"), st.integers(0, 40)),
    st.tuples(st.just("death"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.floats(0.1, 20.0)),
)


def strike(world: World, kind: str, value: object) -> float:
    """Do one harm to the world; returns how much time passes with it."""
    backend = world.backend
    if kind == "late":
        backend.late_s = float(value)  # type: ignore[arg-type]
    elif kind in ("submit", "jobs", "cancel"):
        getattr(backend, f"{kind}_errors").append(value)
    elif kind == "demand":
        world.engine.ready = int(value)  # type: ignore[call-overload]
    elif kind == "death" and backend.alive():
        names = backend.alive()
        backend.end(names[int(value) % len(names)], 1, "killed")  # type: ignore[call-overload]
    return float(value) if kind == "wait" else 1.0  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    maximum=st.integers(1, 12),
    queue_s=st.sampled_from([0.0, 3.0, 40.0]),
    start_s=st.sampled_from([0.0, 2.0]),
    script=st.lists(faults, max_size=40),
)
def test_never_above_a_limit_then_alive_again(
    maximum: int, queue_s: float, start_s: float, script: list[tuple[str, object]]
) -> None:
    async def live() -> None:
        policy = standard(TargetDuration(5.0), 3.0)
        world = World(policy, Limits(0, maximum), lag_s=LAG_S, queue_s=queue_s, start_s=start_s)
        world.backend.late_s = 0.0
        world.engine.ready = 20
        for kind, value in script:
            await world.round(strike(world, kind, value))
            assert world.most <= maximum
        world.backend.late_s = 0.0
        for queue in (world.backend.submit_errors, world.backend.jobs_errors, world.backend.cancel_errors):
            queue.clear()
        world.engine.ready, world.engine.mean_s = 100, 10.0
        await world.rounds(200, 5.0)
        assert world.alive == maximum
        world.engine.ready = 0
        await world.rounds(120, 5.0)
        assert world.alive == 0
        assert world.most <= maximum

    asyncio.run(live())


@pytest.mark.parametrize("late_s", [0.0, 10.0, 30.0])
async def test_a_late_list_does_not_double_the_jobs(late_s: float) -> None:
    world = World(Fixed(12), Limits(0, 12), lag_s=LAG_S, queue_s=90.0)
    world.backend.late_s = late_s
    await world.rounds(120)
    assert world.most == 12
    assert world.backend.calls["submit"] == 1


async def test_frozen_demand_makes_no_second_decision() -> None:
    world = World(standard(TargetDuration(5.0), 3.0), Limits(0, 20))
    world.engine.ready, world.engine.mean_s = 10, 5.0
    await world.rounds(60)
    assert world.backend.calls["submit"] == 1
    assert world.backend.cancels == []


async def test_nothing_is_forgotten_before_it_was_seen_gone() -> None:
    world = World(Fixed(3), Limits())
    await world.rounds(5)
    world.backend.end_s = float("inf")
    world.controller.use(Fixed(0), why="smaller")
    world.engine.mute = set()
    for name in world.backend.alive():
        world.backend.requeue(name, "preempted")
    await world.rounds(20)
    lives = world.records[-1].snapshot.lives.values()
    assert sum(life.phase is not Phase.GONE for life in lives) == world.alive


async def test_a_cancel_that_fails_is_tried_again_until_the_job_is_gone() -> None:
    world = World(Fixed(2), Limits(), queue_s=float("inf"))
    await world.rounds(3)
    world.backend.cancel_errors.extend([Unavailable("down")] * 3)
    world.controller.use(Fixed(0), why="smaller")
    await world.rounds(60)
    assert world.alive == 0
    assert world.backend.calls["cancel"] >= 4
    assert any("cancel" in event and "again" in event for record in world.records for event in record.events)


async def test_a_job_that_serves_after_a_failed_cancel_is_never_cut_off() -> None:
    world = World(Fixed(1), Limits(), queue_s=float("inf"))
    await world.rounds(3)
    [name] = world.backend.alive()
    world.backend.cancel_errors.append(Unavailable("down"))
    world.controller.use(Fixed(0), why="smaller")
    await world.rounds(2)
    world.backend.run(name)
    world.engine.ready = 5
    world.controller.use(standard(TargetDuration(5.0), 1.0), why="work came")
    before = list(world.backend.cancels)
    await world.rounds(60)
    assert before == world.backend.cancels
    assert name in world.backend.alive()
    world.engine.ready = 0
    await world.rounds(60)
    assert world.alive == 0
    assert name in world.engine.drained


async def test_while_the_list_is_stale_the_plan_holds() -> None:
    world = World(Fixed(2), Limits())
    await world.rounds(3)
    world.backend.jobs_errors.extend([Unavailable("the manager is down")] * 1000)
    for name in world.backend.alive():
        world.backend.end(name, 1, "killed unseen")
    await world.rounds(3)
    world.controller.use(Fixed(5), why="larger")
    await world.rounds(20)
    assert world.backend.calls["submit"] == 1
    assert "stale" in world.records[-1].plan.held["default"]
    world.backend.jobs_errors.clear()
    await world.rounds(60)
    assert world.alive == 5


async def test_an_unknown_submit_keeps_its_place_and_is_found() -> None:
    world = World(Fixed(4), Limits(0, 4), lag_s=20.0)
    world.backend.submit_errors.append(After(Ambiguous("timed out")))
    await world.rounds(120)
    assert world.most == 4
    assert world.alive == 4
    assert world.backend.calls["submit"] == 1


async def test_duplicates_count_and_the_younger_is_cancelled() -> None:
    world = World(Fixed(2), Limits(0, 2))
    await world.rounds(5)
    first = world.backend.batches[0]
    twins = world.backend.foreign(first)
    await world.rounds(30)
    assert set(twins) <= {each for ids in world.backend.cancels for each in ids}
    assert world.alive == 2


async def test_a_pool_that_fails_again_and_again_rests_with_its_reason() -> None:
    world = World(Fixed(3), Limits())
    world.backend.queue_s = float("inf")
    for _ in range(60):
        await world.round()
        for name in world.backend.alive():
            world.backend.end(name, 127, "command not found")
    assert "command not found" in world.records[-1].snapshot.pools["default"].broken
    assert len(world.backend.made) < 20
    world.backend.queue_s = 0.0
    await world.rounds(400)
    assert world.alive == 3


async def test_twelve_jobs_of_one_batch_that_fail_together_are_one_failure() -> None:
    world = World(Fixed(12), Limits(), queue_s=float("inf"))
    await world.rounds(3)
    for name in world.backend.alive():
        world.backend.end(name, 1, "node lost")
    world.backend.queue_s = 0.0
    await world.rounds(10)
    assert world.alive == 12


async def test_the_end_of_a_failed_jobs_log_is_told() -> None:
    world = World(Fixed(1), Limits(), queue_s=float("inf"))
    await world.rounds(3)
    [name] = world.backend.alive()
    world.backend.logs[world.backend.id_of(name)] = "starting\nModuleNotFoundError: No module named 'numpi'\n"
    world.backend.end(name, 1, "exit code 1")
    await world.rounds(3)
    told = "; ".join(event for record in world.records for event in record.events)
    assert f"the log of job {name} ends with: ModuleNotFoundError: No module named 'numpi'" in told
    assert "No module named 'numpi'" in (await world.jobs.logs())[name]


async def test_a_job_whose_workers_never_register_is_replaced() -> None:
    world = World(Fixed(1), Limits(0, 1))
    world.engine.mute = {"tag00000.0"}
    await world.rounds(200)
    assert world.backend.alive() == ("tag00001.0",)
    assert world.most == 1


async def test_the_scheduler_lost_is_said_once_and_decides_nothing() -> None:
    world = World(Fixed(2), Limits())
    await world.rounds(3)
    world.engine.lost = True
    world.controller.use(Fixed(9), why="larger")
    await world.rounds(20)
    assert world.alive == 2
    said = [event for record in world.records for event in record.events if "cannot be asked" in event]
    assert len(said) == 1
    world.engine.lost = False
    await world.rounds(5)
    assert world.alive == 9


async def test_a_round_that_raises_is_recorded_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Fixed(2), Limits())
    await world.rounds(2)
    with monkeypatch.context() as patched:
        patched.setattr(world.jobs, "observe", lambda load, now_s: 1 / 0)
        record = await world.round()
        assert "ZeroDivisionError" in record.error
        assert record.plan.submits == ()
    await world.rounds(3)
    assert world.records[-1].error == ""
    assert world.alive == 2


async def test_every_record_replays_to_the_same_decision() -> None:
    from dask_adaptive.journal import replay
    from dask_adaptive.plan import view_of

    policy = standard(TargetDuration(5.0), 3.0)
    world = World(policy, Limits(0, 6), queue_s=2.0)
    for ready in (0, 30, 30, 5, 0, 12, 0):
        world.engine.ready = ready
        await world.rounds(6)
    assert len(world.records) == 42
    assert replay(world.records, policy.decide, view_of) == []
    assert replay(world.records, standard(Fixed(3), 0.0).decide, view_of) != []
