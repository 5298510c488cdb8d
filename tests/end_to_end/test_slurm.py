"""Clusters on a real Slurm: what its users would notice, and what Slurm itself says at the end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from benchmarks import submits
from distributed import Client, Scheduler
from tests.systems.slurm import CORES, NODES, SlurmSystem, slurm

from dask_adaptive import Rejected, SlurmCluster
from dask_adaptive.backend import batch as engine

from .worlds import QUICK, Trace, alive, rounds, until, workers

pytestmark = pytest.mark.system("slurm")


@pytest.fixture
def system() -> SlurmSystem:
    return slurm()


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    """An interpreter of workers that only sleeps: a job that costs nothing and never registers."""
    return _program(tmp_path / "sleeper", "exec sleep 600")


def _program(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@asynccontextmanager
async def running(directory: Path, **options: Any) -> AsyncIterator[SlurmCluster]:
    """A cluster whose jobs Slurm has forgotten when it is closed."""
    options = {"cores": 1, "host": "127.0.0.1", "dashboard_address": None, "poll_s": 0.5, **options}
    async with SlurmCluster(asynchronous=True, log_directory=str(directory / "logs"), **options) as cluster:
        yield cluster
    assert 0 == slurm().left(key(cluster))
    assert [] == [path.name for path in (directory / "logs").glob(".*")], "private files"


def key(cluster: SlurmCluster) -> str:
    found: str = cluster._key
    return found


def events(cluster: SlurmCluster) -> str:
    return "\n".join(event for record in cluster.records for event in record.events)


def arrays(system: SlurmSystem, cluster: SlurmCluster) -> set[str]:
    """The submits that there were, by Slurm's numbers for them."""
    lines = system.ask("squeue", "-h", "-r", "-t", "all", "-o", "%j %F").stdout.decode().splitlines()
    return {line.split()[1] for line in lines if line.startswith(key(cluster))}


def phases(cluster: SlurmCluster) -> list[str]:
    return [row.phase.value for row in cluster.status() if row.phase.value not in ("gone", "failed")]


# --- sizes --------------------------------------------------------------------------------------------------------


async def test_from_nothing_to_twenty_and_back(
    system: SlurmSystem, tmp_path: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "closed")  # a habit of the user's must not hide our jobs
    async with running(tmp_path, python=sleeper) as cluster:
        await cluster.scale(jobs=20)
        await until(lambda: phases(cluster) == ["starting"] * 20)
        monkeypatch.delenv("SQUEUE_PARTITION")
        assert {"RUNNING": 20} == dict(system.states(key(cluster)))
        assert 1 == len(arrays(system, cluster))
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0)
        await until(lambda: alive(cluster) == [])


async def test_a_thousand_jobs_are_few_submits(system: SlurmSystem, tmp_path: Path, sleeper: str) -> None:
    """One more than the largest array of this site: as many as allowed now, the rest later."""
    async with running(tmp_path, python=sleeper) as cluster:
        await cluster.scale(jobs=1002)
        await until(lambda: system.left(key(cluster)) == 1002, 120)
        assert 2 == len(arrays(system, cluster))
        await until(lambda: "starting" in phases(cluster) and "queued" in phases(cluster))
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0, 120)


async def test_the_benchmark_counts_the_commands_of_both_sides() -> None:
    found = await submits.measure_async(12)
    assert {"ours": 1, "dask-jobqueue": 12} == {side: each.commands["sbatch"] for side, each in found.items()}


async def test_queued_jobs_say_why_and_are_cancelled(system: SlurmSystem, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper, cores=1, job_cores=CORES) as cluster:
        await cluster.scale(jobs=NODES + 2)
        await until(lambda: system.states(key(cluster)) == {"RUNNING": NODES, "PENDING": 2})
        await until(lambda: sum("Resources" in row.reason or "Priority" in row.reason for row in cluster.status()) == 2)
        await cluster.scale(jobs=NODES)
        await until(lambda: system.states(key(cluster)) == {"RUNNING": NODES})


async def test_an_array_may_be_throttled(system: SlurmSystem, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper, throttle=2) as cluster:
        await cluster.scale(jobs=5)
        await until(lambda: sum(row.reason.startswith("JobArrayTaskLimit") for row in cluster.status()) == 3)
        assert {"RUNNING": 2, "PENDING": 3} == dict(system.states(key(cluster)))


