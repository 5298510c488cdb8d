"""Work for the simulator: graphs of tasks, and when they are submitted.

A graph is a set of columns, one entry per task, and a task is its index: a million tasks stay small. Parents come
before their children, so a graph has no cycles by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Need

__all__ = ["LONGEST_S", "Graph", "GraphBuilder", "Release", "TaskGroup", "Workload"]


LONGEST_S = 10 * 365 * 86_400.0
"""Ten years: what takes longer is a mistake, and would be simulated without end."""


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
