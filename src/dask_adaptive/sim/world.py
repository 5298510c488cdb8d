"""The real controller, jobs, plan and policies in a made-up world.

work ──> Scheduler ── SimEngine ──┐
                                  ├── Controller, Jobs, make_plan, policy: those of production
Site ──> SiteBackend ─────────────┘
                  all in the virtual time of a Timeline
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from dask_adaptive.controller import Controller
from dask_adaptive.errors import ConfigError, PolicyError
from dask_adaptive.jobs import Jobs, PoolSetup
from dask_adaptive.journal import Journal
from dask_adaptive.model import Batch, Limits, Pool, Record, Shape, Spec, Startup, worker_name
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.sim.bound import Elasticity, Start, elasticity, sampled
from dask_adaptive.sim.engine import LONGEST_S, SimEngine
from dask_adaptive.sim.nouns import Costs, Worker
from dask_adaptive.sim.scheduler import Scheduler
from dask_adaptive.sim.site import Site, SiteBackend
from dask_adaptive.sim.timeline import START_S, Timeline, VirtualLoop
from dask_adaptive.sim.workload import Workload

__all__ = ["Outcome", "Setting", "World", "simulate"]

CLUSTER = "world"
POOL = "default"


@dataclass(frozen=True)
class Setting:
    """What a workload runs on.

    ``shape``, ``minimum``, ``maximum``: of the only pool. ``linger_s``: how long the user stays after the last result;
    then the cluster is closed, and whatever is still there is billed until that moment. 0, the default, is a script
    that ends. ``at_most_s``: after how many virtual seconds a run that does not end is given up; None: a week, and
    three times as long as one thread would take. ``startup``: latencies known from earlier runs.
    """

    site: Site
    shape: Shape = field(default_factory=Shape)
    minimum: int = 0
    maximum: int = 100
    costs: Costs = field(default_factory=Costs)
    linger_s: float = 0.0
    at_most_s: float | None = None
    startup: Startup = field(default_factory=Startup)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    ``waited_s``: from submission to the last result, summed over the graphs; ``makespan_s``: from the first submission
    to the last result. ``worker_s``: worker-seconds registered with the scheduler; ``billed_s``: worker-seconds from
    the manager's "running" until the end of the job. ``starts``: jobs that ran; ``cancelled``: jobs told to end before
    they served; ``recomputed``: tasks made more than once; ``most_threads`` and ``most_alive``: most threads registered
    and most jobs queued or running at once; ``fastest``: the smallest start latencies drawn. ``elasticity``: of
    threads against tasks that could run, from the first submission to the last result.
    """

    waited_s: float
    makespan_s: float
    worker_s: float
    billed_s: float
    starts: int
    cancelled: int
    recomputed: int
    tasks: int
    rounds: int
    most_threads: int
    most_alive: int
    fastest: Start
    elasticity: Elasticity


def simulate(
    workload: Workload,
    policy: Policy,
    setting: Setting,
    *,
    seed: int = 0,
    on_record: Callable[[Record], None] | None = None,
) -> Outcome:
    """Run a workload under a policy; the same arguments give the same outcome.

    Raises
    ------
    ConfigError
        If some task needs what no worker has, or the work is not done after ``setting.at_most_s``.
    PolicyError
        If a round could not decide.
    """
    _check(workload, setting)
    timeline = Timeline()
    loop = VirtualLoop(timeline)
    try:
        return loop.run_until_complete(World(workload, policy, setting, timeline, seed, on_record).run())
    finally:
        loop.close()


def _check(workload: Workload, setting: Setting) -> None:
    for graph in workload.graphs:
        for group in graph.groups:
            if not setting.shape.slots(group.need):
                need = ", ".join(f"{name}={amount:g}" for name, amount in group.need.items())
                raise ConfigError(f"{workload.name}: tasks of {group.name!r} need {need}, which no worker has")


def _poll_s(site: Site) -> float:
    """A manager that tells at once, exactly and always need not be asked every second."""
    return 30.0 if site.pushing and not (site.lag_s or site.failing or site.hanging) else 1.0


