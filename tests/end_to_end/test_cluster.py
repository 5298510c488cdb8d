"""Our own clusters as a user holds them: real schedulers, real workers, real results."""

from __future__ import annotations

import asyncio
import json
import logging
import os
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

from dask_adaptive import Adaptive, Cluster, ConfigError, LocalCluster
from dask_adaptive.journal import last

from .worlds import QUICK, Trace, alive, local, own, pids, rounds, submitted, until, workers


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


# --- holding a cluster --------------------------------------------------------------------------------------------


def test_a_cluster_in_a_plain_script() -> None:
    with LocalCluster(n_workers=1, dashboard_address=None) as cluster, cluster.get_client() as client:
        assert [1, 2, 3] == client.gather(client.map(lambda x: x + 1, range(3)))
        assert cluster.status == Status.running
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout=60)
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
        await cluster.wait_for_workers(3, timeout=60)
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
        await cluster.wait_for_workers(2, timeout=60)  # although nobody awaited scale()
        assert 2 == len(workers(cluster))
        with pytest.raises(TimeoutError):
            await cluster.wait_for_workers(3, timeout=0.2)


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


async def test_gpus_are_a_resource_and_each_worker_sees_its_own() -> None:
    from dask_adaptive.backend.local import Local

    pools: dict[str, dict[str, Any]] = {"default": {}, "gpu": {"gpus": 1}}
    async with own(Local(gpus=["3", "5"]), pools=pools) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(2, pool="gpu")
        await until(lambda: len(workers(cluster)) == 2)
        assert [{"GPU": 1.0}] * 2 == [info["resources"] for info in workers(cluster).values()]
        seen = await client.run(lambda: __import__("os").environ["CUDA_VISIBLE_DEVICES"])
        assert ["3", "5"] == sorted(seen.values())


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
    assert all(start_s > 0 for start_s in learned.start_s)
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
