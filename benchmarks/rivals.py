"""Who is compared: the same cluster, another way to size it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distributed.utils import import_term

__all__ = ["BASELINE", "MAXIMUM", "OURS", "PLAIN", "RIVALS", "TUNED", "Rival"]

MAXIMUM = 8
"""Workers that every rival may have."""


@dataclass(frozen=True)
class Rival:
    """A way to size a ``distributed.SpecCluster``.

    ``adaptive`` is the dotted name of the class given to ``cluster.adapt(Adaptive=...)``; "" keeps the maximum from
    the start. ``options`` are further arguments of ``adapt``.
    """

    name: str
    about: str
    adaptive: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def take_over(self, cluster: Any) -> None:
        """From now on the cluster is sized this way."""
        if not self.adaptive:
            cluster.scale(MAXIMUM)
            return
        cluster.adapt(Adaptive=import_term(self.adaptive), minimum=0, maximum=MAXIMUM, **self.options)


BASELINE = "dask"
"""Ratios are against this one."""

TUNED = "dask-tuned"
"""Dask's own, as good as it gets by hand."""

PLAIN = "target-duration"
"""Dask's rule without its faults, in our controller: the one that has to hold what the foundation promises."""

OURS = "ours"
"""The one that has to hold what the project promises."""

RIVALS = {
    rival.name: rival
    for rival in (
        Rival(BASELINE, "distributed.Adaptive with its defaults", "distributed.Adaptive"),
        Rival(
            TUNED,
            "distributed.Adaptive tuned by hand: interval 200 ms, wait_count 15, target_duration 1 s",
            "distributed.Adaptive",
            {"interval": "200ms", "wait_count": 15, "target_duration": "1s"},
        ),
        Rival("maximum", "all workers from the start, never fewer"),
        Rival(
            PLAIN,
            "dask_adaptive.Adaptive with policy='target-duration'",
            "dask_adaptive.Adaptive",
            {"policy": "target-duration"},
        ),
        Rival(OURS, "dask_adaptive.Adaptive with its defaults", "dask_adaptive.Adaptive"),
    )
}
"""Every rival by name."""