class _Watch(Journal):
    """Keeps no rounds; ends the run with the first one that could not decide."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def append(self, record: Record) -> None:
        if record.error:
            self._world.fail(f"round {record.number}: {record.error}")


class World:
    """One run; see ``simulate``."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        setting: Setting,
        timeline: Timeline,
        seed: int,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        self.workload, self.setting, self.timeline = workload, setting, timeline
        self.scheduler = Scheduler(timeline, setting.costs)
        self.backend = SiteBackend(setting.site, timeline, seed, join=self._join, leave=self._leave)
        self.engine = SimEngine(self.scheduler, timeline, closed=self.backend.closed)
        tags = itertools.count()
        limits = Limits(setting.minimum, setting.maximum)
        spec = Spec("sim://scheduler", setting.shape)
        setup = PoolSetup(Pool(POOL, setting.shape, limits), self.backend, spec, poll_s=_poll_s(setting.site))
        self.jobs = Jobs(
            CLUSTER,
            [setup],
            engine=self.engine,
            tag=lambda: f"t{next(tags):07d}",
            clock=timeline,
            startups={POOL: setting.startup},
        )
        self.controller = Controller(
            self.engine,
            self.jobs,
            policy,
            journal=_Watch(self),
            interval_s=2 * LONGEST_S,
            now=timeline,
            on_record=on_record,
        )
        self.error = ""
        self._responses: list[tuple[float, float]] = []
        self._done = asyncio.Event()

    async def run(self) -> Outcome:
        """Submit the work, wait for it, linger, and close."""
        self._release_from(0)
        self.controller.start()
        try:
            await asyncio.wait_for(self._done.wait(), self._at_most_s())
        except asyncio.TimeoutError:
            limit = f"{self._at_most_s():.0f} s on {self.setting.site.name}"
            raise ConfigError(f"{self.workload.name}: not done after {limit}") from None
        else:
            await self._linger()
            if self.error:
                raise PolicyError(f"{self.workload.name}: {self.error}")
            return self._outcome()
        finally:
            await self.controller.stop()
            await self.engine.aclose()
            await self.jobs.aclose(0.0)

    def _at_most_s(self) -> float:
        if self.setting.at_most_s is not None:
            return self.setting.at_most_s
        pauses_s = sum(release.wait_s for release in self.workload.releases)
        return 7 * 86_400.0 + 3 * (self.workload.work_s + pauses_s)

    def fail(self, error: str) -> None:
        """A round could not decide: in a made-up world nothing gets better by itself, so the run ends."""
        self.error = self.error or error
        self._done.set()

    def _release_from(self, number: int) -> None:
        """Submit what goes by the clock from here on, up to the next graph that waits for the one before it."""
        releases = self.workload.releases
        for index in range(number, len(releases)):
            if index > number and releases[index].thinking:
                return
            release = releases[index]
            since_s = self.timeline.now_s if release.thinking else START_S
            self.timeline.after(max(0.0, since_s + release.wait_s - self.timeline.now_s), self._submit, index)

    def _submit(self, number: int) -> None:
        begun_s = self.timeline.now_s
        self.scheduler.submit(self.workload.graphs[number], lambda: self._ended(number, begun_s))

    def _ended(self, number: int, begun_s: float) -> None:
        self._responses.append((begun_s, self.timeline.now_s))
        releases = self.workload.releases
        if number + 1 < len(releases) and releases[number + 1].thinking:
            self._release_from(number + 1)
        if len(self._responses) == len(releases):
            self._done.set()

    async def _linger(self) -> None:
        end_s = self.timeline.now_s + self.setting.linger_s
        while self.timeline.now_s < end_s and self.backend.alive and not self.error:  # noqa: ASYNC110  time is virtual
            await asyncio.sleep(min(1.0, end_s - self.timeline.now_s))

    def _outcome(self) -> Outcome:
        present = self.scheduler.workers.values()
        begun_s, ended_s = min(each[0] for each in self._responses), max(each[1] for each in self._responses)
        return Outcome(
            waited_s=sum(end_s - begun_s for begun_s, end_s in self._responses),
            makespan_s=ended_s - begun_s,
            worker_s=self.scheduler.served_s + sum(self.timeline.now_s - worker.since_s for worker in present),
            billed_s=self.backend.billed_s(),
            starts=self.backend.starts,
            cancelled=self.backend.cancelled,
            recomputed=self.scheduler.recomputed,
            tasks=self.scheduler.finished,
            rounds=self.controller.record.number if self.controller.record else 0,
            most_threads=self.engine.most_threads,
            most_alive=self.backend.most_alive,
            fastest=self.backend.fastest,
            elasticity=self._elasticity(begun_s, ended_s),
        )

    def _elasticity(self, begun_s: float, ended_s: float) -> Elasticity:
        most = self.setting.maximum * self.setting.shape.job_threads
        demand = [(at_s, float(min(tasks, most))) for at_s, tasks, _ in self.engine.series]
        supply = [(at_s, float(threads)) for at_s, _, threads in self.engine.series]
        return elasticity(sampled(demand, begun_s, ended_s), sampled(supply, begun_s, ended_s), most)

    def _join(self, batch: Batch, job: str) -> None:
        shape = batch.spec.shape
        now_s = self.timeline.now_s
        names = [worker_name(job, index) for index in range(shape.workers)]
        self.engine.join([Worker(name, job, batch.pool, shape, now_s) for name in names])

    def _leave(self, job: str) -> None:
        self.engine.leave(job)
