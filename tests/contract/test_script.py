"""Job scripts, run by real shells as a batch system would run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest

from dask_adaptive.backend.custom import Custom
from dask_adaptive.backend.dialect import Dialect
from dask_adaptive.backend.htcondor import HTCondor
from dask_adaptive.backend.lsf import Lsf
from dask_adaptive.backend.pbs import Pbs
from dask_adaptive.backend.script import environment_file, job_script
from dask_adaptive.backend.sge import Sge
from dask_adaptive.backend.slurm import Slurm
from dask_adaptive.backend.torque import Torque
from dask_adaptive.model import Request, Shape, Spec, job_of_worker

RECORDER = """
import json, os, signal, sys, time
folder = os.environ["FOLDER"]
name = sys.argv[sys.argv.index("--name") + 1]
with open(f"{folder}/{name}.json", "w") as file:
    json.dump({"argv": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid()}, file)
if os.environ.get("WAITS"):
    signal.signal(signal.SIGTERM, lambda *_: (open(f"{folder}/{name}.term", "w").close(), os._exit(7)))
    open(f"{folder}/{name}.waits", "w").close()
    time.sleep(600)
sys.exit(int(os.environ.get("CODE" + name.split("-")[1], 0)))
"""
"""Stands for the interpreter of the workers: writes down what it was given."""

SHELLS = [shell for shell in ("/bin/bash", "/bin/dash") if shutil.which(shell)]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def python(tmp_path: Path) -> str:
    program = tmp_path / "a python" / "recorder"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(RECORDER)}")
    program.chmod(0o755)
    return str(program)


def started(shell: str, folder: Path, spec: Spec, **variables: str) -> subprocess.Popen[bytes]:
    """Start the script of a job, the sixth of its array, as in its third attempt."""
    environment = folder / "environment.sh"
    environment.write_text(
        environment_file(dask.config.deserialize(spec.dask_config) if spec.dask_config else {}, spec)
    )
    text = job_script(Slurm(), "abcdefgh", spec, log=f"{folder}/%.log", environment=str(environment))
    (folder / "script").write_text(text)
    given = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_RESTART_COUNT": "2", "FOLDER": str(folder), "PATH": os.environ["PATH"]}
    return subprocess.Popen([shell, str(folder / "script")], env={**given, **variables}, start_new_session=True)


def ran(shell: str, folder: Path, spec: Spec, **variables: str) -> tuple[int, Mapping[str, Any]]:
    """The exit code of a job, and what its workers were given, by name."""
    code = started(shell, folder, spec, **variables).wait(120)
    return code, {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def option(given: Mapping[str, Any], name: str) -> str:
    argv: list[str] = given["argv"]
    return argv[argv.index(name) + 1]


def test_one_worker(shell: str, tmp_path: Path, python: str) -> None:
    code, given = ran(shell, tmp_path, Spec("tcp://h:1", request=Request(python=python)), CODE0="4")
    assert (4, ["abcdefgh.5-0-2"]) == (code, list(given))
    assert ["-m", "distributed.cli.dask_worker", "tcp://h:1"] == given["abcdefgh.5-0-2"]["argv"][:3]


def test_outside_of_an_array_and_at_the_first_start(shell: str, tmp_path: Path, python: str) -> None:
    spec = Spec("tcp://h:1", request=Request(python=python))
    assert ["abcdefgh.0-0-0"] == list(ran(shell, tmp_path, spec, SLURM_ARRAY_TASK_ID="", SLURM_RESTART_COUNT="")[1])


@pytest.mark.parametrize(
    ("dialect", "variables"),
    [
        (Pbs(), {}),
        (Torque(), {}),
        (HTCondor(), {}),
        (Sge(), {"RESTARTED": "1", "SGE_TASK_ID": "1"}),
        (Lsf(), {"LSB_RESTART": "Y", "LSB_JOBINDEX": "1"}),
        (Custom(["submit", "{tag}"], ["list"], ["cancel", "{ids}"]), {}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_started_again_in_the_same_second_it_has_another_name(
    shell: str, tmp_path: Path, python: str, dialect: Dialect, variables: dict[str, str]
) -> None:
    """Where the system does not tell how often it was."""
    (tmp_path / "date").write_text("#!/bin/sh\necho 1795229320\n")
    (tmp_path / "date").chmod(0o755)
    spec = Spec("tcp://h:1", request=Request(python=python))
    text = job_script(dialect, "abcdefgh", spec, log=f"{tmp_path}/%.log")
    environment = {"FOLDER": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    for _ in range(2):
        subprocess.run([shell, "-c", text], env=environment, check=True)
    names = [path.stem for path in tmp_path.glob("*.json")]
    assert (2, ["abcdefgh.0"] * 2) == (len(names), [job_of_worker(name) for name in names])


NASTY = 'it\'s "a" $(touch /tmp/never) `id` $HOME \\ * ; | & é {x}'


def test_values_arrive_as_they_are(shell: str, tmp_path: Path, python: str) -> None:
    spec = Spec(
        "tcp://h:1",
        environment={"NASTY": NASTY, "LINES": "one\ntwo"},
        worker_arguments=("--flag", NASTY),
        preload=(NASTY,),
        request=Request(python=python),
    )
    (given,) = ran(shell, tmp_path, spec)[1].values()
    assert (NASTY, NASTY) == (option(given, "--flag"), option(given, "--preload"))
    assert (NASTY, "one\ntwo") == (given["environment"]["NASTY"], given["environment"]["LINES"])


def test_the_owners_configuration_arrives(shell: str, tmp_path: Path, python: str) -> None:
    config = {"distributed": {"nanny": {"pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1}}}, "x": NASTY}
    spec = Spec("tcp://h:1", dask_config=dask.config.serialize(config), request=Request(python=python))
    (given,) = ran(shell, tmp_path, spec, OMP_NUM_THREADS="8")[1].values()
    environment = given["environment"]
    assert config == dask.config.deserialize(environment["DASK_INTERNAL_INHERIT_CONFIG"])
    assert ("8", "1") == (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]), "what the job has wins"


@pytest.mark.parametrize(("codes", "expected"), [(("0", "0", "0"), 0), (("0", "3", "0"), 3), (("5", "3", "0"), 5)])
def test_several_workers(shell: str, tmp_path: Path, python: str, codes: tuple[str, ...], expected: int) -> None:
    spec = Spec("tcp://h:1", Shape(workers=3), request=Request(python=python))
    code, given = ran(shell, tmp_path, spec, CODE0=codes[0], CODE1=codes[1], CODE2=codes[2])
    assert (expected, [f"abcdefgh.5-{i}-2" for i in range(3)]) == (code, sorted(given))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_for_the_job_reaches_the_workers(shell: str, tmp_path: Path, python: str, workers: int) -> None:
    """Only the first process gets it, as with HTCondor."""
    job = started(shell, tmp_path, Spec("tcp://h:1", Shape(workers=workers), request=Request(python=python)), WAITS="1")
    names = [f"abcdefgh.5-{i}-2" for i in range(workers)]
    _until(lambda: all((tmp_path / f"{name}.waits").exists() for name in names))
    job.send_signal(signal.SIGTERM)
    assert 7 == job.wait(120)
    assert names == sorted(path.stem for path in tmp_path.glob("*.term"))


def test_each_worker_sees_its_own_gpus(shell: str, tmp_path: Path, python: str) -> None:
    spec = Spec("tcp://h:1", Shape(workers=2), gpus=2, request=Request(python=python))
    _, given = ran(shell, tmp_path, spec, CUDA_VISIBLE_DEVICES="4,5,GPU-6,7")
    devices = {name: each["environment"]["CUDA_VISIBLE_DEVICES"] for name, each in given.items()}
    assert {"abcdefgh.5-0-2": "4,5", "abcdefgh.5-1-2": "GPU-6,7"} == devices
    assert ["GPU=2.0"] * 2 == [option(each, "--resources") for each in given.values()]


def test_the_local_directory_is_the_jobs_own_and_goes_with_it(shell: str, tmp_path: Path, python: str) -> None:
    spec = Spec("tcp://h:1", local_directory="$SCRATCH/a b$(x)", request=Request(python=python))
    scratch = tmp_path / "scratch"
    job = started(shell, tmp_path, spec, SCRATCH=str(scratch), WAITS="1")
    _until(lambda: (tmp_path / "abcdefgh.5-0-2.waits").exists())
    (given,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    own = scratch / "a b$(x)" / "abcdefgh.5-2"
    assert str(own) == option(given, "--local-directory")
    (own / "left").mkdir(parents=True)
    job.send_signal(signal.SIGTERM)
    job.wait(120)
    assert (True, False) == (own.parent.exists(), own.exists())


def test_a_launcher_says_which_worker_it_starts(shell: str, tmp_path: Path, python: str) -> None:
    launcher = tmp_path / "launch it"
    launcher.write_text('#!/bin/sh\nfor rank in 0 1; do SLURM_PROCID=$rank "$@" || exit; done\n')
    launcher.chmod(0o755)
    request = Request(python=python, launcher=f"'{launcher}' env", nodes=2)
    assert ["abcdefgh.5-0-2", "abcdefgh.5-1-2"] == sorted(
        ran(shell, tmp_path, Spec("tcp://h:1", Shape(workers=2), request=request))[1]
    )


def test_a_template(shell: str, tmp_path: Path, python: str) -> None:
    template = "#!/bin/sh\nexport MINE='a b'\nenv {command}\n"
    spec = Spec("tcp://h:1", Shape(workers=2), request=Request(python=python, template=template))
    _, given = ran(shell, tmp_path, spec)
    assert ["abcdefgh.5-0-2", "abcdefgh.5-1-2"] == sorted(given)
    assert {"a b"} == {each["environment"]["MINE"] for each in given.values()}
    assert (tmp_path / "5.log").exists(), "what the workers print"


def test_a_prologue_runs_before(shell: str, tmp_path: Path, python: str) -> None:
    spec = Spec("tcp://h:1", request=Request(python="$WHERE", prologue=(f"export WHERE='{python}'", "umask 027")))
    assert ["abcdefgh.5-0-2"] == list(ran(shell, tmp_path, spec)[1])


def test_without_its_private_file_no_worker_starts(shell: str, tmp_path: Path, python: str) -> None:
    spec = Spec("tcp://h:1", request=Request(python=python))
    text = job_script(Slurm(), "abcdefgh", spec, log="/l/%", environment=str(tmp_path / "gone.sh"))
    job = subprocess.run(
        [shell, "-c", text], env={"FOLDER": str(tmp_path)}, capture_output=True, check=False, text=True
    )
    assert job.returncode != 0
    assert "gone.sh" in job.stderr
    assert [] == list(tmp_path.glob("*.json"))


def test_nothing_is_left_of_several_workers(shell: str, tmp_path: Path, python: str) -> None:
    job = started(shell, tmp_path, Spec("tcp://h:1", Shape(workers=2), request=Request(python=python)), WAITS="1")
    _until(lambda: len(list(tmp_path.glob("*.waits"))) == 2)
    pids = [json.loads(path.read_text())["pid"] for path in tmp_path.glob("*.json")]
    job.send_signal(signal.SIGINT)
    job.wait(120)
    assert [] == [pid for pid in pids if psutil.pid_exists(pid)]


def _until(met: Any) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)
