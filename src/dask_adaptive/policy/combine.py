"""Policies around policies: limits, patience, the largest of several, hours of the day, a budget.

Each adds its own words to the reason of the policy inside; none erases them. What a combinator remembers lies beside
the past of the policy inside (``inner``), as plain JSON values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.model import Limits, Past, Phase, PoolView, Target, View, Want
from dask_adaptive.phrases import number
from dask_adaptive.policy.contracts import FRESH, Policy

__all__ = ["Budget", "Hours", "Largest", "Limit", "Patience", "standard"]

_DAY_S = 86_400
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ROUNDING_S = 1e-3
_GRAINS = 16
_REGRET, _MOST_WAITS = 1.5, 3.0
_BILLED = (Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.ENDING, Phase.UNKNOWN)


def standard(policy: Policy, wait_s: float, *, said: bool = False) -> Policy:
    """A policy with patience, clipped to the limits of its pools last: what ``adapt`` runs.

    A policy with an attribute ``patient`` that is true decides itself how long idle jobs are kept; it waits for
    ``wait_s`` besides only where somebody ``said`` so.
    """
    if getattr(policy, "patient", False):
        return Limit(Patience(policy, wait_s, startups=0.0) if said else policy)
    return Limit(Patience(policy, wait_s))


class Limit:
    """Clip to the limits of each pool, and say so.

    Parameters
    ----------
    policy:
        The policy inside.
    limits:
        Limits by pool; default: those of the view's own pools.
    """

    def __init__(self, policy: Policy, limits: Mapping[str, Limits] | None = None) -> None:
        self.policy = policy
        self.limits = limits

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """What the policy inside wants, within the limits."""
        target, past = self.policy.decide(view, past)
        limits = {pool.pool.name: pool.pool.limits for pool in view.pools} if self.limits is None else self.limits
        wants = {
            name: _clip(want, limits[name], "this pool") if name in limits else want
            for name, want in target.pools.items()
        }
        return replace(target, pools=wants), past


def _clip(want: Want, limits: Limits, whose: str) -> Want:
    if want.jobs < 0:  # a broken policy: clipped to nothing it would end every job; left alone it is refused
        return want
    jobs = limits.clip(want.jobs)
    if jobs < want.jobs:
        return Want(jobs, f"{want.reason}; cut from {want.jobs} to {jobs}, the maximum of {whose}", firm=True)
    if jobs > want.jobs:
        return Want(jobs, f"{want.reason}; raised from {want.jobs} to {jobs}, the minimum of {whose}", want.firm)
    return want


class Patience:
    """Grow at once; shrink only after a wait, and only to the largest target of that time.

    The wait is the longer one of ``wait_s`` and the pool's median start-up: a job that is given up and needed again
    costs a start-up, so keeping it idle for as long is at most twice as dear as knowing the future would be. Busy jobs
    stay, however long; those that demand did not ask for during the wait go as soon as they are idle. A firm target
    (somebody said so) is passed on at once.

    Where something is needed again within a wait after it was given up, the next wait lasts half as long again, up to
    three times as long; where it was not, that is taken back.

    Parameters
    ----------
    policy:
        The policy inside.
    wait_s:
        Seconds for which the target must have been below the present size.
    startups:
        How many median start-ups the wait lasts at least; default 1, 0 for ``wait_s`` alone.
    at_most_s:
        Longest wait that start-ups may ask for, in seconds; default 300. A longer ``wait_s`` counts even so.
    """

    def __init__(self, policy: Policy, wait_s: float, startups: float = 1.0, at_most_s: float = 300.0) -> None:
        for name, value in (("wait_s", wait_s), ("startups", startups), ("at_most_s", at_most_s)):
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name} is a number from 0 on, not {value!r}")
        self.policy = policy
        self.wait_s = wait_s
        self.startups = startups
        self.at_most_s = at_most_s

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """What the policy inside wants, or what it wanted at most within the wait."""
        target, inner = self.policy.decide(view, past.get("inner", FRESH))
        lows: dict[str, Any] = {}
        regrets: dict[str, Any] = {}
        wants = dict(target.pools)
        looks = [] if target.look_again_s is None else [target.look_again_s]
        for pool in view.pools:
            name = pool.pool.name
            want = wants.get(name)
            if want is None:
                continue
            wait_s = max(self.wait_s, min(self.at_most_s, self.startups * pool.startup.quantile_s(0.5, 0.0)))
            grows = want.jobs > pool.size
            regrets[name] = regret = _regret(past.get("regret", {}).get(name), view.now_s, wait_s, grows=grows)
            if want.firm or not 0 <= want.jobs < pool.size:
                continue
            wait_s *= regret["waits"]
            lows[name] = low = _seen(past.get("low", {}).get(name), view.now_s, want.jobs, wait_s)
            wants[name], look_s = _patient(pool, want, low, view.now_s, wait_s)
            looks += [] if look_s is None else [look_s]
            if wants[name].jobs < pool.size:
                regret["given_up_s"] = view.now_s
        remembered = {"inner": inner, "low": lows, "regret": regrets}
        return replace(target, pools=wants, look_again_s=min(looks, default=None)), remembered


def _regret(before: Mapping[str, Any] | None, now_s: float, wait_s: float, *, grows: bool) -> dict[str, Any]:
    """How many waits a wait lasts, and when something was given up of which nothing was needed again so far."""
    if before is None:
        return {"waits": 1.0, "given_up_s": None}
    waits, given_up_s = before["waits"], before["given_up_s"]
    if not grows or given_up_s is None:
        return dict(before)
    soon = now_s - given_up_s <= waits * wait_s
    waits = min(_MOST_WAITS, waits * _REGRET) if soon else max(1.0, waits / _REGRET)
    return {"waits": waits, "given_up_s": None}


def _seen(low: Mapping[str, Any] | None, now_s: float, jobs: int, wait_s: float) -> dict[str, Any]:
    """Since when the target is too low, and its heights within the wait that nothing later exceeds, oldest first."""
    before = [] if low is None else low["seen"]
    seen = [[at_s, high] for at_s, high in before if high > jobs and not _over(at_s, now_s, wait_s)]
    if len(seen) > 1 and now_s - seen[-2][0] < wait_s / _GRAINS:
        seen[-1][0] = now_s  # so that it stays small: the last height lives a little longer, which is the safe side
    else:
        seen.append([now_s, jobs])
    return {"since_s": now_s if low is None else low["since_s"], "seen": seen}


def _patient(
    pool: PoolView, want: Want, low: Mapping[str, Any], now_s: float, wait_s: float
) -> tuple[Want, float | None]:
    """The want with patience, and after how many seconds it may become smaller."""
    since_s, (highest_s, highest) = low["since_s"], low["seen"][0]
    if not _over(since_s, now_s, wait_s):
        left_s = since_s + wait_s - now_s
        held = f"{pool.size} kept for {left_s:.1f} s more: below for {now_s - since_s:.1f} of {number(wait_s)} s"
        return Want(pool.size, f"{want.reason}; {held}"), left_s
    look_s = None
    if highest > want.jobs:
        want = Want(highest, f"{want.reason}; {highest} wanted within the last {number(wait_s)} s")
        look_s = max(_ROUNDING_S, highest_s + wait_s - now_s)
    busy = pool.ready - pool.idle
    if busy > want.jobs:
        want = Want(busy, f"{want.reason}; {busy} kept, as they are busy")
    return replace(want, jobs=min(want.jobs, pool.size)), look_s


def _over(at_s: float, now_s: float, wait_s: float) -> bool:
    return now_s - at_s >= wait_s - _ROUNDING_S


class Largest:
    """For each pool the largest answer of several policies, with its reason."""

    def __init__(self, *policies: Policy) -> None:
        if not policies:
            raise ConfigError("the largest of no policies: name at least one")
        self.policies = policies

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """The largest; of equal ones the first. Firm only where all of them are."""
        pasts: Sequence[Past] = past.get("inner", ())
        if len(pasts) != len(self.policies):
            pasts = [FRESH] * len(self.policies)
        answers = [policy.decide(view, inner) for policy, inner in zip(self.policies, pasts, strict=True)]
        targets = [target for target, _ in answers]
        wants = {}
        for pool in view.pools:
            offers = [target.pools[pool.pool.name] for target in targets]
            best = max(offers, key=lambda want: want.jobs)
            wants[pool.pool.name] = replace(best, firm=all(want.firm for want in offers))
        looks = [target.look_again_s for target in targets if target.look_again_s is not None]
        declined = tuple(dict.fromkeys(sentence for target in targets for sentence in target.declined))
        impossible = tuple(dict.fromkeys(sentence for target in targets for sentence in target.impossible))
        spent = {whose: words for target in targets for whose, words in target.spent.items()}
        target = Target(wants, min(looks, default=None), declined, impossible, spent)
        return target, {"inner": [inner for _, inner in answers]}


@dataclass(frozen=True, slots=True)
class _Hour:
    """One entry of a schedule: on these days, from ``start_s`` after midnight for ``length_s``."""

    label: str
    days: frozenset[int]
    start_s: int
    length_s: int
    limits: Limits

    def left_s(self, local_s: float) -> float | None:
        """Seconds until it ends; None where it does not hold now."""
        for ago in (0, 1):
            day = math.floor(local_s / _DAY_S) - ago
            into_s = local_s - day * _DAY_S - self.start_s
            if _weekday(day) in self.days and 0 <= into_s < self.length_s:
                return self.length_s - into_s
        return None

    def starts_in_s(self, local_s: float) -> float:
        """Seconds until it begins the next time."""
        today = math.floor(local_s / _DAY_S)
        starts = ((today + ahead) * _DAY_S + self.start_s for ahead in range(8) if _weekday(today + ahead) in self.days)
        return next(start - local_s for start in starts if start > local_s)


def _weekday(day: int) -> int:
    return (day + 3) % 7  # the first of January 1970 was a Thursday; Monday is 0


class Hours:
    """Other limits at some hours of some days.

    Parameters
    ----------
    policy:
        The policy inside.
    schedule:
        By pool: entries ``(days, from, to, limits)`` such as ``("mon-fri", "08:00", "18:00", Limits(2, 50))``. Days are
        ``mon`` to ``sun``, a range, several separated by commas, or ``daily``. An entry whose end is not after its
        start reaches into the next day. The first entry that holds counts; where none does, nothing is changed.
    utc_offset_s:
        Seconds that the schedule's clock is ahead of UTC; default 0.

    Raises
    ------
    ConfigError
        If a day or a time of day cannot be read.
    """

    def __init__(
        self,
        policy: Policy,
        schedule: Mapping[str, Sequence[tuple[str, str, str, Limits]]],
        utc_offset_s: float = 0.0,
    ) -> None:
        self.policy = policy
        self.utc_offset_s = utc_offset_s
        self._hours = {name: [_hour(*entry) for entry in entries] for name, entries in schedule.items()}

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """What the policy inside wants, within the limits of this hour."""
        target, past = self.policy.decide(view, past)
        local_s = view.now_s + self.utc_offset_s
        wants = dict(target.pools)
        looks = [] if target.look_again_s is None else [target.look_again_s]
        for name, hours in self._hours.items():
            looks += [hour.starts_in_s(local_s) for hour in hours if hour.days]
            holding = [(hour, left) for hour in hours if (left := hour.left_s(local_s)) is not None]
            if holding and name in wants:
                hour, left_s = holding[0]
                wants[name] = _clip(wants[name], hour.limits, f"the hours {hour.label}")
                looks.append(left_s)
        return replace(target, pools=wants, look_again_s=min(looks, default=None)), past


def _hour(days: str, start: str, end: str, limits: Limits) -> _Hour:
    start_s, end_s = _time_of_day(start), _time_of_day(end)
    length_s = end_s - start_s if end_s > start_s else end_s - start_s + _DAY_S
    return _Hour(f"{days} {start}-{end}", _days(days), start_s, length_s, limits)


def _time_of_day(text: str) -> int:
    hours, colon, minutes = text.partition(":")
    if colon and hours.isdigit() and minutes.isdigit():
        seconds = int(hours) * 3600 + int(minutes) * 60
        if int(minutes) < 60 and seconds <= _DAY_S:
            return seconds
    raise ConfigError(f"a time of day is written '08:30', not {text!r}")


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        for word in (first, last or first):
            if word not in _DAYS:
                raise ConfigError(f"unknown day {word!r}; {nearest(word, _DAYS)}")
        start, end = _DAYS.index(first), _DAYS.index(last or first)
        days.update((start + i) % 7 for i in range((end - start) % 7 + 1))
    return frozenset(days)


class Budget:
    """Worker-hours that may be spent; when they are, nothing new is started and what is there is drained.

    Spent is the time of the workers of all jobs that run, from round to round. Tasks that run are finished. Around
    it a minimum of the pool still holds: put the budget outside of ``Limit`` where it shall not.

    Parameters
    ----------
    policy:
        The policy inside.
    worker_hours:
        For all pools together, or by pool; a pool that is not named has no budget.

    Raises
    ------
    ConfigError
        If a budget is negative or not a number.
    """

    def __init__(self, policy: Policy, worker_hours: float | Mapping[str, float]) -> None:
        for hours in worker_hours.values() if isinstance(worker_hours, Mapping) else [worker_hours]:
            if isinstance(hours, bool) or not isinstance(hours, int | float) or not hours >= 0:
                raise ConfigError(f"a budget is a number of worker-hours from 0 on, not {hours!r}")
        self.policy = policy
        self.worker_hours = worker_hours

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """What the policy inside wants, as long as the budget lasts."""
        target, inner = self.policy.decide(view, past.get("inner", FRESH))
        elapsed_s = max(0.0, view.now_s - past.get("at_s", view.now_s))
        before = past.get("spent_s", {})
        rate = {pool.pool.name: _billed(pool) for pool in view.pools}
        spent_s = {name: before.get(name, 0.0) + elapsed_s * workers for name, workers in rate.items()}
        wants = dict(target.pools)
        looks = [] if target.look_again_s is None else [target.look_again_s]
        over = {}
        for whose, names, hours in self._shares(list(wants)):
            spent = sum(spent_s.get(name, 0.0) for name in names)
            workers = sum(rate.get(name, 0) for name in names)
            left_s = hours * 3600 - spent
            words = f"{number(spent / 3600)} of {number(hours)} worker-hours spent"
            for name in names:
                wants[name] = _within(wants[name], words, over=left_s <= 0)
            if left_s <= 0:
                over[whose] = words
            if left_s > 0 and workers and math.isfinite(left_s):
                looks.append(max(_ROUNDING_S, left_s / workers))
        remembered = {"inner": inner, "at_s": max(view.now_s, past.get("at_s", view.now_s)), "spent_s": spent_s}
        target = replace(target, pools=wants, look_again_s=min(looks, default=None), spent={**target.spent, **over})
        return target, remembered

    def _shares(self, names: Sequence[str]) -> list[tuple[str, list[str], float]]:
        """Budgets: the pool each is for ("" for all together), the names that share it, and its worker-hours."""
        if isinstance(self.worker_hours, Mapping):
            return [(name, [name], hours) for name, hours in self.worker_hours.items() if name in names]
        return [("", list(names), self.worker_hours)]


def _billed(pool: PoolView) -> int:
    """Workers whose time is being spent now."""
    return sum(pool.phases.get(phase, 0) for phase in _BILLED) * pool.pool.shape.workers


def _within(want: Want, words: str, *, over: bool) -> Want:
    reason = f"{want.reason}; {words}"
    if over:
        return Want(0, f"{reason}: nothing new, and what is there is drained", firm=True)
    return replace(want, reason=reason)
