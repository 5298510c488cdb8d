"""Which workers are ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from operator import attrgetter
from time import time_ns
from typing import Any

from distributed.core import Status
from distributed.protocol import pickle

__all__ = ["Crowd", "Roster"]


class Crowd:
    """The workers of one pool, with the sums that do not change while nobody joins or leaves."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}
        self._listed: list[Any] | None = None
        self._threads = self._memory = 0

    def put(self, ws: Any) -> None:
        """A worker joins."""
        self.workers[ws.address] = ws
        self._listed = None

    def drop(self, address: str) -> None:
        """A worker leaves."""
        del self.workers[address]
        self._listed = None

    def listed(self) -> list[Any]:
        """All of them."""
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
        """A worker joins, in its place."""
        job, pool = self.places[ws.address] = self.place(ws)
        self.crowds.setdefault(pool, Crowd()).put(ws)
        if job is not None:
            self.jobs.setdefault(job, {})[ws.address] = ws
            self.version += 1

    def drop(self, address: str) -> None:
        """A worker leaves, wherever it was."""
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
        """Address and name of each worker, by job."""
        return {job: [[ws.address, str(ws.name)] for ws in wss.values()] for job, wss in self.jobs.items()}