async def test_adapt_keeps_results_and_runs_nothing_twice(system: SlurmSystem, tmp_path: Path, trace: Trace) -> None:
    async with running(tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
        assert cluster.scheduler_address.startswith("tls://")
        cluster.adapt(minimum=0, maximum=3, **QUICK)
        futures = client.map(trace.task("first"), range(3), pure=False)
        await until(lambda: len(trace.runs) == 3)
        held = client.submit(sum, futures)
        trace.open("first")
        assert 3 == await held
        await until(lambda: len(alive(cluster)) == 1)
        assert [0, 1, 2] == await client.gather(futures)
        assert {"0": 1, "1": 1, "2": 1} == dict(trace.runs)
        del futures, held
        await until(lambda: system.left(key(cluster)) == 0)


async def test_jobs_are_drained_and_replaced_before_their_walltime(
    system: SlurmSystem, tmp_path: Path, trace: Trace
) -> None:
    """Slurm counts whole minutes, so this takes one. Work goes on meanwhile, and none of it is cut off."""
    traced = trace.task()

    def slowly(x: int) -> int:
        time.sleep(2)
        return int(traced(x))

    async with running(tmp_path, walltime="1m") as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        held = client.submit(traced, "held")
        assert "held" == await held
        (first,) = workers(cluster)
        work = client.map(slowly, range(30))
        await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster), 120)
        assert "held" == await client.gather(held)
        assert list(range(30)) == await client.gather(work)
        assert {1} == set(trace.runs.values())
        await until(lambda: _ended(system, first.partition(".")[0]) == ["COMPLETED"])


def _ended(system: SlurmSystem, tag: str) -> list[str]:
    """The states of the jobs of this batch, also of ended ones."""
    return system.ask("squeue", "-h", "-t", "all", "-n", tag, "-o", "%T").stdout.decode().split()


# --- jobs with several workers, on several nodes ------------------------------------------------------------------


async def test_several_workers_in_one_job(system: SlurmSystem, tmp_path: Path) -> None:
    async with running(tmp_path, cores=4, processes=2, memory="2 GB", local_directory=str(tmp_path / "a b")) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: len(workers(cluster)) == 2)
        (job,) = alive(cluster)
        assert {f"{job}-0-0", f"{job}-1-0"} == set(workers(cluster))
        assert [2, 2] == [info["nthreads"] for info in workers(cluster).values()]
        assert [f"{job}-0"] == [path.name for path in (tmp_path / "a b").iterdir()]
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0)
        assert ["COMPLETED"] == _ended(system, job.partition(".")[0]), (
            "its workers were drained, and it ended by itself"
        )
        await until(lambda: list((tmp_path / "a b").iterdir()) == [])


async def test_a_launcher_starts_workers_on_several_nodes(system: SlurmSystem, tmp_path: Path) -> None:
    async with running(tmp_path, cores=2, processes=2, nodes=2, launcher="srun") as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: len(workers(cluster)) == 2)
        nodes = system.ask("squeue", "-h", "-n", alive(cluster)[0].partition(".")[0], "-o", "%D").stdout
        assert [b"2"] == nodes.split()
        assert {f"{alive(cluster)[0]}-0-0", f"{alive(cluster)[0]}-1-0"} == set(workers(cluster))


async def test_gpus_are_asked_for_offered_and_seen(tmp_path: Path) -> None:
    async with running(tmp_path, cores=2, processes=2, gpus=1) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await cluster.scale(jobs=1)
            await until(lambda: len(workers(cluster)) == 2)
            assert ["0", "1"] == sorted((await client.run(os.getenv, "CUDA_VISIBLE_DEVICES")).values())
            assert [{"GPU": 1.0}] * 2 == [info["resources"] for info in workers(cluster).values()]


async def test_a_template_of_ones_own(system: SlurmSystem, tmp_path: Path) -> None:
    template = "#!/bin/bash\n#SBATCH --comment=mine -o /dev/null\nexport FLAVOUR=vanilla\nsrun -n 1 {command}\n"
    async with running(tmp_path, template=template) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        assert "vanilla" == await client.submit(os.getenv, "FLAVOUR")
        logs = await cluster.get_logs()
        assert any("Start worker at" in text for name, text in logs.items() if name.startswith("job "))


# --- secrets ------------------------------------------------------------------------------------------------------


