"""One policy, one workload, one resource manager, one seed: run, and score against what no policy could go below."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.model import Record, Shape, Startup
from dask_adaptive.policy.classic import Doubling, Fixed, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.sim.bound import Elasticity, lower_bound, objective
from dask_adaptive.sim.hindsight import Hindsight
from dask_adaptive.sim.rivals import RIVALS
from dask_adaptive.sim.site import SITES, Constant, Site
from dask_adaptive.sim.workload import LONGEST_S, Workload
from dask_adaptive.sim.world import Outcome, Setting, simulate

__all__ = [
    "POLICIES",
    "STATIC_BEST",
    "WAIT_S",
    "Trial",
    "earlier_starts",
    "equipped",
    "scored",
    "site_named",
    "trial",
    "true_means",
]

STATIC_BEST = "static-best"

EARLIER = 16
"""Starts that were seen in earlier runs."""

WAIT_S = 3.0
"""How long superfluous jobs are kept, as ``adapt`` does by default."""

POLICIES: Mapping[str, Callable[[float, Workload], Policy] | None] = {
    "cost-aware": lambda time_value, _: standard(CostAware(time_value), WAIT_S),
    "target-duration": lambda *_: standard(TargetDuration(), WAIT_S),
    "doubling": lambda *_: standard(Doubling(), WAIT_S),
    **{name: lambda *_, rival=rival: rival() for name, rival in RIVALS.items()},
    STATIC_BEST: None,
    "oracle": lambda time_value, workload: standard(CostAware(time_value, truth=true_means(workload)), WAIT_S),
}
"""Policies by name, for a time value and a workload. ``static-best`` is the best fixed number for the very run, found
by trying; ``oracle`` is ``cost-aware`` that knows the true mean run time of every kind of task."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one run, under the names that ``dask adaptive simulate --json`` writes.

    ``makespan_s``: from the first submission to the last result, pauses included; ``waited_s``: what somebody waited,
    summed over the graphs. ``worker_seconds`` are registered, ``billed_worker_seconds`` from running to ended.
    ``score``: the objective in parts of ``bound``; 1 is perfect. ``elasticity``: see there.
    """

    instance: str
    backend: str
    policy: str
    time_value: float
    maximum: int
    seed: int
    makespan_s: float
    waited_s: float
    worker_seconds: float
    billed_worker_seconds: float
    starts: int
    cancelled: int
    recomputed: int
    tasks: int
    rounds: int
    bound: float
    score: float
    elasticity: Elasticity

    def plain(self) -> dict[str, object]:
        """As JSON knows it."""
        return asdict(self)


def trial(
    name: str,
    workload: Workload,
    setting: Setting,
    *,
    time_value: float,
    seed: int,
    cold: bool = False,
    on_record: Callable[[Record], None] | None = None,
) -> Trial:
    """Run one policy by its name; ``on_record`` is told of every round.

    Policies are shown how long starts took in earlier runs on the resource manager, as they are in production; with
    ``cold`` this is the first run ever. Of the work nothing is known in advance, but to the ``oracle``.

    Raises
    ------
    ConfigError
        If there is no such policy, or the workload cannot be done in this setting.
    """
    if name not in POLICIES:
        raise ConfigError(f"there is no policy {name!r} to simulate; {nearest(name, POLICIES)}")
    setting = replace(setting, shape=equipped(setting.shape, workload))
    if not cold:
        setting = replace(setting, startup=earlier_starts(setting.site))
    make = POLICIES[name]
    if make is None:
        outcome = _static_best(workload, setting, time_value, seed, on_record)
    else:
        outcome = simulate(workload, make(time_value, workload), setting, seed=seed, on_record=on_record)
    return scored(name, workload, setting, outcome, time_value=time_value, seed=seed)


def equipped(shape: Shape, workload: Workload) -> Shape:
    """The shape with one task's worth of every resource that the work needs and the shape does not say."""
    needs: dict[str, float] = {}
    for graph in workload.graphs:
        for group in graph.groups:
            for resource, amount in group.need.items():
                needs[resource] = max(needs.get(resource, 0.0), amount)
    return replace(shape, resources={**needs, **shape.resources})


def site_named(name: str) -> Site:
    """A resource manager by its name, or by its start-up: ``30`` billed seconds, ``120+5`` in the queue and billed.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if name in SITES:
        return SITES[name]
    try:
        numbers = [float(part) for part in name.split("+")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number < math.inf for number in numbers):
        raise ConfigError(
            f"there is no backend {name!r} to simulate, and start-up numbers are as 30 or 120+5; {nearest(name, SITES)}"
        )
    if max(numbers) > LONGEST_S:
        raise ConfigError(f"a start of {name} s, more than ten years, cannot be simulated")
    queue_s, start_s = numbers if len(numbers) == 2 else (0.0, numbers[0])
    return Site(name, queue=Constant(queue_s), start=Constant(start_s))


def _static_best(
    workload: Workload,
    setting: Setting,
    time_value: float,
    seed: int,
    on_record: Callable[[Record], None] | None = None,
) -> Outcome:
    size, outcome = Hindsight(workload, setting, seed).best(time_value)
    if on_record is not None:  # once more, now that it is known which one is the best
        simulate(workload, Fixed(size), replace(setting, linger_s=0.0), seed=seed, on_record=on_record)
    return outcome


def scored(name: str, workload: Workload, setting: Setting, outcome: Outcome, *, time_value: float, seed: int) -> Trial:
    """What came of a run, in parts of what no policy could go below on this workload and in this setting."""
    workers, threads = setting.shape.workers, setting.shape.threads
    bound = lower_bound(
        workload, outcome.fastest, time_value=time_value, maximum=setting.maximum * workers, slots=threads
    )
    cost = objective(outcome.waited_s, outcome.billed_s, time_value=time_value)
    return Trial(
        instance=workload.name,
        backend=setting.site.name,
        policy=name,
        time_value=time_value,
        maximum=setting.maximum,
        seed=seed,
        makespan_s=outcome.makespan_s,
        waited_s=outcome.waited_s,
        worker_seconds=outcome.worker_s,
        billed_worker_seconds=outcome.billed_s,
        starts=outcome.starts,
        cancelled=outcome.cancelled,
        recomputed=outcome.recomputed,
        tasks=outcome.tasks,
        rounds=outcome.rounds,
        bound=bound,
        score=cost / bound if bound else 1.0,
        elasticity=outcome.elasticity,
    )


def true_means(workload: Workload) -> dict[str, float]:
    """The true mean run time in seconds by prefix."""
    times: dict[str, list[float]] = {}
    for graph in workload.graphs:
        for index, run_s in zip(graph.group, graph.run_s, strict=True):
            times.setdefault(graph.groups[index].prefix, []).append(run_s)
    return {prefix: math.fsum(each) / len(each) for prefix, each in times.items()}


def earlier_starts(site: Site) -> Startup:
    """Start-up latencies as earlier runs on this resource manager would have left them."""
    rng = random.Random(f"earlier runs on {site.name}")  # noqa: S311
    draws = [(site.queue.draw(rng), site.start.draw(rng)) for _ in range(EARLIER)]
    return Startup(tuple(queue_s for queue_s, _ in draws), tuple(start_s for _, start_s in draws))
