"""The commands that start nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dask_adaptive.journal import Journal
from dask_adaptive.model import Plan, Pool, PoolState, Record, Snapshot, Submit, Target, Want
from dask_adaptive.show.cli import adaptive


def call(*arguments: object):
    return CliRunner().invoke(adaptive, [str(argument) for argument in arguments])


@pytest.fixture
def journal(tmp_path):
    """A run of ten seconds with one decision."""
    path = tmp_path / "run.jsonl"
    kept = Journal(path)
    for number, at_s in enumerate((100.0, 104.0, 110.0)):
        snapshot = Snapshot(at_s, 1.0, _load(at_s), {}, {"default": PoolState(Pool("default"))})
        plan = Plan((Submit("default", 3, "much to do"),)) if number == 1 else Plan()
        kept.append(Record(number, at_s, "tick", snapshot, {}, Target({"default": Want(number, "so")}), plan))
    kept.close()
    return path


def _load(at_s):
    from dask_adaptive.model import Load

    return Load(at_s)


@pytest.mark.parametrize("command", ["run", "demo", "backends", "policies", "report"])
def test_every_command_explains_itself_with_examples(command):
    said = call(command, "--help")
    assert said.exit_code == 0
    assert f"Examples:\n    dask adaptive {command}" in said.output


def test_a_wrong_command_names_the_near_one():
    said = call("polices")
    assert said.exit_code == 2
    assert "there is no command 'polices'; did you mean 'policies'?" in said.output


@pytest.mark.parametrize(("command", "name"), [("backends", "local"), ("policies", "target-duration")])
def test_lists_for_people_and_for_programs(command, name):
    for_people = call(command)
    for_programs = json.loads(call(command, "--json").output)
    assert any(line.startswith(f"{name} ") for line in for_people.output.splitlines())
    (row,) = [row for row in for_programs if row["name"] == name]
    assert row["class"].startswith("dask_adaptive.")
    assert row["about"].endswith(".")
    assert row["error"] == ""
    for row in for_programs:
        assert "`" not in row["about"]
        assert 1 == row["about"].count(". ") + 1, "a sentence"


def test_report_says_what_happened_and_draws_it(journal, tmp_path):
    said = call("report", journal, "-o", tmp_path / "run.html")
    assert said.exit_code == 0
    first, last, picture = said.output.splitlines()
    assert first.split() == ["4.0", "s", "default", "0", "→", "3:", "much", "to", "do"]
    assert last.startswith("10.0 s, 0 worker-seconds")
    assert picture == f"picture in {tmp_path / 'run.html'}"
    assert "much to do" in (tmp_path / "run.html").read_text()


def test_report_for_programs(journal):
    said = json.loads(call("report", journal, "--json").output)
    assert said["totals"]["submitted"] == 3
    assert said["decisions"] == [
        {"number": 1, "at_s": 4.0, "pool": "default", "before": 0, "after": 3, "reason": "much to do"}
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "missing.jsonl"], "there is no journal 'missing.jsonl'"),
        (["run", "missing.py"], "there is no script 'missing.py'"),
        (["run", "--backend", "locl", __file__], "there is no backend 'locl'; did you mean 'local'?"),
        (["run", "--policy", "fixd", __file__], "there is no policy 'fixd'; did you mean 'fixed'?"),
        (["run", "--report", "run.jpg", __file__], "a report cannot be written as 'run.jpg'"),
        (["run", "--minimum", "5", "--maximum", "2", __file__], "minimum"),
        (["run", "--memory", "32 gigs", __file__], "32 gigs"),
        (["run", "--maximum", "0", __file__], "0 is not in the range"),
        (["run", "--target-duration", "-3s", __file__], "-3s"),
        (["run"], "Missing argument 'SCRIPT'"),
        (["run", "/"], "/ is a folder; name the script in it"),
        (["run", "--report", "/proc/zz/x.html", __file__], "the picture cannot be written to /proc/zz/x.html"),
        (["demo", "--output", "/proc/zz"], "cannot be written to /proc/zz"),
        (["simulate", "trickle", "--json", "/proc/zz/x.json"], "the results cannot be written to /proc/zz/x.json"),
        (["simulate", "trickle", "--backend", "1e15"], "more than ten years"),
        (["demo", "--files", "nine"], "'nine' is not a valid integer"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(arguments, sentence):
    said = call(*arguments)
    assert said.exit_code == 2
    assert sentence in said.stderr
    assert "Traceback" not in said.output
    assert said.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--journal", "pipe.svg", __file__], "journal 'pipe.svg' cannot be written: it is no regular file"),
        (["run", "--report", "pipe.svg", __file__], "the picture cannot be written to pipe.svg"),
        (["run", "--report", "nowhere/x.svg", __file__], "the picture cannot be written to nowhere/x.svg"),
        (["demo", "--output", "nowhere"], "cannot be written to nowhere"),
        (["demo", "--output", "circle"], "cannot be written to circle"),
        (["report", "run.jsonl", "--output", "circle/x.svg"], "cannot be written to circle/x.svg"),
    ],
)
def test_what_is_no_regular_file_is_refused_before_anything_starts(journal, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.svg")
    Path("nowhere").symlink_to("missing")
    Path("circle").symlink_to("circle")
    said = call(*arguments)
    assert (2, 1) == (said.exit_code, len(said.stderr.splitlines()))
    assert sentence in said.stderr


def test_a_full_disk_behind_the_output_is_one_sentence():
    code = "import sys; from dask_adaptive.show.cli import adaptive; adaptive(sys.argv[1:])"
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", code, "policies"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert 1 == done.returncode
    assert "No space left on device" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_one_line_of_json_is_no_journal(tmp_path):
    (tmp_path / "good.json").write_text('{"a": 1}')
    said = call("report", tmp_path / "good.json")
    assert 2 == said.exit_code
    assert "good.json' is not a journal" in said.stderr


def test_a_line_that_is_not_of_a_journal_is_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\nnonsense\n")
    said = call("report", tmp_path / "bad.jsonl")
    assert said.exit_code == 2
    assert "is not a journal's" in said.stderr


def test_the_command_line_imports_no_extra():
    code = "import dask_adaptive.show.cli, sys; print({'matplotlib', 'rich', 'ipywidgets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "set()\n"
