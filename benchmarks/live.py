"""One cell: a shape of work on a real scheduler and real workers, sized by one rival.

Every cell runs in a process of its own (``python -m benchmarks.live SHAPE RIVAL DELAY_S REPEAT``) and prints one
line of JSON. The cluster is a ``distributed.SpecCluster`` whose workers live in the same process and wait
``delay_s`` before they serve; what a worker costs is billed from the moment it is asked for until it is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Scheduler, SchedulerPlugin, SpecCluster, Worker

from benchmarks.rivals import RIVALS, Rival
from benchmarks.shapes import SHAPES, STARTED, Session, Workload

__all__ = ["Case", "Cell", "measure", "run_case"]

COOL_DOWN_S = 6.0
"""How long every run goes on after the work is done, so that scaling down is paid for by everyone alike."""

LIMIT_S = 90.0
"""A rival that needs longer than this for a shape is said to hang."""

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Case:
    """What one cell measures."""

    shape: str
    rival: str
    delay_s: float
    repeat: int = 0

    def __str__(self) -> str:
        return f"{self.shape}, start-up {self.delay_s:g} s, {self.rival}"


@dataclass(frozen=True)
class Cell:
    """What one cell measured.

    ``response_s`` sums what the user waited; ``worker_s`` is billed, ``starting_s`` of it before workers served;
    ``first_request_s`` from the first graph to the first worker asked for (None if it was asked for before).
    ``size`` is the number of workers over time, from then on. ``failure`` is "" for a run that ended with its results.
    """

    case: Case
    failure: str = ""
    response_s: float = 0.0
    worker_s: float = 0.0
    starting_s: float = 0.0
    starts: int = 0
    repeated: int = 0
    first_request_s: float | None = None
    size: tuple[tuple[float, int], ...] = ()


# --- billing ---------------------------------------------------------------------------------------------------


@dataclass
class Bill:
    """When one worker was asked for, served, and was closed; on the clock of ``time.monotonic``."""

    requested_s: float = field(default_factory=time.monotonic)
    serving_s: float | None = None
    closed_s: float | None = None


class BilledWorker(Worker):
    """A worker that takes ``delay_s`` to start and keeps its bill.

    Its process memory is what its results claim to be, since no worker here has a process of its own.
    """

    def __init__(self, *args: Any, bills: list[Bill], delay_s: float, **kwargs: Any) -> None:
        self.bill = Bill()
        self.delay_s = delay_s
        bills.append(self.bill)
        super().__init__(*args, **kwargs)

    async def start_unsafe(self) -> Any:
        await asyncio.sleep(self.delay_s)
        started = await super().start_unsafe()
        self.bill.serving_s = time.monotonic()
        return started

    async def get_metrics(self) -> dict[str, Any]:
        metrics = await super().get_metrics()
        metrics["memory"] = 64 * 2**20 + metrics["managed_bytes"]
        return metrics

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().close(*args, **kwargs)
        finally:
            self.bill.closed_s = self.bill.closed_s or time.monotonic()


def billed_s(bills: list[Bill], end_s: float) -> float:
    """Worker-seconds from each request until the worker was closed or the run ended."""
    return sum(min(bill.closed_s or end_s, end_s) - bill.requested_s for bill in bills)


def starting_s(bills: list[Bill], end_s: float) -> float:
    """The part of ``billed_s`` before the workers served."""
    return sum(min(bill.serving_s or end_s, bill.closed_s or end_s, end_s) - bill.requested_s for bill in bills)


def size_over_time(bills: list[Bill], zero_s: float) -> tuple[tuple[float, int], ...]:
    """(seconds since ``zero_s``, workers asked for and not closed) at each change."""
    changes = [(bill.requested_s, 1) for bill in bills] + [(bill.closed_s, -1) for bill in bills if bill.closed_s]
    size, points = 0, []
    for at_s, change in sorted(changes):
        size += change
        points.append((round(at_s - zero_s, 3), size))
    return tuple(points)


class FirstGraph(SchedulerPlugin):
    """When the scheduler got its first graph, on the clock of ``time.monotonic``."""

    name = "benchmark-first-graph"

    def __init__(self) -> None:
        self.at_s: float | None = None

    def update_graph(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self.at_s = self.at_s or time.monotonic()


# --- a run -----------------------------------------------------------------------------------------------------


def make_cluster(workload: Workload, delay_s: float, bills: list[Bill]) -> SpecCluster:
    """The cluster that every rival gets: empty, on loopback."""
    options = {
        "nthreads": workload.threads,
        "resources": dict(workload.resources),
        "memory_limit": workload.memory_bytes,
        "host": "127.0.0.1",
        "dashboard": False,
        "bills": bills,
        "delay_s": delay_s,
    }
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"}},
        worker={"cls": BilledWorker, "options": options},
        asynchronous=True,
        silence_logs=logging.WARNING,
    )


async def measure(
    case: Case,
    workload: Workload,
    rival: Rival,
    *,
    cool_down_s: float = COOL_DOWN_S,
    limit_s: float = LIMIT_S,
) -> Cell:
    """Run the workload on a cluster of its own. The rival does not know when, within its interval, work arrives."""
    bills: list[Bill] = []
    STARTED.clear()
    thresholds = dict.fromkeys(("target", "spill", "pause", "terminate"), False)
    dask.config.set({"adaptive.history": False})  # every run is the first one
    phase_s = random.Random(f"{case.shape} {case.delay_s} {case.repeat}").uniform(0.5, 1.5)
    with dask.config.set({f"distributed.worker.memory.{name}": value for name, value in thresholds.items()}):
        cluster = await make_cluster(workload, case.delay_s, bills)
        client = await Client(cluster, asynchronous=True, set_as_default=False)
        session, failure, first_graph = Session(client), "", FirstGraph()
        cluster.scheduler.add_plugin(first_graph)
        try:
            rival.take_over(cluster)
            await asyncio.sleep(phase_s)
            await asyncio.wait_for(workload.run(session), limit_s)
        except asyncio.TimeoutError:
            failure = f"no result within {limit_s:g} s"
        except Exception as error:  # noqa: BLE001 (whatever went wrong is what this rival did)
            failure = f"{type(error).__name__}: {error}"[:300]
        await asyncio.sleep(cool_down_s)
        cell = summary(case, session, bills, first_graph.at_s, failure)
        with suppress(Exception):
            await asyncio.wait_for(client.close(), 10)
            await asyncio.wait_for(cluster.close(), 20)
    return cell


def summary(case: Case, session: Session, bills: list[Bill], graph_s: float | None, failure: str) -> Cell:
    """The cell as of now."""
    end_s = time.monotonic()
    zero_s = end_s if graph_s is None else graph_s
    first_s = min((bill.requested_s for bill in bills), default=zero_s) - zero_s
    return Cell(
        case=case,
        failure=failure,
        response_s=sum(session.responses),
        worker_s=billed_s(bills, end_s),
        starting_s=starting_s(bills, end_s),
        starts=len(bills),
        repeated=sum(count - 1 for count in Counter(STARTED).values()),
        first_request_s=first_s if first_s > 0 else None,
        size=size_over_time(bills, zero_s),
    )


# --- a run in a process of its own -----------------------------------------------------------------------------


async def run_case(case: Case) -> Cell:
    """Measure in a new process; one that fails or hangs is a cell that says so."""
    arguments = [case.shape, case.rival, str(case.delay_s), str(case.repeat)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.live", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60 + LIMIT_S + COOL_DOWN_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return Cell(case, failure="the process hung")
    for line in out.decode().splitlines():
        if line.startswith("{"):
            return cell_from(json.loads(line))
    words = err.decode().strip().splitlines() or ["no output"]
    return Cell(case, failure=words[-1][:300])


def cell_from(values: dict[str, Any]) -> Cell:
    """The cell that ``asdict`` took apart."""
    size = tuple((at_s, workers) for at_s, workers in values["size"])
    return Cell(**{**values, "case": Case(**values["case"]), "size": size})


def main(shape: str, rival: str, delay_s: str, repeat: str) -> None:
    case = Case(shape, rival, float(delay_s), int(repeat))
    cell = asyncio.run(measure(case, SHAPES[shape], RIVALS[rival]))
    print(json.dumps(asdict(cell)), flush=True)
    os._exit(0)  # a task that was dropped may still sleep in its thread


if __name__ == "__main__":
    main(*sys.argv[1:])
