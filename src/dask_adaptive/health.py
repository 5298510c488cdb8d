"""How a pool is doing: failures in a row, and how long it rests because of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from dask_adaptive.backoff import backoff_s
from dask_adaptive.phrases import count

__all__ = ["BROKEN_AFTER", "Health"]

BROKEN_AFTER = 3
"""After how many failures in a row a pool is tried with one job at a time."""

LONGEST_REST_S = 300.0
LONGEST_WAIT_S = 60.0


@dataclass(slots=True)
class Health:
    """Batches of a pool that failed since the last success, and until when the pool rests.

    ``full`` is how often in a row the manager took less than it was asked for: a limit, and no failure.
    """

    failed: set[str] = field(default_factory=set)
    full: int = 0
    reason: str = ""
    retry_s: float = 0.0

    def fail(self, tag: str, reason: str, now_s: float, rest_s: float | None = None) -> None:
        """One more batch failed; more jobs of the same batch do not count again."""
        self.reason = reason
        if tag not in self.failed:
            self.failed.add(tag)
            self.retry_s = now_s + (backoff_s(len(self.failed), LONGEST_REST_S) if rest_s is None else rest_s)

    def wait(self, reason: str, now_s: float) -> None:
        """The manager took less than it was asked for: the rest is asked for later."""
        self.full += 1
        self.reason = reason
        self.retry_s = max(self.retry_s, now_s + backoff_s(self.full, LONGEST_WAIT_S))

    def word(self, now_s: float, trying: bool) -> str:
        """Why the pool takes no more jobs now, else "". ``trying``: a job of it is on its way."""
        failures = len(self.failed)
        times = f"{count(failures, 'failure')} in a row; the last: {self.reason}" if failures else self.reason
        if now_s < self.retry_s:
            return times
        if failures >= BROKEN_AFTER and trying:
            return f"{times}; waiting for one job to serve before more are asked for"
        return ""
