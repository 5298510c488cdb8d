"""The engine against real schedulers and workers, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, Worker, secede
from distributed.core import CommClosedError, Status, rpc
from distributed.utils_comm import scatter_to_workers
from tests.waiting import LIMIT_S, until

from dask_adaptive.engine import DaskEngine
from dask_adaptive.engine.inside.pushes import Pushes
from dask_adaptive.errors import EngineError
from dask_adaptive.model import Group, Load, worker_name

from .gates import RUNS, fresh, gate


@pytest.fixture(autouse=True)
def _fresh():
    fresh()
    yield
    fresh()


@asynccontextmanager
async def scheduler(**options: Any):
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0", **options) as s:
        yield s


def worker(s: Scheduler, name: str = worker_name("abcdtest.0", 0), **options: Any) -> Worker:
    return Worker(s.address, name=name, nthreads=options.pop("nthreads", 1), dashboard=False, **options)


def client(s: Scheduler) -> Any:
    return Client(s.address, asynchronous=True)


@asynccontextmanager
async def engine(s: Scheduler, key: str = "abcd", **options: Any):
    one = DaskEngine(s.address, key=key, **options)
    try:
        yield one
    finally:
        await one.aclose()


def group(load: Load, name: str, **wanted: Any) -> Group:
    found = [g for g in load.groups if g.name == name and all(getattr(g, k) == v for k, v in wanted.items())]
    assert len(found) == 1, load.groups
    return found[0]


def count(x: Any) -> Any:
    RUNS[x] += 1
    return x


def slow_count(x: Any) -> Any:
    RUNS[x] += 1
    time.sleep(0.02)
    return x


def hold(name: str, x: Any = None) -> Any:
    RUNS[name] += 1
    gate(name).wait(LIMIT_S)
    return x


def hold_seceded(name: str) -> None:
    secede()
    hold(name)


def add(*values: Any) -> int:
    return len(values)


class Counting:
    def __init__(self) -> None:
        self.n = 0

    def increment(self) -> int:
        self.n += 1
        return self.n


# --- look ------------------------------------------------------------------------------------------------------


async def test_how_long_the_first_of_a_kind_runs_is_known_without_heartbeats() -> None:
    async with scheduler() as s, engine(s) as one, worker(s, heartbeat_interval="1h"), client(s) as c:
        task = c.submit(hold, "first")
        found = await until(lambda: spotted(one, lambda g: g.prefix == "hold" and g.running == 1 and g.oldest_s > 0))
        assert found.mean_s is None
        gate("first").set()
        await task


async def spotted(one: DaskEngine, wanted: Callable[[Group], bool]) -> Group | None:
    return next((found for found in (await one.look()).groups if wanted(found)), None)


async def test_an_empty_scheduler_has_no_load():
    async with scheduler() as s, engine(s) as one:
        load = await one.look()
        assert () == load.groups
        assert {} == load.members
        assert 0 == load.foreign.workers
        assert "" == one.notice


async def test_groups_tell_what_is_ready_waiting_and_who_waits_for_whom():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        first = c.map(count, range(8), key="first")
        second = c.submit(add, *first, key="second-1")
        load = await until_load(one, lambda load: any(g.waiting for g in load.groups))
        assert (8, 0, 0) == (group(load, "first").ready, group(load, "first").running, group(load, "first").done)
        assert (0, 1) == (group(load, "second").ready, group(load, "second").waiting)
        assert ("first",) == group(load, "second").after
        async with worker(s):
            assert 8 == await second
            load = await one.look()
            assert (0, 8) == (group(load, "first").ready, group(load, "first").done)
            assert group(load, "first").held_bytes > 0


async def until_load(one: DaskEngine, good: Callable[[Load], Any]) -> Load:
    async def look() -> Any:
        load = await one.look()
        return load if good(load) else None

    return await until(look)


async def test_needs_and_pins_are_counted_apart():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        await one.look()
        futures = [
            *c.map(count, range(3), key="work"),
            *c.map(count, range(10, 15), key=[f"work-{i}" for i in range(10, 15)], resources={"GPU": 1}),
            c.submit(count, 20, key="work-20", workers=["127.0.0.1:9"]),
            c.submit(count, 21, key="work-21", workers=["127.0.0.1:9"], allow_other_workers=True),
        ]
        load = await until_load(one, lambda load: sum(g.ready for g in load.groups) == 10)
        assert 5 == group(load, "work", need={"GPU": 1.0}).ready
        assert 5 == group(load, "work", need={"GPU": 1.0}).unrunnable
        assert 1 == group(load, "work", pinned=True).ready
        assert 4 == group(load, "work", need={}, pinned=False).ready
        async with worker(s, resources={"GPU": 2}):
            load = await until_load(one, lambda load: not any(g.ready for g in load.groups if g.need))
            assert 1 == group(load, "work", pinned=True).ready
            assert dict.fromkeys(range(10, 15), 1) == {x: n for x, n in RUNS.items() if x in range(10, 15)}
            assert any("needs" in name for name in s.plugins)
            await c.cancel(futures)
            await until(lambda: not s.tasks)
            assert not any("needs" in name for name in s.plugins)


async def test_needs_of_tasks_that_were_there_before_us():
    async with scheduler() as s, client(s) as c:
        futures = c.map(count, range(4), resources={"GPU": 1}, key="old")
        await until(lambda: len(s.tasks) == 4)
        async with engine(s) as one:
            load = await one.look()
            assert 4 == group(load, "old", need={"GPU": 1.0}).ready
            assert 1 == len(load.groups)
        del futures


async def test_no_hook_runs_per_task_while_nothing_has_needs():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        await one.look()
        futures = c.map(count, range(4))
        await until(lambda: len(s.tasks) == 4)
        ours = [plugin for name, plugin in s.plugins.items() if name.startswith("dask-adaptive")]
        assert 1 == len(ours)
        assert "transition" not in vars(type(ours[0]))
        del futures


async def test_a_straggler_does_not_change_what_others_of_its_kind_are_expected_to_take():
    async with scheduler() as s, engine(s) as one, worker(s, nthreads=2), client(s) as c:
        await one.look()
        quick = c.map(slow_count, range(20), key=[f"kind-{i}" for i in range(20)])
        await c.gather(quick)
        straggler = c.submit(hold, "straggler", key="kind-99")
        took_s = s.task_prefixes["kind"].all_durations["compute"]
        load = await until_load(one, lambda load: any(g.running and g.oldest_s > 3 * took_s / 20 for g in load.groups))
        assert took_s / 20 == pytest.approx(group(load, "kind").mean_s, rel=0.5)
        assert (1, 1) == (group(load, "kind").ready, group(load, "kind").running)
        gate("straggler").set()
        await straggler


async def test_seceded_tasks_are_counted_apart():
    async with scheduler() as s, engine(s) as one, worker(s), client(s) as c:
        future = c.submit(hold_seceded, "away", key="away-1")
        load = await until_load(one, lambda load: any(g.long_running for g in load.groups))
        assert (0, 1) == (group(load, "away").ready, group(load, "away").long_running)
        assert 1 == load.pools[""].busy
        gate("away").set()
        await future


async def test_members_pools_and_foreigners():
    async with scheduler() as s, engine(s) as one:
        await one.declare({"abcdfast": "fast"})
        async with (
            worker(s, worker_name("abcdfast.0", 0), memory_limit="1 GB") as a,
            worker(s, worker_name("abcdfast.0", 1), memory_limit="1 GB") as b,
            worker(s, worker_name("abcdslow.3", 0), nthreads=4) as c,
            worker(s, "alice") as d,
            worker(s, worker_name("wxyzfast.0", 0)),
        ):
            load = await one.look()
            found = {job: {m.address for m in members} for job, members in load.members.items()}
            assert {"abcdfast.0": {a.address, b.address}, "abcdslow.3": {c.address}} == found
            assert (2, 2, 2 * 10**9, 2) == capacity(load, "fast")
            assert 4 == load.pools[""].threads
            assert 2 == load.foreign.workers
            assert load.members is (await one.look()).members
            await one.declare({"abcdslow": "slow"})
            assert 1 == (await one.look()).pools["slow"].workers
            await d.close()
            await until_load(one, lambda load: load.foreign.workers == 1)


def capacity(load: Load, pool: str) -> tuple[int, int, int, int]:
    found = load.pools[pool]
    return found.workers, found.threads, found.memory_bytes, found.idle


async def test_a_paused_worker_is_no_capacity():
    async with scheduler() as s, engine(s) as one, worker(s, nthreads=3) as a, worker(s, worker_name("abcdtest.1", 0)):
        a.monitor.get_process_memory = lambda: 2**50
        load = await until_load(one, lambda load: load.pools[""].paused)
        assert (1, 1, 1) == (load.pools[""].paused, load.pools[""].threads, load.pools[""].idle)
        assert ["abcdtest.1"] == [job.name for job in load.idle]


async def test_a_job_is_idle_when_all_its_workers_are():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        async with worker(s, worker_name("abcdtest.0", 0)) as a, worker(s, worker_name("abcdtest.0", 1)):
            since = {job.name: job.since_s for job in (await one.look()).idle}
            assert ["abcdtest.0"] == list(since)
            future = c.submit(hold, "x", workers=[a.address])
            await until_load(one, lambda load: not load.idle)
            gate("x").set()
            await future
            load = await until_load(one, lambda load: load.idle)
            assert load.idle[0].since_s > since["abcdtest.0"]
            assert load.idle[0].held_bytes == load.idle[0].only_bytes > 0


async def test_copies_on_other_jobs_are_not_the_only_ones():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        async with worker(s), worker(s, worker_name("abcdtest.1", 0)):
            data = await c.scatter({"x": b"0" * 10_000}, broadcast=True)
            load = await until_load(one, lambda load: load.replicated_bytes)
            assert 10_000 <= load.replicated_bytes < 11_000
            assert {"abcdtest.0": 0, "abcdtest.1": 0} == {job.name: job.only_bytes for job in load.idle}
            assert all(job.held_bytes >= 10_000 for job in load.idle)
            del data


async def test_on_somebody_elses_cluster_every_worker_is_a_job():
    async with scheduler() as s, engine(s, named=False) as one, worker(s, "alice") as a, worker(s, 7) as b:
        load = await one.look()
        assert {a.address: "alice", b.address: "7"} == {job: m[0].name for job, m in load.members.items()}
        assert 2 == load.pools["default"].workers
        assert 0 == load.foreign.workers
        await one.declare_jobs({"alice": "host-1", "7": "host-1"})
        assert ["host-1"] == list((await one.look()).members)


async def test_on_somebody_elses_cluster_the_others_may_be_foreign():
    async with scheduler() as s, engine(s, named=False, declared_only=True) as one, worker(s, "alice") as a:
        one.expect({"alice": "job-1"})
        async with worker(s, "bob") as b, worker(s, "carol"):
            one.expect({b.address: "job-2"})
            load = await one.look()
            found = {job: members[0].address for job, members in load.members.items()}
            assert {"job-1": a.address, "job-2": b.address} == found
            assert (2, 1) == (load.pools["default"].workers, load.foreign.workers)


async def test_a_worker_key_of_the_user_names_the_jobs():
    one_host = {"named": False, "worker_key": lambda ws: ws.host}
    async with scheduler() as s, engine(s, **one_host) as one, worker(s, "a"), worker(s, "b"):
        load = await one.look()
        assert {"127.0.0.1": 2} == {job: len(members) for job, members in load.members.items()}


# --- pushes ----------------------------------------------------------------------------------------------------


async def test_words_come_without_a_look():
    words: list[str] = []
    async with scheduler() as s, engine(s) as one, client(s) as c:
        one.watch(words.append)
        await one.start()
        future = c.submit(count, 1)
        await until(lambda: "graph" in words)
        assert 1 == words.count("graph")
        await until(lambda: "demand" in words)
        async with worker(s):
            await until(lambda: "worker joined" in words)
            await future
            await until(lambda: "quiet" in words)
        await until(lambda: "worker left" in words)


async def test_the_next_stage_is_a_demand():
    words: list[str] = []
    async with scheduler() as s, engine(s) as one, worker(s), client(s) as c:
        one.watch(words.append)
        await one.start()
        root = c.submit(hold, "root", key="root")
        stage = [c.submit(hold, "stage", root, key=f"stage-{i}") for i in range(20)]
        await until(lambda: RUNS["root"])
        await until_load(one, lambda load: any(g.waiting == 20 for g in load.groups))
        words.clear()
        gate("root").set()
        await until(lambda: "demand" in words)
        gate("stage").set()
        await c.gather(stage)


async def test_the_first_task_of_an_unknown_kind_that_ends_is_told_once_and_no_other():
    words: list[str] = []
    async with scheduler() as s, engine(s) as one, worker(s), client(s) as c:
        one.watch(words.append)
        tasks = c.map(hold, ["first", "second", "third"], key="kind")
        await until_load(one, lambda load: any(g.ready == 3 and g.mean_s is None for g in load.groups))
        gate("first").set()
        await until(lambda: "learned" in words)
        assert group(await one.look(), "kind").mean_s is not None
        words.clear()
        gate("second").set()
        await until(lambda: RUNS["third"])
        gate("third").set()
        await c.gather(tasks)
        await until(lambda: "quiet" in words)
        assert "learned" not in words


@pytest.mark.parametrize("stealing", [True, False])
async def test_a_worker_that_joins_gets_waiting_tasks_before_work_stealing_has_its_turn(stealing: bool):
    waits = {"distributed.scheduler.work-stealing-interval": "1h", "distributed.scheduler.work-stealing": stealing}
    with dask.config.set(waits):
        async with scheduler() as s, engine(s) as one, AsyncExitStack() as stack, worker(s), client(s) as c:
            await one.start()
            tasks = [c.submit(hold, "first", key="first")]
            await until(lambda: RUNS["first"])
            # the only task of its group is not queued at the scheduler: it waits at the worker until somebody moves it
            tasks.append(c.submit(count, "second", key="second"))
            await until(lambda: "second" in s.tasks and s.tasks["second"].state == "processing")
            await stack.enter_async_context(worker(s, worker_name("abcdtest.1", 0)))
            if stealing:
                await until(lambda: RUNS["second"])
                assert "processing" == s.tasks["first"].state
            else:
                await until_load(one, lambda load: len(load.members) == 2)
                assert not RUNS["second"]
            gate("first").set()
            await c.gather(tasks)


async def test_who_cannot_be_told_is_not_told_again():
    class Cut:
        async def write(self, message: Any) -> None:
            raise CommClosedError("cut")

    pushes = Pushes()
    with pytest.raises(CommClosedError):
        await pushes.watch(Cut(), {}, details=False)
    assert [] == pushes._listeners


async def test_an_end_in_the_middle_of_a_greeting_hides_no_error():
    class Cut:
        async def write(self, message: Any) -> None:
            pushes.end()
            raise CommClosedError("cut")

    pushes = Pushes()
    with pytest.raises(CommClosedError):
        await pushes.watch(Cut(), {}, details=False)


async def test_a_clock_that_is_set_back_does_not_silence_pushes(monkeypatch: pytest.MonkeyPatch):
    words: list[str] = []
    async with scheduler() as s, engine(s) as one, client(s) as c:
        one.watch(words.append)
        await one.start()
        [inside] = [plugin for name, plugin in s.plugins.items() if name.startswith("dask-adaptive")]
        inside.pushes._flushed += 3600.0
        future = c.submit(count, 1)
        await until(lambda: "graph" in words)
        del future


async def test_work_stealing_that_was_stopped_stays_so():
    async with scheduler() as s, engine(s) as one, worker(s):
        await one.start()
        balanced = []
        s.extensions["stealing"].balance = lambda: balanced.append(1)
        await s.extensions["stealing"].stop()
        [inside] = [plugin for name, plugin in s.plugins.items() if name.startswith("dask-adaptive")]
        async with worker(s, worker_name("abcdtest.1", 0)):
            await until(lambda: not inside._share_outs)
        assert [] == balanced


async def test_a_worker_that_comes_back_in_the_middle_of_a_drain_keeps_its_job():
    async with scheduler() as s, engine(s) as one, client(s) as c, AsyncExitStack() as stack, worker(s) as a:
        task = c.submit(hold, "first", key="first")
        await until(lambda: RUNS["first"])
        drain = asyncio.ensure_future(one.drain({"abcdtest.0": [a.address]}, LIMIT_S, busy=True))
        await until(lambda: s.workers[a.address].status is Status.closing_gracefully)
        await stack.enter_async_context(worker(s, worker_name("abcdtest.0", 1)))
        gate("first").set()
        assert "a worker of it came back meanwhile" == (await drain)["abcdtest.0"]
        both = {worker_name("abcdtest.0", i): Status.running for i in (0, 1)}
        assert both == {ws.name: ws.status for ws in s.workers.values()}, "the job stays, and so it stays whole"
        await task


async def test_workers_are_told_to_a_cluster():
    seen: list[Any] = []
    async with scheduler() as s, worker(s, "early") as early:
        async with engine(s, on_worker=lambda op, message: seen.append((op, message))) as one:
            await one.start()
            assert [("add", [early.address])] == [(op, list(message["workers"])) for op, message in seen]
            async with worker(s, "late", nthreads=3) as late:
                await until(lambda: len(seen) == 2)
                info = seen[1][1]["workers"][late.address]
                assert ("late", 3) == (info["name"], info["nthreads"])
                assert "metrics" not in info
                assert {early.address, late.address} == set((await one.identity())["workers"])
            await until(lambda: ("remove", late.address) in seen)


async def test_a_callback_that_fails_does_not_end_the_pushes():
    words: list[str] = []

    def fail_once(word: str) -> None:
        words.append(word)
        if len(words) == 1:
            raise ValueError(word)

    async with scheduler() as s, engine(s) as one, client(s) as c:
        one.watch(fail_once)
        await one.start()

        async def told_again() -> bool:
            await c.cancel(c.submit(count, 1, pure=False))
            return len(words) > 1

        await until(told_again)


async def test_a_scatter_on_no_workers_wakes_and_counts():
    words: list[str] = []
    async with scheduler() as s, engine(s) as one, client(s) as c:
        one.watch(words.append)
        await one.start()
        waiting = asyncio.ensure_future(c.scatter({"x": 1}, timeout=LIMIT_S))
        await until(lambda: "client waits" in words)
        assert 1 == (await one.look()).waiting_clients
        async with worker(s):
            assert 1 == await (await waiting)["x"]
            assert 0 == (await one.look()).waiting_clients


# --- drain -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_workers(**options: Any):
    async with scheduler() as s, engine(s, **options) as one, client(s) as c:
        async with worker(s) as a, worker(s, worker_name("abcdtest.1", 0)) as b:
            yield s, one, c, a, b


async def test_an_idle_job_leaves_its_data_behind():
    async with two_workers() as (s, one, c, a, b):
        data = await c.scatter(list(range(5)), workers=[a.address])
        results = c.map(count, range(10), workers=[a.address])
        await c.gather(results)
        assert {"abcdtest.0": ""} == await one.drain({"abcdtest.0": [a.address]}, LIMIT_S)
        assert [b.address] == list(s.workers)
        assert list(range(5)) == await c.gather(data)
        assert list(range(10)) == await c.gather(results)
        assert dict.fromkeys(range(10), 1) == dict(RUNS)
        await until(lambda: a.status == Status.closed)


async def test_a_busy_job_is_refused_when_it_should_be_idle():
    async with two_workers() as (s, one, c, a, b):
        future = c.submit(hold, "x", workers=[a.address])
        await until(lambda: RUNS["x"])
        refusals = await one.drain({"abcdtest.0": [a.address]}, LIMIT_S)
        assert "busy" in refusals["abcdtest.0"]
        assert {a.address, b.address} == set(s.workers)
        gate("x").set()
        await future
        assert 1 == RUNS["x"]


async def test_a_busy_job_ends_its_work_and_gives_the_rest_away():
    with dask.config.set({"distributed.scheduler.worker-saturation": float("inf")}):
        async with scheduler() as s, engine(s) as one, client(s) as c, worker(s) as a:
            futures = c.map(slow_count, range(16))
            await until(lambda: s.workers and len(s.workers[a.address].processing) > 8)
            async with worker(s, worker_name("abcdtest.1", 0)) as b:
                assert {"abcdtest.0": ""} == await one.drain({"abcdtest.0": [a.address]}, LIMIT_S, busy=True)
                assert [b.address] == list(s.workers)
                assert list(range(16)) == await c.gather(futures)
                assert dict.fromkeys(range(16), 1) == dict(RUNS)


async def test_work_that_does_not_end_keeps_the_job():
    async with two_workers() as (s, one, c, a, _b):
        future = c.submit(hold, "x", workers=[a.address])
        await until(lambda: RUNS["x"])
        refusals = await one.drain({"abcdtest.0": [a.address]}, 0.3, busy=True)
        assert "did not end in time" in refusals["abcdtest.0"]
        await until(lambda: s.workers[a.address].status == Status.running)
        gate("x").set()
        assert 5 == await c.submit(count, 5, workers=[a.address])
        await future
        assert 1 == RUNS["x"]
        assert not s.extensions["amm"].policies & {p for p in s.extensions["amm"].policies if "Retire" in repr(p)}


async def test_pinned_tasks_that_wait_keep_the_job():
    async with two_workers() as (s, one, c, a, _b):
        futures = [c.submit(hold, "x", i, workers=[a.address]) for i in range(3)]
        await until(lambda: RUNS["x"] and len(s.workers[a.address].processing) == 3)
        refusals = await one.drain({"abcdtest.0": [a.address]}, LIMIT_S, busy=True)
        assert "no other worker may run" in refusals["abcdtest.0"]
        gate("x").set()
        assert [0, 1, 2] == await c.gather(futures)
        assert 3 == RUNS["x"]


async def test_an_actor_keeps_its_job():
    async with two_workers() as (_s, one, c, a, _b):
        actor = await c.submit(Counting, actor=True, workers=[a.address])
        for busy in (False, True):
            refusals = await one.drain({"abcdtest.0": [a.address]}, LIMIT_S, busy=busy)
            assert "actor" in refusals["abcdtest.0"]
        assert "abcdtest.0" not in {job.name for job in (await one.look()).idle}
        assert 1 == await actor.increment()


async def test_a_seceded_task_keeps_its_job():
    async with two_workers() as (s, one, c, a, _b):
        future = c.submit(hold_seceded, "x", workers=[a.address])
        await until(lambda: s.workers[a.address].long_running)
        refusals = await one.drain({"abcdtest.0": [a.address]}, LIMIT_S)
        assert "seceded" in refusals["abcdtest.0"]
        gate("x").set()
        await future
        assert 1 == RUNS["x"]


async def test_a_running_shuffle_keeps_its_workers():
    async with two_workers() as (s, one, _c, a, b):

        class Running:
            participating_workers = frozenset({a.address})

        s.plugins["shuffle"].active_shuffles["x"] = Running()
        try:
            refusals = await one.drain({"abcdtest.0": [a.address], "abcdtest.1": [b.address]}, LIMIT_S, busy=True)
        finally:
            del s.plugins["shuffle"].active_shuffles["x"]
        assert "shuffle" in refusals["abcdtest.0"]
        assert "" == refusals["abcdtest.1"]


async def test_an_only_copy_stays_where_nobody_can_take_it():
    async with scheduler() as s, engine(s) as one, client(s) as c, worker(s) as a:
        data = await c.scatter({"x": 1})
        refusals = await one.drain({"abcdtest.0": [a.address]}, LIMIT_S)
        assert "only cop" in refusals["abcdtest.0"]
        await until(lambda: s.workers[a.address].status == Status.running)
        assert 1 == await data["x"]
        assert 2 == await c.submit(lambda x: x + 1, data["x"])


async def test_data_that_does_not_fit_elsewhere_stays():
    # this very process is larger than the limit of the other worker, which would pause before it is asked
    with dask.config.set({"distributed.worker.memory.pause": False}):
        async with scheduler() as s, engine(s) as one, client(s) as c, worker(s) as a:
            data = await c.scatter({"x": b"0" * 100_000_000})
            async with worker(s, worker_name("abcdtest.1", 0), memory_limit="50 MB"):
                refusals = await one.drain({"abcdtest.0": [a.address]}, LIMIT_S)
                assert "no room" in refusals["abcdtest.0"]
                assert 100_000_000 == len(await data["x"])


async def test_of_several_holders_all_but_one_go():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        names = [worker_name(f"abcdtest.{i}", 0) for i in range(3)]
        async with worker(s, names[0]) as a, worker(s, names[1]) as b, worker(s, names[2]) as d:
            data = await c.scatter({"x": 1}, workers=[a.address]) | await c.scatter({"y": 2}, workers=[b.address])
            both = await c.scatter({"z": 3}, workers=[a.address, b.address], broadcast=True)
            jobs = {f"abcdtest.{i}": [each.address] for i, each in enumerate((a, b, d))}
            refusals = await one.drain(jobs, LIMIT_S)
            assert ["", ""] == sorted(refusals.values())[:2]
            assert 1 == len(s.workers)
            assert [1, 2, 3] == await c.gather([data["x"], data["y"], both["z"]])


async def test_a_job_of_two_workers_goes_whole_or_not_at_all():
    async with scheduler() as s, engine(s) as one, client(s) as c:
        names = [worker_name("abcdtest.0", 0), worker_name("abcdtest.0", 1), worker_name("abcdtest.1", 0)]
        async with worker(s, names[0]) as a, worker(s, names[1]) as b, worker(s, names[2]) as d:
            future = c.submit(hold, "x", workers=[b.address])
            await until(lambda: RUNS["x"])
            assert "busy" in (await one.drain({"abcdtest.0": [a.address]}, LIMIT_S))["abcdtest.0"]
            assert 3 == len(s.workers)
            gate("x").set()
            await future
            assert {"abcdtest.0": ""} == await one.drain({"abcdtest.0": [a.address, b.address]}, LIMIT_S)
            assert [d.address] == list(s.workers)


async def test_marks_of_a_silent_controller_are_lifted():
    async with two_workers(silent_s=0.3) as (s, one, c, a, _):
        await one.look()
        future = c.submit(hold, "x", workers=[a.address])
        await until(lambda: RUNS["x"])
        async with rpc(s.address) as dead:  # speaks once and never again
            drain = getattr(dead, f"{one.name}-drain")
            refusals = await drain(jobs={"abcdtest.0": [a.address]}, wait_s=LIMIT_S, busy=True)
        assert "silent" in refusals["abcdtest.0"]
        await until(lambda: s.workers[a.address].status == Status.running)
        gate("x").set()
        await future


async def test_a_controller_that_waits_for_a_drain_is_not_silent():
    async with two_workers(silent_s=2.0) as (_, one, c, a, _):
        future = c.submit(hold, "x", workers=[a.address])
        await until(lambda: RUNS["x"])
        refusals = await one.drain({"abcdtest.0": [a.address]}, 4.0, busy=True)
        assert "did not end in time" in refusals["abcdtest.0"]
        gate("x").set()
        await future


async def test_a_job_that_is_gone_already_needs_no_drain():
    async with scheduler() as s, engine(s) as one:
        assert {"abcdtest.0": ""} == await one.drain({"abcdtest.0": ["tcp://127.0.0.1:9"]}, 1.0)


# --- explanations ----------------------------------------------------------------------------------------------


async def test_holders_are_named():
    async with scheduler() as s, engine(s) as one, client(s) as c, worker(s):
        data = await c.scatter({f"key-{i}": i for i in range(9)})
        (holding,) = await one.holders(keys=2)
        assert ("abcdtest.0", c.id, 9, 2) == (holding.job, holding.client, holding.count, len(holding.keys))
        assert holding.nbytes > 0
        assert c.id in str(holding)
        del data


# --- coming and going ------------------------------------------------------------------------------------------


async def test_nothing_stays_behind():
    async with scheduler() as s, client(s) as c:
        before = dict(s.handlers), set(s.plugins), set(s.periodic_callbacks)
        async with engine(s) as one:
            one.watch(lambda word: None)
            await one.start()
            future = c.submit(count, 1, resources={"GPU": 1})
            await until(lambda: any("needs" in name for name in s.plugins))
            assert set(s.handlers) - set(before[0])
        assert before == (dict(s.handlers), set(s.plugins), set(s.periodic_callbacks))
        del future


async def test_two_engines_side_by_side():
    async with scheduler() as s, client(s) as c, engine(s, "abcd") as one, engine(s, "wxyz") as two:
        async with worker(s) as a, worker(s, worker_name("wxyztest.0", 0)) as b:
            assert ["abcdtest.0"] == list((await one.look()).members)
            assert ["wxyztest.0"] == list((await two.look()).members)
            assert 1 == (await one.look()).foreign.workers
            assert {"wxyztest.0": ""} == await two.drain({"wxyztest.0": [b.address]}, LIMIT_S)
            assert [a.address] == list(s.workers)
        await one.aclose()
        waiting = asyncio.ensure_future(c.scatter({"x": 1}, timeout=LIMIT_S))
        await until_load(two, lambda load: load.waiting_clients == 1)
        async with worker(s):
            await waiting


async def test_a_restarted_controller_takes_over():
    async with scheduler() as s, engine(s) as old, client(s) as c, worker(s) as a:
        await old.declare({"abcdtest": "pool"})
        future = c.submit(hold, "x", workers=[a.address])
        await until(lambda: RUNS["x"])
        draining = asyncio.ensure_future(old.drain({"abcdtest.0": [a.address]}, LIMIT_S, busy=True))
        await until(lambda: s.workers[a.address].status == Status.closing_gracefully)
        async with engine(s) as new:
            load = await new.look()
            assert ["abcdtest.0"] == list(load.members)
            assert "went away" in (await draining)["abcdtest.0"]
            await until(lambda: s.workers[a.address].status == Status.running)
            old._attached = False  # as after a lost connection
            assert not old.ousted
            with pytest.raises(EngineError, match="took over"):
                await old.look()
            assert (True, False) == (old.ousted, new.ousted)
            await old.aclose()
            assert "dask-adaptive-abcd" in s.plugins
            assert 1 == len((await new.look()).members)
            gate("x").set()
            await future


async def test_a_lost_scheduler_is_said_once_and_found_again():
    words: list[str] = []
    async with scheduler() as s:
        port, one = s.port, DaskEngine(s.address, key="abcd", timeout_s=2.0)
        one.watch(words.append)
        await one.start()
        await one.declare({"abcdtest": "pool"})
    for _ in range(3):
        with pytest.raises(EngineError, match="cannot be asked"):
            await one.look()
    assert 1 == words.count("scheduler lost")
    async with Scheduler(host="127.0.0.1", port=port, dashboard=False, dashboard_address=":0") as s, worker(s):
        assert 1 == (await until(lambda: looked(one))).pools["pool"].workers
        assert 1 == words.count("scheduler found")
        words.clear()
        async with client(s) as c:

            async def pushed() -> bool:
                await c.submit(count, 1, pure=False)
                return "graph" in words

            await until(pushed)
        await one.aclose()


async def looked(one: DaskEngine) -> Load | None:
    try:
        return await one.look()
    except EngineError:
        return None


async def test_closing_is_quiet_without_a_scheduler():
    async with scheduler() as s:
        one = DaskEngine(s.address, key="abcd", timeout_s=2.0)
        await one.look()
    await one.aclose()
    await one.aclose()
    with pytest.raises(EngineError, match="closed"):
        await one.look()


async def test_a_missing_name_is_named():
    async with scheduler() as s, engine(s) as one:
        lock = s.__dict__.pop("_replica_lock")
        try:
            with pytest.raises(EngineError, match=r"distributed \d+.*_replica_lock"):
                await one.look()
        finally:
            s._replica_lock = lock
        await one.look()


async def test_a_restart_of_the_client_forgets_the_tasks():
    async with scheduler() as s, engine(s) as one, client(s) as c, worker(s):
        await one.look()
        await c.gather(c.map(count, range(3), key="before"))
        futures = c.map(count, range(3), resources={"GPU": 1})
        await until_load(one, lambda load: any(g.need for g in load.groups))
        await s.restart(client=c.id, timeout=LIMIT_S, wait_for_workers=False, stimulus_id="test")
        load = await one.look()
        assert () == load.groups
        assert not any("needs" in name for name in s.plugins)
        del futures


async def test_a_lost_connection_interrupts_no_drain():
    async with two_workers() as (s, one, c, a, b):
        future = c.submit(hold, "x", workers=[a.address], allow_other_workers=True)
        await until(lambda: RUNS["x"])
        draining = asyncio.ensure_future(one.drain({"abcdtest.0": [a.address]}, LIMIT_S, busy=True))
        await until(lambda: s.workers[a.address].status == Status.closing_gracefully)
        one._attached = False  # as after a lost connection
        await one.look()
        gate("x").set()
        await future
        assert {"abcdtest.0": ""} == await draining
        assert [b.address] == list(s.workers)
        assert 1 == RUNS["x"]


async def test_everything_runs_once_while_jobs_come_and_go():
    with dask.config.set({"distributed.scheduler.worker-saturation": float("inf")}):
        async with scheduler() as s, engine(s) as one, client(s) as c:
            workers = [await worker(s, worker_name(f"abcdtest.{i}", 0), nthreads=2) for i in range(4)]
            data = await c.scatter(list(range(20)))
            first = c.map(slow_count, range(100))
            second = [c.submit(slow_count, 1000 + i, key=f"second-{i}") for i in range(50)]
            total = c.submit(add, *first, *second, *data)
            for i in range(8):
                gone = workers.pop(0)
                workers.append(await worker(s, worker_name(f"abcdtest.{4 + i}", 0), nthreads=2))
                refusals = await one.drain({f"abcdtest.{i}": [gone.address]}, LIMIT_S, busy=True)
                assert {f"abcdtest.{i}": ""} == refusals
            assert 170 == await total
            assert list(range(100)) == await c.gather(first)
            assert list(range(20)) == await c.gather(data)
            assert {1} == set(RUNS.values())
            assert 150 == len(RUNS)
            assert 4 == len(s.workers)
            for each in workers:
                await each.close()


async def test_data_that_is_under_way_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    landed, told = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        """Data is on the worker, and the scheduler does not know yet."""
        answer = await scatter_to_workers(*args, **kwargs)
        landed.set()
        await told.wait()
        return answer

    monkeypatch.setattr("distributed.scheduler.scatter_to_workers", slow)
    async with two_workers() as (s, one, c, a, b):
        await one.look()
        scattering = asyncio.ensure_future(c.scatter({"x": 1}, workers=[a.address]))
        await landed.wait()
        draining = asyncio.ensure_future(one.drain({"abcdtest.0": [a.address]}, LIMIT_S))
        await until(lambda: s.workers[a.address].status == Status.closing_gracefully)
        told.set()
        assert {"abcdtest.0": ""} == await draining
        assert 1 == await (await scattering)["x"]
        assert [b.address] == list(s.workers)
