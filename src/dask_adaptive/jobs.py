"""Our own jobs: starts submits, cancels, lists and drains, and folds what comes of them into lives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dask_adaptive import life as lives
from dask_adaptive.actuator import Observed
from dask_adaptive.backend.contracts import Backend, Pushing
from dask_adaptive.config import check_keys
from dask_adaptive.engine.contracts import Engine
from dask_adaptive.errors import Ambiguous, BackendError, EngineError, Garbled, NoCapacity, Rejected, Throttled
from dask_adaptive.health import BROKEN_AFTER, Health
from dask_adaptive.model import (
    ALIVE,
    Batch,
    Cancel,
    Job,
    JobId,
    Life,
    Load,
    Phase,
    Plan,
    Pool,
    PoolState,
    Retire,
    Spec,
    Startup,
    Submit,
    Timeouts,
)
from dask_adaptive.operations import Operations
from dask_adaptive.tags import of_pool, pool_number
from dask_adaptive.waiting import within

__all__ = ["Jobs", "PoolSetup"]

KEEP_OVER = 200
"""How many jobs that are over are remembered, for their logs and reasons."""

SAMPLES = 32
UNKNOWN_AT_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class PoolSetup:
    """A pool with what it takes to fill it. ``poll_s``: seconds between two looks at the manager's job list."""

    pool: Pool
    backend: Backend
    spec: Spec
    timeouts: Timeouts = field(default_factory=Timeouts)
    poll_s: float = 1.0


@dataclass(slots=True)
class _Lane:
    """One backend: what is in flight, and what its list said last."""

    backend: Backend
    poll_s: float
    listing: bool = False
    cancelling: bool = False
    due: bool = True
    trouble: str = ""
    asked_s: float = float("-inf")
    stale: str = ""
    extra: dict[JobId, Job] = field(default_factory=dict)
    told: dict[JobId, float] = field(default_factory=dict)
    """When an extra job may be told to end again."""


async def _closed(backend: Backend) -> str:
    """Why a backend could not be closed, else an empty text: one that fails does not keep the others open."""
    try:
        await backend.aclose()
    except Exception as error:  # noqa: BLE001  somebody else's backend may raise anything
        return f"backend {backend.name!r} could not be closed: {str(error) or type(error).__name__}"
    return ""


def _given_up(life: Life) -> bool:
    """Whether not all of its workers registered in time."""
    return life.phase is Phase.DRAINING or (life.phase is Phase.ENDING and life.told and not life.served)


