"""What is compared: applications and the rule that halves them, resource managers, time values, policies with knobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from dask_adaptive.errors import ConfigError
from dask_adaptive.policy.classic import Doubling, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.sim.rivals import Dask, Dask2017, Parsl, Ray, Spark
from dask_adaptive.sim.shapes import SHAPES
from dask_adaptive.sim.trial import POLICIES, WAIT_S
from dask_adaptive.sim.wfformat import read_wfformat
from dask_adaptive.sim.workload import Graph, Release, Workload

__all__ = [
    "BACKENDS",
    "CERTAIN",
    "FULL",
    "INSTANT",
    "KNOBS",
    "MAXIMUM",
    "OURS",
    "PRICED",
    "QUICK",
    "THINK_S",
    "TIME_VALUES",
    "Instance",
    "Size",
    "built_in",
    "checksum",
    "halves",
    "in_folder",
    "policy_named",
    "scaled",
    "sessions",
]

BACKENDS = ("local", "pods", "cloud", "queue")
"""Resource managers that are compared on."""

CERTAIN = ("local", "pods", "cloud")
"""Resource managers whose starts always take the same time."""

INSTANT = "0"
"""A resource manager whose jobs serve at once."""

TIME_VALUES = (1.0, 10.0, 100.0)
"""Worker-seconds that one second of waiting is worth."""

THINK_S = (10.0, 60.0, 300.0, 1800.0)
"""Seconds between the end of a graph of a session and the next one."""

MAXIMUM = 100
"""Workers that everybody may have."""

OURS = "cost-aware"

PRICED = (OURS, "oracle")
"""Policies that are told what a second of waiting is worth; the others do the same whatever it is."""

KNOBS: Mapping[str, Mapping[str, Callable[[], Policy]]] = {
    "dask": {
        f"target_duration {target_s:g} s, wait_count {rounds}": lambda t=target_s, r=rounds: Dask(t, r)
        for target_s, rounds in ((5, 3), (1, 3), (20, 3), (60, 3), (1, 30), (5, 30), (20, 30))
    },
    "dask-2017": {f"startup_cost {cost_s:g} s": lambda c=cost_s: Dask2017(c) for cost_s in (1, 0.2, 5, 20)},
    "spark": {f"executorIdleTimeout {idle_s:g} s": lambda i=idle_s: Spark(i) for idle_s in (60, 3, 15)},
    "ray": {f"idle timeout {idle_s:g} s": lambda i=idle_s: Ray(i) for idle_s in (300, 5, 30)},
    "parsl": {
        f"parallelism {part:g}, max_idletime {idle_s:g} s": lambda p=part, i=idle_s: Parsl(p, i)
        for part, idle_s in ((1, 120), (1, 10), (0.5, 120), (0.5, 10), (0.25, 10))
    },
    "target-duration": {
        f"target_duration {target_s:g} s": lambda t=target_s: standard(TargetDuration(t), WAIT_S)
        for target_s in (4, 1, 20, 60)
    },
    "doubling": {"": lambda: standard(Doubling(), WAIT_S)},
}
"""Rivals, and what ours were before: each with its knob; the first one is the default."""


def policy_named(name: str, knob: str, time_value: float, workload: Workload) -> Policy:
    """One of ``PRICED`` or ``KNOBS``; no knob is the default."""
    make = POLICIES[name]
    if name in PRICED and make is not None:
        return make(time_value, workload)
    knobs = KNOBS[name]
    return knobs[knob or next(iter(knobs))]()


# --- applications ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """One piece of work: ``source`` is a built-in shape or a WfFormat file.

    ``scale``: all times are so many times as long. ``think_s``: of a session; those of the same application are told
    apart by it.
    """

    application: str
    name: str
    source: str
    scale: float = 1.0
    think_s: float | None = None

    @property
    def drawn(self) -> bool:
        """Whether it is drawn anew for each seed, as a shape is; a file stays as it is."""
        return self.source in SHAPES

    def workload(self, seed: int) -> Workload:
        """What there is to do."""
        if not self.drawn:
            return replace(_read(self.source), name=self.name)
        options = {} if self.think_s is None else {"think_s": self.think_s}
        return replace(scaled(SHAPES[self.source](seed=seed, **options), self.scale), name=self.name)


@lru_cache(maxsize=4)
def _read(path: str) -> Workload:
    return read_wfformat(path)


def scaled(workload: Workload, scale: float) -> Workload:
    """The same work in which everything takes ``scale`` times as long, pauses too."""
    graphs = [
        Graph(graph.groups, graph.group, [scale * run_s for run_s in graph.run_s], graph.parents, graph.nbytes)
        for graph in workload.graphs
    ]
    releases = [Release(scale * release.wait_s, release.thinking) for release in workload.releases]
    return Workload(workload.name, tuple(graphs), tuple(releases))


def halves(applications: Iterable[str]) -> tuple[list[str], list[str]]:
    """The rule: sorted by name, the first, third, fifth ... are tuned on; the others are reported, never tuned on."""
    names = sorted(set(applications))
    return names[::2], names[1::2]


def built_in(scales: Sequence[float]) -> list[Instance]:
    """The built-in shapes, each as it is and with everything longer. Sessions have a table of their own."""
    return [
        Instance(name, name if scale == 1 else f"{name} x{scale:g}", name, scale)
        for name in SHAPES
        if name != "session"
        for scale in scales
    ]


def sessions() -> list[Instance]:
    """Somebody at a notebook, who thinks for a shorter or longer while."""
    return [Instance("session", f"session-{think_s:g}", "session", think_s=think_s) for think_s in THINK_S]


def in_folder(folder: Path) -> list[Instance]:
    """The WfFormat files in a folder and below. An application is the name of a file up to its first hyphen.

    Raises
    ------
    ConfigError
        If there is none.
    """
    files = sorted(path for ending in ("*.json", "*.json.gz") for path in folder.rglob(ending))
    if not files:
        raise ConfigError(f"there is no .json or .json.gz file in {str(folder)!r}")
    stems = [path.name.removesuffix(".gz").removesuffix(".json") for path in files]
    return [Instance(stem.partition("-")[0], stem, str(path)) for stem, path in zip(stems, files, strict=True)]


def checksum(path: Path) -> str:
    """The beginning of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# --- size ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How much is run. ``knobs``: rivals are also run at the knob that is best on the tuning half."""

    name: str
    seeds: int
    scales: tuple[float, ...]
    knobs: bool


FULL = Size("full", seeds=5, scales=(1.0, 8.0), knobs=True)
QUICK = Size("quick", seeds=1, scales=(1.0,), knobs=False)
"""A few minutes instead of an hour."""
