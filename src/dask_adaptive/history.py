"""What earlier runs taught, in one small private file: mean run times by prefix, start-up latencies by kind of pool.

    $XDG_STATE_HOME/dask-adaptive/history.json      0600; at most 512 prefixes and 64 pools, the latest ones

It is written when a cluster closes and read when one starts, off the event loop. What cannot be read teaches nothing,
and what cannot be written is forgotten: a cluster never fails because of it. ``adaptive.history: false`` turns it off.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dask_adaptive.config import setting, state_home
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Past, Record, Startup
from dask_adaptive.policy.cost_aware import kinds_in

__all__ = ["History", "Run", "history_path", "keep", "recall", "taught"]

MOST_PREFIXES, MOST_POOLS, MOST_SAMPLES = 512, 64, 32
MOST_BYTES = 1_000_000
"""A larger file is not ours."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class History:
    """Mean run times in seconds by prefix, and start-ups by kind of pool, the latest last."""

    durations: Mapping[str, float] = field(default_factory=dict)
    startups: Mapping[str, Startup] = field(default_factory=dict)


class Run(Protocol):
    """A run so far, as a controller has it: its last round, and what its policy remembers."""

    record: Record | None
    past: Past


def taught(run: Run | None, kind: Callable[[str], str]) -> History:
    """What a run teaches later ones; ``kind``: what start-ups of a pool are remembered by."""
    if run is None or run.record is None:
        return History()
    return History(kinds_in(run.past), {kind(name): each.startup for name, each in run.record.snapshot.pools.items()})


def history_path() -> Path | None:
    """Where it is kept; None where somebody does not want it.

    Raises
    ------
    ConfigError
        If ``adaptive.history`` is neither true, false nor a path.
    """
    said = setting("history")
    if isinstance(said, str) and said.lower() in ("true", "false"):  # as the environment writes it
        said = said.lower() == "true"
    if isinstance(said, bool):
        return state_home() / "history.json" if said else None
    if not isinstance(said, str) or not said:
        raise ConfigError(f"adaptive.history must be true, false or a path, not {said!r}")
    return Path(said).expanduser()


def recall(path: Path | None) -> History:
    """What is there; nothing where there is no file, or none that can be understood. Never raises."""
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        if path is not None and path.stat().st_size <= MOST_BYTES:
            found = json.loads(path.read_text(encoding="utf-8"))
            durations = {str(name): float(mean_s) for name, mean_s in found["durations"].items()}
            startups = {str(name): _startup(samples) for name, samples in found["startups"].items()}
            return History({name: mean_s for name, mean_s in durations.items() if 0 < mean_s < math.inf}, startups)
    return History()


def keep(path: Path | None, history: History) -> None:
    """Add it to what is there, in one step. Never raises."""
    if path is None or not (history.durations or history.startups):
        return
    before = recall(path)
    startups = {name: each for name, each in history.startups.items() if each.start_s}
    text = json.dumps(
        {
            "durations": _latest(before.durations, history.durations, MOST_PREFIXES),
            "startups": {
                name: {"queue_s": each.queue_s[-MOST_SAMPLES:], "start_s": each.start_s[-MOST_SAMPLES:]}
                for name, each in _latest(before.startups, startups, MOST_POOLS).items()
            },
        }
    )
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=path.parent, prefix=".history")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(made).replace(path)
        finally:
            Path(made).unlink(missing_ok=True)


def _latest(before: Mapping[str, T], now: Mapping[str, T], most: int) -> dict[str, T]:
    old = {name: value for name, value in before.items() if name not in now}
    return dict(list({**old, **now}.items())[-most:])


def _startup(samples: Mapping[str, Any]) -> Startup:
    return Startup(_seconds(samples["queue_s"]), _seconds(samples["start_s"]))


def _seconds(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values if 0 <= float(value) < math.inf)[-MOST_SAMPLES:]
