"""The picture of the result page: scores by resource manager and time value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results.grid import BACKENDS, KNOBS, OURS, TIME_VALUES
from benchmarks.results.scores import mean, pick
from dask_adaptive.sim.trial import STATIC_BEST

__all__ = ["draw"]

# Okabe and Ito, "Color Universal Design": people with any kind of colour vision can tell them apart.
LOOKS = {
    OURS: ("o", "#0072B2"),
    "oracle": ("|", "#0072B2"),
    STATIC_BEST: ("_", "#000000"),
    "dask": ("s", "#D55E00"),
    "dask-2017": ("s", "#E69F00"),
    "spark": ("^", "#CC79A7"),
    "ray": ("v", "#009E73"),
    "parsl": ("D", "#56B4E9"),
    "target-duration": ("x", "#777777"),
    "doubling": ("+", "#777777"),
}


def draw(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """One panel for each manager: the mean score of each policy at each time value, ours with its interval."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = pick(rows, knob="")
    with mpl.rc_context({"svg.hashsalt": "results", "svg.fonttype": "path", "font.size": 9}):
        figure, axes = pyplot.subplots(1, len(BACKENDS), figsize=(11, 4), sharey=True, layout="constrained")
        for axis, backend in zip(axes, BACKENDS, strict=True):
            _panel(axis, backend, pick(rows, backend=backend))
        axes[0].set_ylabel("score: cost in parts of the bound")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(LOOKS) // 2, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
        pyplot.close(figure)


def _panel(axis: Any, backend: str, rows: list[Mapping[str, Any]]) -> None:
    for number, policy in enumerate((OURS, "oracle", STATIC_BEST, *KNOBS)):
        scores = [mean(pick(rows, policy=policy, time_value=value)) for value in TIME_VALUES]
        shown = [(place, score) for place, score in enumerate(scores) if score]
        marker, colour = LOOKS[policy]
        places = [place + (number - 4.5) * 0.06 for place, _ in shown]
        axis.plot(places, [score.value for _, score in shown], marker, color=colour, label=policy, markersize=6)
        if policy == OURS:
            axis.vlines(places, [score.low for _, score in shown], [score.high for _, score in shown], color=colour)
    axis.set_yscale("log")
    axis.set_yticks((1, 1.2, 1.5, 2, 3, 5, 10), ("1", "1.2", "1.5", "2", "3", "5", "10"))
    axis.minorticks_off()
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(TIME_VALUES)), [f"{value:g}" for value in TIME_VALUES])
    axis.set_xlabel("time value")
    axis.set_title(backend)
    axis.grid(axis="y", alpha=0.3)
