"""What one decision costs, for 10 to 10,000 workers and a thousand to a million tasks.

The state is built by hand in a ``distributed.Scheduler`` that never starts: no comms, no clock, nothing but the
calls themselves. Medians with the garbage collector off, in milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from distributed import Scheduler, Status
from distributed.scheduler import TaskState, WorkerState

from benchmarks.report import Promise, markdown_table

__all__ = ["Cost", "build", "markdown", "measure", "promises"]

GROUPS = 10
"""Task groups, whatever the number of tasks."""

THREADS = 4

STATES = ("queued", "processing", "idle")
"""Every thread has a task and the others are queued; all are with the workers; all are done and kept."""

SIZES = (
    (10, 1_000),
    (10, 10_000),
    (10, 100_000),
    (10, 1_000_000),
    (100, 10_000),
    (1_000, 100_000),
    (10_000, 100_000),
    (10_000, 1_000_000),
)
"""(workers, tasks) of the cells; no worker without a task, so that cells differ in size only."""


# --- state -----------------------------------------------------------------------------------------------------


def add_worker(scheduler: Scheduler, number: int) -> WorkerState:
    """A running worker as ``Scheduler.add_worker`` would enter it, after a heartbeat."""
    address = f"tcp://10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:40000"
    ws = WorkerState(
        address=address,
        status=Status.running,
        pid=number,
        name=f"benchmrk.{number}-0-0",
        nthreads=THREADS,
        memory_limit=16 * 2**30,
        local_directory="",
        nanny=None,
        server_id=f"Worker-{number}",
        scheduler=scheduler,
    )
    ws.metrics = {
        "memory": 2**30,
        "managed_bytes": 0,
        "spilled_bytes": {"memory": 0, "disk": 0},
        "task_counts": {},
        "event_loop_interval": 0.02,
    }
    scheduler.workers[address] = ws
    scheduler.aliases[ws.name] = address
    scheduler.running.add(ws)
    scheduler.total_nthreads += THREADS
    scheduler.total_memory += ws.memory_limit
    return ws


def new_task(scheduler: Scheduler, number: int, state: str) -> TaskState:
    return scheduler.new_task((f"stage{number % GROUPS}", number), None, state)


def process(ts: TaskState, ws: WorkerState) -> None:
    ws.add_to_processing(ts)
    ts.processing_on = ws


def hold(scheduler: Scheduler, ts: TaskState, ws: WorkerState) -> None:
    ts.set_nbytes(1000)
    scheduler.add_replica(ts, ws)


def build(workers: int, tasks: int, state: str) -> Scheduler:
    """A scheduler in the middle of something. Needs a running event loop."""
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard=False, validate=False)
    present = [add_worker(scheduler, number) for number in range(workers)]
    for number in range(tasks):
        ws = present[number % workers]
        if state == "idle":
            hold(scheduler, new_task(scheduler, number, "memory"), ws)
        elif state == "processing" or number < workers * THREADS:
            process(new_task(scheduler, number, "processing"), ws)
        else:
            ts = new_task(scheduler, number, "queued")
            ts.priority = (0, 0, number)
            scheduler.queued.add(ts)
    for prefix in scheduler.task_prefixes.values():
        prefix.duration_average = 0.5
    for ws in present:
        scheduler.check_idle_saturated(ws)
    return scheduler
