"""What a job has to run: the ``dask worker`` command line and environment of one worker. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import dask.config

from dask_adaptive.errors import Rejected
from dask_adaptive.model import Need, Spec, worker_name
from dask_adaptive.walltime import margin_s

__all__ = [
    "MODULE",
    "terminate_bytes",
    "with_preload",
    "worker_arguments",
    "worker_config",
    "worker_environment",
]

MODULE = "distributed.cli.dask_worker"
"""The module behind ``dask worker``; ``python -m`` runs it."""

_TLS = ("tls_ca_file", "tls_cert", "tls_key")
_BEFORE_SPAWN = ("distributed.nanny.pre-spawn-environ", "distributed.nanny.environ")


def worker_arguments(spec: Spec, job: str, index: int, attempt: int = 0) -> tuple[str, ...]:
    """The arguments after ``dask worker`` for worker ``index`` of a job: one process without a nanny.

    The user's own arguments come last, so they win. Raises ``Rejected`` for TLS options or resources that the command
    line cannot express.
    """
    shape = spec.shape
    arguments = [spec.scheduler, "--no-nanny", "--no-dashboard"]
    arguments += ["--name", worker_name(job, index, attempt)]
    arguments += ["--nthreads", str(shape.threads), "--memory-limit", str(shape.memory_bytes)]
    arguments += ["--death-timeout", f"{spec.death_timeout_s:g}"]
    resources = _resources(shape.resources, spec.gpus)
    if resources:
        arguments += ["--resources", resources]
    if spec.request.walltime_s:  # for the case that nobody is there any more who drains the job before
        arguments += ["--lifetime", f"{spec.request.walltime_s - margin_s(spec.request.walltime_s) / 2:.0f}s"]
    if spec.local_directory:
        arguments += ["--local-directory", spec.local_directory]
    for option, path in spec.tls.items():
        if option not in _TLS:
            raise Rejected(f"unknown TLS option {option!r}; known: {', '.join(_TLS)}")
        arguments += [f"--{option.replace('_', '-')}", path]
    for preload in spec.preload:
        arguments += ["--preload", preload]
    return (*arguments, *spec.worker_arguments)


def _resources(resources: Need, gpus: int) -> str:
    wanted = {"GPU": float(gpus), **resources} if gpus else dict(resources)
    for name in wanted:
        if not name or any(c in "=," or c.isspace() for c in name):
            raise Rejected(f"the resource name {name!r} cannot be given to dask worker: no spaces, commas or '='")
    return " ".join(f"{name}={float(amount)!r}" for name, amount in wanted.items())


def worker_environment(base: Mapping[str, str], config: Mapping[str, Any], spec: Spec) -> dict[str, str]:
    """The variables of a worker process.

    ``base`` wins over what Dask's configuration sets for workers (``distributed.nanny.pre-spawn-environ``, e.g. one
    thread for OpenMP, and ``distributed.nanny.environ``) as it does with Dask's nanny; the specification wins over all.
    """
    environment: dict[str, str] = {}
    for key in _BEFORE_SPAWN:
        values: Any = config
        for part in key.split("."):
            values = values.get(part, values.get(part.replace("-", "_"), {})) if isinstance(values, Mapping) else {}
        environment |= {name: str(value) for name, value in values.items() if value is not None}
    return {**environment, **base, **spec.environment}


def worker_config(spec: Spec) -> dict[str, Any]:
    """The owner's Dask configuration for a worker: not what makes it a client. Raises ``Rejected``."""
    try:
        config = dask.config.deserialize(spec.dask_config) if spec.dask_config else _plain(dask.config.config)
    except ValueError as error:
        raise Rejected(f"the Dask configuration of the job cannot be read: {error}") from error
    return {key: value for key, value in config.items() if key not in ("scheduler", "shuffle")}


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what cannot be said in JSON (functions, classes)."""
    plain: dict[str, Any] = {}
    for key, entry in value.items():
        with contextlib.suppress(TypeError, ValueError):
            plain[key] = _plain(entry) if isinstance(entry, Mapping) else json.loads(json.dumps(entry))
    return plain


def with_preload(config: Mapping[str, Any], module: str) -> dict[str, Any]:
    """The configuration with one more module that every worker imports first, before the configured ones.

    On the command line it would hide those, and let Dask take an option that it does not know for one of a module.
    """
    key = "distributed.worker.preload"
    preload: list[str] = dask.config.get(key, None, config=config) or []
    argv: list[Any] = dask.config.get(f"{key}-argv", None, config=config) or []
    argv = [[], *argv] if argv and not isinstance(argv[0], str) else argv  # one list for each module, or one for all
    more = {"distributed": {"worker": {"preload": [module, *preload], "preload-argv": argv}}}
    return dict(dask.config.merge(config, more))


def terminate_bytes(config: Mapping[str, Any], spec: Spec) -> int:
    """The memory at which Dask's nanny would end a worker; 0: never."""
    fraction = dask.config.get("distributed.worker.memory.terminate", 0.95, config=config)
    return int(spec.shape.memory_bytes * fraction) if fraction else 0
