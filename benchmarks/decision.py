"""What one decision costs, for 10 to 10,000 workers and a thousand to a million tasks.

The state is built by hand in a ``distributed.Scheduler`` that never starts: no comms, no clock, nothing but the
calls themselves. Medians with the garbage collector off, in milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Scheduler, Status
from distributed.protocol import dumps
from distributed.scheduler import TaskState, WorkerState

from benchmarks.promises import Promise
from benchmarks.report import markdown_table
from dask_adaptive.engine import plugin
from dask_adaptive.engine.inside import counts, timing
from dask_adaptive.engine.reading import Reader
from dask_adaptive.model import WORKER_NAME, Life, Limits, Phase, Pool, PoolState, Shape, Snapshot, Startup, worker_name
from dask_adaptive.plan import checked, make_plan, view_of
from dask_adaptive.policy.classic import TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import FRESH, Policy
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.upkeep import overdue

__all__ = ["Cost", "build", "markdown", "measure", "promises"]

GROUPS = 10
"""Task groups, whatever the number of tasks."""

THREADS = 4

TAG = "benchmrk"
"""Tag of the jobs; one worker each."""

LOOKS = 5
"""Looks in a row that are measured as one; with 10,000 workers a heartbeat comes every 50 s, and is read every 5 s."""

STATES = ("queued", "processing", "half", "idle")
"""Every thread has a task and the others are queued; all are with the workers; all are with every other worker and
the rest is idle; all are done and kept."""

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
        name=worker_name(f"{TAG}.{number}", 0),
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
    if len(ws.executing) < THREADS:
        ws.executing[ts] = 0.1


def hold(scheduler: Scheduler, ts: TaskState, ws: WorkerState) -> None:
    ts.set_nbytes(1000)
    scheduler.add_replica(ts, ws)


def build(workers: int, tasks: int, state: str) -> Scheduler:
    """A scheduler in the middle of something. Needs a running event loop."""
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0", validate=False)
    present = [add_worker(scheduler, number) for number in range(workers)]
    for number in range(tasks):
        ws = present[number % workers if state != "half" else 2 * number % workers]
        if state == "idle":
            hold(scheduler, new_task(scheduler, number, "memory"), ws)
        elif state in ("processing", "half") or number < workers * THREADS:
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


# --- clocks ----------------------------------------------------------------------------------------------------


def median_ms(call: Callable[[], Any], enough_s: float = 0.3, least: int = 7, most: int = 200) -> float:
    """The median time of a call, with the garbage collector off."""
    times: list[float] = []
    call()
    gc.collect()
    gc.disable()
    try:
        while len(times) < least or (sum(times) < enough_s and len(times) < most):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return 1000 * statistics.median(times)


@dataclass(frozen=True)
class Cost:
    """Milliseconds per decision. ``look_ms`` and ``dask_ms`` are spent in the scheduler, ``think_ms`` beside it.

    ``give_up_ms`` is the one round in which patience ends and every idle job is given up, the look left out.
    ``tick_ms`` is spent in the scheduler for every tick of the plug-in, whether anybody looks or not.
    """

    workers: int
    tasks: int
    state: str
    dask_target_ms: float
    dask_close_ms: float
    look_ms: float
    think_ms: float
    give_up_ms: float
    tick_ms: float

    @property
    def dask_ms(self) -> float:
        return self.dask_target_ms + self.dask_close_ms

    @property
    def ours_ms(self) -> float:
        return self.look_ms + self.think_ms


class Ours:
    """One round of ours against such a state: the look inside the scheduler, and what the controller makes of it.

    Looks are one second apart on the plug-in's clock, since it reads some numbers no oftener than heartbeats come,
    and tasks changed their states between them, since it remembers what did not change.
    """

    def __init__(self, scheduler: Scheduler, workers: int, state: str) -> None:
        self.inside = plugin.Inside(
            name="benchmark",
            everything=False,
            pattern=WORKER_NAME.pattern,
            prefix="",
            worker_key=None,
            silent_s=30.0,
        )
        self.scheduler, self.state = scheduler, state
        self.passed_s = 0.0
        counts.time = lambda: time.time() + self.passed_s
        for module in (plugin, counts, timing):
            module.monotonic = lambda: time.monotonic() + self.passed_s
        self.inside.start(scheduler)
        self.inside.declare({TAG: "default"}, {})
        self.reader = Reader(time.time)
        self.policy: Policy = standard(CostAware(), 3.0)
        self.impatient: Policy = TargetDuration()
        shape = Shape(threads=THREADS, memory_bytes=16 * 2**30)
        pool = Pool("default", shape, Limits(0, workers))
        self.pools = {"default": PoolState(pool, Startup((1.0,), (3.0,)))}
        self.lives = {
            name: Life(name, "default", Phase.READY, 0.0, present=1, served=True)
            for name in (f"{TAG}.{number}" for number in range(workers))
        }

    def look(self) -> Any:
        """The scheduler's part, its answer on the wire included."""
        answer = self.inside.look(members=self.reader.members_version, idle=self.reader.idle_version)
        dumps(answer)
        return answer

    def happen(self) -> None:
        """Tasks change their states all the time, but for an idle cluster."""
        if self.state != "idle":
            self.scheduler.transition_counter += 1

    def tick(self) -> None:
        """What the plug-in does every ``TICK_MS``."""
        self.happen()
        self.inside._tick()

    def think(self, answer: Any, policy: Policy | None = None) -> Any:
        """The controller's part, with the default policy."""
        policy = policy or self.policy
        now_s = time.time()
        snapshot = Snapshot(now_s, 1.0, self.reader.load(answer), self.lives, self.pools)
        view = view_of(snapshot)
        target, _ = policy.decide(view, FRESH)
        return make_plan(snapshot, checked(target, view), view), overdue(snapshot)

    def looks(self) -> None:
        """So many looks, one second apart."""
        for _ in range(LOOKS):
            self.passed_s += 1.0
            self.happen()
            self.look()


