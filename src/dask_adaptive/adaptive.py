"""``Adaptive``: what ``cluster.adapt`` returns, on our clusters and as a drop-in on anybody's.

    from dask_adaptive import Adaptive
    any_dask_cluster.adapt(Adaptive=Adaptive, minimum=0, maximum=20)

On one of our clusters it chooses the policy of the cluster's own controller. On any other it brings a controller of
its own, with the same policy and the same plan, and acts through that cluster's ``scale`` and ``scale_down``.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import dask.config
from distributed.deploy.spec import SpecCluster

from dask_adaptive.config import (
    Bounds,
    check_keys,
    cores_here,
    count_of,
    duration_configured,
    flag_of,
    limits_of,
    positive_of,
    scaling_of,
    setting,
)
from dask_adaptive.controller import Controller
from dask_adaptive.errors import ConfigError
from dask_adaptive.foreign import POOL
from dask_adaptive.history import History
from dask_adaptive.model import Capacity, Limits, Past, Plan, Record, Retire, Shape, Snapshot, Target, View, Want
from dask_adaptive.phrases import count
from dask_adaptive.policy.classic import Fixed, TargetDuration
from dask_adaptive.policy.combine import Budget, standard
from dask_adaptive.policy.contracts import FRESH, Policy
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.registry import load_policy
from dask_adaptive.show.bulletin import Ledger
from dask_adaptive.specified import runs_here
from dask_adaptive.takeover import Takeover, check_scalable, foreign_shape

__all__ = ["Adaptive", "adaptive_limits"]

logger = logging.getLogger(__name__)

_BOUNDS = tuple(each.name for each in fields(Bounds))
_TAKEN = ("memory_ratio", "attribute", "key", "n")
"""Arguments of ``Scheduler.workers_to_close`` that Dask's class passes on; taken and not needed here."""


