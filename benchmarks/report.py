"""What the cells of a run say: ratios against Dask's defaults, what was promised, a table, a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.live import Cell
from benchmarks.rivals import BASELINE, OURS

__all__ = [
    "Promise",
    "Ratio",
    "Row",
    "draw",
    "live_markdown",
    "live_promises",
    "markdown_table",
    "promises_markdown",
    "rows",
]


@dataclass(frozen=True)
class Ratio:
    """Against the baseline, paired by repeat: the median, the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """One rival on one shape with one start-up delay; medians over the repeats, sums of starts and repetitions."""

    shape: str
    delay_s: float
    rival: str
    response_s: float
    worker_s: float
    starts: float
    repeated: int
    first_request_s: float | None
    response: Ratio | None
    workers: Ratio | None
    failure: str = ""


def rows(cells: Iterable[Cell]) -> list[Row]:
    """One row per shape, delay and rival, in the order in which they first appear."""
    groups: dict[tuple[str, float, str], dict[int, Cell]] = {}
    for cell in cells:
        case = cell.case
        groups.setdefault((case.shape, case.delay_s, case.rival), {})[case.repeat] = cell
    return [
        row_of(shape, delay_s, rival, repeats, groups.get((shape, delay_s, BASELINE), {}))
        for (shape, delay_s, rival), repeats in groups.items()
    ]


def row_of(shape: str, delay_s: float, rival: str, cells: dict[int, Cell], baseline: dict[int, Cell]) -> Row:
    good = {repeat: cell for repeat, cell in cells.items() if not cell.failure}
    pairs = [(good[r], baseline[r]) for r in good if r in baseline and not baseline[r].failure]
    firsts = [cell.first_request_s for cell in good.values() if cell.first_request_s is not None]
    return Row(
        shape=shape,
        delay_s=delay_s,
        rival=rival,
        response_s=median([cell.response_s for cell in good.values()]),
        worker_s=median([cell.worker_s for cell in good.values()]),
        starts=median([cell.starts for cell in good.values()]),
        repeated=sum(cell.repeated for cell in cells.values()),
        first_request_s=max(firsts) if firsts else None,
        response=ratio([ours.response_s / theirs.response_s for ours, theirs in pairs]),
        workers=ratio([ours.worker_s / theirs.worker_s for ours, theirs in pairs]),
        failure=next((cell.failure for cell in cells.values() if cell.failure), ""),
    )


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def ratio(values: Sequence[float]) -> Ratio | None:
    return Ratio(statistics.median(values), min(values), max(values)) if values else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


# --- what was promised -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """Something that has to hold, what was measured, and whether it holds."""

    text: str
    measured: str
    held: bool


def live_promises(table: Sequence[Row]) -> Iterator[Promise]:
    """What must hold against Dask's defaults on live clusters."""
    ours = [row for row in table if row.rival == OURS]
    if not ours:
        return
    failed = [f"{row.shape} at {row.delay_s:g} s ({row.failure})" for row in ours if row.failure]
    yield Promise("every shape ends with its results", "; ".join(failed) or "all do", not failed)
    for word, ratios in (
        ("slower", {name_of(row): row.response for row in ours}),
        ("dearer in worker-seconds", {name_of(row): row.workers for row in ours}),
    ):
        known = {name: value.median for name, value in ratios.items() if value is not None}
        over = {name: value for name, value in known.items() if value > 1.1}
        worst = ", ".join(f"{name} {value:.2f}" for name, value in over.items())
        yield Promise(
            f"no shape {word} than 1.1 times", worst or f"worst {max(known.values(), default=0):.2f}", not over
        )
    mean = geometric_mean(row.response.median for row in ours if row.response)
    yield Promise("geometric mean of response below 0.8", f"{mean:.2f}", mean < 0.8)
    both = {name_of(row) for row in ours if not row.failure}
    both &= {name_of(row) for row in table if row.rival == BASELINE and not row.failure}
    mine, theirs = (
        sum(row.starts for row in table if row.rival == rival and name_of(row) in both) for rival in (OURS, BASELINE)
    )
    yield Promise("fewer worker starts", f"{mine:g} against {theirs:g}", mine < theirs)
    repeated = sum(row.repeated for row in ours)
    yield Promise("no task executed twice", f"{repeated} repeated", repeated == 0)
    firsts = sorted(row.first_request_s for row in ours if row.first_request_s is not None)
    text = f"{1000 * median(firsts):.0f} ms, at most {1000 * max(firsts, default=math.nan):.0f} ms"
    yield Promise("first worker asked for within 200 ms of the first graph", text, max(firsts, default=math.inf) < 0.2)


