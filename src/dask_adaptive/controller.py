"""Look, decide, plan, act: the only loop.

One round:

    Dask scheduler ── Load ──┐
                             ├─> Snapshot ─> policy.decide ─> Target ─> make_plan ─> Plan ─> actuator.act
    actuator ───── Observed ─┘                                                                   │
                        └──────────────── outcomes, in a later round <───────────────────────────┘

A round never waits for a resource manager or a drain, and never dies of an error: it is recorded, and the next one
comes. Pushes (a new graph, a worker that left, a job that ended) start a round at once; the interval is the fallback.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from dask_adaptive.actuator import Actuator
from dask_adaptive.engine.contracts import Engine
from dask_adaptive.errors import EngineError, PolicyError
from dask_adaptive.journal import Journal
from dask_adaptive.model import Load, Past, Plan, Record, Snapshot, Target, View, Want
from dask_adaptive.plan import checked, make_plan, view_of
from dask_adaptive.policy.contracts import FRESH, Policy, not_plain
from dask_adaptive.upkeep import overdue
from dask_adaptive.waiting import within
from dask_adaptive.walltime import ending, outlasting

__all__ = ["Advisor", "Controller", "clock"]

logger = logging.getLogger(__name__)

LEAST_GAP_S = 0.02
"""Between the starts of two rounds, however many pushes come."""

LOOK_TIMEOUT_S = 10.0


def _make_clock() -> Callable[[], float]:
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


clock = _make_clock()
"""Seconds since the epoch that never go back."""


class Advisor(Protocol):
    """Somebody who may have another word in a round: an ``Adaptive`` with overridden methods."""

    async def policy_for(self, view: View) -> Policy:
        """The policy of this round."""
        ...

    async def plan_for(self, snapshot: Snapshot, plan: Plan) -> Plan:
        """The plan of this round, given ours."""
        ...


class Controller:
    """Holds one policy, one Dask side and one actuator together.

    Parameters
    ----------
    engine, actuator, policy:
        The three sides.
    journal:
        Where rounds are kept.
    interval_s:
        The longest time between two rounds.
    now:
        The clock.
    on_record:
        Called with every round's record.
    """

    def __init__(
        self,
        engine: Engine,
        actuator: Actuator,
        policy: Policy,
        *,
        journal: Journal | None = None,
        interval_s: float = 1.0,
        now: Callable[[], float] = clock,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        self.engine, self.actuator, self.policy = engine, actuator, policy
        self.journal = journal or Journal()
        self.interval_s = interval_s
        self.past: Past = FRESH
        self.record: Record | None = None
        self.view: View | None = None
        self.proposal = Plan()
        self.advisor: Advisor | None = None
        self.lost_s = 0.0
        self._now = now
        self._on_record = on_record
        self._load = Load(0.0)
        self._number = 0
        self._events: list[str] = []
        self._outlasting: frozenset[str] = frozenset()
        self._woken: list[str] = []
        self._bell: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        engine.watch(self.wake)
        actuator.watch(self.wake)

    def use(self, policy: Policy, *, why: str, interval_s: float | None = None) -> None:
        """Decide by another policy from the next round on, which comes at once."""
        self.policy, self.past = policy, FRESH
        self.interval_s = self.interval_s if interval_s is None else interval_s
        self.say(why)

    def say(self, sentence: str) -> None:
        """Have this among the events of the next round, which comes at once."""
        self._events.append(sentence)
        self.wake(sentence)

    def wake(self, why: str) -> None:
        """Ask for a round now."""
        self._woken.append(why)
        if self._bell is not None:
            self._bell.set()

    def start(self) -> None:
        """Begin the loop on the running event loop."""
        self._task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        """Round after round, until cancelled."""
        self._bell = asyncio.Event()
        while True:
            began_s = self._now()
            self._bell.clear()
            record = await self.step()
            again_s = self.interval_s
            if record.target.look_again_s is not None:
                again_s = min(again_s, max(record.target.look_again_s, LEAST_GAP_S))
            with suppress(asyncio.TimeoutError):
                await within(again_s, self._bell.wait())
            took_s = self._now() - began_s
            await asyncio.sleep(max(0.0, LEAST_GAP_S - took_s))

    async def stop(self) -> None:
        """End the loop; what is in flight goes on."""
        while self._task is not None and not self._task.done():
            self._task.cancel()  # more than once: before Python 3.12 ``wait_for`` may lose it
            await asyncio.wait({self._task}, timeout=0.1)
        self._task = None

    # --- one round ---

    async def step(self) -> Record:
        """One round. Never raises but for cancellation."""
        woken, self._woken = "; ".join(dict.fromkeys(self._woken)) or "interval", []
        now_s = self._now()
        try:
            return await self._round(woken)
        except Exception as failure:  # an actuator or a listener of somebody else may raise anything
            error = f"{type(failure).__name__}: {failure}"
            logger.warning("round %d failed: %s", self._number + 1, error, exc_info=True)
            before = self.record
            snapshot = before.snapshot if before else Snapshot(now_s, self.interval_s, self._load, {}, {})
            target = _unchanged(view_of(snapshot), error)
            return self._keep(Record(0, now_s, woken, snapshot, self.past, target, Plan(), (), error))

    async def _round(self, woken: str) -> Record:
        error = await self._look()
        now_s = self._now()
        observed = self.actuator.observe(None if error else self._load, now_s)
        snapshot = Snapshot(now_s, self.interval_s, self._load, observed.lives, observed.pools)
        too_long = outlasting(snapshot)
        self._events += [sentence for prefix, sentence in too_long.items() if prefix not in self._outlasting]
        self._outlasting = frozenset(too_long)
        view, past = view_of(snapshot), self.past
        self.view = view
        target, plan = _unchanged(view, error), Plan()
        if not error:
            try:
                target, self.past = await self.decide(view, past)
                plan = await self.plan(snapshot, target)
            except Exception as failure:  # a policy of somebody else may raise anything
                error = f"{type(failure).__name__}: {failure}"
                target = _unchanged(view, error)
                logger.warning("round %d: %s", self._number + 1, error, exc_info=not isinstance(failure, PolicyError))
        self.actuator.act(plan, now_s)
        record = self._keep(Record(0, now_s, woken, snapshot, past, target, plan, observed.events, error))
        if self._on_record is not None:
            self._on_record(record)
        return record

    async def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        """Ask the policy and hold it to its contract."""
        policy = self.policy if self.advisor is None else await self.advisor.policy_for(view)
        target, after = policy.decide(view, past)
        if (odd := not_plain(after)) is not None:
            raise PolicyError(f"the past of {type(policy).__name__} holds {odd!r}; only plain JSON values can be kept")
        return checked(target, view), after

    async def plan(self, snapshot: Snapshot, target: Target) -> Plan:
        """What the target asks for, and what is overdue."""
        self.proposal = plan = make_plan(snapshot, target, self.view)
        if self.advisor is not None:
            plan = await self.advisor.plan_for(snapshot, plan)
        late = overdue(snapshot)
        retires = {retire.job: retire for retire in (*ending(snapshot), *late.retires, *plan.retires)}
        return replace(plan, retires=tuple(retires.values()), cancels=plan.cancels + late.cancels)

    async def _look(self) -> str:
        """Take the load in; why that was not possible, else an empty text."""
        try:
            self._load = await within(LOOK_TIMEOUT_S, self.engine.look())
        except (EngineError, asyncio.TimeoutError) as failure:
            why = f"the scheduler cannot be asked: {str(failure) or 'no answer'}"
            if not self.lost_s:
                self.lost_s = self._now()
                self._events.append(why)
            return why
        if self.lost_s:
            self._events.append(f"the scheduler answers again after {self._now() - self.lost_s:.0f} s")
            self.lost_s = 0.0
        return ""

    def _keep(self, record: Record) -> Record:
        self._number += 1
        events, self._events = (*self._events, *record.events), []
        record = replace(record, number=self._number, events=events)
        self.record = record
        try:
            self.journal.append(record)
        except Exception:  # the loop goes on, whatever a policy or an actuator of somebody else put into it
            logger.exception("round %d could not be kept", self._number)
        return record


def _unchanged(view: View, why: str) -> Target:
    return Target({each.pool.name: Want(each.size, f"unchanged: {why}") for each in view.pools})
