"""The best fixed number of workers for a run that is known: what nobody can know before, found by trying."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dask_adaptive.errors import ConfigError
from dask_adaptive.policy.classic import Fixed
from dask_adaptive.sim.bound import objective
from dask_adaptive.sim.workload import Workload
from dask_adaptive.sim.world import Outcome, Setting, simulate

__all__ = ["Hindsight"]

_STRIDE = 3


class Hindsight:
    """Looks for the best fixed number of jobs, first among every third size worth trying, then around the best.

    Every size runs once, also where the answer is asked for at several time values.

    Parameters
    ----------
    workload, setting, seed:
        The run, as ``simulate`` takes it. The user leaves with the last result, however long the setting lingers.
    """

    def __init__(self, workload: Workload, setting: Setting, seed: int) -> None:
        self._workload, self._setting, self._seed = workload, replace(setting, linger_s=0.0), seed
        self._tried: dict[int, Outcome | ConfigError] = {}

    def best(self, time_value: float) -> tuple[int, Outcome]:
        """Jobs, and what came of so many.

        Raises
        ------
        ConfigError
            If the work never ends, whatever the size.
        """
        sizes = _sizes(self._workload, self._setting)
        places = {*range(0, len(sizes), _STRIDE), len(sizes) - 1}
        while True:
            best = min(places, key=lambda place: (self._cost(sizes[place], time_value), place))
            around = range(max(0, best - _STRIDE + 1), min(len(sizes), best + _STRIDE))
            if places.issuperset(around):
                break
            places.update(around)
        found = self._tried[sizes[best]]
        if isinstance(found, ConfigError):
            raise found
        return sizes[best], found

    def _cost(self, size: int, time_value: float) -> float:
        if size not in self._tried:
            try:
                self._tried[size] = simulate(self._workload, Fixed(size), self._setting, seed=self._seed)
            except ConfigError as error:
                self._tried[size] = error
        found = self._tried[size]
        if isinstance(found, ConfigError):
            return math.inf
        return objective(found.waited_s, found.billed_s, time_value=time_value)


def _sizes(workload: Workload, setting: Setting) -> Sequence[int]:
    """Numbers of jobs worth trying, each about a fourth larger than the one before."""
    slots = setting.shape.job_threads
    widest = max((math.ceil(len(graph) / slots) for graph in workload.graphs), default=1)
    most = max(1, min(setting.maximum, widest))
    sizes, size = {most}, 1
    while size < most:
        sizes.add(size)
        size = max(size + 1, round(size * 1.25))
    return sorted(sizes)
