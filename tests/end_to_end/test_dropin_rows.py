"""Weaknesses of today's adaptive deployments, each by its number in the table of the docs, on a ``SpecCluster``."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker
from distributed.core import Status

from dask_adaptive import Adaptive, ConfigError

from .foreign_worlds import (
    HOST,
    QUICK,
    RUNS,
    Counting,
    Several,
    adapt,
    fresh,
    gate,
    hold,
    names,
    quick,
    reasons,
    rounds,
    specified,
    submitted,
    until,
)


@pytest.fixture(autouse=True)
def _fresh():
    fresh()
    yield
    fresh()


async def grown(cluster: Any, size: int, **options: Any) -> Adaptive:
    """The cluster with so many workers; then down to what is needed."""
    adapt(cluster, minimum=size, maximum=size)
    await until(lambda: len(names(cluster)) == size)
    return adapt(cluster, **{"minimum": 0, "maximum": size, **options})


def busy(cluster: Any) -> set[str]:
    return {str(ws.name) for ws in cluster.scheduler.workers.values() if ws.processing}


# --- loses data or work --------------------------------------------------------------------------------------------


async def test_row_01_an_actor_keeps_its_worker() -> None:
    async with specified() as (cluster, _), Client(cluster, asynchronous=True) as client:
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        counter = await client.submit(Counting, actor=True)
        holder = {str(ws.name) for ws in cluster.scheduler.workers.values() if ws.actors}
        adaptive = adapt(cluster, minimum=0, maximum=2)
        await until(lambda: names(cluster) == holder)
        await rounds(adaptive, 10)
        assert 1 == await counter.increment()
        assert holder == names(cluster)


async def test_row_02_shrinking_loses_no_result() -> None:
    async with specified() as (cluster, client):
        adapt(cluster, minimum=4, maximum=4)
        await until(lambda: len(names(cluster)) == 4)
        scattered = await client.scatter(list(range(100, 108)))
        tasks = client.map(quick, range(40))
        await client.gather(tasks)
        adaptive = adapt(cluster, minimum=0, maximum=4)
        await until(lambda: len(names(cluster)) == 1)
        await rounds(adaptive, 10)
        assert list(range(100, 108)) == await client.gather(scattered)
        assert list(range(40)) == await client.gather(tasks)
        assert {1} == set(RUNS.values())


async def test_row_03_a_lower_maximum_lets_running_tasks_end() -> None:
    async with specified() as (cluster, client):
        adapt(cluster, minimum=4, maximum=4)
        await until(lambda: len(names(cluster)) == 4)
        held = client.map(hold, list("abcd"))
        await until(lambda: len(RUNS) == 4)
        adaptive = adapt(cluster, minimum=0, maximum=1)
        await rounds(adaptive, 10)
        assert 4 == len(names(cluster))
        for name in "abcd":
            gate(name).set()
        assert list("abcd") == await client.gather(held)
        await until(lambda: len(names(cluster)) == 1)
        assert dict.fromkeys("abcd", 1) == dict(RUNS)


async def test_row_04_retiring_waits_for_the_running_task() -> None:
    async with specified() as (cluster, client):
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        held = client.map(hold, ["a", "b"])
        await until(lambda: len(RUNS) == 2)
        adaptive = adapt(cluster, maximum=1)
        leaving = lambda: [ws for ws in cluster.scheduler.workers.values() if ws.status != Status.running]  # noqa: E731
        await until(leaving)
        await rounds(adaptive, 10)
        assert 2 == len(busy(cluster))
        gate("a").set()
        gate("b").set()
        assert ["a", "b"] == await client.gather(held)
        await until(lambda: len(names(cluster)) == 1)
        assert {"a": 1, "b": 1} == dict(RUNS)


async def test_row_05_an_idle_worker_does_not_take_its_busy_sibling_along() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, client):
        adaptive = adapt(cluster, minimum=0, maximum=4)
        task = client.submit(hold, "long")
        await until(lambda: RUNS["long"])
        await until(lambda: len(names(cluster)) == 2)
        await rounds(adaptive, 15)
        assert {"0-0", "0-1"} == names(cluster)
        gate("long").set()
        assert "long" == await task
        assert {"long": 1} == dict(RUNS)
        assert 1 == submitted(adaptive)


async def test_row_06_groups_with_a_busy_member_stay() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, client):
        adapt(cluster, minimum=8, maximum=8)
        await until(lambda: len(names(cluster)) == 8)
        held = [client.submit(hold, f"{i}", workers=[_address(cluster, f"{i}-0")]) for i in range(3)]
        await until(lambda: len(RUNS) == 3)
        adaptive = adapt(cluster, minimum=0, maximum=8)
        await until(lambda: len(names(cluster)) == 6)
        await rounds(adaptive, 10)
        assert {f"{i}-{k}" for i in range(3) for k in range(2)} == names(cluster)
        fresh()
        await client.gather(held)


def _address(cluster: Any, name: str) -> str:
    return next(ws.address for ws in cluster.scheduler.workers.values() if str(ws.name) == name)


def seceding(name: str) -> None:
    from distributed import secede

    secede()
    hold(name)


async def test_row_07_a_group_is_never_cut_in_two() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, client):
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        task = client.submit(seceding, "s", workers=[_address(cluster, "0-0")])
        await until(lambda: any(ws.long_running for ws in cluster.scheduler.workers.values()))
        adaptive = adapt(cluster, minimum=0, maximum=2)
        await rounds(adaptive, 15)
        assert {"0-0", "0-1"} == names(cluster)
        gate("s").set()
        await task
        del task
        await until(lambda: not names(cluster))


async def test_row_08_workers_stay_as_long_as_their_results_need_the_room() -> None:
    size = 10_000_000

    class Small(Worker):
        async def get_metrics(self) -> dict[str, Any]:
            metrics = await super().get_metrics()
            return {**metrics, "memory": metrics["managed_bytes"]}

    thresholds = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause", "terminate")}
    with dask.config.set(thresholds):
        async with specified(Small, memory_limit=2 * size) as (cluster, client):
            adapt(cluster, minimum=4, maximum=4)
            await until(lambda: len(names(cluster)) == 4)
            where = [ws.address for ws in cluster.scheduler.workers.values()]
            kept = [client.submit(bytes, size + i, workers=[where[i]]) for i in range(4)]
            await asyncio.gather(*kept)
            adaptive = adapt(cluster, minimum=0, maximum=4)
            await rounds(adaptive, 15)
            assert 4 == len(names(cluster))  # 40 MB of results need 34 MB of workers of 20 MB, used to 60 %
            del kept
            await until(lambda: not names(cluster))


async def test_row_09_workers_with_other_names_are_known_by_their_address() -> None:
    class Renamed(Worker):
        def __init__(self, *args: Any, name: Any, **kwargs: Any) -> None:
            super().__init__(*args, name=f"node-{name}", **kwargs)

    async with specified(Renamed) as (cluster, client):
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        task = client.submit(hold, "t", workers=[_address(cluster, "node-0")])
        await until(lambda: busy(cluster) == {"node-0"})
        adaptive = adapt(cluster, minimum=0, maximum=2)
        await until(lambda: names(cluster) == {"node-0"})
        await rounds(adaptive, 10)
        gate("t").set()
        assert "t" == await task
        assert {"t": 1} == dict(RUNS)


# --- wrong target --------------------------------------------------------------------------------------------------


async def test_row_15_threads_are_not_counted_as_workers() -> None:
    async with specified(nthreads=4) as (cluster, client):
        adaptive = adapt(cluster, maximum=20)
        held = client.map(hold, [f"t{i}" for i in range(12)], gate_name="go")
        await until(lambda: len(RUNS) == 12)
        await rounds(adaptive, 10)
        assert 3 >= submitted(adaptive)
        gate("go").set()
        await client.gather(held)


async def test_row_16_what_a_task_takes_of_a_resource_counts() -> None:
    async with specified(nthreads=4, resources={"GPU": 1}) as (cluster, client):
        adapt(cluster, maximum=3)
        held = client.map(hold, ["a", "b", "c"], gate_name="go", resources={"GPU": 1})
        await until(lambda: len(names(cluster)) == 3)
        gate("go").set()
        await client.gather(held)


async def test_row_17_work_that_no_worker_can_do_starts_nothing() -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, maximum=8)
        client.submit(quick, 1, resources={"GPU": 1})
        future = client.submit(quick, 2, resources={"GPU": 1})
        await until(lambda: adaptive.records and adaptive.records[-1].target.impossible)
        await rounds(adaptive, 10)
        assert 0 == submitted(adaptive)
        assert "GPU=1" in adaptive.records[-1].target.impossible[0]
        await future.cancel()


async def test_row_18_tasks_that_wait_do_not_make_it_flap() -> None:
    async with specified(nthreads=4, resources={"A": 1}) as (cluster, client):
        adaptive = adapt(cluster, maximum=8)
        future = client.submit(quick, 1, resources={"B": 1})
        assert 3 == await client.submit(sum, [1, 2])
        await rounds(adaptive, 15)
        assert 1 == submitted(adaptive)
        await future.cancel()


async def test_row_19_tasks_pinned_to_a_worker_start_no_other() -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, minimum=1, maximum=6)
        await until(lambda: len(names(cluster)) == 1)
        held = client.map(hold, [f"t{i}" for i in range(6)], gate_name="go", workers=[_address(cluster, "0")])
        await until(lambda: RUNS)
        await rounds(adaptive, 10)
        assert 1 == submitted(adaptive)
        gate("go").set()
        await client.gather(held)


def after(x: Any, i: int) -> int:
    return quick(i)


async def test_row_20_workers_stay_for_tasks_that_wait_for_a_short_step() -> None:
    async def slowly(self: Any) -> Any:
        await asyncio.sleep(1.0)
        return await Worker.start_unsafe(self)

    async with specified(type("Slow", (Worker,), {"start_unsafe": slowly})) as (cluster, client):
        await grown(cluster, 3)
        warm = [client.submit(quick, f"warm{i}") for i in range(9)]
        await client.gather(warm)
        adaptive = adapt(cluster, minimum=3, maximum=3)
        await rounds(adaptive)
        one = client.submit(hold, "step")
        rest = [client.submit(after, one, i) for i in range(30)]
        await until(lambda: RUNS["step"])
        gate("step").set()
        assert list(range(30)) == await client.gather(rest)
        assert 3 == len(names(cluster))


async def test_row_24_a_paused_worker_is_no_capacity() -> None:
    async with specified() as (cluster, client):
        adapt(cluster, minimum=1, maximum=2)
        await until(lambda: len(names(cluster)) == 1)
        worker = cluster.workers[0]
        worker.status = Status.paused
        await until(lambda: not cluster.scheduler.running)
        assert [0, 1, 2] == await client.gather(client.map(quick, range(3)))
        assert {"0", "1"} >= names(cluster)
        worker.status = Status.running


# --- slow or unstable reaction -------------------------------------------------------------------------------------


async def test_row_29_the_first_graph_is_answered_at_once() -> None:
    async with specified() as (cluster, client):
        adaptive = cluster.adapt(Adaptive=Adaptive, maximum=2, interval="1h")
        await rounds(adaptive, 1)
        assert 3 == await client.submit(sum, [1, 2])


async def test_row_30_a_pause_shorter_than_a_start_starts_nothing_anew() -> None:
    async def slowly(self: Any) -> Any:
        await asyncio.sleep(0.5)
        return await Worker.start_unsafe(self)

    async with specified(type("Slow", (Worker,), {"start_unsafe": slowly})) as (cluster, client):
        adaptive = adapt(cluster, maximum=2)
        for i in range(4):
            await client.gather(client.map(quick, [f"{i}-{k}" for k in range(4)]))
            await asyncio.sleep(0.1)
        assert 2 >= submitted(adaptive)


async def test_row_31_a_short_pause_keeps_what_is_on_its_way() -> None:
    go = asyncio.Event()

    async def held(self: Any) -> Any:
        await go.wait()
        return await Worker.start_unsafe(self)

    async with specified(type("Held", (Worker,), {"start_unsafe": held})) as (cluster, client):
        adaptive = adapt(cluster, maximum=2, interval="1s", wait_count=60)
        first = client.map(quick, range(8))
        await until(lambda: len(cluster.worker_spec) >= 1)
        asked = submitted(adaptive)
        await client.cancel(first)
        del first
        await rounds(adaptive, 2)
        again = client.map(quick, range(8))
        go.set()
        await client.gather(again)
        assert set(cluster.worker_spec) >= set(range(asked))
        assert "down" not in {entry["status"] for _, entry in adaptive.log}


async def test_row_32_a_slow_start_blocks_no_decision() -> None:
    go, first = asyncio.Event(), [True]

    async def held(self: Any) -> Any:
        if first and first.pop():
            await go.wait()
        return await Worker.start_unsafe(self)

    async with specified(type("Held", (Worker,), {"start_unsafe": held})) as (cluster, client):
        adapt(cluster, minimum=1, maximum=3)
        await until(lambda: 0 in cluster.worker_spec)
        tasks = client.map(hold, [f"t{i}" for i in range(40)], gate_name="go")
        await until(lambda: len(RUNS) >= 2)
        assert "0" not in names(cluster)
        gate("go").set()
        await client.gather(tasks)
        go.set()


async def test_row_33_retiring_holds_up_no_growth() -> None:
    async with specified() as (cluster, client):
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        held = client.map(hold, ["a", "b"])
        await until(lambda: len(RUNS) == 2)
        adapt(cluster, minimum=0, maximum=1)
        await until(lambda: any(ws.status != Status.running for ws in cluster.scheduler.workers.values()))
        adapt(cluster, minimum=4, maximum=5)  # while the drain of the old one still waits for its task
        await until(lambda: len(names(cluster)) >= 4)
        assert 2 == len(busy(cluster))
        fresh()
        await client.gather(held)


# --- broken state and API ------------------------------------------------------------------------------------------


async def test_row_36_a_dead_worker_is_replaced_at_once() -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        async with specified() as (cluster, _):
            adapt(cluster, minimum=2, maximum=2)
            await until(lambda: names(cluster) == {"0", "1"})
            await cluster.workers[0].close()
            await until(lambda: names(cluster) == {"1", "2"})
            assert {1, 2} == set(cluster.worker_spec) == set(cluster.workers)


async def test_row_37_a_worker_whose_lifetime_ended_is_replaced() -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        async with specified(lifetime="200ms") as (cluster, _):
            adapt(cluster, minimum=1, maximum=1)
            await until(lambda: names(cluster) == {"0"})
            await until(lambda: names(cluster) == {"1"})


async def test_row_38_a_worker_retired_by_a_client_is_replaced() -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        async with specified() as (cluster, client):
            adapt(cluster, minimum=1, maximum=1)
            await until(lambda: names(cluster) == {"0"})
            await client.retire_workers([_address(cluster, "0")])
            await until(lambda: names(cluster) == {"1"})


async def test_row_39_workers_lost_in_a_restart_are_replaced() -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        async with specified() as (cluster, client):
            adapt(cluster, minimum=1, maximum=1)
            await until(lambda: names(cluster) == {"0"})
            await client.restart(wait_for_workers=False)
            await until(lambda: names(cluster) == {"1"})


async def test_row_40_a_failed_start_is_tried_again(caplog: Any) -> None:
    failures = [1, 1]

    async def start(self: Any) -> Any:
        if failures:
            failures.pop()
            raise OSError("no such thing as a free lunch")
        return await Worker.start_unsafe(self)

    async with specified(type("Failing", (Worker,), {"start_unsafe": start})) as (cluster, _):
        with caplog.at_level(logging.WARNING, "dask_adaptive"):
            adapt(cluster, minimum=2, maximum=2)
            await until(lambda: len(names(cluster)) == 2)
        assert 2 == len(cluster.worker_spec) == len(cluster.workers)
        assert "a job did not start: Failing failed to start" in caplog.text


async def test_row_40_a_class_that_cannot_be_made_is_an_event_with_the_reason() -> None:
    def make(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("unexpected argument")

    async with specified(make) as (cluster, _):
        adaptive = adapt(cluster, minimum=2, maximum=2)
        await until(lambda: any("unexpected argument" in event for r in adaptive.records for event in r.events))
        assert {} == cluster.worker_spec == cluster.workers


async def test_row_41_sizes_are_in_workers_and_jobs_are_the_unit() -> None:
    async with specified(Several, group=4, workers=4) as (cluster, _):
        with pytest.raises(ConfigError, match="maximum=3 is less than one job"):
            adapt(cluster, minimum=3, maximum=3)
        adaptive = adapt(cluster, minimum=3, maximum=7)
        await until(lambda: len(names(cluster)) == 4)
        await rounds(adaptive, 15)
        assert (4, 4, 1) == (adaptive.minimum, adaptive.maximum, submitted(adaptive))


@pytest.mark.filterwarnings("ignore:Scheduler already contains a plugin with name worker-status")
async def test_row_42_a_blind_cluster_object_is_sized_all_the_same() -> None:
    async with specified() as (cluster, _):
        cluster.scheduler.plugins.pop("worker-status")
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        adapt(cluster, minimum=1, maximum=1)
        await until(lambda: len(names(cluster)) == 1)


async def test_row_43_a_dropped_status_connection_changes_nothing() -> None:
    async with specified() as (cluster, _):
        await cluster._watch_worker_status_comm.close()
        adapt(cluster, minimum=2, maximum=2)
        await until(lambda: len(names(cluster)) == 2)
        await cluster.workers[0].close()
        await until(lambda: names(cluster) == {"1", "2"})


async def test_row_44_a_dead_scheduler_is_said_once(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("dask_adaptive.controller.LOOK_TIMEOUT_S", 0.3)
    quickly = dask.config.set({"distributed.comm.timeouts.connect": "500ms"})
    with quickly:
        await _lose_the_scheduler(caplog)


async def _lose_the_scheduler(caplog: Any) -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, maximum=1)
        await rounds(adaptive)
        with caplog.at_level(logging.WARNING, "dask_adaptive"):
            await client.close()
            await cluster.scheduler.close()
            await until(lambda: "the scheduler cannot be asked" in caplog.text)
            await rounds(adaptive, 3)
        said = [line for line in caplog.messages if "the scheduler cannot be asked" in line]
        assert 1 == len(said)
        adaptive.stop()


async def test_row_46_adapt_before_the_cluster_runs() -> None:
    scheduler = {"cls": Scheduler, "options": {**HOST, "dashboard_address": ":0"}}
    cluster = SpecCluster(
        scheduler=scheduler, worker={"cls": Worker, "options": {"nthreads": 1, **HOST}}, asynchronous=True
    )
    adaptive = adapt(cluster, minimum=1, maximum=2)
    assert "starting" == adaptive.state
    async with cluster:
        await until(lambda: len(names(cluster)) == 1)


async def test_row_47_configured_limits_count() -> None:
    with dask.config.set({"distributed.adaptive.minimum": 3, "distributed.adaptive.maximum": 5}):
        async with specified() as (cluster, _):
            adaptive = cluster.adapt(Adaptive=Adaptive, **QUICK)
            assert (3, 5) == (adaptive.minimum, adaptive.maximum)


async def test_row_48_options_of_an_earlier_adapt_are_forgotten() -> None:
    async with specified() as (cluster, _):
        cluster.adapt(Adaptive=Adaptive, maximum=4, interval="60s", wait_count=99)
        second = cluster.adapt(Adaptive=Adaptive, maximum=2)
        assert (1.0, 3, 2) == (second.interval, second.wait_count, second.maximum)


async def test_row_49_scale_ends_adaptive_scaling() -> None:
    async with specified() as (cluster, _):
        adaptive = adapt(cluster, maximum=4)
        await rounds(adaptive)
        cluster.scale(3)
        await until(lambda: adaptive.state == "stopped" and len(names(cluster)) == 3)
        assert adaptive.periodic_callback is None


async def test_row_50_a_minimum_above_the_maximum_is_refused() -> None:
    async with specified() as (cluster, _):
        with pytest.raises(ConfigError, match=r"minimum=5 \(5 jobs\) is above maximum=2 \(2 jobs\)"):
            adapt(cluster, minimum=5, maximum=2)
        adaptive = adapt(cluster, maximum=4)
        assert (0, 4) == (adaptive.minimum, adaptive.maximum)


async def test_row_52_scatter_on_no_worker_starts_one() -> None:
    async with specified() as (cluster, client):
        await rounds(adapt(cluster, maximum=2))
        assert 7 == await (await client.scatter(7))


async def test_row_53_the_maximum_can_be_written_as_json() -> None:
    async with specified() as (cluster, _):
        assert "[0, 10]" == json.dumps([(a := cluster.adapt(Adaptive=Adaptive)).minimum, a.maximum], allow_nan=False)


async def test_row_56_every_decision_has_its_reason() -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, maximum=2)
        await client.submit(quick, 1)
        await until(lambda: not cluster.worker_spec)
        assert "1 task left" in reasons(adaptive)
        assert "nothing to do" in reasons(adaptive)
        assert all(want.reason for record in adaptive.records for want in record.target.pools.values())