class Jobs:
    """The actuator over backends.

    Parameters
    ----------
    cluster:
        The cluster's key; the name of every job begins with it.
    setups:
        The pools, in order of preference.
    engine:
        The Dask side, for drains.
    tag:
        Called for a new batch; gives a name of 8 characters ``[a-z][a-z0-9]{7}`` that was never used before.
    clock:
        The time in seconds.
    startups:
        Start-up latencies learned earlier, by pool.
    comes_back:
        There may be jobs of this cluster already: nothing is started before the first complete list.

    ``errors`` counts the calls to the manager that failed, by pool and call (submit, list, cancel).
    """

    def __init__(
        self,
        cluster: str,
        setups: Sequence[PoolSetup],
        *,
        engine: Engine,
        tag: Callable[[], str],
        clock: Callable[[], float],
        startups: Mapping[str, Startup] | None = None,
        comes_back: bool = False,
    ) -> None:
        self.cluster = cluster
        self.setups = {setup.pool.name: setup for setup in setups}
        self._engine, self._tag, self._clock = engine, tag, clock
        self._lives: dict[str, Life] = {}
        self._shown: Mapping[str, Life] = {}
        self._changed_lives = False
        self._members: object = None
        self._startups = {name: (startups or {}).get(name, Startup()) for name in self.setups}
        self._health = {name: Health() for name in self.setups}
        self._lanes: dict[int, _Lane] = {}
        for setup in setups:
            self._lanes.setdefault(id(setup.backend), _Lane(setup.backend, setup.poll_s))
        for lane in self._lanes.values() if comes_back else ():
            lane.stale = "jobs of an earlier controller are looked for"
        self._pool_of_tag: dict[str, str] = {}
        self._submitting: set[str] = set()
        self._operations = Operations()
        self._events: list[str] = []
        self.errors: dict[str, Counter[str]] = {name: Counter() for name in self.setups}

    # --- looking ---

    def watch(self, wake: Callable[[str], None]) -> None:
        """See ``Actuator``."""
        self._operations.wake = wake
        for lane in self._lanes.values():
            if isinstance(lane.backend, Pushing):
                lane.backend.watch(partial(self._changed, lane))

    def _changed(self, lane: _Lane, why: str) -> None:
        lane.due = True
        self._operations.wake(why)

    def observe(self, load: Load | None, now_s: float) -> Observed:
        """See ``Actuator``."""
        self._operations.settle(now_s)
        if load is not None:
            self._register(load, now_s)
        for lane in self._lanes.values():
            self._heed(lane, now_s)
        for life in list(self._lives.values()):
            if life.phase is Phase.UNKNOWN:
                self._put(lives.expired(life, now_s), now_s)
        self._forget()
        if self._changed_lives:
            self._shown, self._changed_lives = dict(self._lives), False
        events, self._events = tuple(self._events), []
        pools = {name: self._state(setup, now_s) for name, setup in self.setups.items()}
        return Observed(self._shown, pools, events)

    def _state(self, setup: PoolSetup, now_s: float) -> PoolState:
        name, lane, health = setup.pool.name, self._lanes[id(setup.backend)], self._health[setup.pool.name]
        broken = ""
        if health.failed or health.full:
            waiting = (Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED, Phase.STARTING)
            trying = any(life.pool == name and life.phase in waiting for life in self._lives.values())
            broken = health.word(now_s, trying)
        return PoolState(
            pool=setup.pool,
            startup=self._startups[name],
            broken=broken,
            retry_s=max(health.retry_s, now_s + 1.0) if broken else 0.0,
            stale=lane.stale or (lane.trouble if lane.listing else ""),
            strays=sum(self._pool_named(job.name, lane) == name for job in lane.extra.values()),
            submitting=name in self._submitting,
            timeouts=setup.timeouts,
            failures=len(health.failed),
        )

    def _heed(self, lane: _Lane, now_s: float) -> None:
        """Tell, once, that the manager keeps us waiting: that is also the reason of jobs that are being submitted."""
        trouble = str(getattr(lane.backend, "trouble", ""))
        if trouble and not lane.trouble:
            self._events.append(f"{lane.backend.name}: {trouble}")
        lane.trouble = trouble
        for life in list(self._of(lane)) if trouble else ():
            if life.phase is Phase.WANTED:
                self._put(replace(life, reason=trouble), now_s)

    def _register(self, load: Load, now_s: float) -> None:
        if load.members is self._members and not self._changed_lives:
            return
        self._members = load.members
        for life in list(self._lives.values()):
            present = len(load.members.get(life.name, ()))
            if present or life.present:
                workers = self.setups[life.pool].spec.shape.workers
                if present < life.present:  # the manager may know more of it
                    self._lanes[id(self.setups[life.pool].backend)].due = True
                self._put(lives.registered(life, present, workers, now_s), now_s)

    def _put(self, life: Life, now_s: float) -> None:
        """Keep the new state of a job, and what its change teaches."""
        was = self._lives.get(life.name)
        if was is life:
            return
        self._lives[life.name] = life
        self._changed_lives = True
        if was is None or was.phase is life.phase:
            return
        if life.phase is Phase.READY and was.phase is not Phase.DRAINING:
            self._learn(life)
        elif life.phase is Phase.FAILED and was.phase is not Phase.WANTED:
            self._failed(life, now_s)
        elif was.phase is Phase.STARTING and _given_up(life):
            self._health[life.pool].fail(_tag(life), life.reason, now_s)

    def _learn(self, life: Life) -> None:
        self._health[life.pool] = Health()
        startup = self._startups[life.pool]
        queue_s = max(0.0, life.running_s - life.submitted_s) if life.submitted_s else 0.0
        start_s = max(0.0, life.ready_s - life.running_s)
        self._startups[life.pool] = replace(
            startup, queue_s=(*startup.queue_s, queue_s)[-SAMPLES:], start_s=(*startup.start_s, start_s)[-SAMPLES:]
        )

    def _failed(self, life: Life, now_s: float) -> None:
        if not life.served:
            self._health[life.pool].fail(_tag(life), _failure(life), now_s)
        self._events.append(f"job {life.name} failed: {life.reason}")
        if life.id is not None:
            log = self.setups[life.pool].backend.log(life.id)
            self._operations.begin(log, partial(self._logged, life.name))

    def _logged(self, name: str, outcome: str | BaseException, now_s: float) -> None:
        life = self._lives.get(name)
        if life is None or not isinstance(outcome, str) or not outcome.strip():
            return
        tail = outcome.rstrip()[-4000:]
        self._put(replace(life, log_tail=tail), now_s)
        end = tail.strip().splitlines()[-1][:300]
        self._events.append(f"the log of job {name} ends with: {end}")
        health = self._health[life.pool]
        if health.reason == _failure(life):
            health.reason += f" ({end})"

    def _forget(self) -> None:
        over = [life for life in self._lives.values() if life.phase in (Phase.GONE, Phase.FAILED)]
        for life in sorted(over, key=lambda life: life.since_s)[: max(0, len(over) - KEEP_OVER)]:
            del self._lives[life.name]
            self._changed_lives = True

    # --- acting ---

    def act(self, plan: Plan, now_s: float) -> None:
        """See ``Actuator``."""
        for submit in plan.submits:
            self._submit(submit, now_s)
        self._retire(plan.retires, now_s)
        self._cancel(plan.cancels, now_s)
        for lane in self._lanes.values():
            self._list(lane, now_s)

    def _submit(self, submit: Submit, now_s: float) -> None:
        setup, health = self.setups[submit.pool], self._health[submit.pool]
        if submit.pool in self._submitting:
            return
        count = 1 if len(health.failed) >= BROKEN_AFTER else submit.count
        batch = Batch(self.cluster, submit.pool, self._new_tag(submit.pool), count, setup.spec)
        self._pool_of_tag[batch.tag] = submit.pool
        self._submitting.add(submit.pool)
        for name in batch.names:
            self._put(lives.wanted(name, submit.pool, now_s), now_s)
        self._operations.begin(self._submitted(setup.backend, batch), partial(self._answered, batch))

    async def _submitted(self, backend: Backend, batch: Batch) -> Sequence[JobId]:
        await self._engine.declare({batch.tag: batch.pool})
        return await backend.submit(batch)

    def _answered(self, batch: Batch, outcome: Sequence[JobId] | BaseException, now_s: float) -> None:
        self._submitting.discard(batch.pool)
        lane = self._lanes[id(self.setups[batch.pool].backend)]
        lane.due = True
        mine = [self._lives[name] for name in batch.names if name in self._lives]
        if not isinstance(outcome, BaseException):
            for life, job_id in zip(mine, outcome, strict=False):
                self._put(lives.accepted(life, job_id, now_s), now_s)
            taken = len(outcome)
            if taken < batch.count:
                self._wait(batch, mine[taken:], f"the manager took {taken} of {batch.count} jobs", now_s)
            else:
                self._health[batch.pool].full = 0
            return
        self.errors[batch.pool]["submit"] += 1
        reason = f"submit of {batch.count} to pool {batch.pool} failed: {outcome}"
        self._events.append(reason)
        if isinstance(outcome, Ambiguous | Garbled) or not isinstance(outcome, BackendError | EngineError):
            deadline_s = now_s + self.setups[batch.pool].timeouts.unknown_s + lane.backend.lag_s
            for life in mine:
                self._put(lives.unsure(life, reason, deadline_s, now_s), now_s)
            self._health[batch.pool].fail(batch.tag, str(outcome), now_s)
            return
        if isinstance(outcome, NoCapacity):
            self._wait(batch, mine, str(outcome), now_s)
            return
        rest_s = outcome.retry_after_s if isinstance(outcome, Throttled) else None
        self._refuse(batch, mine, str(outcome), 60.0 if isinstance(outcome, Rejected) else rest_s, now_s)

    def _wait(self, batch: Batch, mine: Sequence[Life], reason: str, now_s: float) -> None:
        for life in mine:
            self._put(lives.refused(life, reason, now_s), now_s)
        self._health[batch.pool].wait(reason, now_s)

    def _refuse(self, batch: Batch, mine: Sequence[Life], reason: str, rest_s: float | None, now_s: float) -> None:
        for life in mine:
            self._put(lives.refused(life, reason, now_s), now_s)
        self._health[batch.pool].fail(batch.tag, reason, now_s, rest_s)

    def _retire(self, retires: Sequence[Retire], now_s: float) -> None:
        for busy in (False, True):
            jobs: dict[str, list[str]] = {}
            for retire in retires:
                life = self._lives.get(retire.job)
                if retire.busy is not busy or life is None:
                    continue
                leaving = lives.draining(life, retire.reason, now_s)
                if leaving is not life:
                    jobs[life.name] = [member.address for member in self._addresses(life.name)]
                    self._put(leaving, now_s)
            # what is idle goes together, since it has to share out its data; what is busy goes each for itself
            for part in [{name: each} for name, each in jobs.items()] if busy else [jobs] * bool(jobs):
                self._drain(part, busy=busy)

    def _drain(self, jobs: Mapping[str, Sequence[str]], *, busy: bool) -> None:
        wait_s = max(self.setups[self._lives[job].pool].timeouts.drain_s for job in jobs)
        self._operations.begin(self._engine.drain(jobs, wait_s, busy=busy), partial(self._drained, tuple(jobs)))

    def _addresses(self, job: str) -> Sequence[Any]:
        members = self._members
        return members.get(job, ()) if isinstance(members, Mapping) else ()

    def _drained(self, jobs: Sequence[str], outcome: Mapping[str, str] | BaseException, now_s: float) -> None:
        for name in jobs:
            life = self._lives.get(name)
            if life is None:
                continue
            refusal = str(outcome) if isinstance(outcome, BaseException) else outcome.get(name, "no answer")
            if refusal:
                self._events.append(f"job {name} stays: {refusal}")
                self._put(lives.kept(life, refusal, now_s), now_s)
            else:
                if life.phase is Phase.DRAINING:
                    startup = self._startups[life.pool]
                    took_s = (*startup.drain_s, now_s - life.since_s)[-SAMPLES:]
                    self._startups[life.pool] = replace(startup, drain_s=took_s)
                self._put(lives.drained(life, now_s + self.setups[life.pool].timeouts.end_s, now_s), now_s)

    def _cancel(self, cancels: Sequence[Cancel], now_s: float) -> None:
        told = {cancel.job: cancel.reason for cancel in cancels}
        for lane in self._lanes.values():
            if lane.cancelling:
                continue
            mine = [life for life in self._of(lane) if life.name in told and life.id is not None]
            ids = [life.id for life in mine if life.id is not None] + self._extra(lane, now_s)
            if not ids:
                continue
            lane.cancelling = True
            for life in mine:
                deadline_s = now_s + self.setups[life.pool].timeouts.end_s + lane.backend.lag_s
                self._put(lives.cancelled(life, told[life.name], deadline_s, now_s), now_s)
            self._operations.begin(lane.backend.cancel(ids), partial(self._told, lane, len(ids)))

    def _extra(self, lane: _Lane, now_s: float) -> list[JobId]:
        """Jobs that are there twice, as far as they were not told to end a moment ago."""
        again_s = now_s + max(setup.timeouts.end_s for setup in self.setups.values()) + lane.backend.lag_s
        alive = [each for each, job in lane.extra.items() if job.state.value != "ending"]
        due = [each for each in alive if now_s >= lane.told.get(each, now_s)]
        lane.told = {
            **{each: at_s for each, at_s in lane.told.items() if each in lane.extra},
            **dict.fromkeys(due, again_s),
        }
        return due

    def _told(self, lane: _Lane, count: int, outcome: object, now_s: float) -> None:  # noqa: ARG002
        lane.cancelling, lane.due = False, True
        if isinstance(outcome, BaseException):
            self._missed(lane, "cancel")
            self._events.append(f"cancel of {count} failed, will be tried again: {outcome}")

    def _missed(self, lane: _Lane, call: str) -> None:
        for name, setup in self.setups.items():
            self.errors[name][call] += setup.backend is lane.backend

    def _of(self, lane: _Lane) -> Iterator[Life]:
        return (life for life in self._lives.values() if self.setups[life.pool].backend is lane.backend)

    # --- the manager's list ---

    def _list(self, lane: _Lane, now_s: float) -> None:
        waited = now_s - lane.asked_s
        poll_s = float(getattr(lane.backend, "poll_s", lane.poll_s))
        if lane.listing or waited < (min(0.05, poll_s) if lane.due and not lane.stale else poll_s):
            return
        lane.listing, lane.due, lane.asked_s = True, False, now_s
        self._operations.begin(lane.backend.jobs(self.cluster), partial(self._listed, lane, now_s))

    def _listed(self, lane: _Lane, asked_s: float, outcome: Sequence[Job] | BaseException, now_s: float) -> None:
        lane.listing = False
        if isinstance(outcome, BaseException):
            self._missed(lane, "list")
            if not lane.stale:
                self._events.append(f"{lane.backend.name}: job list could not be read: {outcome}")
            lane.stale = f"job list could not be read: {outcome}"
            return
        lane.stale, lane.extra = "", {}
        seen = set()
        for job in outcome:
            seen.add(job.name)
            self._take(lane, job, now_s)
        for life in list(self._of(lane)):
            if life.name not in seen and life.submitted_s < asked_s:
                self._put(lives.unlisted(life, lane.backend.lag_s, now_s), now_s)

    def _take(self, lane: _Lane, job: Job, now_s: float) -> None:
        life = self._lives.get(job.name)
        if life is None:
            if job.state.value == "ended":
                return
            life = lives.wanted(job.name, self._pool_named(job.name, lane), now_s)
            self._declare(job.name.partition(".")[0], life.pool)
            self._events.append(f"job {job.name} ({job.id}) was found in the list and adopted")
        if life.id is not None and life.id != job.id and life.phase in ALIVE:
            if job.state.value != "ended":
                lane.extra[job.id] = job
            return
        deadline_s = now_s + self.setups[life.pool].timeouts.end_s
        self._put(lives.listed(life, job, now_s, deadline_s), now_s)

    def _declare(self, tag: str, pool: str) -> None:
        """Tell the scheduler of which pool the workers of a batch are that somebody else submitted."""
        if tag not in self._pool_of_tag:
            self._pool_of_tag[tag] = pool
            self._operations.begin(self._engine.declare({tag: pool}), self._declared)

    def _declared(self, outcome: object, now_s: float) -> None:  # noqa: ARG002
        if isinstance(outcome, BaseException):  # the engine tells it again when it reaches the scheduler
            self._events.append(f"the scheduler does not know yet of which pool a job is: {outcome}")

    def _new_tag(self, pool: str) -> str:
        """A tag that was never used before; where there are several pools, one that tells this one."""
        while True:
            tag = self._tag() if len(self.setups) == 1 else of_pool(self._tag(), list(self.setups).index(pool))
            if tag not in self._pool_of_tag:
                return tag

    def _pool_named(self, name: str, lane: _Lane) -> str:
        """The pool that a job is of, by its name: of a batch of ours, or of one from before we came back."""
        tag = name.partition(".")[0]
        known = self._pool_of_tag.get(tag)
        if known is None and 0 <= pool_number(tag) < len(self.setups):
            told = list(self.setups)[pool_number(tag)]
            known = told if self.setups[told].backend is lane.backend else None
        return known or next(n for n, setup in self.setups.items() if setup.backend is lane.backend)

    async def logs(self) -> dict[str, str]:
        """The end of what every known job printed, dead ones too, by job name."""
        known = [life for life in self._lives.values() if life.id is not None]
        asked = (self.setups[life.pool].backend.log(life.id) for life in known if life.id is not None)
        texts = await asyncio.gather(*asked, return_exceptions=True)
        return {
            life.name: text if isinstance(text, str) and text else life.log_tail
            for life, text in zip(known, texts, strict=True)
        }

    async def log(self, job: str) -> str:
        """The end of what one job printed, a dead one too. Raises ``ConfigError`` that lists the known ones."""
        check_keys("job", [job], self._lives)
        life = self._lives[job]
        text = "" if life.id is None else await self.setups[life.pool].backend.log(life.id)
        return text or life.log_tail

    # --- the end ---

    async def aclose(self, timeout_s: float) -> tuple[str, ...]:
        """See ``Actuator``."""
        end_s = self._clock() + timeout_s
        self._hold_no_longer(self._clock())
        while (left := self._left()) and self._clock() < end_s:
            for lane in self._lanes.values():
                lane.due = True
            now_s = self._clock()
            self.observe(None, now_s)
            self.act(
                Plan(cancels=tuple(Cancel(life.name, "the cluster closes") for life in self._to_tell(now_s))), now_s
            )
            await self._some_news(0.2)
        await self._operations.stop()
        failed = [why for lane in self._lanes.values() if (why := await _closed(lane.backend))]
        left_over = [f"job {life.name} ({life.id}) may be left: {life.phase.value} {life.reason}" for life in left]
        return (*failed, *left_over)

    async def leave(self) -> None:
        """Let go; the jobs stay as they are, with whatever they read."""
        await self._operations.stop()
        for lane in self._lanes.values():
            await getattr(lane.backend, "leave", lane.backend.aclose)()

    def _hold_no_longer(self, now_s: float) -> None:
        """Who closes does not wait for the whole deadline of a submit of unknown outcome, only for one honest list."""
        for life in self._left():
            if life.phase is Phase.UNKNOWN:
                lag_s = self.setups[life.pool].backend.lag_s
                deadline_s = min(life.deadline_s, now_s + UNKNOWN_AT_CLOSE_S + lag_s)
                self._put(replace(life, deadline_s=deadline_s), now_s)

    def _left(self) -> Collection[Life]:
        return [life for life in self._lives.values() if life.phase in ALIVE]

    def _to_tell(self, now_s: float) -> Iterator[Life]:
        return (life for life in self._left() if life.phase is not Phase.ENDING or now_s >= life.deadline_s)

    async def _some_news(self, at_most_s: float) -> None:
        news = asyncio.Event()
        self._operations.wake = lambda _: news.set()
        if not self._operations.has_news:
            with suppress(asyncio.TimeoutError):
                await within(at_most_s, news.wait())


def _failure(life: Life) -> str:
    return f"job {life.name}: {life.reason}"


def _tag(life: Life) -> str:
    return life.name.partition(".")[0]
