"""What the tests of the drop-in share: somebody else's clusters with workers in this process, gates, and counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from distributed import Client, Scheduler, SpecCluster, Worker
from distributed.core import Status, rpc
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.deploy.spec import ProcessInterface
from tests.waiting import LIMIT_S, until

from dask_adaptive import Adaptive

from .gates import GATES, RUNS, fresh, gate  # noqa: F401  for those who import from here

QUICK = {"interval": "50 ms", "wait_count": 2}
"""Options of ``adapt`` that give up what is idle at once."""
HOST = {"host": "127.0.0.1", "dashboard": False}


def hold(name: str, gate_name: str = "") -> str:
    """A task that runs until its gate opens."""
    RUNS[name] += 1
    gate(gate_name or name).wait(LIMIT_S)
    return name


def quick(x: Any) -> Any:
    RUNS[x] += 1
    return x


class Counting:
    """An actor."""

    def __init__(self) -> None:
        self.n = 0

    def increment(self) -> int:
        self.n += 1
        return self.n


class Several(ProcessInterface):
    """A job of several workers, named ``<job>-<i>``."""

    def __init__(self, scheduler: str, name: Any, workers: int = 2, **options: Any) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self.workers = [Worker(scheduler, name=f"{name}-{i}", **options) for i in range(workers)]

    async def start(self) -> None:
        await asyncio.gather(*self.workers)
        await super().start()

    async def close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self.workers))
        await super().close()


@asynccontextmanager
async def specified(
    kind: Any = Worker, group: int = 0, cluster: type[SpecCluster] = SpecCluster, **options: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """An empty ``SpecCluster`` with workers in this process, and a client."""
    worker: dict[str, Any] = {"cls": kind, "options": {"nthreads": 1, **HOST, **options}}
    if group:
        worker["group"] = [f"-{i}" for i in range(group)]
    scheduler = {"cls": Scheduler, "options": {**HOST, "dashboard_address": ":0"}}
    async with cluster(scheduler=scheduler, worker=worker, asynchronous=True) as one, client_of(one) as client:
        yield one, client
    await until(lambda: not closing())


def closing() -> list[Worker]:
    """Workers of this loop whose end has begun: one that is cancelled in it never ends, and neither does its loop."""
    begun = [worker for worker in Worker._instances if worker.status in (Status.closing, Status.closed)]
    here = [worker for worker in begun if worker.loop.asyncio_loop is asyncio.get_running_loop()]
    return [worker for worker in here if not worker._event_finished.is_set()]


def client_of(cluster: Any) -> Any:
    return Client(cluster, asynchronous=True, set_as_default=False)


def adapt(cluster: Any, **options: Any) -> Adaptive:
    """The drop-in, as its users write it."""
    adaptive: Adaptive = cluster.adapt(Adaptive=Adaptive, **{**QUICK, **options})
    return adaptive


def names(cluster: Any) -> set[str]:
    """Names of the workers that the scheduler knows."""
    return {str(ws.name) for ws in cluster.scheduler.workers.values()}


def submitted(adaptive: Adaptive) -> int:
    """How many jobs were ever asked for."""
    return sum(submit.count for record in adaptive.records for submit in record.plan.submits)


async def rounds(adaptive: Adaptive, count: int = 5) -> None:
    """Wait for so many more rounds."""
    begin = number(adaptive)
    await until(lambda: number(adaptive) >= begin + count)


def number(adaptive: Adaptive) -> int:
    takeover: Any = adaptive._takeover
    record = takeover.controller and takeover.controller.record
    return record.number if record else 0


def reasons(adaptive: Adaptive) -> str:
    """All that was said about what was done."""
    return "\n".join(entry["reason"] for _, entry in adaptive.log)


def ours(scheduler: Any) -> list[str]:
    """What of ours is in a scheduler."""
    found = [*scheduler.plugins, *scheduler.handlers]
    return [name for name in found if str(name).startswith("dask-adaptive")]


class HandMade:
    """Starts workers in this process; for the hand-written clusters."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.address = scheduler.address
        self.workers: list[Worker] = []
        self.asked: list[int] = []
        self.released: list[Any] = []

    async def up(self, n: int) -> None:
        self.asked.append(n)
        alive = [worker for worker in self.workers if worker.status.name in ("init", "running")]
        new = [Worker(self.address, nthreads=1, **HOST) for _ in range(n - len(alive))]
        self.workers += new
        await asyncio.gather(*new)

    async def down(self, workers: Any) -> None:
        self.released += workers
        gone = [worker for worker in self.workers if worker.address in workers]
        await asyncio.gather(*(worker.close() for worker in gone))

    async def close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self.workers))


class HandWritten(DaskCluster):
    """The least that a cluster of Dask's can be."""

    def __init__(self, scheduler: Scheduler, made: HandMade) -> None:
        super().__init__(asynchronous=True)
        self.scheduler_comm = rpc(scheduler.address)
        self.made = made

    async def scale_up(self, n: int) -> None:
        await self.made.up(n)

    async def scale_down(self, workers: Any) -> None:
        await self.made.down(workers)


class HandWrittenPlain(HandWritten):
    """The same with plain functions that start and do not wait."""

    def scale_up(self, n: int) -> None:  # type: ignore[override]
        self.tasks = [*getattr(self, "tasks", []), asyncio.ensure_future(self.made.up(n))]

    def scale_down(self, workers: Any) -> None:  # type: ignore[override]
        self.tasks.append(asyncio.ensure_future(self.made.down(workers)))


Options = Mapping[str, Any]
