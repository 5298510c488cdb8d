from __future__ import annotations

import io
import json
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from dask_adaptive.show.demo import analyse, find_sources

DEMO = [sys.executable, "-m", "dask", "adaptive", "demo"]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two packages and a module, with a function that two of them share and one file that is not Python."""
    shared = "def {name}(x, out):\n" + "\n".join(f"    if x > {i}: out.append({i} * x + {i})" for i in range(8)) + "\n"
    files = {
        "alpha/__init__.py": "import os\n" + shared.format(name="collect"),
        "alpha/inner/deep.py": "def a(): pass\ndef b(socket): return 1 if socket else 2\n",
        "beta/__init__.py": shared.format(name="gather"),
        "beta/broken.py": "def def\n",
        "beta/tests/test_it.py": "def left_out(): pass\n",
        "single.py": "class One:\n    pass\n",
        "not-a-package/x.py": "def left_out(): pass\n",
    }
    for name, text in files.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "library"


@pytest.fixture(scope="module")
def client():
    # processes: the syntax trees of CPython 3.11 cannot be built by several threads at once (python/cpython#106905)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_findings_of_a_library_that_was_counted_by_hand(library, client):
    found: list[str] = []
    findings, twins = analyse(client, find_sources(100, [library]), found.append)
    sizes = {
        one.package: (one.facts.files, one.facts.lines, one.facts.functions, one.facts.classes, one.shared)
        for one in findings
    }
    assert sizes == {"alpha": (2, 12, 3, 0, 1), "beta": (2, 10, 1, 0, 1), "single": (1, 2, 0, 1, 0)}
    assert [one.facts.skipped for one in findings] == [0, 1, 0]
    assert findings[0].facts.worst == (9, "__init__:collect")
    assert [twin.where for twin in twins] == [("alpha.__init__:collect", "beta.__init__:gather")]
    assert len(found) == 2


def test_the_distributed_result_is_that_of_a_plain_count_over_real_files(client):
    sources = find_sources(120)
    expected: dict[str, Counter[str]] = {}
    for source in sources:
        with Path(source.path).open("rb") as file:
            tokens = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME]
        expected.setdefault(source.package, Counter()).update(files=1, functions=tokens.count("def"))
        expected[source.package].update(classes=tokens.count("class"))
    findings, _ = analyse(client, sources)
    assert {name: dict(counts) for name, counts in expected.items()} == {
        one.package: {"files": one.facts.files, "functions": one.facts.functions, "classes": one.facts.classes}
        for one in findings
    }


def test_sources_are_whole_packages_within_the_limit(library):
    assert {source.package for source in find_sources(100, [library])} == {"alpha", "beta", "single"}
    assert {source.package for source in find_sources(3, [library])} == {"alpha", "single"}
    assert find_sources(0, [library]) == []


def test_the_demo_leaves_pictures_tables_and_a_journal_and_the_cluster_follows_the_work(tmp_path):
    output = tmp_path / "demo"
    done = subprocess.run([*DEMO, "--output", output, "--files", "150"], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    for name in ("timeline.png", "timeline.svg", "timeline.html", "packages.csv", "twins.csv", "journal.jsonl"):
        assert (output / name).stat().st_size > 10, name
        assert name in done.stdout
    report = subprocess.run(
        [sys.executable, "-m", "dask", "adaptive", "report", output / "journal.jsonl", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    decisions = json.loads(report.stdout)["decisions"]
    assert sum(one["before"] == 0 < one["after"] for one in decisions) >= 3, "grows from nothing in every burst"
    assert sum(one["before"] > 0 == one["after"] for one in decisions) >= 3, "is given back after every burst"
    lines = io.StringIO((output / "packages.csv").read_text()).readlines()
    assert lines[0].startswith("package,files,lines,functions")
    assert len(lines) > 2
