"""The main job on real input: the Python source files of this machine, measured in three bursts of work.

Each burst is a graph of stages: parts of packages are read, joined by package, and compared over all packages. Between
two bursts somebody thinks, and the cluster is given back.
"""

from __future__ import annotations

import csv
import os
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dask_adaptive.controller import clock
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import ALIVE
from dask_adaptive.show import census
from dask_adaptive.show.census import Facts, Source, Twin
from dask_adaptive.show.live import LiveView
from dask_adaptive.show.report import FORMATS, check_report, summary, write_report
from dask_adaptive.show.run import Setup, rounds_of, start_cluster
from dask_adaptive.show.timeline import timeline_of

__all__ = ["Finding", "analyse", "demo", "find_sources"]

PART = 12
"""Files that one task reads."""

LARGEST_BYTES = 400_000
"""Larger files are tables that somebody generated."""

_LEFT_OUT = {"__pycache__", "test", "tests"}

THINK_S = 1.5
"""How long the cluster stays empty between two bursts."""

EMPTY_S = 30.0
"""How long to wait until it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a package: its sizes, the words that set it apart, how many functions it shares with others."""

    package: str
    facts: Facts
    words: tuple[str, ...]
    shared: int


# --- what is read ----------------------------------------------------------------------------------------------


def find_sources(limit: int, roots: Sequence[Path] = ()) -> list[Source]:
    """At most ``limit`` source files: whole packages, the largest that fit, an equal share from each root.

    The roots are the standard library and the folder of installed packages when none are given.
    """
    paths = sysconfig.get_paths()
    roots = roots or [Path(paths["stdlib"]), Path(paths["purelib"])]
    chosen: list[Source] = []
    for number, root in enumerate(roots, 1):
        share = limit * number // len(roots)
        packages = _packages(root)
        for package in sorted(packages, key=lambda name: (-len(packages[name]), name)):
            if len(chosen) + len(packages[package]) <= share:
                chosen += packages[package]
    return sorted(chosen, key=lambda source: (source.package, source.path))


def _packages(root: Path) -> dict[str, list[Source]]:
    """The source files below a folder by package; a single module is a package of its own."""
    packages: dict[str, list[Source]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name not in _LEFT_OUT)
        below = Path(folder).relative_to(root).parts
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix == ".py" and path.stat().st_size <= LARGEST_BYTES:
                package = below[0] if below else path.stem
                packages.setdefault(package, []).append(Source(package, str(path)))
    return packages


# --- what is done with it --------------------------------------------------------------------------------------


def analyse(
    client: Any, sources: Sequence[Source], pause: Callable[[str], None] = lambda _burst: None
) -> tuple[list[Finding], list[Twin]]:
    """Three bursts of work on the cluster of this client; ``pause`` is called between them with what was found.

    Returns the findings, the largest package first, and the functions that occur in several packages.
    """
    parts = _parts(sources)
    facts: dict[str, Facts] = _burst(client, parts, census.facts_in, census.total, dict)
    sizes = census.total(facts.values())
    pause(f"{sizes.functions:,} functions in {sizes.lines:,} lines")
    words: dict[str, tuple[str, ...]] = _burst(client, parts, census.words_in, _sum, census.typical_words)
    pause(f"the words that set {len(words)} packages apart")
    twins: list[Twin] = _burst(client, parts, census.prints_in, census.joined, _twins)
    shared = Counter(package for twin in twins for package in twin.packages)
    findings = [Finding(package, facts[package], words[package], shared[package]) for package in parts]
    return sorted(findings, key=lambda finding: (-finding.facts.lines, finding.package)), twins


def _burst(
    client: Any,
    parts: Mapping[str, Sequence[Sequence[Source]]],
    read: Callable[[Sequence[Source]], Any],
    join: Callable[[Iterable[Any]], Any],
    compare: Callable[[dict[str, Any]], Any],
) -> Any:
    """One graph of three stages: read every part, join by package, compare the packages."""
    from dask import delayed

    by_package = {
        package: delayed(join, pure=False)([delayed(read, pure=False)(part) for part in some])
        for package, some in parts.items()
    }
    return client.compute(delayed(compare, pure=False)(by_package)).result()


