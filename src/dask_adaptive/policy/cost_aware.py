"""The policy that asks what one more job is worth.

One second of waiting is worth ``time_value`` worker-seconds. One more job is asked for while the seconds that it saves
are worth more than what it costs: the part of its start that is billed, and what it will idle. What is there is kept
while giving it up and starting it again would be dearer. See ``profile``, ``durations`` and ``release`` for the parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Past, Phase, PoolView, Target, View, Want
from dask_adaptive.phrases import count, number
from dask_adaptive.policy.demand import THREADS, impossible_words, pinned_words, shares
from dask_adaptive.policy.durations import GUESSED, Durations, remembered
from dask_adaptive.policy.effect import Effect
from dask_adaptive.policy.floors import (
    for_clients,
    for_pinned,
    for_results,
    for_starved,
    growth,
    memory_jobs,
    unique_bytes,
)
from dask_adaptive.policy.profile import EMPTY, Profile, Stretch, profile
from dask_adaptive.policy.release import Idle
from dask_adaptive.policy.remaining import Piece, graphs_alike, remaining, starved_s
from dask_adaptive.policy.stream import Stream
from dask_adaptive.policy.turns import Turns
from dask_adaptive.policy.worth import Answer, Terms, answer

__all__ = ["CostAware", "kinds_in"]

_PAUSES = 16
_RECOVERY_S = 600.0
_LEAST_LOOK_S = 0.1
_SURE = 0.8
_SETTLE_S = 0.1
_ROUNDING_S = 1e-3
_QUEUED = (Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED)


class CostAware:
    """As many jobs as are worth their cost.

    Parameters
    ----------
    time_value:
        How many worker-seconds one second of waiting is worth; default 10.
    memory:
        Part of a worker's memory limit that results may fill, 0 to 1; default 0.6.
    unknown_s:
        Run time in seconds of a task of an unknown kind while nothing at all is known; default 5.
    startup_s:
        Seconds until a job serves, while no job of the pool ever did; default 2.
    launch_s:
        What a start costs besides the time that is billed for it, in seconds of the job; default 3.
    feed_s:
        How long the scheduler is busy for one task: it keeps run time / ``feed_s`` threads busy; default 0.5 ms.
    history:
        Mean run time in seconds by prefix, from earlier runs.
    truth:
        True mean run time in seconds by prefix: what nobody knows but the simulator.

    Raises
    ------
    ConfigError
        If a number cannot be.

    Notes
    -----
    ``patient``: it decides itself how long idle jobs are kept, so no ``Patience`` is put around it. Its past: ``kinds``
    (mean seconds by prefix, at most 256), ``worked`` (whether there ever was work), ``pauses`` (lengths of the last 16
    times without it since then), ``quiet_s`` (since when there is none), ``stream`` (small graphs that keep coming),
    and for each pool since when which ranks are idle, the most that were needed, when was asked last, and when it was
    broken last.
    """

    patient = True

    def __init__(
        self,
        time_value: float = 10.0,
        memory: float = 0.6,
        unknown_s: float = 5.0,
        startup_s: float = 2.0,
        launch_s: float = 3.0,
        feed_s: float = 0.0005,
        history: Mapping[str, float] | None = None,
        truth: Mapping[str, float] | None = None,
    ) -> None:
        for name, value in (("time_value", time_value), ("unknown_s", unknown_s), ("startup_s", startup_s)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"{name} is a number above 0, not {value!r}")
        for name, value in (("launch_s", launch_s), ("feed_s", feed_s)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} is a number from 0 on, not {value!r}")
        if not 0 < memory <= 1:
            raise ConfigError(f"memory is a part of the memory limit, above 0 and at most 1, not {memory!r}")
        self.time_value = time_value
        self.memory = memory
        self.unknown_s = unknown_s
        self.startup_s = startup_s
        self.launch_s = launch_s
        self.feed_s = feed_s
        self.history = dict(history or {})
        self.truth = dict(truth or {})

    def taught(self, history: Mapping[str, float]) -> CostAware:
        """The same policy with the run times of earlier runs."""
        known = self.unknown_s, self.startup_s, self.launch_s, self.feed_s
        return CostAware(self.time_value, self.memory, *known, history, self.truth)

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The size at which one more job would cost more than it is worth, and one fewer would save less."""
        kinds = remembered(past.get("kinds", self.history), view.load)
        pieces = remaining(view.load, Durations(kinds, self.unknown_s, self.truth), self.feed_s)
        pauses, quiet_s = _pauses(past, quiet=not pieces, now_s=view.now_s)
        rest_s = max((piece.end_s for piece in pieces), default=0.0)
        work, stream = _Work(view, pieces), Stream.read(past.get("stream", {})).now(pieces, view.now_s)
        streams_s = 0.0  # the first pool that could serves a stream, and no other
        wants: dict[str, Want] = {}
        pools: dict[str, Any] = {}
        looks = [max(_LEAST_LOOK_S, piece.group.oldest_s / 4) for piece in pieces if piece.doubted]
        for pool in sorted(view.pools, key=lambda each: _price(each, past, view.now_s)):
            name = pool.pool.name
            before = past.get("pools", {}).get(name, {})
            expected = stream.pauses(pauses, view.now_s, pool.pool.shape.job_threads)
            terms = self._terms(pool, before, expected, view.now_s)
            profile_, ready, words = work.of(pool)
            terms = replace(terms, time_value=self.time_value * (graphs_alike(pieces) + 1) / 2)
            terms = replace(terms, sole=not view.load.foreign.threads, quiet_s=quiet_s, rest_s=rest_s)
            effect = work.effect(pool, Effect.read(before.get("effect")), view.now_s)
            if effect.bound:
                terms = replace(terms, maximum=min(terms.maximum, max(effect.jobs, terms.size)))
            found = _settled(answer(profile_, ready, words, terms), before, pool, view.now_s)
            work.taken(pool, found.spare)
            refused = (*found.declined, effect.bound) if effect.bound else found.declined
            work.declined += [f"{name}: {sentence}" for sentence in refused]
            to_hold = unique_bytes(pool, view.load) * growth(view.load)
            want = for_pinned(_for_paused(found.want, pool), pool, view.load)
            start_s = terms.queued_s + terms.billed_s
            start_s += terms.rate * (terms.billed_s + terms.launch_s) / self.time_value
            want = for_starved(want, pool, work.starved_s(pool), start_s)
            if not streams_s and (ready or not pieces):
                streams_s = stream.left_s(view.now_s, pool.pool.shape.job_threads)
                looks += [streams_s] if streams_s else []
                alone = replace(terms, time_value=self.time_value)
                want = (
                    stream.raised(want, pool, sum(piece.group.ready for piece in pieces), alone) if streams_s else want
                )
            wants[name] = for_results(want, memory_jobs(pool, to_hold, self.memory))
            terms = _peaked(terms, found, profile_, fresh=past.get("quiet_s") is not None)
            pools[name] = {**_remembered(before, pool, terms, found, view.now_s), "effect": effect.plain()}
            looks += [] if found.look_s is None else [found.look_s]
        ordered = for_clients({pool.pool.name: wants[pool.pool.name] for pool in view.pools}, view)
        target = Target(ordered, min(looks, default=None), tuple(work.declined), tuple(work.impossible))
        rhythm = {"worked": bool(pieces) or past.get("worked", False), "pauses": pauses, "quiet_s": quiet_s}
        return target, {"kinds": kinds, **rhythm, "pools": pools, "stream": stream.plain()}

    def _terms(self, pool: PoolView, before: Mapping[str, Any], pauses: Sequence[float], now_s: float) -> Terms:
        """What the size of this pool depends on, work aside."""
        shape, startup, paused = pool.pool.shape, pool.startup, _paused(pool)
        billed_s, queued_s, late_s = self.startup_s, 0.0, 0.0
        if startup.start_s:
            billed_s, queued_s = startup.billed_s(0.5), startup.queued_s(0.5)
            late_s = max(0.0, startup.quantile_s(_SURE) - billed_s - queued_s)
        elif pool.coming and before.get("asked_s") is not None:
            billed_s = max(billed_s, 2 * (now_s - before["asked_s"]))
        maximum = pool.pool.limits.maximum
        return Terms(
            now_s=now_s,
            time_value=self.time_value,
            rate=max(1e-9, pool.pool.price) * shape.workers,
            billed_s=billed_s,
            queued_s=queued_s,
            late_s=late_s,
            launch_s=self.launch_s,
            size=pool.size - paused,
            serving=pool.ready - paused,
            busy=min(pool.ready - pool.idle, pool.size - paused),
            maximum=math.inf if maximum is None else maximum,
            peak=before.get("peak", 1),
            peak_s=before.get("peak_s", 0.0),
            pauses=pauses,
            idle=Idle.read(before.get("idle", ())),
            turns=Turns.of(startup, billed_s + self.launch_s),
            queued=sum(pool.phases.get(phase, 0) for phase in _QUEUED),
        )


