"""What the backend in memory can do beyond the contract: be late, lie, refuse, lose answers."""

from __future__ import annotations

import pytest
from tests.contract.subjects import batch, key
from tests.fakes.memory import After, MemoryBackend, Partly

from dask_adaptive.errors import Ambiguous, NoCapacity, Unavailable
from dask_adaptive.model import JobState


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def states(backend: MemoryBackend) -> list[JobState]:
    return [job.state for job in await backend.jobs(key("mine"))]


async def test_a_late_list_shows_what_was_true_then(clock: Clock) -> None:
    backend = MemoryBackend(clock, lag_s=10, queue_s=2, end_s=3)
    ids = await backend.submit(batch(1))
    assert [] == await states(backend)
    clock.now_s += 10
    assert [JobState.QUEUED] == await states(backend)
    clock.now_s += 2
    assert [JobState.RUNNING] == await states(backend)
    await backend.cancel(ids)
    clock.now_s += 10
    assert [JobState.ENDING] == await states(backend)
    assert () == backend.alive(), "ended 7 s ago"
    clock.now_s += 3
    assert [JobState.ENDED] == await states(backend)


async def test_a_list_can_go_back_in_time(clock: Clock) -> None:
    backend = MemoryBackend(clock)
    await backend.submit(batch(1))
    clock.now_s += 5
    assert [JobState.RUNNING] == await states(backend)
    backend.late_s = 6
    assert [] == await states(backend)


async def test_scripted_answers_come_in_order(clock: Clock) -> None:
    backend = MemoryBackend(clock)
    backend.submit_errors += [Unavailable("away"), None, After(Ambiguous("lost")), Partly(1)]
    with pytest.raises(Unavailable):
        await backend.submit(batch(2))
    assert () == backend.alive()
    assert 2 == len(await backend.submit(batch(2)))
    with pytest.raises(Ambiguous):
        await backend.submit(batch(2))
    assert 4 == len(backend.alive())
    assert 1 == len(await backend.submit(batch(2)))
    assert 4 == backend.calls["submit"]


async def test_capacity_is_taken_in_part_and_then_refused(clock: Clock) -> None:
    backend = MemoryBackend(clock, capacity=3)
    ids = await backend.submit(batch(5))
    assert 3 == len(ids)
    with pytest.raises(NoCapacity):
        await backend.submit(batch(1))
    await backend.cancel(ids[:1])
    assert 1 == len(await backend.submit(batch(2)))


async def test_jobs_end_vanish_and_return_to_the_queue(clock: Clock) -> None:
    backend = MemoryBackend(clock)
    words: list[str] = []
    backend.watch(words.append)
    wanted = batch(3)
    await backend.submit(wanted)
    ended, vanished, requeued = wanted.names
    backend.end(ended, 3, "out of luck")
    backend.vanish(vanished)
    backend.requeue(requeued)
    assert {job.name: (job.state, job.exit_code) for job in await backend.jobs(key("mine"))} == {
        ended: (JobState.ENDED, 3),
        requeued: (JobState.QUEUED, None),
    }
    assert [f"{ended} ended", f"{vanished} vanished", f"{requeued} queued"] == words
