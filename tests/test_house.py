"""The house rules: what is promised about the code, held by the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import dask_adaptive
from dask_adaptive import controller, errors, life, registry
from dask_adaptive.backend.contracts import Backend
from dask_adaptive.config import DEFAULTS
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.registry import example_arguments
from dask_adaptive.show.cli import adaptive

ROOT = Path(__file__).parent.parent
MODULES = sorted(each.name for each in pkgutil.walk_packages(dask_adaptive.__path__, "dask_adaptive."))
SCRIPTS = {
    "dask_adaptive.backend._leaving",
    "dask_adaptive.backend._nursery",
    "dask_adaptive.backend._remote",
    "dask_adaptive.backend._keeper",
    "dask_adaptive.show.run_script",
}
"""Run as programs of their own, imported by nobody."""

TEXTS = (".md", ".py", ".toml", ".cfg", ".yml", ".yaml", ".json", ".txt", ".svg", "")


def source(module: str) -> ast.Module:
    path = importlib.import_module(module).__file__
    assert path is not None
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def ours() -> Iterator[Path]:
    """Every text file of the project."""
    rooms = [ROOT / name for name in ("src", "tests", "docs", "benchmarks", "examples", ".ci")]
    files = [path for room in rooms for path in room.rglob("*") if "__pycache__" not in path.parts]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    yield from (path for path in files if path.is_file() and path.suffix in TEXTS)


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]


# --- names -----------------------------------------------------------------------------------------------------


@cache
def used_from(module: str) -> dict[str, set[str]]:
    """Which names this module takes from which module of ours."""
    used: dict[str, set[str]] = {}
    for node in ast.walk(source(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dask_adaptive"):
            used.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return used


@pytest.mark.parametrize("name", [name for name in ["dask_adaptive", *MODULES] if name not in SCRIPTS])
def test_all_is_complete_and_true(name: str) -> None:
    """``__all__`` names what is there, sorted, and everything that another module of ours takes from it."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert [] == [node for node in source(name).body if not isinstance(node, ast.Expr)], f"{name} has no __all__"
        return
    assert [] == [each for each in listed if not hasattr(module, each)]
    assert len(set(listed)) == len(listed)
    taken = {each for other in MODULES for each in used_from(other).get(name, ())}
    assert set() == {each for each in taken if f"{name}.{each}" not in MODULES} - set(listed)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_say_what_they_are(name: str) -> None:
    module = importlib.import_module(name)
    silent = [word for each in getattr(module, "__all__", ()) for word in silent_in(module, each)]
    assert inspect.getdoc(module), f"{name} does not say what it is for"
    assert [] == silent


def silent_in(module: ModuleType, name: str) -> Iterator[str]:
    """The public name, and its public methods, as far as they have no docstring."""
    found: Any = getattr(module, name)
    if getattr(found, "__module__", None) != module.__name__ or not (
        inspect.isclass(found) or inspect.isfunction(found)
    ):
        return
    if not inspect.getdoc(found) and getattr(found, "__name__", "") != "<lambda>":
        yield name
    for word, member in vars(found).items() if inspect.isclass(found) else ():
        plain = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        plain = plain.fget if isinstance(plain, property) else plain
        if word.startswith("_") or not inspect.isfunction(plain) or plain.__name__ == "<lambda>":
            continue
        if not inspect.getdoc(getattr(found, word)):
            yield f"{name}.{word}"


def test_the_drawn_tree_of_errors_is_the_tree_of_classes() -> None:
    drawn: set[tuple[str, str]] = set()
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"[\s│├└─]*?([A-Z][A-Za-z]+)(?=\s|$)", line)
        if not match or not line.startswith("    "):
            continue
        while stack and stack[-1][0] >= match.start(1):
            stack.pop()
        drawn.update({(stack[-1][1], match.group(1))} if stack else set())
        stack.append((match.start(1), match.group(1)))
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    real = {(base.__name__, kind.__name__) for kind in kinds for base in kind.__bases__ if base in kinds}
    assert real == drawn


def test_every_error_is_exported() -> None:
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert set() == kinds - set(dask_adaptive.__all__)


# --- entry points ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(registry.backends()))
def test_a_registered_backend_keeps_its_contract(name: str) -> None:
    backend = registry.load_backend(name)(**example_arguments(name))
    assert isinstance(backend, Backend)
    assert name == backend.name
    assert backend.lag_s >= 0
    assert backend.timeout_s > 0


@pytest.mark.parametrize("name", sorted(registry.policies()))
def test_a_registered_policy_keeps_its_contract(name: str) -> None:
    assert issubclass(registry.load_policy(name), Policy)


def test_every_other_entry_point_loads() -> None:
    points = [point for point in distribution("dask-adaptive").entry_points if not point.group.startswith("dask_adap")]
    assert {"dask_cli", "dask_cluster_discovery"} == {point.group for point in points}
    assert all(callable(point.load()) for point in points)


