"""A run as a file that people open: a picture, or a page with the picture, the summary and every decision."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.model import Record
from dask_adaptive.show.picture import matplotlib, picture
from dask_adaptive.show.timeline import Decision, Timeline, Totals, timeline_of

__all__ = ["FORMATS", "check_report", "duration", "summary", "write_report"]

FORMATS = (".html", ".png", ".svg")
"""Endings of file names that ``write_report`` knows."""

_TITLE = "Cluster and work"


def write_report(records: Sequence[Record], path: str | Path, title: str = "") -> Path:
    """Draw a run into a file and return its path.

    Parameters
    ----------
    records:
        The rounds of the run, in the order of time.
    path:
        Where to; its ending chooses the form: ``.html`` (picture, summary and every decision, in one file that needs
        no other), ``.png`` or ``.svg``.
    title:
        What was run; shown above the picture.

    Raises
    ------
    ConfigError
        For another ending, for a run without rounds, or where matplotlib is not installed.
    """
    path = Path(path)
    check_report(path)
    if not records:
        raise ConfigError("there is nothing to draw: the journal holds no round")
    timeline = timeline_of(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        path.write_text(_page(timeline, title), encoding="utf-8")
    else:
        path.write_bytes(picture(timeline, path.suffix.lower()[1:], title or _TITLE, summary(timeline.totals)))
    return path


def check_report(path: Path) -> None:
    """Raise ``ConfigError`` if ``write_report`` could not write there; for asking before a long run."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a report cannot be written as {path.name!r}: {nearest(path.suffix.lower(), FORMATS)}")
    matplotlib()


def summary(totals: Totals) -> str:
    """A run in one line: ``12.3 s, 40 worker-seconds, at most 4 workers, 6 jobs in 3 submits``."""
    parts = [
        duration(totals.duration_s),
        f"{totals.worker_s:,.0f} worker-seconds",
        f"at most {_count(totals.largest, 'worker')}",
        f"{_count(totals.submitted, 'job')} in {_count(totals.submits, 'submit')}",
    ]
    if totals.failures:
        parts.append(f"{_count(totals.failures, 'job')} failed")
    if totals.errors:
        parts.append(f"{_count(totals.errors, 'round')} without a decision")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- the page --------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1rem 0; }
dt { color: #666; font-size: .85em; } dd { margin: 0; font-size: 1.35em; font-weight: 600; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
"""


def _page(timeline: Timeline, title: str) -> str:
    svg = picture(timeline, "svg").decode()
    heading = html.escape(title or _TITLE)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{heading}</title><style>{_STYLE}</style></head>\n<body><h1>{heading}</h1>\n"
        f"{_figures(timeline.totals)}\n{svg[svg.index('<svg') :]}\n<h2>Decisions</h2>\n{_table(timeline.decisions)}\n"
        "</body></html>\n"
    )


def _figures(totals: Totals) -> str:
    figures = {
        "time": duration(totals.duration_s),
        "worker-seconds": f"{totals.worker_s:,.0f}",
        "most workers": f"{totals.largest:,}",
        "jobs submitted": f"{totals.submitted:,}",
        "jobs failed": f"{totals.failures:,}",
        "rounds without a decision": f"{totals.errors:,}",
    }
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items()) + "</dl>"


def _table(decisions: Sequence[Decision]) -> str:
    rows = [
        f'<tr><td class="number">{decision.number}</td><td class="number">{decision.at_s:.1f} s</td>'
        f'<td>{html.escape(decision.pool)}</td><td class="number">{decision.sizes}</td>'
        f"<td>{html.escape(decision.reason)}</td></tr>"
        for decision in decisions
    ]
    if not rows:
        return "<p>None: the size was right all the time.</p>"
    head = "<tr><th></th><th>when</th><th>pool</th><th>jobs</th><th>why</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