def name_of(row: Row) -> str:
    return f"{row.shape} at {row.delay_s:g} s"


# --- tables ----------------------------------------------------------------------------------------------------


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def live_markdown(table: Sequence[Row]) -> str:
    """Per delay: one line per shape; per rival response and worker-seconds as ratios, and starts."""
    parts = []
    rivals = list(dict.fromkeys(row.rival for row in table))
    for delay_s in dict.fromkeys(row.delay_s for row in table):
        found = {(row.shape, row.rival): row for row in table if row.delay_s == delay_s}
        head = ["shape", *(f"{rival}: response, worker-seconds, starts" for rival in rivals)]
        body = [
            [shape, *(cell_text(found.get((shape, rival))) for rival in rivals)]
            for shape in dict.fromkeys(shape for shape, _ in found)
        ]
        means = ["*geometric mean, sum*", *(mean_text([r for r in found.values() if r.rival == n]) for n in rivals)]
        parts.append(f"### Workers start in {delay_s:g} s\n\n{markdown_table(head, [*body, means])}")
    return "\n\n".join(parts)


def cell_text(row: Row | None) -> str:
    if row is None:
        return ""
    if row.failure:
        return f"**failed**: {row.failure}"
    again = f", **{row.repeated} repeated**" if row.repeated else ""
    if row.rival == BASELINE or row.response is None:
        return f"{row.response_s:.1f} s, {row.worker_s:.0f}, {row.starts:g}{again}"
    return f"{row.response}, {row.workers}, {row.starts:g}{again}"


def mean_text(table: Sequence[Row]) -> str:
    response = geometric_mean(row.response.median for row in table if row.response)
    workers = geometric_mean(row.workers.median for row in table if row.workers)
    return f"{response:.2f}, {workers:.2f}, {sum(row.starts for row in table if not row.failure):g}"


def promises_markdown(promises: Iterable[Promise]) -> str:
    body = [[promise.text, promise.measured, "yes" if promise.held else "**no**"] for promise in promises]
    return markdown_table(["must hold", "measured", "holds"], body)


# --- the picture -----------------------------------------------------------------------------------------------


def draw(table: Sequence[Row], path: Path) -> None:
    """Ratios per shape and rival, one row of panels per start-up delay."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    delays = list(dict.fromkeys(row.delay_s for row in table))
    shapes = list(dict.fromkeys(row.shape for row in table))
    rivals = [rival for rival in dict.fromkeys(row.rival for row in table) if rival != BASELINE]
    figure, axes = pyplot.subplots(
        len(delays), 2, figsize=(11, 1.5 + 0.3 * len(shapes) * len(delays)), squeeze=False, sharey=True, sharex="col"
    )
    for i, delay_s in enumerate(delays):
        for axis, word in zip(axes[i], ("response", "workers"), strict=True):
            for rival, marker in zip(rivals, "xso^D", strict=False):
                found = [r for r in table if (r.rival, r.delay_s) == (rival, delay_s) and getattr(r, word)]
                values = [getattr(row, word).median for row in found]
                heights = [shapes.index(row.shape) for row in found]
                axis.plot(values, heights, marker, label=rival, alpha=0.8)
            axis.axvline(1.0, color="black", linewidth=0.8)
            axis.axvline(1.1, color="grey", linewidth=0.8, linestyle=":")
            axis.set_xscale("log")
            axis.set_xticks((0.25, 0.5, 1, 2, 5, 10), ("0.25", "0.5", "1", "2", "5", "10"))
            axis.minorticks_off()
            axis.set_yticks(range(len(shapes)), shapes)
            axis.invert_yaxis() if i == 0 and axis is axes[0][0] else None
            title = "response" if word == "response" else "worker-seconds"
            axis.set_title(f"{title} against Dask's defaults, start-up {delay_s:g} s", fontsize=10)
            axis.grid(axis="y", alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
