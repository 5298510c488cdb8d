"""Somebody else's cluster as an actuator, with a side and an engine that only write down what they are asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dask_adaptive.foreign import ForeignCluster, Seen
from dask_adaptive.model import Cancel, Load, Member, Phase, Plan, Retire, Shape, Submit
from dask_adaptive.plain import Plain

from .rounds import idle_and_asked


class FakeEngine:
    """Drains at once what it does not refuse."""

    def __init__(self, refusals: Mapping[str, str] | None = None) -> None:
        self.refusals = refusals or {}
        self.drains: list[tuple[tuple[str, ...], bool]] = []

    async def drain(self, jobs: Any, wait_s: float, *, busy: bool = False) -> Mapping[str, str]:
        self.drains.append((tuple(jobs), busy))
        return {job: self.refusals.get(job, "") for job in jobs}


class FakeSide:
    """As many jobs as it is told of."""

    one_by_one = False
    resized = ""

    def __init__(self, jobs: Mapping[str, Seen], failure: Exception | None = None) -> None:
        self.there, self.failure = dict(jobs), failure
        self.calls: Counter[str] = Counter()
        self.forgotten: list[str] = []
        self.released: list[str] = []

    def shape(self, load: Load) -> Shape:
        return Shape()

    def jobs(self, members: Any) -> Mapping[str, Seen]:
        self.calls["jobs"] += 1
        return dict(self.there)

    def grow(self, count: int, members: Any) -> Any:
        async def start() -> None:
            if self.failure is not None:
                raise self.failure

        names = [f"new-{i}" for i in range(count)]
        self.there |= dict.fromkeys(names, Seen())
        return [((name,), start()) for name in names]

    def handles(self, members: Any) -> tuple[Any, ...]:
        return tuple(member.address for member in members)

    def release(self, jobs: Any) -> Any:
        async def close() -> None:
            self.released += jobs

        for name in jobs:
            self.there.pop(name)
        return [(tuple(jobs), close())] if jobs else []

    def forget(self, names: Any) -> None:
        self.forgotten += names
        for name in names:
            self.there.pop(name, None)


def members(*names: str) -> dict[str, tuple[Member, ...]]:
    return {name: (Member(f"tcp://{name}", name),) for name in names}


def load(present: Mapping[str, tuple[Member, ...]]) -> Load:
    return Load(0.0, members=present)


def phases(observed: Any) -> dict[str, Phase]:
    return {name: life.phase for name, life in observed.lives.items()}


async def settled() -> None:
    """Let what was begun end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_compared_while_nobody_joined_or_left() -> None:
    side = FakeSide({"a": Seen()})
    actuator, present = ForeignCluster(side, FakeEngine()), members("a")
    first = actuator.observe(load(present), 1.0)
    assert {"a": Phase.READY} == phases(first)
    again = [actuator.observe(load(present), 2.0 + i) for i in range(3)]
    assert 1 == side.calls["jobs"]
    assert all(first.lives is each.lives for each in again)
    actuator.observe(load(members("a")), 9.0)
    assert 2 == side.calls["jobs"]


async def test_a_job_that_was_asked_for_is_learned_from_when_it_serves() -> None:
    side = FakeSide({})
    actuator = ForeignCluster(side, FakeEngine())
    actuator.observe(load({}), 1.0)
    actuator.act(Plan(submits=(Submit("default", 1, "why"),)), 10.0)
    assert {"new-0": Phase.STARTING} == phases(actuator.observe(load({}), 11.0))
    await settled()
    observed = actuator.observe(load(members("new-0")), 14.0)
    assert {"new-0": Phase.READY} == phases(observed)
    assert (4.0,) == observed.pools["default"].startup.start_s


async def test_what_was_there_before_teaches_nothing() -> None:
    actuator = ForeignCluster(FakeSide({"a": Seen()}), FakeEngine())
    assert () == actuator.observe(load(members("a")), 5.0).pools["default"].startup.start_s


