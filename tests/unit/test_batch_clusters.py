"""dask-jobqueue's words, in ours."""

from __future__ import annotations

from typing import Any

import pytest

from dask_adaptive.batch_clusters import BatchCluster, SlurmCluster
from dask_adaptive.errors import ConfigError
from dask_adaptive.jobqueue import translated_options


def test_what_a_job_is_divided_into() -> None:
    made = translated_options("slurm", {"cores": 8, "memory": "32 GB", "processes": 2})
    assert {
        "workers_per_job": 2,
        "threads": 4,
        "memory": 16_000_000_000,
        "job_cores": 8,
        "job_memory": 32_000_000_000,
    } == made


@pytest.mark.parametrize(("cores", "workers", "threads"), [(1, 1, 1), (4, 4, 1), (8, 4, 2), (16, 4, 4), (64, 8, 8)])
def test_processes_are_about_the_square_root_of_the_cores(cores: int, workers: int, threads: int) -> None:
    made = translated_options("slurm", {"cores": cores})
    assert (workers, threads) == (made["workers_per_job"], made["threads"])


def test_a_remainder_of_cores_is_asked_for_although_no_worker_uses_it() -> None:
    made = translated_options("slurm", {"cores": 7, "processes": 2})
    assert (2, 3, 7) == (made["workers_per_job"], made["threads"], made["job_cores"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("job_extra_directives", "directives"),
        ("job-extra-directives", "directives"),
        ("job_directives_skip", "directives_skip"),
        ("job_script_prologue", "prologue"),
        ("env_extra", "prologue"),
        ("worker_extra_args", "worker_arguments"),
        ("project", "account"),
        ("queue", "queue"),
        ("local_directory", "local_directory"),
    ],
)
def test_names_are_translated(theirs: str, ours: str) -> None:
    assert {ours: ["x"]} == translated_options("slurm", {theirs: ["x"]})


@pytest.mark.parametrize(
    ("system", "said", "named"),
    [
        ("slurm", {"project": "a", "account": "b"}, "account was said twice"),
        ("slurm", {"nanny": True}, "nanny"),
        ("slurm", {"job_name": "mine"}, "job_name"),
        ("slurm", {"worker_command": "dask_cuda.cli"}, "worker_command"),
        ("lsf", {"use_stdin": True}, "use_stdin"),
        ("slurm", {"cores": 2, "processes": 3}, "processes"),
        ("slurm", {"cores": 0}, "cores"),
        ("slurm", {"cores": 2, "threads": 1}, "threads"),
        ("slurm", {"cores": 2, "memory": "32 gigs"}, "memory"),
        ("pbs", {"resource_spec": "select=1", "directives": "-A x"}, "list"),
        ("pbs", {"resource_spec": "select=1", "directives": 7}, "list"),
    ],
)
def test_what_has_no_meaning_is_refused(system: str, said: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        translated_options(system, said)


@pytest.mark.parametrize("key", ["job_extra_directives", "project", "job_cpu", "job_name", "config_name"])
def test_none_is_not_said_as_in_dask_jobqueue(key: str) -> None:
    assert {"account": "a"} == translated_options("slurm", {"account": "a", key: None})


def test_another_backend_may_be_said() -> None:
    with pytest.raises(ConfigError, match="there is no backend 'slurn'; did you mean 'slurm'"):
        SlurmCluster(cores=1, backend="slurn")


def test_no_nanny_is_what_there_is() -> None:
    assert {} == translated_options("slurm", {"nanny": False})


def test_a_resource_specification_takes_the_place_of_ours() -> None:
    made = translated_options("pbs", {"resource_spec": "select=1:ncpus=24:mem=100GB", "job_extra_directives": ["-m n"]})
    assert {"directives": ["-l select=1:ncpus=24:mem=100GB", "-m n"], "directives_skip": ["-l select"]} == made


def test_hours_and_minutes_are_how_lsf_says_it() -> None:
    assert {"walltime": "01:30:00"} == translated_options("lsf", {"walltime": "01:30"})


def test_disk_is_asked_in_kibibytes() -> None:
    made = translated_options("htcondor", {"disk": "1 GiB", "job_extra_directives": {"+Group": '"a"'}})
    assert {"directives": ["request_disk = 1048576", '+Group = "a"']} == made


def test_unknown_options_name_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="walltime"):
        SlurmCluster(cores=1, waltime="1h")


def test_every_class_says_what_it_is_for() -> None:
    classes = BatchCluster.__subclasses__()
    assert {"slurm", "pbs", "torque", "sge", "lsf", "htcondor", "custom"} == {each.batch_system for each in classes}


def test_another_machine_needs_to_be_told_its_python() -> None:
    with pytest.raises(ConfigError, match="python= has to say"):
        SlurmCluster(cores=1, login="ann@login.site.org")