async def test_secrets_reach_the_workers_and_nobody_else(system: SlurmSystem, tmp_path: Path) -> None:
    secret = "hush 'quotes' $(and) \"more\""
    async with running(tmp_path, environment={"TOKEN": secret}) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await cluster.scale(1)
            assert secret == await client.submit(os.getenv, "TOKEN")
            pid = await client.submit(os.getpid)
        number = next(iter(arrays(system, cluster)))
        script = system.ask("scontrol", "write", "batch_script", number, "-").stdout.decode()
        assert "dask_worker" in script
        assert "hush" not in script + " ".join(psutil.Process(pid).cmdline())
        (private,) = (tmp_path / "logs").glob(".*")
        assert 0o700 == private.stat().st_mode & 0o777
        modes = {path.suffix: path.stat().st_mode & 0o777 for path in private.iterdir()}
        assert {".sh", ".pem"} <= set(modes)
        assert {0o600} == set(modes.values())


# --- faults -------------------------------------------------------------------------------------------------------


async def test_a_job_that_was_killed_is_replaced(system: SlurmSystem, tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.adapt(minimum=1, maximum=1)
        await until(lambda: phases(cluster) == ["ready"])
        first = next(iter(workers(cluster)))
        system.ask("scancel", "-n", first.partition(".")[0])
        await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster))


async def test_a_requeued_job_is_the_same_job(system: SlurmSystem, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: phases(cluster) == ["starting"])
        (job,) = cluster.status()
        system.ask("scontrol", "requeue", job.id)
        await until(lambda: phases(cluster) == ["queued"])
        system.ask("scontrol", "update", f"JobId={job.id}", "StartTime=now")  # else it waits for two minutes
        await until(lambda: phases(cluster) == ["starting"])
        assert [(job.job, job.id)] == [(row.job, row.id) for row in cluster.status()]


