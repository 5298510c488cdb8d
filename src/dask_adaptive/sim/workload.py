"""Work for the simulator: graphs of tasks, when they are submitted, and how to read them from a WfFormat file.

A graph is a set of columns, one entry per task, and a task is its index: a million tasks stay small. Parents come
before their children, so a graph has no cycles by construction.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Need

__all__ = ["Graph", "GraphBuilder", "Release", "TaskGroup", "Workload", "read_wfformat"]

VERSIONS = ("1.4", "1.5", "1.6")


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Tasks of one name: what Dask calls a task group, with the prefix that its run times are learned by."""

    name: str
    prefix: str
    need: Need = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """What a client submits at once.

    Columns, one entry per task: ``group`` is the index of its group, ``run_s`` its run time in seconds, ``parents``
    the tasks whose results it takes (all of them earlier ones), ``nbytes`` the size of its result.
    """

    groups: tuple[TaskGroup, ...]
    group: Sequence[int]
    run_s: Sequence[float]
    parents: Sequence[Sequence[int]]
    nbytes: Sequence[int]

    def __len__(self) -> int:
        return len(self.run_s)

    @property
    def work_s(self) -> float:
        """Run time of all tasks, in seconds."""
        return math.fsum(self.run_s)

    @property
    def critical_s(self) -> float:
        """Run time along the longest path, in seconds: no number of workers is faster."""
        ends: list[float] = []
        for took_s, parents in zip(self.run_s, self.parents, strict=True):
            ends.append(took_s + max((ends[parent] for parent in parents), default=0.0))
        return max(ends, default=0.0)


@dataclass(frozen=True, slots=True)
class Release:
    """When a graph is submitted: ``wait_s`` seconds after the start of the workload.

    ``thinking``: after the end of the graph before it instead (somebody looks at a result, then asks for more).
    """

    wait_s: float = 0.0
    thinking: bool = False


@dataclass(frozen=True)
class Workload:
    """Graphs with their releases, in the order of submission. ``name`` tells it from others in a table."""

    name: str
    graphs: tuple[Graph, ...]
    releases: tuple[Release, ...] = ()

    def __post_init__(self) -> None:
        if not self.releases:
            object.__setattr__(self, "releases", tuple(Release() for _ in self.graphs))
        if len(self.releases) != len(self.graphs):
            raise ConfigError(f"{len(self.graphs)} graphs have {len(self.releases)} releases, not one each")
        if any(not (release.wait_s >= 0 and math.isfinite(release.wait_s)) for release in self.releases):
            raise ConfigError("a release waits for a number of seconds from 0 on")

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return sum(len(graph) for graph in self.graphs)

    @property
    def work_s(self) -> float:
        """Run time of all tasks, in seconds."""
        return math.fsum(graph.work_s for graph in self.graphs)


class GraphBuilder:
    """Puts a graph together, task by task, parents first."""

    def __init__(self) -> None:
        self._groups: dict[str, int] = {}
        self._made: list[TaskGroup] = []
        self._group: list[int] = []
        self._run_s: list[float] = []
        self._parents: list[tuple[int, ...]] = []
        self._nbytes: list[int] = []

    def add(
        self,
        name: str,
        run_s: float,
        parents: Iterable[int] = (),
        *,
        nbytes: int = 0,
        need: Need | None = None,
        prefix: str | None = None,
    ) -> int:
        """Add a task to the group ``name`` and return its index. ``prefix``: default the name of the group.

        Raises
        ------
        ConfigError
            If the run time is not a number of seconds from 0 on, or a parent was not added before.
        """
        index = len(self._run_s)
        if not (run_s >= 0 and math.isfinite(run_s)):
            raise ConfigError(f"task {index} of {name!r} has a run time of {run_s!r} s, not a number from 0 on")
        before = tuple(dict.fromkeys(parents))
        if any(not 0 <= parent < index for parent in before):
            raise ConfigError(f"task {index} of {name!r} has a parent that was not added before it")
        if name not in self._groups:
            self._groups[name] = len(self._made)
            self._made.append(TaskGroup(name, prefix or name, dict(need or {})))
        self._group.append(self._groups[name])
        self._run_s.append(float(run_s))
        self._parents.append(before)
        self._nbytes.append(int(nbytes))
        return index

    def graph(self) -> Graph:
        """The graph so far."""
        return Graph(tuple(self._made), self._group, self._run_s, self._parents, self._nbytes)