async def test_failed_starts_are_tried_again_later_and_later() -> None:
    side = FakeSide({}, failure=OSError("no\nlunch"))
    actuator = ForeignCluster(side, FakeEngine())
    waits, now_s = [], 100.0
    for _ in range(3):
        actuator.act(Plan(submits=(Submit("default", 2, "why"),)), now_s)
        await settled()
        observed = actuator.observe(load({}), now_s)
        state = observed.pools["default"]
        assert ("a job did not start: no lunch", {}) == (state.broken, phases(observed))
        assert ("a job did not start: no lunch",) == observed.events
        waits.append(state.retry_s - now_s)
        now_s = state.retry_s
    assert [1.0, 2.0, 4.0] == waits
    assert ["new-0", "new-1"] * 3 == side.forgotten


async def test_a_dead_job_is_gone_at_once_but_not_while_a_worker_of_it_serves() -> None:
    side = FakeSide({"a": Seen(over="closed")})
    actuator = ForeignCluster(side, FakeEngine())
    assert {"a": Phase.READY} == phases(actuator.observe(load(members("a")), 1.0))
    observed = actuator.observe(load({}), 2.0)
    assert {} == phases(observed)
    assert ("a is lost: closed",) == observed.events
    assert "" == observed.pools["default"].broken  # it served: no failure to start


async def test_a_queued_job_has_no_deadline() -> None:
    side = FakeSide({"a": Seen(queued=True, workers=2)})
    actuator = ForeignCluster(side, FakeEngine())
    assert {"a": Phase.QUEUED} == phases(actuator.observe(load({}), 1.0))
    later = actuator.observe(load(members("a")), 5000.0).lives["a"]  # the first of its two workers
    assert (Phase.STARTING, 5000.0) == (later.phase, later.running_s)


async def test_a_queued_job_is_let_go_when_a_later_one_has_long_served() -> None:
    side = FakeSide({})
    actuator = ForeignCluster(side, FakeEngine())
    for name, at_s in (("early", 10.0), ("late", 20.0)):
        side.grow = lambda count, members, name=name: [((name,), asyncio.sleep(0))]  # type: ignore[method-assign]
        actuator.act(Plan(submits=(Submit("default", 1, "why"),)), at_s)
        side.there[name] = Seen(queued=True)
    await settled()
    assert {"early": Phase.QUEUED, "late": Phase.READY} == phases(actuator.observe(load(members("late")), 30.0))
    assert {"early": Phase.QUEUED, "late": Phase.READY} == phases(actuator.observe(load(members("late")), 149.0))
    observed = actuator.observe(load(members("late")), 151.0)
    await settled()
    assert {"early": Phase.ENDING, "late": Phase.READY} == phases(observed)
    assert ["early"] == side.released


async def test_a_refused_job_stays_and_is_left_alone_for_a_while() -> None:
    engine, side = FakeEngine({"a": "busy"}), FakeSide({"a": Seen(), "b": Seen()})
    actuator, present = ForeignCluster(side, engine), members("a", "b")
    actuator.observe(load(present), 1.0)
    actuator.act(Plan(retires=(Retire("a", "why"), Retire("b", "why"))), 2.0)
    await settled()
    observed = actuator.observe(load(present), 3.0)
    await settled()
    assert [(("a", "b"), False)] == engine.drains
    assert ["b"] == side.released
    assert ("a stays: busy",) == observed.events
    assert {"a": Phase.READY} == phases(actuator.observe(load(members("a")), 4.0))
    assert (0, ()) == idle_and_asked(actuator.observe(load(members("a")), 7.9), ["a"], 7.9)
    assert (1, ("a",)) == idle_and_asked(actuator.observe(load(members("a")), 8.1), ["a"], 8.1)


async def test_a_job_of_which_a_part_came_is_left_alone_for_a_while_too() -> None:
    side, there = FakeSide({"a": Seen(workers=2)}), load(members("a"))
    actuator = ForeignCluster(side, FakeEngine({"a": "an actor"}))
    actuator.observe(there, 1.0)
    actuator.act(Plan(retires=(Retire("a", "late", busy=True),)), 200.0)
    await settled()
    assert (0, ()) == idle_and_asked(actuator.observe(there, 201.0), ["a"], 201.0)
    assert (0, ()) == idle_and_asked(actuator.observe(there, 205.9), ["a"], 205.9)
    assert (1, ("a",)) == idle_and_asked(actuator.observe(there, 206.1), ["a"], 206.1)


