"""How much there is to do, and who does it. A look costs groups and workers, never tasks."""
# ruff: noqa: SLF001  private names are what ``NAMES`` is for

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from time import monotonic, time_ns
from typing import Any

from distributed.metrics import time

from .drain import shuffling
from .needs import PLAIN, Kind, Needs
from .roster import Roster
from .timing import Durations, Heartbeats

__all__ = ["Counts"]

PENDING = ("waiting", "queued", "no-worker", "processing")
FINISHED = ("memory", "released", "erred", "forgotten")
REPLICAS_READ = 2_000


class Counts:
    """The load as rows of numbers, and what has to be remembered from look to look."""

    def __init__(self, scheduler: Any, roster: Roster, needs: Needs) -> None:
        self.scheduler = scheduler
        self.roster = roster
        self.needs = needs
        self.durations = Durations()
        self.heartbeats = Heartbeats()
        self._unlearned: list[Any] = []
        self._first: dict[tuple[str, Kind], float] = {}
        self._assigned = 0
        self._idle_since: dict[str, float] = {}
        self._idle_rows: list[list[Any]] = []
        self._idle_state: tuple[Any, ...] = ()
        self._idle_version = time_ns()
        self._shared: dict[str, int] = {}
        self._replicated = 0
        self._replicas_next = 0.0

    def restart(self) -> None:
        """The scheduler forgot everything."""
        self.durations = Durations()

    def learned(self) -> bool:
        """Whether a first task of a kind has ended that was unknown at the last look; once."""
        if not any(prefix.duration_average >= 0 for prefix in self._unlearned):
            return False
        self._unlearned = []
        return True

    def look(self, leaving: Iterable[str], members: int, idle: int) -> dict[str, Any]:
        """The load; workers that are ``leaving`` are not idle, of ``members`` and ``idle`` the caller has a version."""
        now, s, roster = time(), self.scheduler, self.roster
        self.heartbeats.read(roster, self.needs)
        self._replicas()
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
        self._idle(idle_workers, set(leaving), now)
        return {
            "now": now,
            "groups": self._groups(now),
            "pools": pools,
            "foreign": foreign,
            "members_version": roster.version,
            "members": None if members == roster.version else roster.members(),
            "idle_version": self._idle_version,
            "idle": None if idle == self._idle_version else self._idle_rows,
            "replicated": self._replicated,
        }

    def _idle(self, idle_workers: list[Any], leaving: set[str], now: float) -> None:
        """The jobs whose workers are all idle, and since when; nothing to do where nothing can have changed."""
        fixed = shuffling(self.scheduler) | leaving
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

    def _replicas(self) -> None:
        """Bytes held more than once; reads at most some thousand results, and at most 1 % of the time."""
        now = monotonic()
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
        self._replicas_next = now + 100 * (monotonic() - now)

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
        if assigned == self._assigned > 0 and not done:  # whatever runs is one of these, since the first was assigned
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
