"""The Dask side of the made-up world: says of the made-up scheduler what the real engine would say of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dask_adaptive.model import Capacity, Group, IdleJob, Load, Member
from dask_adaptive.sim.nouns import Crowd, Worker
from dask_adaptive.sim.scheduler import Scheduler
from dask_adaptive.sim.timeline import Timeline

__all__ = ["LONGEST_S", "SimEngine"]

TICK_S = 0.05
"""How often the real engine looks for new demand while anything happens."""

LONGEST_S = 60.0
"""The longest time between two rounds while nothing happens."""


@dataclass(slots=True)
class _Row:
    """A capacity while it is added up."""

    workers: int = 0
    threads: int = 0
    memory_bytes: int = 0
    held_bytes: int = 0
    busy: int = 0

    def capacity(self) -> Capacity:
        return Capacity(
            self.workers,
            self.threads,
            self.memory_bytes,
            self.held_bytes,
            self.held_bytes,
            self.busy,
            self.workers - self.busy,
        )


class SimEngine:
    """An ``Engine`` over a made-up scheduler.

    It pushes what the real one pushes, and rounds ``interval_s`` apart while tasks begin and end, as the controller's
    own interval would. While nothing happens they come ever more rarely, each gap half as long again as the one
    before: what depends on time alone is then seen late by half of the time that it has lasted, at most.

    Parameters
    ----------
    scheduler, timeline:
        The world.
    closed:
        Called with the name of a job whose workers closed after a drain.
    interval_s:
        Seconds between two rounds while something happens.

    Attributes
    ----------
    most_threads:
        Most threads that were registered at once.
    series:
        For every look, and every tick that something had changed at: the time, tasks that could run or ran, threads.
    """

    def __init__(
        self, scheduler: Scheduler, timeline: Timeline, *, closed: Callable[[str], None], interval_s: float = 1.0
    ) -> None:
        self.interval_s = interval_s
        self.most_threads = 0
        self.series: list[tuple[float, int, int]] = []
        self._scheduler, self._timeline, self._closed = scheduler, timeline, closed
        self._wake: Callable[[str], None] = lambda _: None
        self._jobs: dict[str, list[Worker]] = {}
        self._members: Mapping[str, tuple[Member, ...]] | None = {}
        self._resting: dict[Worker, asyncio.Event] = {}
        self._seen = self._ticked = self._pulses = 0
        self._gap_s = interval_s
        self._waiting = 0
        self._active = self._ended = self._ticking = False
        scheduler.told = self._tell
        scheduler.rested = self._rested

    # --- workers ---

    def join(self, workers: Sequence[Worker]) -> None:
        """The workers of a job register."""
        self._jobs[workers[0].job] = list(workers)
        self._members = None
        for worker in workers:
            self._scheduler.join(worker)
        self.most_threads = max(self.most_threads, self._scheduler.threads)

    def leave(self, job: str) -> None:
        """The workers of a job are gone, with all that they ran and held."""
        self._members = None
        for worker in self._jobs.pop(job, ()):
            self._rested(worker)
            self._scheduler.leave(worker)

    # --- the contract ---

    async def look(self) -> Load:
        """See ``Engine``."""
        scheduler = self._scheduler
        changed, self._seen = scheduler.moves != self._seen, scheduler.moves
        self._gap_s = self.interval_s if changed else min(1.5 * self._gap_s, LONGEST_S)
        self._pulses += 1
        self._timeline.after(self._gap_s, self._pulse, self._pulses)
        self._waiting = self._waiting_for_threads()
        self.series.append((self._timeline.now_s, self._waiting + scheduler.threads, scheduler.threads))
        if self._members is None:
            self._members = {
                job: tuple([Member(worker.address, worker.name) for worker in workers])
                for job, workers in self._jobs.items()
            }
        shown = [crowd for crowd in scheduler.crowds.values() if crowd.ready or crowd.waiting or crowd.held_bytes]
        groups = tuple([self._group(crowd) for crowd in shown])
        return Load(self._timeline.now_s, groups, self._members, tuple(self._idle()), self._capacities())

    async def declare(self, tags: Mapping[str, str]) -> None:
        """See ``Engine``; made-up workers know their pool."""

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, *, busy: bool = False) -> Mapping[str, str]:
        """See ``Engine``."""
        refused = {job: self._mark(job, busy) for job in jobs}
        marked = [job for job, refusal in refused.items() if not refusal]
        answers = await asyncio.gather(*(self._drain(job, wait_s) for job in marked))
        return {**refused, **dict(zip(marked, answers, strict=True))}

    def watch(self, wake: Callable[[str], None]) -> None:
        """See ``Engine``."""
        self._wake = wake

    async def aclose(self) -> None:
        """See ``Engine``; also ends what goes on in the background of the made-up world."""
        self._ended = True

    # --- pushes ---

    def _tell(self, word: str) -> None:
        self._wake(word)
        if not self._ticking:
            self._ticking = True
            self._timeline.after(TICK_S, self._tick)

    def _pulse(self, number: int) -> None:
        if number == self._pulses and not self._ended:
            self._wake("interval")

    def _tick(self) -> None:
        """What the real engine does every 50 ms; not needed again while no task runs and nothing is told."""
        scheduler = self._scheduler
        moved, self._ticked = scheduler.moves != self._ticked, scheduler.moves
        self._ticking = bool(scheduler.busy_threads) and not self._ended
        if self._ticking:
            self._timeline.after(TICK_S, self._tick)
        if not moved or self._ended:
            return
        if self._gap_s > self.interval_s:  # something happens again: the next round is no longer far away
            self._gap_s = self.interval_s
            self._pulses += 1
            self._timeline.after(self.interval_s, self._pulse, self._pulses)
        waiting = self._waiting_for_threads()
        self.series.append((self._timeline.now_s, waiting + scheduler.threads, scheduler.threads))
        if waiting > 2 * max(self._waiting, 0):
            self._waiting = waiting
            self._wake("demand")
        active = waiting + scheduler.threads > 0
        if self._active and not active:
            self._wake("quiet")
        self._active = active

    def _waiting_for_threads(self) -> int:
        """Tasks that could run, beyond the threads there are."""
        return sum([crowd.ready for crowd in self._scheduler.crowds.values()]) - self._scheduler.threads

    # --- what there is ---

    def _group(self, crowd: Crowd) -> Group:
        """A row; the first task in ``running`` is the oldest but for those that still fetch their inputs."""
        pending = crowd.ready or crowd.waiting
        mean_s, spread_s = self._scheduler.durations.of(crowd.prefix) if pending else (None, None)
        began_s = next(iter(crowd.running.values()), self._timeline.now_s)
        return Group(
            name=crowd.name,
            prefix=crowd.prefix.name,
            ready=crowd.ready,
            running=len(crowd.running),
            waiting=crowd.waiting,
            done=crowd.done,
            unrunnable=crowd.ready if crowd.need and crowd.ready and not self._scheduler.capable(crowd.need) else 0,
            mean_s=mean_s,
            spread_s=spread_s,
            oldest_s=max(0.0, self._timeline.now_s - began_s),
            need=crowd.need,
            after=tuple([other.name for other in crowd.after]) if pending else (),
            held_bytes=crowd.held_bytes,
        )

    def _idle(self) -> list[IdleJob]:
        idle = []
        for job, workers in self._jobs.items():
            if not any(worker.running or worker.backlog or worker.marked for worker in workers):
                held = sum([worker.held_bytes for worker in workers])
                idle.append(IdleJob(job, max([worker.idle_s for worker in workers]), held, held))
        return idle

    def _capacities(self) -> dict[str, Capacity]:
        rows: dict[str, _Row] = {}
        for worker in self._scheduler.workers.values():
            row = rows.get(worker.pool)
            if row is None:
                row = rows[worker.pool] = _Row()
            row.workers += 1
            row.held_bytes += worker.held_bytes
            row.memory_bytes += worker.shape.memory_bytes
            if not worker.marked:
                row.threads += worker.shape.threads
            if worker.running or worker.backlog:
                row.busy += 1
        return {pool: row.capacity() for pool, row in rows.items()}

    # --- drains ---

    def _mark(self, job: str, busy: bool) -> str:
        workers = self._jobs.get(job, [])
        if not busy and any(worker.busy for worker in workers):
            return "it has work"
        for worker in workers:
            self._scheduler.mark(worker)
        return ""

    async def _drain(self, job: str, wait_s: float) -> str:
        workers = self._jobs.get(job)
        if workers is None:
            return ""
        refusal = await self._rest(workers, wait_s) or await self._hand_over(workers)
        if self._jobs.get(job) is not workers:  # lost meanwhile
            return ""
        if refusal:
            for worker in workers:
                self._scheduler.unmark(worker)
            return refusal
        self.leave(job)
        self._closed(job)
        return ""

    async def _rest(self, workers: Sequence[Worker], wait_s: float) -> str:
        end_s = self._timeline.now_s + wait_s
        for worker in workers:
            while worker.running and not worker.gone:
                rested = self._resting.setdefault(worker, asyncio.Event())
                try:
                    await asyncio.wait_for(rested.wait(), max(0.0, end_s - self._timeline.now_s))
                except asyncio.TimeoutError:
                    return f"it still runs {len(worker.running)} tasks"
        return ""

    def _rested(self, worker: Worker) -> None:
        event = self._resting.pop(worker, None)
        if event is not None:
            event.set()

    async def _hand_over(self, workers: Sequence[Worker]) -> str:
        """Results go to the worker that holds least; while they travel they are still where they were."""
        costs = self._scheduler.costs
        for worker in workers:
            if worker.held_bytes:
                await asyncio.sleep(costs.latency_s + worker.held_bytes / costs.bytes_per_s)
            if worker.holds and not worker.gone:
                others = [other for other in self._scheduler.workers.values() if not other.marked]
                if not others:
                    return f"nobody is left to take its {worker.held_bytes} bytes of results"
                self._scheduler.move(worker, min(others, key=lambda other: other.held_bytes))
        return ""
