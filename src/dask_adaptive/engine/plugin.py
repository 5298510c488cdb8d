"""What runs inside the Dask scheduler: counts, pushes and drains.

This file travels to the scheduler as text and is executed there, under whatever Python and ``distributed`` the
scheduler has. It therefore imports nothing but the standard library, ``distributed`` and ``tornado``, answers in
values that msgpack can carry, and holds every name of ``distributed`` that is not public API (``NAMES``).

A look costs groups and workers, never tasks. While no task has resources or restrictions there is no transition hook.
"""
# ruff: noqa: ARG002, SLF001  Dask decides on the arguments of hooks; private names are what ``NAMES`` is for

from __future__ import annotations

import asyncio
import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import attrgetter, itemgetter
from time import time_ns
from typing import Any

import distributed
from distributed.active_memory_manager import ActiveMemoryManagerExtension, RetireWorker
from distributed.batched import BatchedSend
from distributed.core import CommClosedError, Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import time
from distributed.protocol import pickle
from distributed.scheduler import TaskGroup, TaskPrefix, TaskState, WorkerState
from tornado.ioloop import PeriodicCallback

__all__ = ["NAMES", "Durations", "Inside"]

NAMES = (
    ("scheduler", "workers", "registered workers by address"),
    ("scheduler", "running", "those that take tasks"),
    ("scheduler", "tasks", "tasks by key, read for restrictions when a graph arrives"),
    ("scheduler", "task_groups", "counts per group"),
    ("scheduler", "queued", "tasks that wait for a thread"),
    ("scheduler", "unrunnable", "tasks that no worker may run"),
    ("scheduler", "replicated_tasks", "results with more than one copy"),
    ("scheduler", "transition_counter", "did anything happen?"),
    ("scheduler", "total_nthreads", "threads of all workers"),
    ("scheduler", "_task_prefix_count_global", "tasks on workers, without the seceded ones"),
    ("scheduler", "_replica_lock", "keeps replicate and rebalance out while a worker is removed"),
    ("scheduler", "plugins", "who else is there; the running shuffles"),
    ("scheduler", "extensions", "work stealing"),
    ("scheduler", "handlers", "our calls, and the scatter call that we wrap"),
    ("scheduler", "stream_comms", "messages to workers"),
    ("scheduler", "valid_workers", "which workers may run a task"),
    ("scheduler", "handle_worker_status_change", "stop giving tasks to a worker"),
    ("scheduler", "remove_worker", "end a drained worker"),
    ("worker", "processing", "is it busy?"),
    ("worker", "long_running", "seceded tasks"),
    ("worker", "executing", "what runs since when, from heartbeats"),
    ("worker", "actors", "actors cannot move"),
    ("worker", "has_what", "results held"),
    ("worker", "nbytes", "bytes of them"),
    ("worker", "metrics", "memory of the process, from heartbeats"),
    ("worker", "memory_limit", "room for results"),
    ("worker", "status", "paused or closing"),
    ("task", "who_has", "copies of a result"),
    ("task", "who_wants", "clients that want a result"),
    ("task", "processing_on", "where a task is"),
    ("task", "group", "group of a task"),
    ("task", "resource_restrictions", "resources that a task takes"),
    ("task", "worker_restrictions", "workers that a task is pinned to"),
    ("task", "host_restrictions", "hosts that a task is pinned to"),
    ("task", "loose_restrictions", "whether others may run it too"),
    ("group", "states", "tasks per state"),
    ("group", "dependencies", "groups that it waits for"),
    ("group", "nbytes_total", "bytes that it produced"),
    ("prefix", "state_counts", "how often a task reached memory"),
    ("prefix", "all_durations", "seconds spent computing"),
    ("prefix", "duration_average", "first guess of a run time"),
    ("stealing", "in_flight", "tasks on the move between workers"),
    ("stealing", "move_task_request", "move a waiting task"),
    ("stealing", "balance", "give waiting tasks to workers that just came"),
    ("amm", "add_policy", "move results off a worker"),
    ("amm", "run_once", "the same, at once"),
)
"""Every name of ``distributed`` that its documentation does not promise: owner, name, what for. Probed at start."""

PENDING = ("waiting", "queued", "no-worker", "processing")
FINISHED = ("memory", "released", "erred", "forgotten")
ANNOTATED = ("resources", "workers", "restrictions", "allow_other_workers", "loose_restrictions")
TICK_MS = 50
SHARE_OUTS = 5
LEAVING = "dask-adaptive-leaving"  # the event by which a worker tells that it was told to end
PUSH_S = 0.01
SERVING = (Status.running, Status.paused)
REPLICAS_READ = 2_000
PAUSE = 0.8

Kind = tuple[tuple[tuple[str, float], ...], bool]
PLAIN: Kind = ((), False)


def missing_names(scheduler: Any) -> list[str]:
    """Those of ``NAMES`` that this scheduler does not have, with what they are for."""
    owners = {
        "scheduler": scheduler,
        "worker": WorkerState,
        "task": TaskState,
        "group": TaskGroup,
        "prefix": TaskPrefix,
        "stealing": scheduler.extensions.get("stealing") if hasattr(scheduler, "extensions") else None,
        "amm": ActiveMemoryManagerExtension,
    }
    return [
        f"{owner}.{name} ({why})"
        for owner, name, why in NAMES
        if owners[owner] is not None and not hasattr(owners[owner], name)
    ]


