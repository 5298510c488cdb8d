"""A made-up world around the real controller: a clock, a resource manager in memory, a scheduler of a few numbers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.fakes.memory import MemoryBackend

from dask_adaptive.controller import Controller
from dask_adaptive.jobs import Jobs, PoolSetup
from dask_adaptive.model import (
    Capacity,
    Group,
    IdleJob,
    JobState,
    Limits,
    Load,
    Member,
    Pool,
    Record,
    Shape,
    Spec,
    Timeouts,
)
from dask_adaptive.policy.contracts import Policy

TIMEOUTS = Timeouts(start_s=60.0, lost_s=20.0, drain_s=60.0, end_s=10.0, unknown_s=60.0)


@dataclass
class Clock:
    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class StubEngine:
    """The Dask side of the made-up world: every running job registers; ``ready`` tasks of ``mean_s`` seconds wait."""

    def __init__(self, clock: Clock, backend: MemoryBackend, start_s: float = 0.0) -> None:
        self.clock, self.backend, self.start_s = clock, backend, start_s
        self.ready = 0
        self.mean_s = 1.0
        self.busy: set[str] = set()
        self.mute: set[str] = set()
        self.lost = False
        self.drained: list[str] = []
        self.declared: dict[str, str] = {}
        self._members: Mapping[str, tuple[Member, ...]] = {}
        self._wake: Callable[[str], None] = lambda _: None

    def registered(self) -> list[str]:
        now_s = self.clock()
        names = []
        for made in self.backend.made.values():
            entry = made.at(now_s)
            running = entry is not None and entry.state is JobState.RUNNING and now_s - entry.at_s >= self.start_s
            if running and made.name not in self.mute:
                names.append(made.name)
        return sorted(set(names))

    async def look(self) -> Load:
        from dask_adaptive.errors import EngineError

        if self.lost:
            raise EngineError("connection refused")
        names = self.registered()
        if list(self._members) != names:
            self._members = {name: (Member(f"tcp://{name}", f"{name}-0-0"),) for name in names}
        self.busy = set(names[: self.ready])
        idle = tuple(IdleJob(name, self.clock()) for name in names if name not in self.busy)
        group = Group("work", "work", ready=self.ready, running=len(self.busy), mean_s=self.mean_s, spread_s=0.0)
        capacity = Capacity(workers=len(names), threads=len(names), busy=len(self.busy), idle=len(idle))
        groups = (group,) if self.ready else ()
        return Load(self.clock(), groups, self._members, idle, {"default": capacity})

    async def declare(self, tags: Mapping[str, str]) -> None:
        self.declared.update(tags)

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, *, busy: bool = False) -> Mapping[str, str]:
        answers = {}
        for name in jobs:
            if name in self.busy and not busy:
                answers[name] = "it is busy"
            else:
                answers[name] = ""
                self.drained.append(name)
                self.backend.end(name, 0)
        return answers

    def watch(self, wake: Callable[[str], None]) -> None:
        self._wake = wake

    async def aclose(self) -> None:
        pass


@dataclass
class World:
    """The real controller over a made-up world. ``most`` is the largest number of jobs that were ever alive."""

    policy: Policy
    limits: Limits
    lag_s: float = 0.0
    queue_s: float = 0.0
    start_s: float = 0.0
    poll_s: float = 1.0
    clock: Clock = field(default_factory=Clock)
    most: int = 0
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = MemoryBackend(self.clock, lag_s=self.lag_s, queue_s=self.queue_s)
        self.engine = StubEngine(self.clock, self.backend, self.start_s)
        numbers = itertools.count()
        setup = PoolSetup(
            Pool("default", Shape(), self.limits), self.backend, Spec("tcp://nowhere:0"), TIMEOUTS, self.poll_s
        )
        self.jobs = Jobs("world", [setup], engine=self.engine, tag=lambda: f"tag{next(numbers):05d}", clock=self.clock)
        self.controller = Controller(self.engine, self.jobs, self.policy, now=self.clock)

    async def round(self, seconds: float = 1.0) -> Record:
        """Time passes, one round is made, and everything it started gets its turn."""
        self.clock.now_s += seconds
        self.look()
        record = await self.controller.step()
        self.records.append(record)
        for _ in range(8):
            await asyncio.sleep(0)
        self.look()
        return record

    def look(self) -> None:
        """What truly is alive, by the manager itself."""
        self.most = max(self.most, self.alive)

    @property
    def alive(self) -> int:
        return len(self.backend.alive())

    async def rounds(self, count: int, seconds: float = 1.0) -> None:
        for _ in range(count):
            await self.round(seconds)
