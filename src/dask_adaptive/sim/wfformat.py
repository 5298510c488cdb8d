"""Workflows of others: reads WfFormat, the exchange format of WfCommons, versions 1.4 to 1.6.

Source: the README and the schema of https://github.com/wfcommons/WfFormat. From 1.5 on the structure is in
``workflow.specification`` and the run times in ``workflow.execution``, and tasks refer to each other by id; in 1.4 all
is in ``workflow.tasks``, and they refer to each other by name (some writers: by id).
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_adaptive.errors import ConfigError
from dask_adaptive.sim.workload import LONGEST_S, Graph, GraphBuilder, Workload

__all__ = ["read_wfformat"]

VERSIONS = ("1.4", "1.5", "1.6")

_NUMBER = re.compile(r"_(?:ID\d+|\d{5,})$")
"""What tells tasks of one kind apart in their names: ``blastall_ID0000012``."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One task of a file, in the words of any version."""

    key: str
    kind: str
    run_s: Any
    nbytes: int
    parents: Sequence[str]
    children: Sequence[str]


def read_wfformat(path: Path | str) -> Workload:
    """The workflow that a WfFormat file describes, as one graph.

    Tasks whose names differ in a trailing number only are a group; the run time is that of the execution; the size of
    a result is the sum of the files that a task writes, where the file tells them.

    Parameters
    ----------
    path:
        A ``.json`` file, or one that gzip has packed.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not WfFormat of these versions, has unknown parents, a cycle, or a run time
        that is missing, negative or above ten years; in one sentence that begins with the name of the file.
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
        rows = list(_rows_14(workflow) if document["schemaVersion"] == "1.4" else _rows_15(workflow))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"it is not WfFormat: {what}") from error
    known = {row.key: row for row in rows}
    if len(known) < len(rows):
        raise ConfigError("two tasks have the same name or id")
    return _built(known)


def _rows_14(workflow: Mapping[str, Any]) -> Iterable[_Row]:
    names = {str(task["name"]) for task in workflow["tasks"]}
    named = {str(task.get("id")): str(task["name"]) for task in workflow["tasks"]}
    for task in workflow["tasks"]:
        name = str(task["name"])
        parents, children = (
            [each if each in names else named.get(each, each) for each in side] for side in _related(task)
        )
        written = sum(_size(file) for file in task.get("files", ()) if file["link"] == "output")
        kind = str(task.get("category") or _NUMBER.sub("", name))
        yield _Row(name, kind, task.get("runtimeInSeconds"), written, parents, children)


def _rows_15(workflow: Mapping[str, Any]) -> Iterable[_Row]:
    specification = workflow["specification"]
    took = {str(task["id"]): task["runtimeInSeconds"] for task in workflow["execution"]["tasks"]}
    sizes = {str(file["id"]): _size(file) for file in specification.get("files", ())}
    for task in specification["tasks"]:
        key = str(task["id"])
        written = sum(sizes.get(str(file), 0) for file in _list(task, "outputFiles"))
        yield _Row(key, _NUMBER.sub("", str(task["name"])), took.get(key), written, *_related(task))


def _related(task: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    return [str(each) for each in _list(task, "parents")], [str(each) for each in _list(task, "children")]


def _list(task: Mapping[str, Any], key: str) -> list[Any]:
    """Refuses a string, of which every letter would be an element."""
    found = task.get(key, [])
    if not isinstance(found, list):
        raise TypeError(f"{key} of task {task['name']!r} is {found!r}, not a list")
    return found


def _size(file: Mapping[str, Any]) -> int:
    size = file["sizeInBytes"]
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < math.inf:
        raise ValueError(f"a file has a size of {size!r} bytes, not a number from 0 on")
    return int(size)


def _built(rows: Mapping[str, _Row]) -> Graph:
    parents = _parents(rows)
    builder = GraphBuilder()
    index: dict[str, int] = {}
    for key in _ordered(parents):
        row = rows[key]
        if row.run_s is None:
            raise ConfigError(f"task {key!r} has no run time")
        if isinstance(row.run_s, bool) or not isinstance(row.run_s, int | float) or not 0 <= row.run_s < math.inf:
            raise ConfigError(f"task {key!r} has a run time of {row.run_s!r} s, not a number from 0 on")
        if row.run_s > LONGEST_S:
            raise ConfigError(f"task {key!r} has a run time of {row.run_s!r} s, more than ten years")
        index[key] = builder.add(row.kind, row.run_s, [index[each] for each in parents[key]], nbytes=row.nbytes)
    return builder.graph()


def _parents(rows: Mapping[str, _Row]) -> dict[str, list[str]]:
    """Parents by task, from either side: some writers fill only ``children``."""
    found: dict[str, list[str]] = {key: [] for key in rows}
    for key, row in rows.items():
        for parent in row.parents:
            if parent not in rows:
                raise ConfigError(f"task {key!r} has the parent {parent!r}, which is not there")
            found[key].append(parent)
        for child in row.children:
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