class Adaptive:
    """Sizes a cluster by a policy.

    Parameters
    ----------
    cluster:
        A Dask cluster, or any object with ``scale_up(n)`` (or ``scale(n)``) and ``scale_down(workers)``. None for a
        subclass that brings its own ``scale_up`` and ``scale_down``; then ``scheduler`` is needed.
    interval:
        The longest time between two rounds; a new graph starts one at once. Default:
        ``distributed.adaptive.interval``.
    minimum, maximum:
        Size in workers. Also ``minimum_jobs``, ``maximum_cores``, ``maximum_memory`` and so on. Minima are rounded up
        to whole jobs, maxima down. Default maximum: ``distributed.adaptive.maximum``; where that is infinite, the cores
        of this machine for workers that run here, else ``adaptive.maximum-jobs`` (10). The pool's own maximum, of when
        the cluster was made, holds; a larger one is cut with a warning.
    wait_count:
        A smaller size must have been right for ``wait_count`` x ``interval`` before anything is given up. Default: as
        configured for Dask; ``CostAware`` decides itself how long to wait unless this is said.
    target_duration:
        Work that is there should take this long; chooses the policy ``TargetDuration``, as does a configured
        ``distributed.adaptive.target-duration`` that is not Dask's 5 s, or ``adaptive.target-duration``.
    worker_key:
        A function of Dask's ``WorkerState``; workers with the same key are given up together. Not asked on a
        ``SpecCluster``, where the workers of one entry belong together.
    scheduler:
        A ``Scheduler`` or its address, for an object that has no ``scheduler_comm``.
    policy:
        A policy object, or the name of a registered one. Default: ``adaptive.policy`` (``cost-aware``).
    time_value:
        How many worker-seconds one second of waiting is worth, for ``cost-aware``: larger means more workers, sooner.
        Default: ``adaptive.time-value`` (10).
    pools:
        Limits for some pools only: name -> mapping of ``minimum``, ``maximum_jobs`` and so on.
    budget:
        Worker-hours that may be spent, in all or by pool. When they are, nothing new is started, what is there is
        drained, and no minimum holds any longer.

    Raises
    ------
    ConfigError
        For anything that cannot be, in one sentence, before anything is started.

    Notes
    -----
    On a ``SpecCluster``, ``scale(n)`` ends adaptive scaling, and says so; a minimum of 0 and an infinite maximum, which
    its ``adapt`` always passes, mean "as configured, else the default".

    A subclass may override ``target()`` (workers wanted; plain or ``async``), ``workers_to_close(target)`` (addresses
    or names of workers to give up; only whole jobs go, drained first), ``scale_up(n)`` and ``scale_down(workers)``.
    """

    def __init__(
        self,
        cluster: Any = None,
        interval: Any = None,
        minimum: Any = None,
        maximum: Any = None,
        wait_count: Any = None,
        target_duration: Any = None,
        worker_key: Any = None,
        *,
        scheduler: Any = None,
        policy: Policy | str | None = None,
        time_value: float | None = None,
        pools: Mapping[str, Mapping[str, Any]] | None = None,
        budget: float | Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        _forget_earlier_options(cluster)
        check_keys("option of adapt:", [key for key in options if key not in _TAKEN], (*_BOUNDS, "interval", "policy"))
        said = {"minimum": minimum, "maximum": maximum, **{key: options[key] for key in _BOUNDS if key in options}}
        bounds = {key: value for key, value in said.items() if value is not None}
        self._scaling = scaling_of(interval, wait_count, target_duration)
        self.interval = self._scaling.interval_s
        self.wait_count = round(self._scaling.wait_s / self.interval)
        self.target_duration = self._scaling.target_duration_s
        self._said_wait = wait_count is not None or dask.config.get("distributed.adaptive.wait-count", 3) != 3
        self._inner = self._chosen(policy, target_duration, time_value)
        self._budget = budget
        self.policy = self._standard(self._inner)
        self.cluster = cluster
        self.state = "starting"
        self.log: deque[tuple[float, dict[str, Any]]] = deque(maxlen=10_000)
        self.periodic_callback: Any = self
        self._limits: dict[str, Limits] = {}
        self._workers_per_job = 1
        self._trouble = ""
        self._takeover: Takeover | None = None
        name = str(getattr(cluster, "name", "") or type(cluster).__name__)
        ledger = Ledger(name, logs=flag_of("adaptive.page-logs", setting("page-logs")))
        self._ledger = ledger if flag_of("adaptive.page", setting("page")) else None
        if hasattr(cluster, "controller"):
            if not isinstance(pools, Mapping | None):
                raise ConfigError(
                    f"pools= maps names of pools to limits, as {{'default': {{'maximum': 5}}}}, not {pools!r}"
                )
            self._install(bounds, pools or {})
        elif pools:
            raise ConfigError("pools= needs a cluster of dask_adaptive; this one has a single kind of worker")
        else:
            self._take_over(bounds, scheduler, worker_key)

    def _chosen(self, policy: Policy | str | None, target_duration: Any, time_value: Any) -> Policy:
        if policy is None and (target_duration is not None or (time_value is None and duration_configured())):
            policy = "target-duration"
        name = setting("policy") if policy is None else policy
        kind = load_policy(name) if isinstance(name, str) else None
        if time_value is not None and kind is not CostAware:
            raise ConfigError("time_value= is for the policy 'cost-aware'; leave out policy= and target_duration=")
        if target_duration is not None and kind is not None and not issubclass(kind, TargetDuration):
            raise ConfigError("target_duration= is for the policy 'target-duration'; leave it or policy= out")
        if kind is None:
            if not isinstance(name, Policy):
                raise ConfigError(f"policy must be a name or an object with decide(view, past), not {name!r}")
            return name
        if issubclass(kind, Fixed):
            raise ConfigError("policy 'fixed' is what scale does: scale(3), or minimum and maximum alike")
        try:
            if issubclass(kind, TargetDuration):
                made = kind(self._scaling.target_duration_s)
            elif issubclass(kind, CostAware):
                made = kind(positive_of("time_value", setting("time-value") if time_value is None else time_value))
            else:
                made = kind()
        except TypeError as error:
            raise ConfigError(
                f"policy {name!r} needs arguments, so give an object of {kind.__name__}: {error}"
            ) from None
        return made  # type: ignore[no-any-return]

    def _standard(self, policy: Policy) -> Policy:
        """With patience, limits, and the budget outermost: a minimum ends with it."""
        made = standard(policy, self._scaling.wait_s, said=self._said_wait)
        return made if self._budget is None else Budget(made, self._budget)

    def teach(self, history: History) -> None:
        """Begin with the run times of earlier runs, before the first round."""
        if isinstance(self._inner, CostAware):
            self._inner = self._inner.taught({**history.durations, **self._inner.history})
            self.policy = self._standard(self._inner)

    # --- on one of our clusters ---

    def _install(self, bounds: Mapping[str, Any], pools: Mapping[str, Mapping[str, Any]]) -> None:
        cluster = self.cluster
        known = {pool.name: pool for pool in cluster.pools}
        check_keys("pool", pools, known)
        if isinstance(self._budget, Mapping):
            check_keys("pool in the budget:", self._budget, known)
        cuts: dict[str, str] = {}
        for name, pool in known.items():
            mine = {**bounds, **pools.get(name, {})}
            check_keys(f"limit of pool {name!r}:", mine, _BOUNDS)
            hard, default = cluster.hard_limits(name), cluster.default_maximum_jobs(pool)
            self._limits[name] = adaptive_limits(Bounds(**mine), pool.shape, hard, default, name)
            cuts[name] = _cut(Bounds(**mine), pool.shape, hard, name)
        if not all(cuts.values()):  # what is said for all pools need not fit each
            cuts = {name: cuts[name] for name, said in pools.items() if any(key.startswith("maximum") for key in said)}
        if any(cuts.values()):
            logger.warning("adapt: %s", "; ".join(filter(None, cuts.values())))
        self._workers_per_job = next(iter(known.values())).shape.workers
        self.cluster.loop.add_callback(self._begin_installed)

    async def _begin_installed(self) -> None:
        await self.cluster
        if self.state == "stopped":
            return
        self.teach(self.cluster.history)
        controller: Controller = self.cluster.controller
        self.cluster.limit(self._limits)
        controller.advisor = self if self.advises else None
        controller.use(self.policy, why=f"adapt: {self._words()}", interval_s=self.interval)
        self.state = "running"

    # --- on somebody else's cluster ---

    def _take_over(self, bounds: Mapping[str, Any], scheduler: Any, worker_key: Any) -> None:
        cluster = self.cluster
        check_scalable(cluster, self.own, type(self).__name__)
        self._said = Bounds(**_with_configured(_meant(cluster, bounds)))
        self._cores = cores_here() if runs_here(cluster) else None
        limits = self._limit(foreign_shape(cluster))
        if not any(value is not None for key, value in vars(self._said).items() if key.startswith("maximum")):
            logger.warning("adapt: no maximum was given; it is %d workers. Say maximum= for another", self.maximum)
        self._takeover = Takeover(self, cluster, scheduler, worker_key, limits)

    def _limit(self, shape: Shape) -> Limits:
        """The limits in jobs of this shape."""
        configured = count_of("maximum-jobs", setting("maximum-jobs"))
        default = configured if self._cores is None else max(1, self._cores // shape.job_threads)
        limits = self._limits[POOL] = limits_of(self._said, shape, default)
        self._workers_per_job = shape.workers
        return limits

    def _seen(self, shape: Shape) -> None:
        """Jobs turn out to be of another size than thought: with ``worker_key`` only the workers tell."""
        try:
            limits = self._limit(shape)
        except ConfigError as error:
            logger.warning("adapt: the limits stay %s: %s", self._limits[POOL], error)
            self._workers_per_job = shape.workers
        else:
            if self._takeover is not None:
                self._takeover.limit(limits)

    def on_record(self, record: Record) -> None:
        """Told of every round on somebody else's cluster."""
        self.state = "running" if self.state == "starting" else self.state
        shape = record.snapshot.pools[POOL].pool.shape
        if shape.workers != self._workers_per_job:
            self._seen(shape)
        for submit in record.plan.submits:
            self.log.append((record.at_s, {"status": "up", "n": submit.count, "reason": submit.reason}))
        if record.plan.retires:
            entry = {"status": "down", "workers": [retire.job for retire in record.plan.retires]}
            self.log.append((record.at_s, {**entry, "reason": record.plan.retires[0].reason}))
        if record.error and record.error != self._trouble:
            logger.warning("adapt: %s", record.error)
        self._trouble = record.error
        if self._ledger is not None and self._takeover is not None:
            self._ledger.take(record)
            self._takeover.publish(self._ledger.bulletin)

    # --- what a subclass may override ---

    def own(self, name: str) -> Callable[..., Any] | None:
        """The method ``scale_up`` or ``scale_down`` that a subclass brings; None where it does not."""
        return getattr(self, name) if hasattr(type(self), name) else None

    @property
    def advises(self) -> bool:
        """Whether a subclass wants to be asked in every round."""
        kind = type(self)
        return kind.target is not Adaptive.target or kind.workers_to_close is not Adaptive.workers_to_close

    @property
    def _controller(self) -> Controller | None:
        controller: Controller | None = (self._takeover or self.cluster).controller
        return controller

    async def target(self) -> int:
        """How many workers there should be: what the policy says. Override it to say something else.

        Of a policy that decides itself how long idle workers are kept it is what it would ask for if there were none.
        """
        if self._controller is None or self._controller.view is None:
            return 0
        view = self._controller.view
        if getattr(self._inner, "patient", False):
            view = replace(
                view, pools=tuple(replace(each, phases={}, capacity=Capacity(), idle=0) for each in view.pools)
            )
        target, _ = self._inner.decide(view, FRESH)
        return sum(want.jobs for want in target.pools.values()) * self._workers_per_job

    async def workers_to_close(self, target: int) -> Sequence[Any]:
        """Which workers to give up for a size of ``target`` workers: the idle ones with the least data.

        Returns addresses. An override may return addresses or names; what it returns is drained, never cut off.
        """
        del target
        if self._controller is None or self._controller.record is None:
            return []
        members = self._controller.record.snapshot.load.members
        return [
            member.address for retire in self._controller.proposal.retires for member in members.get(retire.job, ())
        ]

    async def policy_for(self, view: View) -> Policy:  # noqa: ARG002
        """The policy of this round: an overridden ``target()`` takes the place of ours, with the same patience."""
        if type(self).target is Adaptive.target:
            return self.policy
        said: Any = self.target()
        workers = count_of("target()", await said if inspect.isawaitable(said) else said)
        return self._standard(_Told(workers))

    async def plan_for(self, snapshot: Snapshot, plan: Plan) -> Plan:
        """The plan with the workers of an overridden ``workers_to_close`` instead of its own."""
        if type(self).workers_to_close is Adaptive.workers_to_close or not plan.retires:
            return plan
        members = snapshot.load.members
        present = sum(len(each) for each in members.values())
        surplus = len(plan.retires) * self._workers_per_job
        said: Any = self.workers_to_close(target=max(0, present - surplus))
        chosen = {str(worker) for worker in (await said if inspect.isawaitable(said) else said)}
        whole = [job for job, each in members.items() if all({m.address, m.name, job} & chosen for m in each)]
        retires = (Retire(job, "workers_to_close() said so", busy=True) for job in whole[: len(plan.retires)])
        return replace(plan, retires=tuple(retires))

    # --- what Dask and others look at ---

    @property
    def minimum(self) -> int:
        """The minimum in workers, over all pools."""
        return sum(each.minimum for each in self._limits.values()) * self._workers_per_job

    @property
    def maximum(self) -> int | None:
        """The maximum in workers, over all pools; None where the user said "without limit"."""
        tops = [each.maximum for each in self._limits.values()]
        return None if None in tops else sum(top for top in tops if top is not None) * self._workers_per_job

    @property
    def records(self) -> Sequence[Record]:
        """The rounds so far, each with its reasons."""
        return tuple(self._controller.journal.records) if self._controller is not None else ()

    def stop(self) -> None:
        """Stop deciding; the cluster stays as large as it is. Safe to call twice."""
        if self.state == "stopped":
            return
        self.state, self.periodic_callback = "stopped", None
        if self._takeover is None:
            self.cluster.hold(self)
        else:
            self._takeover.stop()

    def _words(self) -> str:
        limits = ", ".join(f"{name} {each.minimum} to {_most(each)} jobs" for name, each in self._limits.items())
        return f"{limits}, every {self.interval:g} s"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._words()}, {self.state})"


