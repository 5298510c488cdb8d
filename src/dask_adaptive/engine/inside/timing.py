"""How long tasks take, and what runs since when."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, itemgetter
from time import monotonic
from typing import Any

from .needs import PLAIN, Kind, Needs
from .roster import Roster

__all__ = ["Durations", "Heartbeats"]


class Durations:
    """Mean and spread of the run time per prefix, from differences of the scheduler's own running totals.

    With n tasks finished since the look before, of mean m, the mean of all moves by n/(n + w) of the difference (w:
    tasks seen so far, at most ``WEIGHT``), and ``(m - mean)^2 n w / (n + w)`` is a sample of the variance of one task
    (West, Communications of the ACM 22(9), 1979).
    """

    KEPT = 1_000
    WEIGHT = 200.0

    def __init__(self) -> None:
        self.known: dict[str, list[float]] = {}

    def of(self, prefix: Any) -> tuple[float | None, float | None]:
        """Mean and standard deviation in seconds; None while unknown."""
        record = self.known.pop(prefix.name, None) or [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        self.known[prefix.name] = record
        if len(self.known) > self.KEPT:
            del self.known[next(iter(self.known))]
        finished = prefix.state_counts.get("memory", 0)
        if finished != record[0]:
            self._learn(record, finished, prefix.all_durations["compute"])
        _, _, weight, mean, variance, samples = record
        if weight:
            return mean, variance**0.5 if samples else None
        guess = prefix.duration_average
        return (guess if guess >= 0 else None), None

    def _learn(self, record: list[float], finished: float, seconds: float) -> None:
        n, took = finished - record[0], seconds - record[1]
        record[0], record[1] = finished, seconds
        if n <= 0 or took <= 0:  # the scheduler was restarted, or the results were scattered
            return
        weight, mean, variance, samples = record[2:]
        difference = took / n - mean
        if weight:
            samples += 1
            sample = difference * difference * n * weight / (n + weight)
            variance += (sample - variance) * max(1 / samples, 0.1)
        mean += difference * n / (n + weight)
        record[2:] = [min(weight + n, self.WEIGHT), mean, variance, samples]


class Heartbeats:
    """What only heartbeats tell, read no oftener than they come: running tasks, the oldest of them, memory used."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, Kind], int] = {}
        self.started: dict[tuple[str, Kind], float] = {}
        self.used: dict[str | None, int] = {}
        self._next = 0.0

    def read(self, roster: Roster, needs: Needs) -> None:
        """Take in what came since the last time, if that is long enough ago."""
        now = monotonic()
        if now < self._next:
            return
        started: dict[Any, list[float]] = {}
        workers = 0
        for pool, crowd in roster.crowds.items():
            listed = crowd.listed()
            workers += len(listed)
            try:
                self.used[pool] = sum(map(itemgetter("memory"), map(attrgetter("metrics"), listed)))
            except KeyError:  # a worker that has not told yet
                self.used[pool] = sum(ws.metrics.get("memory", 0) for ws in listed)
            self._executing(listed, needs, started)
        keyed = {key if type(key) is tuple else (key.name, PLAIN): times for key, times in started.items()}
        self.running = {key: len(times) for key, times in keyed.items()}
        self.started = {key: min(times) for key, times in keyed.items()}
        # a heartbeat comes every 0.5 s, with thousands of workers every workers/200 s; and at most 1 % of the time
        self._next = now + max(0.05, workers / 2_000, 100 * (monotonic() - now))

    @staticmethod
    def _executing(workers: Iterable[Any], needs: Needs, started: dict[Any, list[float]]) -> None:
        """When each running task started, by group, or by (group, kind) where it has a need; this is the hot loop."""
        for ws in workers:
            if not ws.executing:
                continue
            seceded, last_seen = ws.long_running, ws.last_seen
            for ts, elapsed_s in ws.executing.items():
                if ts.processing_on is not ws or (seceded and ts in seceded):
                    continue
                key = ts.group
                if needs.known and (kind := needs.kind(ts)) is not PLAIN:
                    key = (key.name, kind)
                times = started.get(key)
                if times is None:
                    times = started[key] = []
                times.append(last_seen - elapsed_s)
