"""Requests in a queue that nobody pays: each has its turn at some time, and only those whose turn comes cost anything.

Of *m* requests that wait alike the first has its turn long before the median: the more wait, the sooner it comes. So
they are laid out as a supply that grows: the jobs that serve, and of the others the part whose time in the queue has
passed. What is left is done by that supply, phase after phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_adaptive.policy.profile import Profile

__all__ = ["Run", "Turns"]


@dataclass(frozen=True, slots=True)
class Run:
    """The work when so many are asked for: it ends after ``end_s``, until then ``starts`` of the queue had their turn.

    ``idle_s``: job-seconds with nothing to do.
    """

    end_s: float
    starts: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Turns:
    """When requests have their turn: ``waits_s`` are seconds from now until they serve, each as likely as the others."""

    waits_s: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.waits_s)

    def run(self, work: Profile, serving: float, asked: float) -> Run:
        """The work with jobs that serve, and others that wait for their turn."""
        share = asked / len(self.waits_s)
        moments = iter(self.waits_s)
        next_s = next(moments)
        now_s = idle_s = started = 0.0
        supply = serving
        later, widest = [], 0.0
        for _, width in reversed(work.phases):
            later.append(widest)
            widest = max(widest, width)
        for (length_s, width), needed in zip(work.phases, reversed(later)):
            left = 1.0
            while left > 0:
                pace = min(1.0, supply / width) / length_s if width > 0 else 1.0 / length_s
                ends_s = now_s + left / pace if pace > 0 else float("inf")
                until_s = min(ends_s, next_s)
                idle_s += max(0.0, min(supply, needed) - width) * (until_s - now_s)
                left = 0.0 if ends_s <= next_s else left - (until_s - now_s) * pace
                now_s = until_s
                if ends_s > next_s:
                    supply += share
                    started += share
                    next_s = next(moments, float("inf"))
        return Run(now_s, started, idle_s)
