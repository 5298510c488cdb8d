"""All jobs on their way out of service."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from distributed.active_memory_manager import ActiveMemoryManagerExtension
from distributed.core import Status

from .drain import Drain, tell_status
from .roster import Roster
from .scatter import Scatter

__all__ = ["Drains"]


class Drains:
    """The jobs on their way out of one scheduler, what they share, and the marks on their workers."""

    def __init__(self, scheduler: Any, roster: Roster, scatter: Scatter) -> None:
        self.scheduler = scheduler
        self.roster = roster
        self.scatter = scatter
        self.marks: dict[str, str] = {}
        self.moving = 0
        self._running: set[Drain] = set()
        self._amm: Any = None
        self._amm_kicked = False
        self._free: list[tuple[float, int, Any]] = []
        self._free_at = 0.0

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, busy: bool = False) -> dict[str, str]:
        """Take whole jobs out of service; for each why it was refused, or ""."""
        deadline = monotonic() + wait_s
        drains = [Drain(self, job, addresses, busy, deadline) for job, addresses in jobs.items()]
        self._running.update(drains)
        try:
            for drain in drains:
                drain.mark()
            await asyncio.gather(*(drain.run() for drain in drains))
            await self._again([drain for drain in drains if drain.no_room])
        finally:
            self._running.difference_update(drains)
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
        now = monotonic()
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
        for drain in self._running:
            drain.stopped = why
        self._unmark(list(self.marks))
