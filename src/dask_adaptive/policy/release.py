"""When to give up what is idle: one ski rental for each rank of a stack of jobs.

Jobs are ranked: the last one needed is the first to go. A rank that is idle costs its price every second; giving it up
and starting it again costs a restart. Somebody who knows the future keeps it through every pause that is shorter than
the restart is worth, and through no other. Here the pauses that were seen speak, each with one voice, and before all
of them a pause of which nothing is known but that seconds are as likely as minutes or hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEAST_S", "Idle", "rental"]

_KEPT = 16
_SHORTEST_S, _LONGEST_S = 0.1, 3600.0
LEAST_S = 0.25
"""Nothing is given up sooner: clients take their time between two graphs."""

_LONGER = 1.25
"""The next pause may be so many times as long as one that was seen: one is waited for with this much to spare."""

_PARTS = tuple(2.0 ** (step / 4) for step in range(-20, 5))


@dataclass(frozen=True, slots=True)
class Idle:
    """Since when which ranks have nothing to do: ranks above ``low`` since ``since_s``, the highest ``low`` first."""

    steps: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def read(rows: Sequence[Sequence[float]]) -> Idle:
        """From plain JSON values."""
        return Idle(tuple((int(low), float(since_s)) for low, since_s in rows))

    def plain(self) -> list[list[float]]:
        """As JSON knows it."""
        return [[low, since_s] for low, since_s in self.steps]

    def now(self, needed: int, now_s: float) -> Idle:
        """The same when ``needed`` ranks have something to do."""
        steps: list[tuple[int, float]] = []
        for low, since_s in self.steps:
            if not steps or steps[-1][0] > max(low, needed):
                steps.append((max(low, needed), since_s))
        if not steps or steps[-1][0] > needed:
            steps.append((needed, now_s))
        return Idle((*steps[: _KEPT - 1], steps[-1]) if len(steps) > _KEPT else tuple(steps))

    def since_s(self, rank: int, now_s: float) -> float:
        """Since when this rank is idle."""
        return next((since_s for low, since_s in self.steps if low < rank), now_s)


def rental(pauses: Sequence[float], even_s: float) -> tuple[float, float]:
    """How long to keep a job whose restart is worth ``even_s`` seconds of its price, and what a pause then costs.

    The wait that would have cost least over the ``pauses`` seen (seconds each) and one unknown one, whose logarithm is
    uniform between a tenth of a second and an hour. Alone that one asks for ``even_s / ln(1 h / wait)``: waits pay
    while the chance that the pause ends in the next second is above 1 / ``even_s``. Never longer than twice
    ``even_s``. Both answers are seconds of the price; the second is the mean over these pauses.
    """
    seen = (_LONGER * pause_s for pause_s in pauses)
    tries = [*(even_s * part for part in _PARTS), *(wait_s for wait_s in seen if wait_s <= 2 * even_s)]
    least_s = min(even_s, LEAST_S)
    costs = {wait_s: _costs(pauses, wait_s, even_s) for wait_s in {max(least_s, each_s) for each_s in tries}}
    best_s = min(sorted(costs), key=lambda wait_s: costs[wait_s])
    return best_s, costs[best_s] / (1 + len(pauses))


def _costs(pauses: Sequence[float], wait_s: float, even_s: float) -> float:
    return _unknown(wait_s, even_s) + sum(_cost(pause_s, wait_s, even_s) for pause_s in pauses)


def _cost(pause_s: float, wait_s: float, even_s: float) -> float:
    return pause_s if _LONGER * pause_s <= wait_s else wait_s + even_s


def _unknown(wait_s: float, even_s: float) -> float:
    """The expected cost of a pause of which nothing is known."""
    wait_s = min(max(wait_s, _SHORTEST_S), _LONGEST_S)
    whole = math.log(_LONGEST_S / _SHORTEST_S)
    ended = math.log(wait_s / _SHORTEST_S) / whole
    return (wait_s - _SHORTEST_S) / whole + (1.0 - ended) * (wait_s + even_s)
