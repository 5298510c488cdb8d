"""Somebody else's cluster as an actuator: it has no job list and no ids, only "be this large" and "let these go".

Two kinds are understood. A *specified* cluster (``distributed.SpecCluster`` and what derives from it) keeps
``worker_spec``, a mapping of names to jobs, each of one or several workers: its names are the jobs. Any other cluster
has ``scale_up(n)`` (or ``scale(n)``) and ``scale_down(workers)``, plain or ``async``: every registered worker is a job,
or every group of workers that ``worker_key`` puts together; what was asked for and is not there yet is counted.

Before a job is let go its workers are drained by the engine; the cluster is then told to forget them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dask.utils import parse_bytes
from distributed.core import Status
from distributed.deploy.spec import SpecCluster

from dask_adaptive import life as lives
from dask_adaptive.actuator import Observed
from dask_adaptive.engine.dask_side import DaskEngine
from dask_adaptive.model import ALIVE, Life, Limits, Load, Phase, Plan, Pool, PoolState, Shape, Startup, Timeouts
from dask_adaptive.operations import Operations

__all__ = ["POOL", "ForeignCluster"]

POOL = "default"
RELUCTANT_S = 5.0
TIMEOUTS = Timeouts(start_s=120.0, lost_s=5.0, drain_s=600.0, end_s=15.0)


class ForeignCluster:
    """The actuator over a cluster that is not ours.

    Parameters
    ----------
    cluster:
        Has ``scale_up(n)`` or ``scale(n)``, and ``scale_down(workers)``; may have ``worker_spec``.
    engine:
        The Dask side, in the mode in which every worker is ours.
    clock:
        The time in seconds.
    scale_up, scale_down:
        To be called instead of the cluster's.
    """

    def __init__(
        self,
        cluster: Any,
        *,
        engine: DaskEngine,
        clock: Callable[[], float],
        scale_up: Callable[[int], Any] | None = None,
        scale_down: Callable[[Sequence[Any]], Any] | None = None,
    ) -> None:
        self.limits = Limits()
        self._cluster, self._engine, self._clock = cluster, engine, clock
        self._grow = scale_up or _grower(cluster)
        self._release = scale_down or cluster.scale_down
        self._lives: dict[str, Life] = {}
        self._members: Mapping[str, Any] = {}
        self._load = Load(0.0)
        self._startup = Startup()
        self._asked = 0
        self._declared: dict[str, str] = {}
        self._reluctant: dict[str, float] = {}
        self._growing = False
        self._trouble = ""
        self._retry_s = 0.0
        self._failures = 0
        self._operations = Operations()
        self._events: list[str] = []

    @property
    def _specified(self) -> bool:
        return isinstance(getattr(self._cluster, "worker_spec", None), Mapping)

    def watch(self, wake: Callable[[str], None]) -> None:
        """See ``Actuator``."""
        self._operations.wake = wake

    # --- looking ---

    def observe(self, load: Load | None, now_s: float) -> Observed:
        """See ``Actuator``."""
        self._operations.settle(now_s)
        if load is not None:
            self._load, self._members = load, load.members
            if self._specified:
                self._observe_specified(now_s)
            else:
                self._observe_plain(now_s)
        for name in [life.name for life in self._lives.values() if life.phase in (Phase.GONE, Phase.FAILED)]:
            del self._lives[name]
        events, self._events = tuple(self._events), []
        self._reluctant = {job: at for job, at in self._reluctant.items() if now_s - at < RELUCTANT_S}
        broken = self._trouble if now_s < self._retry_s else ""
        state = PoolState(
            pool=Pool(POOL, self.shape(), self.limits),
            startup=self._startup,
            broken=broken,
            retry_s=self._retry_s,
            submitting=self._growing,
            timeouts=TIMEOUTS,
        )
        return Observed(dict(self._lives), {POOL: state}, events, frozenset(self._reluctant))

    def _observe_specified(self, now_s: float) -> None:
        spec = self._cluster.worker_spec
        self._declare(spec)
        jobs = {str(token): len(each.get("group", ("",))) for token, each in spec.items()}
        for name, workers in jobs.items():
            life = self._lives.get(name) or self._asked_for(name, now_s)
            if self._start_failed(name) and life.phase is not Phase.ENDING:
                life = replace(life, phase=Phase.STARTING, running_s=now_s - TIMEOUTS.start_s - 1, since_s=now_s)
            self._put(lives.registered(life, len(self._members.get(name, ())), workers, now_s))
        for name in [name for name in self._lives if name not in jobs]:
            if not self._members.get(name):
                del self._lives[name]

    def _declare(self, spec: Mapping[Any, Any]) -> None:
        """Tell the engine which worker belongs to which job, by name, or by address where names do not match."""
        names = {str(token) + suffix: str(token) for token, each in spec.items() for suffix in each.get("group", ("",))}
        for token, worker in list(getattr(self._cluster, "workers", {}).items()):
            address = getattr(worker, "worker_address", None) or getattr(worker, "address", None)
            if isinstance(address, str) and "group" not in spec.get(token, {}):
                names[address] = str(token)
        new = {name: job for name, job in names.items() if self._declared.get(name) != job}
        if new:
            self._declared.update(new)
            self._operations.begin(self._engine.declare_jobs(new), _ignore)

    def _start_failed(self, name: str) -> bool:
        """The cluster keeps a worker that never started, and would wait for it for ever."""
        workers = getattr(self._cluster, "workers", {})
        status = next(
            (getattr(worker, "status", None) for token, worker in workers.items() if str(token) == name), None
        )
        return status is Status.failed and not self._members.get(name)

    def _observe_plain(self, now_s: float) -> None:
        for name in self._members:
            if name not in self._lives:
                coming = next((life for life in self._lives.values() if life.name.startswith("coming-")), None)
                if coming is not None:
                    del self._lives[coming.name]
                    self._lives[name] = replace(coming, name=name)
                else:
                    self._asked_for(name, now_s)
        for life in list(self._lives.values()):
            present = len(self._members.get(life.name, ()))
            if not present and life.served:
                del self._lives[life.name]
            else:
                self._put(lives.registered(life, present, max(1, present), now_s))

    def _asked_for(self, name: str, now_s: float) -> Life:
        life = replace(lives.wanted(name, POOL, now_s), phase=Phase.STARTING, submitted_s=now_s, running_s=now_s)
        self._lives[name] = life
        return life

    def _put(self, life: Life) -> None:
        was = self._lives.get(life.name)
        self._lives[life.name] = life
        if was is not None and life.phase is Phase.READY and was.phase is Phase.STARTING:
            self._failures, self._trouble = 0, ""
            took_s = max(0.0, life.ready_s - life.running_s)
            self._startup = Startup((0.0,), (*self._startup.start_s, took_s)[-32:])

    def shape(self) -> Shape:
        """What one job brings: as specified, else as seen, else one thread."""
        spec = getattr(self._cluster, "new_spec", None) or {}
        options = spec.get("options", {}) if isinstance(spec, Mapping) else {}
        seen = self._load.pools.get(POOL)
        workers = len(spec.get("group", ("",))) if spec else 1
        if not spec and self._members:
            workers = max(1, round(sum(len(each) for each in self._members.values()) / len(self._members)))
        threads = options.get("nthreads")
        memory = options.get("memory_limit")
        if seen is not None and seen.workers:
            threads = max(1, round(seen.threads / max(1, seen.workers - seen.paused))) if seen.threads else threads
            memory = seen.memory_bytes // seen.workers
        return Shape(workers, int(threads or 1), _bytes(memory), self._resources(options))

    def _resources(self, options: Mapping[str, Any]) -> Mapping[str, float]:
        """The resources of a worker; where the cluster does not say, whatever one task needs."""
        said = options.get("resources")
        if isinstance(said, Mapping):
            return {str(name): float(amount) for name, amount in said.items()}
        if "nthreads" in options:
            return {}
        return {name: amount for group in self._load.groups for name, amount in group.need.items()}

    # --- acting ---

    def act(self, plan: Plan, now_s: float) -> None:
        """See ``Actuator``."""
        count = sum(submit.count for submit in plan.submits)
        if count and not self._growing:
            self._growing = True
            self._operations.begin(self._call(self._grow, self._wanted(count, now_s)), self._grown)
        for busy in (False, True):
            jobs = self._whole([retire.job for retire in plan.retires if retire.busy is busy])
            if jobs:
                for name in jobs:
                    self._lives[name] = lives.draining(self._lives[name], "", now_s)
                drain = self._engine.drain(jobs, TIMEOUTS.drain_s, busy=busy)
                self._operations.begin(drain, partial(self._drained, dict(self._members), tuple(jobs)))
        told = [cancel.job for cancel in plan.cancels if cancel.job in self._lives]
        if told:
            for cancel in plan.cancels:
                if cancel.job in self._lives:
                    self._events.append(f"{cancel.job} is let go: {cancel.reason}")
                    deadline_s = now_s + TIMEOUTS.end_s
                    self._lives[cancel.job] = lives.cancelled(self._lives[cancel.job], cancel.reason, deadline_s, now_s)
            self._let_go(told, self._members)

    def _wanted(self, count: int, now_s: float) -> int:
        """The size to ask for, in the cluster's own unit: jobs where specified, else workers."""
        if self._specified:
            return len(self._cluster.worker_spec) + count
        for _ in range(count):
            self._asked += 1
            self._asked_for(f"coming-{self._asked}", now_s)
        present = sum(len(each) for each in self._members.values())
        coming = sum(life.phase is Phase.STARTING for life in self._lives.values())
        return present + coming

    def _grown(self, outcome: object, now_s: float) -> None:
        self._growing = False
        if isinstance(outcome, BaseException):
            self._failures += 1
            self._trouble = f"the cluster could not grow: {outcome}"
            self._retry_s = now_s + min(300.0, 2.0 ** (self._failures - 1))
            self._events.append(self._trouble)
            for name in [name for name in self._lives if name.startswith("coming-")]:
                del self._lives[name]

    def _whole(self, names: Iterable[str]) -> dict[str, list[str]]:
        ready = [name for name in names if name in self._lives and self._lives[name].phase is Phase.READY]
        return {name: [member.address for member in self._members.get(name, ())] for name in ready}

    def _drained(self, members: Mapping[str, Any], jobs: Sequence[str], outcome: Any, now_s: float) -> None:
        gone = []
        for name in jobs:
            life = self._lives.get(name)
            refusal = str(outcome) if isinstance(outcome, BaseException) else outcome.get(name, "no answer")
            if refusal:
                self._reluctant[name] = now_s
                self._events.append(f"{name} stays: {refusal}")
                if life is not None:
                    self._lives[name] = lives.kept(life, refusal, now_s)
                continue
            gone.append(name)
            if life is not None:
                self._lives[name] = lives.drained(life, now_s + TIMEOUTS.end_s, now_s)
        if gone:
            self._let_go(gone, members)

    def _let_go(self, names: Sequence[str], members: Mapping[str, Any]) -> None:
        """Tell the cluster to forget these: by its own names where it has them, else by the workers' addresses."""
        if self._specified:
            tokens = {str(token): token for token in self._cluster.worker_spec}
            gone: list[Any] = [tokens[name] for name in names if name in tokens]
        else:
            gone = [member.address for name in names for member in members.get(name, ())]
        if gone:
            self._operations.begin(self._call(self._release, gone), partial(self._released, tuple(names)))
        else:
            self._released(tuple(names), None, self._clock())

    def _released(self, names: Sequence[str], outcome: object, now_s: float) -> None:  # noqa: ARG002
        if isinstance(outcome, BaseException):
            self._events.append(f"{', '.join(names)} could not be let go, will be tried again: {outcome}")
            return
        for name in names:
            if not self._members.get(name) or (name in self._lives and self._lives[name].phase is Phase.ENDING):
                self._lives.pop(name, None)

    @staticmethod
    async def _call(function: Callable[[Any], Any], argument: Any) -> Any:
        outcome = function(argument)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def aclose(self, timeout_s: float) -> tuple[str, ...]:  # noqa: ARG002
        """Stop what is in flight. The workers are the cluster's own: it ends them."""
        await self._operations.stop()
        return ()

    @property
    def size(self) -> int:
        """Jobs that are there or asked for."""
        return sum(life.phase in ALIVE for life in self._lives.values())


def _ignore(outcome: object, now_s: float) -> None:
    """A declaration that was lost is made again: the engine keeps what was declared."""


def _bytes(value: Any) -> int:
    try:
        return int(parse_bytes(value)) if isinstance(value, str) else int(value or 0)
    except (ValueError, TypeError):
        return 0


def _grower(cluster: Any) -> Callable[[int], Any]:
    """How to make the cluster larger; a specified one counts jobs, whatever a subclass made of ``scale``."""
    if isinstance(cluster, SpecCluster):
        return partial(SpecCluster.scale, cluster)
    grow: Callable[[int], Any] = getattr(cluster, "scale_up", None) or cluster.scale
    return grow