# --- which workers are ours ------------------------------------------------------------------------------------


class Crowd:
    """The workers of one pool, with the sums that do not change while nobody joins or leaves."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}
        self._listed: list[Any] | None = None
        self._threads = self._memory = 0

    def put(self, ws: Any) -> None:
        self.workers[ws.address] = ws
        self._listed = None

    def drop(self, address: str) -> None:
        del self.workers[address]
        self._listed = None

    def listed(self) -> list[Any]:
        if self._listed is None:
            self._listed = list(self.workers.values())
            self._threads = sum(map(attrgetter("nthreads"), self._listed))
            self._memory = sum(map(attrgetter("memory_limit"), self._listed))
        return self._listed

    def sums(self, all_running: bool, used: int) -> tuple[list[int], list[Any]]:
        """One row of numbers (in the order of ``Capacity``), and the idle workers that take tasks."""
        listed = self.listed()
        idle = [ws for ws in listed if not ws.processing]
        held = sum(map(attrgetter("nbytes"), listed))
        busy, threads, paused = len(listed) - len(idle), self._threads, 0
        if not all_running:
            running = Status.running
            stopped = [ws for ws in listed if ws.status is not running]
            paused = sum(ws.status is Status.paused for ws in stopped)
            threads -= sum(ws.nthreads for ws in stopped)
            idle = [ws for ws in idle if ws.status is running]
        return [len(listed), threads, self._memory, used, held, busy, len(idle), paused], idle


class Roster:
    """Which workers are ours, by job and pool."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.everything = bool(config["everything"])
        self.declared_only = bool(config.get("declared_only"))
        self.pattern = re.compile(config["pattern"])
        self.prefix = config["prefix"]
        self.worker_key = pickle.loads(config["worker_key"]) if config["worker_key"] else None
        self.tags: dict[str, str] = {}
        self.declared: dict[str, str] = {}
        self.places: dict[str, tuple[str | None, str | None]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.crowds: dict[str | None, Crowd] = {}
        self.version = time_ns()

    def place(self, ws: Any) -> tuple[str | None, str | None]:
        """Job and pool of a worker; (None, None) for one that is not ours."""
        name = str(ws.name)
        if self.everything:
            job = self.declared.get(name) or self.declared.get(ws.address)
            if job is None and self.declared_only:
                return None, None
            return (self._own_job(ws) if job is None else job), "default"
        match = self.pattern.fullmatch(name)
        if match is None:
            return None, None
        job = match.group(1)
        pool = self.tags.get(job.partition(".")[0])
        if pool is None:
            return (job, "") if self.prefix and job.startswith(self.prefix) else (None, None)
        return job, pool

    def _own_job(self, ws: Any) -> str:
        if self.worker_key is not None:
            with suppress(Exception):  # the user's function; a worker that it cannot place is a job of its own
                return str(self.worker_key(ws))
        return str(ws.address)

    def put(self, ws: Any) -> None:
        job, pool = self.places[ws.address] = self.place(ws)
        self.crowds.setdefault(pool, Crowd()).put(ws)
        if job is not None:
            self.jobs.setdefault(job, {})[ws.address] = ws
            self.version += 1

    def drop(self, address: str) -> None:
        job, pool = self.places.pop(address, (None, None))
        crowd = self.crowds.get(pool)
        if crowd is None or address not in crowd.workers:
            return
        crowd.drop(address)
        if job is not None:
            self.jobs[job].pop(address, None)
            if not self.jobs[job]:
                del self.jobs[job]
            self.version += 1

    def again(self, workers: Iterable[Any]) -> None:
        """Ask anew for those workers whose place changed."""
        for ws in workers:
            if self.places.get(ws.address) != self.place(ws):
                self.drop(ws.address)
                self.put(ws)

    def members(self) -> dict[str, list[list[str]]]:
        return {job: [[ws.address, str(ws.name)] for ws in wss.values()] for job, wss in self.jobs.items()}


# --- what tasks need -------------------------------------------------------------------------------------------


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
        known = self.known.get(ts.key) if self.known else None
        return PLAIN if known is None else known[1]


def kind_of(ts: Any) -> Kind:
    """What a task takes on a worker, and whether only named workers or hosts may run it."""
    need = tuple(sorted((str(name), float(amount)) for name, amount in (ts.resource_restrictions or {}).items()))
    pinned = bool(ts.worker_restrictions or ts.host_restrictions) and not ts.loose_restrictions
    return need, pinned


# --- how long tasks take ---------------------------------------------------------------------------------------


class Durations:
    """Mean and spread of the run time per prefix, from differences of the scheduler's own running totals.

    With n tasks finished since the look before, of mean m, the mean of all moves by n/(n + w) of the difference (w:
    tasks seen so far, at most ``WEIGHT``), and ``(m - mean)^2 n w / (n + w)`` is a sample of the variance of one task
    (West, Communications of the ACM 22(9), 1979).
    """

    KEPT = 1_000
    WEIGHT = 200.0

    def __init__(self) -> None:
        self.known: dict[str, list[float]] = {}

    def of(self, prefix: Any) -> tuple[float | None, float | None]:
        """Mean and standard deviation in seconds; None while unknown."""
        record = self.known.pop(prefix.name, None) or [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        self.known[prefix.name] = record
        if len(self.known) > self.KEPT:
            del self.known[next(iter(self.known))]
        finished = prefix.state_counts.get("memory", 0)
        if finished != record[0]:
            self._learn(record, finished, prefix.all_durations["compute"])
        _, _, weight, mean, variance, samples = record
        if weight:
            return mean, variance**0.5 if samples else None
        guess = prefix.duration_average
        return (guess if guess >= 0 else None), None

    def _learn(self, record: list[float], finished: float, seconds: float) -> None:
        n, took = finished - record[0], seconds - record[1]
        record[0], record[1] = finished, seconds
        if n <= 0 or took <= 0:  # the scheduler was restarted, or the results were scattered
            return
        weight, mean, variance, samples = record[2:]
        difference = took / n - mean
        if weight:
            samples += 1
            sample = difference * difference * n * weight / (n + weight)
            variance += (sample - variance) * max(1 / samples, 0.1)
        mean += difference * n / (n + weight)
        record[2:] = [min(weight + n, self.WEIGHT), mean, variance, samples]


class Heartbeats:
    """What only heartbeats tell, read no oftener than they come: running tasks, the oldest of them, memory used."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, Kind], int] = {}
        self.started: dict[tuple[str, Kind], float] = {}
        self.used: dict[str | None, int] = {}
        self._next = 0.0

    def read(self, roster: Roster, needs: Needs, now: float) -> None:
        if now < self._next:
            return
        started: dict[Any, list[float]] = {}
        workers = 0
        for pool, crowd in roster.crowds.items():
            listed = crowd.listed()
            workers += len(listed)
            try:
                self.used[pool] = sum(map(itemgetter("memory"), map(attrgetter("metrics"), listed)))
            except KeyError:  # a worker that has not told yet
                self.used[pool] = sum(ws.metrics.get("memory", 0) for ws in listed)
            self._executing(listed, needs, started)
        keyed = {key if type(key) is tuple else (key.name, PLAIN): times for key, times in started.items()}
        self.running = {key: len(times) for key, times in keyed.items()}
        self.started = {key: min(times) for key, times in keyed.items()}
        # a heartbeat comes every 0.5 s, with thousands of workers every workers/200 s; and at most 1 % of the time
        self._next = now + max(0.05, workers / 2_000, 100 * (time() - now))

    @staticmethod
    def _executing(workers: Iterable[Any], needs: Needs, started: dict[Any, list[float]]) -> None:
        """When each running task started, by group, or by (group, kind) where it has a need; this is the hot loop."""
        for ws in workers:
            if not ws.executing:
                continue
            seceded, last_seen = ws.long_running, ws.last_seen
            for ts, elapsed_s in ws.executing.items():
                if ts.processing_on is not ws or (seceded and ts in seceded):
                    continue
                key = ts.group
                if needs.known and (kind := needs.kind(ts)) is not PLAIN:
                    key = (key.name, kind)
                times = started.get(key)
                if times is None:
                    times = started[key] = []
                times.append(last_seen - elapsed_s)


# --- taking workers out of service -----------------------------------------------------------------------------


class Refused(Exception):
    """Why a job stays in service."""


class Drain:
    """One job on its way out: mark, let the work end or move, move the data, look again, remove."""

    def __init__(self, inside: Inside, job: str, addresses: Sequence[str], busy: bool, deadline: float) -> None:
        self.inside = inside
        self.scheduler = inside.scheduler
        self.job = job
        self.addresses = tuple(dict.fromkeys([*inside.roster.jobs.get(job, ()), *addresses]))
        self.busy = busy
        self.deadline = deadline
        self.refusal = ""
        self.no_room = False
        self.stopped = ""
        self.marked = time()
        self.asked: dict[Any, float] = {}

    def present(self) -> list[Any]:
        """Its workers that are still registered."""
        workers = self.scheduler.workers
        return [workers[address] for address in self.addresses if address in workers]

    def mark(self) -> None:
        """Refuse, or stop every worker from getting tasks; one step, without an await."""
        self.refusal, self.no_room, self.marked = "", False, time()
        present = self.present()
        try:
            self._may_go(present)
        except Refused as refusal:
            self.refusal = str(refusal)
            return
        for ws in present:
            self.inside.marks[ws.address] = ws.status.name
            self.scheduler.handle_worker_status_change(Status.closing_gracefully, ws, f"drain-{time()}")
            tell_status(self.scheduler, ws.address, "closing_gracefully")

    def _may_go(self, present: Sequence[Any]) -> None:
        in_shuffle = shuffling(self.scheduler)
        for ws in present:
            if ws.address in self.inside.marks or ws.status not in SERVING:
                raise Refused(f"{ws.address} is {ws.status.name} already")
            self._holds_nothing_fixed(ws, in_shuffle)
            if not self.busy:
                if ws.long_running:
                    raise Refused(f"{ws.address} runs {len(ws.long_running)} long-running (seceded) tasks")
                if ws.processing:
                    raise Refused(f"{ws.address} is busy with {len(ws.processing)} tasks")
                if any(ws in (move["thief"], move["victim"]) for move in self._moves().values()):
                    raise Refused(f"{ws.address} is being given a task by work stealing")

    @staticmethod
    def _holds_nothing_fixed(ws: Any, in_shuffle: set[str]) -> None:
        if ws.actors:
            raise Refused(f"{ws.address} holds {len(ws.actors)} actors, which cannot move")
        if ws.address in in_shuffle:
            raise Refused(f"{ws.address} takes part in a running shuffle")

    async def run(self) -> None:
        """Everything after the mark; leaves the job either removed or in service again."""
        if self.refusal:
            return
        try:
            while True:
                await self._let_work_end()
                await self._move_data()
                if await self._remove():
                    return
                await self._pause(0.02, "was given new data or work again and again")
        except Refused as refusal:
            self.refusal = str(refusal)
        except Exception as error:  # noqa: BLE001  the job must come back into service whatever happened
            self.refusal = f"{type(error).__name__}: {error}"
        finally:
            await self.inside.restore(self.addresses)

    async def _pause(self, seconds: float, late: str) -> None:
        if self.stopped:
            raise Refused(self.stopped)
        if time() >= self.deadline:
            raise Refused(late)
        await asyncio.sleep(min(seconds, max(0.0, self.deadline - time())))

    # work

    def _moves(self) -> Mapping[Any, Any]:
        stealing = self.scheduler.extensions.get("stealing")
        return stealing.in_flight if stealing else {}

    async def _let_work_end(self) -> None:
        wait_s = 0.02
        while busy := [ws for ws in self.present() if ws.processing]:
            count = sum(len(ws.processing) for ws in busy)
            self._move_waiting(busy)
            await self._pause(wait_s, f"is busy: {count} tasks did not end in time")
            wait_s = min(1.2 * wait_s, 0.2)

    def _move_waiting(self, busy: Sequence[Any]) -> None:
        """Ask for every task that was not asked for yet; a worker gives away only what it has not started."""
        stealing, now = self.scheduler.extensions.get("stealing"), time()
        moves, free = self._moves(), self.inside.free_workers()
        for ws in busy:
            for ts in list(ws.processing):
                if ts in ws.long_running or ts in moves or now < self.asked.get(ts.key, 0.0) + 1.0:
                    continue
                thief = self._thief(ts, free) if stealing else None
                if thief is not None:
                    self.asked[ts.key] = now
                    stealing.move_task_request(ts, ws, thief)
                elif ws.last_seen > self.marked + 1.0 and ts not in ws.executing:
                    raise Refused("has tasks waiting that no other worker may run")

    def _thief(self, ts: Any, free: list[tuple[float, int, Any]]) -> Any:
        valid = self.scheduler.valid_workers(ts)
        if valid is not None and ts.loose_restrictions and not valid:
            valid = None
        if valid is not None:
            valid = valid & self.scheduler.running
            return min(valid, key=lambda ws: len(ws.processing) / max(ws.nthreads, 1), default=None)
        while free and free[0][2] not in self.scheduler.running:
            heapq.heappop(free)
        if not free:
            return None
        load, i, ws = free[0]
        heapq.heapreplace(free, (load + 1 / max(ws.nthreads, 1), i, ws))
        return ws

    # data

    def _only_here(self, ws: Any) -> list[Any]:
        """Results that no worker holds which stays."""
        marks = self.inside.marks

        def leaves(holder: Any) -> bool:
            return holder.address in marks or holder.status not in SERVING

        return [ts for ts in ws.has_what if not ts.actor and all(map(leaves, ts.who_has))]

    async def _move_data(self) -> None:
        only = [ts for ws in self.present() for ts in self._only_here(ws)]
        if not only:
            return
        nbytes = self._need_room(only)
        self.inside.moving += nbytes
        amm = self.inside.amm()
        policies = [RetireWorker(ws.address) for ws in self.present()]
        kicked = 0.0
        try:
            while any(self._only_here(ws) for ws in self.present()):
                if time() > kicked + 1.0:
                    kicked = time()
                    for policy in policies:
                        amm.add_policy(policy)  # again, since one that found nothing to do takes itself out
                    self.inside.kick_amm()
                await self._pause(max(0.01, min(0.5, len(only) / 400)), "its data did not move in time")
                if any(policy.no_recipients for policy in policies):
                    self.no_room = True
                    raise Refused(f"no other worker takes the only copies of {len(only)} results")
        finally:
            self.inside.moving -= nbytes
            for policy in policies:
                amm.policies.discard(policy)

    def _need_room(self, only: Sequence[Any]) -> int:
        """Bytes of these results, if the workers that stay have room for them below their pause mark."""
        nbytes: int = sum(ts.get_nbytes() for ts in only)
        running = list(self.scheduler.running)
        free = sum(max(0.0, PAUSE * ws.memory_limit - ws.metrics.get("memory", 0)) for ws in running)
        if not running:
            self.no_room = True
            raise Refused(f"no other worker takes the only copies of {len(only)} results ({nbytes} bytes)")
        if all(ws.memory_limit for ws in running) and nbytes > free - self.inside.moving:
            self.no_room = True
            raise Refused(f"no room for its data: {nbytes} bytes, and {int(free)} free on the other workers")
        return nbytes

    # end

    async def _remove(self) -> bool:
        """Look again and remove without an await in between; False when something came up meanwhile."""
        lock = self.scheduler._replica_lock("retire-workers")
        try:
            await asyncio.wait_for(lock.__aenter__(), max(0.1, self.deadline - time()))
        except asyncio.TimeoutError:
            raise Refused("a rebalance or replicate did not end in time") from None
        try:
            in_shuffle = shuffling(self.scheduler)
            for ws in self.present():
                self._holds_nothing_fixed(ws, in_shuffle)
                if self.stopped:
                    raise Refused(self.stopped)
                if ws.processing or self._only_here(ws) or self.inside.scattering:
                    return False
                await self.scheduler.remove_worker(
                    ws.address, expected=True, close=True, stimulus_id=f"drained-{time()}"
                )
                self.inside.marks.pop(ws.address, None)
            return True
        finally:
            await lock.__aexit__(None, None, None)


def tell_status(scheduler: Any, address: str, status: str) -> None:
    """Make a worker change its status; it confirms to the scheduler."""
    with suppress(KeyError, CommClosedError):
        scheduler.stream_comms[address].send(
            {"op": "worker-status-change", "status": status, "stimulus_id": f"drain-{time()}"}
        )


def shuffling(scheduler: Any) -> set[str]:
    """Addresses of the workers that take part in a running P2P shuffle."""
    active = getattr(scheduler.plugins.get("shuffle"), "active_shuffles", {})
    return {address for shuffle in active.values() for address in shuffle.participating_workers}


# --- the plug-in -----------------------------------------------------------------------------------------------


class Inside(SchedulerPlugin):
    """The scheduler's half of one engine: its calls, its pushes, its marks."""

    def __init__(self, **config: Any) -> None:
        self.config = config
        self.name = config["name"]
        self.roster = Roster(config)
        self.durations = Durations()
        self.heartbeats = Heartbeats()
        self.marks: dict[str, str] = {}
        self.leaving: dict[str, str] = {}
        self.drains: set[Drain] = set()
        self.listeners: list[tuple[BatchedSend, bool]] = []
        self.moving = 0
        self.scattering = 0
        self.waiting_clients = 0
        self.heard = time()
        self._amm: Any = None
        self._amm_kicked = False
        self._free: list[tuple[float, int, Any]] = []
        self._free_at = 0.0
        self._words: dict[str, None] = {}
        self._news: list[list[Any]] = []
        self._flush_at: asyncio.TimerHandle | None = None
        self._flushed = 0.0
        self._counter = -1
        self._backlog = 0
        self._active = False
        self._share_outs = 0
        self._share_next = 0.0
        self._unlearned: list[Any] = []
        self._idle_since: dict[str, float] = {}
        self._idle_rows: list[list[Any]] = []
        self._idle_state: tuple[Any, ...] = ()
        self._first: dict[tuple[str, Kind], float] = {}
        self._assigned = 0
        self._idle_version = time_ns()
        self._shared: dict[str, int] = {}
        self._replicated = 0
        self._replicas_next = 0.0

    # start and stop

    def start(self, scheduler: Any) -> None:
        """Build the state; takes over from an earlier plug-in of the same name. Never awaits."""
        if missing := missing_names(scheduler):
            raise RuntimeError(f"distributed {distributed.__version__} has no {', '.join(missing)}")
        earlier = scheduler.plugins.get(self.name)
        if earlier is not None:
            earlier.stop()
        self.scheduler = scheduler
        self.needs = Needs(scheduler, f"{self.name}-needs")
        for ws in scheduler.workers.values():
            self.roster.put(ws)
        self.needs.attach()
        self.calls: dict[str, Callable[..., Any]] = {
            f"{self.name}-{call.__name__}": call
            for call in (self.look, self.declare, self.watch, self.drain, self.holders, self.owner, self.detach)
        }
        scheduler.handlers.update(self.calls)
        self._scatter = scheduler.handlers["scatter"] = Scatter(self, scheduler.handlers["scatter"])
        self._ticker = PeriodicCallback(self._tick, TICK_MS)
        self._ticker.start()

    def stop(self) -> None:
        """Take everything out again; idempotent."""
        self._ticker.stop()
        self.lift("the controller went away")
        self._unwrap_scatter()
        handlers = self.scheduler.handlers
        for name, call in self.calls.items():
            if handlers.get(name) == call:
                del handlers[name]
        self.needs.detach()
        if self.scheduler.plugins.get(self.name) is self:
            del self.scheduler.plugins[self.name]
        if self._flush_at is not None:
            self._flush_at.cancel()
        for stream, _ in self.listeners:
            stream.abort()
        self.listeners = []

    async def close(self) -> None:
        """The scheduler ends."""
        self.stop()

    def owner(self) -> str:
        """Call: which engine this plug-in serves."""
        return str(self.config["token"])

    def detach(self, token: str) -> bool:
        """Call: take everything of this engine out of the scheduler, unless another one took over."""
        if token == self.config["token"]:
            self.stop()
        return True

    # hooks

    def add_worker(self, scheduler: Any, worker: str) -> None:
        ws = scheduler.workers[worker]
        self.roster.put(ws)
        self._share_outs = SHARE_OUTS
        self.tell("worker joined", ["add", worker, described(ws)])

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        self.roster.drop(worker)
        self.marks.pop(worker, None)
        self.leaving.pop(worker, None)
        self.tell("worker left", ["remove", worker, None])

    def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
        annotations = kwargs.get("annotations") or {}
        if any(name in annotations for name in ANNOTATED):
            self.needs.update(annotations)
        self._active = True
        self.tell("graph")

    def log_event(self, topic: str, msg: Any) -> None:
        """A worker that was told to end says so: its job is to be drained."""
        if topic != LEAVING or not isinstance(msg, dict):
            return
        address = str(msg.get("worker"))
        job = self.roster.places.get(address, (None, None))[0]
        if job is not None and address not in self.leaving:
            self.leaving[address] = job
            self.tell("a worker was told to end")

    def restart(self, scheduler: Any) -> None:
        self.needs.restart(scheduler)
        self.durations = Durations()
        self.tell("restart")

    # pushes

    async def watch(self, comm: Any, details: bool = False) -> Any:
        """Call: push words, and with ``details`` workers, over this connection from now on."""
        self._hear()
        stream = BatchedSend(interval="2ms")
        self.listeners.append((stream, details))
        workers = {address: described(ws) for address, ws in self.scheduler.workers.items()} if details else {}
        await comm.write({"workers": workers})  # before the stream starts: two writers must not meet
        stream.start(comm)
        return Status.dont_reply

    def tell(self, word: str, news: list[Any] | None = None) -> None:
        """Push a word (and what a worker did) to everybody who listens, many in one message."""
        if not self.listeners:
            return
        self._words[word] = None
        if news is not None:
            self._news.append(news)
        if self._flush_at is None:
            delay = max(0.0, self._flushed + PUSH_S - time())
            self._flush_at = asyncio.get_running_loop().call_later(delay, self._flush)

    def _flush(self) -> None:
        self._flush_at, self._flushed = None, time()
        words, news = list(self._words), self._news
        self._words, self._news = {}, []
        for listener in list(self.listeners):
            stream, details = listener
            try:
                stream.send({"words": words, "workers": news if details else []})
            except CommClosedError:
                self.listeners.remove(listener)

    def _tick(self) -> None:
        """Every 50 ms; constant cost while nothing happened."""
        if self.marks and time() - self.heard > self.config["silent_s"]:
            self.lift("the controller has been silent for too long")
        if self._share_outs:
            self._share_out()
        if self.scheduler.transition_counter == self._counter:
            return
        self._counter = self.scheduler.transition_counter
        if any(prefix.duration_average >= 0 for prefix in self._unlearned):
            self._unlearned = []
            self.tell("learned")
        waiting = self._waiting_for_threads()
        if waiting > 2 * max(self._backlog, 0):
            self._backlog = waiting
            self.tell("demand")
        active = waiting + self.scheduler.total_nthreads > 0
        if self._active and not active:
            active = any(ws.long_running for ws in self.scheduler.workers.values())
        if self._active and not active:
            self.tell("quiet")
        self._active = active

    def _share_out(self) -> None:
        """Work stealing looks at once, and not within a second, what a worker that joined could do.

        More than once, as a task that it asks for may run already; at most 5 % of the time.
        """
        began = time()
        stealing = self.scheduler.extensions.get("stealing")
        if stealing is None:
            self._share_outs = 0
        elif began >= self._share_next:
            self._share_outs -= 1
            stealing.balance()
            self._share_next = time() + 20 * (time() - began)

    def _waiting_for_threads(self) -> int:
        """Ready tasks beyond the threads there are; negative where threads are free."""
        s = self.scheduler
        assigned: int = sum(s._task_prefix_count_global.values())
        return assigned + len(s.queued) + len(s.unrunnable) - int(s.total_nthreads)

    def _unwrap_scatter(self) -> None:
        """Take our wrapper out, also from below that of another engine."""
        handlers = self.scheduler.handlers
        if handlers["scatter"] is self._scatter:
            handlers["scatter"] = self._scatter.original
            return
        above = handlers["scatter"]
        while above is not None and getattr(above, "original", None) is not self._scatter:
            above = getattr(above, "original", None)
        if above is not None:
            above.original = self._scatter.original

    # calls

    def _hear(self) -> None:
        self.heard = time()

    def declare(self, tags: Mapping[str, str], jobs: Mapping[str, str]) -> bool:
        """Call: which pool the jobs of each tag belong to; which job each worker name or address belongs to."""
        self._hear()
        self.roster.tags.update(tags)
        self.roster.declared.update(jobs)
        if tags or jobs:
            self.roster.again(list(self.scheduler.workers.values()))
        return True

    def look(self, members: int = 0, idle: int = 0) -> dict[str, Any]:
        """Call: the load; ``members`` and ``idle`` are the versions that the caller has already."""
        self._hear()
        now, s, roster = time(), self.scheduler, self.roster
        self.heartbeats.read(roster, self.needs, now)
        self._replicas(now)
        all_running = len(s.running) == len(s.workers)
        idle_workers: list[Any] = []
        foreign, pools = [0] * 8, {}
        for pool, crowd in roster.crowds.items():
            row, free = crowd.sums(all_running, self.heartbeats.used.get(pool, 0))
            if pool is None:
                foreign = row
            else:
                pools[pool] = row
                idle_workers += free
        self._idle(idle_workers, now)
        self._backlog = self._waiting_for_threads()
        return {
            "now": now,
            "groups": self._groups(now),
            "pools": pools,
            "foreign": foreign,
            "members_version": roster.version,
            "members": None if members == roster.version else roster.members(),
            "idle_version": self._idle_version,
            "idle": None if idle == self._idle_version else self._idle_rows,
            "waiting_clients": self.waiting_clients,
            "replicated": self._replicated,
            "leaving": sorted(set(self.leaving.values())),
        }

    def _idle(self, idle_workers: list[Any], now: float) -> None:
        """The jobs whose workers are all idle, and since when; nothing to do where nothing can have changed."""
        fixed = shuffling(self.scheduler) | set(self.marks)
        held_by = [ws.nbytes for ws in idle_workers]
        acting = [ws for ws in idle_workers if ws.actors]
        state = (self.roster.version, fixed, self._shared, acting, held_by, idle_workers)
        if state == self._idle_state:
            return
        self._idle_state = state
        since, places, shared = self._idle_since, self.roster.places, self._shared
        times: dict[str, float] = {}
        rows = []
        for job, workers in self._idle_jobs([(places[ws.address][0], ws) for ws in idle_workers]):
            times[job] = began = since.get(job, now)
            if any(ws.actors for ws in workers) or (fixed and any(ws.address in fixed for ws in workers)):
                continue
            held = sum([ws.nbytes for ws in workers])
            rows.append([job, began, held, max(0, held - shared[job]) if job in shared else held])
        self._idle_since = times
        if rows != self._idle_rows:
            self._idle_rows = rows
            self._idle_version += 1

    def _idle_jobs(self, placed: Sequence[tuple[Any, Any]]) -> Iterable[tuple[str, Sequence[Any]]]:
        """Those jobs of which every worker is among these."""
        jobs = self.roster.jobs
        several: dict[str, list[Any]] = {}
        for job, ws in placed:
            size = len(jobs[job])
            if size == 1:
                yield job, (ws,)
            else:
                workers = several.setdefault(job, [])
                workers.append(ws)
                if len(workers) == size:
                    yield job, workers

    def _replicas(self, now: float) -> None:
        """Bytes held more than once; reads at most some thousand results, and at most 1 % of the time."""
        if now < self._replicas_next:
            return
        tasks = self.scheduler.replicated_tasks
        self._shared, self._replicated = {}, 0
        if not tasks:
            return
        places, read = self.roster.places, 0
        for ts in islice(tasks, REPLICAS_READ):
            read += 1
            nbytes = ts.get_nbytes()
            holders = Counter(places.get(ws.address, (None, None))[0] or ws.address for ws in ts.who_has or ())
            self._replicated += nbytes * (sum(holders.values()) - 1)
            if len(holders) > 1:
                for job, count in holders.items():
                    self._shared[job] = self._shared.get(job, 0) + nbytes * count
        self._replicated = self._replicated * len(tasks) // read
        self._replicas_next = now + 100 * (time() - now)

    def _groups(self, now: float) -> list[list[Any]]:
        """One row for each group and kind of task that is pending or holds results."""
        seceded = self._seceded()
        rows: list[list[Any]] = []
        self._first, first = {}, self._first
        self._unlearned = []
        self._assigned = sum(self.scheduler._task_prefix_count_global.values())
        for tg in self.scheduler.task_groups.values():
            states = tg.states
            pending = states["waiting"] + states["queued"] + states["no-worker"] + states["processing"]
            if not pending and not (states["memory"] and tg.nbytes_total):
                continue
            kinds = self.needs.groups.get(tg.name, {}) if self.needs.groups else {}
            mean_s, spread_s = self.durations.of(tg.prefix) if pending else (None, None)
            if pending and mean_s is None:
                self._unlearned.append(tg.prefix)
            after = [str(other.name) for other in tg.dependencies if other is not tg] if pending else []
            head = [str(tg.name), str(tg.prefix.name)]
            tail = [mean_s, spread_s, after]
            plain = dict(states)
            for kind, counts in kinds.items():
                for state, count in counts.items():
                    plain[state] -= count
                if any(counts[state] for state in PENDING):
                    rows.append([*head, *self._counts((tg.name, kind), counts, seceded, first, now), *tail, 0])
            held = self._held(tg)
            if held or any(plain[state] for state in PENDING):
                rows.append([*head, *self._counts((tg.name, PLAIN), plain, seceded, first, now), *tail, held])
        return rows

    @staticmethod
    def _held(tg: Any) -> int:
        """Bytes of its results that exist now; the scheduler counts what was produced, so this is in proportion."""
        states = tg.states
        produced = states["memory"] + states["released"] + states["forgotten"]
        return tg.nbytes_total * states["memory"] // produced if produced else 0

    def _counts(
        self,
        key: tuple[str, Kind],
        states: Mapping[str, int],
        seceded: Mapping[tuple[str, Kind], int],
        first: Mapping[tuple[str, Kind], float],
        now: float,
    ) -> list[Any]:
        kind, long_running = key[1], seceded.get(key, 0)
        assigned = states["processing"] - long_running
        done = sum(states[state] for state in FINISHED)
        running = min(self.heartbeats.running.get(key, 0), assigned)
        oldest_s = max(0.0, now - self.heartbeats.started[key]) if running > 0 else 0.0
        if (
            assigned == self._assigned > 0 and not done
        ):  # so whatever runs is one of these, since the first was assigned
            began = self._first[key] = first.get(key, now)
            running, oldest_s = max(running, 1), max(oldest_s, now - began)
        return [
            [list(item) for item in kind[0]],
            kind[1],
            assigned + states["queued"] + states["no-worker"],
            running,
            states["waiting"],
            done,
            states["no-worker"],
            long_running,
            oldest_s,
        ]

    def _seceded(self) -> dict[tuple[str, Kind], int]:
        counts: dict[tuple[str, Kind], int] = {}
        for crowd in self.roster.crowds.values():
            for ws in [ws for ws in crowd.listed() if ws.long_running]:
                for ts in ws.long_running:
                    key = (ts.group.name, self.needs.kind(ts))
                    counts[key] = counts.get(key, 0) + 1
        return counts

    # drains

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, busy: bool = False) -> dict[str, str]:
        """Call: take whole jobs out of service; for each why it was refused, or ""."""
        self._hear()
        deadline = time() + wait_s
        drains = [Drain(self, job, addresses, busy, deadline) for job, addresses in jobs.items()]
        self.drains.update(drains)
        try:
            for drain in drains:
                drain.mark()
            await asyncio.gather(*(drain.run() for drain in drains))
            await self._again([drain for drain in drains if drain.no_room])
        finally:
            self.drains.difference_update(drains)
        return {drain.job: drain.refusal for drain in drains}

    async def _again(self, crowded: list[Drain]) -> None:
        """Together these left nobody who takes their data: the smaller half moves theirs to the larger, and so on."""
        crowded.sort(key=lambda drain: sum(ws.nbytes for ws in drain.present()))
        while len(crowded) > 1:
            half = len(crowded) // 2
            for drain in crowded[:half]:
                drain.mark()
            await asyncio.gather(*(drain.run() for drain in crowded[:half]))
            crowded = crowded[half:]

    def amm(self) -> Any:
        """A memory manager of our own: nothing of ours can stay behind in the user's."""
        if self._amm is None:
            self._amm = ActiveMemoryManagerExtension(self.scheduler, policies=set(), register=False, start=False)
        return self._amm

    def kick_amm(self) -> None:
        """Run the memory manager once for all drains that ask in the same moment."""
        if not self._amm_kicked:
            self._amm_kicked = True
            asyncio.get_running_loop().call_soon(self._run_amm)

    def _run_amm(self) -> None:
        self._amm_kicked = False
        self.amm().run_once()

    def free_workers(self) -> list[tuple[float, int, Any]]:
        """A heap of the workers that take tasks, the least loaded first; shared by all drains for a moment."""
        now = time()
        if now > self._free_at + 0.1:
            running = enumerate(self.scheduler.running)
            self._free = [(len(ws.processing) / max(ws.nthreads, 1), i, ws) for i, ws in running]
            heapq.heapify(self._free)
            self._free_at = now
        return self._free

    async def restore(self, addresses: Iterable[str]) -> None:
        """Put those workers that still carry our mark into service again, and wait until they confirm."""
        again = self._unmark(addresses)
        for _ in range(100):
            workers = self.scheduler.workers
            if not any(a in workers and workers[a].status is Status.closing_gracefully for a in again):
                return
            await asyncio.sleep(0.01)

    def _unmark(self, addresses: Iterable[str]) -> list[str]:
        again = [address for address in addresses if address in self.marks]
        for address in again:
            tell_status(self.scheduler, address, self.marks.pop(address))
        return again

    def lift(self, why: str) -> None:
        """Put every marked worker into service again; running drains end with this reason."""
        for drain in self.drains:
            drain.stopped = why
        self._unmark(list(self.marks))

    # explanations

    def holders(self, jobs: int = 20, keys: int = 5) -> list[list[Any]]:
        """Call: which client wants which results of which job; the largest jobs first, at most so many."""
        self._hear()
        sizes = {job: sum(ws.nbytes for ws in wss.values()) for job, wss in self.roster.jobs.items()}
        largest = heapq.nlargest(jobs, (job for job in sizes if sizes[job]), key=lambda job: sizes[job])
        return [row for job in largest for row in self._holdings(job, keys)]

    def _holdings(self, job: str, keys: int) -> list[list[Any]]:
        found: dict[str, list[Any]] = {}
        for ws in self.roster.jobs[job].values():
            for ts in islice(ws.has_what, 10_000):
                for client in [c.client_key for c in ts.who_wants or ()] or [""]:
                    row = found.setdefault(client, [job, client, [], 0, 0])
                    row[3] += 1
                    row[4] += ts.get_nbytes()
                    if len(row[2]) < keys:
                        row[2].append(str(ts.key))
        return list(found.values())


class Scatter:
    """Dask's scatter call, counted: data under way to workers, and the clients that wait in it for a first one."""

    __name__ = "scatter"

    def __init__(self, inside: Inside, original: Any) -> None:
        self.inside = inside
        self.original = original

    async def __call__(self, **arguments: Any) -> Any:
        waits = not self.inside.scheduler.running
        self.inside.scattering += 1
        self.inside.waiting_clients += waits
        if waits:
            self.inside.tell("client waits")
        try:
            return await self.original(**arguments)
        finally:
            self.inside.scattering -= 1
            self.inside.waiting_clients -= waits


def described(ws: Any) -> dict[str, Any]:
    """What a cluster object shows of a worker, without what changes all the time."""
    identity: dict[str, Any] = ws.identity()
    return {name: value for name, value in identity.items() if name not in ("metrics", "last_seen")}
