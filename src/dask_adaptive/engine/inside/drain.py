"""One job on its way out of service."""
# ruff: noqa: SLF001  private names are what ``NAMES`` is for

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from distributed.active_memory_manager import RetireWorker
from distributed.core import CommClosedError, Status
from distributed.metrics import time

if TYPE_CHECKING:
    from .drains import Drains

__all__ = ["Drain", "shuffling", "tell_status"]

SERVING = (Status.running, Status.paused)
PAUSE = 0.8
"""Part of a worker's memory limit above which it pauses, as Dask has it by default."""


class Refused(Exception):
    """Why a job stays in service."""


class Drain:
    """One job on its way out: mark, let the work end or move, move the data, look again, remove."""

    def __init__(self, drains: Drains, job: str, addresses: Sequence[str], busy: bool, deadline: float) -> None:
        self.drains = drains
        self.scheduler = drains.scheduler
        self.job = job
        self.addresses = tuple(dict.fromkeys([*drains.roster.jobs.get(job, ()), *addresses]))
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
            self.drains.marks[ws.address] = ws.status.name
            self.scheduler.handle_worker_status_change(Status.closing_gracefully, ws, f"drain-{time()}")
            tell_status(self.scheduler, ws.address, "closing_gracefully")

    def _may_go(self, present: Sequence[Any]) -> None:
        in_shuffle = shuffling(self.scheduler)
        for ws in present:
            if ws.address in self.drains.marks or ws.status not in SERVING:
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
                self._nobody_came()
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
            await self.drains.restore(self.addresses)

    def _nobody_came(self) -> None:
        """A nanny may start a worker of the job again in the middle of a drain: then it is no longer what we marked."""
        if any(address not in self.addresses for address in self.drains.roster.jobs.get(self.job, ())):
            raise Refused("a worker of it came back meanwhile")

    async def _pause(self, seconds: float, late: str) -> None:
        if self.stopped:
            raise Refused(self.stopped)
        if monotonic() >= self.deadline:
            raise Refused(late)
        await asyncio.sleep(min(seconds, max(0.0, self.deadline - monotonic())))

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
        stealing, now = self.scheduler.extensions.get("stealing"), monotonic()
        moves, free = self._moves(), self.drains.free_workers()
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
        marks = self.drains.marks

        def leaves(holder: Any) -> bool:
            return holder.address in marks or holder.status not in SERVING

        return [ts for ts in ws.has_what if not ts.actor and all(map(leaves, ts.who_has))]

    async def _move_data(self) -> None:
        only = [ts for ws in self.present() for ts in self._only_here(ws)]
        if not only:
            return
        nbytes = self._need_room(only)
        self.drains.moving += nbytes
        amm = self.drains.amm()
        policies = [RetireWorker(ws.address) for ws in self.present()]
        kicked = 0.0
        try:
            while any(self._only_here(ws) for ws in self.present()):
                if monotonic() > kicked + 1.0:
                    kicked = monotonic()
                    for policy in policies:
                        amm.add_policy(policy)  # again, since one that found nothing to do takes itself out
                    self.drains.kick_amm()
                await self._pause(max(0.01, min(0.5, len(only) / 400)), "its data did not move in time")
                if any(policy.no_recipients for policy in policies):
                    self.no_room = True
                    raise Refused(f"no other worker takes the only copies of {len(only)} results")
        finally:
            self.drains.moving -= nbytes
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
        if all(ws.memory_limit for ws in running) and nbytes > free - self.drains.moving:
            self.no_room = True
            raise Refused(f"no room for its data: {nbytes} bytes, and {int(free)} free on the other workers")
        return nbytes

    # end

    async def _remove(self) -> bool:
        """Look again and remove without an await in between; False when something came up meanwhile."""
        lock = self.scheduler._replica_lock("retire-workers")
        try:
            await asyncio.wait_for(lock.__aenter__(), max(0.1, self.deadline - monotonic()))
        except asyncio.TimeoutError:
            raise Refused("a rebalance or replicate did not end in time") from None
        try:
            in_shuffle = shuffling(self.scheduler)
            for ws in self.present():
                self._nobody_came()  # also while one of them was removed: the others are to stay then
                self._holds_nothing_fixed(ws, in_shuffle)
                if self.stopped:
                    raise Refused(self.stopped)
                if ws.processing or self._only_here(ws) or self.drains.scatter.under_way:
                    return False
                await self.scheduler.remove_worker(
                    ws.address, expected=True, close=True, stimulus_id=f"drained-{time()}"
                )
                self.drains.marks.pop(ws.address, None)
            self._nobody_came()
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
