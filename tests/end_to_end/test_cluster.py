"""Our own clusters as a user holds them: real schedulers, real workers, real results."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, rpc
from distributed.core import Status
from tests.fakes.memory import MemoryBackend
from tests.waiting import until

from dask_adaptive import Cluster, ConfigError, LocalCluster
from dask_adaptive.journal import last

from .worlds import QUICK, Trace, alive, local, own, rounds, submitted, workers


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


# --- holding a cluster --------------------------------------------------------------------------------------------


def test_a_cluster_in_a_plain_script() -> None:
    with LocalCluster(n_workers=1, dashboard_address=None) as cluster, cluster.get_client() as client:
        assert [1, 2, 3] == client.gather(client.map(lambda x: x + 1, range(3)))
        assert cluster.status == Status.running
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout=120)
        assert {"ready"} == {row.phase.value for row in cluster.status()}
        assert "2 jobs, 2 wanted" in cluster.explain()
    assert cluster.status == Status.closed


def test_a_bare_cluster_adapts_from_none(trace: Trace) -> None:
    with LocalCluster(dashboard_address=None) as cluster, Client(cluster) as client:
        assert {} == workers(cluster)
        assert list(range(8)) == client.gather(client.map(trace.task(), range(8)))
        assert dict.fromkeys(map(str, range(8)), 1) == trace.runs


async def test_a_cluster_on_the_users_own_loop() -> None:
    cluster = LocalCluster(n_workers=1, dashboard_address=None, asynchronous=True)
    assert cluster.status == Status.created
    assert cluster is await cluster
    async with cluster.get_client() as client:
        assert 3 == await client.submit(lambda: 1 + 2)
    await cluster.close()
    assert cluster.status == Status.closed


async def test_a_cluster_goes_from_none_to_all_to_none_and_each_task_runs_once(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=3, **QUICK)
        for burst in range(2):
            done = client.map(trace.task(f"gate{burst}"), [f"{burst}.{i}" for i in range(6)])
            await until(lambda: len(workers(cluster)) == 3)
            trace.open(f"gate{burst}")
            await client.gather(done)
            del done
            await until(lambda: not workers(cluster) and not alive(cluster))
        assert {f"{burst}.{i}": 1 for burst in range(2) for i in range(6)} == trace.runs
        assert max(len(record.snapshot.load.members) for record in cluster.records) == 3


async def test_results_are_held_while_the_cluster_shrinks(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.scale(3)
        await cluster.wait_for_workers(3, timeout=120)
        kept = client.map(trace.task(), range(12))
        await client.gather(kept)
        cluster.adapt(minimum=0, maximum=3, **QUICK)
        await until(lambda: len(workers(cluster)) == 1)
        await rounds(cluster)
        assert list(range(12)) == await client.gather(kept)
        assert dict.fromkeys(map(str, range(12)), 1) == trace.runs
        assert 1 == len(workers(cluster)), "somebody has to hold the results"


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "jobs"), [({"n": 3}, 2), ({"jobs": 2}, 2), ({"cores": 5}, 2), ({"memory": "3 GB"}, 2), ({"n": 0}, 0)]
)
async def test_scale_in_any_unit_rounds_up_to_jobs(size: dict[str, Any], jobs: int) -> None:
    async with local(workers_per_job=2, threads_per_worker=2, memory_limit="1 GB") as (cluster, _):
        await cluster.scale(**size)
        await until(lambda: len(workers(cluster)) == 2 * jobs)
        await until(lambda: len(alive(cluster)) == jobs)
        await rounds(cluster, 2)
        assert jobs == submitted(cluster)


async def test_scale_needs_one_size_that_can_be() -> None:
    async with local() as (cluster, _):
        for wrong in ({}, {"n": 1, "jobs": 1}, {"n": -1}, {"n": 1.5}, {"memory": "32 gigs"}, {"n": 1, "pool": "gpu"}):
            with pytest.raises(ConfigError):
                cluster.scale(**wrong)
        assert 0 == submitted(cluster)


async def test_without_a_maximum_a_local_cluster_takes_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_adaptive.local_cluster.cores_here", lambda: 8)
    for threads, per_job, jobs in ((1, 1, 8), (2, 2, 2), (3, 1, 2), (16, 1, 1)):
        sizes = {"n_workers": 0, "threads_per_worker": threads, "workers_per_job": per_job, "memory_limit": "1 GB"}
        async with LocalCluster(dashboard_address=None, asynchronous=True, **sizes) as cluster:
            assert jobs * per_job == cluster.adapt().maximum


async def test_adapt_during_a_start(trace: Trace) -> None:
    cluster = LocalCluster(n_workers=0, dashboard_address=None, asynchronous=True)
    starting = asyncio.ensure_future(cluster)
    await asyncio.sleep(0)
    cluster.adapt(minimum=1, maximum=2)
    await starting
    async with cluster:
        await until(lambda: len(workers(cluster)) == 1)


async def test_scale_during_adapt_while_jobs_start(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=3, maximum=3, **QUICK)
        await until(lambda: alive(cluster))
        await cluster.scale(1)
        await until(lambda: len(alive(cluster)) == 1 and len(workers(cluster)) == 1)
        assert cluster._adaptive is None
        assert await client.submit(lambda: 1) == 1


async def test_wait_for_workers() -> None:
    async with local() as (cluster, _):
        cluster.scale(2)
        await cluster.wait_for_workers(2, timeout=120)  # although nobody awaited scale()
        assert 2 == len(workers(cluster))
        with pytest.raises(TimeoutError):
            await cluster.wait_for_workers(3, timeout=0.2)


async def test_scale_to_none_waits_for_whoever_holds_results(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.scale(1)
        future = client.submit(trace.task(), 5, key="precious")
        await future
        await cluster.scale(0)
        stays = await until(
            lambda: [event for record in cluster.records for event in record.events if "stays" in event]
        )
        assert 5 == await future
        assert 1 == len(workers(cluster)), stays
        future.release()
        await until(lambda: not workers(cluster))
        assert {"5": 1} == trace.runs


async def test_a_client_that_shuts_down_closes_its_cluster() -> None:
    cluster = await LocalCluster(n_workers=1, dashboard_address=None, asynchronous=True)
    client = await Client(cluster, asynchronous=True)
    await client.shutdown()
    assert cluster.status == Status.closed


# --- pools --------------------------------------------------------------------------------------------------------


async def test_work_with_a_resource_starts_only_the_pool_that_has_it(trace: Trace) -> None:
    pools: dict[str, dict[str, Any]] = {"plain": {}, "big": {"resources": {"BIG": 1}, "price": 5}}
    async with own(pools=pools) as cluster, Client(cluster, asynchronous=True) as client:
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        special = client.submit(trace.task("go"), 1, resources={"BIG": 1})
        await until(lambda: trace.runs)
        assert ["big"] == [row.pool for row in cluster.status()]
        plain = client.submit(trace.task("go"), 2)
        await until(lambda: trace.runs["2"])
        trace.open("go")
        assert [1, 2] == await client.gather([special, plain])
        assert {"1": 1, "2": 1} == trace.runs


async def test_gpus_are_a_resource_and_each_worker_sees_its_own(trace: Trace) -> None:
    from dask_adaptive.backend.local import Local

    pools: dict[str, dict[str, Any]] = {"default": {}, "gpu": {"gpus": 1}}
    async with own(Local(gpus=["3", "5"]), pools=pools) as cluster, Client(cluster, asynchronous=True) as client:
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        futures = client.map(trace.task("go"), range(2), resources={"GPU": 1})
        await until(lambda: len(trace.runs) == 2)
        assert ["gpu", "gpu"] == [row.pool for row in cluster.status()]
        assert [{"GPU": 1.0}] * 2 == [info["resources"] for info in workers(cluster).values()]
        seen = await client.run(lambda: __import__("os").environ["CUDA_VISIBLE_DEVICES"])
        assert ["3", "5"] == sorted(seen.values())
        trace.open("go")
        assert [0, 1] == await client.gather(futures)


async def test_impossible_work_is_reported_and_starts_nothing() -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        future = client.submit(lambda: 1, resources={"MOON": 1})
        said = await until(lambda: cluster.controller.record.target.impossible)
        assert "MOON" in said[0]
        await rounds(cluster)
        assert 0 == submitted(cluster)
        assert "MOON" in await cluster.explain()
        del future


async def test_workers_are_what_was_asked_for(tmp_path: Path) -> None:
    preload = tmp_path / "early.py"
    preload.write_text("import os\nos.environ['PRELOADED'] = 'yes'\n")
    asked = {"workers_per_job": 2, "threads_per_worker": 3, "memory_limit": "2 GB", "resources": {"licence": 2}}
    async with local(environment={"MINE": 1}, preload=str(preload), **asked) as (cluster, client):
        await cluster.scale(jobs=1)
        await until(lambda: len(workers(cluster)) == 2)
        facts = [(info["nthreads"], info["memory_limit"], info["resources"]) for info in workers(cluster).values()]
        assert [(3, 2_000_000_000, {"licence": 2.0})] * 2 == facts
        seen = await client.run(lambda: [__import__("os").environ.get(name) for name in ("MINE", "PRELOADED")])
        assert [["1", "yes"]] * 2 == list(seen.values())


# --- its account of itself ----------------------------------------------------------------------------------------


async def test_the_table_of_jobs_follows_them() -> None:
    async with local() as (cluster, _):
        assert "no jobs" == str(cluster.status())
        await cluster.scale(1)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["ready"])
        (row,) = cluster.status()
        assert (1, "default") == (row.workers, row.pool)
        assert [f"{row.job}-0-0"] == list(workers(cluster))
        await cluster.scale(0)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["gone"])
        assert "gone" in str(cluster.status())


async def test_explain_names_who_keeps_the_cluster_from_shrinking() -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=1, **QUICK)
        future = client.submit(lambda: 1, key="precious")
        await future
        text = await cluster.explain()
        assert client.id in text
        assert "precious" in text
        assert "Limits: 0 to 1 jobs" in text
        assert "would make it grow" in text


async def test_logs_of_the_living_and_the_dead() -> None:
    async with local() as (cluster, client):
        await cluster.scale(1)
        await until(lambda: len(workers(cluster)) == 1)
        (name,) = alive(cluster)
        await client.run(lambda: print("a word from inside", flush=True))  # noqa: T201
        await until(lambda: _said(cluster, name, "a word from inside"))
        await cluster.scale(0)
        await until(lambda: not alive(cluster))
        await until(lambda: _said(cluster, name, "a word from inside"))
        assert {"Cluster", "Scheduler"} <= set(await cluster.get_logs())


async def _said(cluster: Any, job: str, words: str) -> bool:
    return words in (await cluster.get_logs())[f"job {job}"]


async def test_the_first_worker_is_missed_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    backend = MemoryBackend(time.monotonic, queue_s=float("inf"))
    with dask.config.set({"adaptive.first-worker-notice": "200 ms"}):
        cluster = own(backend)
    async with cluster, Client(cluster, asynchronous=True) as client:
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        future = client.submit(lambda: 1)
        said = await until(lambda: [line for _, line in cluster._cluster_manager_logs if "first worker" in line])
        await rounds(cluster)
        assert 1 == len(said), "once is enough"
        assert "1 queued (waiting in memory)" in said[0]
        assert "first worker" in capsys.readouterr().out
        del future


async def test_startup_latencies_are_learned_and_read_back(tmp_path: Path) -> None:
    journal = tmp_path / "deep" / "journal.jsonl"
    async with local(journal=str(journal), n_workers=2) as (cluster, _):
        await until(lambda: len(workers(cluster)) == 2)
        await rounds(cluster, 2)
        learned = cluster.controller.record.snapshot.pools["default"].startup
    assert 2 == len(learned.start_s)
    assert all(queue_s + start_s > 0 for queue_s, start_s in zip(learned.queue_s, learned.start_s, strict=True))
    record = last(journal)
    assert record is not None
    assert learned == record.snapshot.pools["default"].startup
    async with local(journal=str(journal)) as (cluster, _):
        await until(lambda: cluster.controller.record)
        assert learned == cluster.controller.record.snapshot.pools["default"].startup


# --- schedulers of others, security -------------------------------------------------------------------------------


async def test_everything_works_under_tls(trace: Trace) -> None:
    async with local(security=True) as (cluster, client):
        assert cluster.scheduler_address.startswith("tls://")
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        assert list(range(4)) == await client.gather(client.map(trace.task(), range(4)))
        assert all(address.startswith("tls://") for address in cluster.scheduler_info["workers"])
        await until(lambda: not workers(cluster))


async def test_an_attached_scheduler_is_never_closed(trace: Trace) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
        async with own(scheduler=scheduler.address) as cluster, Client(cluster, asynchronous=True) as client:
            assert scheduler.address == cluster.scheduler_address
            cluster.adapt(minimum=0, maximum=2, **QUICK)
            assert 7 == await client.submit(trace.task(), 7)
        assert scheduler.status == Status.running
        assert {} == dict(scheduler.workers)
        async with Client(scheduler.address, asynchronous=True) as client:
            assert {} == (await client.scheduler.identity())["workers"]


# --- a subclass that brings its own workers -----------------------------------------------------------------------


class Bringing(Cluster):
    """Brings worker processes by hand, as a user's own class would."""

    def __init__(self, scheduler: Any, **options: Any) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.closed: list[str] = []
        super().__init__(**options)
        self.scheduler_comm = rpc(scheduler)

    def scale_up(self, n: int) -> None:
        while len(self.processes) < n:
            command = [sys.executable, "-m", "distributed.cli.dask_worker", self.scheduler_comm.address, "--no-nanny"]
            more = ["--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1"]
            self.processes.append(subprocess.Popen([*command, *more], stderr=subprocess.DEVNULL))

    def scale_down(self, workers: list[str]) -> None:
        self.closed += workers

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class BringingAsync(Bringing):
    async def scale_up(self, n: int) -> None:  # type: ignore[override]
        super().scale_up(n)

    async def scale_down(self, workers: list[str]) -> None:  # type: ignore[override]
        super().scale_down(workers)


