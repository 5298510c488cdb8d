"""What a cluster does right now, in a terminal: its size, its work, the last decision and why.

On a terminal of its own the view redraws itself in place (with rich); everywhere else, and where a script writes to
the same terminal, it is one plain line for each change, written whole.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from types import TracebackType
from typing import Any, Protocol, TextIO

from dask_adaptive.model import ALIVE, Phase, Record
from dask_adaptive.phrases import count
from dask_adaptive.show.timeline import Decision, decisions_of, jobs_by_phase, work_of

__all__ = ["LiveView", "Recorded", "headline", "news"]

_EVERY_S = 0.2
_SHADES = {
    Phase.READY: "green",
    Phase.STARTING: "yellow",
    Phase.DRAINING: "magenta",
    Phase.ENDING: "magenta",
    Phase.FAILED: "red",
}


class Recorded(Protocol):
    """Anything that keeps the records of its rounds, the newest last: a cluster, a journal."""

    @property
    def records(self) -> Sequence[Record]:
        """The rounds that are kept."""
        ...


def headline(record: Record) -> str:
    """Size and work in one line: ``3 jobs (2 ready, 1 starting), 40 tasks (2 running)``."""
    alive = _sizes(record)
    work = work_of(record.snapshot)
    jobs, tasks = count(sum(alive.values()), "job"), count(work.pending, "task")
    phases = ", ".join(f"{alive[phase]:,} {phase.value}" for phase in Phase if phase in alive)
    return f"{jobs}{phases and f' ({phases})'}, {tasks}{f' ({work.running:,} running)' if work.running else ''}"


def news(record: Record, before: Record | None) -> str | None:
    """The headline with what was decided or went wrong; None where nothing of that changed since ``before``."""
    said = [_words(decision, record) for decision in decisions_of([record])]
    if record.error and (before is None or record.error != before.error):
        said.append(f"no decision: {record.error}")
    said += [f"job {name} failed{reason and f': {reason}'}" for name, reason in _failed(record, before)]
    if before is not None and not said and _sizes(record) == _sizes(before):
        return None
    return "; ".join([headline(record), *said])


def _words(decision: Decision, record: Record) -> str:
    pool = f"{decision.pool} " if len(record.snapshot.pools) > 1 else ""
    return f"{pool}{decision.sizes}: {decision.reason}"


def _sizes(record: Record) -> Counter[Phase]:
    return Counter({phase: jobs for phase, jobs in jobs_by_phase(record.snapshot).items() if phase in ALIVE})


def _failed(record: Record, before: Record | None) -> list[tuple[str, str]]:
    known = before.snapshot.lives if before else {}
    return [
        (name, life.reason)
        for name, life in record.snapshot.lives.items()
        if life.phase is Phase.FAILED and (name not in known or known[name].phase is not Phase.FAILED)
    ]


class LiveView:
    """Shows a cluster for as long as the ``with`` block runs; never raises and never holds the cluster up.

    Parameters
    ----------
    cluster:
        What is shown; its ``records`` are read a few times a second.
    stream:
        Where to; standard error when None, so that it never mixes with what a script prints.
    redraw:
        True to draw in place, False for plain lines; when None, in place where the stream is a terminal and rich is
        installed.
    """

    def __init__(self, cluster: Recorded, stream: TextIO | None = None, *, redraw: bool | None = None) -> None:
        self._cluster = cluster
        self._stream = sys.stderr if stream is None else stream
        self._screen = _screen(self._stream) if redraw or (redraw is None and self._stream.isatty()) else None
        self._start_s: float | None = None
        self._before: Record | None = None
        self._decision: Decision | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adaptive-live-view", daemon=True)

    def __enter__(self) -> LiveView:
        if self._screen is not None:
            self._screen.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._screen is not None:
            self._screen.stop()

    def _run(self) -> None:
        with suppress(OSError, ValueError):  # nobody reads the stream any longer
            while not self._over.wait(_EVERY_S):
                self._look()
            self._look()

    def _look(self) -> None:
        seen = -1 if self._before is None else self._before.number
        new = list(takewhile(lambda record: record.number > seen, reversed(tuple(self._cluster.records))))
        for record in reversed(new):
            self._show(record)
            self._before = record

    def _show(self, record: Record) -> None:
        if self._start_s is None:
            self._start_s = record.at_s
        self._decision = next(decisions_of([record]), self._decision)
        if self._screen is not None:
            self._screen.update(_drawing(record, self._decision))
            return
        line = news(record, self._before)
        if line is not None:
            self._stream.write(f"adaptive {record.at_s - self._start_s:7.1f} s  {line}\n")
            self._stream.flush()


def _screen(stream: TextIO) -> Any:
    try:
        from rich.console import Console  # an extra
        from rich.live import Live
    except ImportError:
        return None
    return Live(console=Console(file=stream), refresh_per_second=5, transient=True)


def _drawing(record: Record, decision: Decision | None) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    work = work_of(record.snapshot)
    sizes = _sizes(record)
    jobs = Text("  ").join(
        Text(f"{'■' * min(sizes[phase], 40)} {sizes[phase]} {phase.value}", style=_SHADES.get(phase, "white"))
        for phase in Phase
        if sizes[phase]
    )
    table = Table.grid(padding=(0, 2))
    table.add_row("jobs", jobs or Text("none", style="dim"))
    table.add_row("tasks", f"{work.running:,} running, {work.ready:,} ready, {work.waiting:,} waiting")
    if decision is not None:
        table.add_row("last", Text(_words(decision, record)))
    if record.error:
        table.add_row("wrong", Text(record.error, style="bold red"))
    return Panel(table, title="dask adaptive", title_align="left")
