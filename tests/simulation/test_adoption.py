"""Who comes back to jobs that live knows of which pool they are, and says so to the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.fakes.memory import MemoryBackend
from tests.simulation.world import Clock, StubEngine

from dask_adaptive.jobs import Jobs, PoolSetup
from dask_adaptive.model import Limits, Load, Plan, Pool, Spec, Submit
from dask_adaptive.tags import of_pool, pool_number, tags

NOTHING = Load(0.0)


def jobs_of(clock: Clock, engine: StubEngine, backends: dict[str, MemoryBackend]) -> Jobs:
    """A cluster of these pools."""
    setups = [
        PoolSetup(Pool(name, limits=Limits(0, 5)), backend, Spec("tcp://x"), poll_s=0.1)
        for name, backend in backends.items()
    ]
    return Jobs("mine", setups, engine=engine, tag=tags("mine"), clock=clock)


async def settled(jobs: Jobs, clock: Clock, met: Callable[[], bool]) -> None:
    """Look until it is so."""
    for _ in range(1000):
        clock.now_s += 1.0
        jobs.observe(NOTHING, clock.now_s)
        jobs.act(Plan(), clock.now_s)
        if met():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never was")


def pools(jobs: Jobs, clock: Clock) -> dict[str, int]:
    found: dict[str, int] = {}
    for life in jobs.observe(NOTHING, clock.now_s).lives.values():
        found[life.pool] = found.get(life.pool, 0) + 1
    return found


async def test_jobs_that_are_found_are_of_the_pool_they_were_submitted_for() -> None:
    clock = Clock()
    shared = MemoryBackend(clock)
    engine = StubEngine(clock, shared)
    backends = {"cpu": shared, "gpu": shared}
    before = jobs_of(clock, engine, backends)
    before.act(Plan(submits=(Submit("cpu", 2, "x"), Submit("gpu", 1, "x"))), clock.now_s)
    await settled(before, clock, lambda: len(shared.made) == 3)

    other = StubEngine(clock, shared)
    after = jobs_of(clock, other, backends)
    await settled(after, clock, lambda: pools(after, clock) == {"cpu": 2, "gpu": 1})
    await settled(after, clock, lambda: sorted(other.declared.values()) == ["cpu", "gpu"])
    for _ in range(10):  # what is in flight ends
        await asyncio.sleep(0)


def test_a_tag_tells_its_pool() -> None:
    assert [0, 1, 25] == [pool_number(of_pool("minexyz1", number)) for number in (0, 1, 25)]
    assert "minebyz1" == of_pool("minexyz1", 1)
    assert "minexyz1" == of_pool("minexyz1", 26), "no letter is left: it says nothing"
