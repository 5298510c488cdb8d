"""The contract of a backend (``backend/contracts.py``), held against every backend that there is."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.subjects import Subject, batch, broken
from tests.waiting import until

from dask_adaptive.backend.contracts import Backend, Pushing
from dask_adaptive.errors import BackendError
from dask_adaptive.model import JobId, JobState

ALIVE = (JobState.QUEUED, JobState.RUNNING)


async def test_it_is_a_backend(subject: Subject) -> None:
    assert isinstance(subject.backend, Backend)
    assert subject.backend.lag_s >= 0
    assert subject.backend.timeout_s > 0


async def test_what_was_submitted_is_listed_exactly(subject: Subject) -> None:
    wanted = batch(3)
    ids = await subject.backend.submit(wanted)
    await subject.states(ids, *ALIVE)
    jobs = await subject.jobs()
    assert dict(zip(ids, wanted.names, strict=True)) == {job.id: job.name for job in jobs.values()}


async def test_nothing_was_submitted(subject: Subject) -> None:
    assert {} == await subject.jobs()


async def test_jobs_run(subject: Subject) -> None:
    await subject.states(await subject.backend.submit(batch(2)), JobState.RUNNING)


async def test_many_jobs_in_one_call(subject: Subject) -> None:
    wanted = batch(20)
    ids = await subject.backend.submit(wanted)
    assert 20 == len(set(ids))
    await subject.states(ids, *ALIVE)
    await subject.backend.cancel(ids)
    await subject.states(ids, JobState.ENDED)


async def test_two_batches_at_the_same_time(subject: Subject) -> None:
    first, second = await asyncio.gather(subject.backend.submit(batch(2)), subject.backend.submit(batch(2)))
    await subject.states([*first, *second], *ALIVE)
    assert {*first, *second} == set(await subject.jobs())


async def test_jobs_of_other_clusters_are_not_listed(subject: Subject) -> None:
    ids = await subject.backend.submit(batch(1))
    others = await subject.backend.submit(batch(1, cluster="somebody else's"))
    await subject.states(ids, *ALIVE)
    assert set(ids) == set(await subject.jobs())
    assert set(others) == set(await subject.jobs("somebody else's"))


async def test_a_cancelled_job_ends_and_the_others_do_not(subject: Subject) -> None:
    first, second, third = await subject.backend.submit(batch(3))
    await subject.states([first, second, third], JobState.RUNNING)
    await subject.backend.cancel([second])
    await subject.states([second], JobState.ENDED)
    await subject.states([first, third], JobState.RUNNING)


async def test_cancel_is_idempotent(subject: Subject) -> None:
    ids = await subject.backend.submit(batch(1))
    await subject.backend.cancel(ids)
    await subject.backend.cancel(ids)
    await subject.states(ids, JobState.ENDED)
    before = await subject.jobs()
    await subject.backend.cancel(ids)
    assert before == await subject.jobs()


async def test_cancelling_what_never_was_is_no_error(subject: Subject) -> None:
    ids = await subject.backend.submit(batch(1))
    await subject.backend.cancel([JobId("no-such-job#77"), JobId("")])
    await subject.backend.cancel([])
    await subject.states(ids, *ALIVE)


async def test_a_job_that_fails_tells_its_exit_code_and_its_log(subject: Subject) -> None:
    (failed,) = await subject.backend.submit(broken())
    await subject.states([failed], JobState.ENDED)
    job = (await subject.jobs())[failed]
    assert (job.exit_code, job.reason) == (2, "exit code 2")
    assert "no-such-number" in await subject.backend.log(failed)


async def test_the_log_of_an_unknown_job_is_empty(subject: Subject) -> None:
    assert "" == await subject.backend.log(JobId("no-such-job#77"))


async def test_a_pushing_backend_says_at_once_that_a_job_ended(subject: Subject) -> None:
    if not isinstance(subject.backend, Pushing):
        pytest.skip("does not push")
    words: list[str] = []
    subject.backend.watch(words.append)
    (failed,) = await subject.backend.submit(broken())
    await until(lambda: any("ended" in word for word in words))
    assert JobState.ENDED is (await subject.jobs())[failed].state


async def test_nothing_is_left_after_close(subject: Subject) -> None:
    await subject.states(await subject.backend.submit(batch(3)), JobState.RUNNING)
    assert subject.left()
    await subject.close()
    assert [] == list(subject.left())


async def test_closing_twice_is_harmless(subject: Subject) -> None:
    await subject.states(await subject.backend.submit(batch(1)), *ALIVE)
    await subject.close()
    await subject.backend.aclose()
    assert [] == list(subject.left())


async def test_no_submit_after_close(subject: Subject) -> None:
    await subject.backend.aclose()
    with pytest.raises(BackendError):
        await subject.backend.submit(batch(1))
