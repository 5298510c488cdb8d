"""Somebody else's cluster as an actuator: it has no job list and no ids, only "be this large" and "let these go".

Two kinds are understood, each by a ``Side``: a cluster that is *specified* entry by entry (``specified.py``) and a
*plain* one, of which nothing is known but the workers that registered (``plain.py``). What is common to both is here:
the lives of the jobs, drains before anything is let go, back-off after failures, learned start-ups.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from dask_adaptive import life as lives
from dask_adaptive.actuator import Observed
from dask_adaptive.backoff import backoff_s
from dask_adaptive.engine.contracts import Engine
from dask_adaptive.model import (
    Life,
    Limits,
    Load,
    Member,
    Phase,
    Plan,
    Pool,
    PoolState,
    Retire,
    Shape,
    Startup,
    Timeouts,
)
from dask_adaptive.operations import Operations

__all__ = ["POOL", "TIMEOUTS", "ForeignCluster", "Members", "Seen", "Side", "Work"]

logger = logging.getLogger(__name__)

POOL = "default"
TIMEOUTS = Timeouts(start_s=120.0, lost_s=10.0, drain_s=600.0, end_s=15.0)
LEAVING = (Phase.DRAINING, Phase.ENDING)

Members = Mapping[str, tuple[Member, ...]]
Work = Iterable[tuple[tuple[str, ...], Awaitable[Any]]]
"""What was begun: the jobs that it is about, and what to wait for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as its cluster shows it.

    ``workers``: how many it will have. ``over``: why it will not serve (again). ``queued``: it was handed to a resource
    manager that does not tell when it starts; that may be in hours.
    """

    workers: int = 1
    over: str = ""
    queued: bool = False


class Side(Protocol):
    """A kind of cluster. Nothing here waits: ``grow`` and ``release`` return what to wait for."""

    one_by_one: bool
    """Whether it must not be asked to grow while it still does."""

    @property
    def resized(self) -> str:
        """Why it is not ours to size any more; empty while it is."""
        ...

    def shape(self, load: Load) -> Shape:
        """What one job brings: as specified, else as seen."""
        ...

    def jobs(self, members: Members) -> Mapping[str, Seen]:
        """Every job that it has or was asked for, by name."""
        ...

    def grow(self, count: int, members: Members) -> Work:
        """Begin so many more jobs."""
        ...

    def handles(self, members: Sequence[Member]) -> tuple[Any, ...]:
        """The words by which it knows these workers; they may have left by the time they are used."""
        ...

    def release(self, jobs: Mapping[str, tuple[Any, ...]]) -> Work:
        """Let these jobs go, each with the handles of its workers."""
        ...

    def forget(self, names: Iterable[str]) -> None:
        """These never started, or are dead."""
        ...


class ForeignCluster:
    """The actuator over a cluster that is not ours.

    Parameters
    ----------
    side:
        Knows how this kind of cluster is asked.
    engine:
        The Dask side, in the mode for workers that do not have our names.
    startup:
        Start-up latencies learned earlier.
    """

    def __init__(self, side: Side, engine: Engine, startup: Startup | None = None) -> None:
        self.limits = Limits()
        self._side, self._engine = side, engine
        self._lives: dict[str, Life] = {}
        self._shown: Mapping[str, Life] = {}
        self._load = Load(0.0)
        self._looked: Members | None = None
        self._settled = False
        self._starts = deque(() if startup is None else startup.start_s, maxlen=32)
        self._handed: dict[str, tuple[Any, ...]] = {}
        self._growing = 0
        self._trouble, self._retry_s, self._failures = "", 0.0, 0
        self._operations = Operations()
        self._events: list[str] = []

    @property
    def resized(self) -> str:
        """Why the cluster is not ours to size any more: somebody else did. Empty while it is."""
        return self._side.resized

    def watch(self, wake: Callable[[str], None]) -> None:
        """See ``Actuator``."""
        self._operations.wake = wake

    async def aclose(self, timeout_s: float) -> tuple[str, ...]:  # noqa: ARG002
        """Stop what is in flight. The workers are the cluster's own: it ends them."""
        await self._operations.stop()
        return ()

    # --- looking ---

    def observe(self, load: Load | None, now_s: float) -> Observed:
        """See ``Actuator``."""
        self._operations.settle(now_s)
        if load is not None:
            self._load = load
            if not self._settled or load.members is not self._looked:
                self._look(load.members, now_s)
        events, self._events = tuple(self._events), []
        return Observed(self._shown, {POOL: self._state(now_s)}, events)

    def _state(self, now_s: float) -> PoolState:
        return PoolState(
            pool=Pool(POOL, self._side.shape(self._load), self.limits),
            startup=Startup(tuple(0.0 for _ in self._starts), tuple(self._starts)),
            broken=self._trouble if now_s < self._retry_s else "",
            retry_s=self._retry_s,
            submitting=self._side.one_by_one and self._growing > 0,
            timeouts=TIMEOUTS,
        )

    def _look(self, members: Members, now_s: float) -> None:
        """Compare every job with what the cluster and the scheduler show; only where something may have changed."""
        jobs = self._side.jobs(members)
        self._match(jobs, now_s)
        for name, seen in jobs.items():
            self._compare(self._lives[name], seen, len(members.get(name, ())), now_s)
        for life in self._overtaken(now_s):
            self._let_go(life, "a job that was asked for later serves already", now_s)
        self._looked = members
        self._settled = all(life.phase is Phase.READY and not life.lost_s for life in self._lives.values())
        self._shown = dict(self._lives)

    def _match(self, jobs: Mapping[str, Seen], now_s: float) -> None:
        """A life for every job and for no other. A new job takes the place of one without a name."""
        gone = [life for name, life in self._lives.items() if name not in jobs and life.phase not in LEAVING]
        for life in gone:
            del self._lives[life.name]
            self._handed.pop(life.name, None)
        asked = [life for life in reversed(gone) if not life.served]
        for name in [name for name in jobs if name not in self._lives]:
            life = asked.pop() if asked else _begun(name, now_s)
            self._lives[name] = replace(life, name=name)

    def _compare(self, life: Life, seen: Seen, present: int, now_s: float) -> None:
        if seen.over and not present and life.phase not in LEAVING:
            self._end(life, seen.over, now_s)
            return
        after = lives.registered(life, present, seen.workers, now_s)
        if after.phase is Phase.STARTING and seen.queued and not present:
            after = replace(after, phase=Phase.QUEUED, running_s=0.0, since_s=now_s)
        elif after.phase is Phase.QUEUED and present:
            after = replace(after, phase=Phase.STARTING, running_s=now_s, since_s=now_s)
        if after.phase is Phase.READY and not life.served:
            self._trouble, self._failures = "", 0
            if life.submitted_s:
                self._starts.append(max(0.0, now_s - life.submitted_s))
        self._lives[life.name] = after

    def _overtaken(self, now_s: float) -> list[Life]:
        """Jobs in a queue that a later one left long ago: they died in it, and nobody tells."""
        waiting = [life for life in self._lives.values() if life.phase is Phase.QUEUED]
        if not waiting:
            return []
        served = [life for life in self._lives.values() if life.phase is Phase.READY]
        long_ago_s = now_s - TIMEOUTS.start_s
        latest_s = max((life.submitted_s for life in served if life.ready_s < long_ago_s), default=0.0)
        return [life for life in waiting if life.submitted_s < latest_s]

    def _end(self, life: Life, why: str, now_s: float) -> None:
        """A job that is dead; the plan sees that one is missing."""
        self._events.append(f"{life.name} is lost: {why}")
        del self._lives[life.name]
        self._side.forget([life.name])
        if not life.served:
            self._fail(why, now_s)

    def _fail(self, why: str, now_s: float) -> None:
        """Nothing more is started for a while: 1 s after the first failure, then twice as long each time, to 5 min."""
        if now_s >= self._retry_s:
            self._failures += 1
            self._retry_s = now_s + backoff_s(self._failures, 300.0)
        self._trouble = f"a job did not start: {' '.join(why.split())}"
        if self._trouble not in self._events:
            self._events.append(self._trouble)
            logger.warning("adapt: %s; next try in %.0f s", self._trouble, self._retry_s - now_s)

    # --- acting ---

    def act(self, plan: Plan, now_s: float) -> None:
        """See ``Actuator``."""
        count = sum(submit.count for submit in plan.submits)
        if count:
            self._grow(count, now_s)
        self._retire(plan.retires, now_s)
        for cancel in plan.cancels:
            if cancel.job in self._lives:
                self._let_go(self._lives[cancel.job], cancel.reason, now_s)
        if plan.submits or plan.retires or plan.cancels:
            self._settled = False

    def _let_go(self, life: Life, why: str, now_s: float) -> None:
        """A job that serves nothing."""
        self._events.append(f"{life.name} is let go: {why}")
        self._lives[life.name] = lives.cancelled(life, why, now_s + TIMEOUTS.end_s, now_s)
        self._release({life.name: self._handles(life.name)})

    def _grow(self, count: int, now_s: float) -> None:
        for names, work in self._side.grow(count, self._load.members):
            for name in names:
                self._lives[name] = replace(_begun(name, now_s), submitted_s=now_s)
            self._growing += 1
            self._operations.begin(work, partial(self._grown, names))

    def _grown(self, names: Sequence[str], outcome: object, now_s: float) -> None:
        self._growing -= 1
        self._settled = False
        if isinstance(outcome, BaseException):
            self._side.forget(names)
            for name in names:
                self._lives.pop(name, None)
            self._fail(f"{outcome or type(outcome).__name__}", now_s)

    def _retire(self, retires: Iterable[Retire], now_s: float) -> None:
        """Drain: what is idle together, since it has to share out its data; what is busy each for itself."""
        idle: dict[str, tuple[Any, ...]] = {}
        for retire in retires:
            life = self._lives.get(retire.job)
            if life is None:
                continue
            leaving = lives.draining(life, retire.reason, now_s)
            if leaving is life:
                continue
            self._lives[life.name] = leaving
            if retire.busy:
                self._drain({life.name: self._handles(life.name)}, busy=True)
            else:
                idle[life.name] = self._handles(life.name)
        if idle:
            self._drain(idle, busy=False)

    def _drain(self, jobs: Mapping[str, tuple[Any, ...]], *, busy: bool) -> None:
        addresses = {name: [member.address for member in self._load.members.get(name, ())] for name in jobs}
        drain = self._engine.drain(addresses, TIMEOUTS.drain_s, busy=busy)
        self._operations.begin(drain, partial(self._drained, jobs))

    def _drained(self, jobs: Mapping[str, tuple[Any, ...]], outcome: Any, now_s: float) -> None:
        gone = {}
        self._settled = False
        for name, handles in jobs.items():
            life = self._lives[name]
            refusal = str(outcome) if isinstance(outcome, BaseException) else outcome.get(name, "no answer")
            if refusal:
                self._events.append(f"{name} stays: {refusal}")
                self._lives[name] = lives.kept(life, refusal, now_s)
            else:
                gone[name] = handles
                self._lives[name] = lives.drained(life, now_s + TIMEOUTS.end_s, now_s)
        self._release(gone)

    def _handles(self, name: str) -> tuple[Any, ...]:
        return self._side.handles(self._load.members.get(name, ()))

    def _release(self, jobs: Mapping[str, tuple[Any, ...]]) -> None:
        """Hand these to the cluster. Once workers are closed nothing shows their handles any more, so they are kept.

        What comes back under the name of a job that could not be let go is let go with it.
        """
        for name, handles in jobs.items():
            self._handed[name] = tuple(dict.fromkeys((*self._handed.get(name, ()), *handles)))
        for names, work in self._side.release({name: self._handed[name] for name in jobs}):
            self._operations.begin(work, partial(self._released, names))

    def _released(self, names: Sequence[str], outcome: object, now_s: float) -> None:  # noqa: ARG002
        self._settled = False
        if isinstance(outcome, BaseException):
            why = outcome or type(outcome).__name__
            self._events.append(f"{', '.join(names)} could not be let go, will be tried again: {why}")
            return
        for name in names:
            self._lives.pop(name, None)
            self._handed.pop(name, None)


def _begun(name: str, now_s: float) -> Life:
    return replace(lives.wanted(name, POOL, now_s), phase=Phase.STARTING, running_s=now_s)
