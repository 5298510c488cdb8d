"""Runs that were recorded (``cluster.record``, ``dask adaptive record``), as work for the simulator.

A recording knows groups: how many tasks each has, run times drawn from them, and how many results of each other group a
task takes. Which task takes which result is not in it; neighbours are taken, as most collections do.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.recording import FORMAT
from dask_adaptive.sim.workload import LONGEST_S, Graph, GraphBuilder, Release, Workload

__all__ = ["is_recorded", "read_recorded"]


def is_recorded(path: Path | str) -> bool:
    """Whether this file, by its first words, is a recording and not of another format."""
    try:
        with Path(path).open("rb") as file:
            return b'"format": "dask-adaptive run' in file.read(100)
    except OSError:  # whoever reads it says so
        return False


def read_recorded(path: Path | str) -> Workload:
    """The work of a recorded run.

    A graph that came after the one before had ended is released as much later again: somebody looked at a result. One
    that came earlier is released at its time.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no recording; in one sentence that begins with its name.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ConfigError(f"{path}: is no recorded run (its format is not {FORMAT!r})")
    try:
        return _workload(path.stem, document["graphs"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"{path}: is no recorded run: {error!r}") from error


def _workload(name: str, rows: Sequence[Mapping[str, Any]]) -> Workload:
    graphs: list[Graph] = []
    releases: list[Release] = []
    ended_s: float | None = None
    for number, row in enumerate(rows):
        graph = _graph(row["groups"], number)
        if not len(graph):
            continue
        at_s = float(row["at_s"])
        thinking = bool(graphs) and ended_s is not None and at_s >= ended_s
        start_s = ended_s if thinking and ended_s is not None else float(rows[0]["at_s"])
        if at_s - start_s > LONGEST_S:
            raise ConfigError(f"a graph comes {at_s - start_s:g} s, more than ten years, after the one before")
        releases.append(Release(at_s - start_s, thinking))
        graphs.append(graph)
        ended_s = row["ended_s"]
    if not graphs:
        raise ValueError("no task ran")
    return Workload(name, tuple(graphs), tuple(releases))


def _graph(groups: Mapping[str, Mapping[str, Any]], number: int) -> Graph:
    build, made = GraphBuilder(), dict[str, list[int]]()
    for name in _sorted(groups):
        row = groups[name]
        tasks, times = int(row["tasks"]), [float(each) for each in row["run_s"]]
        if not times:  # none of them ended while it was recorded
            continue
        if max(times) > LONGEST_S:
            raise ConfigError(f"a task of {name!r} has a run time of {max(times):g} s, more than ten years")
        rng = random.Random(f"{number} {name}")  # noqa: S311
        drawn = [times[i % len(times)] for i in range(tasks)]
        rng.shuffle(drawn)
        nbytes = int(row["nbytes"]) // max(1, int(row["done"]))
        before = {other: count / tasks for other, count in row["after"].items() if other in made}
        made[name] = [
            build.add(
                name,
                drawn[i],
                [parent for other, each in before.items() for parent in _neighbours(made[other], i / tasks, each)],
                nbytes=nbytes,
                need={str(resource): float(amount) for resource, amount in row["need"].items()},
                prefix=row["prefix"],
            )
            for i in range(tasks)
        ]
    return build.graph()


def _neighbours(tasks: Sequence[int], place: float, each: float) -> Sequence[int]:
    """``each`` of these tasks, those around this place in the row."""
    count = min(len(tasks), max(1, math.ceil(each)))
    first = min(int(place * len(tasks)), len(tasks) - count)
    return tasks[first : first + count]


def _sorted(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every group after those that it takes results of; groups that wait for one another stay as they came."""
    found: dict[str, None] = {}
    while len(found) < len(groups):
        left = [name for name in groups if name not in found]
        ready = [name for name in left if all(o in found or o not in groups for o in groups[name]["after"])]
        found |= dict.fromkeys(ready or left[:1])
    return list(found)
