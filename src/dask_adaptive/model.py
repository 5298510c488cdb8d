"""The nouns: pools and jobs, what Dask says (load), what a policy sees (view) and answers (target).

Everything here is a frozen value without behaviour beyond arithmetic on itself. Units come last in a name:
``_s`` seconds, ``_bytes`` bytes. Times are seconds since the epoch as one monotonic clock tells them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NewType

__all__ = [
    "ALIVE",
    "EXPECTED",
    "WORKER_NAME",
    "Batch",
    "Cancel",
    "Capacity",
    "Group",
    "IdleJob",
    "Job",
    "JobId",
    "JobState",
    "Life",
    "Limits",
    "Load",
    "Member",
    "Need",
    "Past",
    "Phase",
    "Plan",
    "Pool",
    "PoolState",
    "PoolView",
    "Record",
    "Request",
    "Retire",
    "Shape",
    "Snapshot",
    "Spec",
    "Startup",
    "Submit",
    "Target",
    "Timeouts",
    "View",
    "Want",
    "job_of_worker",
    "worker_name",
]

JobId = NewType("JobId", str)

Need = Mapping[str, float]
"""Resources that one task takes on a worker, by name: ``{"GPU": 1}``; empty for a task that runs anywhere."""

Past = Mapping[str, Any]
"""What a policy remembers between two rounds: plain JSON values only, bounded in size, never changed in place."""


# --- pools -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """What one job of a pool brings: ``workers`` Dask workers, each with the given threads, memory and resources.

    ``memory_bytes`` is per worker; 0 means no limit.
    """

    workers: int = 1
    threads: int = 1
    memory_bytes: int = 0
    resources: Need = field(default_factory=dict)

    @property
    def job_threads(self) -> int:
        """Threads of one whole job."""
        return self.workers * self.threads

    def slots(self, need: Need) -> int:
        """How many tasks with this need one job runs at the same time; 0 where it can run none."""
        per_worker = self.threads
        for name, amount in need.items():
            if amount > 0:
                per_worker = min(per_worker, int(self.resources.get(name, 0.0) / amount + 1e-9))
        return self.workers * per_worker


@dataclass(frozen=True, slots=True)
class Limits:
    """How many jobs a pool may have; ``maximum=None`` means that the user said "without limit"."""

    minimum: int = 0
    maximum: int | None = None

    def clip(self, jobs: int) -> int:
        """The number of jobs nearest to ``jobs`` that these limits allow."""
        top = jobs if self.maximum is None else min(jobs, self.maximum)
        return max(top, self.minimum)


@dataclass(frozen=True, slots=True)
class Pool:
    """A named kind of job in one cluster.

    ``price`` is what one second of one worker costs, in any unit; ``walltime_s`` after how long the manager ends a job
    (0: never).
    """

    name: str
    shape: Shape = field(default_factory=Shape)
    limits: Limits = field(default_factory=Limits)
    price: float = 1.0
    walltime_s: float = 0.0


# --- jobs as a resource manager knows them ---------------------------------------------------------------------


class JobState(str, Enum):
    """The manager's word for a job, in four words of ours."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the resource manager lists it.

    ``name`` is ours (``<tag>.<i>``), ``id`` the manager's. ``reason`` is the manager's own sentence ("Resources",
    "held by user"). ``exit_code`` is None while it lives or where the manager does not tell; ``left_s``
    is how much of its walltime is left, where it tells.
    """

    id: JobId
    name: str
    state: JobState
    reason: str = ""
    exit_code: int | None = None
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks a batch system for, beyond its shape. What is empty or 0 is left to the site's defaults.

    ``walltime_s`` is how long a job may run. ``cores``, ``memory_bytes`` and ``nodes`` are of the whole job (0: what
    its workers need, one node). ``directives`` are added to the head of the job script as they are, without the
    prefix; ``skip`` are keys of directives to leave out. ``prologue`` are lines of shell that run before the workers.
    ``python`` is the interpreter there, ``launcher`` what is put before the workers' command (``srun``). ``template``
    is the user's own job script. ``throttle``: how many jobs of one array may run at a time.
    """

    queue: str = ""
    account: str = ""
    walltime_s: float = 0.0
    cores: int = 0
    memory_bytes: int = 0
    nodes: int = 0
    directives: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str = ""
    shebang: str = "#!/bin/bash"
    launcher: str = ""
    template: str = ""
    throttle: int = 0


