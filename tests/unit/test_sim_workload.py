"""Work for the simulator: shapes, and files that describe real workflows."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.sim import shapes
from dask_adaptive.sim.wfformat import read_wfformat
from dask_adaptive.sim.workload import Graph, GraphBuilder, Release, Workload


def document(**changes: Any) -> dict[str, Any]:
    tasks = [
        {"id": "a", "name": "load", "parents": [], "children": ["c"], "outputFiles": ["f"]},
        {"id": "c", "name": "sum", "parents": ["a", "b"], "children": []},
        {"id": "b", "name": "load", "parents": [], "children": ["c"]},
    ]
    took = [
        {"id": "a", "runtimeInSeconds": 1.5},
        {"id": "b", "runtimeInSeconds": 2},
        {"id": "c", "runtimeInSeconds": 0},
    ]
    specification = {"tasks": tasks, "files": [{"id": "f", "sizeInBytes": 7}]}
    made = {
        "name": "small",
        "schemaVersion": "1.5",
        "workflow": {"specification": specification, "execution": {"tasks": took}},
    }
    return {**made, **changes}


def written(path: Path, content: Any) -> Path:
    data = json.dumps(content).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["small.json", "small.json.gz"])
@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_a_file_becomes_a_graph_with_parents_first(tmp_path: Path, name: str, version: str) -> None:
    workload = read_wfformat(written(tmp_path / name, document(schemaVersion=version)))
    (graph,) = workload.graphs
    assert "small" == workload.name
    assert ["load", "load", "sum"] == [graph.groups[group].name for group in graph.group]
    assert [1.5, 2.0, 0.0] == list(graph.run_s)
    assert [(), (), (0, 1)] == [tuple(parents) for parents in graph.parents]
    assert [7, 0, 0] == list(graph.nbytes)
    assert (3, 3.5, 2.0) == (workload.tasks, workload.work_s, graph.critical_s)


def test_version_1_4_refers_by_name_and_has_all_in_one_place(tmp_path: Path) -> None:
    files = [{"name": "f", "sizeInBytes": 7, "link": "output"}, {"name": "g", "sizeInBytes": 9, "link": "input"}]
    tasks = [
        {
            "name": "sum_ID0000003",
            "id": "3",
            "parents": ["load_00001", "load_00002"],
            "runtimeInSeconds": 4,
            "type": "compute",
        },
        {"name": "load_00001", "id": "1", "parents": [], "runtimeInSeconds": 1.5, "type": "compute", "files": files},
        {"name": "load_00002", "id": "2", "category": "load", "runtimeInSeconds": 2, "type": "compute"},
    ]
    content = {"name": "old", "schemaVersion": "1.4", "workflow": {"makespanInSeconds": 9, "tasks": tasks}}
    (graph,) = read_wfformat(written(tmp_path / "w.json", content)).graphs
    assert ["load", "load", "sum"] == [graph.groups[group].name for group in graph.group]
    assert [1.5, 2.0, 4.0] == list(graph.run_s)
    assert [(), (), (0, 1)] == [tuple(parents) for parents in graph.parents]
    assert [7, 0, 0] == list(graph.nbytes)


def test_numbers_in_names_tell_no_groups_apart(tmp_path: Path) -> None:
    content = document()
    for number, task in enumerate(content["workflow"]["specification"]["tasks"]):
        task["name"] = f"blast_v2_ID000000{number}"
    (graph,) = read_wfformat(written(tmp_path / "w.json", content)).graphs
    assert ["blast_v2"] == [group.name for group in graph.groups]


def test_parents_may_be_told_by_children_only(tmp_path: Path) -> None:
    content = document()
    for task in content["workflow"]["specification"]["tasks"]:
        task["parents"] = []
    (graph,) = read_wfformat(written(tmp_path / "w.json", content)).graphs
    assert [(), (), (0, 1)] == [tuple(parents) for parents in graph.parents]


def spoiled(what: str) -> Any:
    content = document()
    tasks, took = (content["workflow"][part]["tasks"] for part in ("specification", "execution"))
    if what == "cycle":
        tasks[0]["parents"] = ["c"]
    elif what == "parent":
        tasks[0]["parents"] = ["zz"]
    elif what == "child":
        tasks[0]["children"] = ["zz"]
    elif what == "twice":
        tasks[2]["id"] = "a"
    elif what == "missing":
        del took[0]
    elif what == "letters":
        tasks[1]["parents"] = "ab"
    elif what == "files":
        tasks[0]["outputFiles"] = "f"
    elif what in ("size", "endless size"):
        content["workflow"]["specification"]["files"][0]["sizeInBytes"] = -7 if what == "size" else float("inf")
    elif what == "version":
        return document(schemaVersion="1.3")
    elif what == "other":
        return [1, 2]
    elif what == "shape":
        return document(workflow={"tasks": []})
    else:
        took[0]["runtimeInSeconds"] = {"negative": -1, "word": "long", "nan": float("nan"), "endless": 1e300}[what]
    return content


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("cycle", "cycle"),
        ("parent", "parent 'zz'"),
        ("child", "child 'zz'"),
        ("twice", "same name or id"),
        ("missing", "no run time"),
        ("negative", "-1"),
        ("word", "'long'"),
        ("nan", "nan"),
        ("endless", "more than ten years"),
        ("letters", "parents of task 'sum' is 'ab', not a list"),
        ("files", "outputFiles of task 'load' is 'f', not a list"),
        ("size", "-7 bytes"),
        ("endless size", "inf bytes"),
        ("version", "1.3"),
        ("other", "not WfFormat"),
        ("shape", "specification"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, what: str, word: str) -> None:
    path = written(tmp_path / "bad.json", spoiled(what))
    with pytest.raises(ConfigError, match=word) as caught:
        read_wfformat(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"\x1f\x8bnot gzip", gzip.compress(b"{}" * 99, mtime=0)[:30]])
def test_what_is_no_json_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.json.gz"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad\.json\.gz: it "):
        read_wfformat(path)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_wfformat(tmp_path / "no.json")


def longest(graph: Graph) -> float:
    """Every path, one after the other."""

    def down(task: int) -> float:
        return graph.run_s[task] + max(map(down, graph.parents[task]), default=0.0)

    return max(map(down, range(len(graph))))


def test_the_critical_path_is_the_longest_of_all_paths() -> None:
    (graph,) = shapes.fork_join(rounds=2, width=3, seed=5).graphs
    assert longest(graph) == pytest.approx(graph.critical_s)


@pytest.mark.parametrize("name", sorted(shapes.SHAPES))
def test_a_shape_depends_on_its_seed_alone(name: str) -> None:
    made = [shapes.SHAPES[name](seed=seed) for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0].work_s != made[2].work_s
    assert name == made[0].name or made[0].name.startswith("session")


def test_shapes_have_the_sizes_that_were_asked_for() -> None:
    assert 20 + 3 + 1 == shapes.map_reduce(tasks=20, reducers=3).tasks
    assert 8 + 4 + 2 + 1 == shapes.tree_reduction(leaves=8).tasks
    assert 1 + 4 * (5 + 1) == shapes.fork_join(rounds=4, width=5).tasks
    assert 3 * 7 == shapes.pipelines(count=7, stages=3).tasks
    assert 3 * 9 == shapes.triplets(count=9).tasks
    assert 6 + 5 == shapes.gridcat(files=6).tasks
    assert 4 * 3 == shapes.stencil(cells=4, steps=3).tasks
    gpu = [group for graph in shapes.resource_bound().graphs for group in graph.groups if group.need]
    assert [{"GPU": 1.0}] == [group.need for group in gpu]


def test_a_cell_of_a_stencil_takes_what_is_beside_it() -> None:
    (graph,) = shapes.stencil(cells=3, steps=2).graphs
    assert [(), (), (), (0, 1), (0, 1, 2), (1, 2)] == [tuple(parents) for parents in graph.parents]


def test_a_session_thinks_and_bursts_go_by_the_clock() -> None:
    assert [Release(0.0), Release(9.0, thinking=True)] == list(shapes.session(graphs=2, think_s=9.0).releases)
    assert [Release(0.0), Release(5.0), Release(10.0)] == list(shapes.bursts(count=3, every_s=5.0).releases)
    waits = [release.wait_s for release in shapes.trickle(count=9).releases]
    assert all(one < other for one, other in itertools.pairwise(waits))


def test_impossible_work_is_refused() -> None:
    build = GraphBuilder()
    for run_s in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="run time"):
            build.add("x", run_s)
    with pytest.raises(ConfigError, match="parent"):
        build.add("x", 1.0, [0])
    with pytest.raises(ConfigError, match="releases"):
        Workload("x", (build.graph(),), (Release(), Release()))
    with pytest.raises(ConfigError, match="from 0 on"):
        Workload("x", (build.graph(),), (Release(-1.0),))
    with pytest.raises(ConfigError, match="at least 2"):
        shapes.tree_reduction(fan_in=1)
