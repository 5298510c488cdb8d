"""What a user says of a pool, turned into a ``Pool`` and a ``Spec``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dask_adaptive.backend.contracts import Backend
from dask_adaptive.config import (
    Amount,
    Bounds,
    backend_settings,
    bytes_of,
    check_keys,
    count_of,
    limits_of,
    plain_keys,
    profile,
    seconds_of,
    setting,
)
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Limits, Pool, Shape, Spec, Timeouts
from dask_adaptive.registry import backend_keys, made_backend, takes_requests
from dask_adaptive.request import RequestOptions

__all__ = [
    "PoolOptions",
    "backends_of",
    "pool_keys",
    "pool_options",
    "said_of_pool",
    "timeouts",
]

_LEAST_BYTES = 1_000_000


@dataclass(frozen=True)
class PoolOptions(RequestOptions):
    """What one job of a pool is. With a batch system, also what it asks for: the options of ``RequestOptions``.

    Parameters
    ----------
    backend:
        Name of a backend or an object of one; None: the cluster's.
    workers_per_job:
        Dask workers in one job.
    threads:
        Threads of each worker.
    memory:
        Memory limit of each worker, such as ``"4 GB"``; None or 0: no limit.
    resources:
        Dask resources that each worker offers, such as ``{"licence": 1}``.
    gpus:
        GPUs of each worker: as many devices are visible to it, and it offers as many of the resource ``GPU``.
    preload:
        Modules or files that each worker imports first.
    environment:
        Environment variables of the worker processes.
    worker_arguments:
        More arguments for ``dask worker``, as they are.
    price:
        What one second of one worker costs, in any unit; the cheapest pool that can serve is asked first.
    minimum, maximum:
        Hard limits in workers for this pool, whatever ``adapt`` and ``scale`` say; None: none.
    death_timeout:
        After how long without a scheduler a worker ends itself.
    local_directory:
        Where workers spill to; None: as Dask is configured.
    backend_options:
        Arguments of the backend, when it is given by name. They may stand beside the pool's own options as well, as
        long as the pool has none of that name.
    """

    backend: Any = None
    workers_per_job: int = 1
    threads: int = 1
    memory: Amount = None
    resources: Mapping[str, float] = field(default_factory=dict)
    gpus: int = 0
    preload: str | Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    worker_arguments: Sequence[str] = ()
    price: float = 1.0
    minimum: int | None = None
    maximum: int | None = None
    death_timeout: str | float = "60s"
    local_directory: str | None = None
    backend_options: Mapping[str, Any] = field(default_factory=dict)

    def shape(self) -> Shape:
        """What one job brings. Raises ``ConfigError`` naming the key that cannot be."""
        for key in ("resources", "environment"):
            if not isinstance(getattr(self, key), Mapping):
                raise ConfigError(f"{key} must map names to values, not {getattr(self, key)!r}")
        for name in self.resources:
            if not str(name) or any(character in "=," or character.isspace() for character in str(name)):
                raise ConfigError(f"a resource is named without spaces, commas or '=', not {name!r}")
        resources = {str(name): _amount(f"resources[{name!r}]", value) for name, value in self.resources.items()}
        gpus = count_of("gpus", self.gpus)
        if gpus:
            resources = {"GPU": float(gpus), **resources}
        return Shape(
            workers=count_of("workers_per_job", self.workers_per_job, least=1),
            threads=count_of("threads", self.threads, least=1),
            memory_bytes=self._memory_bytes(),
            resources=resources,
        )

    def _memory_bytes(self) -> int:
        amount = 0 if self.memory is None else bytes_of("memory", self.memory)
        if 0 < amount < _LEAST_BYTES:
            raise ConfigError(
                f"memory={self.memory!r} is {amount} bytes, in which no worker starts; write it as '4 GB'"
            )
        return amount

    def pool(self, name: str) -> Pool:
        """The pool; its limits are the hard ones."""
        limits = Limits()
        if self.minimum is not None or self.maximum is not None:
            limits = limits_of(Bounds(minimum=self.minimum, maximum=self.maximum), self.shape(), None)
        return Pool(name, self.shape(), limits, _amount("price", self.price), self.request().walltime_s)

    def spec(self, scheduler: str, tls: Mapping[str, str], dask_config: str) -> Spec:
        """What its jobs run, for this scheduler."""
        if not isinstance(self.local_directory, str | Path | None):
            raise ConfigError(f"local_directory must be a path, not {self.local_directory!r}")
        return Spec(
            scheduler=scheduler,
            shape=self.shape(),
            environment={str(key): str(value) for key, value in self.environment.items()},
            preload=_words("preload", [self.preload] if isinstance(self.preload, str | Path) else self.preload),
            worker_arguments=_words("worker_arguments", self.worker_arguments),
            tls=tls,
            gpus=self.gpus,
            death_timeout_s=seconds_of("death_timeout", self.death_timeout, positive=True),
            local_directory=None if self.local_directory is None else str(self.local_directory),
            dask_config=dask_config,
            request=self.request(),
        )


def _words(key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{key} must be a list of words, not {value!r}")
    return tuple(str(word) for word in value)


def _amount(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2.0**63:
        raise ConfigError(f"{key} must be a finite number of at least 0, not {value!r}")
    return float(value)


# --- what was said, by everybody who may say something ------------------------------------------------------------


def pool_options(
    pools: Mapping[str, Mapping[str, Any]] | Sequence[str] | None, given: Mapping[str, Any], backend: Any = None
) -> dict[str, PoolOptions]:
    """The options of every pool: what was said for all (``given``), overridden by what was said for each.

    ``backend`` is the one of pools that name none. What is configured for it (``adaptive.<backend>``) holds where
    nothing else was said; ``profile`` names a set of options below ``adaptive.profiles``.

    Raises
    ------
    ConfigError
        For an unknown option (the nearest known one is named) or a value that cannot be.
    """
    if pools is not None and not pools:
        raise ConfigError("pools= must name at least one pool")
    if pools is not None and not isinstance(pools, Mapping):
        raise ConfigError(f"pools= must map a name to the options of each pool, not {pools!r}")
    for name, options in (pools or {}).items():
        if not isinstance(options, Mapping):
            raise ConfigError(f"pool {name!r} must have a mapping of options, not {options!r}")
    given = plain_keys(given)
    said = {str(name): said_of_pool(options, given, backend) for name, options in (pools or {"default": {}}).items()}
    known = {name: pool_keys(options["backend"]) for name, options in said.items()}
    _check_options("option", given, [key for keys in known.values() for key in keys])
    found = {}
    for name, options in said.items():  # an argument of a backend is for the pools that have this backend
        mine = {key: value for key, value in options.items() if key in known[name] or key not in given}
        found[name] = each = _options(f"option of pool {name!r}:" if pools else "option", mine)
        each.pool(name)
        each.spec("", {}, "")
    return found


def said_of_pool(own: Mapping[str, Any], given: Mapping[str, Any], backend: Any = None) -> dict[str, Any]:
    """All that was said of a pool, with ``backend`` among it: by the configuration, for all pools, and for itself."""
    own, given = _with_profile(own), _with_profile(given)
    backends = (own.get("backend"), backend, given.get("backend"), "local")
    chosen = next(each for each in backends if each is not None)
    configured = backend_settings(chosen) if isinstance(chosen, str) else {}
    check_keys(f"configuration key adaptive.{chosen}", configured, pool_keys(chosen) if configured else ())
    return {**configured, **given, **own, "backend": chosen}


def _with_profile(said: Mapping[str, Any]) -> dict[str, Any]:
    said = plain_keys(said)
    name = said.pop("profile", None)
    return said if name is None else {**profile(name), **said}


def _options(kind: str, said: Mapping[str, Any]) -> PoolOptions:
    """The options, told from those of the backend by their names."""
    mine = _own_keys(said["backend"])
    _check_options(kind, said, pool_keys(said["backend"]))
    nested = said.get("backend_options", {})
    if not isinstance(nested, Mapping):
        raise ConfigError(f"backend_options must map names to values, not {nested!r}")
    flat = {key: value for key, value in said.items() if key not in mine}
    nested = {**flat, **plain_keys(nested)}
    if nested:
        check_keys(f"option of backend {said['backend']!r}:", nested, backend_keys(said["backend"]))
    return PoolOptions(**{**{key: said[key] for key in mine if key in said}, "backend_options": nested})


def _check_options(kind: str, said: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in said:
        if key not in known and key in (each.name for each in fields(RequestOptions)):
            raise ConfigError(
                f"{key} is asked of batch systems, and there is none here: give backend='slurm' or another"
            )
    check_keys(kind, said, known)


def pool_keys(backend: Any) -> list[str]:
    """The options that a pool with this backend has, its own first."""
    mine = _own_keys(backend)
    return [*mine, "profile", *(key for key in backend_keys(backend) if key not in mine)]


def _own_keys(backend: Any) -> list[str]:
    """The options that are the pool's, whatever its backend calls its own: nobody but a batch system takes requests."""
    requests = [] if takes_requests(backend) else [each.name for each in fields(RequestOptions)]
    return [each.name for each in fields(PoolOptions) if each.name not in requests]


def timeouts() -> Timeouts:
    """The configured time-outs."""
    return Timeouts(
        start_s=seconds_of("adaptive.start-timeout", setting("start-timeout"), positive=True),
        lost_s=seconds_of("adaptive.lost-timeout", setting("lost-timeout")),
        drain_s=seconds_of("adaptive.drain-timeout", setting("drain-timeout"), positive=True),
        end_s=seconds_of("adaptive.end-timeout", setting("end-timeout"), positive=True),
        unknown_s=seconds_of("adaptive.unknown-timeout", setting("unknown-timeout")),
    )


def backends_of(options: Mapping[str, PoolOptions]) -> dict[str, Backend]:
    """The backend of every pool; pools that describe the same one share it."""
    made: dict[str, Backend] = {}
    found = {}
    for name, each in options.items():
        wanted = "local" if each.backend is None else each.backend
        if isinstance(wanted, str):
            key = f"{wanted} {sorted(each.backend_options.items())!r}"
            if key not in made:
                made[key] = made_backend(wanted, each.backend_options)
            wanted = made[key]
        if not isinstance(wanted, Backend):
            raise ConfigError(f"backend must be a name or an object with submit, jobs, cancel, log, not {wanted!r}")
        found[name] = wanted
    return found
