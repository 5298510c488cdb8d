"""Calls of a batch system's commands: a few at a time, each for so long, and whoever keeps us waiting is named."""

from __future__ import annotations

import asyncio
import time

from dask_adaptive.backend.dialect import Answer, Call
from dask_adaptive.backend.runner import Runner
from dask_adaptive.errors import Ambiguous, Unavailable

__all__ = ["Calls"]

IN_FLIGHT = 3
"""Commands that run at the same time; a manager serves everybody."""

SLOW_S = 10.0
"""After how long a command that does not answer is told of."""


class Calls:
    """Runs the commands of one batch system.

    Parameters
    ----------
    runner:
        What runs them.
    timeout_s:
        After how many seconds one that does not answer is given up.
    """

    def __init__(self, runner: Runner, timeout_s: float) -> None:
        self._runner, self._timeout_s = runner, timeout_s
        self._gate = asyncio.Semaphore(IN_FLIGHT)
        self._waiting: dict[object, tuple[str, float]] = {}

    @property
    def trouble(self) -> str:
        """Who keeps us waiting now ("squeue has not answered for 12 s"), else an empty text."""
        now_s = time.monotonic()
        waits = [(program, now_s - since_s) for program, since_s in self._waiting.values()]
        late = [(name, waited // SLOW_S * SLOW_S) for name, waited in waits if waited >= SLOW_S]
        return "; ".join(f"{name} has not answered for {waited:.0f} s" for name, waited in late)

    async def ask(self, call: Call) -> Answer:
        """A command that changes nothing, or that may be said again: no answer means only that it is not known."""
        try:
            return await self.run(call)
        except Ambiguous as error:
            raise Unavailable(str(error)) from error

    async def run(self, call: Call) -> Answer:
        """Any command. Raises as ``Runner.run`` does."""
        async with self._gate:
            key = object()
            self._waiting[key] = (call.argv[0], time.monotonic())
            try:
                return await self._runner.run(call, self._timeout_s)
            finally:
                del self._waiting[key]
