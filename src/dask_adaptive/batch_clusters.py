"""The cluster classes for batch systems. They take the names that dask-jobqueue's classes have.

Source of those names: the documentation of dask-jobqueue 0.9, "API".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from distributed.deploy.utils import nprocesses_nthreads

from dask_adaptive.cluster import Cluster
from dask_adaptive.config import bytes_of, count_of, plain_keys
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Batch, Spec
from dask_adaptive.options import PoolOptions, made_backend, pool_options, takes_requests

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
    "translated_options",
]

Options = dict[str, Any]

RENAMED: Mapping[str, str] = {
    "job_extra_directives": "directives",
    "job_extra": "directives",
    "job_directives_skip": "directives_skip",
    "header_skip": "directives_skip",
    "job_script_prologue": "prologue",
    "env_extra": "prologue",
    "worker_extra_args": "worker_arguments",
    "extra": "worker_arguments",
    "project": "account",
    "job_cpu": "job_cores",
    "ncpus": "job_cores",
    "job_mem": "job_memory",
    "mem": "job_memory",
    "config_name": "profile",
}
"""What dask-jobqueue calls it (its old names too), and what it is called here."""

REFUSED: Mapping[str, str] = {
    "nanny": "workers have none here: the resource manager ends what goes astray, and the controller replaces it",
    "job_name": "jobs are named by us, so that they can be found again",
    "job_cls": "a backend of your own is an entry point; see the page on contributing",
    "scheduler_cls": "Dask's scheduler is used as it is; scheduler_options= go to it",
    "worker_command": "jobs run dask worker; python= and worker_extra_args= say how",
    "shared_temp_directory": "private files go into a folder of log_directory=, which has to be shared anyway",
    "use_stdin": "job scripts always go over standard input, which every version understands",
}
"""What has no meaning here, and why: nothing is taken and then ignored."""


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
        where: Options = {"host": None, **{key: value for key, value in said.items() if value is not None}}
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


# --- from dask-jobqueue's words to ours -----------------------------------------------------------------------------


def translated_options(batch_system: str, said: Mapping[str, Any]) -> Options:
    """Options of ``PoolOptions``, from these or dask-jobqueue's names of them."""
    if not isinstance(said, Mapping):
        raise ConfigError(f"the options of a pool must be a mapping, not {said!r}")
    options: Options = {}
    for key, value in plain_keys(said).items():
        if value is None and (key in REFUSED or key in RENAMED):  # as in dask-jobqueue: not said
            continue
        if key in REFUSED and not (key == "nanny" and value is False):
            raise ConfigError(f"{key} has no meaning here: {REFUSED[key]}")
        ours = RENAMED.get(key, key)
        if ours in options:
            raise ConfigError(f"{ours} was said twice, once as {key}")
        if key != "nanny":
            options[ours] = value
    _divide(options)
    SPECIAL.get(batch_system, _nothing_special)(options)
    return options


def _divide(options: Options) -> None:
    """Cores, memory and processes of a job, as threads and memory of its workers."""
    cores, processes = options.pop("cores", None), options.pop("processes", None)
    if cores is None and processes is None:
        return
    for key in ("threads", "workers_per_job"):
        if key in options:
            raise ConfigError(f"{key} cannot be said together with cores or processes, which are of the whole job")
    cores = count_of("cores", 1 if cores is None else cores, least=1)
    workers = nprocesses_nthreads(cores)[0] if processes is None else count_of("processes", processes, least=1)
    if workers > cores:
        raise ConfigError(f"processes={workers} are more than the cores={cores} of a job")
    options |= {"workers_per_job": workers, "threads": cores // workers}
    options.setdefault("job_cores", cores)
    if options.get("memory") is not None:
        total = bytes_of("memory", options["memory"])
        options.setdefault("job_memory", total)
        options["memory"] = total // workers


def _nothing_special(_: Options) -> None: ...


def _replacing(key: str) -> Callable[[Options], None]:
    """``resource_spec`` in the place of our own directive of this key."""

    def put(options: Options) -> None:
        wanted = options.pop("resource_spec", None)
        if wanted is not None:
            options["directives"] = [f"-l {wanted}", *_list(options.get("directives", ()))]
            options["directives_skip"] = [key, *_list(options.get("directives_skip", ()))]

    return put


def _list(value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"directives and their keys are lists of lines, not {value!r}")
    return list(value)


def _condor(options: Options) -> None:
    disk = options.pop("disk", None)
    if disk is not None:
        size = f"request_disk = {bytes_of('disk', disk) // 1024}"  # in KiB, as its manual has it
        said = options.get("directives", ())
        said = [f"{key} = {value}" for key, value in said.items()] if isinstance(said, Mapping) else _list(said)
        options["directives"] = [size, *said]


def _lsf(options: Options) -> None:
    walltime = options.get("walltime")
    if isinstance(walltime, str) and walltime.count(":") == 1:  # hours and minutes, says LSF's manual
        options["walltime"] = f"{walltime}:00"
    if options.get("lsf_units") is not None:
        options["units"] = options.pop("lsf_units")


SPECIAL: Mapping[str, Callable[[Options], None]] = {
    "pbs": _replacing("-l select"),
    "torque": _replacing("-l nodes"),
    "sge": _replacing("-l"),
    "lsf": _lsf,
    "htcondor": _condor,
}


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
