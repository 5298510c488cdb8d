"""``dask adaptive doctor``: what is missing, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.fakes.core import Fake

from dask_adaptive.show.cli import adaptive


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(adaptive, ["doctor", *arguments])
    return result.exit_code, result.output


def test_where_all_is_well_a_job_was_there_and_is_gone() -> None:
    code, text = run("local", "--json")
    assert 0 == code, text
    found = json.loads(text)
    assert {True} == {finding["good"] for finding in found}
    whole = "\n".join(finding["what"] for finding in found)
    for said in ("a scheduler listens at tcp://127.0.0.1", "reached the scheduler", "python: 3", "may write to"):
        assert said in whole


def test_a_job_that_ends_at_once_is_told_with_its_last_words() -> None:
    code, text = run("local", "--set", "worker_arguments=[--no-such-option]")
    assert 1 == code
    assert "FAIL  job " in text
    assert "--no-such-option" in text
    assert "what to do: dask adaptive script" in text


def test_a_batch_system_that_is_not_here_is_said_before_any_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, text = run("slurm")
    assert 1 == code
    assert "FAIL  sbatch is not on PATH" in text
    assert "what to do: load the module of slurm" in text
    assert "reached the scheduler" not in text


def test_without_a_job_there_may_be_nothing_to_look_at() -> None:
    assert (0, "nothing to look at for backend local without a job\n") == run("local", "--no-job")
    assert [] == json.loads(run("local", "--no-job", "--json")[1])


def test_nothing_is_left_of_the_look_at_the_folder_for_logs(tmp_path: Path) -> None:
    with Fake(tmp_path / "system", "pbs:Pbs").on_path():
        code, text = run("pbs", "--no-job", "--set", f"log_directory={tmp_path / 'logs'}")
    assert (0, True) == (code, f"logs and private files go to {tmp_path / 'logs'}" in text), text
    assert [] == list((tmp_path / "logs").iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["slrum"],
        [],
        ["local", "--set", "memry=1"],
        ["local", "--timeout", "0"],
        ["local", "--timeout", "nan"],
        ["local", "--timeout", "inf"],
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str]) -> None:
    code, text = run(*arguments)
    assert 2 == code
    assert "Traceback" not in text
