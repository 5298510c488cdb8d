"""What runs inside the Dask scheduler to record a run: which graphs came when, and what their tasks took.

This file travels to the scheduler as text, as ``plugin.py`` does. It looks at every task that ends, which costs the
scheduler some microseconds each, so it is there only while somebody records. What is kept grows with task groups.
"""
# ruff: noqa: ARG002  Dask decides on the arguments of hooks

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

__all__ = ["Recorder"]

SAMPLES = 256
"""Run times that are kept of each group, drawn evenly from all of them."""

TOGETHER_S = 0.1
"""Graphs that arrive so soon after one another count as one: a loop of ``client.submit`` is one submission."""


class Recorder(SchedulerPlugin):
    """Keeps graphs as rows of plain values: when they came, and their groups."""

    def __init__(self, **config: Any) -> None:
        self.name = config["name"]
        self.graphs: list[dict[str, Any]] = []
        self.places: dict[Any, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.last = float("-inf")
        self.random = random.Random(0)  # noqa: S311

    def start(self, scheduler: Any) -> None:
        """Begin to record."""
        earlier = scheduler.plugins.get(self.name)
        if earlier is not None:
            earlier.stop()
        self.scheduler = scheduler
        self.begun = monotonic()
        self.calls: dict[str, Callable[..., Any]] = {
            f"{self.name}-recorded": self.recorded,
            f"{self.name}-detach": self.detach,
        }
        scheduler.handlers.update(self.calls)

    def stop(self) -> None:
        """Take everything out again; idempotent."""
        for name, call in self.calls.items():
            if self.scheduler.handlers.get(name) == call:
                del self.scheduler.handlers[name]
        if self.scheduler.plugins.get(self.name) is self:
            del self.scheduler.plugins[self.name]

    async def close(self) -> None:
        """The scheduler ends."""
        self.stop()

    def recorded(self) -> list[dict[str, Any]]:
        """Call: the graphs until now, in the order in which they came."""
        return self.graphs

    def detach(self) -> bool:
        """Call: stop recording."""
        self.stop()
        return True

    # hooks

    def update_graph(self, scheduler: Any, *, tasks: Any, **kwargs: Any) -> None:
        fresh = [ts for key in tasks if key not in self.places and (ts := scheduler.tasks.get(key)) is not None]
        fresh = [ts for ts in fresh if ts.run_spec is not None and ts.state not in ("memory", "erred")]
        if not fresh:
            return
        now = monotonic() - self.begun
        if now - self.last > TOGETHER_S:
            self.graphs.append({"at_s": now, "ended_s": None, "open": 0, "groups": {}})
        self.last = now
        graph = self.graphs[-1]
        graph["open"] += len(fresh)
        for ts in fresh:
            self._put(graph, ts)

    def _put(self, graph: dict[str, Any], ts: Any) -> None:
        group = graph["groups"].get(ts.group.name)
        if group is None:
            need = {str(name): float(amount) for name, amount in (ts.resource_restrictions or {}).items()}
            row = {"prefix": ts.prefix.name, "tasks": 0, "need": need, "after": {}, "run_s": [], "done": 0, "nbytes": 0}
            group = graph["groups"][ts.group.name] = row
        group["tasks"] += 1
        for other in ts.dependencies:
            name = other.group.name
            if other.key in self.places and name != ts.group.name:
                group["after"][name] = group["after"].get(name, 0) + 1
        self.places[ts.key] = graph, group

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish not in ("memory", "erred", "forgotten") or key not in self.places:
            return
        graph, group = self.places.pop(key)
        graph["open"] -= 1
        if not graph["open"]:
            graph["ended_s"] = monotonic() - self.begun
        if finish != "memory":
            return
        took = [each["stop"] - each["start"] for each in kwargs.get("startstops") or () if each["action"] == "compute"]
        group["done"] += 1
        group["nbytes"] += int(kwargs.get("nbytes") or 0)
        if took and len(group["run_s"]) < SAMPLES:
            group["run_s"].append(took[-1])
        elif took and (place := self.random.randrange(group["done"])) < SAMPLES:
            group["run_s"][place] = took[-1]
