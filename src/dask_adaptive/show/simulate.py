"""``dask adaptive simulate``: what work would take and cost under other policies, limits and resource managers."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.model import Record
from dask_adaptive.show.picture import Group
from dask_adaptive.show.report import MOST_BESIDE, check_report, check_writable, write_comparison
from dask_adaptive.show.timeline import timeline_of
from dask_adaptive.sim.recorded import is_recorded, read_recorded
from dask_adaptive.sim.shapes import SHAPES
from dask_adaptive.sim.site import Site
from dask_adaptive.sim.trial import POLICIES, Trial, site_named, trial
from dask_adaptive.sim.wfformat import read_wfformat
from dask_adaptive.sim.workload import Workload
from dask_adaptive.sim.world import Setting

__all__ = ["Question", "simulate", "table"]

MOST_ROWS = 12
"""Rows of a picture; more would need a larger wall."""

_TERMINAL = Path("-")

Rounds = dict[tuple[str, str, str], list[Record]]
"""What is drawn: the rounds of the first seed, by file, backend and policy."""


@dataclass(frozen=True)
class Question:
    """What to simulate: every workload on every backend under every policy, with each of ``seeds`` seeds.

    ``works``: WfFormat files, or names of built-in shapes. The others are as the options of the command.
    """

    works: tuple[str, ...]
    backends: tuple[str, ...] = ("local",)
    policies: tuple[str, ...] = ("cost-aware", "dask")
    time_value: float = 10.0
    maximum: int = 100
    seeds: int = 5
    linger_s: float = 0.0


def simulate(question: Question, *, json_path: Path | None = None, picture_path: Path | None = None) -> None:
    """Run it all, with a progress bar on a terminal; print the table; write every run to ``json_path``.

    ``-`` for ``json_path``: to standard output, and what is for people to standard error.
    ``picture_path`` gets the timelines of the first seed, the policies beside each other.

    Raises
    ------
    ConfigError
        If a file, backend or policy is not known, or a file cannot be written, or the picture would be too large.
    """
    if json_path is not None and json_path != _TERMINAL:
        check_writable(json_path, "the results")
    if picture_path is not None:
        check_report(picture_path)
        _check_rows(question)
    for policy in question.policies:
        if policy not in POLICIES:
            raise ConfigError(f"there is no policy {policy!r} to simulate; {nearest(policy, POLICIES)}")
    sites = [site_named(name) for name in question.backends]
    works = [_workloads(name, question.seeds) for name in question.works]
    count = len(works) * len(sites) * len(question.policies) * question.seeds
    rounds: Rounds | None = None if picture_path is None else {}
    trials = _shown(_trials(question, sites, works, rounds), count)
    beside = json_path == _TERMINAL  # what is for programs is alone on standard output
    click.echo("\n".join(table(trials)), err=beside)
    if json_path is not None:
        _write(trials, json_path)
    if picture_path is not None:
        write_comparison(_groups(rounds or {}), picture_path, "Simulated runs")
        click.echo(f"picture in {picture_path}", err=beside)


def _shown(trials: Iterable[Trial], count: int) -> list[Trial]:
    """All of them, with a progress bar where somebody sees it."""
    if not sys.stderr.isatty():
        return list(trials)
    with click.progressbar(trials, length=count, label="simulating", file=sys.stderr) as runs:
        return list(runs)


def _check_rows(question: Question) -> None:
    rows = len(question.works) * len(question.backends) * math.ceil(len(question.policies) / MOST_BESIDE)
    if rows > MOST_ROWS:
        raise ConfigError(
            f"a picture of {rows} rows is too large, {MOST_ROWS} are possible: name fewer files or backends"
        )


def _groups(rounds: Mapping[tuple[str, str, str], Sequence[Record]]) -> list[Group]:
    """A row for each file and backend, with at most ``MOST_BESIDE`` policies."""
    groups: list[Group] = []
    for work, backend in dict.fromkeys((work, backend) for work, backend, _ in rounds):
        runs = [(key[2], timeline_of(each)) for key, each in rounds.items() if key[:2] == (work, backend)]
        groups += [
            (f"{work} on {backend}", runs[first : first + MOST_BESIDE]) for first in range(0, len(runs), MOST_BESIDE)
        ]
    return groups


def _workloads(name: str, seeds: int) -> Sequence[Workload]:
    """The workload for each seed: a file is always the same, a shape is drawn anew."""
    if name in SHAPES and not Path(name).is_file():
        return [SHAPES[name](seed=seed) for seed in range(seeds)]
    if Path(name).is_dir():
        raise ConfigError(f"{name} is a folder; name the files in it")
    if not Path(name).is_file():
        raise ConfigError(f"there is no file {name!r}, and no shape of that name; {nearest(name, SHAPES)}")
    return [read_recorded(name) if is_recorded(name) else read_wfformat(name)] * seeds


def _trials(
    question: Question, sites: Sequence[Site], works: Sequence[Sequence[Workload]], rounds: Rounds | None
) -> Iterator[Trial]:
    """Every run, one after the other; the rounds of those with the first seed go into ``rounds``."""
    for (name, workloads), site, policy in product(zip(question.works, works, strict=True), sites, question.policies):
        setting = Setting(site, maximum=question.maximum, linger_s=question.linger_s)
        for seed, workload in enumerate(workloads):
            watch = None
            if rounds is not None and seed == 0:
                watch = rounds.setdefault((Path(name).name, site.name, policy), []).append
            yield trial(policy, workload, setting, time_value=question.time_value, seed=seed, on_record=watch)


def table(trials: Sequence[Trial]) -> list[str]:
    """Lines: per backend and policy the geometric mean and the worst of the score, and means of what it is made of."""
    head = ("backend", "policy", "score", "worst", "waiting s", "makespan s", "worker-s", "starts", "worst in")
    rows: list[tuple[str, ...]] = [head]
    for backend, policy in dict.fromkeys((each.backend, each.policy) for each in trials):
        mine = [each for each in trials if (each.backend, each.policy) == (backend, policy)]
        worst = max(mine, key=lambda each: each.score)
        mean = math.exp(statistics.fmean(math.log(each.score) for each in mine))
        rows.append(
            (
                backend,
                policy,
                f"{mean:.3f}",
                f"{worst.score:.3f}",
                f"{statistics.fmean(each.waited_s for each in mine):.1f}",
                f"{statistics.fmean(each.makespan_s for each in mine):.1f}",
                f"{statistics.fmean(each.billed_worker_seconds for each in mine):.0f}",
                f"{statistics.fmean(each.starts for each in mine):.1f}",
                worst.instance,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Words to the left, numbers to the right."""
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column in (0, 1, len(row) - 1) else cell.rjust(width)


def _write(trials: Sequence[Trial], path: Path) -> None:
    text = json.dumps([each.plain() for each in trials], indent=1)
    if path == _TERMINAL:
        click.echo(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the results cannot be written to {path}: {error.strerror or error}") from error
