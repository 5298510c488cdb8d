"""``dask adaptive simulate``: what it runs, says and writes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Shape
from dask_adaptive.show.cli import adaptive
from dask_adaptive.show.simulate import table
from dask_adaptive.sim import shapes
from dask_adaptive.sim.site import SITES
from dask_adaptive.sim.trial import POLICIES, equipped, site_named, trial
from dask_adaptive.sim.world import Setting

KEYS = {
    *("instance", "backend", "policy", "time_value", "maximum", "seed", "makespan_s", "worker_seconds"),
    *("billed_worker_seconds", "starts", "cancelled", "recomputed", "bound", "score"),
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(adaptive, ["simulate", *arguments])


def workflow(folder: Path, run_s: float = 3.0) -> str:
    tasks = [{"id": str(number), "name": "work", "parents": [], "children": []} for number in range(8)]
    took = [{"id": str(number), "runtimeInSeconds": run_s} for number in range(8)]
    made = {"schemaVersion": "1.5", "workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": took}}}
    path = folder / "small.json"
    path.write_text(json.dumps(made))
    return str(path)


def test_every_run_is_in_the_table_and_in_the_file(tmp_path: Path) -> None:
    out = tmp_path / "runs.json"
    options = ["--backend", "pods", "--backend", "7+2", "--policy", "dask", "--policy", "static-best"]
    done = invoke(workflow(tmp_path), "triplets", *options, "--seeds", "2", "--maximum", "6", "--json", str(out))
    assert (0, "") == (done.exit_code, done.stderr.replace("simulating", "").strip())
    lines = done.stdout.splitlines()
    assert [["pods", "dask"], ["pods", "static-best"], ["7+2", "dask"], ["7+2", "static-best"]] == [
        line.split()[:2] for line in lines[-4:]
    ]
    rows = json.loads(out.read_text())
    assert 2 * 2 * 2 * 2 == len(rows)
    assert all(KEYS <= set(row) for row in rows)
    assert {"small", "triplets"} == {row["instance"] for row in rows}
    for row in rows:
        cost = row["time_value"] * row["makespan_s"] + row["billed_worker_seconds"]
        assert row["score"] == pytest.approx(cost / row["bound"])
        assert row["score"] >= 1


def test_the_same_command_says_the_same_twice(tmp_path: Path) -> None:
    arguments = ["session", "--backend", "queue", "--policy", "target-duration", "--seeds", "1"]
    assert invoke(*arguments).stdout == invoke(*arguments).stdout


def test_a_table_has_the_geometric_mean_and_the_worst() -> None:
    setting = Setting(SITES["local"], maximum=8)
    works = [shapes.triplets(count=5), shapes.long_tail(tasks=20, slow=1)]
    trials = [trial("dask", work, setting, time_value=10, seed=0) for work in works]
    _, row = table(trials)
    backend, policy, score, worst = row.split()[:4]
    assert ("local", "dask") == (backend, policy)
    assert f"{math.sqrt(trials[0].score * trials[1].score):.3f}" == score
    assert f"{max(each.score for each in trials):.3f}" == worst


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_does_the_work(name: str) -> None:
    done = trial(name, shapes.resource_bound(), Setting(SITES["limited"], maximum=12), time_value=10, seed=0)
    assert (80, 0) == (done.tasks, done.recomputed)
    assert done.score >= 1


def test_no_fixed_number_is_better_than_the_best() -> None:
    """By hand: 8 tasks of 3 s at once for a start of 2 s cost 10 · (2 + 24 / n) + 8 · 3 + 2 n; 8 workers it is."""
    work = shapes.GraphBuilder()
    for _ in range(8):
        work.add("work", 3.0)
    workload = shapes.Workload("eight", (work.graph(),))
    done = trial("static-best", workload, Setting(site_named("2"), maximum=20), time_value=10, seed=0)
    assert 8 == done.starts
    assert 10 * (2 + 3) + 8 * 3 + 8 * 2 == pytest.approx(done.score * done.bound, rel=1e-3)
    assert 1.0 == pytest.approx(done.score, rel=1e-3)


def test_workers_get_what_the_work_needs_unless_they_have_it() -> None:
    work = shapes.resource_bound()
    assert {"GPU": 1.0} == equipped(Shape(), work).resources
    assert {"GPU": 4.0} == equipped(Shape(resources={"GPU": 4.0}), work).resources


def test_a_backend_may_be_numbers() -> None:
    site = site_named("120+5")
    assert (120.0, 5.0) == (site.queue.draw(None), site.start.draw(None))  # type: ignore[arg-type]
    for wrong in ("slrum", "1+2+3", "-1", "nan", "inf", ""):
        with pytest.raises(ConfigError, match="no backend"):
            site_named(wrong)
    for wrong in ("1e15", "5+1e300"):
        with pytest.raises(ConfigError, match="more than ten years"):
            site_named(wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-here"], "there is no file 'nothing-here'"),
        (["triplets", "--policy", "daks"], "did you mean 'dask'"),
        (["triplets", "--backend", "loca"], "did you mean 'local'"),
        (["triplets", "--time-value", "0"], "x>0"),
        (["triplets", "--maximum", "0"], "x>=1"),
        ([], "FILE"),
        (["triplets", "--seeds", "1", "--json", "/proc/nowhere/all.json"], "cannot be written"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(arguments: list[str], words: str) -> None:
    done = invoke(*arguments)
    assert 2 == done.exit_code
    assert words in done.stderr


def test_a_bad_file_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = invoke(workflow(tmp_path, run_s=-1.0))
    assert 2 == done.exit_code
    assert "run time of -1.0 s" in done.stderr
    assert 1 == len(done.stderr.strip().splitlines())