def _settled(found: Answer, before: Mapping[str, Any], pool: PoolView, now_s: float) -> Answer:
    """One round of demand is not yet demand, except from zero."""
    if found.want.jobs <= pool.size or not pool.size:
        return found
    since_s = before.get("more_s")
    left_s = _SETTLE_S if since_s is None else since_s + _SETTLE_S - now_s
    if left_s <= _ROUNDING_S:
        return found
    reason = f"{found.want.reason}; not before it is wanted for {number(_SETTLE_S)} s"
    return replace(found, want=Want(pool.size, reason), look_s=left_s)


def kinds_in(past: Past) -> Mapping[str, float]:
    """Mean run times in seconds by prefix that such a policy remembers, also inside of combinators."""
    if "kinds" in past:
        found: Mapping[str, float] = past["kinds"]
        return found
    inner = past.get("inner", ())
    for each in [inner] if isinstance(inner, Mapping) else inner:
        if found := kinds_in(each):
            return found
    return {}


class _Work:
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

    def of(self, pool: PoolView) -> tuple[Profile, float, str]:
        """What is left for this pool: its profile, the jobs that could be busy now, and words for it."""
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
        return found, max(ready.values(), default=0.0), _words(mine, found, pool)

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


def _pauses(past: Past, *, quiet: bool, now_s: float) -> tuple[list[float], float | None]:
    """How long the last times without work were, and since when there is none now.

    The time before the first work tells nothing: that a user comes soon is no sign that he comes back as soon.
    """
    pauses, quiet_s = past.get("pauses", []), past.get("quiet_s")
    if quiet:
        return pauses, now_s if quiet_s is None and past.get("pools") else quiet_s
    if quiet_s is not None and past.get("worked"):
        pauses = [*pauses, now_s - quiet_s][-_PAUSES:]
    return pauses, None