# --- WfFormat --------------------------------------------------------------------------------------------------


def read_wfformat(path: Path | str) -> Workload:
    """The workflow that a WfFormat file describes, as one graph.

    Task names become groups; the run time is that of the execution; the size of a result is the sum of the files that
    a task writes, where the file tells them. Source of the format: https://wfcommons.org/format, versions 1.4 to 1.6.

    Parameters
    ----------
    path:
        A ``.json`` file, or one that gzip has packed.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not WfFormat of these versions, has unknown parents, a cycle, or a run time
        that is missing or negative; in one sentence that begins with the name of the file.
    """
    path = Path(path)
    try:
        return Workload(_stem(path), (_graph_of(_document(path)),))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _document(path: Path) -> Mapping[str, Any]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        document = json.loads(data)
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise ConfigError(f"it is not a whole gzip file: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict) or "schemaVersion" not in document:
        raise ConfigError("it is not WfFormat: there is no schemaVersion")
    if document["schemaVersion"] not in VERSIONS:
        raise ConfigError(f"it is WfFormat {document['schemaVersion']}; understood are {', '.join(VERSIONS)}")
    return document


def _graph_of(document: Mapping[str, Any]) -> Graph:
    try:
        workflow = document["workflow"]
        specification = workflow["specification"]
        rows = {str(task["id"]): task for task in specification["tasks"]}
        if len(rows) != len(specification["tasks"]):
            raise ConfigError("two tasks have the same id")
        took = {str(task["id"]): task["runtimeInSeconds"] for task in workflow["execution"]["tasks"]}
        sizes = {str(file["id"]): int(file["sizeInBytes"]) for file in specification.get("files", ())}
        return _built(rows, took, sizes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"it is not WfFormat: {what}") from error


def _built(rows: Mapping[str, Any], took: Mapping[str, Any], sizes: Mapping[str, int]) -> Graph:
    parents = _parents(rows)
    builder = GraphBuilder()
    index: dict[str, int] = {}
    for key in _ordered(parents):
        task = rows[key]
        if key not in took:
            raise ConfigError(f"task {key!r} has no run time")
        run_s = took[key]
        if isinstance(run_s, bool) or not isinstance(run_s, int | float) or not 0 <= run_s < math.inf:
            raise ConfigError(f"task {key!r} has a run time of {run_s!r} s, not a number from 0 on")
        nbytes = sum(sizes.get(str(file), 0) for file in task.get("outputFiles", ()))
        index[key] = builder.add(str(task["name"]), run_s, [index[each] for each in parents[key]], nbytes=nbytes)
    return builder.graph()


def _parents(rows: Mapping[str, Any]) -> dict[str, list[str]]:
    """Parents by task, from either side: some writers fill only ``children``."""
    found: dict[str, list[str]] = {key: [] for key in rows}
    for key, task in rows.items():
        for parent in map(str, task.get("parents", ())):
            if parent not in rows:
                raise ConfigError(f"task {key!r} has the parent {parent!r}, which is not there")
            found[key].append(parent)
    for key, task in rows.items():
        for child in map(str, task.get("children", ())):
            if child not in rows:
                raise ConfigError(f"task {key!r} has the child {child!r}, which is not there")
            found[child].append(key)
    return {key: list(dict.fromkeys(parents)) for key, parents in found.items()}


def _ordered(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Parents first, otherwise as in the file (Kahn, Communications of the ACM 5(11), 1962)."""
    children: dict[str, list[str]] = {key: [] for key in parents}
    missing = {key: len(before) for key, before in parents.items()}
    for key, before in parents.items():
        for parent in before:
            children[parent].append(key)
    free = deque(key for key, count in missing.items() if not count)
    ordered = []
    while free:
        key = free.popleft()
        ordered.append(key)
        for child in children[key]:
            missing[child] -= 1
            if not missing[child]:
                free.append(child)
    if len(ordered) < len(parents):
        caught = min(key for key, count in missing.items() if count)
        raise ConfigError(f"its tasks form a cycle, which {caught!r} is in or behind")
    return ordered
