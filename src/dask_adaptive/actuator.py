"""What the controller acts through: our own jobs (``jobs.py``) or somebody else's cluster (``foreign.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dask_adaptive.model import Life, Load, Plan, PoolState

__all__ = ["Actuator", "Observed"]


@dataclass(frozen=True, slots=True)
class Observed:
    """The jobs as of now. ``events`` are sentences."""

    lives: Mapping[str, Life]
    pools: Mapping[str, PoolState]
    events: tuple[str, ...] = ()


class Actuator(Protocol):
    """Starts operations and tells, rounds later, what came of them. Neither method waits for anything."""

    def observe(self, load: Load | None, now_s: float) -> Observed:
        """Take in what happened since; ``load`` is None while the scheduler cannot be asked."""
        ...

    def act(self, plan: Plan, now_s: float) -> None:
        """Start what the plan says, and a new look at the resource manager where one is due."""
        ...

    def watch(self, wake: Callable[[str], None]) -> None:
        """From now on call ``wake`` with a word whenever an operation ended or a job changed."""
        ...

    async def aclose(self, timeout_s: float) -> tuple[str, ...]:
        """End every job, within the time; sentences about what could not be ended."""
        ...
