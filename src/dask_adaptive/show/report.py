"""The picture of a run: how the cluster followed its work, and why.

Above, the jobs by phase with the limits, and a numbered mark for each decision; below, the work on the same axis of
time; under both, the decisions in words. The colours are those of Okabe and Ito ("Color Universal Design", 2008),
which people with any kind of colour vision can tell apart; phases that are not yet serving are lighter.
"""

from __future__ import annotations

import html
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.model import Phase, Record
from dask_adaptive.show.timeline import Decision, Timeline, Totals, timeline_of

__all__ = ["BANDS", "FORMATS", "check_report", "duration", "summary", "write_report"]

FORMATS = (".html", ".png", ".svg")
"""Endings of file names that ``write_report`` knows."""

BANDS: tuple[tuple[str, str, tuple[Phase, ...]], ...] = (
    ("ready", "#009E73", (Phase.READY,)),
    ("draining", "#CC79A7", (Phase.DRAINING, Phase.ENDING)),
    ("starting", "#E69F00", (Phase.STARTING,)),
    ("queued", "#F5DE9A", (Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED)),
    ("unknown", "#999999", (Phase.UNKNOWN,)),
)
"""Phases that are shown as one, from the bottom up: word and colour."""

_WORK = (("running", "#0072B2"), ("ready", "#56B4E9"), ("waiting", "#D4E6F1"))
_TITLE = "Cluster and work"
_INK, _FAINT, _FAULT = "#222222", "#8A8A8A", "#D55E00"
_WIDTH_IN = 11
_KEY = 12  # more numbers than that cannot be told apart at this width


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
        path.write_bytes(_picture(timeline, path.suffix.lower()[1:], title, words=True))
    return path


