"""A look costs groups and workers, never tasks."""

from __future__ import annotations

import time
from typing import Any

import pytest
from distributed import Scheduler, Status
from distributed.scheduler import WorkerState

from dask_adaptive.engine import plugin
from dask_adaptive.engine.inside import counts, drain, drains, timing
from dask_adaptive.engine.inside.drain import Drain
from dask_adaptive.engine.plugin import Inside
from dask_adaptive.engine.reading import Reader
from dask_adaptive.model import WORKER_NAME, worker_name


class Uncounted:
    """Mixed into a container: may be asked how many, and whether, but never gone through."""

    def __iter__(self) -> Any:
        raise AssertionError("went through tasks")

    values = items = keys = copy = __iter__


class Dict(Uncounted, dict[Any, Any]):
    pass


class Set(Uncounted, set[Any]):
    pass


class Queue:
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        raise AssertionError("went through tasks")


@pytest.fixture
async def inside():
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
    for i in range(4):
        add_worker(scheduler, i)
    made = Inside(
        name="dask-adaptive-test",
        everything=False,
        pattern=WORKER_NAME.pattern,
        prefix="",
        worker_key=None,
        silent_s=30.0,
        token="t",
    )
    made.start(scheduler)
    made.declare({"testtest": "pool"}, {})
    yield made
    made.stop()
    await scheduler.close()


def add_worker(scheduler: Any, i: int) -> None:
    address = f"tcp://127.0.0.1:{i + 1}"
    ws = WorkerState(
        address=address,
        status=Status.running,
        pid=0,
        name=worker_name(f"testtest.{i}", 0),
        nthreads=2,
        memory_limit=1000,
        local_directory="",
        nanny=None,
        server_id=f"worker-{i}",
        scheduler=scheduler,
    )
    ws.metrics = {"memory": 7}
    scheduler.workers[address] = ws
    scheduler.running.add(ws)
    scheduler.total_nthreads += 2


async def test_no_look_goes_through_tasks(inside: Inside):
    s = inside.scheduler
    for i in range(30):
        s.new_task(f"group-{i}", None, "queued" if i < 20 else "processing")
    for ws in list(s.workers.values())[:3]:
        ws.processing = Set(s.tasks.values())
        ws._has_what = Dict.fromkeys(s.tasks.values())
    s.tasks = Dict(s.tasks)
    s.queued, s.unrunnable = Queue(20), Queue(0)
    load = Reader(lambda: 5.0).load(inside.look())
    assert [("group", 30)] == [(group.name, group.ready) for group in load.groups]
    assert (3, 1, 8, 4000, 28) == (
        load.pools["pool"].busy,
        load.pools["pool"].idle,
        load.pools["pool"].threads,
        load.pools["pool"].memory_bytes,
        load.pools["pool"].used_bytes,
    )
    assert ["testtest.3"] == [job.name for job in load.idle]
    s.tasks, s.queued, s.unrunnable = {}, set(), {}


async def test_what_did_not_change_is_not_sent_again(inside: Inside):
    reader = Reader(lambda: 5.0)
    first = reader.load(inside.look())
    answer = inside.look(reader.members_version, reader.idle_version)
    assert answer["members"] is None
    assert answer["idle"] is None
    second = reader.load(answer)
    assert first.members is second.members
    assert first.idle is second.idle
    assert 4 == len(second.idle) == len(second.members)


async def test_groups_that_ended_cost_nothing(inside: Inside):
    s = inside.scheduler
    s.new_task("ended-1", None, "released")
    s.new_task("ready-1", None, "queued")
    assert ["ready"] == [row[0] for row in inside.look()["groups"]]
    assert ["ready"] == list(inside.counts.durations.known)
    s.tasks = {}


async def test_a_clock_that_is_set_elsewhere_does_not_matter(inside: Inside):
    reader = Reader(lambda: 1_000.0)
    load = reader.load(inside.look())
    assert 1_000.0 == load.at_s
    assert all(abs(job.since_s - 1_000.0) < 1.0 for job in load.idle)


async def test_a_tick_says_nothing_new_while_nothing_happens(inside: Inside, monkeypatch: pytest.MonkeyPatch):
    inside._tick()
    monkeypatch.setattr(inside, "_waiting_for_threads", lambda: pytest.fail("looked although nothing happened"))
    inside._tick()


# --- a wall clock that is set back -----------------------------------------------------------------------------


class Copied:
    """A result that two workers hold."""

    def __init__(self, holders: list[Any]) -> None:
        self.who_has = holders

    def get_nbytes(self) -> int:
        return 5


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch):
    """Call it, and an hour has passed, while somebody set the wall clock back by one."""

    def pass_on() -> None:
        for module in (plugin, counts, timing, drain, drains):
            monkeypatch.setattr(module, "time", lambda: time.time() - 3600, raising=False)
            monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + 3600, raising=False)

    return pass_on


async def test_heartbeats_and_copies_are_read_on(inside: Inside, later: Any):
    holders = list(inside.scheduler.workers.values())[:2]
    inside.scheduler.replicated_tasks = {Copied(holders)}
    assert (28, 5) == used_and_replicated(inside)
    holders[0].metrics = {"memory": 8}
    inside.scheduler.replicated_tasks = {Copied(holders), Copied(holders)}
    later()
    assert (29, 10) == used_and_replicated(inside)


def used_and_replicated(inside: Inside) -> tuple[int, int]:
    load = Reader(lambda: 5.0).load(inside.look())
    return load.pools["pool"].used_bytes, load.replicated_bytes


async def test_workers_that_are_free_are_counted_anew(inside: Inside, later: Any):
    assert 4 == len(inside.drains.free_workers())
    inside.scheduler.running.clear()
    later()
    assert [] == inside.drains.free_workers()


async def test_silence_and_deadlines_end(inside: Inside, later: Any, monkeypatch: pytest.MonkeyPatch):
    async def wait_on(self: Drain) -> None:
        later()
        await self._pause(0.0, "late")

    inside.drains.marks["tcp://127.0.0.1:9"] = "running"
    monkeypatch.setattr(Drain, "_let_work_end", wait_on)
    monkeypatch.setattr(Drain, "_move_data", lambda self: pytest.fail("its deadline did not end"))
    assert {"testtest.9": "late"} == await inside.drains.drain({"testtest.9": []}, 60.0)
    assert inside.drains.marks
    inside._tick()
    assert {} == inside.drains.marks


async def test_new_workers_get_their_share(inside: Inside, later: Any, monkeypatch: pytest.MonkeyPatch):
    balanced: list[int] = []
    stealing = inside.scheduler.extensions["stealing"]
    monkeypatch.setattr(stealing, "balance", lambda: balanced.append(1))
    monkeypatch.setitem(inside.scheduler.periodic_callbacks, "stealing", None)
    inside._share_outs = 2
    inside._tick()
    inside._share_next += 60.0
    later()
    inside._tick()
    monkeypatch.undo()
    assert [1, 1] == balanced
