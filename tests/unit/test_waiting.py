from __future__ import annotations

import asyncio

import pytest

from dask_adaptive.waiting import within


async def answer(after: asyncio.Event) -> int:
    await after.wait()
    return 42


async def test_the_outcome_comes_through() -> None:
    event = asyncio.Event()
    event.set()
    assert await within(60, answer(event)) == 42


async def test_an_error_comes_through() -> None:
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await within(60, fails())


async def test_no_outcome_in_time() -> None:
    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, answer(asyncio.Event()))


async def test_a_cancellation_in_the_moment_of_the_outcome_is_not_lost() -> None:
    """``asyncio.wait_for`` before Python 3.12 returns 42 here."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(within(60, answer(event)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    await asyncio.sleep(0)  # the work is done now, and nobody has looked
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancellation_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    waiting = asyncio.ensure_future(within(7200, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert ended.is_set()


async def test_what_was_given_up_fails_in_silence() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("too late") from None

    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, stubborn())
    await asyncio.sleep(0.01)
