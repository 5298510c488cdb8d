"""When to give up what is idle: one ski rental for each rank of a stack of jobs.

Jobs are ranked: the last one needed is the first to go. A rank that is idle costs its price every second; giving it up
and starting it again costs a restart. Somebody who knows the future keeps it through every pause that is shorter than
the restart is worth, and through no other. Without knowledge, to keep it for just as long costs at most twice as much
(Karlin, Manasse, Rudolph, Sleator 1988); with pauses seen before, the wait that would have been cheapest for them is
taken, within bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Idle", "patience_s"]

_KEPT = 16
_SHARE, _SURE = 0.5, 4


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


def patience_s(pauses: Sequence[float], even_s: float) -> float:
    """How long to keep a job whose restart is worth ``even_s`` seconds of its price.

    Without experience exactly so long. With it the wait that would have cost least over the ``pauses`` seen (seconds
    each): at most twice ``even_s``, and at least half of it for each pause seen, down to a sixteenth.
    """
    if not pauses:
        return even_s
    low_s, high_s = even_s * _SHARE ** min(len(pauses), _SURE), even_s / _SHARE
    tries = [low_s, even_s, *(pause_s for pause_s in pauses if low_s < pause_s <= high_s)]
    return min(tries, key=lambda wait_s: sum(p if p <= wait_s else wait_s + even_s for p in pauses))
