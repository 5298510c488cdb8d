"""Whether more jobs make the work faster: what waits for a disk, a database or the scheduler does not gain by them.

While one task group keeps every job busy, tasks done per second are counted for each number of jobs. If two times a
growth by a quarter or more brought less than a tenth of what it should have brought, the work is bound by something
else, and there will be no more jobs for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dask_adaptive.model import Group
from dask_adaptive.phrases import count, number

__all__ = ["Effect"]

_EACH, _GROWTH, _SHARE, _STRIKES = 3, 1.25, 0.1, 2


@dataclass(frozen=True, slots=True)
class Effect:
    """What was seen of one group: since ``at_s`` with ``jobs``, when ``done`` tasks were done.

    ``rate``: tasks per second with ``jobs``, 0 while too few are done; ``before_rate`` with ``before_jobs``, fewer of
    them; ``strikes``: how often more jobs brought nothing.
    """

    group: str = ""
    jobs: int = 0
    done: int = 0
    at_s: float = 0.0
    rate: float = 0.0
    before_jobs: int = 0
    before_rate: float = 0.0
    strikes: int = 0

    @staticmethod
    def read(values: Mapping[str, Any] | None) -> Effect:
        """From plain JSON values."""
        return Effect(**values) if values else Effect()

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    def now(self, groups: Sequence[Group], jobs: int, slots: int, now_s: float) -> Effect:
        """The same after one more look; ``jobs`` serve, with so many ``slots``."""
        group = max(groups, key=lambda each: each.running, default=None)
        if group is None or not jobs or group.ready < slots:
            return Effect()
        if group.name != self.group or group.done < self.done:
            return Effect(group.name, jobs, group.done, now_s)
        if jobs != self.jobs:
            return self._grown(jobs, group.done, now_s)
        if self.rate or group.done - self.done < _EACH * slots or now_s <= self.at_s:
            return self
        rate = (group.done - self.done) / (now_s - self.at_s)
        return replace(self, rate=rate, strikes=self._strikes(rate))

    def _grown(self, jobs: int, done: int, now_s: float) -> Effect:
        fresh = replace(self, jobs=jobs, done=done, at_s=now_s, rate=0.0)
        if not self.rate or jobs < self.jobs:
            return fresh
        return replace(fresh, before_jobs=self.jobs, before_rate=self.rate)

    def _strikes(self, rate: float) -> int:
        if not self.before_rate or self.jobs < _GROWTH * self.before_jobs:
            return self.strikes
        expected, found = self.jobs / self.before_jobs - 1, rate / self.before_rate - 1
        return self.strikes + 1 if found < _SHARE * expected else 0

    @property
    def bound(self) -> str:
        """Why more jobs would bring nothing; empty as long as they may."""
        if self.strikes < _STRIKES:
            return ""
        rates = f"{number(self.before_rate)} tasks/s with {self.before_jobs}, {number(self.rate)} with {self.jobs}"
        return f"more than {count(self.jobs, 'job')} bring nothing to {self.group}: {rates}"
