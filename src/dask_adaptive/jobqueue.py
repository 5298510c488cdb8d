"""From dask-jobqueue's words to ours, so that switching is changing an import.

Source of its names: the documentation of dask-jobqueue 0.9, "API".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed.deploy.utils import nprocesses_nthreads

from dask_adaptive.config import bytes_of, count_of, plain_keys
from dask_adaptive.errors import ConfigError

__all__ = ["translated_options"]

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
