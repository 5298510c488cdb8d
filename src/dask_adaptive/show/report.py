"""A run, or several beside each other, as a file that people open: a picture, or a page with sums and decisions."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.journal import read_all
from dask_adaptive.model import Record
from dask_adaptive.phrases import count, duration
from dask_adaptive.show.picture import Group, beside, matplotlib, picture
from dask_adaptive.show.timeline import Decision, Timeline, Totals, timeline_of

__all__ = [
    "FORMATS",
    "MOST_BESIDE",
    "check_report",
    "check_writable",
    "comparison",
    "figures",
    "read_run",
    "report_one",
    "report_several",
    "summary",
    "write_comparison",
    "write_report",
]

FORMATS = (".html", ".png", ".svg")
"""Endings of file names that ``write_report`` knows."""

MOST_BESIDE = 4
"""More runs beside each other cannot be read."""

_TITLE = "Cluster and work"


def read_run(path: str | Path) -> list[Record]:
    """Every round that a journal kept, those of the file that it was rotated to first.

    The journal may still be written, and its end may be torn. Raises ``ConfigError`` where there is none, or nothing in
    it.
    """
    records = list(read_all(path))
    if not records and not Path(path).is_file():
        raise ConfigError(f"there is no journal {str(path)!r}")
    if not records:
        raise ConfigError(f"there is nothing to tell: the journal {str(path)!r} holds no round yet")
    return records


def report_one(journal: Path, output: Path | None = None, *, as_json: bool = False) -> list[str]:
    """What ``dask adaptive report JOURNAL`` prints; draws into ``output`` where one is given."""
    records = read_run(journal)
    timeline = timeline_of(records)
    if output is not None:
        write_report(records, output, title=journal.stem)
    if as_json:
        return [json.dumps(_plain(timeline), indent=2)]
    lines = [
        f"{decision.at_s:9.1f} s  {decision.pool}  {decision.sizes}: {decision.reason}"
        for decision in timeline.decisions
    ]
    return [*lines, summary(timeline.totals), *_said(output)]


def report_several(journals: Sequence[Path], output: Path | None = None, *, as_json: bool = False) -> list[str]:
    """What ``dask adaptive report JOURNAL JOURNAL`` prints: their sums side by side; draws them in the same way.

    Raises ``ConfigError`` for more than ``MOST_BESIDE``.
    """
    if len(journals) > MOST_BESIDE:
        raise ConfigError(f"at most {MOST_BESIDE} journals can be shown side by side, not {len(journals)}")
    stems = [journal.stem for journal in journals]
    names = stems if len(set(stems)) == len(stems) else [str(journal) for journal in journals]
    runs = [(name, timeline_of(read_run(journal))) for name, journal in zip(names, journals, strict=True)]
    if output is not None:
        write_comparison([("", runs)], output, title=" and ".join(names))
    if as_json:
        found = [{"journal": str(path), **_plain(each)} for path, (_, each) in zip(journals, runs, strict=True)]
        return [json.dumps(found, indent=2)]
    rows = [("", *names), *comparison([timeline.totals for _, timeline in runs])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [*lines, *_said(output)]


def _plain(timeline: Timeline) -> dict[str, Any]:
    return {"totals": asdict(timeline.totals), "decisions": [asdict(decision) for decision in timeline.decisions]}


def _said(output: Path | None) -> list[str]:
    return [f"picture in {output}"] if output else []


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
        For another ending, for a run without rounds, where matplotlib is not installed, or where the file cannot be
        written.
    """
    path = Path(path)
    check_report(path)
    timeline = _drawable(timeline_of(records), "the journal")
    form = path.suffix.lower()[1:]
    if form == "html":
        return _written(path, _page(timeline, title).encode())
    return _written(path, picture(timeline, form, title or _TITLE, summary(timeline.totals)))


def write_comparison(groups: Sequence[Group], path: str | Path, title: str = "") -> Path:
    """Draw several runs into a file, those of a group beside each other, and return its path.

    ``path`` and errors are as of ``write_report``.
    """
    path = Path(path)
    check_report(path)
    for _, runs in groups:
        for name, timeline in runs:
            _drawable(timeline, name)
    form = path.suffix.lower()[1:]
    made = _page_beside(groups, title or _TITLE).encode() if form == "html" else beside(groups, form, title or _TITLE)
    return _written(path, made)


def _drawable(timeline: Timeline, name: str) -> Timeline:
    if not timeline.at_s:
        raise ConfigError(f"there is nothing to draw: {name} holds no round")
    return timeline


