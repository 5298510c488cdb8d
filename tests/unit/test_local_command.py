"""What a job has to run: the command line and environment of a worker."""

from __future__ import annotations

import itertools

import pytest
from distributed.cli.dask_worker import main as dask_worker

from dask_adaptive.backend.command import with_preload, worker_arguments, worker_environment
from dask_adaptive.errors import Rejected
from dask_adaptive.model import Shape, Spec, job_of_worker

SPEC = Spec(
    "tls://10.0.0.1:8786",
    Shape(workers=2, threads=3, memory_bytes=2_000_000_001, resources={"FOO": 2, "MEM": 12_345_678_901.0}),
    preload=("colorsys", "calendar"),
    worker_arguments=("--lifetime", "1h", "--nthreads", "9"),
    death_timeout_s=7.5,
    local_directory="/scratch/a b",
    gpus=1,
)


def parsed(arguments: tuple[str, ...]) -> dict[str, object]:
    """What the real command line understands."""
    return dask_worker.make_context("dask worker", list(arguments)).params


def test_dask_worker_understands_every_argument() -> None:
    understood = parsed(worker_arguments(SPEC, "abcdefgh.4", 1))
    expected = {
        "scheduler": "tls://10.0.0.1:8786",
        "name": "abcdefgh.4-1-0",
        "memory_limit": "2000000001",
        "nanny": False,
        "dashboard": False,
        "death_timeout": "7.5",
        "local_directory": "/scratch/a b",
        "preload": ("colorsys", "calendar"),
        "lifetime": "1h",
        "resources": "GPU=1.0 FOO=2.0 MEM=12345678901.0",
    }
    assert expected == {key: understood[key] for key in expected}


def test_what_the_user_says_last_wins() -> None:
    assert 9 == parsed(worker_arguments(SPEC, "abcdefgh.4", 1))["nthreads"]


def test_the_name_leads_back_to_the_job() -> None:
    name = parsed(worker_arguments(SPEC, "abcdefgh.4", 1, attempt=2))["name"]
    assert "abcdefgh.4" == job_of_worker(str(name))


def test_tls_files_are_options_of_their_own() -> None:
    spec = Spec("tls://h:1", tls={"tls_ca_file": "/ca.pem", "tls_cert": "/cert.pem", "tls_key": "/key.pem"})
    arguments = worker_arguments(spec, "abcdefgh.0", 0)
    pairs = dict(itertools.pairwise(arguments))
    expected = {"--tls-ca-file": "/ca.pem", "--tls-cert": "/cert.pem", "--tls-key": "/key.pem"}
    assert expected == {option: pairs[option] for option in expected}


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a,b"])
def test_a_resource_name_that_cannot_be_said_is_rejected(name: str) -> None:
    with pytest.raises(Rejected, match="resource name"):
        worker_arguments(Spec("tcp://h:1", Shape(resources={name: 1})), "abcdefgh.0", 0)


def test_an_unknown_tls_option_is_rejected() -> None:
    with pytest.raises(Rejected, match="tls_kee"):
        worker_arguments(Spec("tls://h:1", tls={"tls_kee": "x"}), "abcdefgh.0", 0)


def test_environment_precedence() -> None:
    config = {"distributed": {"nanny": {"pre-spawn-environ": {"A": 1, "B": 1, "N": None}, "environ": {"C": 1, "D": 1}}}}
    spec = Spec("tcp://h:1", environment={"C": "3", "E": "3"})
    expected = {"A": "1", "B": "2", "C": "3", "D": "1", "E": "3"}
    assert expected == worker_environment({"B": "2", "C": "2"}, config, spec)


def test_environment_without_configuration() -> None:
    assert {} == worker_environment({}, {"distributed": None}, Spec("tcp://h:1"))


@pytest.mark.parametrize(
    ("preload", "argv", "expected"),
    [
        ([], [], (["new.py"], [])),
        (["calendar"], [], (["new.py", "calendar"], [])),
        (["calendar"], ["--x"], (["new.py", "calendar"], ["--x"])),
        (["calendar", "cmd"], [["--x"], ["--y"]], (["new.py", "calendar", "cmd"], [[], ["--x"], ["--y"]])),
    ],
)
def test_one_more_module_hides_no_other(
    preload: list[str], argv: list[object], expected: tuple[object, object]
) -> None:
    config = {"distributed": {"worker": {"preload": preload, "preload-argv": argv, "memory": {"target": 0.6}}}}
    worker = with_preload(config, "new.py")["distributed"]["worker"]
    assert ({"target": 0.6}, *expected) == (worker["memory"], worker["preload"], worker["preload-argv"])
    assert preload == config["distributed"]["worker"]["preload"], "the one given is as it was"
