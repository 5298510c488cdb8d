"""Requests in a queue that nobody pays: each has its turn at some time, and only those that had it cost anything.

Of many that wait alike the first has its turn long before the median, so the more are asked for the sooner the work
begins. They are laid out as a supply that grows: the jobs that serve, and of the others the part whose time in the
queue has passed. What is left is done by that supply, one phase after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dask_adaptive.model import Startup
from dask_adaptive.policy.profile import Profile

__all__ = ["Run", "Turns"]


@dataclass(frozen=True, slots=True)
class Run:
    """What is left, done by jobs of which some wait for their turn.

    It ends after ``end_s`` seconds; until then ``starts`` of those that wait had their turn, and for ``idle_s``
    job-seconds jobs had nothing to do before a phase that needs them again.
    """

    end_s: float
    starts: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Turns:
    """When requests serve: after one of ``waits_s`` seconds, each as likely as the others, in order; false if empty."""

    waits_s: tuple[float, ...] = ()

    @staticmethod
    def of(startup: Startup, least_s: float) -> Turns:
        """As they were seen; empty where half of the requests wait for less than ``least_s`` in the queue."""
        if startup.queued_s(0.5) <= least_s:
            return Turns()
        billed_s = startup.billed_s(0.5)
        return Turns(tuple(queue_s + billed_s for queue_s in sorted(startup.queue_s)))

    def __bool__(self) -> bool:
        return bool(self.waits_s)

    def run(self, work: Profile, serving: float, asked: float) -> Run:
        """The work with jobs that serve now, and others that wait for their turn."""
        if not serving and not asked:
            return Run(math.inf, 0.0, 0.0)
        share, turns = asked / len(self.waits_s), 0
        now_s = idle_s = 0.0
        for length_s, width, later in _phases(work):
            left = 1.0
            while left:
                supply = serving + share * turns
                next_s = self.waits_s[turns] if turns < len(self.waits_s) else math.inf
                takes_s = left * length_s * max(1.0, width / supply if supply else width and math.inf)
                step_s = min(takes_s, next_s - now_s)
                idle_s += step_s * max(0.0, min(supply, later) - width)
                now_s += step_s
                turns += step_s < takes_s
                left = left * (1 - step_s / takes_s) if step_s < takes_s else 0.0
        return Run(now_s, share * turns, idle_s)


def _phases(work: Profile) -> Iterator[tuple[float, float, float]]:
    """Each phase, with the width of the widest that is to come."""
    later, found = 0.0, []
    for length_s, width in reversed(work.phases):
        found.append((length_s, width, later))
        later = max(later, width)
    return reversed(found)
