"""What was started and not waited for: each outcome becomes news for a later round."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

__all__ = ["Operations"]

Done = Callable[[Any, float], None]
"""Takes an operation's outcome (a value, or the exception that it died of) and the time of the round."""


class Operations:
    """Operations in flight. ``wake`` is called with a word whenever one ended."""

    def __init__(self) -> None:
        self.wake: Callable[[str], None] = lambda _: None
        self._news: deque[Callable[[float], None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def begin(self, work: Awaitable[Any], done: Done) -> None:
        """Start ``work``; ``done`` hears of its outcome when news are settled."""
        task = asyncio.ensure_future(self._run(work, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Awaitable[Any], done: Done) -> None:
        outcome: object
        try:
            outcome = await work
        except asyncio.CancelledError:
            if self._stopped:
                raise
            outcome = RuntimeError("it was cancelled, and not by us")
        except Exception as error:  # noqa: BLE001  somebody else's backend or cluster may raise anything
            outcome = error
        self._news.append(partial(done, outcome))
        self.wake("an operation ended")

    def settle(self, now_s: float) -> None:
        """Let everybody hear what came of operations that ended."""
        while self._news:
            self._news.popleft()(now_s)

    @property
    def has_news(self) -> bool:
        """Whether an outcome waits to be heard."""
        return bool(self._news)

    async def stop(self) -> None:
        """Cancel what is in flight."""
        self._stopped = True
        while tasks := [task for task in self._tasks if not task.done()]:
            for task in tasks:
                task.cancel()  # more than once: before Python 3.12 ``wait_for`` may lose it
            await asyncio.wait(tasks, timeout=1.0)
