"""How long tasks are expected to take: known kinds with their spread, unknown ones by doubling a guess.

Run times of tasks of one kind are taken as log-normal: never negative, with a long tail. Of *n* tasks the slowest
takes longer than the mean, and what comes after all of them waits for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean

from dask_adaptive.model import Group, Load

__all__ = ["GUESSED", "Durations", "Expected", "classes", "remembered", "slowest"]

_DOUBT = 2.0
"""A guess is at least so many times what a running task has taken already: guess and double."""

_UNKNOWN_SIGMA = 0.5
_LEAST_S = 1e-3
_KEPT = 256
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Expected:
    """What one task of a group is expected to take.

    ``mean_s``: mean run time; ``sigma``: standard deviation of its logarithm; ``left_s``: what is left of those that
    run now, on average; ``source``: where that comes from (``measured``, ``earlier runs``, ``guessed``).
    """

    mean_s: float
    sigma: float
    left_s: float
    source: str

    @property
    def known(self) -> bool:
        """Whether a task of the kind was ever seen to end."""
        return self.source != GUESSED


MEASURED, EARLIER, GUESSED = "measured", "earlier runs", "guessed"


class Durations:
    """Expectations for the groups of one load.

    Parameters
    ----------
    means:
        Mean run time by prefix, as remembered.
    prior_s:
        Run time of a task when nothing at all is known; it counts as one kind among those remembered.
    truth:
        True mean run time by prefix; for the simulator's oracle.
    """

    def __init__(self, means: Mapping[str, float], prior_s: float, truth: Mapping[str, float] | None = None) -> None:
        self._means = means
        self._truth = truth or {}
        logs = [math.log(max(_LEAST_S, mean_s)) for mean_s in means.values()]
        self._typical_s = math.exp(fmean([math.log(prior_s), *logs]))

    def of(self, group: Group) -> Expected:
        """Expected run time of the pending tasks of a group."""
        oldest_s = group.oldest_s if group.running else 0.0
        if group.prefix in self._truth:
            return _known(max(_LEAST_S, self._truth[group.prefix]), group, oldest_s, MEASURED)
        if group.mean_s is not None:
            return _known(max(_LEAST_S, group.mean_s), group, oldest_s, MEASURED)
        earlier_s = self._means.get(group.prefix)
        mean_s = self._typical_s if earlier_s is None else earlier_s
        if oldest_s * _DOUBT > mean_s:
            mean_s = _DOUBT * oldest_s
        source = GUESSED if earlier_s is None else EARLIER
        return Expected(mean_s, _UNKNOWN_SIGMA, mean_s - oldest_s / 2, source)


def _known(mean_s: float, group: Group, oldest_s: float, source: str) -> Expected:
    sigma = _UNKNOWN_SIGMA
    if group.spread_s is not None and group.mean_s is not None:
        sigma = math.sqrt(math.log1p((group.spread_s / mean_s) ** 2))
    # tasks of a first row, or a single one, began together; later ones half of the oldest's time ago, on average
    together = group.running == 1 or not group.done
    ran_s = oldest_s if together else oldest_s / 2
    # the longer one has run beyond what was expected, the longer it may go on
    left_s = max(mean_s - ran_s, (ran_s - mean_s) / 2, min(1.0, sigma) / 2 * max(mean_s, ran_s), mean_s / 20)
    return Expected(mean_s, min(sigma, 2.0), left_s, source)


def remembered(means: Mapping[str, float], load: Load) -> dict[str, float]:
    """The mean run time by prefix with what this load tells; the oldest are forgotten beyond 256."""
    seen = {group.prefix: group.mean_s for group in load.groups if group.mean_s is not None}
    kept = {prefix: mean_s for prefix, mean_s in means.items() if prefix not in seen}
    everything = {**kept, **seen}
    return dict(list(everything.items())[-_KEPT:])


def slowest(expected: Expected, tasks: float) -> float:
    """Run time of the slowest of so many tasks, in seconds."""
    return expected.mean_s * _slowest(round(expected.sigma, 2), max(1, round(tasks)))


@lru_cache(maxsize=4096)
def _slowest(sigma: float, tasks: int) -> float:
    if tasks < 2 or not sigma:
        return 1.0
    return max(1.0, math.exp(sigma * _NORMAL.inv_cdf(1 - 1 / (tasks + 1)) - sigma * sigma / 2))


def classes(expected: Expected, tasks: float) -> tuple[tuple[float, float], ...]:
    """The tasks as thirds, fast, middle and slow: (how many, seconds each). Fewer than four are of one class."""
    if tasks < 4 or expected.sigma < 0.1:
        return ((tasks, expected.mean_s),)
    return tuple((tasks / 3, expected.mean_s * factor) for factor in _thirds(round(expected.sigma, 2)))


@lru_cache(maxsize=256)
def _thirds(sigma: float) -> tuple[float, ...]:
    """Mean of each third of a log-normal distribution of mean 1."""
    below = [0.0, *(_NORMAL.cdf(_NORMAL.inv_cdf(part / 3) - sigma) for part in (1, 2)), 1.0]
    return tuple(3 * (high - low) for low, high in itertools.pairwise(below))