@dataclass(frozen=True, slots=True)
class Spec:
    """What a job has to run: ``shape.workers`` Dask workers that join ``scheduler``.

    ``environment`` is set for the worker processes; ``preload`` are modules or files that a worker imports first;
    ``worker_arguments`` go to ``dask worker`` as they are; ``tls`` names the files of Dask's TLS options
    (``tls_ca_file``, ``tls_cert``, ``tls_key``); ``gpus`` are taken per worker; ``dask_config`` is the owner's
    Dask configuration, serialised by ``dask.config.serialize``. ``request`` is for batch systems. ``command`` is run,
    once per job, in the place of the workers where it is not empty: a head that is a job.
    """

    scheduler: str
    shape: Shape = field(default_factory=Shape)
    environment: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    worker_arguments: tuple[str, ...] = ()
    tls: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    death_timeout_s: float = 60.0
    local_directory: str | None = None
    dask_config: str = ""
    request: Request = Request()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """One submit call: ``count`` jobs of one pool, named ``<tag>.0`` ...; the tag begins with the cluster's key."""

    cluster: str
    pool: str
    tag: str
    count: int
    spec: Spec

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its jobs, in order."""
        return tuple(f"{self.tag}.{i}" for i in range(self.count))


WORKER_NAME = re.compile(r"([a-z][a-z0-9]{7}\.\d+)-\d+-\w+")
"""The name of a worker of ours; the first group is its job."""


def worker_name(job: str, index: int, attempt: int = 0) -> str:
    """The name of worker ``index`` of a job at its ``attempt``-th start."""
    return f"{job}-{index}-{attempt}"


def job_of_worker(name: str) -> str | None:
    """The job that a worker of this name belongs to; None for a worker that is not ours."""
    match = WORKER_NAME.fullmatch(name)
    return match.group(1) if match else None


# --- jobs as we know them --------------------------------------------------------------------------------------


class Phase(str, Enum):
    """Where a job is in its life; ``life.py`` draws the transitions."""

    WANTED = "wanted"
    SUBMITTED = "submitted"
    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDING = "ending"
    GONE = "gone"
    FAILED = "failed"
    UNKNOWN = "unknown"


EXPECTED = (Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.UNKNOWN)
"""Phases of a job that serves or will serve."""

ALIVE = (*EXPECTED, Phase.DRAINING, Phase.ENDING)
"""Phases of a job that may hold resources of the manager: these count against the limits."""


@dataclass(frozen=True, slots=True)
class Life:
    """All that is known of one job.

    ``since_s`` is when it entered its phase; the other times are 0.0 until they happened. ``present`` is the number
    of its workers that are registered with the scheduler now; ``served`` whether all of them ever were; ``told``
    whether we told it to end. ``missing_s`` is since when complete lists of the manager do not show it. ``deadline_s``
    is when an unknown submit is given up or an ending job is told again. ``lost_s`` is since when a part of its
    workers, or all of them, are no longer registered. ``ends_s`` is when the manager said it will end it.
    """

    name: str
    pool: str
    phase: Phase
    since_s: float
    id: JobId | None = None
    reason: str = ""
    wanted_s: float = 0.0
    submitted_s: float = 0.0
    running_s: float = 0.0
    ready_s: float = 0.0
    present: int = 0
    served: bool = False
    told: bool = False
    listed: bool = False
    missing_s: float = 0.0
    deadline_s: float = 0.0
    lost_s: float = 0.0
    ends_s: float = 0.0
    exit_code: int | None = None
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class Startup:
    """Learned latencies of a pool, newest last, at most 32 of each.

    ``queue_s``: from submit until the manager says running; ``start_s``: from running until all workers registered;
    ``drain_s``: from the beginning of a drain until its workers were closed.
    """

    queue_s: tuple[float, ...] = ()
    start_s: tuple[float, ...] = ()
    drain_s: tuple[float, ...] = ()

    def quantile_s(self, q: float, default_s: float = 1.0) -> float:
        """The ``q`` quantile of the whole start-up (queue and start), in seconds; ``default_s`` while unknown."""
        if not self.start_s:
            return default_s
        return self.queued_s(q) + _quantile(self.start_s, q)

    def queued_s(self, q: float) -> float:
        """The ``q`` quantile of the time in the queue, which nobody pays, in seconds; 0 while unknown."""
        return _quantile(self.queue_s, q)

    def billed_s(self, q: float, default_s: float = 1.0) -> float:
        """The ``q`` quantile of the start after that, in seconds; ``default_s`` while unknown."""
        return _quantile(self.start_s, q) if self.start_s else default_s

    def drained_s(self, q: float) -> float:
        """The ``q`` quantile of the drains, in seconds; 0 while unknown."""
        return _quantile(self.drain_s, q)


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


# --- what the Dask side says -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks of one task group that have the same need.

    ``ready`` tasks could run now (queued, without a worker, or assigned to one; without the seceded ones),
    ``running`` of them are executing as of the last heartbeats; ``waiting`` tasks wait for others of the graph.
    ``mean_s`` and ``spread_s`` (standard deviation) of the run time are None while unknown; ``oldest_s`` is the
    longest time that a task of it is running already. ``pinned``: restricted to named workers or hosts, so that a
    new worker cannot help; ``unrunnable``: how many of ``ready`` no present worker may run.
    """

    name: str
    prefix: str
    ready: int = 0
    running: int = 0
    waiting: int = 0
    done: int = 0
    unrunnable: int = 0
    long_running: int = 0
    mean_s: float | None = None
    spread_s: float | None = None
    oldest_s: float = 0.0
    need: Need = field(default_factory=dict)
    pinned: bool = False
    after: tuple[str, ...] = ()
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a set of registered workers offers and holds, summed.

    ``threads`` counts workers that take tasks; those of paused or closing ones are left out. ``memory_bytes`` is the
    sum of the limits (0: none), ``used_bytes`` the processes' memory, ``held_bytes`` the results held with every
    replica. ``busy`` workers process something, ``idle`` ones nothing.
    """

    workers: int = 0
    threads: int = 0
    memory_bytes: int = 0
    used_bytes: int = 0
    held_bytes: int = 0
    busy: int = 0
    idle: int = 0
    paused: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """One registered worker of ours: its address and name."""

    address: str
    name: str


@dataclass(frozen=True, slots=True)
class IdleJob:
    """A job all of whose registered workers are idle and may be retired.

    ``since_s``: when its last worker became idle; ``held_bytes``: results it holds; ``only_bytes``: those of which it
    has the only copy.
    """

    name: str
    since_s: float
    held_bytes: int = 0
    only_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What the Dask scheduler knows at one moment; cost to build: groups and workers, never tasks.

    ``members`` maps each job to its registered workers; the same object is returned while nobody joined or left.
    ``pools`` has the capacity of each pool, ``foreign`` that of workers which are not ours. ``waiting_clients``
    counts clients that wait for any worker without having tasks (scatter). ``replicated_bytes`` are bytes held by
    more than one worker, beyond the first copy. ``leaving`` are jobs whose manager told them to end.
    """

    at_s: float
    groups: tuple[Group, ...] = ()
    members: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)
    idle: tuple[IdleJob, ...] = ()
    pools: Mapping[str, Capacity] = field(default_factory=dict)
    foreign: Capacity = field(default_factory=Capacity)
    waiting_clients: int = 0
    replicated_bytes: int = 0
    leaving: tuple[str, ...] = ()


