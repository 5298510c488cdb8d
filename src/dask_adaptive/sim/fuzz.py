"""Worlds in which everything goes wrong, one for each seed: what must hold in all of them is held against the records.

Safety first, whatever the manager does: never more jobs than the maximum, as the manager itself counts them; no job
that has work is cancelled, or drained for a policy that may not; no result is lost; nothing is done on a list that
could not be read. Then the world heals, and liveness has a bound: the work ends, and the jobs go.

    python -m dask_adaptive.sim.fuzz --worlds 10000
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import click

from dask_adaptive.errors import AdaptiveError
from dask_adaptive.model import Record, Shape
from dask_adaptive.policy.classic import Doubling, Fixed, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.sim import shapes
from dask_adaptive.sim.site import Bimodal, Constant, Latency, LogNormal, Site
from dask_adaptive.sim.timeline import Timeline, VirtualLoop
from dask_adaptive.sim.workload import Workload
from dask_adaptive.sim.world import Setting, World

__all__ = ["Case", "afterwards", "case", "main", "trouble", "wrong"]

HEALS_S = 1800.0
"""When everything is well again, in virtual seconds."""

LINGER_S = 12 * 3600.0
"""How long the jobs may take to go after the last result: longer than any is kept for its wait in the queue, at these
time values.
"""


@dataclass(frozen=True)
class Case:
    """One made-up world."""

    seed: int
    workload: Workload
    policy: Policy
    setting: Setting


def case(seed: int) -> Case:
    """The world of this seed."""
    rng = random.Random(f"world {seed}")  # noqa: S311
    shape = Shape(workers=rng.choice((1, 1, 2, 4)), threads=rng.choice((1, 1, 2, 4)))
    maximum = rng.choice((1, 2, 5, 20, 50))
    minimum = rng.choice((0, 0, 0, min(2, maximum)))
    fixed = isinstance(policy := _policy(rng, maximum), Fixed)
    setting = Setting(_site(rng), shape, 0 if fixed else minimum, maximum, linger_s=LINGER_S)
    return Case(seed, _workload(rng), policy, setting)


def _policy(rng: random.Random, maximum: int) -> Policy:
    wait_s = rng.choice((0.0, 3.0, 30.0))
    kinds: Sequence[Policy] = (
        standard(CostAware(rng.choice((1.0, 3.0, 10.0))), wait_s),
        standard(CostAware(10.0), wait_s),
        standard(TargetDuration(rng.choice((1.0, 5.0, 60.0))), wait_s),
        standard(Doubling(), wait_s),
        Fixed(rng.randint(1, maximum)),
    )
    return rng.choice(kinds)


def _workload(rng: random.Random) -> Workload:
    seed, tasks = rng.randint(0, 10**6), rng.choice((5, 30, 120))
    mean_s = rng.choice((0.1, 2.0, 20.0))
    kinds = (
        partial(shapes.map_reduce, tasks),
        partial(shapes.fork_join, 3, tasks, mean_s),
        partial(shapes.pipelines, max(2, tasks // 6), 4, mean_s),
        partial(shapes.triplets, max(2, tasks // 3), mean_s),
        partial(shapes.bursts, 3, 120.0, tasks, mean_s),
        partial(shapes.session, 3, rng.choice((5.0, 120.0, 900.0)), tasks, mean_s),
        partial(shapes.unseen, 4, max(2, tasks // 4), 30.0),
    )
    return rng.choice(kinds)(seed=seed)


def _site(rng: random.Random) -> Site:
    def perhaps(chance: float, most: float) -> float:
        return rng.uniform(0.0, most) if rng.random() < chance else 0.0

    queues: Sequence[Latency] = (Constant(0.0), Constant(0.0), LogNormal(60.0, 1.0), Bimodal(5.0, 1800.0, 0.2))
    lag_s = perhaps(0.5, 40.0)
    return Site(
        f"site {rng.randint(0, 999)}",
        queue=rng.choice(queues),
        start=rng.choice((Constant(0.5), Constant(15.0), LogNormal(20.0, 0.5))),
        end_s=perhaps(0.5, 10.0),
        capacity=rng.choice((None, None, 1, 5)),
        missing=perhaps(0.2, 0.3),
        mute=perhaps(0.3, 0.4),
        life_s=rng.uniform(60.0, 2000.0) if rng.random() < 0.3 else float("inf"),
        lag_s=lag_s,
        wandering=rng.random() < 0.5,
        failing=perhaps(0.4, 0.4),
        hanging=perhaps(0.2, 0.2),
        unsure=perhaps(0.3, 0.4),
        partial=perhaps(0.3, 0.5),
        pushing=rng.random() < 0.7,
        heals_s=HEALS_S,
    )


# --- what must hold ------------------------------------------------------------------------------------------------


@dataclass
class _Watch:
    """Looks at every round while it goes."""

    case: Case
    found: list[str] = field(default_factory=list)

    def __call__(self, record: Record) -> None:
        self.found += [f"round {record.number}: {sentence}" for sentence in wrong(record)]


def wrong(record: Record) -> Iterator[str]:
    """What this round should not have done."""
    lives, idle = record.snapshot.lives, {job.name for job in record.snapshot.load.idle}
    stale = {name for name, state in record.snapshot.pools.items() if state.stale}
    for submit in record.plan.submits:
        if submit.pool in stale:
            yield f"{submit.count} jobs submitted on a list that could not be read"
    for cancel in record.plan.cancels:
        life = lives[cancel.job]
        if life.present:
            yield f"job {life.name} cancelled with {life.present} registered workers: {cancel.reason}"
        if life.pool in stale:
            yield f"job {life.name} cancelled on a list that could not be read"
    for retire in record.plan.retires:
        if retire.job not in idle and not retire.busy:
            yield f"job {retire.job} retired, which is not idle: {retire.reason}"
        want = record.target.pools[lives[retire.job].pool]
        lost = lives[retire.job].lost_s or retire.job in record.snapshot.load.leaving
        if retire.busy and not want.firm and not lost:
            yield f"job {retire.job} drained with work for a policy that may not: {retire.reason}"
        if lives[retire.job].pool in stale:
            yield f"job {retire.job} retired on a list that could not be read"


def trouble(seed: int) -> str:
    """What went wrong in the world of this seed; empty if all held."""
    made = case(seed)
    watch = _Watch(made)
    timeline = Timeline()
    loop = VirtualLoop(timeline)
    world = World(made.workload, made.policy, made.setting, timeline, seed, watch)
    try:
        outcome = loop.run_until_complete(world.run())
    except AdaptiveError as error:
        watch.found.append(str(error))
    else:
        watch.found += afterwards(made, world.backend.alive, outcome.most_alive, outcome.tasks, outcome.recomputed)
    finally:
        loop.close()
    return "; ".join(watch.found[:3])


def afterwards(made: Case, alive: int, most_alive: int, tasks: int, recomputed: int) -> Iterator[str]:
    """What is wrong in the end: ``alive`` jobs are still there, ``most_alive`` were at once, ``tasks`` were done."""
    setting, wanted = made.setting, sum(len(graph.run_s) for graph in made.workload.graphs)
    if most_alive > setting.maximum:
        yield f"{most_alive} jobs were alive at once; the maximum is {setting.maximum}"
    if tasks - recomputed < wanted:
        yield f"{tasks - recomputed} of {wanted} tasks were done"
    if recomputed and setting.site.life_s == float("inf"):
        yield f"{recomputed} tasks were done twice although nothing was preempted"
    stays = made.policy.jobs if isinstance(made.policy, Fixed) else setting.minimum
    if alive > (stays if isinstance(stays, int) else 0):
        yield f"{alive} jobs are still there {setting.linger_s:.0f} s after the last result"


# --- by hand -------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--worlds", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first seed.")
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
def main(worlds: int, first: int, processes: int) -> None:
    """Try many worlds; print each seed that fails, and exit with 1 if one does."""
    seeds, failed = range(first, first + worlds), 0
    with ProcessPoolExecutor(processes) as pool:
        for number, (seed, found) in enumerate(zip(seeds, pool.map(trouble, seeds, chunksize=10), strict=True), 1):
            if found:
                failed += 1
                click.echo(f"seed {seed}: {found}")
            if sys.stderr.isatty() or number % 1000 == 0:
                click.echo(f"\r{number} of {worlds} worlds, {failed} failed", nl=not sys.stderr.isatty(), err=True)
    click.echo(f"{worlds} worlds from seed {first} on, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
