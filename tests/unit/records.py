"""Rounds made by hand, for tests of what is drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dask_adaptive.model import (
    Cancel,
    Group,
    Life,
    Limits,
    Load,
    Phase,
    Plan,
    Pool,
    PoolState,
    Record,
    Retire,
    Shape,
    Snapshot,
    Submit,
    Target,
    Want,
)

START_S = 1_000.0
RUNNING = (Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.ENDING)


def lives(phases: Mapping[Phase, int], pool: str = "default") -> dict[str, Life]:
    """So many jobs in each phase, named ``ready000.0`` and so on."""
    return {
        f"{phase.value[:5]:x<5}000.{i}": Life(
            name=f"{phase.value[:5]:x<5}000.{i}",
            pool=pool,
            phase=phase,
            since_s=START_S,
            running_s=START_S if phase in RUNNING else 0.0,
        )
        for phase, count in phases.items()
        for i in range(count)
    }


def work(waiting: int = 0, ready: int = 0, running: int = 0) -> Group:
    """One group of tasks; ``ready`` has the running ones in it, as the model says."""
    return Group(name="parse-1", prefix="parse", waiting=waiting, ready=ready, running=running)


def record(
    at_s: float,
    phases: Mapping[Phase, int] | None = None,
    *,
    groups: Sequence[Group] = (),
    submit: int = 0,
    retire: Sequence[str] = (),
    cancel: Sequence[str] = (),
    want: int | None = None,
    reason: str = "",
    workers: int = 1,
    limits: Limits | None = None,
    error: str = "",
    events: Sequence[str] = (),
    number: int = 0,
) -> Record:
    """A round ``at_s`` seconds after the start of the run, with one pool named default."""
    pool = Pool("default", Shape(workers=workers), limits or Limits(0, 8))
    alive = lives(phases or {})
    return Record(
        number=number,
        at_s=START_S + at_s,
        woken="tick",
        snapshot=Snapshot(
            at_s=START_S + at_s,
            interval_s=1.0,
            load=Load(at_s=START_S + at_s, groups=tuple(groups)),
            lives=alive,
            pools={"default": PoolState(pool)},
        ),
        past={},
        target=Target({"default": Want(len(alive) if want is None else want, reason or "as it is")}),
        plan=Plan(
            submits=(Submit("default", submit, reason),) if submit else (),
            retires=tuple(Retire(job, reason) for job in retire),
            cancels=tuple(Cancel(job, reason) for job in cancel),
        ),
        events=tuple(events),
        error=error,
    )


def burst(reason: str = "12 tasks of about 0.5 s each would keep 2 jobs busy for 3 s") -> list[Record]:
    """0 -> 2 -> 0 jobs within ten seconds: submitted at 1 s, ready at 3 s, retired at 7 s, gone at 8 s."""
    rounds = [
        record(0),
        record(1, groups=[work(waiting=4, ready=12)], submit=2, want=2, reason=reason),
        record(2, {Phase.STARTING: 2}, groups=[work(waiting=4, ready=12)], want=2),
        record(3, {Phase.READY: 2}, groups=[work(waiting=4, ready=12, running=2)], want=2),
        record(5, {Phase.READY: 2}, groups=[work(ready=4, running=2)], want=2),
        record(7, {Phase.READY: 2}, retire=["ready000.0", "ready000.1"], want=0, reason="idle for 2 s"),
        record(7.5, {Phase.DRAINING: 2}, want=0),
        record(8, {Phase.GONE: 2}, want=0),
        record(10, want=0),
    ]
    return [replace(one, number=number) for number, one in enumerate(rounds)]