@pytest.mark.parametrize("kind", [Bringing, BringingAsync])
async def test_a_subclass_that_brings_its_own_workers(kind: type[Bringing], trace: Trace) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
        cluster = kind(scheduler.address, asynchronous=True)
        try:
            async with cluster, Client(cluster, asynchronous=True) as client:
                cluster.adapt(minimum=0, maximum=1, **QUICK)
                assert 1 == await client.submit(trace.task(), 1)
                (address,) = cluster.scheduler_info["workers"]
                assert kind.__name__ in repr(cluster)
                assert {"Cluster", "Scheduler", address} == set(await cluster.get_logs())
                await until(lambda: cluster.closed)
                assert [address] == cluster.closed
                await until(lambda: not cluster.scheduler_info["workers"])
            assert scheduler.status == Status.running
        finally:
            cluster.end()


class Fixedly(Cluster):
    _supports_scaling = False


async def test_a_cluster_that_does_not_scale_says_so() -> None:
    cluster = Fixedly(asynchronous=True, scheduler_options={"dashboard": False})
    async with cluster:
        for ask in (cluster.adapt, lambda: cluster.scale(1)):
            with pytest.raises(ConfigError, match="Fixedly does not support scaling"):
                ask()


# --- weaknesses of today's adaptive deployments, by their rows in the docs: nothing is lost -----------------------