def test_the_installed_entry_points_are_those_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    said = set()
    for group, body in re.findall(r'^\[project\.entry-points\."?([\w.]+)"?\]\n((?:[^\[\n].*\n)*)', text, re.MULTILINE):
        said |= {(group, name, value) for name, value in re.findall(r'^([\w-]+) = "([^"]+)"', body, re.MULTILINE)}
    installed = {(point.group, point.name, point.value) for point in distribution("dask-adaptive").entry_points}
    assert said == installed, "install the project again: pip install --editable ."


# --- rooms -----------------------------------------------------------------------------------------------------


def test_layers_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    pytest.importorskip("importlinter")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_its_layer() -> None:
    """A module that no layer names could import anything."""
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("\n]")[0]
    named = set(re.findall(r"dask_adaptive[\w.]+", contract))
    packages = ("dask_adaptive.show",)
    free = [name for name in MODULES if not any(name == each or name.startswith(each + ".") for each in named)]
    assert [] == [name for name in free if name not in packages]


def test_private_names_of_distributed_are_in_the_plug_in_only() -> None:
    """``engine/inside/names.py`` lists them; elsewhere only those of the base class of our clusters."""
    private = re.compile(r"\b(?:scheduler|_scheduler|ws|ts|state)\._[a-z]\w+")
    found = {}
    for name in MODULES:
        inside = name.startswith("dask_adaptive.engine.inside")
        if not inside and name not in {"dask_adaptive.engine.plugin", "dask_adaptive.engine.dask_side"}:
            hits = private.findall(inspect.getsource(importlib.import_module(name)))
            found.update({name: hits} if hits else {})
    assert {} == found


# --- texts -----------------------------------------------------------------------------------------------------


def test_no_private_path_is_mentioned() -> None:
    private = re.compile("|".join(["/" + "work/", "/" + "home/(?!tester)[a-z]", "/" + "root/", "/" + "tmp/brief"]))
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in ours()
        if ROOT / "tests" / "recorded" not in path.parents  # what others' programs print, as they printed it
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if private.search(line)
    ]
    assert [] == hits


@cache
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text(encoding="utf-8"))
    assert [] == [
        f"{path}::{test}"
        for path, test in named
        if not (ROOT / path).is_file() or (test and test not in functions_in(ROOT / path))
    ]


@pytest.mark.parametrize("module", [controller, errors, life], ids=lambda module: module.__name__)
def test_the_drawings_of_the_design_are_those_of_the_code(module: ModuleType) -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    drawing = re.findall(r"(?:^    .+\n)+", module.__doc__ or "", re.MULTILINE)[0]
    assert drawing.replace("``", "") in page


def test_every_room_is_in_the_design() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("## Rooms")[1].split("\n## ")[0]
    top = [path for path in (ROOT / "src" / "dask_adaptive").iterdir() if path.suffix == ".py" or path.is_dir()]
    rooms = {path.name + ("/" if path.is_dir() else "") for path in top if path.name != "__pycache__"}
    assert set() == {room for room in rooms if room not in page}


def test_every_weakness_has_a_test_or_a_reason() -> None:
    """The table of the 56: a row names tests, those called after a row only in that row, or says why there is none."""
    page = (ROOT / "docs" / "weaknesses.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]* \| (.+) \|$", page, re.MULTILINE)
    assert list(range(1, 57)) == [int(number) for number, _ in rows]
    for number, answer in rows:
        strangers = [row for row in re.findall(r"::test_row_(\d+)_", answer) if int(row) != int(number)]
        assert [] == strangers
        assert "tests/" in answer or len(answer.split()) > 5, f"row {number} has neither a test nor a reason"


def test_every_word_of_the_makefile_is_explained() -> None:
    words = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    explained = re.findall(r"`make ([\w-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert words == set(explained)


def test_the_configuration_page_is_true() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `adaptive\.([\w-]+)` \| `([^`]*)` \|", page, re.MULTILINE))
    assert {key: "null" if value is None else str(value) for key, value in DEFAULTS.items()} == rows


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert isinstance(adaptive, click.Group)
    assert set(adaptive.commands) == set(re.findall(r"^## `dask adaptive (\w+)", page, re.MULTILINE))


@pytest.mark.parametrize("group", ["backends", "policies"])
def test_every_registered_name_has_its_section(group: str) -> None:
    page = (ROOT / "docs" / f"{group}.md").read_text(encoding="utf-8")
    known = registry.backends() if group == "backends" else registry.policies()
    assert set() == set(known) - set(re.findall(r"^### `([\w-]+)`", page, re.MULTILINE))


# --- real systems ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("required", "outcome"), [(None, "1 skipped"), ("0", "1 skipped"), ("1", "1 error")])
def test_a_missing_system_fails_where_it_is_required(
    required: str | None, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = system(name): real\n", encoding="utf-8")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.system('abacus')\ndef test_it(): pass\n", encoding="utf-8"
    )
    monkeypatch.delenv("DASK_ADAPTIVE_REQUIRE_SYSTEMS", raising=False)
    if required is not None:
        monkeypatch.setenv("DASK_ADAPTIVE_REQUIRE_SYSTEMS", required)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c"]
    command = [sys.executable, "-m", "pytest", "-ra", *options, str(tmp_path / "pytest.ini"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome in done.stdout
    assert "system 'abacus' is not installed" in done.stdout
