"""Waiting for what a test waits for, for so long that only a failure takes longer."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

__all__ = ["LIMIT_S", "soon", "until"]

LIMIT_S = 120.0


async def until(met: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Wait for a condition (plain, or a coroutine function); its value."""
    deadline = time.monotonic() + limit_s
    while True:
        value = met()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        await asyncio.sleep(0.01)


def soon(met: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition outside of any event loop; its value."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := met()):
        assert time.monotonic() < deadline, what or f"not within {LIMIT_S:g} s"
        time.sleep(0.05)
    return value
