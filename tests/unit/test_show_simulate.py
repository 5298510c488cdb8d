"""The picture and the progress of ``dask adaptive simulate``; what it computes is tested in test_sim_trial.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dask_adaptive.show.cli import adaptive

QUICK = ("fork-join", "--backend", "local", "--maximum", "4", "--seeds", "1")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(adaptive, ["simulate", *arguments])


@pytest.mark.parametrize("form", [".png", ".svg", ".html"])
def test_the_runs_are_drawn(tmp_path: Path, form: str) -> None:
    said = call(*QUICK, "--policy", "doubling", "--policy", "static-best", "--picture", str(tmp_path / f"runs{form}"))
    assert 0 == said.exit_code, said.output
    assert f"picture in {tmp_path / f'runs{form}'}" == said.output.splitlines()[-1]
    assert (tmp_path / f"runs{form}").stat().st_size > 10_000


def test_the_page_has_a_section_for_each_backend_and_a_column_for_each_policy(tmp_path: Path) -> None:
    policies = ("doubling", "dask", "dask-2017", "spark", "parsl")
    chosen = [word for policy in policies for word in ("--policy", policy)]
    said = call(*QUICK, "--backend", "pods", *chosen, "--picture", str(tmp_path / "runs.html"))
    assert 0 == said.exit_code, said.output
    page = (tmp_path / "runs.html").read_text()
    assert 2 == page.count("<h2>fork-join on local</h2>")  # four policies beside each other, the fifth below
    assert 2 == page.count("<h2>fork-join on pods</h2>")
    assert [2] * 5 == [page.count(f"<th>{policy}</th>") for policy in policies]
    assert 4 == page.count("<svg")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--picture", "runs.gif"], "a report cannot be written as 'runs.gif'"),
        (["--picture", "runs.png", *["--backend=1"] * 13], "a picture of 14 rows is too large, 12 are possible"),
        (["--picture", f"{__file__}/runs.png"], "the picture cannot be written to"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    said = call(*QUICK, "--policy", "dask", *arguments)
    assert 2 == said.exit_code
    assert sentence in said.stderr


def test_progress_is_shown_on_a_terminal_only() -> None:
    import pty

    command = [sys.executable, "-m", "dask", "adaptive", "simulate", *QUICK, "--policy", "dask"]
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "" == quiet.stderr
    ours, theirs = pty.openpty()
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=120, check=True)
    os.close(theirs)
    bar = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "100%" in bar
    assert quiet.stdout == shown.stdout


def test_results_that_cannot_be_written_are_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = call("trickle", "--seeds", "1", "--json", str(tmp_path / "file" / "x.json"))
    assert 2 == done.exit_code
    assert "the results cannot be written to" in done.output
    assert "cost-aware" not in done.output


def test_a_file_of_results_below_a_folder_that_is_not_there_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "x.json"
    assert 0 == call(*QUICK, "--policy", "dask", "--json", str(path)).exit_code
    assert ["dask"] == [each["policy"] for each in json.loads(path.read_text())]


def test_results_on_the_terminal_are_alone_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*QUICK, "--policy", "dask", "--json", "-", "--picture", "x.html")
    assert ["dask"] == [each["policy"] for each in json.loads(done.stdout)]
    assert done.stderr.startswith("backend")
    assert "picture in x.html" in done.stderr
    assert ["x.html"] == [each.name for each in tmp_path.iterdir()]


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("option", ["--linger", "--time-value"])
def test_a_number_that_is_none_is_refused(option: str, number: str) -> None:
    done = call(*QUICK, option, number)
    assert 2 == done.exit_code
    assert "is not a finite number" in done.stderr


def test_a_folder_with_the_name_of_a_shape_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / QUICK[0]).mkdir()
    assert 0 == call(*QUICK, "--policy", "dask").exit_code


def test_a_folder_is_told_to_be_one(tmp_path: Path) -> None:
    done = call(str(tmp_path))
    assert 2 == done.exit_code
    assert "is a folder; name the files in it" in done.output
