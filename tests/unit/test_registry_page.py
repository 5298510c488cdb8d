"""``docs/registry.md`` is true: what is installed has a row, and what has a row is there."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dask_adaptive import registry
from dask_adaptive.description import read

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
SITES = sorted((ROOT / "examples" / "sites").iterdir())


def rows(section: str) -> dict[str, list[str]]:
    """The cells after the first one, by the first."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| `.*$", text, re.MULTILINE)
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else ""


@pytest.mark.parametrize("section", ["Backends", "Policies"])
def test_what_is_installed_has_a_row_with_its_package(section: str) -> None:
    installed = registry.backends() if section == "Backends" else registry.policies()
    listed = rows(section)
    assert {name: package_of(point) for name, point in installed.items()} == {
        name: cells[-1] for name, cells in listed.items() if name in installed
    }


@pytest.mark.parametrize("section", ["Backends", "Policies"])
def test_what_has_a_row_as_ours_is_ours_and_the_others_say_where_they_are(section: str) -> None:
    """A package of somebody else need not be installed here; then its row says where it is, or it is an example."""
    installed = registry.backends() if section == "Backends" else registry.policies()
    for name, (about, package) in rows(section).items():
        assert about, name
        if package == "dask-adaptive":
            assert name in installed
        elif name not in installed:
            path = re.search(r"`(examples/[\w/-]+)`", package)
            assert (path is not None and (ROOT / path.group(1)).is_dir()) or "](https://" in package, package


def test_every_recipe_has_a_row_and_a_meaning() -> None:
    assert {str(path.relative_to(ROOT)) for path in SITES} == set(rows("Site recipes"))


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_a_recipe_describes_a_cluster(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_adaptive.alerts.shutil.which", lambda program: f"/bin/{program}")  # mailers and loggers
    found = read(path)
    assert found.sizes
    assert all(limits.maximum for limits in found.sizes.values())
