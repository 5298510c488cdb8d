"""What tasks need; while none of them needs anything there is no transition hook."""
# ruff: noqa: ARG002  Dask decides on the arguments of hooks

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

__all__ = ["ANNOTATED", "PLAIN", "Kind", "Needs"]

ANNOTATED = ("resources", "workers", "restrictions", "allow_other_workers", "loose_restrictions")

Kind = tuple[tuple[tuple[str, float], ...], bool]
"""What a task takes on a worker, and whether only named workers or hosts may run it."""

PLAIN: Kind = ((), False)


class Needs(SchedulerPlugin):
    """Counts the tasks that need resources or are pinned to workers; a plug-in only while there are any."""

    def __init__(self, scheduler: Any, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.known: dict[Any, tuple[str, Kind, str]] = {}
        self.groups: dict[str, dict[Kind, Counter[str]]] = {}

    def attach(self) -> None:
        """Read every task once; only when we come to a living scheduler."""
        for ts in self.scheduler.tasks.values():
            if ts.resource_restrictions or ts.worker_restrictions or ts.host_restrictions:
                self.add(ts)

    def update(self, annotations: Mapping[str, Mapping[Any, Any]]) -> None:
        """Take in the annotated tasks of a new graph."""
        for annotation in ANNOTATED:
            for key in annotations.get(annotation, ()):
                ts = self.scheduler.tasks.get(key)
                if ts is not None:
                    self.add(ts)

    def add(self, ts: Any) -> None:
        """Count a task, if it needs anything."""
        kind = kind_of(ts)
        known = self.known.get(ts.key)
        if known is not None and known[1] != kind:
            self._remove(ts.key)
            known = None
        if known is None and kind != PLAIN:
            group = str(ts.group.name)
            self.known[ts.key] = (group, kind, ts.state)
            self.groups.setdefault(group, {}).setdefault(kind, Counter())[ts.state] += 1
        self._register()

    def _remove(self, key: Any) -> None:
        group, kind, state = self.known.pop(key)
        kinds = self.groups[group]
        kinds[kind][state] -= 1
        if not any(kinds[kind].values()):
            del kinds[kind]
            if not kinds:
                del self.groups[group]

    def _register(self) -> None:
        if self.known:
            self.scheduler.plugins[self.name] = self
        else:
            self.detach()

    def detach(self) -> None:
        """Hear of no task any more."""
        if self.scheduler.plugins.get(self.name) is self:
            del self.scheduler.plugins[self.name]

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        known = self.known.get(key)
        if known is None:
            return
        if finish == "forgotten":
            self._remove(key)
            self._register()
            return
        group, kind, state = known
        counts = self.groups[group][kind]
        counts[state] -= 1
        counts[finish] += 1
        self.known[key] = (group, kind, finish)

    def restart(self, scheduler: Any) -> None:
        self.known.clear()
        self.groups.clear()
        self.detach()

    def kind(self, ts: Any) -> Kind:
        """What a task needs, as it was counted."""
        known = self.known.get(ts.key) if self.known else None
        return PLAIN if known is None else known[1]


def kind_of(ts: Any) -> Kind:
    """What a task takes on a worker, and whether only named workers or hosts may run it."""
    need = tuple(sorted((str(name), float(amount)) for name, amount in (ts.resource_restrictions or {}).items()))
    pinned = bool(ts.worker_restrictions or ts.host_restrictions) and not ts.loose_restrictions
    return need, pinned
