"""Waiting for a while, without ever losing a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["within"]

T = TypeVar("T")


async def within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of ``work``, which is given up after ``timeout_s`` seconds.

    ``asyncio.wait_for`` does the same, but before Python 3.12 it swallows a cancellation that comes in the moment of
    the outcome; a loop around it then goes on for ever. This one does not, whatever happens inside of ``work``.

    Raises
    ------
    asyncio.TimeoutError
        If there is no outcome in time.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.add_done_callback(_heard)
            task.cancel()
    if not task.done():
        raise asyncio.TimeoutError
    return task.result()


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it any more: an error that it ends with is not to be reported."""
    if not task.cancelled():
        task.exception()