def _most(limits: Limits) -> str:
    return "any number of" if limits.maximum is None else str(limits.maximum)


@dataclass(frozen=True)
class _Told:
    """Wants what an overridden ``target()`` said, of the first pool."""

    workers: int

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        first = view.pools[0].pool
        wants = {pool.pool.name: Want(pool.size, "unchanged: target() speaks of the first pool") for pool in view.pools}
        wants[first.name] = Want(-(-self.workers // first.shape.workers), f"target() said {self.workers} workers")
        return Target(wants), past


def _with_configured(said: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, and Dask's configured minimum and maximum where nothing was."""
    bounds = dict(said)
    for side, default in (("minimum", 0), ("maximum", math.inf)):
        if not any(key.startswith(side) for key in said):
            configured = dask.config.get(f"distributed.adaptive.{side}", default)
            if configured != math.inf:
                bounds[side] = configured
    return bounds


def adaptive_limits(said: Bounds, shape: Shape, hard: Limits, default: int, pool: str) -> Limits:
    """Between how many jobs a pool moves: what was said, else configured, inside the hard limits of the pool.

    ``default`` (jobs) is the maximum where nobody said one. Raises ``ConfigError`` where that leaves no size.
    """
    bounds = Bounds(**_with_configured({key: value for key, value in vars(said).items() if value is not None}))
    limits = limits_of(bounds, shape, default if hard.maximum is None else hard.maximum)
    minimum = max(limits.minimum, hard.minimum)
    if hard.maximum is not None and limits.minimum > hard.maximum:
        raise ConfigError(
            f"minimum of {limits.minimum} jobs is above the maximum of pool {pool!r}, {hard.maximum} jobs"
        )
    tops = [top for top in (limits.maximum, hard.maximum) if top is not None]
    return Limits(minimum, max(minimum, min(tops)) if tops else None)


def _cut(said: Bounds, shape: Shape, hard: Limits, pool: str) -> str:
    """In words that less can be had than was said, else an empty text; without limit is as much as there may be."""
    asked = limits_of(said, shape, None).maximum
    if asked is None or hard.maximum is None or asked <= hard.maximum:
        return ""
    most = count(hard.maximum, "job")
    return f"a maximum of {count(asked, 'job')} is above that of pool {pool!r}, so that {most} is the most it will have"


def _forget_earlier_options(cluster: Any) -> None:
    """Dask's ``adapt`` adds what earlier calls said to what is said now; here every call stands alone."""
    sticky = getattr(cluster, "_adaptive_options", None)
    if isinstance(sticky, dict):
        sticky.clear()


def _meant(cluster: Any, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, without what ``SpecCluster.adapt`` always says: at least 0 and at most infinity."""
    empty = {"minimum": 0, "maximum": math.inf} if isinstance(cluster, SpecCluster) else {"maximum": math.inf}
    return {key: value for key, value in bounds.items() if empty.get(key) != value}
