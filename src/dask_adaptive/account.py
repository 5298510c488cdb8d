"""The cluster's account of itself: a table of jobs, and why it is as large as it is. Pure."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dask_adaptive.model import ALIVE, Phase, PoolState, Record, Want
from dask_adaptive.walltime import outlasting

__all__ = ["FirstWorker", "JobRow", "JobTable", "TellingStatus", "explanation", "job_table"]

_HEADS = ("job", "pool", "phase", "workers", "age", "reason")


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job: ``workers`` of it are registered now; ``age_s`` is counted from when it was wanted."""

    job: str
    id: str
    pool: str
    phase: Phase
    workers: int
    age_s: float
    reason: str

    def cells(self) -> tuple[str, ...]:
        """The row as texts."""
        return (self.job, self.pool, self.phase.value, str(self.workers), f"{self.age_s:.0f} s", self.reason or "-")


@dataclass(frozen=True, slots=True)
class JobTable(Sequence[JobRow]):
    """The jobs of a cluster at one moment; a sequence of rows that prints as a table, in a notebook too.

    ``notes`` is what the backends want to be known, a sentence each.
    """

    rows: tuple[JobRow, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, index: int) -> JobRow:  # type: ignore[override]
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[JobRow]:
        return iter(self.rows)

    def __str__(self) -> str:
        table = [_HEADS, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(_HEADS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        return "\n".join([*(line.rstrip() for line in lines), *self.notes] if self.rows else ["no jobs", *self.notes])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _HEADS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) + "</tr>" for row in self.rows
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


class TellingStatus:
    """Compares and reads like Dask's ``Status``; called, it gives the table of jobs."""

    def __init__(self, status: Any, table: Callable[[], JobTable]) -> None:
        self._status, self._table = status, table

    def __call__(self) -> JobTable:
        return self._table()

    def __eq__(self, other: object) -> bool:
        return bool(self._status == getattr(other, "_status", other))

    def __hash__(self) -> int:
        return hash(self._status)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._status, name)

    def __repr__(self) -> str:
        return repr(self._status)


def job_table(record: Record | None, now_s: float, notes: Sequence[str] = ()) -> JobTable:
    """Every job that is known, the living first, the newest last."""
    lives = record.snapshot.lives.values() if record else ()
    ordered = sorted(lives, key=lambda life: (life.phase not in ALIVE, life.wanted_s, life.name))
    return JobTable(
        tuple(
            JobRow(life.name, life.id or "", life.pool, life.phase, life.present, now_s - life.wanted_s, life.reason)
            for life in ordered
        ),
        tuple(notes),
    )


def explanation(record: Record | None, holders: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
    """Why the cluster is as large as it is, what would make it grow, and why it does not shrink."""
    if record is None:
        return "The cluster has not decided yet: its first round is still to come."
    lines = []
    for name, state in record.snapshot.pools.items():
        alive = sum(life.pool == name and life.phase in ALIVE for life in record.snapshot.lives.values())
        want = record.target.pools.get(name)
        lines.append(f"Pool {name}: {alive} jobs, {want.jobs if want else '?'} wanted.")
        lines.append(f"  Why: {want.reason}" if want else "  The policy did not say why.")
        if record.plan.held.get(name):
            lines.append(f"  Held back: {record.plan.held[name]}")
        if state.broken:
            lines.append(f"  {'Broken' if state.failures else 'Waits'}: {state.broken}")  # a limit is no failure
        if state.stale:
            lines.append(f"  Not trusted: {state.stale}")
        lines.append(f"  {_would_grow(state, want or Want(alive, ''))}")
    lines += [f"Not done: {sentence}" for sentence in record.target.declined]
    lines += [f"Impossible: {sentence}" for sentence in record.target.impossible]
    lines += [f"Too long: {sentence}" for sentence in outlasting(record.snapshot).values()]
    lines += [f"Error: {record.error}"] if record.error else []
    lines += [f"Holds data: {sentence}" for sentence in holders]
    lines += [f"To be known: {sentence}" for sentence in notes]
    return "\n".join(lines)


def _would_grow(state: PoolState, want: Want) -> str:
    limits = state.pool.limits
    top = "or more" if limits.maximum is None else f"to {limits.maximum}"
    within = f"Limits: {limits.minimum} {top} jobs."
    if limits.maximum is not None and want.jobs >= limits.maximum:
        return f"{within} Only a larger maximum would make it grow."
    if want.firm:
        return f"{within} Its size was said; scale(n) or adapt() changes it."
    return f"{within} More work that it can run would make it grow."


class FirstWorker:
    """Says, once and in one line, that work waits long for its first worker, and what the resource manager answers.

    Parameters
    ----------
    notice_s:
        How long is long, in seconds; 0: never.
    """

    def __init__(self, notice_s: float) -> None:
        self._notice_s = notice_s
        self._since_s: float | None = None
        self._said = False

    def notice(self, record: Record) -> str:
        """The line where it is due in this round; empty otherwise."""
        load = record.snapshot.load
        if load.members or load.foreign.workers or not any(group.ready for group in load.groups):
            self._since_s, self._said = None, False
            return ""
        if self._since_s is None:
            self._since_s = record.at_s
        waited_s = record.at_s - self._since_s
        if self._said or not 0 < self._notice_s <= waited_s:
            return ""
        self._said = True
        return _waits(record, waited_s)


def _waits(record: Record, waited_s: float) -> str:
    snapshot = record.snapshot
    waiting = sum(group.ready for group in snapshot.load.groups)
    phases: dict[str, int] = {}
    for life in snapshot.lives.values():
        if life.phase in ALIVE:
            word = life.phase.value + (f" ({life.reason})" if life.reason else "")
            phases[word] = phases.get(word, 0) + 1
    troubles = [state.broken or state.stale for state in snapshot.pools.values() if state.broken or state.stale]
    reasons = [want.reason for want in record.target.pools.values()]
    jobs = ", ".join(f"{count} {word}" for word, count in phases.items()) or f"none ({'; '.join(reasons)})"
    words = f"{waiting} tasks have waited {waited_s:.0f} s for their first worker; jobs: {jobs}"
    return "; ".join([words, *troubles, *record.target.impossible])
