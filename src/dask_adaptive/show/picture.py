"""The picture of a run: how the cluster followed its work, and why.

Above, the jobs by phase with the limits, and a numbered mark for each decision; below, the work on the same axis of
time; under both, the decisions in words. The colours are those of Okabe and Ito ("Color Universal Design", 2008),
which people with any kind of colour vision can tell apart; phases that are not yet serving are lighter.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Phase
from dask_adaptive.show.timeline import Decision, Timeline

__all__ = ["BANDS", "WORK", "Group", "beside", "matplotlib", "picture"]

Group = tuple[str, Sequence[tuple[str, Timeline]]]
"""Runs that are drawn beside each other on the same scales: what they share, and each with its name."""

BANDS: tuple[tuple[str, str, tuple[Phase, ...]], ...] = (
    ("ready", "#009E73", (Phase.READY,)),
    ("draining", "#CC79A7", (Phase.DRAINING, Phase.ENDING)),
    ("starting", "#E69F00", (Phase.STARTING,)),
    ("queued", "#F5DE9A", (Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED)),
    ("unknown", "#999999", (Phase.UNKNOWN,)),
)
"""Phases that are shown as one, from the bottom up: word and colour."""

WORK = (("running", "#0072B2"), ("ready", "#56B4E9"), ("waiting", "#D4E6F1"))
"""Tasks, from the bottom up: word (a field of ``Work``) and colour."""

_INK, _FAINT, _FAULT = "#222222", "#8A8A8A", "#D55E00"
_WIDTH_IN = 11
_KEY = 12  # more numbers than that cannot be told apart at this width
_POINTS = 2_000  # more than there are dots on a screen


def picture(timeline: Timeline, form: str, title: str = "", subtitle: str = "") -> bytes:
    """Draw a run.

    Parameters
    ----------
    timeline:
        The run; of one round at least.
    form:
        ``"png"`` or ``"svg"``.
    title, subtitle:
        Written above the picture; with a title the key decisions are written below it.

    Returns
    -------
    bytes
        The same for the same run.

    Raises
    ------
    ConfigError
        Where matplotlib is not installed.
    """
    key, timeline = _key_decisions(timeline), thinned(timeline, _POINTS)
    lines = _lines(key, timeline) if title else []
    above_in = 1.25 if title else 0.65
    below_in = 0.3 + 0.2 * sum(why.count("\n") + 1 for *_, why in lines)
    height_in = 4.65 + above_in + below_in
    with matplotlib().rc_context(_STYLE):
        figure = matplotlib().figure.Figure(figsize=(_WIDTH_IN, height_in), dpi=120, facecolor="white")
        edges = {"bottom": (below_in + 0.55) / height_in, "top": 1 - above_in / height_in, "left": 0.06, "right": 0.9}
        jobs, work = figure.subplots(2, sharex=True, height_ratios=(3, 2), gridspec_kw={"hspace": 0.12, **edges})
        _draw_jobs(jobs, timeline)
        _draw_work(work, timeline)
        _draw_marks(jobs, work, timeline, key)
        _legend([jobs], BANDS)
        _legend([work], WORK)
        heading = {"color": _INK, "size": 13, "weight": "bold", "parse_math": False}
        figure.text(0.02, 1 - 0.32 / height_in, title, **heading)
        figure.text(0.02, 1 - 0.58 / height_in, subtitle, color=_FAINT)
        _draw_lines(figure, lines, below_in)
        return _saved(figure, form)


def beside(groups: Sequence[Group], form: str, title: str = "") -> bytes:
    """Draw several runs: those of a group beside each other on the same scales, the groups below each other.

    Parameters
    ----------
    groups:
        Of one run at least each.
    form:
        ``"png"`` or ``"svg"``.
    title:
        Written above all.

    Raises
    ------
    ConfigError
        Where matplotlib is not installed.
    """
    columns = max(len(runs) for _, runs in groups)
    above_in, head_in = 0.6 if title else 0.1, 0.75 if any(name for name, _ in groups) else 0.4
    row_in = head_in + 3.65
    height_in = above_in + row_in * len(groups)
    with matplotlib().rc_context(_STYLE):
        width_in = max(_WIDTH_IN, 1.6 + 3.4 * columns)
        figure = matplotlib().figure.Figure(figsize=(width_in, height_in), dpi=120, facecolor="white")
        heading = {"color": _INK, "size": 13, "weight": "bold", "parse_math": False}
        figure.text(0.02, 1 - 0.32 / height_in, title, **heading)
        for row, group in enumerate(groups):
            top_in = height_in - above_in - row * row_in
            edges = {"top": (top_in - head_in) / height_in, "bottom": (top_in - row_in + 0.55) / height_in}
            sides = {"left": 0.7 / width_in, "right": 1 - 1.2 / width_in}
            grid = figure.add_gridspec(2, columns, height_ratios=(3, 2), hspace=0.12, wspace=0.14, **edges, **sides)
            figure.text(0.02, (top_in - 0.2) / height_in, group[0], color=_INK, size=11, parse_math=False)
            _draw_group(figure, grid, group[1])
        return _saved(figure, form)


def _draw_group(figure: Any, grid: Any, runs: Sequence[tuple[str, Timeline]]) -> None:
    upper: list[Any] = []
    lower: list[Any] = []
    for column, (name, whole) in enumerate(runs):
        timeline = thinned(whole, _POINTS)
        jobs, work = (figure.add_subplot(grid[row, column]) for row in (0, 1))
        _draw_jobs(jobs, timeline)
        _draw_work(work, timeline)
        _draw_marks(jobs, work, timeline, ())
        jobs.set_title(name, size=10, color=_INK, loc="left", parse_math=False)
        upper.append(jobs)
        lower.append(work)
    right = max(axes.get_xlim()[1] for axes in lower)
    for row, bands in ((upper, BANDS), (lower, WORK)):
        top = max(axes.get_ylim()[1] for axes in row)
        for axes in row:
            axes.set_xlim(0, right)
            axes.set_ylim(0, top)
        for axes in row[1:]:
            axes.set_ylabel("")
        _legend(row, bands)


def thinned(timeline: Timeline, points: int) -> Timeline:
    """The same with about so many rounds, if there are more: of each span of time the busiest round, and its last."""
    count = len(timeline.at_s)
    if count <= points:
        return timeline
    span_s = max(timeline.at_s[-1], 1e-9) / (points // 2)
    chosen: dict[int, int] = {}
    for index, at_s in enumerate(timeline.at_s):
        busiest = chosen.setdefault(int(at_s / span_s), index)
        if timeline.workers[index] > timeline.workers[busiest]:
            chosen[int(at_s / span_s)] = index
    ends = {int(at_s / span_s): index for index, at_s in enumerate(timeline.at_s)}
    keep = sorted({0, count - 1, *chosen.values(), *ends.values()})

    def kept(series: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(series[index] for index in keep)

    return replace(
        timeline,
        at_s=kept(timeline.at_s),
        phases={phase: kept(series) for phase, series in timeline.phases.items()},
        workers=kept(timeline.workers),
        work=kept(timeline.work),
        minimum=kept(timeline.minimum),
        maximum=kept(timeline.maximum),
    )


_STYLE = {"svg.fonttype": "path", "svg.hashsalt": "dask-adaptive", "font.size": 10}


def _saved(figure: Any, form: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=form, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def matplotlib() -> Any:
    """The module, imported when it is needed. Raises ``ConfigError`` where it is not installed."""
    try:
        import matplotlib  # an extra, and slow to import
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib: pip install 'dask-adaptive[report]'") from error
    return matplotlib


def _draw_jobs(axes: Any, timeline: Timeline) -> None:
    zeros = (0,) * len(timeline.at_s)
    bands = []
    for name, colour, phases in BANDS:
        series = zip(*(timeline.phases.get(phase, zeros) for phase in phases), strict=True)
        bands.append((name, colour, [sum(counts) for counts in series]))
    top = _stack(axes, timeline, [band for band in bands if any(band[2])])
    maxima = [limit for limit in timeline.maximum if limit is not None]
    near = [limit for limit in maxima if limit <= max(4 * top, 8)]
    _draw_limit(axes, timeline, timeline.maximum if near else (), "maximum")
    _draw_limit(axes, timeline, timeline.minimum if any(timeline.minimum) else (), "minimum")
    axes.set_ylim(0, max(top, *near, 1) * 1.12)
    _draw_failures(axes, timeline)
    _tidy(axes, "jobs")
    axes.tick_params(labelbottom=False)


def _draw_work(axes: Any, timeline: Timeline) -> None:
    bands = [(name, colour, [getattr(work, name) for work in timeline.work]) for name, colour in WORK]
    top = _stack(axes, timeline, [band for band in bands if any(band[2])])
    axes.set_ylim(0, max(top, 1) * 1.1)
    axes.set_xlim(0, max(timeline.at_s[-1], 1e-3))
    axes.set_xlabel("seconds since the start", color=_INK)
    _tidy(axes, "tasks")


def _stack(axes: Any, timeline: Timeline, bands: Sequence[tuple[str, str, Sequence[int]]]) -> int:
    """Draw the bands on each other as steps; the highest sum."""
    base = [0] * len(timeline.at_s)
    for name, colour, series in bands:
        upper = [low + value for low, value in zip(base, series, strict=True)]
        axes.fill_between(timeline.at_s, base, upper, step="post", color=colour, linewidth=0, label=name)
        base = upper
    if any(base):
        axes.step(timeline.at_s, base, where="post", color=_INK, linewidth=0.8)
    return max(base)


def _legend(row: Sequence[Any], bands: Sequence[tuple[Any, ...]]) -> None:
    """Beside the last of these axes, everything that is in any of them, in the order of the bands."""
    found: dict[str, Any] = {}
    for axes in row:
        found.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    order = [name for name, *_ in bands]
    labels = sorted(found, key=order.index, reverse=True)
    place = {"loc": "upper left", "bbox_to_anchor": (1.005, 1.0), "frameon": False}
    row[-1].legend([found[label] for label in labels], labels, **place, handlelength=1.2, labelcolor=_INK)


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
    axes.yaxis.set_major_locator(matplotlib().ticker.MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK, length=3)


def _key_decisions(timeline: Timeline) -> list[Decision]:
    """Those that changed most, in the order of time; earlier ones first among equals."""
    largest = sorted(timeline.decisions, key=lambda decision: (-abs(decision.change), decision.number))[:_KEY]
    return sorted(largest, key=lambda decision: decision.number)


def _lines(decisions: Sequence[Decision], timeline: Timeline) -> list[tuple[str, str, str, str]]:
    """Number, time, change and reason of each decision, to be written in columns; pools too where there are several."""
    several = len({decision.pool for decision in timeline.decisions}) > 1
    lines = [
        (
            str(decision.number),
            f"{decision.at_s:,.1f} s",
            f"{decision.sizes} jobs",
            textwrap.fill(
                f"{decision.pool}: {decision.reason}" if several else decision.reason,
                width=128,
                max_lines=2,
                placeholder=" ...",
            ),
        )
        for decision in decisions
    ]
    left_out = len(timeline.decisions) - len(decisions)
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