async def test_a_serving_job_that_is_requeued_is_drained_and_replaced(system: SlurmSystem, tmp_path: Path) -> None:
    with dask.config.set({"adaptive.end-timeout": "2s"}):
        async with running(tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
            await cluster.scale(2)
            await until(lambda: phases(cluster) == ["ready"] * 2)
            future = client.submit(uuid.uuid4, pure=False)
            before = await future
            ((address,),) = (await client.who_has(future)).values()
            name = cluster.scheduler_info["workers"][address]["name"].partition("-")[0]
            (job,) = (row for row in cluster.status() if row.job == name)
            system.ask("scontrol", "requeue", job.id)
            await until(lambda: phases(cluster) == ["ready"] * 2 and not any(name in each for each in workers(cluster)))
            assert before == await client.gather(future), "it was handed over"
            await until(lambda: system.states(key(cluster)) == {"RUNNING": 2})


async def test_slurmctld_goes_and_comes_back(system: SlurmSystem, tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        system.stop_controller()
        try:
            await until(lambda: "job list could not be read" in events(cluster))
            await cluster.scale(2)
            await rounds(cluster, 3)
            assert "Not trusted" in await cluster.explain()
            assert 3 == await client.submit(sum, [1, 2]), "work goes on"
            assert ["ready"] == phases(cluster)
        finally:
            system.start_controller()
        await until(lambda: phases(cluster) == ["ready", "ready"])
        assert {"RUNNING": 2} == dict(system.states(key(cluster)))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand before Slurm's on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


async def test_a_submit_that_hangs_is_told_of_given_up_and_never_doubled(
    system: SlurmSystem, tmp_path: Path, commands: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLOW_S", 1.0)
    once = tmp_path / "once"
    hangs = f'mkdir "{once}" 2>/dev/null && sbatch "$@" >/dev/null && sleep 600'
    _program(commands / "sbatch", f'PATH=${{PATH#*:}}\n{hangs}\nexec sbatch "$@"')
    async with running(tmp_path, python=sleeper, timeout_s=4) as cluster:
        await cluster.scale(jobs=3)
        await until(lambda: any("sbatch has not answered" in row.reason for row in cluster.status()))
        await until(lambda: phases(cluster) == ["starting"] * 3)
        assert "slurm: sbatch has not answered for 1 s" in events(cluster)
        await rounds(cluster, 3)
        assert {"RUNNING": 3} == dict(system.states(key(cluster)))
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(commands) in str(each.info["cmdline"])]


async def test_slurmctld_freezes_during_a_submit(system: SlurmSystem, tmp_path: Path, sleeper: str) -> None:
    """sbatch gives up after a while; whether the jobs were made shows when slurmctld goes on."""
    with dask.config.set({"adaptive.unknown-timeout": "10s"}):
        async with running(tmp_path, python=sleeper) as cluster:
            system.signal("slurmctld", signal.SIGSTOP)
            try:
                await cluster.scale(jobs=2)
                await until(lambda: "Socket timed out" in events(cluster))
            finally:
                system.signal("slurmctld", signal.SIGCONT)
            await until(lambda: phases(cluster) == ["starting"] * 2)
            await rounds(cluster, 3)
            assert {"RUNNING": 2} == dict(system.states(key(cluster)))


async def test_without_slurms_commands_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Rejected, match="there is no 'scontrol' on this machine"):
        await SlurmCluster(cores=1, asynchronous=True, dashboard_address=None, host="127.0.0.1")


async def test_a_list_that_hangs_is_told_of(tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SLOW_S", 1.0)
    gate = tmp_path / "gate"
    _program(commands / "squeue", f'PATH=${{PATH#*:}}\nwhile [ -e "{gate}" ]; do sleep 0.1; done\nexec squeue "$@"')
    async with running(tmp_path) as cluster:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        gate.touch()
        await until(lambda: "slurm: squeue has not answered for 1 s" in events(cluster))
        assert "squeue has not answered" in await cluster.explain()
        gate.unlink()
        await until(lambda: not cluster.controller.record.snapshot.pools["default"].stale)
        assert ["ready"] == phases(cluster)


async def test_a_queue_that_refuses(system: SlurmSystem, tmp_path: Path) -> None:
    async with running(tmp_path, queue="nowhere") as cluster:
        await cluster.scale(2)
        await until(lambda: "Invalid partition name specified" in events(cluster))
        assert "Invalid partition name specified" in await cluster.explain()
        await rounds(cluster, 3)
        assert 1 == events(cluster).count("Invalid partition name")


async def test_a_job_that_fails_at_its_start_shows_what_it_printed(tmp_path: Path) -> None:
    async with running(tmp_path, job_script_prologue=["echo module not found: python/4 >&2; exit 3"]) as cluster:
        await cluster.scale(1)
        await until(lambda: "module not found: python/4" in events(cluster))
        failed = next(row for row in cluster.status() if row.phase.value == "failed")
        assert "exit code 3" == failed.reason
        assert "module not found: python/4" in await cluster.explain()


async def test_who_comes_back_to_a_living_scheduler_finds_its_jobs(system: SlurmSystem, tmp_path: Path) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        options = {"cores": 1, "scheduler": scheduler.address, "name": "again", "security": False, "poll_s": 0.5}
        options |= {"log_directory": str(tmp_path / "logs"), "asynchronous": True, "dashboard_address": None}
        first = await SlurmCluster(**options)
        await first.scale(1)
        await until(lambda: phases(first) == ["ready"])
        await first.detach()
        async with SlurmCluster(**options) as second:
            await until(lambda: phases(second) == ["ready"])
            assert {"RUNNING": 1} == dict(system.states(key(first)))
            assert "Start worker at" in await second.log(alive(second)[0])
        assert 0 == system.left(key(first))


OWNER = """
import os, sys, time
from dask_adaptive import Rejected, SlurmCluster

cluster = SlurmCluster(cores=1, job_cores=16, host="127.0.0.1", dashboard_address=None, poll_s=0.5, death_timeout=3,
                       log_directory=sys.argv[1], directives=["-w n1"])
cluster.scale(2)
client = cluster.get_client()
client.wait_for_workers(1)
print(cluster._key, flush=True)
time.sleep(600)
"""


async def test_what_is_left_when_the_owner_is_killed_ends_by_itself(system: SlurmSystem, tmp_path: Path) -> None:
    """Two jobs of which one node holds one: one serves and one waits in the queue."""
    (tmp_path / "owner.py").write_text(textwrap.dedent(OWNER))
    command = [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "logs")]
    owner = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    name = (await owner.stdout.readline()).decode().strip()
    assert re.fullmatch(r"\w{4}", name)
    await until(lambda: system.states(name) == {"RUNNING": 1, "PENDING": 1})
    owner.kill()
    await owner.wait()
    await until(lambda: system.left(name) == 0, 120)