async def test_busy_jobs_are_drained_each_for_itself() -> None:
    engine, side = FakeEngine(), FakeSide({"a": Seen(), "b": Seen()})
    actuator = ForeignCluster(side, engine)
    actuator.observe(load(members("a", "b")), 1.0)
    actuator.act(Plan(retires=(Retire("a", "why", busy=True), Retire("b", "why", busy=True))), 2.0)
    await settled()
    assert [(("a",), True), (("b",), True)] == engine.drains


async def test_a_job_of_which_a_part_came_is_drained_and_serves_on_if_that_is_refused() -> None:
    engine, side = FakeEngine({"a": "an actor"}), FakeSide({"a": Seen(workers=2), "b": Seen(workers=2)})
    actuator = ForeignCluster(side, engine)
    assert {"a": Phase.STARTING, "b": Phase.STARTING} == phases(actuator.observe(load(members("a")), 1.0))
    actuator.act(Plan(retires=(Retire("a", "late", busy=True), Retire("b", "late", busy=True))), 200.0)
    await settled()
    assert [(("a",), True)] == engine.drains  # of b there is nothing to be drained
    assert {"a": Phase.READY, "b": Phase.STARTING} == phases(actuator.observe(load(members("a")), 201.0))
    assert [] == side.released


class Recorder:
    """A plain cluster that only writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def scale_up(self, n: int) -> None:
        self.asked.append(n)

    def scale_down(self, workers: Any) -> None:
        self.asked.append(workers)


async def test_a_new_worker_takes_the_place_of_one_that_was_asked_for() -> None:
    plain = Plain(Recorder())
    for _, work in plain.grow(2, {}):
        await work
    assert ["coming-1", "coming-2"] == list(plain.jobs({}))
    assert ["tcp://x", "coming-2"] == list(plain.jobs(members("tcp://x")))
    assert ["tcp://x", "tcp://y"] == list(plain.jobs(members("tcp://x", "tcp://y")))


async def test_a_plain_cluster_is_told_the_size_in_workers_and_who_left_by_address() -> None:
    cluster = Recorder()
    plain, present = Plain(cluster), {"host": (Member("tcp://x", "x"), Member("tcp://y", "y"))}
    plain.jobs(present)
    work = [
        *plain.grow(1, present),
        *plain.release({"host": plain.handles(present["host"])}),
        *plain.release({"no": ()}),
    ]
    for _, each in work:
        await each
    assert [4, ["tcp://x", "tcp://y"]] == cluster.asked


def away_once() -> tuple[ForeignCluster, list[list[str]]]:
    """A cluster whose first ``scale_down`` fails, and all that it was asked to let go."""
    asked: list[list[str]] = []

    async def scale_down(workers: Any) -> None:
        asked.append(list(workers))
        if len(asked) == 1:
            raise OSError("503")

    return ForeignCluster(Plain(Recorder(), scale_down=scale_down), FakeEngine()), asked


async def test_what_comes_back_to_a_job_that_could_not_be_let_go_makes_nobody_forget_the_others() -> None:
    actuator, asked = away_once()
    actuator.observe(load({"host": (Member("tcp://x", "x"), Member("tcp://y", "y"))}), 1.0)
    actuator.act(Plan(retires=(Retire("host", "idle"),)), 2.0)
    await settled()
    actuator.observe(load({}), 3.0)
    await settled()
    back = load({"host": (Member("tcp://y", "y"), Member("tcp://z", "z"))})  # its cluster started them again
    assert {"host": Phase.ENDING} == phases(actuator.observe(back, 4.0))
    actuator.act(Plan(cancels=(Cancel("host", "it did not end"),)), 20.0)
    await settled()
    assert [["tcp://x", "tcp://y"], ["tcp://x", "tcp://y", "tcp://z"]] == asked


async def test_what_could_not_be_let_go_is_tried_again_with_the_handles_that_it_had() -> None:
    actuator, asked = away_once()
    actuator.observe(load(members("x")), 1.0)
    actuator.act(Plan(retires=(Retire("x", "idle"),)), 2.0)
    await settled()
    actuator.observe(load({}), 3.0)  # the drain ended: nothing shows its workers any more
    await settled()
    assert ("x could not be let go, will be tried again: 503",) == actuator.observe(load({}), 4.0).events
    actuator.act(Plan(cancels=(Cancel("x", "it did not end"),)), 20.0)
    await settled()
    assert {} == phases(actuator.observe(load({}), 21.0))
    assert [["tcp://x"]] * 2 == asked
