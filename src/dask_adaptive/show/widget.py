"""A cluster in a notebook: what it is doing, as HTML, and buttons to size it."""

from __future__ import annotations

import asyncio
import html
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dask_adaptive.errors import AdaptiveError
from dask_adaptive.model import ALIVE, Phase, Record
from dask_adaptive.phrases import count
from dask_adaptive.show.bulletin import spent
from dask_adaptive.show.picture import BANDS
from dask_adaptive.show.timeline import Decision, decisions_of, jobs_by_phase, work_of

__all__ = ["make_widget", "status_html"]

_EVERY_S = 0.5
_CELL = 'style="text-align: left; padding: 0 1em 0 0; vertical-align: top"'


def status_html(
    records: Sequence[Record],
    name: str = "",
    dashboard: str | None = None,
    bulletin: Mapping[str, Any] | None = None,
) -> str:
    """What a cluster is doing, as a piece of HTML: jobs by phase, work, the last decision and why, the pools.

    Parameters
    ----------
    records:
        The rounds that the cluster keeps, the newest last; none before it has started.
    name:
        Of the cluster.
    dashboard:
        Address of the Dask dashboard; None for no link.
    bulletin:
        What the page on the dashboard shows; start-up times and spend are taken from it.
    """
    rows: list[tuple[str, str]] = []
    if records:
        now = records[-1]
        rows += [("jobs", _bar(now)), ("tasks", _work(now)), *_pools(now, (bulletin or {}).get("pools", {}))]
        decision = _last_decision(records)
        if decision is not None:
            rows.append(("last", f"{decision.sizes} jobs: {html.escape(decision.reason)}"))
        if now.error:
            rows.append(("wrong", f"<b>{html.escape(now.error)}</b>"))
        rows += [("impossible", html.escape(sentence)) for sentence in now.target.impossible]
    else:
        rows.append(("jobs", "none yet"))
    if dashboard:
        link = html.escape(dashboard, quote=True)
        rows.append(("dashboard", f'<a href="{link}" target="_blank">{link}</a>'))
    body = "".join(f"<tr><th {_CELL}>{row}</th><td {_CELL}>{cell}</td></tr>" for row, cell in rows)
    return f'<div><strong>{html.escape(name) or "cluster"}</strong><table style="border: none">{body}</table></div>'


def _bar(record: Record) -> str:
    """One coloured piece for each phase, as wide as its share, and the numbers in words."""
    counts = jobs_by_phase(record.snapshot)
    shown = [
        (label, colour, jobs) for label, colour, phases in BANDS if (jobs := sum(counts[phase] for phase in phases))
    ]
    if not shown:
        return "none"
    pieces = "".join(f'<span style="flex: {jobs}; background: {colour}"></span>' for _, colour, jobs in shown)
    words = ", ".join(f"{jobs:,} {label}" for label, _, jobs in shown)
    return f'<div style="display: flex; width: 16em; height: .7em; margin: .3em 0">{pieces}</div>{words}'


def _work(record: Record) -> str:
    work = work_of(record.snapshot)
    return f"{work.running:,} running, {work.ready:,} ready, {work.waiting:,} waiting"


def _pools(record: Record, told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each pool its size, its limits, what was learned and spent, and what is wrong with it."""
    rows = []
    for name, state in record.snapshot.pools.items():
        limits = state.pool.limits
        top = "without a maximum" if limits.maximum is None else f"at most {limits.maximum:,}"
        size = sum(life.pool == name and life.phase in ALIVE for life in record.snapshot.lives.values())
        failed = sum(life.pool == name and life.phase is Phase.FAILED for life in record.snapshot.lives.values())
        said = [f"{count(size, 'job')}; at least {limits.minimum:,}, {top}"]
        if name in told:
            learned = told[name]["startup"]
            said += [f"starts in {learned['start'][0]:.1f} s"] if "start" in learned else []
            said += [f"spent {spent(told[name])}"]
        said += [f"{failed} failed"] if failed else []
        said += [f"broken: {state.broken}"] if state.broken else []
        said += [f"job list is old: {state.stale}"] if state.stale else []
        rows.append((f"pool {html.escape(name)}", html.escape("; ".join(said))))
    return rows


def _last_decision(records: Sequence[Record]) -> Decision | None:
    for record in reversed(records):
        *_, last = None, *decisions_of([record])
        if last is not None:
            return last
    return None


def make_widget(cluster: Any) -> Any:
    """A notebook widget for a cluster, or None where ipywidgets is not installed.

    It shows ``status_html``, refreshed twice a second for as long as the cluster lives, and has buttons for
    ``cluster.scale(n)`` and ``cluster.adapt(minimum=, maximum=)``; what these refuse is shown below them.
    """
    try:
        import ipywidgets  # an extra
    except ImportError:
        return None
    status, said = ipywidgets.HTML(), ipywidgets.HTML()
    narrow = ipywidgets.Layout(width="150px")
    workers = ipywidgets.BoundedIntText(0, min=0, max=1_000_000, description="workers", layout=narrow)
    minimum = ipywidgets.BoundedIntText(0, min=0, max=1_000_000, description="minimum", layout=narrow)
    maximum = ipywidgets.BoundedIntText(1, min=1, max=1_000_000, description="maximum", layout=narrow)
    scale = ipywidgets.Button(description="Scale", tooltip="Always so many workers")
    adapt = ipywidgets.Button(description="Adapt", tooltip="As many as the work needs, within these limits")
    scale.on_click(_asking(lambda: cluster.scale(workers.value), said))
    adapt.on_click(_asking(lambda: cluster.adapt(minimum=minimum.value, maximum=maximum.value), said))

    def refresh() -> None:
        with suppress(AttributeError):  # the cluster is being closed
            records, bulletin = tuple(cluster.records), getattr(cluster, "bulletin", dict[str, Any])()
            status.value = status_html(records, cluster.name, cluster.dashboard_link, bulletin)

    refresh()
    _every(cluster, refresh)
    rows = [ipywidgets.HBox([workers, scale]), ipywidgets.HBox([minimum, maximum, adapt])]
    return ipywidgets.VBox([status, *rows, said])


def _asking(ask: Callable[[], Any], said: Any) -> Callable[[Any], None]:
    """A click handler that shows what the cluster answers instead of losing it in a log."""
    asked: set[asyncio.Future[Any]] = set()

    def clicked(_button: Any) -> None:
        said.value = ""
        try:
            answer = ask()
        except AdaptiveError as error:
            said.value = html.escape(str(error))
        else:
            if inspect.isawaitable(answer):  # an asynchronous cluster, on the loop of this notebook
                asked.add(task := asyncio.ensure_future(answer))
                task.add_done_callback(asked.discard)

    return clicked


def _every(cluster: Any, refresh: Callable[[], None]) -> None:
    from tornado.ioloop import PeriodicCallback

    def install() -> None:
        callback = PeriodicCallback(refresh, _EVERY_S * 1000)
        cluster.periodic_callbacks["cluster-repr"] = callback  # stopped by the cluster when it closes
        callback.start()

    cluster.loop.add_callback(install)
