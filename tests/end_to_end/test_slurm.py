"""Clusters on a real Slurm: what only its users would notice; ``test_batch_systems.py`` has what all would."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from benchmarks import submits
from distributed import Client, Scheduler
from tests.systems.slurm import CORES, NODES
from tests.waiting import until

from dask_adaptive import Rejected, SlurmCluster
from dask_adaptive.backend import calls

from .sites import OnSlurm, events, on_slurm, phases, running, sleeping, stand_before
from .worlds import alive, rounds, workers

pytestmark = pytest.mark.system("slurm")


@pytest.fixture
def site() -> Iterator[OnSlurm]:
    with on_slurm() as made:
        yield made


async def test_the_benchmark_counts_the_commands_of_both_sides() -> None:
    found = await submits.measure_async(12)
    assert {"ours": 1, "dask-jobqueue": 12} == {side: each.commands["sbatch"] for side, each in found.items()}


async def test_queued_jobs_say_why_and_are_cancelled(site: OnSlurm, tmp_path: Path) -> None:
    async with running(site, tmp_path, python=sleeping(tmp_path), cores=1, job_cores=CORES) as cluster:
        await cluster.scale(jobs=NODES + 2)
        await until(lambda: site.system.states(cluster.key) == {"RUNNING": NODES, "PENDING": 2})
        await until(lambda: sum("Resources" in row.reason or "Priority" in row.reason for row in cluster.status()) == 2)
        await cluster.scale(jobs=NODES)
        await until(lambda: site.system.states(cluster.key) == {"RUNNING": NODES})


async def test_an_array_may_be_throttled(site: OnSlurm, tmp_path: Path) -> None:
    async with running(site, tmp_path, python=sleeping(tmp_path), throttle=2) as cluster:
        await cluster.scale(jobs=5)
        await until(lambda: sum(row.reason.startswith("JobArrayTaskLimit") for row in cluster.status()) == 3)
        assert {"RUNNING": 2, "PENDING": 3} == dict(site.system.states(cluster.key))


# --- jobs with several workers, on several nodes ------------------------------------------------------------------


async def test_a_launcher_starts_workers_on_several_nodes(site: OnSlurm, tmp_path: Path) -> None:
    async with running(site, tmp_path, cores=2, processes=2, nodes=2, launcher="srun") as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: len(workers(cluster)) == 2)
        nodes = site.system.ask("squeue", "-h", "-n", alive(cluster)[0].partition(".")[0], "-o", "%D").stdout
        assert [b"2"] == nodes.split()
        assert {f"{alive(cluster)[0]}-0-0", f"{alive(cluster)[0]}-1-0"} == set(workers(cluster))


async def test_gpus_are_asked_for_offered_and_seen(site: OnSlurm, tmp_path: Path) -> None:
    async with running(site, tmp_path, cores=2, processes=2, gpus=1) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await cluster.scale(jobs=1)
            await until(lambda: len(workers(cluster)) == 2)
            assert ["0", "1"] == sorted((await client.run(os.getenv, "CUDA_VISIBLE_DEVICES")).values())
            assert [{"GPU": 1.0}] * 2 == [info["resources"] for info in workers(cluster).values()]


# --- faults -------------------------------------------------------------------------------------------------------


async def test_a_requeued_job_is_the_same_job(site: OnSlurm, tmp_path: Path) -> None:
    async with running(site, tmp_path, python=sleeping(tmp_path)) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: phases(cluster) == ["starting"])
        (job,) = cluster.status()
        site.system.ask("scontrol", "requeue", job.id)
        await until(lambda: phases(cluster) == ["queued"])
        site.system.ask("scontrol", "update", f"JobId={job.id}", "StartTime=now")  # else it waits for two minutes
        await until(lambda: phases(cluster) == ["starting"])
        assert [(job.job, job.id)] == [(row.job, row.id) for row in cluster.status()]


async def test_a_serving_job_that_is_requeued_is_drained_and_replaced(site: OnSlurm, tmp_path: Path) -> None:
    with dask.config.set({"adaptive.end-timeout": "2s"}):
        async with running(site, tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
            await cluster.scale(2)
            await until(lambda: phases(cluster) == ["ready"] * 2)
            future = client.submit(uuid.uuid4, pure=False)
            before = await future
            ((address,),) = (await client.who_has(future)).values()
            name = cluster.scheduler_info["workers"][address]["name"].partition("-")[0]
            (job,) = (row for row in cluster.status() if row.job == name)
            site.system.ask("scontrol", "requeue", job.id)
            await until(lambda: phases(cluster) == ["ready"] * 2 and not any(name in each for each in workers(cluster)))
            assert before == await client.gather(future), "it was handed over"
            await until(lambda: site.system.states(cluster.key) == {"RUNNING": 2})


async def test_slurmctld_freezes_during_a_submit(site: OnSlurm, tmp_path: Path) -> None:
    """sbatch gives up after a while; whether the jobs were made shows when slurmctld goes on."""
    with dask.config.set({"adaptive.unknown-timeout": "10s"}):
        async with running(site, tmp_path, python=sleeping(tmp_path)) as cluster:
            site.system.signal("slurmctld", signal.SIGSTOP)
            try:
                await cluster.scale(jobs=2)
                await until(lambda: "Socket timed out" in events(cluster))
            finally:
                site.system.signal("slurmctld", signal.SIGCONT)
            await until(lambda: phases(cluster) == ["starting"] * 2)
            await rounds(cluster, 3)
            assert {"RUNNING": 2} == dict(site.system.states(cluster.key))


async def test_without_slurms_commands_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Rejected, match="there is no 'scontrol' on this machine"):
        await SlurmCluster(cores=1, asynchronous=True, dashboard_address=None, host="127.0.0.1")


async def test_a_list_that_hangs_is_told_of(site: OnSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SLOW_S", 1.0)
    gate = tmp_path / "gate"
    waits = f'while [ -e "{gate}" ]; do sleep 0.1; done\nexec squeue "$@"'
    stand_before("squeue", waits, tmp_path / "bin", monkeypatch)
    async with running(site, tmp_path) as cluster:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        gate.touch()
        await until(lambda: "slurm: squeue has not answered for 1 s" in events(cluster))
        assert "squeue has not answered" in await cluster.explain()
        gate.unlink()
        await until(lambda: not cluster.controller.record.snapshot.pools["default"].stale)
        assert ["ready"] == phases(cluster)


async def test_who_comes_back_to_a_living_scheduler_finds_its_jobs(site: OnSlurm, tmp_path: Path) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        options = {"cores": 1, "scheduler": scheduler.address, "name": "again", "security": False, "poll_s": 0.5}
        options |= {"log_directory": str(tmp_path / "logs"), "asynchronous": True, "dashboard_address": None}
        first = await SlurmCluster(**options)
        await first.scale(1)
        await until(lambda: phases(first) == ["ready"])
        await first.detach()
        async with SlurmCluster(**options) as second:
            await until(lambda: phases(second) == ["ready"])
            assert {"RUNNING": 1} == dict(site.system.states(first.key))
            assert "Start worker at" in await second.log(alive(second)[0])
        assert 0 == site.system.left(first.key)
