"""Our own jobs: what is asked of the engine and of the manager, one by one and not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from tests.fakes.memory import MemoryBackend

from dask_adaptive.actuator import Observed
from dask_adaptive.errors import Unavailable
from dask_adaptive.jobs import Jobs, PoolSetup
from dask_adaptive.model import Load, Member, Phase, Plan, Pool, Retire, Shape, Spec, Submit, Timeouts

from .rounds import idle_and_asked

TIMEOUTS = Timeouts(start_s=60.0, end_s=10.0)
LAG_S = 20.0
NOTHING = Plan()


class GatedEngine:
    """A drain ends when its job is let through; what it is let through with is its answer."""

    def __init__(self) -> None:
        self.drains: list[tuple[tuple[str, ...], bool]] = []
        self.answers: dict[str, asyncio.Future[str]] = {}

    async def declare(self, tags: Mapping[str, str]) -> None:
        pass

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, *, busy: bool = False) -> Mapping[str, str]:
        self.drains.append((tuple(jobs), busy))
        self.answers |= {job: asyncio.get_running_loop().create_future() for job in jobs}
        return {job: await self.answers[job] for job in jobs}


class Site:
    """Jobs over a manager in memory, at a time that a test says. ``workers``: that each job has."""

    def __init__(self, workers: int = 1, **backend: float) -> None:
        self.now_s = 1000.0
        self.backend = MemoryBackend(lambda: self.now_s, **backend)
        self.engine = GatedEngine()
        spec = Spec("tcp://nowhere:0", shape=Shape(workers))
        setup = PoolSetup(Pool("default", spec.shape), self.backend, spec, TIMEOUTS)
        self.jobs = Jobs("site", [setup], engine=self.engine, tag=lambda: "sitetags", clock=lambda: self.now_s)

    async def at(self, now_s: float, members: Iterable[str] = (), plan: Plan = NOTHING) -> Observed:
        """One round at this time, in which each of these jobs has one worker registered."""
        self.now_s = now_s
        there = {name: (Member(f"tcp://{name}", f"{name}-0-0"),) for name in members}
        observed = self.jobs.observe(Load(now_s, members=there), now_s)
        self.jobs.act(plan, now_s)
        for _ in range(10):
            await asyncio.sleep(0)
        return observed

    async def run(self, count: int) -> tuple[str, ...]:
        """So many jobs that run."""
        await self.at(1001.0, plan=Plan(submits=(Submit("default", count, "why"),)))
        await self.at(1002.0)
        await self.at(1003.0)
        return self.backend.batches[0].names


def retire(names: Iterable[str], *, busy: bool) -> Plan:
    return Plan(retires=tuple(Retire(name, "why", busy=busy) for name in names))


# --- drains -------------------------------------------------------------------------------------------------------


async def test_busy_jobs_are_drained_each_for_itself_and_idle_ones_together() -> None:
    site = Site()
    names = await site.run(4)
    await site.at(1010.0, names)
    await site.at(
        1011.0, names, Plan(retires=retire(names[:2], busy=True).retires + retire(names[2:], busy=False).retires)
    )
    assert sorted([((names[0],), True), ((names[1],), True), (names[2:], False)]) == sorted(site.engine.drains)


async def test_each_drain_teaches_how_long_it_took_itself() -> None:
    site = Site()
    names = await site.run(2)
    await site.at(1010.0, names)
    await site.at(1020.0, names, retire(names, busy=True))
    site.engine.answers[names[0]].set_result("")
    await site.at(1021.0, names)
    await site.at(1022.0, names[1:])
    site.engine.answers[names[1]].set_result("")
    await site.at(1600.0, names[1:])
    observed = await site.at(1620.0)
    assert (2.0, 600.0) == observed.pools["default"].startup.drain_s


async def test_a_job_that_ended_before_its_drain_was_heard_of_teaches_nothing() -> None:
    site = Site()
    names = await site.run(1)
    await site.at(1010.0, names)
    await site.at(1020.0, names, retire(names, busy=True))
    site.backend.end(names[0])
    await site.at(1022.0)
    assert Phase.GONE is (await site.at(1024.0)).lives[names[0]].phase
    site.engine.answers[names[0]].set_result("")
    await site.at(1600.0)
    observed = await site.at(1601.0)
    assert ((), Phase.GONE) == (observed.pools["default"].startup.drain_s, observed.lives[names[0]].phase)


async def test_a_job_of_which_a_part_came_is_drained_and_one_of_which_nothing_came_is_not() -> None:
    site = Site(workers=2)
    names = await site.run(2)
    part, none = names
    await site.at(1010.0, [part])
    await site.at(1100.0, [part], retire(names, busy=True))
    assert [((part,), True)] == site.engine.drains
    observed = await site.at(1101.0, [part])
    assert (Phase.DRAINING, Phase.STARTING) == (observed.lives[part].phase, observed.lives[none].phase)
    assert 1 == observed.pools["default"].failures, "that the rest did not come is a failure to start"
    site.engine.answers[part].set_result("an actor")
    await site.at(1102.0, [part])
    observed = await site.at(1103.0, [part])
    assert (Phase.READY, 1) == (observed.lives[part].phase, observed.lives[part].present)
    assert [] == site.backend.cancels


async def test_a_refused_job_is_neither_idle_nor_asked_again_for_a_while() -> None:
    site = Site()
    names = await site.run(2)
    await site.at(1010.0, names)
    await site.at(1020.0, names, retire(names[:1], busy=False))
    site.engine.answers[names[0]].set_result("it holds an actor")
    await site.at(1021.0, names)
    for now_s in (1022.0, 1025.9):
        assert (1, names[1:]) == idle_and_asked(await site.at(now_s, names), names, now_s)
    assert (2, names) == idle_and_asked(await site.at(1027.1, names), names, 1027.1)


# --- jobs that are there twice ------------------------------------------------------------------------------------


async def test_a_job_that_is_there_twice_is_told_to_end_once_while_the_list_is_late() -> None:
    site = Site(lag_s=LAG_S, queue_s=float("inf"))
    await site.run(1)
    await site.at(1030.0)
    [twin] = site.backend.foreign(site.backend.batches[0])
    for i in range(60):
        await site.at(1031.0 + i)
    assert [(twin,)] == site.backend.cancels


async def test_it_is_told_again_where_that_did_nothing_but_not_at_once() -> None:
    site = Site(lag_s=LAG_S, queue_s=float("inf"))
    await site.run(1)
    await site.at(1030.0)
    [twin] = site.backend.foreign(site.backend.batches[0])
    site.backend.late_s = 0.0
    site.backend.cancel_errors.append(Unavailable("down"))
    told = []
    for i in range(60):
        before = site.backend.calls["cancel"]
        await site.at(1031.0 + i)
        told += [site.now_s] * (site.backend.calls["cancel"] - before)
    first, second = told
    assert first + TIMEOUTS.end_s + LAG_S == second
    assert [(twin,)] == site.backend.cancels


async def test_what_ends_already_is_not_told_again_however_long_it_takes() -> None:
    site = Site(end_s=float("inf"))
    names = await site.run(1)
    await site.at(1030.0, names)
    [twin] = site.backend.foreign(site.backend.batches[0])
    for i in range(100):
        await site.at(1031.0 + i, names)
    assert [(twin,)] == site.backend.cancels


# --- the end ------------------------------------------------------------------------------------------------------


async def test_who_closes_is_told_of_every_job_that_may_be_left() -> None:
    site = Site()
    names = await site.run(2)
    told = await site.jobs.aclose(0.0)
    assert [True, True] == [sentence.startswith(f"job {name} (") for name, sentence in zip(names, told, strict=True)]
    assert all("may be left: starting" in sentence for sentence in told)
