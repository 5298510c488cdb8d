"""What runs inside the Dask scheduler: counts, pushes and drains.

This file travels to the scheduler as text, with those of the folder ``inside``. Every name of ``distributed`` that is
not public API is in ``inside/names.py``.

A look costs groups and workers, never tasks. While no task has resources or restrictions there is no transition hook.
"""
# ruff: noqa: ARG002, SLF001  Dask decides on the arguments of hooks; private names are what ``NAMES`` is for

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from time import monotonic
from typing import Any

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from .inside.counts import Counts
from .inside.drains import Drains
from .inside.names import NAMES, missing_names
from .inside.needs import ANNOTATED, Needs
from .inside.pushes import Pushes, described
from .inside.roster import Roster
from .inside.scatter import Scatter
from .inside.timing import Durations

__all__ = ["NAMES", "Durations", "Inside"]

TICK_MS = 50
SHARE_OUTS = 5
LEAVING = "dask-adaptive-leaving"  # the event by which a worker tells that it was told to end


class Inside(SchedulerPlugin):
    """The scheduler's half of one engine: its calls, its pushes, its marks."""

    def __init__(self, **config: Any) -> None:
        self.config = config
        self.name = config["name"]
        self.roster = Roster(config)
        self.pushes = Pushes()
        self.leaving: dict[str, str] = {}
        self.heard = monotonic()
        self._counter = -1
        self._backlog = 0
        self._active = False
        self._share_outs = 0
        self._share_next = 0.0

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
        self.counts = Counts(scheduler, self.roster, self.needs)
        self.scatter = Scatter(scheduler, self.pushes.tell)
        self.drains = Drains(scheduler, self.roster, self.scatter)
        self.calls: dict[str, Callable[..., Any]] = {
            f"{self.name}-{call.__name__}": call
            for call in (self.look, self.declare, self.watch, self.drain, self.holders, self.owner, self.detach)
        }
        scheduler.handlers.update(self.calls)
        self.scatter.wrap()
        self._ticker = PeriodicCallback(self._tick, TICK_MS)
        self._ticker.start()

    def stop(self) -> None:
        """Take everything out again; idempotent."""
        self._ticker.stop()
        self.drains.lift("the controller went away")
        self.scatter.unwrap()
        handlers = self.scheduler.handlers
        for name, call in self.calls.items():
            if handlers.get(name) == call:
                del handlers[name]
        self.needs.detach()
        if self.scheduler.plugins.get(self.name) is self:
            del self.scheduler.plugins[self.name]
        self.pushes.end()

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
        self.pushes.tell("worker joined", ["add", worker, described(ws)])

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        self.roster.drop(worker)
        self.drains.marks.pop(worker, None)
        self.leaving.pop(worker, None)
        self.pushes.tell("worker left", ["remove", worker, None])

    def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
        annotations = kwargs.get("annotations") or {}
        if any(name in annotations for name in ANNOTATED):
            self.needs.update(annotations)
        self._active = True
        self.pushes.tell("graph")

    def log_event(self, topic: str, msg: Any) -> None:
        """A worker that was told to end says so: its job is to be drained."""
        if topic != LEAVING or not isinstance(msg, dict):
            return
        address = str(msg.get("worker"))
        job = self.roster.places.get(address, (None, None))[0]
        if job is not None and address not in self.leaving:
            self.leaving[address] = job
            self.pushes.tell("a worker was told to end")

    def restart(self, scheduler: Any) -> None:
        self.needs.restart(scheduler)
        self.counts.restart()
        self.pushes.tell("restart")

    # pushes

    async def watch(self, comm: Any, details: bool = False) -> Any:
        """Call: push words, and with ``details`` workers, over this connection from now on."""
        self._hear()
        return await self.pushes.watch(comm, self.scheduler.workers, details)

    def _tick(self) -> None:
        """Every 50 ms; constant cost while nothing happened."""
        if self.drains.marks and monotonic() - self.heard > self.config["silent_s"]:
            self.drains.lift("the controller has been silent for too long")
        if self._share_outs:
            self._share_out()
        if self.scheduler.transition_counter == self._counter:
            return
        self._counter = self.scheduler.transition_counter
        if self.counts.learned():
            self.pushes.tell("learned")
        waiting = self._waiting_for_threads()
        if waiting > 2 * max(self._backlog, 0):
            self._backlog = waiting
            self.pushes.tell("demand")
        active = waiting + self.scheduler.total_nthreads > 0
        if self._active and not active:
            active = any(ws.long_running for ws in self.scheduler.workers.values())
        if self._active and not active:
            self.pushes.tell("quiet")
        self._active = active

    def _share_out(self) -> None:
        """Work stealing looks at once, and not within a second, what a worker that joined could do.

        More than once, as a task that it asks for may run already; at most 5 % of the time.
        """
        began = monotonic()
        stealing = self.scheduler.extensions.get("stealing")
        if stealing is None or "stealing" not in self.scheduler.periodic_callbacks:  # off, or stopped
            self._share_outs = 0
        elif began >= self._share_next:
            self._share_outs -= 1
            stealing.balance()
            self._share_next = monotonic() + 20 * (monotonic() - began)

    def _waiting_for_threads(self) -> int:
        """Ready tasks beyond the threads there are; negative where threads are free."""
        s = self.scheduler
        assigned: int = sum(s._task_prefix_count_global.values())
        return assigned + len(s.queued) + len(s.unrunnable) - int(s.total_nthreads)

    # calls

    def _hear(self) -> None:
        self.heard = monotonic()

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
        self._backlog = self._waiting_for_threads()
        load = self.counts.look(self.drains.marks, members, idle)
        return {**load, "waiting_clients": self.scatter.waiting, "leaving": sorted(set(self.leaving.values()))}

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, busy: bool = False) -> dict[str, str]:
        """Call: take whole jobs out of service; for each why it was refused, or ""."""
        self._hear()
        return await self.drains.drain(jobs, wait_s, busy)

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
