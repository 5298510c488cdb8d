"""The cluster classes for batch systems. They take the names that dask-jobqueue's classes have (``jobqueue.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dask_adaptive.cluster import Cluster
from dask_adaptive.errors import ConfigError
from dask_adaptive.jobqueue import translated_options
from dask_adaptive.model import Batch, Spec
from dask_adaptive.options import PoolOptions, pool_options
from dask_adaptive.registry import made_backend, takes_requests

__all__ = [
    "BatchCluster",
    "CommandCluster",
    "HTCondorCluster",
    "LSFCluster",
    "PBSCluster",
    "SGECluster",
    "SLURMCluster",
    "SlurmCluster",
    "TorqueCluster",
    "job_script",
    "shown_script",
]


class BatchCluster(Cluster):
    """A Dask cluster whose jobs a batch system runs; the base of the classes named after one.

    Parameters
    ----------
    cores, memory, processes:
        Of one job: processors, memory such as ``"32 GB"``, and into how many workers they are divided (default: about
        the square root of the cores, as ``distributed`` does it).
    queue, account, walltime, nodes, python, shebang, launcher, template, throttle:
        What a job asks for; see ``RequestOptions``.
    job_extra_directives, job_directives_skip, job_script_prologue, worker_extra_args:
        dask-jobqueue's names of ``directives``, ``directives_skip``, ``prologue`` and ``worker_arguments``.
    interface:
        Network interface that the scheduler and the workers use, such as ``"ib0"``.
    contact_address:
        Where workers find the scheduler, if not at the address that it listens on.
    host, port, dashboard_address, protocol:
        Where the scheduler listens. Defaults: every interface, any free port, Dask's usual 8787, TLS; a
        ``dashboard_address`` of None: no dashboard.
    security:
        As of ``Cluster``: credentials are made for this cluster if nothing else is said or configured.
    login:
        ``user@host``: the login node where jobs are submitted, from a machine that is no part of the cluster. Then
        ``python`` has to be said, and the workers have to reach this machine (``contact_address``).
    n_workers, pools, name, journal, scheduler_options, silence_logs, asynchronous, loop, quiet, **options:
        As of ``Cluster``; arguments of the backend (``log_directory`` and so on) as well.

    Raises
    ------
    ConfigError
        If something was asked for that cannot be, or that has no meaning here; before anything is started.

    Examples
    --------
    >>> cluster = SlurmCluster(cores=8, memory="32 GB", walltime="4h", queue="normal")  # doctest: +SKIP
    >>> cluster.adapt(minimum=0, maximum=100)  # doctest: +SKIP
    """

    batch_system: ClassVar[str] = ""

    def __init__(
        self,
        *,
        pools: Mapping[str, Mapping[str, Any]] | None = None,
        security: Any = None,
        interface: str | None = None,
        contact_address: str | None = None,
        host: str | None = None,
        port: int = 0,
        dashboard_address: str | None = ":8787",
        protocol: str | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        said = {"interface": interface, "contact_address": contact_address, "host": host, "protocol": protocol}
        where: dict[str, Any] = {"host": None, **{key: value for key, value in said.items() if value is not None}}
        where |= {
            "port": port,
            "dashboard": dashboard_address is not None,
            "dashboard_address": dashboard_address or ":0",
        }
        translated = translated_options(self.batch_system, options)
        if translated.get("login") is not None and translated.get("python") is None:
            raise ConfigError("python= has to say which interpreter the jobs use: this one's path means nothing there")
        if interface is not None:
            translated["worker_arguments"] = [*translated.get("worker_arguments", ()), "--interface", interface]
        if isinstance(pools, Mapping):
            pools = {name: translated_options(self.batch_system, each) for name, each in pools.items()}
        super().__init__(
            translated.pop("backend", None) or self.batch_system,
            pools,
            security=False if security is None and protocol in ("tcp", "ws") else security,
            scheduler_options={**where, **(scheduler_options or {})},
            **translated,
        )

    def job_script(self, pool: str | None = None) -> str:
        """Exactly what would be submitted for one job of a pool (default: the first)."""
        name = next(iter(self._options)) if pool is None else pool
        if self._jobs is not None:
            return _script(self._backends[name], name, self._jobs.setups[name].spec)
        return _script(self._backends[name], name, self._options[name].spec(ANYWHERE, {}, ""))


ANYWHERE = "tls://SCHEDULER:PORT"
"""In the place of the scheduler's address where there is none yet."""


def job_script(batch_system: str, options: Mapping[str, Any]) -> str:
    """What would be submitted for one job with these options, without starting anything."""
    return shown_script(pool_options(None, translated_options(batch_system, options), batch_system)["default"])


def shown_script(options: PoolOptions, pool: str = "default") -> str:
    """What would be submitted for one job of a pool. Raises ``ConfigError`` where that is no script."""
    if not isinstance(options.backend, str) or not takes_requests(options.backend):
        raise ConfigError(f"backend {options.backend!r} submits no job scripts; batch systems such as slurm do")
    return _script(made_backend(options.backend, options.backend_options), pool, options.spec(ANYWHERE, {}, ""))


def _script(backend: Any, pool: str, spec: Spec) -> str:
    text: str = backend.job_script(Batch("dask", pool, "daskjobs", 1, spec))
    return text


class SlurmCluster(BatchCluster):
    """A Dask cluster on Slurm; see ``BatchCluster``."""

    batch_system = "slurm"


SLURMCluster = SlurmCluster
"""The name that dask-jobqueue has for it."""


class PBSCluster(BatchCluster):
    """A Dask cluster on PBS Pro or OpenPBS; see ``BatchCluster``. ``resource_spec`` replaces our ``-l select``."""

    batch_system = "pbs"


class TorqueCluster(BatchCluster):
    """A Dask cluster on Torque; see ``BatchCluster``. ``resource_spec`` replaces our ``-l nodes``."""

    batch_system = "torque"


class SGECluster(BatchCluster):
    """A Dask cluster on Grid Engine; see ``BatchCluster``. ``resource_spec`` replaces our ``-l``."""

    batch_system = "sge"


class LSFCluster(BatchCluster):
    """A Dask cluster on LSF; see ``BatchCluster``."""

    batch_system = "lsf"


class HTCondorCluster(BatchCluster):
    """A Dask cluster on HTCondor; see ``BatchCluster``. ``disk`` is what a job asks for on its machine."""

    batch_system = "htcondor"


class CommandCluster(BatchCluster):
    """A Dask cluster on whatever runs jobs by commands of your own; see ``BatchCluster`` and the backend ``custom``."""

    batch_system = "custom"
