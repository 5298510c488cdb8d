"""When the manager is asked for its list, however long its interval is."""

from __future__ import annotations

from tests.simulation.world import World

from dask_adaptive.model import Limits
from dask_adaptive.policy.classic import Fixed


async def test_workers_that_left_are_a_reason_to_look_now() -> None:
    world = World(Fixed(1), Limits(0, 3), poll_s=1000.0)
    await world.rounds(5)
    (name,) = world.backend.alive()
    world.backend._wakes.clear()  # a manager that tells nothing by itself
    world.backend.end(name, 1, "killed")
    await world.rounds(4)
    assert 1 == world.alive, "it was replaced"
    looks = world.backend.calls["jobs"]
    await world.rounds(20)
    assert looks + 1 >= world.backend.calls["jobs"]
