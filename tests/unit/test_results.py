"""The result page: the rule that halves, means and intervals, what is run again after an interruption, the tables."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import believable
from benchmarks.believable import Measured, Pair
from benchmarks.results.__main__ import halved, main
from benchmarks.results.grid import BACKENDS, KNOBS, TIME_VALUES, Instance, built_in, halves, in_folder, sessions
from benchmarks.results.optimum import best_cost, small
from benchmarks.results.page import Findings, page
from benchmarks.results.runs import Case, Store, cases, run_all
from benchmarks.results.scores import best_knobs, duel, interval, mean, means_by

from dask_adaptive.errors import ConfigError
from dask_adaptive.sim.bound import Start, lower_bound
from dask_adaptive.sim.workload import GraphBuilder, Workload


def row(**fields: Any) -> dict[str, Any]:
    """A run; ``score`` is its cost too unless something else is said."""
    filled = {
        "application": "a",
        "instance": "a",
        "backend": "local",
        "policy": "cost-aware",
        "knob": "",
        "seed": 0,
        "time_value": 10.0,
        "code": "c",
        "failure": "",
        "score": 1.0,
        "starts": 1,
        "cancelled": 0,
        "recomputed": 0,
        "waited_s": 1.0,
        "billed_worker_seconds": 1.0,
        "rounds": 1,
        **fields,
    }
    return {"cost": filled["score"], "parts_bound": 1.0, **filled}


WORKFLOW = {
    "name": "two",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"name": "a", "id": "a", "parents": [], "children": ["b"]},
                {"name": "b", "id": "b", "parents": ["a"], "children": []},
            ],
            "files": [],
        },
        "execution": {
            "makespanInSeconds": 7,
            "executedAt": "2026-01-01T00:00:00Z",
            "tasks": [{"id": "a", "runtimeInSeconds": 3.0}, {"id": "b", "runtimeInSeconds": 4.0}],
        },
    },
}


# --- the grid --------------------------------------------------------------------------------------------------


def test_halves_alternate_by_name_and_say_nothing_of_order_or_number() -> None:
    assert (["a", "c", "e"], ["b", "d"]) == halves(["e", "b", "a", "a", "d", "c"])
    tuned, reported = halves(instance.application for instance in built_in((1.0, 8.0)))
    assert not set(tuned) & set(reported)
    assert {"bursts", "trickle"} <= {*tuned, *reported}
    assert "session" not in {*tuned, *reported}


def test_longer_work_is_the_same_work_in_slow_motion() -> None:
    plain = Instance("trickle", "trickle", "trickle").workload(3)
    slow = Instance("trickle", "trickle x4", "trickle", scale=4.0).workload(3)
    assert ("trickle x4", plain.tasks) == (slow.name, slow.tasks)
    assert 4 * plain.work_s == pytest.approx(slow.work_s)
    assert [4 * each.wait_s for each in plain.releases] == [each.wait_s for each in slow.releases]


def test_sessions_differ_in_the_pause_only() -> None:
    waits = [{release.wait_s for release in each.workload(0).releases[1:]} for each in sessions()]
    assert [{10.0}, {60.0}, {300.0}, {1800.0}] == waits


def test_files_are_applications_by_their_name_up_to_the_first_hyphen(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("blast-small-1.json", "deep/blast-2.json.gz", "soykb.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    found = in_folder(tmp_path)
    assert [("blast", "blast-2"), ("blast", "blast-small-1"), ("soykb", "soykb")] == sorted(
        (each.application, each.name) for each in found
    )
    with pytest.raises(ConfigError, match="there is no"):
        in_folder(tmp_path / "none")


# --- statistics ------------------------------------------------------------------------------------------------


def test_a_mean_is_geometric_and_names_its_worst() -> None:
    found = mean([row(score=1.0), row(score=4.0, application="b", instance="b7"), row(score=None, failure="x")])
    assert found is not None
    assert (2.0, 4.0, "b7", 2) == (pytest.approx(found.value), found.worst, found.worst_row["instance"], found.count)
    assert mean([row(score=None, failure="x")]) is None


def test_an_interval_is_the_same_every_time_and_holds_the_mean() -> None:
    groups = [[1.0, 1.1, 1.3], [1.9, 2.0], [1.2]]
    low, high = interval(groups)
    assert (low, high) == interval(groups)
    assert 1.0 <= low < math.exp(sum(math.log(x) for group in groups for x in group) / 6) < high <= 2.0
    assert (3.0, 3.0) == pytest.approx(interval([[3.0, 3.0], [3.0]]))


def test_the_interval_is_wider_where_applications_differ_than_where_runs_do() -> None:
    between = interval([[1.0] * 6, [2.0] * 6])
    within = interval([[1.0, 2.0] * 3, [2.0, 1.0] * 3])
    assert between[1] - between[0] > within[1] - within[0]


def test_the_best_knob_is_chosen_for_each_manager_and_time_value() -> None:
    rows = [
        row(policy="dask", knob=knob, backend=backend, score=score)
        for knob, backend, score in (("", "local", 1.2), ("x", "local", 1.1), ("", "pods", 1.1), ("x", "pods", 1.2))
    ]
    assert {("local", 10.0, "dask"): "x", ("pods", 10.0, "dask"): ""} == best_knobs(rows)
    assert 1.1 == pytest.approx(means_by(rows, "backend", "knob")["pods", ""])


def test_a_duel_pairs_runs_of_the_same_work_and_seed() -> None:
    ours = [row(seed=seed, score=cost) for seed, cost in ((0, 1.0), (1, 10.0))]
    theirs = [row(policy="dask", seed=seed, score=cost) for seed, cost in ((0, 2.0), (1, 20.0), (2, 99.0))]
    found = duel(ours, theirs)
    assert found is not None
    assert (2.0, 2.0, 2.0) == pytest.approx((found.ratio, found.low, found.high))
    assert duel(ours, []) is None


# --- runs that are kept ----------------------------------------------------------------------------------------

WORK = Instance("triplets", "triplets", "triplets")


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    codes = {"dask": "d1", "cost-aware": "c1"}
    wanted = list(cases([WORK], ["local"], 1, ["dask", "cost-aware"]))
    assert [("dask", None), *(("cost-aware", value) for value in (1.0, 10.0, 100.0))] == [
        (case.policy, case.time_value) for case in wanted
    ]
    path = tmp_path / "runs" / "rows.jsonl"
    run_all(wanted[:2], Store(path, codes), codes, processes=1, label="test")
    lines = path.read_text().splitlines()
    assert 3 + 1 == len(lines)

    path.write_text(path.read_text() + '{"instance": "torn')
    store = Store(path, codes)
    assert wanted[2:] == store.missing(wanted)
    store.add(wanted[2].rows("c1"))
    assert wanted[3:] == Store(path, codes).missing(wanted)
    rows = store.of(wanted[:3])
    assert [1.0, 10.0, 100.0, 1.0, 10.0] == [each["time_value"] for each in rows]
    assert all(each["score"] >= 1 and each["cost"] == pytest.approx(each["score"] * each["bound"]) for each in rows)


def test_runs_by_other_code_are_run_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    case = Case(WORK, "local", "dask", "", 0)
    Store(path, {"dask": "old"}).add(
        [
            row(
                **dict(zip(("instance", "backend", "policy", "knob", "seed", "time_value"), key, strict=True)),
                code="old",
            )
            for key in case.keys
        ]
    )
    assert [] == Store(path, {"dask": "old"}).missing([case, case])
    assert [case] == Store(path, {"dask": "new"}).missing([case, case])


def test_a_run_that_cannot_be_is_a_row_that_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    rows = Case(Instance("broken", "broken", str(broken)), "local", "dask", "", 0).rows("c")
    assert 3 == len(rows)
    assert all("broken.json" in each["failure"] and each["score"] is None for each in rows)
    json.dumps(rows)


# --- the optimum of small graphs -------------------------------------------------------------------------------


def one_graph(*tasks: tuple[float, tuple[int, ...]]) -> Workload:
    build = GraphBuilder()
    for run_s, parents in tasks:
        build.add("t", run_s, parents)
    return Workload("w", (build.graph(),))


def test_the_optimum_of_graphs_that_can_be_done_by_hand() -> None:
    start = Start(0.0, 2.0)
    (chain,) = one_graph((1, ()), (3, (0,))).graphs
    assert 10 * (2 + 4) + (2 + 4) == best_cost(chain, start, 10)
    (two,) = one_graph((3, ()), (3, ())).graphs
    assert 0.5 * (2 + 6) + (2 + 6) == best_cost(two, start, 0.5)  # one worker
    assert 10 * (2 + 3) + 2 * (2 + 3) == best_cost(two, start, 10)
    (four,) = one_graph(*4 * [(2, ())]).graphs
    assert 1.5 * (2 + 4) + 2 * (2 + 4) == best_cost(four, start, 1.5)  # two
    (uneven,) = one_graph((3, ()), (2, ())).graphs
    assert 10 * (2 + 3) + (2 + 3) + (2 + 2) == best_cost(uneven, start, 10)  # one of the two leaves earlier


@pytest.mark.parametrize("value", [1.0, 10.0, 100.0])
def test_the_bound_is_below_the_optimum(value: float) -> None:
    for seed, billed_s in itertools.product(range(6), (0.0, 1.0, 15.0)):
        work, start = small(seed, tasks=5), Start(0.0, billed_s)
        assert lower_bound(work, start, time_value=value, maximum=5) <= best_cost(work.graphs[0], start, value) + 1e-9


def test_a_file_runs_once_where_nothing_is_left_to_chance() -> None:
    shape, file = Instance("map-reduce", "map-reduce", "map-reduce"), Instance("blast", "blast-1", "blast-1.json")
    made = list(cases([shape, file], ["pods", "queue"], 3, policies=["dask"]))
    expected = [(shape, where, seed, 1) for where in ("pods", "queue") for seed in range(3)]
    expected += [(file, "pods", 0, 3), *((file, "queue", seed, 1) for seed in range(3))]
    assert expected == [(each.instance, each.backend, each.seed, each.seeds) for each in made]
    assert [(seed, value) for seed in range(3) for value in TIME_VALUES] == [key[-2:] for key in made[6].keys]


def test_one_run_makes_the_rows_of_all_its_seeds(tmp_path: Path) -> None:
    path = tmp_path / "w-1.json"
    path.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    [instance] = in_folder(tmp_path)
    [case] = cases([instance], ["pods"], 2, policies=["dask"])
    alone = [row for seed in range(2) for row in Case(instance, "pods", "dask", "", seed).rows("code")]
    assert alone == case.rows("code")


def test_shapes_and_files_are_halved_by_themselves() -> None:
    shapes, files = ([Instance(name, name, name) for name in names] for names in ("ace", "bdf"))
    tuned, reported = halved(shapes, files)
    assert ["aebf", "cd"] == ["".join(each.name for each in half) for half in (tuned, reported)]


# --- the page --------------------------------------------------------------------------------------------------


def findings(theirs: float) -> Findings:
    rows = [
        row(application=name, instance=name, backend=backend, policy=policy, time_value=value, score=score)
        for name in ("b", "d")
        for backend in BACKENDS
        for value in (1.0, 10.0, 100.0)
        for policy, score in {
            "cost-aware": 1.1,
            "oracle": 1.05,
            "static-best": 1.0,
            **dict.fromkeys(KNOBS, theirs),
        }.items()
    ]
    paused = [{**each, "instance": "session-10"} for each in rows if each["application"] == "b"]
    tuned = [{**each, "application": "a"} for each in rows]
    return Findings(tuned, rows, paused, [], [("local", 10.0, 11.0, 10.0, 12.1)], ["How."], "images/p.svg")


def test_the_page_says_where_we_win() -> None:
    text = page(findings(theirs=1.3))
    assert "| mean score, local | at most 1.08 | 1.100 (1.10 to 1.10) | **no** |" in text
    assert "| mean score, pods | at most 1.12 | 1.100 (1.10 to 1.10) | yes |" in text
    assert "84 of 84 duels won | yes |" in text
    assert "Nowhere by more than 2 %" in text
    assert "| local, 10 | 1.100 | 1.100 | 1.210 | 1.100 |" in text


def test_the_page_says_plainly_where_we_lose() -> None:
    text = page(findings(theirs=1.0))
    assert "0 of 84 duels won; dask on local at 1: 0.909" in text
    assert "0 of 4; local, session-10: 1.10" in text
    assert "On 24 of 24 combinations" in text
    assert "| b | cloud, 1 | dask | 0.91 |" in text


def test_the_page_tells_of_knobs_only_where_they_were_turned() -> None:
    plain = findings(theirs=1.3)
    assert "knob best on the tuning half" not in page(plain)
    assert "Rivals ran with their defaults only." in page(plain)
    other = row(policy="dask", knob="target_duration 1 s, wait_count 3", score=1.2)
    text = page(replace(plain, tuning=[*plain.tuning, other]))
    assert "cheaper than rivals at the knob best on the tuning half | all | 84 of 84 duels won" in text
    assert "out of: `dask`" in text


def test_a_folder_without_workflows_is_an_error_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["--workflows", str(tmp_path), "--rows", str(tmp_path / "rows.jsonl")])
    assert capsys.readouterr().err.startswith("error: there is no .json")


# --- real against simulated ------------------------------------------------------------------------------------


def test_real_and_simulated_are_compared_in_the_median() -> None:
    pairs = [
        Pair("one", 1.0, Measured(10.0, 100.0, 4, 1.1), Measured(9.0, 130.0, 4, 1.1)),
        Pair("two", 3.0, Measured(10.0, 100.0, 4, 3.1), Measured(10.5, 92.0, 5, 3.1)),
        Pair("six", 3.0, Measured(10.0, 100.0, 4, 3.1), Measured(16.0, 99.0, 5, 3.1)),
    ]
    text = believable.compared(pairs)
    assert "In the median of 3 runs the simulated makespan is 10.0% apart from the real one" in text
    assert "worker-seconds 8.0%: both are within the 10 %" in text
    assert "| two, 3 s | 10.0 s, 10.5 s | 5% | 100, 92 | 8% | 4, 5 |" in text
    worse = believable.compared([pairs[2]])
    assert "wanted are 10 % at most" in worse


def test_the_table_is_put_between_its_marks_and_nothing_else_changes() -> None:
    page = f"# A\n\n{believable.BEGIN}\n\nold\n\n{believable.END}\n\nrest\n"
    once = believable.placed(page, "new")
    assert f"# A\n\n{believable.BEGIN}\n\nnew\n\n{believable.END}\n\nrest\n" == once
    assert once == believable.placed(once, "new")
    with pytest.raises(ValueError, match="no place"):
        believable.placed("# A\n", "new")


def test_the_page_of_the_simulator_has_a_place_for_the_table() -> None:
    text = believable.PAGE.read_text(encoding="utf-8")
    assert believable.placed(text, "x") != text


@pytest.mark.parametrize("name", sorted(believable.GRAPHS))
def test_a_graph_for_dask_has_the_tasks_groups_and_results_of_the_made_up_one(name: str) -> None:
    for number, graph in enumerate(believable.GRAPHS[name]().graphs):
        made, wanted = believable.dask_graph(graph, number)
        made.validate()
        flat = {key: task for layer in made.layers.values() for key, task in layer.items()}
        assert sorted(graph.run_s) == sorted(task[1] for task in flat.values())
        assert sum(len(parents) for parents in graph.parents) == sum(len(task[2]) for task in flat.values())
        assert len(set(graph.group)) == len({key[0] for key in flat})
        inputs = {parent for task in flat.values() for parent in task[2]}
        assert set(wanted) == set(flat) - inputs
