"""What is known of the jobs of a batch system, from our own submits and cancels and from its lists. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dask_adaptive.model import Job, JobId, JobState

__all__ = ["Known", "Seen"]

KEEP_S = 3600.0
KEEP = 2000
"""How long, and how many jobs that are over are remembered, for their logs and reasons."""

RECALL_S = 30.0
"""How long it is tried to learn how a job ended that left the list: some systems write that down late."""

_READING = (JobState.QUEUED, JobState.RUNNING)


@dataclass(slots=True)
class Seen:
    """A job that was submitted here or listed.

    ``submitted_s`` and ``told_s`` are when our submit and our cancel were answered, ``missing_s`` since when complete
    lists do not show it, ``ended_s`` since when it is known to have ended; 0: it did not happen.
    """

    job: Job
    listed: bool = False
    submitted_s: float = 0.0
    told_s: float = 0.0
    missing_s: float = 0.0
    ended_s: float = 0.0

    @property
    def shown(self) -> bool:
        """Whether it belongs into our list: what is missing, or was only submitted so far, does not."""
        return bool(self.ended_s) or (self.listed and not self.missing_s)

    @property
    def reads(self) -> bool:
        """Whether it was submitted here and may yet read its private files."""
        return bool(self.submitted_s) and not (self.missing_s or self.told_s) and self.job.state in _READING

    def end(self, reason: str, exit_code: int | None, now_s: float) -> None:
        """It has ended, so much is known."""
        self.ended_s, self.missing_s = self.ended_s or now_s, 0.0
        reason = reason or (f"exit code {exit_code}" if exit_code else "")
        self.job = replace(self.job, state=JobState.ENDED, reason=reason, exit_code=exit_code)


class Known:
    """Every job that is known. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[JobId, Seen] = {}

    def submitted(self, ids: Sequence[JobId], names: Sequence[str], now_s: float) -> None:
        """Our submit was answered with these ids."""
        for job_id, name in zip(ids, names, strict=False):
            self._seen.setdefault(job_id, Seen(Job(job_id, name, JobState.QUEUED))).submitted_s = now_s

    def told(self, ids: Iterable[JobId], now_s: float) -> None:
        """Our cancel was answered."""
        for job_id in ids:
            self._seen[job_id].told_s = now_s

    def listed(self, cluster: str, jobs: Iterable[Job], asked_s: float, lag_s: float) -> bool:
        """Compare a complete list with what was known; whether anything moved.

        ``asked_s`` is when it was asked for, ``lag_s`` how far it may run behind.
        """
        found = {job.id: job for job in jobs if job.name.startswith(cluster)}
        moved = [self._take(job, asked_s) for job in found.values()]
        for job_id, seen in self._of(cluster).items():
            if job_id in found or seen.ended_s or seen.submitted_s >= asked_s:
                continue
            moved.append(not seen.missing_s)
            seen.missing_s = seen.missing_s or asked_s
            if seen.told_s and asked_s - seen.told_s >= lag_s:
                seen.end("cancelled", None, asked_s)
        self._forget(asked_s)
        return any(moved)

    def _take(self, job: Job, now_s: float) -> bool:
        seen = self._seen.setdefault(job.id, Seen(job))
        moved = not seen.listed or seen.job.state is not job.state
        seen.job, seen.listed, seen.missing_s = job, True, 0.0
        if job.state is JobState.ENDED:
            seen.end(job.reason, job.exit_code, now_s)
        else:
            seen.ended_s = 0.0  # it was started again
        return moved

    def recalled(self, jobs: Iterable[Job], now_s: float) -> None:
        """How jobs ended that left the list."""
        for job in jobs:
            if job.id in self._seen:
                self._seen[job.id].end(job.reason, job.exit_code, now_s)

    def _forget(self, now_s: float) -> None:
        """Forget, oldest first, what is over too long or is too much."""
        over = sorted(
            (since_s, each) for each, seen in self._seen.items() if (since_s := seen.ended_s or seen.missing_s)
        )
        for place, (since_s, job_id) in enumerate(over):
            if since_s < now_s - KEEP_S or place < len(over) - KEEP:
                del self._seen[job_id]

    # --- asking ---

    def _of(self, cluster: str) -> Mapping[JobId, Seen]:
        return {job_id: seen for job_id, seen in self._seen.items() if seen.job.name.startswith(cluster)}

    def jobs(self, cluster: str) -> list[Job]:
        """The jobs of a cluster as its list has them."""
        return [seen.job for seen in self._of(cluster).values() if seen.shown]

    def missing(self, cluster: str, now_s: float) -> list[JobId]:
        """Those that left the list a short time ago, and of which nothing else is known."""
        return [job_id for job_id, seen in self._of(cluster).items() if seen.missing_s > max(0.0, now_s - RECALL_S)]

    def living(self, ids: Iterable[JobId]) -> list[JobId]:
        """Those among these ids that are known and have not ended, each once."""
        return [each for each in dict.fromkeys(ids) if each in self._seen and not self._seen[each].ended_s]

    def over(self, id: JobId) -> bool:
        """Whether a job has ended, or is forgotten."""
        return id not in self._seen or bool(self._seen[id].ended_s)

    def name(self, id: JobId) -> str | None:
        """The name of a job, if it is known."""
        seen = self._seen.get(id)
        return seen.job.name if seen else None

    @property
    def waiting(self) -> int:
        """How many of our jobs wait in the queue."""
        return sum(seen.job.state is JobState.QUEUED and not seen.missing_s for seen in self._seen.values())

    @property
    def reading(self) -> bool:
        """Whether a job lives that may yet read its private files."""
        return any(seen.reads for seen in self._seen.values())