def _written(path: Path, made: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made)
    except OSError as error:
        raise ConfigError(f"the picture cannot be written to {path}: {error.strerror or error}") from error
    return path


def check_report(path: Path) -> None:
    """Raise ``ConfigError`` if ``write_report`` could not write there; for asking before a long run."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a report cannot be written as {path.name!r}: {nearest(path.suffix.lower(), FORMATS)}")
    check_writable(path, "the picture")
    if path.exists() and not path.is_file():  # to write to a named pipe would wait for who reads it
        raise ConfigError(f"the picture cannot be written to {path}: it is no regular file; name another one")
    matplotlib()


def check_writable(path: Path, what: str) -> None:
    """Raise ``ConfigError`` if a file could not be written there; nothing is left.

    It is tried, as permissions do not tell: root may do everything, and yet there are no files below ``/proc``.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{what} cannot be written to {path}: it is a folder")
        if path.is_file():
            path.open("ab").close()
        elif not path.exists():
            with tempfile.TemporaryFile(dir=_foothold(path)):
                pass
    except OSError as error:
        raise ConfigError(f"{what} cannot be written to {path}: {error.strerror or error}") from error


def _foothold(path: Path) -> Path:
    """Where the file, or the first folder on the way to it, would be made; perhaps a link that leads nowhere.

    What a link names is made in the folder there, for which no folders are made. Raises ``OSError`` for links in a
    circle.
    """
    if path.is_symlink():
        end = Path(os.path.realpath(path))
        if end.is_symlink():
            end.stat()
        return end.parent
    return next(each for each in path.absolute().parents if os.path.lexists(each))


def summary(totals: Totals) -> str:
    """A run in one line: ``12.3 s, 40 worker-seconds, at most 4 workers, 6 jobs in 3 submits``."""
    parts = [
        duration(totals.duration_s),
        f"{totals.worker_s:,.0f} worker-seconds",
        f"at most {count(totals.largest, 'worker')}",
        f"{count(totals.submitted, 'job')} in {count(totals.submits, 'submit')}",
    ]
    if totals.failures:
        parts.append(f"{count(totals.failures, 'job')} failed")
    if totals.errors:
        parts.append(f"{count(totals.errors, 'round')} without a decision")
    return ", ".join(parts)


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
    sums = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures(timeline.totals).items())
    decisions = f"<h2>Decisions</h2>\n{_table(timeline.decisions)}"
    return _document(title or _TITLE, f"<dl>{sums}</dl>\n{_inline(picture(timeline, 'svg'))}\n{decisions}")


def _page_beside(groups: Sequence[Group], title: str) -> str:
    return _document(title, "\n".join(_section(group) for group in groups))


def _section(group: Group) -> str:
    """The runs of one group: their picture, their sums, and the decisions of each to be unfolded."""
    name, runs = group
    head = "".join(f"<th>{html.escape(each)}</th>" for each, _ in runs)
    rows = "".join(
        f"<tr><td>{word}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
        for word, *values in comparison([timeline.totals for _, timeline in runs])
    )
    lists = "".join(
        f"<details><summary>Decisions of {html.escape(each)}</summary>{_table(timeline.decisions)}</details>"
        for each, timeline in runs
    )
    heading = f"<h2>{html.escape(name)}</h2>\n" if name else ""
    svg = _inline(beside([("", runs)], "svg"))
    return f"{heading}{svg}\n<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>\n{lists}"


def _document(title: str, body: str) -> str:
    heading = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{heading}</title><style>{_STYLE}</style></head>\n<body><h1>{heading}</h1>\n{body}\n</body></html>\n"
    )


def _inline(svg: bytes) -> str:
    text = svg.decode()
    return text[text.index("<svg") :]


def comparison(totals: Sequence[Totals]) -> list[tuple[str, ...]]:
    """The figures of several runs: a row for each, its word first."""
    columns = [figures(each) for each in totals]
    return [(word, *(column[word] for column in columns)) for word in columns[0]]


def figures(totals: Totals) -> dict[str, str]:
    """What a run took, in words and numbers."""
    return {
        "time": duration(totals.duration_s),
        "worker-seconds": f"{totals.worker_s:,.0f}",
        "most workers": f"{totals.largest:,}",
        "jobs submitted": f"{totals.submitted:,}",
        "jobs failed": f"{totals.failures:,}",
        "rounds without a decision": f"{totals.errors:,}",
    }


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
