"""A cluster in words: what a configuration file, or the flags of a command, say of one.

    name: analysis
    maximum: 20
    pools:
      base: {backend: local, minimum: 1, maximum: 1}
      batch: {backend: slurm, threads: 4, memory: 16 GB}

A ``Description`` holds plain values, so that it can be written down and read elsewhere; ``cluster()`` makes it true.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import dask.config
from distributed import Scheduler

from dask_adaptive.adaptive import adaptive_limits
from dask_adaptive.alerts import hooks_of
from dask_adaptive.cluster import Cluster
from dask_adaptive.config import (
    Amount,
    Bounds,
    Scaling,
    check_keys,
    count_of,
    duration_configured,
    plain_keys,
    positive_of,
    scaling_of,
    seconds_of,
    setting,
)
from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.marked import read_marked
from dask_adaptive.model import Limits
from dask_adaptive.options import PoolOptions, backends_of, pool_options
from dask_adaptive.policy.classic import TargetDuration
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.registry import load_policy
from dask_adaptive.said import Wrong, attempt, pool_said, pools_said, unknown

__all__ = ["Description", "Head", "described", "flagged", "read"]

_BOUNDS = tuple(each.name for each in fields(Bounds))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Head:
    """Where scheduler and controller of a cluster live that outlives its creator.

    Parameters
    ----------
    where:
        ``here``: in the background of this machine. ``job``: as a job of the resource manager.
    pool:
        The pool whose backend starts the head, for ``job``; default: the first one.
    options:
        What that job is, as for a pool: ``memory``, ``threads`` and so on. Default: as a job of that pool.
    dashboard:
        Whether the scheduler shows Dask's dashboard.
    """

    where: str = "here"
    pool: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    dashboard: bool = True


@dataclass(frozen=True)
class Description:
    """A cluster in plain values, checked. ``Description(**asdict(description))`` is the same again.

    Parameters
    ----------
    name:
        Name of the cluster: letters, digits, ``.``, ``_`` and ``-``.
    pools:
        Kinds of jobs: name -> options of each pool and of its backend, with everything that was configured or said for
        all pools. Options at the top of a file are those of all pools.
    minimum, maximum, minimum_jobs, maximum_jobs, minimum_cores, maximum_cores, minimum_memory, maximum_memory:
        Size of each pool while it adapts, in workers, jobs, threads or bytes. A pool's own are harder: whatever is
        asked for later.
    policy:
        When and how many: a name, or ``name`` and arguments of the policy.
    time_value:
        For the policy ``cost-aware``: how many worker-seconds one second of waiting is worth.
    target_duration:
        Work that is there should take this long; chooses the policy ``target-duration``.
    interval:
        The longest time between two rounds.
    wait_count:
        A smaller size must have been right for so many intervals before anything is given up.
    budget:
        Worker-hours that may be spent, in all or by pool; then nothing new is started, and what is there is drained.
    scheduler:
        Arguments of Dask's ``Scheduler``, such as ``host``, ``port`` and ``dashboard_address``.
    security:
        Encrypted connections: ``true`` makes credentials, else Dask's TLS options.
    journal:
        File that every round is written to.
    idle_timeout:
        After so long without work, and without results that somebody holds, a head ends its cluster; default: never.
    on_event:
        What to run or call when something is wrong: a command as a list of words, or ``package.module:function``.
    head:
        Where the head lives: ``where`` (``here`` or ``job``), ``pool``, ``options``, ``dashboard``.
    """

    name: str | None = None
    pools: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"default": {"backend": "local"}})
    minimum: Amount = None
    maximum: Amount = None
    minimum_jobs: Amount = None
    maximum_jobs: Amount = None
    minimum_cores: Amount = None
    maximum_cores: Amount = None
    minimum_memory: Amount = None
    maximum_memory: Amount = None
    policy: str | Mapping[str, Any] | None = None
    time_value: float | None = None
    target_duration: Amount = None
    interval: Amount = None
    wait_count: int | None = None
    budget: float | Mapping[str, float] | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    security: bool | Mapping[str, Any] | None = None
    journal: str | None = None
    idle_timeout: Amount = None
    on_event: Any = None
    head: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limits(self) -> Bounds:
        """The size of each pool while it adapts."""
        return Bounds(**{key: getattr(self, key) for key in _BOUNDS})

    @property
    def options(self) -> Mapping[str, PoolOptions]:
        """The options of each pool."""
        return pool_options(self.pools, {})

    @property
    def sizes(self) -> Mapping[str, Limits]:
        """Between how many jobs each pool moves, as ``adapt`` will have it."""
        default = count_of("adaptive.maximum-jobs", setting("maximum-jobs"))
        pools = {name: (each.shape(), each.pool(name).limits) for name, each in self.options.items()}
        return {name: adaptive_limits(self.limits, *each, default, name) for name, each in pools.items()}

    @property
    def encrypted(self) -> bool:
        """Whether connections are encrypted: as was said, else where jobs run on other machines."""
        if self.security is not None:
            return bool(self.security)
        return any(getattr(each, "elsewhere", False) for each in backends_of(self.options).values())

    @property
    def policy_name(self) -> str:
        """The policy, by name."""
        named = self.policy.get("name") if isinstance(self.policy, Mapping) else self.policy
        lasts = self.target_duration is not None or (self.time_value is None and duration_configured())
        return str(named or ("target-duration" if lasts else setting("policy")))

    @property
    def patient(self) -> bool:
        """Whether the policy decides itself how long idle jobs are kept."""
        said = self.wait_count is not None or dask.config.get("distributed.adaptive.wait-count", 3) != 3
        return not said and bool(getattr(load_policy(self.policy_name), "patient", False))

    @property
    def scaling(self) -> Scaling:
        """The seconds of ``interval``, of patience, and of ``target_duration``."""
        return scaling_of(self.interval, self.wait_count, self.target_duration)

    @property
    def idle_timeout_s(self) -> float | None:
        """Seconds without work and results that somebody holds after which a head ends its cluster; None: never."""
        return None if self.idle_timeout is None else seconds_of("idle-timeout", self.idle_timeout)

    @property
    def headed(self) -> Head:
        """Where the head lives."""
        return Head(**self.head)

    def adapting(self) -> dict[str, Any]:
        """The arguments of ``cluster.adapt``."""
        keys = (*_BOUNDS, "interval", "wait_count", "target_duration", "time_value", "budget")
        said = {key: getattr(self, key) for key in keys}
        chosen = self.policy if isinstance(self.policy, str | None) else _policy_of(self)
        if chosen is not self.policy:
            del said["time_value"]
        return {key: value for key, value in {**said, "policy": chosen}.items() if value is not None}

    def cluster(self, **overrides: Any) -> Cluster:
        """A running cluster as described, adapting; ``overrides`` are arguments of ``Cluster``."""
        said = {"name": self.name, "security": self.security, "journal": self.journal, "on_event": self.on_event}
        given = {key: value for key, value in said.items() if value is not None}
        cluster = Cluster(**{**given, "pools": self.pools, "scheduler_options": self.scheduler, **overrides})
        try:
            cluster.adapt(**self.adapting())
        except BaseException:
            cluster.close()
            raise
        return cluster


# --- from a file, from flags ---------------------------------------------------------------------------------------


def read(path: str | Path, **flags: Any) -> Description:
    """The cluster that a YAML file describes; ``flags`` (those that are not None) are keys that win over the file's.

    Raises
    ------
    ConfigError
        With file, line and key: ``site.yaml, line 7: pools.gpu.memry: unknown key; did you mean 'memory'?``
    """
    marked = read_marked(path)
    said = _given(flags)
    document = {key: value for key, value in marked.value.items() if str(key).replace("-", "_") not in said}
    try:
        return _described({**document, **said})
    except Wrong as wrong:
        where = "" if wrong.at and wrong.at[0] in said else f"{marked.where(wrong.at)}: "
        raise ConfigError(f"{where}{wrong}") from wrong


def flagged(**flags: Any) -> Description:
    """The cluster that the flags of a command describe: keys of a file and options of its only pool.

    ``cores``, the threads of a whole job, may stand for ``threads``, and ``processes`` for ``workers_per_job``. A flag
    that is None was not given.
    """
    try:
        return _described(_given(flags))
    except Wrong as wrong:
        raise ConfigError(str(wrong)) from wrong


def described(document: Mapping[str, Any]) -> Description:
    """The cluster that a mapping describes, with the keys of a file. Raises ``ConfigError`` that names the key."""
    try:
        return _described(document)
    except Wrong as wrong:
        raise ConfigError(str(wrong)) from wrong


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: value for key, value in plain_keys(flags).items() if value is not None}
    if "processes" in said:
        said["workers_per_job"] = said.pop("processes")
    if "cores" in said:
        cores = count_of("cores", said.pop("cores"), least=1)
        workers = count_of("processes", said.get("workers_per_job", 1), least=1)
        if cores % workers:
            raise ConfigError(f"{cores} cores cannot be shared by {workers} workers per job")
        said["threads"] = cores // workers
    return said


def _described(document: Mapping[str, Any]) -> Description:
    spelled = {str(key).replace("-", "_"): str(key) for key in document}
    said, own = plain_keys(document), [each.name for each in fields(Description)]
    shared = {key: value for key, value in said.items() if key not in own}
    pools = pools_said(said.get("pools"), shared, spelled, own)
    values: dict[str, Any] = {**{key: said[key] for key in own if said.get(key) is not None}, "pools": pools}
    for key in ("scheduler", "head"):
        if isinstance(values.get(key), Mapping):
            values[key] = plain_keys(values[key])
    description = Description(**values)
    for key, check in _CHECKS.items():
        if said.get(key) is not None:
            attempt(check, description, (spelled[key],))
    attempt(lambda whole: (whole.sizes, whole.scaling), description, ())  # with what is configured and not said here
    return description


# --- the rest of the keys ------------------------------------------------------------------------------------------


def _policy_of(description: Description) -> Policy:
    """The policy that is described with arguments, or by its name alone."""
    kind = load_policy(description.policy_name)
    options = plain_keys(description.policy) if isinstance(description.policy, Mapping) else {}
    options.pop("name", None)
    known = inspect.signature(kind).parameters
    check_keys("argument of the policy:", options, known)
    if issubclass(kind, CostAware):
        worth = setting("time-value") if description.time_value is None else description.time_value
        options.setdefault("time_value", positive_of("time_value", worth))
    elif description.time_value is not None:
        raise ConfigError(f"time_value is for the policy 'cost-aware', and the policy is {description.policy_name!r}")
    if issubclass(kind, TargetDuration):
        options.setdefault("target_duration_s", description.scaling.target_duration_s)
    missing = [key for key, each in known.items() if each.default is each.empty and key not in options]
    if missing:
        example = ", ".join([f"name: {description.policy_name}", *(f"{key}: ..." for key in missing)])
        raise ConfigError(f"policy must say {' and '.join(missing)} as well as its name: {{{example}}}")
    try:
        return kind(**options)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _check_policy(description: Description) -> None:
    chosen = description.policy
    if isinstance(chosen, Mapping) and not isinstance(chosen.get("name"), str):
        raise ConfigError("policy must have a name among its keys")
    if not isinstance(chosen, str | Mapping):
        raise ConfigError(f"policy must be a name, or a name and arguments, not {chosen!r}")
    _policy_of(description)


def _check_budget(description: Description) -> None:
    budget = description.budget
    for hours in budget.values() if isinstance(budget, Mapping) else [budget]:
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 <= hours < 2**63:
            raise ConfigError(f"budget must be a number of worker-hours, not {hours!r}")
    if isinstance(budget, Mapping):
        check_keys("pool in the budget:", map(str, budget), description.pools)


def _check_scheduler(description: Description) -> None:
    if not isinstance(description.scheduler, Mapping):
        raise ConfigError(f"scheduler must be a mapping of options, not {description.scheduler!r}")
    kinds = [kind.__init__ for kind in Scheduler.__mro__ if "__init__" in vars(kind)]
    known = {name for kind in kinds for name in inspect.signature(kind).parameters} - {"self", "args", "kwargs"}
    for key in description.scheduler:
        if key not in known:
            raise unknown(("scheduler", str(key)), sorted(known))


def _check_name(description: Description) -> None:
    if not isinstance(description.name, str) or not _NAME.fullmatch(description.name):
        raise ConfigError(f"name must be letters, digits, '.', '_' and '-', at most 63, not {description.name!r}")


def _check_security(description: Description) -> None:
    if not isinstance(description.security, bool | Mapping):
        raise ConfigError(f"security must be true, false, or Dask's TLS options, not {description.security!r}")


def _check_journal(description: Description) -> None:
    if not isinstance(description.journal, str):
        raise ConfigError(f"journal must be a path, not {description.journal!r}")


def _check_head(description: Description) -> None:
    if not isinstance(description.head, Mapping):
        raise ConfigError(f"head must be a mapping of options, not {description.head!r}")
    known = [each.name for each in fields(Head)]
    for key in description.head:
        if key not in known:
            raise unknown(("head", str(key)), known)
    head = description.headed
    if head.where not in ("here", "job"):
        raise Wrong(("head", "where"), f"must be here or job, not {head.where!r}")
    if head.pool is not None and head.pool not in list(description.pools):
        raise Wrong(("head", "pool"), f"there is no pool {head.pool!r}; {nearest(str(head.pool), description.pools)}")
    if not isinstance(head.dashboard, bool):
        raise Wrong(("head", "dashboard"), f"must be true or false, not {head.dashboard!r}")
    if not isinstance(head.options, Mapping):
        raise Wrong(("head", "options"), f"must be a mapping of options, not {head.options!r}")
    name = head.pool or next(iter(description.pools))
    options = {**description.pools[name], **plain_keys(head.options)}
    places = {str(key).replace("-", "_"): ("head", "options", str(key)) for key in head.options}
    pool_said(options, {}, places, ("head", "options"))


_CHECKS: Mapping[str, Callable[[Description], object]] = {
    "name": _check_name,
    **dict.fromkeys(_BOUNDS, lambda said: said.sizes),
    "interval": lambda said: scaling_of(interval=said.interval),
    "wait_count": lambda said: scaling_of(wait_count=said.wait_count),
    "target_duration": lambda said: scaling_of(target_duration=said.target_duration),
    "policy": _check_policy,
    "time_value": _policy_of,
    "budget": _check_budget,
    "scheduler": _check_scheduler,
    "security": _check_security,
    "journal": _check_journal,
    "on_event": lambda said: hooks_of(said.on_event),
    "idle_timeout": lambda said: seconds_of("idle_timeout", said.idle_timeout, positive=True),
    "head": _check_head,
}
