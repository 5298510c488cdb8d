"""What the rows say: means with intervals, the best knobs, who is ahead of whom, the worst. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Duel", "Mean", "best_knobs", "by", "duel", "interval", "mean", "means_by", "pick", "ratio"]

Row = Mapping[str, Any]

DRAWS = 1000


@dataclass(frozen=True)
class Mean:
    """A geometric mean, its interval of 95 %, the largest value, the row that has it, and how many there are."""

    value: float
    low: float
    high: float
    worst: float
    worst_row: Row
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Duel:
    """What a rival costs in parts of what ours costs, pair by pair; above 1 ours is cheaper."""

    ratio: float
    low: float
    high: float


def by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that share these fields, in the order in which they first appear; failed runs are left out."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if not row["failure"]:
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def pick(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """Those that did not fail and have these fields."""
    return [row for row in rows if not row["failure"] and all(row[name] == value for name, value in fields.items())]


def interval(groups: Sequence[Sequence[float]], *, draws: int = DRAWS) -> tuple[float, float]:
    """95 % of the geometric means of values drawn anew, with replacement: first applications, then runs of each.

    The same values give the same interval.
    """
    rng = random.Random(17)
    logs = [[math.log(value) for value in group] for group in groups if group]
    found = []
    for _ in range(draws):
        total, count = 0.0, 0
        for _ in logs:
            group = logs[rng.randrange(len(logs))]
            total += sum(rng.choices(group, k=len(group)))
            count += len(group)
        found.append(math.exp(total / count))
    found.sort()
    return found[round(0.025 * (draws - 1))], found[round(0.975 * (draws - 1))]


def mean(rows: Sequence[Row], value: Callable[[Row], float] = lambda row: row["score"]) -> Mean | None:
    """Of the scores, or of another number; None where there is no row."""
    rows = [row for row in rows if not row["failure"]]
    if not rows:
        return None
    groups = by(rows, "application").values()
    low, high = interval([[value(row) for row in group] for group in groups])
    worst = max(rows, key=value)
    central = math.exp(statistics.fmean(math.log(value(row)) for row in rows))
    return Mean(central, low, high, value(worst), worst, len(rows))


def means_by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], float]:
    """Geometric means of the scores of rows that share these fields."""
    return {
        key: math.exp(statistics.fmean(math.log(row["score"]) for row in group))
        for key, group in by(rows, *names).items()
    }


def best_knobs(rows: Iterable[Row]) -> dict[tuple[str, float, str], str]:
    """For each (backend, time value, policy) the knob with the best mean score; "" is the default."""
    found: dict[tuple[str, float, str], tuple[float, str]] = {}
    for (backend, value, policy, knob), score in means_by(rows, "backend", "time_value", "policy", "knob").items():
        key = (backend, value, policy)
        found[key] = min(found.get(key, (math.inf, "")), (score, knob))
    return {key: knob for key, (_, knob) in found.items()}


def ratio(ours: Iterable[Row], theirs: Iterable[Row]) -> float | None:
    """What a rival costs in parts of ours, without an interval; see ``duel``."""
    ratios = [value for group in _pairs(ours, theirs).values() for value in group]
    return statistics.geometric_mean(ratios) if ratios else None


def duel(ours: Iterable[Row], theirs: Iterable[Row]) -> Duel | None:
    """Ours against a rival on the same work, manager, seed and time value; None where nothing can be paired."""
    groups = _pairs(ours, theirs)
    if not groups:
        return None
    low, high = interval(list(groups.values()))
    return Duel(statistics.geometric_mean(value for group in groups.values() for value in group), low, high)


def _pairs(ours: Iterable[Row], theirs: Iterable[Row]) -> dict[str, list[float]]:
    """Their cost in parts of ours, by application."""
    place = ("instance", "backend", "seed", "time_value")
    mine = {key: rows[0]["cost"] for key, rows in by(ours, *place).items()}
    groups: dict[str, list[float]] = {}
    for key, rows in by(theirs, *place).items():
        for row in rows if key in mine else ():
            groups.setdefault(row["application"], []).append(row["cost"] / mine[key])
    return groups