def _parts(sources: Iterable[Source]) -> dict[str, list[list[Source]]]:
    packages: dict[str, list[Source]] = {}
    for source in sources:
        packages.setdefault(source.package, []).append(source)
    return {name: [files[i : i + PART] for i in range(0, len(files), PART)] for name, files in packages.items()}


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counters, Counter())


def _twins(prints: Mapping[str, Sequence[census.Print]]) -> list[Twin]:
    return census.twins_among(prints.values())


# --- what is left ----------------------------------------------------------------------------------------------


def demo(output: Path, *, files: int = 1200, maximum: int | None = None) -> None:
    """Run the demo and leave pictures, tables and journal in the folder ``output``."""
    check_report(output / "timeline.png")
    sources = find_sources(files)
    if not sources:
        raise ConfigError(f"no package of this Python has {files} files or fewer to read")
    output.mkdir(parents=True, exist_ok=True)
    journal = output / "journal.jsonl"
    started_s = clock()
    click.echo(f"Reading {len(sources):,} Python files of {len(_parts(sources)):,} packages, three times over.")
    setup = Setup(maximum=maximum, target_duration="1s")
    with start_cluster(setup, journal) as cluster, cluster.get_client() as client, LiveView(cluster):
        findings, twins = analyse(client, sources, lambda found: _think(cluster, found))
        _think(cluster, f"{len(twins):,} functions that occur in several packages")
        ended_s = clock()
    records = rounds_of(journal, started_s, ended_s)
    written = [write_report(records, output / f"timeline{form}", "dask adaptive demo") for form in FORMATS]
    written += [_write_findings(findings, output / "packages.csv"), _write_twins(twins, output / "twins.csv"), journal]
    for line in _table(findings[:12]):
        click.echo(line)
    click.echo(f"\n{summary(timeline_of(records).totals)}\nwritten: " + "\n         ".join(map(str, written)))


def _think(cluster: Any, found: str) -> None:
    """Look at what was found until the cluster has been given back, and a little longer."""
    click.echo(f"found {found}")
    sys.stdout.flush()
    deadline_s = time.monotonic() + EMPTY_S
    while _alive(cluster) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    time.sleep(THINK_S)


def _alive(cluster: Any) -> bool:
    lives = cluster.records[-1].snapshot.lives.values() if cluster.records else ()
    return any(life.phase in ALIVE for life in lives)


_COLUMNS: Mapping[str, Callable[[Finding], object]] = {
    "package": lambda one: one.package,
    "files": lambda one: one.facts.files,
    "lines": lambda one: one.facts.lines,
    "functions": lambda one: one.facts.functions,
    "classes": lambda one: one.facts.classes,
    "mean complexity": lambda one: f"{one.facts.mean_complexity:.2f}",
    "most complex function": lambda one: one.facts.worst[1],
    "its complexity": lambda one: one.facts.worst[0],
    "functions shared with other packages": lambda one: one.shared,
    "typical words": lambda one: " ".join(one.words),
    "files skipped": lambda one: one.facts.skipped,
}


def _write_findings(findings: Iterable[Finding], path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows([value(one) for value in _COLUMNS.values()] for one in findings)
    return path


def _write_twins(twins: Iterable[Twin], path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("nodes", "copies", "where"))
        writer.writerows((twin.nodes, len(twin.where), " ".join(twin.where)) for twin in twins)
    return path


def _table(findings: Iterable[Finding]) -> Iterator[str]:
    numbers = f"{'files':>6}{'lines':>9}{'functions':>11}{'complexity':>12}{'shared':>8}"
    yield f"\n{'package':<16}{numbers}  most complex function; typical words"
    for one in findings:
        worst, name = one.facts.worst
        yield (
            f"{one.package[:15]:<16}{one.facts.files:>6,}{one.facts.lines:>9,}{one.facts.functions:>11,}"
            f"{one.facts.mean_complexity:>12.2f}{one.shared:>8,}  {name} ({worst}); {', '.join(one.words)}"
        )
