"""Tasks that a test holds and lets go, counted at every start; and waiting for what a test waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

LIMIT_S = 120.0
RUNS: Counter[Any] = Counter()
"""How often each task began."""
GATES: dict[str, threading.Event] = {}


def fresh() -> None:
    """Forget what an earlier test left, and let its tasks end."""
    for each in GATES.values():
        each.set()
    RUNS.clear()
    GATES.clear()


async def until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Wait for a condition (plain, or a coroutine function); its value."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        await asyncio.sleep(0.01)


def soon(condition: Callable[[], Any]) -> Any:
    """Wait for a condition outside of any event loop; its value."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s"
        time.sleep(0.05)
    return value


def gate(name: str) -> threading.Event:
    return GATES.setdefault(name, threading.Event())
