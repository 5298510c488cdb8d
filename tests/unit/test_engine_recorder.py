"""The recorder that travels to the scheduler: what it writes down of the graphs that come."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from dask_adaptive.engine import recorder
from dask_adaptive.engine.recorder import Recorder


class World:
    """As much of a scheduler as the recorder sees."""

    def __init__(self) -> None:
        self.plugins: dict[str, Any] = {}
        self.handlers: dict[str, Any] = {}
        self.tasks: dict[str, Any] = {}

    def new_task(self, key: str) -> Any:
        group, prefix = SimpleNamespace(name=f"group of {key}"), SimpleNamespace(name="prefix")
        made = {"resource_restrictions": None, "dependencies": (), "run_spec": object(), "state": "released"}
        self.tasks[key] = SimpleNamespace(key=key, group=group, prefix=prefix, **made)
        return self.tasks[key]


@pytest.mark.parametrize("set_s", [-3600.0, 3600.0])
def test_times_are_what_has_passed_however_the_clock_was_set(set_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world, made = World(), Recorder(name="records")
    made.start(world)

    def come(key: str) -> None:
        world.new_task(key)
        made.update_graph(world, tasks=[key])

    come("first")
    monkeypatch.setattr(recorder, "time", lambda: time.time() + 60 + set_s, raising=False)
    monkeypatch.setattr(recorder, "monotonic", lambda: time.monotonic() + 60, raising=False)
    made.transition("first", "processing", "memory")
    come("second")
    first, second = made.recorded()
    assert [60, 60] == [round(first["ended_s"]), round(second["at_s"])]
