"""The work that is left, as a profile: how many jobs it could keep busy, and for how long, one phase after the other.

With room for everything a group runs at once and the next one follows when its slowest task ends. That gives phases of
a length and a width. With ``n`` jobs a phase of width ``w`` takes ``max(1, w / n)`` times as long, so the work takes

    M(n) = sum over phases of length x max(1, width / n)

a convex function of ``n``: each job more saves less than the one before it. Cost: groups, never tasks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

__all__ = ["EMPTY", "Profile", "Stretch", "Use", "order", "profile"]

_EPSILON = 1e-9
_PHASES = 64


@dataclass(frozen=True, slots=True)
class Stretch:
    """Something that keeps ``width`` jobs busy from ``start_s`` to ``end_s`` when there is room for everything."""

    start_s: float
    end_s: float
    width: float


@dataclass(frozen=True, slots=True)
class Use:
    """A time when a job has something to do: it begins after ``start_s`` seconds, ``gap_s`` after the one before.

    ``saves_s``: by how many seconds this job makes it shorter, beside those of a lower rank.
    """

    start_s: float
    gap_s: float
    saves_s: float


class Profile:
    """Phases in the order of time: (length in seconds, width in jobs)."""

    __slots__ = ("_area", "_levels", "_time", "phases")

    def __init__(self, phases: Sequence[tuple[float, float]]) -> None:
        self.phases = tuple(phases)
        ordered = sorted((width, length_s) for length_s, width in self.phases)
        self._levels = [width for width, _ in ordered]
        self._time = [0.0, *accumulate(length_s for _, length_s in ordered)]
        self._area = [0.0, *accumulate(width * length_s for width, length_s in ordered)]

    @property
    def work_s(self) -> float:
        """Job-seconds of work."""
        return self._area[-1]

    @property
    def shortest_s(self) -> float:
        """Seconds that it takes with any number of jobs."""
        return self._time[-1]

    @property
    def width(self) -> float:
        """Jobs that it could keep busy at most."""
        return self._levels[-1] if self._levels else 0.0

    def takes_s(self, jobs: float) -> float:
        """Seconds with so many jobs; infinite with none."""
        if not self._levels:
            return 0.0
        if jobs <= 0:
            return math.inf
        index = bisect_right(self._levels, jobs)
        return self._time[index] + (self._area[-1] - self._area[index]) / jobs

    def after(self, seconds: float, jobs: float) -> Profile:
        """What is left after so many seconds with so many jobs."""
        if jobs <= 0 or seconds <= 0:
            return self
        left_s = seconds
        for index, (length_s, width) in enumerate(self.phases):
            takes_s = length_s * max(1.0, width / jobs)
            if takes_s > left_s:
                rest_s = length_s * (1 - left_s / takes_s)
                return Profile([(rest_s, width), *self.phases[index + 1 :]])
            left_s -= takes_s
        return EMPTY

    def needs(self, jobs: float) -> tuple[tuple[float, float], ...]:
        """When more jobs have something to do, while so many work: (width, seconds from now), both growing."""
        found: list[tuple[float, float]] = []
        at_s = 0.0
        for length_s, width in self.phases:
            if width > (found[-1][0] if found else _EPSILON):
                found.append((width, at_s))
            at_s += length_s * max(1.0, width / max(jobs, 1.0))
        return tuple(found)

    def wider(self, rank: int) -> int:
        """Phases that have something to do for a job of this rank: those wider than ``rank - 1``."""
        return len(self._levels) - bisect_right(self._levels, rank - 1 + _EPSILON)

    def uses(self, rank: int) -> list[Use]:
        """When a job of this rank has something to do: phases wider than ``rank - 1``, neighbours as one."""
        found: list[Use] = []
        at_s = gap_s = 0.0
        for length_s, width in self.phases:
            if width > rank - 1 + _EPSILON:
                before = width / (rank - 1) if rank > 1 else math.inf
                saves_s = length_s * (before - max(1.0, width / rank))
                if found and not gap_s:
                    last = found[-1]
                    found[-1] = Use(last.start_s, last.gap_s, last.saves_s + saves_s)
                else:
                    found.append(Use(at_s, gap_s, saves_s))
                gap_s = 0.0
            else:
                gap_s += length_s
            at_s += length_s
        return found

    def beyond(self, jobs: float) -> Profile:
        """What is wider than so many jobs."""
        return Profile([(length_s, max(0.0, width - jobs)) for length_s, width in self.phases])


EMPTY = Profile(())


def profile(stretches: Iterable[Stretch]) -> Profile:
    """The profile of what runs at the same time; at most 64 phases, the shortest ones are joined."""
    changes: dict[float, float] = {}
    for stretch in stretches:
        if stretch.end_s > stretch.start_s and stretch.width > 0:
            changes[stretch.start_s] = changes.get(stretch.start_s, 0.0) + stretch.width
            changes[stretch.end_s] = changes.get(stretch.end_s, 0.0) - stretch.width
    moments = sorted(changes)
    phases = [(moments[0], 0.0)] if moments and moments[0] > 0 else []
    width = 0.0
    for here_s, next_s in pairwise(moments):
        width += changes[here_s]
        phases.append((next_s - here_s, max(0.0, width)))
    return Profile(_joined(phases))


def _joined(phases: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_PHASES``: neighbours become one of the same length and work, where they last shortest."""
    while len(phases) > _PHASES:
        size = math.ceil(len(phases) / _PHASES)
        groups = (phases[index : index + size] for index in range(0, len(phases), size))
        phases = [_one(group) for group in groups]
    return phases


def _one(phases: Sequence[tuple[float, float]]) -> tuple[float, float]:
    length_s = math.fsum(each for each, _ in phases)
    return length_s, math.fsum(each * width for each, width in phases) / length_s


def order(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Names so that each comes after those that it waits for; a cycle is cut where it closes."""
    done: dict[str, bool] = {}
    found: list[str] = []
    for root in after:
        stack = [(root, iter(after[root]))] if root not in done else []
        while stack:
            name, rest = stack[-1]
            done.setdefault(name, False)
            step = next((each for each in rest if each in after and each not in done), None)
            if step is not None:
                stack.append((step, iter(after[step])))
                done[step] = False
                continue
            stack.pop()
            if not done[name]:
                done[name] = True
                found.append(name)
    return found
