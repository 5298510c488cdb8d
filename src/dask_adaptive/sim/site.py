"""Resource managers that do not exist: how long they take, what they refuse, and how late they tell.

The i-th job of a world draws the same latencies whatever the policy, so that policies are compared in pairs.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dask_adaptive.backend.contracts import Wake
from dask_adaptive.errors import Ambiguous, Unavailable
from dask_adaptive.model import Batch, Job, JobId, JobState
from dask_adaptive.sim.bound import Start
from dask_adaptive.sim.timeline import START_S, Timeline

__all__ = ["SITES", "Bimodal", "Constant", "Latency", "LogNormal", "Site", "SiteBackend"]

REMEMBERED_S = 60.0
"""How long an ended job stays in the list."""


class Latency(Protocol):
    """A distribution of seconds."""

    def draw(self, rng: random.Random) -> float:
        """One of them."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    seconds: float

    def draw(self, rng: random.Random) -> float:  # noqa: ARG002
        """See ``Latency``."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class LogNormal:
    """``median_s`` in the middle; ``sigma`` is the standard deviation of the logarithm."""

    median_s: float
    sigma: float

    def draw(self, rng: random.Random) -> float:
        """See ``Latency``."""
        return self.median_s * rng.lognormvariate(0.0, self.sigma)


@dataclass(frozen=True, slots=True)
class Bimodal:
    """``short_s``, or ``long_s`` with the chance ``long``."""

    short_s: float
    long_s: float
    long: float = 0.5

    def draw(self, rng: random.Random) -> float:
        """See ``Latency``."""
        return self.long_s if rng.random() < self.long else self.short_s


@dataclass(frozen=True, slots=True)
class Site:
    """How a resource manager behaves.

    ``queue``: seconds from submit until a job runs, which nobody pays; ``start``: from then until its workers
    register, which are billed; ``end_s``: from the order to end until it has ended. ``capacity``: jobs that run at the
    same time (None: any number); the others queue, first come first served. ``missing``: chance that a job never
    leaves the queue; ``mute``: that it runs and no worker ever registers. ``life_s``: mean time after which a running
    job is preempted, at random. ``lag_s``: how far its list is behind; ``wandering``: each list is behind by some part
    of that, so one may be older than the one before. ``failing``: chance that a call fails before it does anything;
    ``hanging``: that it does so only after ``timeout_s``; ``unsure``: that a submit happened although the call failed;
    ``partial``: that only a part of a batch is taken. ``pushing``: it tells when a job changed. ``heals_s``: after so
    many seconds nothing of this goes wrong any more.
    """

    name: str
    queue: Latency = field(default_factory=lambda: Constant(0.0))
    start: Latency = field(default_factory=lambda: Constant(1.0))
    end_s: float = 0.0
    capacity: int | None = None
    missing: float = 0.0
    mute: float = 0.0
    life_s: float = math.inf
    lag_s: float = 0.0
    wandering: bool = False
    failing: float = 0.0
    hanging: float = 0.0
    unsure: float = 0.0
    partial: float = 0.0
    timeout_s: float = 10.0
    pushing: bool = True
    heals_s: float = math.inf


SITES: Mapping[str, Site] = {
    site.name: site
    for site in (
        Site("local", start=Constant(1.0)),
        Site("pods", start=Constant(15.0), end_s=1.0),
        Site("cloud", start=Constant(60.0), end_s=1.0),
        Site("queue", queue=LogNormal(120.0, 1.0), start=Constant(1.0), lag_s=2.0),
        Site("bimodal", queue=Bimodal(5.0, 3600.0), start=Constant(1.0), lag_s=2.0),
        Site("limited", start=Constant(15.0), capacity=10),
        Site("missing", start=Constant(15.0), missing=0.1),
        Site("preempting", start=Constant(15.0), life_s=600.0),
    )
}
"""Resource managers by name."""


@dataclass(slots=True)
class _Made:
    """One job: what became of it and when, and what it drew."""

    id: JobId
    name: str
    batch: Batch
    queue_s: float
    start_s: float
    mute: bool
    life_s: float
    news: list[tuple[float, JobState, str]]
    running_s: float = math.nan
    ended_s: float = math.nan
    served: bool = False

    @property
    def state(self) -> JobState:
        return self.news[-1][1]

    def at(self, when_s: float) -> tuple[float, JobState, str] | None:
        for news in reversed(self.news):
            if news[0] <= when_s:
                return news
        return None


class SiteBackend:
    """A ``Backend`` over a ``Site``.

    Parameters
    ----------
    site, timeline, seed:
        How it behaves, when, and which draws.
    join, leave:
        Called with the batch and the name of a job when its workers register, and when they are gone at once.

    Attributes
    ----------
    starts, cancelled, most_alive:
        Jobs that ran; that were told to end before their workers registered; most that were alive at once.
    """

    def __init__(
        self,
        site: Site,
        timeline: Timeline,
        seed: int,
        *,
        join: Callable[[Batch, str], None],
        leave: Callable[[str], None],
    ) -> None:
        self.site, self.name, self.lag_s, self.timeout_s = site, site.name, site.lag_s, site.timeout_s
        self.starts = self.cancelled = self.most_alive = 0
        self._timeline, self._seed, self._join, self._leave = timeline, seed, join, leave
        self._faults = random.Random(f"{seed} faults")  # noqa: S311
        self._made: dict[JobId, _Made] = {}
        self._by_name: dict[str, _Made] = {}
        self._line: deque[_Made] = deque()
        self._running = 0
        self._number = 0
        self._billed_s = 0.0
        self._fastest: tuple[float, float] = (math.inf, math.inf)
        self._wakes: list[Wake] = []

    # --- the contract ---

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        """See ``Backend``."""
        await self._called()
        names = batch.names
        if self._chance() < self.site.partial:
            names = names[: self._faults.randint(1, len(names))]
        made = [self._make(batch, name) for name in names]
        for each in made:
            self._timeline.after(each.queue_s, self._turn, each)
        if self._chance() < self.site.unsure:
            raise Ambiguous("the answer was lost")
        return [each.id for each in made]

    async def jobs(self, cluster: str) -> Sequence[Job]:
        """See ``Backend``."""
        await self._called()
        late_s = self._faults.uniform(0.0, self.lag_s) if self.site.wandering and not self._healed else self.lag_s
        return list(self._listed(cluster, self._timeline.now_s - late_s))

    async def cancel(self, ids: Collection[JobId]) -> None:
        """See ``Backend``."""
        await self._called()
        for each in ids:
            made = self._made.get(each)
            if made is not None and made.state in (JobState.QUEUED, JobState.RUNNING):
                self.cancelled += not made.served
                self._put(made, JobState.ENDING, "cancelled")
                self._leave(made.name)
                self._timeline.after(self.site.end_s, self._end, made, "cancelled")

    async def log(self, id: JobId) -> str:  # noqa: ARG002
        """See ``Backend``: made-up jobs print nothing."""
        return ""

    async def aclose(self) -> None:
        """See ``Backend``."""

    def watch(self, wake: Wake) -> None:
        """See ``Pushing``."""
        if self.site.pushing:
            self._wakes.append(wake)

    # --- what happens ---

    def closed(self, name: str) -> None:
        """The workers of this job closed by themselves: it ends."""
        self._timeline.after(self.site.end_s, self._end, self._by_name[name], "its workers closed")

    @property
    def alive(self) -> int:
        """Jobs that hold a place now, in the queue or running."""
        return len(self._by_name)

    @property
    def fastest(self) -> Start:
        """The smallest latencies that were drawn by jobs that could have served."""
        queue_s, start_s = self._fastest
        return Start(queue_s, start_s) if start_s < math.inf else Start()

    def billed_s(self) -> float:
        """Worker-seconds billed until now."""
        running = (made for made in self._by_name.values() if made.running_s == made.running_s)
        now_s = self._timeline.now_s
        return self._billed_s + math.fsum((now_s - made.running_s) * made.batch.spec.shape.workers for made in running)

    async def _called(self) -> None:
        chance = self._chance()
        if chance < self.site.hanging:
            await asyncio.sleep(self.timeout_s)
            raise Unavailable(f"no answer within {self.timeout_s:g} s")
        if chance < self.site.hanging + self.site.failing:
            raise Unavailable("the manager does not answer")

    @property
    def _healed(self) -> bool:
        return not self._until_healed_s

    @property
    def _until_healed_s(self) -> float:
        return max(0.0, START_S + self.site.heals_s - self._timeline.now_s)

    def _chance(self) -> float:
        """A number to be compared with the chance that something goes wrong; drawn only where anything may."""
        site = self.site
        faulty = site.failing or site.hanging or site.unsure or site.partial
        return self._faults.random() if faulty and not self._healed else 1.0

    def _make(self, batch: Batch, name: str) -> _Made:
        self._number += 1
        rng, site = random.Random(f"{self._seed} job {self._number}"), self.site  # noqa: S311
        queue_s, start_s = site.queue.draw(rng), site.start.draw(rng)
        missing, mute = rng.random() < site.missing, rng.random() < site.mute
        if self._healed:
            missing = mute = False
        life_s = rng.expovariate(1.0) * site.life_s if site.life_s < math.inf else math.inf
        if not (missing or mute):
            self._fastest = (min(self._fastest[0], queue_s), min(self._fastest[1], start_s))
        made = _Made(
            id=JobId(f"s{self._number}"),
            name=name,
            batch=batch,
            queue_s=self._until_healed_s + queue_s if missing else queue_s,
            start_s=start_s,
            mute=mute,
            life_s=life_s,
            news=[(self._timeline.now_s, JobState.QUEUED, "")],
        )
        self._made[made.id] = self._by_name[name] = made
        self.most_alive = max(self.most_alive, len(self._by_name))
        return made

    def _turn(self, made: _Made) -> None:
        """It would run now, if there is room."""
        if made.state is JobState.QUEUED:
            self._line.append(made)
            self._run_next()

    def _run_next(self) -> None:
        capacity = math.inf if self.site.capacity is None else self.site.capacity
        while self._line and self._running < capacity:
            made = self._line.popleft()
            if made.state is JobState.QUEUED:
                self._running += 1
                self.starts += 1
                made.running_s = self._timeline.now_s
                self._put(made, JobState.RUNNING, "")
                self._timeline.after(math.inf if made.mute else made.start_s, self._serve, made)
                self._timeline.after(made.life_s, self._preempt, made)

    def _serve(self, made: _Made) -> None:
        if made.state is JobState.RUNNING:
            made.served = True
            self._join(made.batch, made.name)

    def _preempt(self, made: _Made) -> None:
        if made.state is JobState.RUNNING and not self._healed:
            self._leave(made.name)
            self._end(made, "preempted")

    def _end(self, made: _Made, reason: str) -> None:
        if made.state is JobState.ENDED:
            return
        self._put(made, JobState.ENDED, reason)
        made.ended_s = self._timeline.now_s
        del self._by_name[made.name]
        if made.running_s == made.running_s:
            self._billed_s += (made.ended_s - made.running_s) * made.batch.spec.shape.workers
            self._running -= 1
            self._run_next()
        self._timeline.after(REMEMBERED_S + self.lag_s, self._made.pop, made.id, None)

    def _put(self, made: _Made, state: JobState, reason: str) -> None:
        made.news.append((self._timeline.now_s, state, reason))
        for wake in self._wakes:
            self._timeline.after(self.lag_s, wake, f"job {made.name} is {state.value}")

    def _listed(self, cluster: str, at_s: float) -> Iterator[Job]:
        for made in self._made.values():
            news = made.at(at_s)
            if news is not None and made.batch.cluster == cluster:
                yield Job(made.id, made.name, news[1], news[2])
