"""What could be had at all: for every shape the best of the rivals, chosen by somebody who knows how each came out.

A goal that even this choice does not reach is not missed for want of a better rule for choosing among what is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.report import Row
from benchmarks.rivals import BASELINE

__all__ = ["best_response", "hindsight_words"]

_HALF = 2
"""Medians of whole numbers are whole or halves."""


def best_response(table: Sequence[Row]) -> float | None:
    """The geometric mean of response against the baseline that the best choice has with fewer starts in all than it.

    Exact: the least sum of logarithms for each number of starts, one shape after the other. None if nothing has fewer.
    """
    cells: dict[str, list[tuple[int, float]]] = {}
    for row in table:
        if row.cells and row.response is not None:
            cells.setdefault(row.name, []).append((round(_HALF * row.starts), math.log(row.response.median)))
    theirs = sum(round(_HALF * row.starts) for row in table if row.rival == BASELINE and row.name in cells)
    least = {0: 0.0}
    for choices in cells.values():
        found: dict[int, float] = {}
        for so_far, total in least.items():
            for starts, response in choices:
                at = so_far + starts
                if at < theirs:
                    found[at] = min(found.get(at, math.inf), total + response)
        least = found
    return math.exp(min(least.values()) / len(cells)) if cells and least else None


def hindsight_words(table: Sequence[Row]) -> str:
    """The same in a sentence; empty if there is nothing to choose from."""
    best = best_response(table)
    if best is None or len({row.rival for row in table}) < 2:
        return ""
    return (
        f"Whoever chose the best of these for every shape in hindsight, with fewer starts in all than `{BASELINE}`, "
        f"would have a response of {best:.3f}."
    )