def _actor_class() -> type[Any]:
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

    return Counter


async def test_row_01_a_worker_with_an_actor_is_kept() -> None:
    async with local() as (cluster, client):
        cluster.scale(2)
        await cluster.wait_for_workers(2, timeout=120)
        counter = await client.submit(_actor_class(), actor=True)
        assert 1 == await counter.add()
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        await until(lambda: len(workers(cluster)) == 1)
        await cluster.scale(0)
        await until(lambda: any("actor" in event for record in cluster.records for event in record.events))
        assert 2 == await counter.add()


async def test_row_02_scaling_down_moves_data_first(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.scale(4)
        await cluster.wait_for_workers(4, timeout=120)
        scattered = await client.scatter(list(range(100, 108)))
        results = client.map(trace.task(), range(20))
        await client.gather(results)
        await cluster.scale(1)
        await until(lambda: len(workers(cluster)) == 1)
        assert list(range(100, 108)) == await client.gather(scattered)
        assert list(range(20)) == await client.gather(results)
        assert dict.fromkeys(map(str, range(20)), 1) == trace.runs


async def test_row_03_a_lower_maximum_cuts_nothing_off(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=4, **QUICK)
        futures = client.map(trace.task("go"), range(4))
        await until(lambda: len(trace.runs) == 4)
        cluster.adapt(minimum=0, maximum=1, **QUICK)
        await until(lambda: any(row.phase.value == "draining" for row in cluster.status()))
        trace.open("go")
        assert [0, 1, 2, 3] == await client.gather(futures)
        await until(lambda: len(workers(cluster)) == 1)
        assert dict.fromkeys("0123", 1) == trace.runs


async def test_row_04_a_drain_waits_for_the_running_task(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.scale(1)
        future = client.submit(trace.task("go"), 1)
        await until(lambda: trace.runs)
        await cluster.scale(0)
        await until(lambda: any(row.phase.value == "draining" for row in cluster.status()))
        await rounds(cluster, 2)
        trace.open("go")
        assert 1 == await future
        assert {"1": 1} == trace.runs


async def test_row_05_a_job_with_one_busy_worker_keeps_both(trace: Trace) -> None:
    async with local(workers_per_job=2) as (cluster, client):
        cluster.adapt(minimum=0, maximum=4, **QUICK)
        future = client.submit(trace.task("go"), 1)
        await until(lambda: trace.runs)
        await until(lambda: len(workers(cluster)) == 2)
        await rounds(cluster, 10)
        assert 2 == len(workers(cluster))
        trace.open("go")
        assert 1 == await future
        assert ({"1": 1}, 1) == (trace.runs, submitted(cluster))


async def test_row_06_half_busy_jobs_are_not_taken_for_a_lower_target(trace: Trace) -> None:
    async with local(workers_per_job=2) as (cluster, client):
        cluster.scale(jobs=2)
        await cluster.wait_for_workers(4, timeout=120)
        first = [
            next(a for a, w in cluster.scheduler_info["workers"].items() if w["name"] == f"{job}-0-0")
            for job in alive(cluster)
        ]
        futures = [client.submit(trace.task("go"), i, workers=[address]) for i, address in enumerate(first)]
        await until(lambda: len(trace.runs) == 2)
        cluster.adapt(minimum=0, maximum=4, **QUICK)
        await rounds(cluster, 10)
        assert 4 == len(workers(cluster))
        trace.open("go")
        assert [0, 1] == await client.gather(futures)
        assert {"0": 1, "1": 1} == trace.runs


async def test_row_07_a_seceded_task_keeps_its_whole_job(trace: Trace) -> None:
    task = trace.task("go")

    def seceding(x: int) -> Any:
        from distributed import secede

        secede()
        return task(x)

    async with local(workers_per_job=2) as (cluster, client):
        cluster.scale(jobs=2)
        await cluster.wait_for_workers(4, timeout=120)
        future = client.submit(seceding, 1)
        await until(lambda: trace.runs)
        cluster.adapt(minimum=0, maximum=4, **QUICK)
        await until(lambda: len(workers(cluster)) == 2)
        await rounds(cluster)
        assert 2 == len(workers(cluster))
        trace.open("go")
        assert 1 == await future
        assert {"1": 1} == trace.runs


def _big(size: int) -> Any:
    class Big:
        def __sizeof__(self) -> int:
            return size

    return Big()


async def test_row_08_data_that_the_others_cannot_take_keeps_its_workers() -> None:
    async with local(memory_limit="1 GB") as (cluster, client):
        cluster.scale(3)
        await cluster.wait_for_workers(3, timeout=120)
        places = list(cluster.scheduler_info["workers"])
        kept = [client.submit(_big, 500_000_000, key=place, workers=[place]) for place in places]
        await client.gather([client.submit(lambda _: 1, each) for each in kept])
        cluster.adapt(minimum=0, maximum=3, **QUICK)
        await rounds(cluster, 10)
        assert 3 == len(workers(cluster))


async def test_row_09_the_idle_worker_goes_and_the_busy_one_stays(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.scale(2)
        await cluster.wait_for_workers(2, timeout=120)
        busy, _ = cluster.scheduler_info["workers"]
        future = client.submit(trace.task("go"), 1, workers=[busy])
        await until(lambda: trace.runs)
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        await until(lambda: list(cluster.scheduler_info["workers"]) == [busy])
        trace.open("go")
        assert 1 == await future
        assert {"1": 1} == trace.runs


async def test_row_10_no_task_is_blamed_for_scaling_down(trace: Trace) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        async with local() as (cluster, client):
            cluster.scale(3)
            await cluster.wait_for_workers(3, timeout=120)
            futures = client.map(trace.task("go"), range(3))
            await until(lambda: len(trace.runs) == 3)
            for size in (1, 3, 1):
                await cluster.scale(size)
                await rounds(cluster, 3)
            trace.open("go")
            assert [0, 1, 2] == await client.gather(futures)
            assert {"0": 1, "1": 1, "2": 1} == trace.runs


# --- reaction -----------------------------------------------------------------------------------------------------


async def test_row_29_the_first_request_comes_by_push_not_by_tick() -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=2, interval=600)
        await rounds(cluster, 1)
        began_s = time.monotonic()
        future = client.submit(lambda: 1)
        await until(lambda: submitted(cluster))
        assert time.monotonic() - began_s < 30, "pushes take milliseconds; a tick would be minutes away"
        assert 1 == await future


async def test_row_30_periodic_work_does_not_flap(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=2, interval="50 ms", wait_count=1200, target_duration="50 ms")
        for batch in range(3):
            gate = f"go{batch}"
            futures = client.map(trace.task(gate), [f"{batch}.{i}" for i in range(2)])
            await until(lambda: len(trace.runs) == 2 * batch + 2)  # noqa: B023
            trace.open(gate)
            await client.gather(futures)
            del futures
            await rounds(cluster, 5)
        assert 2 == submitted(cluster)
        assert 2 == len(workers(cluster))


async def test_row_31_queued_jobs_keep_their_place_over_a_short_pause() -> None:
    backend = MemoryBackend(time.monotonic, queue_s=float("inf"))
    async with own(backend) as cluster, Client(cluster, asynchronous=True) as client:
        cluster.adapt(minimum=0, maximum=2, interval="50 ms", wait_count=1200, target_duration="50 ms")
        for _ in range(2):
            futures = client.map(lambda x: x, range(2))
            await until(lambda: len(backend.alive()) == 2)
            del futures
            await until(lambda: not cluster.controller.record.snapshot.load.groups)
            await rounds(cluster, 5)
        assert ([], 1) == (backend.cancels, len(backend.batches))


async def test_row_32_a_slow_manager_blocks_nobody_else() -> None:
    slow = MemoryBackend(time.monotonic)
    slow.gates["submit"] = asyncio.Event()
    pools: dict[str, dict[str, Any]] = {"slow": {"backend": slow}, "quick": {"backend": "local"}}
    async with own(pools=pools) as cluster:
        await cluster.scale(1, pool="slow")
        await until(lambda: slow.calls["submit"])
        await cluster.scale(1, pool="quick")
        await until(lambda: len(workers(cluster)) == 1)
        assert not slow.gates["submit"].is_set()
        slow.gates["submit"].set()


async def test_row_33_growing_does_not_wait_for_a_drain(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.scale(1)
        future = client.submit(trace.task("go"), 1)
        await until(lambda: trace.runs)
        await cluster.scale(0)
        await until(lambda: any(row.phase.value == "draining" for row in cluster.status()))
        await cluster.scale(2)
        await until(lambda: len(workers(cluster)) == 3)
        assert any(row.phase.value == "draining" for row in cluster.status())
        trace.open("go")
        assert 1 == await future
        await until(lambda: len(workers(cluster)) == 2)
        assert {"1": 1} == trace.runs


# --- state and interface ------------------------------------------------------------------------------------------


async def _replaced(cluster: LocalCluster, was: set[str]) -> None:
    """Nobody waits for Dask's 15 s, nor for our own patience with workers that may come back."""
    await until(lambda: workers(cluster) and not was & set(workers(cluster)))


async def test_row_37_a_worker_at_the_end_of_its_lifetime_is_replaced() -> None:
    with dask.config.set({"adaptive.lost-timeout": "600s"}):
        async with local(worker_arguments=["--lifetime", "2 s"]) as (cluster, _):
            cluster.adapt(minimum=1, maximum=1, **QUICK)
            await until(lambda: workers(cluster))
            await _replaced(cluster, set(workers(cluster)))


async def test_row_38_a_worker_that_somebody_retired_is_replaced() -> None:
    with dask.config.set({"adaptive.lost-timeout": "600s"}):
        async with local() as (cluster, client):
            cluster.adapt(minimum=1, maximum=1, **QUICK)
            was = set(await until(lambda: workers(cluster)))
            await client.retire_workers()
            await _replaced(cluster, was)


async def test_row_39_restart_brings_new_workers() -> None:
    with dask.config.set({"adaptive.lost-timeout": "600s"}):
        async with local() as (cluster, client):
            cluster.adapt(minimum=1, maximum=1, **QUICK)
            was = set(await until(lambda: workers(cluster)))
            await client.restart(wait_for_workers=False)
            await _replaced(cluster, was)
            assert 1 == await client.submit(lambda: 1)


async def test_row_41_sizes_in_workers_mean_workers_of_whole_jobs() -> None:
    async with local(workers_per_job=2) as (cluster, _):
        cluster.adapt(minimum=4, maximum=4, **QUICK)
        await until(lambda: len(workers(cluster)) == 4)
        await rounds(cluster, 10)
        assert (2, 4) == (submitted(cluster), len(workers(cluster)))


async def test_row_42_two_clusters_on_one_scheduler(trace: Trace) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
        async with own(scheduler=scheduler.address) as one:
            async with own(scheduler=scheduler.address) as two:
                one.scale(1)
                two.scale(1)
                await until(lambda: len(workers(one)) == 2 and len(workers(two)) == 2)
                await until(lambda: [[1], [1]] == [[row.workers for row in each.status()] for each in (one, two)])
            await until(lambda: len(workers(one)) == 1)
            assert [f"{job}-0-0" for job in alive(one)] == list(workers(one))
            one.scale(2)
            await until(lambda: len(workers(one)) == 2)


async def test_row_43_a_dropped_stream_is_picked_up_again() -> None:
    async with local() as (cluster, _):
        cluster.scale(1)
        await until(lambda: len(workers(cluster)) == 1)
        assert cluster.scheduler is not None
        for comm in list(cluster.scheduler._comms):
            if cluster.scheduler._comms[comm] == f"{cluster.engine.name}-watch":
                comm.abort()
        cluster.scale(2)
        await until(lambda: len(workers(cluster)) == 2)


async def test_row_46_adapt_before_the_cluster_runs() -> None:
    cluster = LocalCluster(n_workers=0, dashboard_address=None, asynchronous=True)
    adaptive = cluster.adapt(minimum=1, maximum=1)
    async with cluster:
        await until(lambda: len(workers(cluster)) == 1)
        assert "running" == adaptive.state


async def test_row_47_configured_limits_are_honoured() -> None:
    with dask.config.set({"distributed.adaptive.minimum": 1, "distributed.adaptive.maximum": 2}):
        async with local() as (cluster, _):
            adaptive = cluster.adapt()
            assert (1, 2) == (adaptive.minimum, adaptive.maximum)
            await until(lambda: len(workers(cluster)) == 1)


async def test_row_48_every_adapt_stands_alone() -> None:
    async with local() as (cluster, _):
        cluster.adapt(minimum=2, maximum=3, interval=60, wait_count=99)
        adaptive = cluster.adapt(maximum=2)
        assert (0, 2, 1.0) == (adaptive.minimum, adaptive.maximum, adaptive.interval)
        await until(lambda: cluster.controller.interval_s == 1.0)
        await rounds(cluster)
        assert 0 == len(alive(cluster))


async def test_row_49_scale_ends_adaptive_scaling_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    async with local() as (cluster, _):
        adaptive = cluster.adapt(minimum=0, maximum=3, **QUICK)
        await until(lambda: adaptive.state == "running")
        await cluster.scale(2)
        await until(lambda: len(workers(cluster)) == 2)
        await rounds(cluster, 10)
        assert (2, "stopped") == (len(workers(cluster)), adaptive.state)
        assert "adaptive scaling ends" in capsys.readouterr().out
        assert any("adaptive scaling ends" in line for _, line in cluster._cluster_manager_logs)


async def test_row_50_a_minimum_above_the_maximum_is_refused() -> None:
    async with local() as (cluster, _):
        with pytest.raises(ConfigError, match="minimum"):
            cluster.adapt(minimum=5, maximum=2)
        await rounds(cluster, 2)
        assert 0 == submitted(cluster)


async def test_row_51_limits_in_cores_and_memory_need_no_worker() -> None:
    async with local(threads_per_worker=2, memory_limit="1 GB") as (cluster, _):
        assert 3 == cluster.adapt(maximum_cores=7).maximum
        assert 4 == cluster.adapt(maximum_memory="4.5 GB").maximum


async def test_row_52_scatter_on_no_workers_brings_one() -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=1, **QUICK)
        future = await client.scatter(7, timeout=120)
        assert 7 == await future


async def test_row_53_limits_are_json() -> None:
    async with local() as (cluster, _):
        for adaptive in (cluster.adapt(), cluster.adapt(maximum=float("inf"))):
            text = json.dumps({"minimum": adaptive.minimum, "maximum": adaptive.maximum}, allow_nan=False)
            assert 0 == json.loads(text)["minimum"]


async def test_row_54_close_with_everything_in_flight(trace: Trace, caplog: pytest.LogCaptureFixture) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=4, **QUICK)
        futures = client.map(trace.task("never"), range(4))
        await until(lambda: alive(cluster))
        await asyncio.wait_for(cluster.close(), 120)
        assert cluster.status == Status.closed
        del futures
    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_row_55_the_last_adapt_decides_alone() -> None:
    async with local() as (cluster, _):
        first = cluster.adapt(minimum=2, maximum=2, **QUICK)
        second = cluster.adapt(minimum=1, maximum=1, **QUICK)
        await until(lambda: second.state == "running")
        await until(lambda: len(workers(cluster)) == 1)
        await rounds(cluster, 10)
        assert ("stopped", 1) == (first.state, len(workers(cluster)))
        second.stop()
        await rounds(cluster, 3)
        assert 1 == len(workers(cluster))


async def test_row_56_every_decision_has_its_inputs_and_a_reason() -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=2, **QUICK)
        await client.submit(lambda: 1)
        await until(lambda: not alive(cluster))
        for record in cluster.records:
            assert all(want.reason for want in record.target.pools.values())
        grown = next(record for record in cluster.records if record.plan.submits)
        assert 1 == sum(group.ready for group in grown.snapshot.load.groups)
        assert "1 task ready" in grown.plan.submits[0].reason