def _price(pool: PoolView, past: Past, now_s: float) -> float:
    """The price in parts of the chance that a job arrives: none while broken, all of it ten minutes later."""
    if pool.broken:
        return math.inf
    broken_s = past.get("pools", {}).get(pool.pool.name, {}).get("broken_s")
    chance = 1.0 if broken_s is None else min(1.0, (now_s - broken_s) / _RECOVERY_S)
    return pool.pool.price / max(1e-3, chance)


def _paused(pool: PoolView) -> int:
    return min(pool.ready, math.ceil(pool.capacity.paused / pool.pool.shape.workers))


def _for_paused(want: Want, pool: PoolView) -> Want:
    """As many more as take no tasks for lack of memory."""
    paused = _paused(pool)
    if not paused or not want.jobs:
        return want
    more = f"{count(paused, 'job')} more, as workers are paused for lack of memory"
    return Want(want.jobs + paused, f"{want.reason}; {more}")


def _peaked(terms: Terms, found: Answer, work: Profile, *, fresh: bool) -> Terms:
    """The most that was needed and to be done since there was no work; counted anew with ``fresh`` work."""
    if fresh and found.needed:
        return replace(terms, peak=found.needed, peak_s=work.work_s)
    return replace(terms, peak=max(terms.peak, found.needed), peak_s=max(terms.peak_s, work.work_s))


def _remembered(before: Mapping[str, Any], pool: PoolView, terms: Terms, found: Answer, now_s: float) -> dict[str, Any]:
    asked_s = before.get("asked_s")
    asked = found.want.jobs if found.more else 0  # what was asked for is not idle since before that
    if found.want.jobs > pool.size or (pool.coming and asked_s is None):
        asked_s = now_s
    elif not pool.coming:
        asked_s = None
    return {
        "asked_s": asked_s,
        "more_s": (now_s if before.get("more_s") is None else before["more_s"]) if found.more else None,
        "idle": terms.idle.now(max(found.needed, asked), now_s).plain(),
        "peak": terms.peak,
        "peak_s": terms.peak_s,
        "broken_s": now_s if pool.broken else before.get("broken_s"),
    }
