"""The best fixed size in hindsight, against all sizes tried one by one."""

from __future__ import annotations

import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.policy.classic import Fixed
from dask_adaptive.sim import shapes
from dask_adaptive.sim.hindsight import Hindsight
from dask_adaptive.sim.site import SITES, Site
from dask_adaptive.sim.workload import Workload
from dask_adaptive.sim.world import Setting, simulate


def costs(workload: Workload, setting: Setting, time_value: float) -> dict[int, float]:
    """Of every size there may be, by the definition of the objective."""
    runs = {size: simulate(workload, Fixed(size), setting, seed=1) for size in range(1, 13)}
    return {size: time_value * run.waited_s + run.billed_s for size, run in runs.items()}


@pytest.mark.parametrize("site", ["local", "cloud"])
def test_no_size_is_much_better_than_what_hindsight_finds(site: str) -> None:
    workload = shapes.map_reduce(tasks=40, reducers=3, seed=3)
    setting = Setting(SITES[site], maximum=12)
    hindsight = Hindsight(workload, setting, seed=1)
    sizes = []
    for time_value in (0.1, 1.0, 10.0, 100.0):
        every = costs(workload, setting, time_value)
        size, outcome = hindsight.best(time_value)
        sizes.append(size)
        assert every[size] == pytest.approx(time_value * outcome.waited_s + outcome.billed_s)
        assert every[size] <= 1.05 * min(every.values())
    assert sorted(sizes) == sizes
    assert sizes[0] < sizes[-1]


def test_work_that_never_ends_has_no_best_size() -> None:
    setting = Setting(Site("nothing", missing=1.0), maximum=4, at_most_s=600.0)
    with pytest.raises(ConfigError, match="not done after"):
        Hindsight(shapes.triplets(count=2), setting, seed=0).best(10.0)
