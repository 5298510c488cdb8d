"""What travels to the scheduler: text, and one call of a builtin."""

from __future__ import annotations

import ast
import pickle
import pickletools
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.engine import plugin
from dask_adaptive.engine.dask_side import parcel
from dask_adaptive.engine.plugin import Durations
from dask_adaptive.model import WORKER_NAME

SOURCE = Path(plugin.__file__).read_text(encoding="utf-8")
CONFIG = {
    "name": "dask-adaptive-test",
    "everything": False,
    "pattern": WORKER_NAME.pattern,
    "prefix": "test",
    "worker_key": None,
    "silent_s": 30.0,
    "token": "t",
}


def test_the_parcel_refers_to_nothing_but_a_builtin():
    sent = parcel(CONFIG)
    strings: list[object] = []
    references = []
    for opcode, argument, _ in pickletools.genops(sent):
        if opcode.name == "STACK_GLOBAL":
            references.append(tuple(strings[-2:]))
        elif opcode.name in ("GLOBAL", "INST"):
            references.append(argument)
        elif isinstance(argument, str):
            strings.append(argument)
    assert [("builtins", "eval")] == references
    assert b"dask_adaptive" not in sent


def test_the_parcel_becomes_a_plug_in():
    made = pickle.loads(parcel(CONFIG))
    assert "dask-adaptive-test" == made.name
    assert type(made).__module__ not in sys.modules


def test_the_plug_in_needs_only_what_every_scheduler_has():
    tree = ast.parse(SOURCE, feature_version=(3, 10))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert 0 == node.level
            roots.add(str(node.module).partition(".")[0])
    assert {"distributed", "tornado"} == roots - set(sys.stdlib_module_names)


def test_every_name_that_is_used_is_probed():
    tree = ast.parse(SOURCE)
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_self(node)}
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert private - own <= {name for _, name, _ in plugin.NAMES}
    assert private - own


def is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


# --- durations -------------------------------------------------------------------------------------------------


class Prefix:
    """A task prefix as the scheduler keeps it: totals that only grow."""

    def __init__(self, name: str = "p", duration_average: float = -1) -> None:
        self.name = name
        self.duration_average = duration_average
        self.state_counts: dict[str, int] = {}
        self.all_durations: dict[str, float] = {"compute": 0.0}

    def finish(self, *seconds: float) -> None:
        self.state_counts["memory"] = self.state_counts.get("memory", 0) + len(seconds)
        self.all_durations["compute"] += sum(seconds)


def test_nothing_is_known_at_first():
    assert (None, None) == Durations().of(Prefix())


def test_the_configured_duration_is_the_first_guess():
    assert (3.0, None) == Durations().of(Prefix(duration_average=3.0))


def test_a_straggler_that_runs_changes_nothing():
    durations, prefix = Durations(), Prefix(duration_average=1.0)
    prefix.finish(1.0, 1.0)
    durations.of(prefix)
    prefix.duration_average = -1  # what the scheduler does on a straggler
    assert (1.0, None) == durations.of(prefix)


def test_the_past_before_we_came_counts():
    prefix = Prefix()
    prefix.finish(1.0, 3.0)
    assert (2.0, None) == Durations().of(prefix)


def test_spread_comes_from_differences_between_looks():
    durations, prefix = Durations(), Prefix()
    for seconds in (1.0, 3.0) * 200:
        prefix.finish(seconds)
        durations.of(prefix)
    mean_s, spread_s = durations.of(prefix)
    assert mean_s == pytest.approx(2.0, abs=0.1)
    assert spread_s == pytest.approx(1.0, abs=0.2)


def test_scattered_results_teach_nothing():
    durations, prefix = Durations(), Prefix()
    prefix.state_counts["memory"] = 5
    assert (None, None) == durations.of(prefix)


def test_a_restarted_scheduler_counts_from_nothing():
    durations, prefix = Durations(), Prefix()
    prefix.finish(2.0, 2.0)
    durations.of(prefix)
    again = Prefix()
    again.finish(2.0)
    assert 2.0 == durations.of(again)[0]


def test_memory_is_bounded():
    durations = Durations()
    for i in range(3 * Durations.KEPT):
        durations.of(Prefix(f"p{i}"))
    assert Durations.KEPT == len(durations.known)


@given(st.lists(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=20), min_size=1, max_size=20))
def test_the_mean_lies_among_the_durations(batches: list[list[float]]):
    durations, prefix = Durations(), Prefix()
    for batch in batches:
        prefix.finish(*batch)
        mean_s, spread_s = durations.of(prefix)
        seen = [seconds for batch in batches for seconds in batch]
        assert mean_s is not None
        assert 0.99 * min(seen) <= mean_s <= 1.01 * max(seen)
        assert spread_s is None or spread_s >= 0
