"""A resource manager in memory: exact about the truth, as late and as faulty in what it tells as a test wants.

Every job is a list of timed entries. What is true now is the newest entry that is not in the future; what ``jobs``
tells is the same question asked ``late_s`` seconds ago. So a list that lags, and one that goes back in time (raise
``late_s`` between two calls), follow from the clock alone.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from dask_adaptive.backend.contracts import Wake
from dask_adaptive.errors import BackendError, NoCapacity, Rejected
from dask_adaptive.model import Batch, Job, JobId, JobState

ALIVE = (JobState.QUEUED, JobState.RUNNING, JobState.ENDING)


@dataclass(frozen=True)
class After:
    """A scripted error that comes after the call had its effect: the answer was lost, the jobs are there."""

    error: BackendError


@dataclass(frozen=True)
class Partly:
    """A scripted submit that takes only the first ``count`` jobs of the batch and says so."""

    count: int


Scripted = BackendError | After | Partly | None


@dataclass(frozen=True)
class Entry:
    """What became of a job at one moment; ``state=None``: it is no longer listed."""

    at_s: float
    state: JobState | None
    reason: str = ""
    exit_code: int | None = None


@dataclass
class Made:
    """One job that was submitted, with all that happened (or will happen) to it."""

    id: JobId
    name: str
    cluster: str
    pool: str
    batch: Batch
    entries: list[Entry] = field(default_factory=list)

    def at(self, now_s: float) -> Entry | None:
        past = [entry for entry in self.entries if entry.at_s <= now_s]
        return past[-1] if past else None

    def add(self, entry: Entry) -> None:
        """From this entry's time on, only it is true: what was scheduled for later does not happen."""
        self.entries = [old for old in self.entries if old.at_s <= entry.at_s] + [entry]