def check_report(path: Path) -> None:
    """Raise ``ConfigError`` if ``write_report`` could not write there; for asking before a long run."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a report cannot be written as {path.name!r}: {nearest(path.suffix.lower(), FORMATS)}")
    _matplotlib()


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


def _change(decision: Decision) -> str:
    return f"{decision.before} → {decision.after}"


# --- the picture -----------------------------------------------------------------------------------------------


def _picture(timeline: Timeline, form: str, title: str = "", words: bool = False) -> bytes:
    """The picture as bytes of a PNG or SVG; with ``words``, title, summary and key decisions are in it."""
    matplotlib = _matplotlib()
    key = _key_decisions(timeline)
    lines = _lines(key, len(timeline.decisions)) if words else []
    words_in = 0.3 + 0.2 * sum(why.count("\n") + 1 for *_, why in lines)
    height_in = (5.9 if words else 5.3) + words_in
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "dask-adaptive", "font.size": 10}):
        figure = matplotlib.figure.Figure(figsize=(_WIDTH_IN, height_in), dpi=120, facecolor="white")
        bottom, top = (words_in + 0.55) / height_in, 1 - (1.25 if words else 0.65) / height_in
        grid = figure.add_gridspec(
            2, 1, height_ratios=(3, 2), hspace=0.12, bottom=bottom, top=top, left=0.06, right=0.9
        )
        jobs = figure.add_subplot(grid[0])
        work = figure.add_subplot(grid[1], sharex=jobs)
        _draw_jobs(jobs, timeline)
        _draw_work(work, timeline)
        _draw_marks(jobs, work, timeline, key)
        if words:
            figure.text(
                0.02, 1 - 0.32 / height_in, title or _TITLE, size=13, weight="bold", color=_INK, parse_math=False
            )
            figure.text(0.02, 1 - 0.58 / height_in, summary(timeline.totals), size=10, color=_FAINT)
            _draw_lines(figure, lines, words_in)
        out = io.BytesIO()
        figure.savefig(out, format=form, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def _matplotlib() -> Any:
    try:
        import matplotlib  # an extra, and slow to import
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib: pip install 'dask-adaptive[report]'") from error
    return matplotlib


def _draw_jobs(axes: Any, timeline: Timeline) -> None:
    zeros = (0,) * len(timeline.at_s)
    bands = [
        (
            name,
            colour,
            [sum(each) for each in zip(*(timeline.phases.get(phase, zeros) for phase in phases), strict=True)],
        )
        for name, colour, phases in BANDS
    ]
    shown = [band for band in bands if any(band[2])]
    top = _stack(axes, timeline, shown)
    maxima = [limit for limit in timeline.maximum if limit is not None]
    near = [limit for limit in maxima if limit <= max(4 * top, 8)]
    _draw_limit(axes, timeline, timeline.maximum if near else (), "maximum")
    _draw_limit(axes, timeline, timeline.minimum if any(timeline.minimum) else (), "minimum")
    axes.set_ylim(0, max(top, *near, 1) * 1.12)
    _draw_failures(axes, timeline)
    _tidy(axes, "jobs")
    axes.tick_params(labelbottom=False)


def _draw_work(axes: Any, timeline: Timeline) -> None:
    bands = [(name, colour, [getattr(work, name) for work in timeline.work]) for name, colour in _WORK]
    top = _stack(axes, timeline, [band for band in bands if any(band[2])])
    axes.set_ylim(0, max(top, 1) * 1.1)
    axes.set_xlim(0, max(timeline.at_s[-1], 1e-3))
    axes.set_xlabel("seconds since the start", color=_INK)
    _tidy(axes, "tasks")


def _stack(axes: Any, timeline: Timeline, bands: Sequence[tuple[str, str, Sequence[int]]]) -> int:
    """Draw the bands on each other as steps, the legend beside them in the same order; the highest sum."""
    base = [0] * len(timeline.at_s)
    for name, colour, series in bands:
        upper = [low + value for low, value in zip(base, series, strict=True)]
        axes.fill_between(timeline.at_s, base, upper, step="post", color=colour, linewidth=0, label=name)
        base = upper
    if any(base):
        axes.step(timeline.at_s, base, where="post", color=_INK, linewidth=0.8)
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "upper left", "bbox_to_anchor": (1.005, 1.0), "frameon": False}
    axes.legend(handles[::-1], labels[::-1], **place, handlelength=1.2, labelcolor=_INK)
    return max(base)


def _draw_limit(axes: Any, timeline: Timeline, series: Iterable[int | None], name: str) -> None:
    values = [math.nan if value is None else value for value in series]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return
    axes.step(timeline.at_s, values, where="post", color=_FAULT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=3)
    place = {"xy": (0.0, known[0]), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(f"{name} {known[0]:g}", xytext=(4, 2), va="bottom", color=_FAULT, size=9, **place)


def _draw_failures(axes: Any, timeline: Timeline) -> None:
    failed = timeline.phases.get(Phase.FAILED, ())
    at_s = [at for at, before, now in zip(timeline.at_s, (0, *failed), failed, strict=False) if now > before]
    if at_s:
        axes.plot(at_s, [0] * len(at_s), "x", color=_FAULT, markersize=9, markeredgewidth=2.2, clip_on=False, zorder=5)
        place = {"xycoords": ("data", "data"), "textcoords": "offset points", "xytext": (7, 5)}
        axes.annotate("job failed", xy=(at_s[0], 0), color=_FAULT, size=9, **place)


def _draw_marks(jobs: Any, work: Any, timeline: Timeline, key: Sequence[Decision]) -> None:
    """A thin line through both panels for each decision; the key ones carry their number."""
    numbered = {decision.number for decision in key}
    width_s = max(timeline.at_s[-1], 1e-3)
    for decision in timeline.decisions:
        strong = decision.number in numbered
        for axes in (jobs, work):
            axes.axvline(decision.at_s, color=_INK, linewidth=0.7 if strong else 0.4, alpha=0.35 if strong else 0.15)
    ends_s = [-width_s] * 3
    for decision in key:
        row = next((row for row, end_s in enumerate(ends_s) if decision.at_s - end_s > 0.022 * width_s), 0)
        ends_s[row] = decision.at_s
        jobs.annotate(
            str(decision.number),
            xy=(decision.at_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 10 + 16 * row),
            textcoords="offset points",
            size=8,
            ha="center",
            va="center",
            color="white",
            bbox={
                "boxstyle": "circle,pad=0.28",
                "facecolor": _INK if decision.change > 0 else "#6B6B6B",
                "linewidth": 0,
            },
            zorder=6,
        )


def _tidy(axes: Any, label: str) -> None:
    axes.set_ylabel(label, color=_INK)
    axes.yaxis.set_major_locator(_matplotlib().ticker.MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK, length=3)


def _key_decisions(timeline: Timeline) -> list[Decision]:
    """Those that changed most, in the order of time; earlier ones first among equals."""
    largest = sorted(timeline.decisions, key=lambda decision: (-abs(decision.change), decision.number))[:_KEY]
    return sorted(largest, key=lambda decision: decision.number)


def _lines(decisions: Sequence[Decision], total: int) -> list[tuple[str, str, str, str]]:
    """Number, time, change and reason of each decision, to be written in columns."""
    lines = [
        (
            str(decision.number),
            f"{decision.at_s:,.1f} s",
            f"{_change(decision)} jobs",
            textwrap.fill(decision.reason, width=128, max_lines=2, placeholder=" ..."),
        )
        for decision in decisions
    ]
    left_out = total - len(decisions)
    return [*lines, ("", "", "", f"and {left_out} more")] if left_out > 0 else lines


def _draw_lines(figure: Any, lines: Sequence[tuple[str, str, str, str]], top_in: float) -> None:
    height_in = figure.get_figheight()
    at_in = top_in
    for number, when, change, why in lines:
        for x, text, side in (
            (0.035, number, "right"),
            (0.095, when, "right"),
            (0.11, change, "left"),
            (0.2, why, "left"),
        ):
            figure.text(x, at_in / height_in, text, size=9, va="top", ha=side, color=_INK, parse_math=False)
        at_in -= 0.2 * (why.count("\n") + 1)


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
    svg = _picture(timeline, "svg").decode()
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
        f'<td>{html.escape(decision.pool)}</td><td class="number">{_change(decision)}</td>'
        f"<td>{html.escape(decision.reason)}</td></tr>"
        for decision in decisions
    ]
    if not rows:
        return "<p>None: the size was right all the time.</p>"
    head = "<tr><th></th><th>when</th><th>pool</th><th>jobs</th><th>why</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
