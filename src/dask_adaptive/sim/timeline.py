"""Virtual time: a queue of events, and an asyncio loop whose clock jumps to the next of them.

Whoever awaits in this loop (the real controller, its operations) sees time pass as if it had waited. Nothing sleeps:
when no callback is ready the loop asks its selector to wait, and that runs made-up events instead, until one of them
concerns the loop or the next timer is due.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import Any

__all__ = ["START_S", "Timeline", "VirtualLoop"]

START_S = 1_000_000.0
"""When every world begins: not 0, which means "never" elsewhere."""


class Timeline:
    """What will happen, in order; events of the same moment in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.stirred = False
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = 0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now_s

    def after(self, wait_s: float, call: Callable[..., object], *args: Any) -> None:
        """``call(*args)`` once ``wait_s`` seconds have passed; never if that is infinite."""
        if wait_s < math.inf:
            self._number += 1
            heapq.heappush(self._events, (self.now_s + wait_s, self._number, call, args))

    def advance(self, wait_s: float | None) -> None:
        """Let events happen for at most ``wait_s`` seconds, until one stirs the loop.

        Raises
        ------
        RuntimeError
            If the loop waits without limit and nothing is left that could happen.
        """
        events, until_s = self._events, math.inf if wait_s is None else self.now_s + wait_s
        self.stirred = False
        while events and events[0][0] <= until_s:
            self.now_s, _, call, args = heapq.heappop(events)
            call(*args)
            if self.stirred:
                return
        if until_s == math.inf:
            raise RuntimeError("the made-up world waits, but nothing is left that could happen in it")
        self.now_s = until_s


class _Jump(selectors.SelectSelector):
    """Waits by letting virtual time pass."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self._timeline.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. It has no files and no threads: nothing in a made-up world is outside of it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        super().__init__(_Jump(timeline))

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._timeline.now_s

    def call_soon(  # type: ignore[override]  # before Python 3.11 there is no word for the types of *args
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See ``asyncio``; also ends the present wait."""
        self._timeline.stirred = True
        return super().call_soon(callback, *args, context=context)