class MemoryBackend:
    """A ``Backend`` whose manager lives in this object.

    Parameters
    ----------
    clock:
        Tells the time in seconds; nothing here moves unless it does.
    lag_s:
        What the backend *says* about its list. The list really is ``late_s`` behind (at first the same).
    queue_s:
        Seconds in the queue before a job runs by itself; ``math.inf``: only ``run`` starts it.
    end_s:
        Seconds that a cancelled running job takes to end; ``math.inf``: only ``end`` ends it.
    capacity:
        How many jobs may be alive at once; a batch that goes beyond is taken in part, or refused with ``NoCapacity``.

    Attributes
    ----------
    submit_errors, jobs_errors, cancel_errors, log_errors:
        What the next calls do instead of succeeding, first come first served; None in a queue lets one call through.
    calls:
        How often each method was called. ``batches`` and ``cancels`` keep what was asked.
    gates:
        Method name to event: the call waits there until the event is set (a slow manager).
    """

    name = "memory"

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        lag_s: float = 0.0,
        queue_s: float = 0.0,
        end_s: float = 0.0,
        capacity: int | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.clock = clock
        self.lag_s = lag_s
        self.late_s = lag_s
        self.queue_s = queue_s
        self.end_s = end_s
        self.capacity = capacity
        self.timeout_s = timeout_s
        self.closed = False
        self.calls: Counter[str] = Counter()
        self.batches: list[Batch] = []
        self.cancels: list[tuple[JobId, ...]] = []
        self.logs: dict[JobId, str] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.submit_errors: deque[Scripted] = deque()
        self.jobs_errors: deque[Scripted] = deque()
        self.cancel_errors: deque[Scripted] = deque()
        self.log_errors: deque[Scripted] = deque()
        self.made: dict[JobId, Made] = {}
        self._numbers = itertools.count(1)
        self._wakes: list[Wake] = []

    # --- the contract ---

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        if self.closed:
            raise Rejected("this backend is closed")
        scripted = await self._called("submit", self.submit_errors)
        self.batches.append(batch)
        room = math.inf if self.capacity is None else self.capacity - len(self.alive())
        if room <= 0 < batch.count:
            raise NoCapacity(f"all {self.capacity} places are taken")
        count = scripted.count if isinstance(scripted, Partly) else batch.count
        ids = [self._make(batch, name) for name in batch.names[: int(min(count, room))]]
        if isinstance(scripted, After):
            raise scripted.error
        return ids

    async def jobs(self, cluster: str) -> Sequence[Job]:
        await self._called("jobs", self.jobs_errors)
        return list(self._listed(cluster, self.clock() - self.late_s))

    async def cancel(self, ids: Collection[JobId]) -> None:
        scripted = await self._called("cancel", self.cancel_errors)
        self.cancels.append(tuple(ids))
        for made in [self.made[each] for each in ids if each in self.made]:
            self._cancel(made)
        if isinstance(scripted, After):
            raise scripted.error

    async def log(self, id: JobId) -> str:
        await self._called("log", self.log_errors)
        return self.logs.get(id, "")

    async def aclose(self) -> None:
        self.closed = True

    def watch(self, wake: Wake) -> None:
        self._wakes.append(wake)

    # --- what a test does to it ---

    def alive(self, cluster: str | None = None) -> tuple[str, ...]:
        """Names of the jobs that truly hold a place now, whatever the list says."""
        now_s = self.clock()
        entries = [(made, made.at(now_s)) for made in self.made.values() if cluster in (None, made.cluster)]
        return tuple(made.name for made, entry in entries if entry and entry.state in ALIVE)

    def run(self, name: str, reason: str = "") -> None:
        """The job starts now."""
        self._put(name, JobState.RUNNING, reason)

    def requeue(self, name: str, reason: str = "") -> None:
        """The job goes back into the queue (preempted) until ``run``."""
        self._put(name, JobState.QUEUED, reason)

    def end(self, name: str, exit_code: int | None = 0, reason: str = "") -> None:
        """The job ends now."""
        self._put(name, JobState.ENDED, reason, exit_code)

    def vanish(self, name: str) -> None:
        """The job is gone and the manager has forgotten it."""
        self._put(name, None)

    def id_of(self, name: str) -> JobId:
        """The id of the newest job of this name."""
        return next(made.id for made in reversed(self.made.values()) if made.name == name)

    def foreign(self, batch: Batch) -> list[JobId]:
        """Jobs that appear without a call of ours: duplicates, or those of an owner before us."""
        return [self._make(batch, name) for name in batch.names]

    # --- inside ---

    async def _called(self, method: str, errors: deque[Scripted]) -> Scripted:
        self.calls[method] += 1
        if method in self.gates:
            await self.gates[method].wait()
        scripted = errors.popleft() if errors else None
        if isinstance(scripted, BackendError):
            raise scripted
        return scripted

    def _make(self, batch: Batch, name: str) -> JobId:
        now_s = self.clock()
        number = JobId(f"m{next(self._numbers)}")
        first = Entry(now_s, JobState.QUEUED, "waiting in memory")
        made = Made(number, name, batch.cluster, batch.pool, batch, [first])
        if self.queue_s < math.inf:
            made.entries.append(Entry(now_s + self.queue_s, JobState.RUNNING))
        self.made[number] = made
        return number

    def _cancel(self, made: Made) -> None:
        now_s = self.clock()
        entry = made.at(now_s)
        if entry is None or entry.state not in (JobState.QUEUED, JobState.RUNNING):
            return
        wait_s = self.end_s if entry.state is JobState.RUNNING else 0.0
        made.add(Entry(now_s, JobState.ENDING, "cancelled"))
        if wait_s < math.inf:
            made.entries.append(Entry(now_s + wait_s, JobState.ENDED, "cancelled", 0))

    def _put(self, name: str, state: JobState | None, reason: str = "", exit_code: int | None = None) -> None:
        self.made[self.id_of(name)].add(Entry(self.clock(), state, reason, exit_code))
        for wake in self._wakes:
            wake(f"{name} {state.value if state else 'vanished'}")

    def _listed(self, cluster: str, at_s: float) -> Iterator[Job]:
        for made in self.made.values():
            entry = made.at(at_s)
            if made.cluster == cluster and entry is not None and entry.state is not None:
                yield Job(made.id, made.name, entry.state, entry.reason, entry.exit_code)
