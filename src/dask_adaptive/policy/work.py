"""What is left to do, shared out to the pools: each takes what it may, and the next one the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dask_adaptive.model import PoolView, View
from dask_adaptive.phrases import count, number
from dask_adaptive.policy.demand import THREADS, impossible_words, pinned_words, shares
from dask_adaptive.policy.durations import GUESSED
from dask_adaptive.policy.effect import Effect
from dask_adaptive.policy.profile import EMPTY, Profile, Stretch, profile
from dask_adaptive.policy.remaining import Piece, starved_s

__all__ = ["Left", "Work"]


@dataclass(frozen=True, slots=True)
class Left:
    """What is left for one pool: its profile, how many jobs could be busy now, and words for it."""

    profile: Profile
    ready: float
    words: str


class Work:
    """What is left, shared out to the pools one after the other, the cheapest first."""

    def __init__(self, view: View, pieces: Sequence[Piece]) -> None:
        self.impossible: list[str] = []
        self.declined: list[str] = []
        self._foreign = float(view.load.foreign.threads)
        self._left: list[tuple[Piece, frozenset[str]]] = []
        self._share: list[float] = []
        for piece in pieces:
            group = piece.group
            able = frozenset(each.pool.name for each in view.pools if each.pool.shape.slots(group.need) > 0)
            if group.pinned:
                self.declined += [pinned_words(group)] if group.ready else []
            elif able:
                self._left.append((piece, able))
                self._share.append(1.0)
            elif group.ready and (group.unrunnable or not view.load.foreign.workers):
                self.impossible.append(impossible_words(group, view.pools))

    def of(self, pool: PoolView) -> Left:
        """What is left for this pool, by its scarcest dimension."""
        shape, name = pool.pool.shape, pool.pool.name
        stretches: dict[str, list[Stretch]] = {}
        ready: dict[str, float] = {}
        mine = [(piece, part) for (piece, able), part in zip(self._left, self._share, strict=True) if name in able]
        for piece, part in mine:
            for dimension, share in shares(shape, piece.group.need):
                scale = share * part
                ready[dimension] = ready.get(dimension, 0.0) + piece.group.ready * scale
                stretches.setdefault(dimension, []).extend(
                    Stretch(each.start_s, each.end_s, each.width * scale) for each in piece.stretches
                )
        profiles = {dimension: profile(each) for dimension, each in stretches.items()}
        if self._foreign and THREADS in profiles:
            profiles[THREADS] = profiles[THREADS].beyond(self._foreign / shape.job_threads)
            ready[THREADS] = max(0.0, ready[THREADS] - self._foreign / shape.job_threads)
        scarcest = max(profiles, key=lambda each: profiles[each].work_s, default=THREADS)
        found = profiles.get(scarcest, EMPTY)
        return Left(found, max(ready.values(), default=0.0), _words(mine, found, pool))

    def effect(self, pool: PoolView, before: Effect, now_s: float) -> Effect:
        """What jobs of this pool bring to the work that they do."""
        mine = [piece.group for piece, able in self._left if pool.pool.name in able and piece.group.running]
        return before.now(mine, pool.ready, pool.ready * pool.pool.shape.job_threads, now_s)

    def starved_s(self, pool: PoolView) -> float:
        """How long tasks that this pool may run wait for what runs."""
        return starved_s([piece for piece, able in self._left if pool.pool.name in able])

    def taken(self, pool: PoolView, spare: float) -> None:
        """A pool does all the work it may but for a part of it."""
        for index, (_, able) in enumerate(self._left):
            if pool.pool.name in able:
                self._share[index] *= spare


def _words(mine: Sequence[tuple[Piece, float]], work: Profile, pool: PoolView) -> str:
    """The work of a pool in a sentence."""
    tasks = sum((piece.group.ready + piece.group.waiting) * part for piece, part in mine)
    if not tasks:
        return "nothing to do"
    guessed = sum(
        (piece.group.ready + piece.group.waiting) * part for piece, part in mine if piece.expected.source == GUESSED
    )
    seconds = sum(piece.work_s * part for piece, part in mine)
    took = f" (guessed for {guessed:.0f})" if guessed >= 0.5 else ""
    size = f", {number(work.takes_s(pool.ready))} s with {count(pool.ready, 'job')}" if pool.ready else ""
    return f"{count(math.ceil(tasks - 1e-9), 'task')} left, {number(seconds)} s of work{took}{size}"