# --- what a round looks at -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long, in seconds, each wait of a pool may last.

    ``start_s``: from the manager's "running" until all workers are registered; ``lost_s``: how long a serving job may
    miss a part of its workers, or all; ``drain_s``: for a drain; ``end_s``: from the last worker closed until the job
    ends by itself, and between two cancels of one job; ``unknown_s``: how long a submit of unknown outcome is held.
    """

    start_s: float = 120.0
    lost_s: float = 30.0
    drain_s: float = 600.0
    end_s: float = 15.0
    unknown_s: float = 120.0


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool at one moment: what it is, what was learned, and what is wrong with it.

    ``broken`` is the reason why it takes no jobs until ``retry_s``; ``stale`` the reason why its job list cannot be
    trusted now; ``strays`` counts listed jobs of ours that we have no life for (they count against the limits);
    ``failures`` counts batches that failed since a job of it served.
    """

    pool: Pool
    startup: Startup = field(default_factory=Startup)
    broken: str = ""
    retry_s: float = 0.0
    stale: str = ""
    strays: int = 0
    submitting: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a round decides on; ``lives`` are by job name, ``pools`` in the order of preference."""

    at_s: float
    interval_s: float
    load: Load
    lives: Mapping[str, Life]
    pools: Mapping[str, PoolState]


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as a policy sees it: jobs counted by phase, and the capacity that serves now.

    ``idle`` of its ready jobs could be given up; the others are busy.
    """

    pool: Pool
    phases: Mapping[Phase, int] = field(default_factory=dict)
    capacity: Capacity = field(default_factory=Capacity)
    startup: Startup = field(default_factory=Startup)
    broken: str = ""
    idle: int = 0

    @property
    def size(self) -> int:
        """Jobs that serve or will serve."""
        return sum(self.phases.get(phase, 0) for phase in EXPECTED)

    @property
    def ready(self) -> int:
        """Jobs all of whose workers are registered."""
        return self.phases.get(Phase.READY, 0)

    @property
    def coming(self) -> int:
        """Jobs asked for that do not serve yet."""
        return self.size - self.ready


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may know."""

    now_s: float
    interval_s: float
    load: Load
    pools: tuple[PoolView, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """How many jobs a pool should have, and why, in words and numbers.

    ``firm``: somebody said so (a fixed size, a limit, a budget): where idle jobs are not enough, busy ones are drained
    too. They get no new tasks, finish what they run, and hand over the rest; nothing is ever cut off.
    """

    jobs: int
    reason: str
    firm: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A policy's answer.

    ``pools`` names every pool. ``look_again_s``: seconds after which the answer may change although nothing happens
    (None: only when something does). ``declined``: what was considered and not done, a sentence each.
    ``impossible``: work that no pool could ever run, a sentence each. ``spent``: by pool, or ``""`` for all together,
    the budgets that are used up, with their numbers.
    """

    pools: Mapping[str, Want]
    look_again_s: float | None = None
    declined: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()
    spent: Mapping[str, str] = field(default_factory=dict)


# --- what a round does -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """Ask the manager for ``count`` more jobs of a pool."""

    pool: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Drain a serving job, then let it end. ``busy``: it may have work, which it finishes first."""

    job: str
    reason: str
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell the manager to end a job that serves nothing: queued, not registered in time, or a duplicate."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start in this round. ``held``: per pool why less was started than the target asks for."""

    submits: tuple[Submit, ...] = ()
    retires: tuple[Retire, ...] = ()
    cancels: tuple[Cancel, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """One round, complete enough to be replayed: ``decide(view_of(snapshot), past)`` gives ``target`` again.

    ``events`` are sentences about what happened since the round before: outcomes of operations, errors, jobs that
    changed their phase. ``woken`` is the word that woke the controller. ``error`` is why the round could not decide.
    """

    number: int
    at_s: float
    woken: str
    snapshot: Snapshot
    past: Past
    target: Target
    plan: Plan
    events: tuple[str, ...] = ()
    error: str = ""
