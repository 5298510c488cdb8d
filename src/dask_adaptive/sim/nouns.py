"""The nouns of the made-up scheduler: what tasks cost, task groups, workers."""

from __future__ import annotations

from dataclasses import dataclass

from dask_adaptive.model import Need, Shape

__all__ = ["Costs", "Crowd", "Prefix", "Worker"]


@dataclass(frozen=True, slots=True)
class Costs:
    """What a task costs beside its run time, and how tasks are spread.

    ``saturation``: ``distributed.scheduler.worker-saturation``. ``bytes_per_s`` and ``latency_s``: of fetching inputs
    from other workers. ``each_s``: seconds that the scheduler is busy for one task: it starts at most one every so
    many seconds.
    """

    saturation: float = 1.1
    bytes_per_s: float = 1e9
    latency_s: float = 0.002
    each_s: float = 0.0002


class Prefix:
    """What the scheduler learned of tasks of one prefix; in the names of Dask, which ``Durations`` reads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state_counts = {"memory": 0}
        self.all_durations = {"compute": 0.0}
        self.duration_average = -1.0


class Crowd:
    """A task group as it is now: how many of its tasks are in which state."""

    __slots__ = ("after", "done", "held_bytes", "kind", "name", "need", "prefix", "ready", "running", "size", "waiting")

    def __init__(self, name: str, prefix: Prefix, need: Need) -> None:
        self.name, self.prefix, self.need = name, prefix, need
        self.kind = tuple(sorted(need.items()))
        self.after: dict[Crowd, None] = {}
        self.size = self.waiting = self.ready = self.done = self.held_bytes = 0
        self.running: dict[int, float] = {}


class Worker:
    """One worker: the tasks that it runs (and since when), has assigned, and the results that it holds."""

    __slots__ = (
        "address",
        "backlog",
        "free",
        "gone",
        "held_bytes",
        "holds",
        "idle_s",
        "job",
        "marked",
        "name",
        "pool",
        "room",
        "running",
        "shape",
        "since_s",
    )

    def __init__(self, name: str, job: str, pool: str, shape: Shape, now_s: float) -> None:
        self.name, self.job, self.pool, self.shape = name, job, pool, shape
        self.address = f"sim://{name}"
        self.running: dict[int, float] = {}
        self.backlog: list[tuple[int, int]] = []
        self.holds: dict[int, None] = {}
        self.room = dict(shape.resources)
        self.free = shape.threads
        self.held_bytes = 0
        self.since_s = self.idle_s = now_s
        self.gone = self.marked = False

    @property
    def busy(self) -> bool:
        """Whether it runs anything or has anything to run."""
        return bool(self.running or self.backlog)
