"""The policy that asks what one more job is worth.

One second of waiting is worth ``time_value`` worker-seconds. One more job is asked for while the seconds that it saves
are worth more than what it costs: the part of its start that is billed, and what it will idle. What is there is kept
while giving it up and starting it again would be dearer. See ``profile``, ``durations`` and ``release`` for the parts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Past, Phase, PoolView, Target, View, Want
from dask_adaptive.phrases import count, number
from dask_adaptive.policy.durations import Durations, remembered
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
from dask_adaptive.policy.profile import Profile
from dask_adaptive.policy.release import Idle
from dask_adaptive.policy.remaining import Piece, graphs_alike, remaining
from dask_adaptive.policy.rhythm import Rhythm
from dask_adaptive.policy.stream import Stream
from dask_adaptive.policy.turns import Turns
from dask_adaptive.policy.work import Left, Work
from dask_adaptive.policy.worth import Answer, Terms, answer

__all__ = ["CostAware", "kinds_in"]

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
        same = copy.copy(self)  # of a subclass too, with all that it has
        same.history = dict(history)
        return same

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The size at which one more job would cost more than it is worth, and one fewer would save less."""
        kinds = remembered(past.get("kinds", self.history), view.load)
        pieces = remaining(view.load, Durations(kinds, self.unknown_s, self.truth), self.feed_s)
        decision = _Decision(view, past, pieces)
        for pool in sorted(view.pools, key=lambda each: _price(each, past, view.now_s)):
            self._decide_for(pool, decision)
        return decision.target(), {"kinds": kinds, **decision.plain()}

    def _decide_for(self, pool: PoolView, decision: _Decision) -> None:
        """The next pool; those before it have taken their share of the work."""
        before, left, now_s = decision.before(pool), decision.work.of(pool), decision.view.now_s
        effect = decision.work.effect(pool, Effect.read(before.get("effect")), now_s)
        terms = self._terms(pool, before, decision)
        if effect.bound:
            terms = replace(terms, maximum=min(terms.maximum, max(effect.jobs, terms.size)))
        found = _settled(answer(left.profile, left.ready, left.words, terms), before, pool, now_s)
        want = self._raised(found.want, pool, left, terms, decision)
        declined = (*found.declined, effect.bound) if effect.bound else found.declined
        terms = _peaked(terms, found, left.profile, fresh=decision.fresh)
        remembers = {**_remembered(before, pool, terms, found, now_s), "effect": effect.plain()}
        decision.add(pool, want, found, declined, remembers)

    def _raised(self, want: Want, pool: PoolView, left: Left, terms: Terms, decision: _Decision) -> Want:
        """What the pool needs whatever its work is worth."""
        load = decision.view.load
        want = for_pinned(_for_paused(want, pool), pool, load)
        start_s = terms.start_s + terms.rate * (terms.billed_s + terms.launch_s) / self.time_value
        want = for_starved(want, pool, decision.work.starved_s(pool), start_s)
        if decision.serves_stream(pool, left):
            ready = sum(piece.group.ready for piece in decision.pieces)
            want = decision.stream.raised(want, pool, ready, replace(terms, time_value=self.time_value))
        return for_results(want, memory_jobs(pool, unique_bytes(pool, load) * growth(load), self.memory))

    def _terms(self, pool: PoolView, before: Mapping[str, Any], decision: _Decision) -> Terms:
        """What the size of this pool depends on, work aside."""
        shape, startup, paused = pool.pool.shape, pool.startup, _paused(pool)
        now_s, rhythm = decision.view.now_s, decision.rhythm
        billed_s, queued_s, late_s = self.startup_s, 0.0, 0.0
        if startup.start_s:
            billed_s, queued_s = startup.billed_s(0.5), startup.queued_s(0.5)
            late_s = max(0.0, startup.quantile_s(_SURE) - billed_s - queued_s)
        elif pool.coming and before.get("asked_s") is not None:
            billed_s = max(billed_s, 2 * (now_s - before["asked_s"]))
        maximum = pool.pool.limits.maximum
        return Terms(
            now_s=now_s,
            time_value=self.time_value * (graphs_alike(decision.pieces) + 1) / 2,
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
            quiet_s=rhythm.quiet_s,
            rest_s=decision.rest_s,
            sole=not decision.view.load.foreign.threads,
            pauses=decision.stream.pauses(rhythm.pauses, now_s, shape.job_threads),
            idle=Idle.read(before.get("idle", ())),
            turns=Turns.of(startup, billed_s + self.launch_s),
            queued=sum(pool.phases.get(phase, 0) for phase in _QUEUED),
        )


class _Decision:
    """What is known of all pools at once, and what was decided for some of them so far."""

    def __init__(self, view: View, past: Past, pieces: Sequence[Piece]) -> None:
        self.view = view
        self.pieces = pieces
        self.work = Work(view, pieces)
        self.rest_s = max((piece.end_s for piece in pieces), default=0.0)
        self.rhythm = Rhythm.read(past).now(busy=bool(pieces), now_s=view.now_s)
        self.stream = Stream.read(past.get("stream", {})).now(pieces, view.now_s)
        self.fresh = past.get("quiet_s") is not None
        self._before: Mapping[str, Any] = past.get("pools", {})
        self._wants: dict[str, Want] = {}
        self._pools: dict[str, Any] = {}
        self._looks = [max(_LEAST_LOOK_S, piece.group.oldest_s / 4) for piece in pieces if piece.doubted]
        self._streams = False

    def before(self, pool: PoolView) -> Mapping[str, Any]:
        """What was remembered of this pool."""
        found: Mapping[str, Any] = self._before.get(pool.pool.name, {})
        return found

    def serves_stream(self, pool: PoolView, left: Left) -> bool:
        """Whether small graphs keep coming and this pool is the first that could do them: no other needs to."""
        left_s = self.stream.left_s(self.view.now_s, pool.pool.shape.job_threads)
        if self._streams or not left_s or (self.pieces and not left.ready):
            return False
        self._streams = True
        self._looks.append(left_s)
        return True

    def add(
        self, pool: PoolView, want: Want, found: Answer, declined: Sequence[str], remembers: Mapping[str, Any]
    ) -> None:
        """The next pool is decided."""
        name = pool.pool.name
        self.work.taken(pool, found.spare)
        self.work.declined += [f"{name}: {sentence}" for sentence in declined]
        self._wants[name], self._pools[name] = want, remembers
        self._looks += [] if found.look_s is None else [found.look_s]

    def target(self) -> Target:
        """All of it, the pools in their own order."""
        wants = for_clients({pool.pool.name: self._wants[pool.pool.name] for pool in self.view.pools}, self.view)
        look_s = min(self._looks, default=None)
        return Target(wants, look_s, tuple(self.work.declined), tuple(self.work.impossible))

    def plain(self) -> dict[str, Any]:
        """What is remembered, as JSON knows it."""
        return {**self.rhythm.plain(), "pools": self._pools, "stream": self.stream.plain()}


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
