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

from dask_adaptive.engine import inside
from dask_adaptive.engine.inside.names import NAMES
from dask_adaptive.engine.inside.timing import Durations
from dask_adaptive.engine.parcel import FILES, parcel, source_of
from dask_adaptive.model import WORKER_NAME

SOURCES = {name: source_of(name) for name in (*FILES["Inside"], *FILES["Recorder"], "loader")}
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
    sent = parcel("Inside", CONFIG)
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


def test_the_parcel_becomes_a_plug_in_of_which_nothing_can_be_imported():
    before = set(sys.modules)
    made = pickle.loads(parcel("Inside", CONFIG))
    assert "dask-adaptive-test" == made.name
    assert before == set(sys.modules)


def test_two_plug_ins_share_nothing():
    one, two = (pickle.loads(parcel("Inside", CONFIG)) for _ in range(2))
    assert type(one) is not type(two)
    assert type(one.roster) is not type(two.roster)


def test_nothing_is_left_of_a_plug_in_that_cannot_be_made():
    before = set(sys.modules)
    with pytest.raises(KeyError, match="pattern"):
        pickle.loads(parcel("Inside", {"name": "n", "everything": False}))
    assert before == set(sys.modules)


def test_every_part_of_the_plug_in_travels():
    folder = Path(inside.__file__).parent
    parts = {f"inside.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"}
    assert {*parts, "plugin"} == set(FILES["Inside"])


@pytest.mark.parametrize("name", SOURCES)
def test_what_travels_needs_only_what_every_scheduler_has(name: str):
    tree = ast.parse(SOURCES[name], feature_version=(3, 10))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots.add(str(node.module).partition(".")[0])
    assert roots - set(sys.stdlib_module_names) <= {"distributed", "tornado"}


def test_every_name_that_is_used_is_probed():
    for name in FILES["Inside"]:
        tree = ast.parse(SOURCES[name])
        own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_self(node)}
        private = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        }
        assert private - own <= {each for _, each, _ in NAMES}


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