async def cost_of(workers: int, tasks: int, state: str) -> Cost:
    scheduler = build(workers, tasks, state)
    ours = Ours(scheduler, workers, state)
    try:
        ours.think(ours.look())
        answer = ours.look()
        return Cost(
            workers,
            tasks,
            state,
            dask_target_ms=median_ms(lambda: dumps(scheduler.adaptive_target())),
            dask_close_ms=median_ms(lambda: dumps(scheduler.workers_to_close(target=workers // 2, attribute="name"))),
            look_ms=median_ms(ours.looks) / LOOKS,
            think_ms=median_ms(lambda: ours.think(answer)),
            give_up_ms=median_ms(lambda: ours.think(answer, ours.impatient)),
            tick_ms=median_ms(ours.tick),
        )
    finally:
        ours.inside.stop()


def measure(say: Callable[[str], None]) -> list[Cost]:
    """Every size in every state."""
    costs = []
    for state in STATES:
        for workers, tasks in SIZES:
            cost = asyncio.run(cost_of(workers, tasks, state))
            size = f"{workers:,} workers, {tasks:,} tasks {state}"
            say(f"[decision] {size}: Dask {cost.dask_ms:.3f} ms, ours {cost.look_ms:.3f} + {cost.think_ms:.3f} ms")
            costs.append(cost)
    return costs


# --- what it says ----------------------------------------------------------------------------------------------


def promises(costs: Sequence[Cost]) -> Iterator[Promise]:
    """What must hold for the cost of a decision."""
    by_size = {(cost.state, cost.workers, cost.tasks): cost for cost in costs}
    for state in STATES:
        few, many = by_size[state, 10, 1_000], by_size[state, 10, 1_000_000]
        ratio = many.ours_ms / few.ours_ms
        yield Promise(f"{state}: a million tasks cost at most 1.2 times a thousand", f"{ratio:.2f}", ratio <= 1.2)
    for cost in costs:
        if cost.workers == 10_000:
            ratio = cost.ours_ms / cost.dask_ms
            text = f"{cost.state}: at 10,000 workers and {cost.tasks:,} tasks at most half of Dask's"
            yield Promise(text, f"{ratio:.2f}", ratio <= 0.5)
    worst = max(cost.look_ms + 1000 / plugin.TICK_MS * cost.tick_ms for cost in costs)
    yield Promise("less than 1 % of the scheduler's time at one look a second", f"{worst / 10:.2f} %", worst < 10)


def markdown(costs: Sequence[Cost]) -> str:
    """One line per cell."""
    head = [
        "workers",
        "tasks",
        "state",
        "Dask: target",
        "+ to close",
        "ours: look",
        "+ decide",
        "ours / Dask",
        "once: give up all idle",
    ]
    body = [
        [
            f"{cost.workers:,}",
            f"{cost.tasks:,}",
            cost.state,
            *(f"{ms:.3f}" for ms in (cost.dask_target_ms, cost.dask_close_ms, cost.look_ms, cost.think_ms)),
            f"{cost.ours_ms / cost.dask_ms:.2f}",
            f"{cost.give_up_ms:.3f}",
        ]
        for cost in costs
    ]
    return f"Milliseconds per decision; `look` and Dask's are spent in the scheduler.\n\n{markdown_table(head, body)}"
