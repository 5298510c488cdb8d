"""``dask adaptive script``: what would be submitted."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dask_adaptive.batch_clusters import job_script
from dask_adaptive.show.cli import adaptive


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(adaptive, ["script", *arguments])
    return result.exit_code, result.output


def test_the_script_is_printed_whole_and_nothing_else() -> None:
    code, text = run(
        "slurm", "--cores", "8", "--processes", "2", "--memory", "4GB", "--walltime", "90min", "--queue", "q"
    )
    assert 0 == code
    lines = text.splitlines()
    assert "#!/bin/bash" == lines[0]
    for directive in ("#SBATCH -p q", "#SBATCH -t 0-01:30:00", "#SBATCH --cpus-per-task=8"):
        assert directive in lines
    assert "--nthreads 4" in text
    assert "--memory-limit 4000000000" in text


def test_the_class_and_the_command_show_the_same() -> None:
    said = {"cores": 8, "processes": 2, "memory": "8GB", "walltime": "90min", "queue": "q"}
    code, text = run(
        "slurm", "--cores", "8", "--processes", "2", "--memory", "4GB", "--walltime", "90min", "--queue", "q"
    )
    assert (0, job_script("slurm", said)) == (code, text)


def test_a_pool_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("pools:\n  small: {backend: slurm}\n  gpu: {backend: slurm, gpus: 1, queue: gpus}\n")
    code, text = run("--config", str(path), "--pool", "gpu")
    assert 0 == code
    assert "#SBATCH -p gpus" in text


def test_any_key_may_be_set() -> None:
    code, text = run("slurm", "--set", "prologue=[module load a]", "--set", "directives=['--exclusive']")
    assert 0 == code
    assert "\nmodule load a\n" in text
    assert "#SBATCH --exclusive\n" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["local"], "submits no job scripts"),
        (["slrum"], "slurm"),
        ([], "for which backend"),
        (["slurm", "--walltime", "30"], "90min"),
        (["slurm", "--set", "waltime=1h"], "walltime"),
        (["slurm", "--pool", "gpu"], "pool"),
        (["slurm", "--cores", "0"], "--cores"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], said: str) -> None:
    code, text = run(*arguments)
    assert 2 == code
    assert said in text
    assert "Traceback" not in text
