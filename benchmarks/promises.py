"""What has to hold, what was measured, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from benchmarks.live import Cell
from benchmarks.report import Ratio, Row, geometric_mean, markdown_table, median, paired
from benchmarks.rivals import BASELINE, OURS, PLAIN, TUNED

__all__ = ["Promise", "live_promises", "promises_markdown"]


@dataclass(frozen=True)
class Promise:
    """Something that has to hold, what was measured, and whether it holds."""

    text: str
    measured: str
    held: bool


def promises_markdown(promises: Iterable[Promise]) -> str:
    body = [[promise.text, promise.measured, "yes" if promise.held else "**no**"] for promise in promises]
    return markdown_table(["must hold", "measured", "holds"], body)


def live_promises(table: Sequence[Row]) -> Iterator[Promise]:
    """What must hold on live clusters: of Dask's rule without its faults, and of the default policy."""
    for rival, more in ((PLAIN, _of_the_rule), (OURS, _of_the_default)):
        mine = [row for row in table if row.rival == rival]
        for promise in chain(_sound(mine), more(mine, table)) if mine else ():
            yield replace(promise, text=f"`{rival}`: {promise.text}")


def _sound(mine: Sequence[Row]) -> Iterator[Promise]:
    failed = [f"{row.name} ({row.failure})" for row in mine if row.failure]
    yield Promise("every shape ends with its results", "; ".join(failed) or "all do", not failed)
    repeated = sum(row.repeated for row in mine)
    yield Promise("no task executed twice", f"{repeated} repeated", repeated == 0)
    firsts = sorted(row.first_request_s for row in mine if row.first_request_s is not None)
    text = f"{1000 * median(firsts):.0f} ms, at most {1000 * max(firsts, default=math.nan):.0f} ms"
    yield Promise("first worker asked for within 200 ms of the first graph", text, max(firsts, default=math.inf) < 0.2)
    yield _no_shape("slower", mine, lambda row: row.response)


def _of_the_rule(mine: Sequence[Row], table: Sequence[Row]) -> Iterator[Promise]:
    yield _no_shape("dearer in worker-seconds", mine, lambda row: row.workers)
    yield _mean("response", mine, table, BASELINE, 0.8, _response)
    yield from _fewer_starts(mine, table, BASELINE)


def _of_the_default(mine: Sequence[Row], table: Sequence[Row]) -> Iterator[Promise]:
    yield _mean("response", mine, table, BASELINE, 0.66, _response)
    yield _mean("worker-seconds", mine, table, BASELINE, 0.95, _workers)
    yield from _fewer_starts(mine, table, BASELINE)
    if any(row.rival == TUNED for row in table):
        yield _mean("response", mine, table, TUNED, 1.05, _response)
        yield _mean("worker-seconds", mine, table, TUNED, 0.8, _workers)
        yield from _fewer_starts(mine, table, TUNED)


def _response(cell: Cell) -> float:
    return cell.response_s


def _workers(cell: Cell) -> float:
    return cell.worker_s


def _no_shape(word: str, mine: Sequence[Row], against: Callable[[Row], Ratio | None]) -> Promise:
    known = {row.name: ratio.median for row in mine if (ratio := against(row)) is not None}
    over = ", ".join(f"{name} {ratio:.2f}" for name, ratio in known.items() if ratio > 1.1)
    text = f"no shape {word} than 1.1 times `{BASELINE}`"
    return Promise(text, over or f"worst {max(known.values(), default=math.nan):.2f}", not over)


def _mean(
    word: str, mine: Sequence[Row], table: Sequence[Row], rival: str, most: float, value: Callable[[Cell], float]
) -> Promise:
    """The geometric mean over the shapes, and its range over the repeats."""
    mean, span = _against(mine, table, rival, value)
    text = f"geometric mean of {word} at most {most:g} times `{rival}`"
    return Promise(text, f"{mean:.3f}{span}", mean <= most)


def _against(
    mine: Sequence[Row], table: Sequence[Row], rival: str, value: Callable[[Cell], float]
) -> tuple[float, str]:
    theirs = {row.name: row.cells for row in table if row.rival == rival}
    pairs = [(row.cells, theirs[row.name]) for row in mine if row.name in theirs]
    mean = geometric_mean(ratio.median for ours, other in pairs if (ratio := paired(ours, other, value)))
    repeats = sorted({repeat for ours, other in pairs for repeat in ours if repeat in other})
    means = [
        geometric_mean(
            value(ours[each]) / value(other[each]) for ours, other in pairs if each in ours and each in other
        )
        for each in repeats
    ]
    return mean, f" ({min(means):.3f} to {max(means):.3f})" if len(means) > 1 else ""


def _fewer_starts(mine: Sequence[Row], table: Sequence[Row], rival: str) -> Iterator[Promise]:
    """In all, where many starts of one shape weigh most, and in the mean, where every shape weighs the same."""
    theirs = {row.name: row for row in table if row.rival == rival and row.cells}
    both = [row for row in mine if row.cells and row.name in theirs]
    ours, others = (sum(row.starts for row in rows) for rows in (both, [theirs[row.name] for row in both]))
    yield Promise(f"fewer starts than `{rival}` in all", f"{ours:g} against {others:g}", ours < others)
    mean, span = _against(mine, table, rival, lambda cell: cell.starts)
    yield Promise(f"fewer starts than `{rival}` in the geometric mean", f"{mean:.3f}{span}", mean < 1)
