"""What the cells of a run say: ratios against Dask's defaults, a table, a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.live import Cell
from benchmarks.rivals import BASELINE

__all__ = ["Ratio", "Row", "draw", "geometric_mean", "live_markdown", "markdown_table", "median", "paired", "rows"]


@dataclass(frozen=True)
class Ratio:
    """Against another rival, paired by repeat: the median, the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """One rival on one shape with one start-up delay: medians over the repeats, and the sum of repetitions.

    ``response`` and ``workers`` are against the baseline. ``cells`` are those that ended with their results, by repeat.
    """

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
    cells: Mapping[int, Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What was measured, whoever sized the cluster."""
        return f"{self.shape} at {self.delay_s:g} s"


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
    others = {repeat: cell for repeat, cell in baseline.items() if not cell.failure}
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
        response=paired(good, others, lambda cell: cell.response_s),
        workers=paired(good, others, lambda cell: cell.worker_s),
        failure=next((cell.failure for cell in cells.values() if cell.failure), ""),
        cells=good,
    )


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def paired(mine: Mapping[int, Cell], theirs: Mapping[int, Cell], value: Callable[[Cell], float]) -> Ratio | None:
    """The ratios of a value in the repeats that both have; None if there is none."""
    values = [value(mine[repeat]) / value(theirs[repeat]) for repeat in mine if repeat in theirs]
    return Ratio(statistics.median(values), min(values), max(values)) if values else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


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
