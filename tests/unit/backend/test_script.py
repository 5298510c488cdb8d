"""The text of a job script."""

from __future__ import annotations

import shlex

import pytest

from dask_adaptive.backend.script import environment_file, job_script
from dask_adaptive.backend.slurm import Slurm
from dask_adaptive.errors import Rejected
from dask_adaptive.model import Request, Shape, Spec

SIMPLE = Spec("tls://10.0.0.1:8786", Shape(threads=2), request=Request(python="/opt/py/bin/python", walltime_s=3600))


def script(spec: Spec = SIMPLE, log: str = "/logs/abcdefgh.%.log", environment: str = "") -> str:
    return job_script(Slurm(), "abcdefgh", spec, log=log, environment=environment)


def requesting(**request: object) -> Spec:
    return Spec("tcp://h:1", Shape(memory_bytes=2**30), request=Request(queue="normal", **request))  # type: ignore[arg-type]


def head(spec: Spec) -> list[str]:
    return [line.partition(" ")[2] for line in script(spec).splitlines() if line.startswith("#SBATCH")]


def test_one_worker_is_the_job() -> None:
    lines = script().splitlines()
    assert "#!/bin/bash" == lines[0]
    assert "#SBATCH -t 0-01:00:00" == lines[1]
    assert "worker 0" == lines[-1]
    (command,) = (line for line in lines if "exec" in line)
    words = shlex.split(command)
    assert ["exec", "/opt/py/bin/python", "-m", "distributed.cli.dask_worker", "tls://10.0.0.1:8786"] == words[:5]
    assert "$job-$1-$attempt" == words[words.index("--name") + 1]


def test_directives_are_removed_replaced_and_added() -> None:
    ours = ["-p normal", "-n 1", "--cpus-per-task=1", "--mem=1024M", "-o /logs/abcdefgh.%a.log", "--open-mode=append"]
    assert ours == head(requesting())
    assert [each for each in ours if "mem" not in each] == head(requesting(skip=("--mem",)))
    replaced = [*(each for each in ours if each != "-p normal"), "-p debug", "--exclusive"]
    assert replaced == head(requesting(directives=("-p debug", "--exclusive")))


@pytest.mark.parametrize("word", ["two\nlines", "a\rb", "a\0b", "\x1b[0m"])
@pytest.mark.parametrize("where", ["directive", "queue", "scheduler", "shebang", "python", "log", "launcher"])
def test_what_would_be_another_line_is_refused(where: str, word: str) -> None:
    spec = {
        "directive": requesting(directives=(word,)),
        "queue": Spec("tcp://h:1", request=Request(queue=word)),
        "scheduler": Spec(word),
        "shebang": requesting(shebang=word),
        "python": requesting(python=word),
        "launcher": requesting(launcher=f"srun '{word}'"),
    }.get(where, SIMPLE)
    with pytest.raises(Rejected):
        script(spec, log=word if where == "log" else "/l/%")


def test_a_variable_has_a_name() -> None:
    with pytest.raises(Rejected, match="A;rm"):
        environment_file({}, Spec("tcp://h:1", environment={"A;rm": "1"}))


def test_a_template_needs_a_place_for_the_command() -> None:
    with pytest.raises(Rejected, match=r"\{command\}"):
        script(requesting(template="#!/bin/sh\ndask worker\n"))


def test_nothing_private_is_in_the_script() -> None:
    spec = Spec("tcp://h:1", environment={"TOKEN": "hush"}, dask_config="secretconfig")
    assert "hush" not in script(spec)
    assert "secretconfig" not in script(spec)


def test_a_job_may_run_a_command_instead() -> None:
    lines = script(Spec("tcp://h:1", Shape(workers=3), command=("dask", "head 1", "$(x)"))).splitlines()
    assert "exec dask 'head 1' '$(x)'" == lines[-1]
    assert not any("dask_worker" in line for line in lines)
