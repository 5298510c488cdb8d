"""What went wrong with dask-jobqueue and with ``distributed`` when somebody ran them, in the same situations here.

Those of dask-jobqueue on a real Slurm. ``docs/promises.md`` says which others are shown elsewhere.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client
from tests.sshd import running_hosts
from tests.systems.slurm import SlurmSystem, slurm
from tests.waiting import until

from dask_adaptive import SlurmCluster
from dask_adaptive.backend.login import Login

from .worlds import QUICK, Trace, alive, local, rounds, submitted, workers


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


def events(cluster: Any) -> str:
    return "\n".join(event for record in cluster.records for event in record.events)


# --- of dask-jobqueue, on Slurm ----------------------------------------------------------------------------------


on_slurm = pytest.mark.system("slurm")


@asynccontextmanager
async def running(directory: Path, **options: Any) -> AsyncIterator[tuple[SlurmCluster, SlurmSystem]]:
    """A cluster whose jobs Slurm has forgotten when it is closed, and Slurm."""
    system = slurm()
    options = {"cores": 1, "host": "127.0.0.1", "dashboard_address": None, "poll_s": 0.5, **options}
    async with SlurmCluster(asynchronous=True, log_directory=str(directory / "logs"), **options) as cluster:
        yield cluster, system
    assert 0 == system.left(cluster.key)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand before Slurm's on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\nPATH=${{PATH#*:}}\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    """An interpreter of workers that only sleeps: a job that costs nothing and never registers."""
    program(tmp_path / "sleeper", "exec sleep 600")
    return str(tmp_path / "sleeper")


def jobs(system: SlurmSystem, cluster: SlurmCluster) -> list[tuple[str, str]]:
    """Every job that there ever was of this cluster, and its state, in Slurm's words."""
    lines = system.ask("squeue", "-h", "-r", "-t", "all", "-o", "%j %A %T").stdout.decode().splitlines()
    return sorted((line.split()[1], line.split()[2]) for line in lines if line.startswith(cluster.key))


@on_slurm
async def test_two_workers_per_job_do_their_work_and_come_and_go_once(tmp_path: Path, trace: Trace) -> None:
    """There 45 jobs were submitted and 44 cancelled within 90 s, and no task was ever done."""
    async with (
        running(tmp_path, cores=2, processes=2) as (cluster, system),
        Client(cluster, asynchronous=True) as client,
    ):
        cluster.adapt(minimum=1, maximum=3, **QUICK)  # one job at least, and one at most: they are whole
        long = client.submit(trace.task("long"), "long")
        await until(lambda: trace.runs["long"])
        assert list(range(30)) == await client.gather(client.map(trace.task(), range(30)))
        await rounds(cluster, 20)
        trace.open("long")
        assert "long" == await long
        assert {1} == set(trace.runs.values())
        assert 2 == len(workers(cluster))
        assert ["RUNNING"] == [state for _, state in jobs(system, cluster)]


@on_slurm
async def test_a_submit_that_fails_once_is_tried_again_with_its_words_shown(
    tmp_path: Path, commands: Path, sleeper: str
) -> None:
    """There it was never tried again, and ``close`` raised."""
    words = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    program(
        commands / "sbatch", f'mkdir "{tmp_path}/once" 2>/dev/null && echo "{words}" >&2 && exit 1\nexec sbatch "$@"'
    )
    async with running(tmp_path, python=sleeper) as (cluster, system):
        await cluster.scale(2)
        await until(lambda: system.states(cluster.key) == {"RUNNING": 2})
        assert "Unable to contact slurm controller" in events(cluster)
    assert () == tuple(cluster.left)


@on_slurm
async def test_a_cancel_that_fails_is_tried_again_until_nothing_is_left(
    tmp_path: Path, commands: Path, sleeper: str
) -> None:
    """There ``close`` succeeded without a word, and the jobs went on."""
    words = "scancel: error: Kill job error on job id 1: Unable to contact slurm controller (connect failure)"
    program(commands / "scancel", f'echo "{words}" >&2\nexit 1')
    with dask.config.set({"adaptive.end-timeout": "1s"}):
        async with running(tmp_path, python=sleeper) as (cluster, system):
            await cluster.scale(2)
            await until(lambda: system.states(cluster.key) == {"RUNNING": 2})
            await cluster.scale(1)
            await until(lambda: "will be tried again" in events(cluster))
            assert "Unable to contact slurm controller" in events(cluster)
            assert 2 == len(alive(cluster)), "not forgotten"
            once = f'mkdir "{tmp_path}/once" 2>/dev/null && echo "{words}" >&2 && exit 1'
            program(commands / "scancel", f'{once}\nexec scancel "$@"')
    assert () == tuple(cluster.left)


@on_slurm
async def test_digits_of_a_banner_are_not_taken_for_the_id_of_a_job(
    tmp_path: Path, commands: Path, sleeper: str
) -> None:
    """There the job was number 2 from then on, because the machine is called Stampede2."""
    program(commands / "sbatch", 'echo "Welcome to Stampede2, 24 users"\nexec sbatch "$@"')
    async with running(tmp_path, python=sleeper) as (cluster, system):
        await cluster.scale(1)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["starting"])
        (row,) = cluster.status()
        assert [(row.id.partition("_")[0], "RUNNING")] == jobs(system, cluster)
        await cluster.scale(0)
        await until(lambda: system.left(cluster.key) == 0)


@on_slurm
async def test_jobs_that_wait_in_the_queue_stay_there_while_the_work_pauses(tmp_path: Path, trace: Trace) -> None:
    """There they were cancelled in each pause, and began at the end of the queue again."""
    async with running(tmp_path, directives=["--begin=now+1hour"]) as (cluster, system):
        async with Client(cluster, asynchronous=True) as client:
            cluster.adapt(minimum=0, maximum=2)
            for number in range(2):
                work = client.map(trace.task("never"), range(number * 10, number * 10 + 10))
                await until(lambda: system.states(cluster.key) == {"PENDING": 2})
                del work
                await until(lambda: not cluster.controller.record.snapshot.load.groups)
                await rounds(cluster, 5)
            assert ["PENDING"] * 2 == [state for _, state in jobs(system, cluster)]


@on_slurm
@pytest.mark.system("ssh")
async def test_a_laptop_submits_through_a_login_node(tmp_path: Path, commands: Path) -> None:
    """There a scheduler had to live where jobs can be submitted."""
    program(commands / "sbatch", 'echo "a laptop has no batch system" >&2\nexit 1')
    slurm()
    with running_hosts(tmp_path / "hosts", 1, SLURM_CONF=os.environ["SLURM_CONF"]) as hosts:
        known = f"UserKnownHostsFile={hosts.known_hosts}"
        files = ("-F", str(hosts.folder / "config"), "-i", str(hosts.key), "-o", known, "-o", "IdentitiesOnly=yes")
        login = Login("127.0.0.1", options=(*files, "-p", str(hosts.sshds[0].port)))
        async with running(tmp_path, runner=login, python=sys.executable) as (cluster, system):
            async with Client(cluster, asynchronous=True) as client:
                await cluster.scale(1)
                assert 3 == await client.submit(sum, [1, 2])
                assert "Start worker at" in await cluster.log(alive(cluster)[0])
                await cluster.scale(0)
                await until(lambda: system.left(cluster.key) == 0)
        assert [] == list((tmp_path / "logs").glob(".*")), "private files"


# --- of distributed, on this machine -----------------------------------------------------------------------------


async def test_eight_tasks_and_four_threads_are_two_jobs(trace: Trace) -> None:
    """There from nothing, threads were taken for workers, and ten jobs were started for what two could do."""
    async with local(threads_per_worker=4) as (cluster, client):
        cluster.adapt(minimum=0, maximum=10)
        futures = client.map(trace.task("go"), range(8))
        await until(lambda: len(trace.runs) == 8)
        await rounds(cluster)
        assert 2 == submitted(cluster)
        trace.open("go")
        assert list(range(8)) == await client.gather(futures)


async def test_the_next_stage_finds_the_workers_of_the_one_before(tmp_path: Path, trace: Trace) -> None:
    """There what waits for a serial step was not seen: the cluster shrank to one, and grew again."""
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(5)\n")  # a start that takes longer than the step
    async with local(preload=str(slow)) as (cluster, client):
        cluster.adapt(minimum=0, maximum=3)
        first = client.map(trace.task("first"), range(3))
        await until(lambda: len(trace.runs) == 3)
        before = set(workers(cluster))
        step = client.submit(trace.task("step"), "step", first)
        rest = client.map(trace.task(), range(10, 40), [step] * 30)
        trace.open("first")
        await until(lambda: trace.runs["step"])
        await rounds(cluster, 2)
        trace.open("step")
        assert list(range(10, 40)) == await client.gather(rest)
        assert before == set(workers(cluster))
        assert 3 == submitted(cluster)


async def test_a_straggler_does_not_start_workers_for_its_kind(trace: Trace) -> None:
    """There every task of its name was expected to take as long as the straggler."""
    folder = str(trace.folder)

    def kind(x: int) -> int:
        while x < 0 and not Path(folder, "go").exists():
            time.sleep(0.01)
        return x

    async with local() as (cluster, client):
        cluster.scale(1)
        await client.gather(client.map(kind, range(30)))
        cluster.adapt(minimum=1, maximum=8)
        straggler = client.submit(kind, -1)
        await until(lambda: any(group.oldest_s > 3 for group in cluster.controller.record.snapshot.load.groups))
        others = client.map(kind, range(100, 130))
        await until(lambda: len(cluster.scheduler.tasks) > 30)
        await rounds(cluster, 10)
        assert submitted(cluster) <= 2
        trace.open("go")
        assert [-1, *range(100, 130)] == await client.gather([straggler, *others])


async def test_memory_asks_for_what_is_missing_and_not_for_twice_as_much_each_time() -> None:
    """There the target was doubled in each round, up to the maximum, while the results stayed where they were."""
    off = {f"distributed.worker.memory.{each}": False for each in ("target", "spill", "pause", "terminate")}
    with dask.config.set(off):
        async with local(memory_limit="64 MB") as (cluster, client):
            cluster.adapt(minimum=0, maximum=8)
            held = client.submit(bytes, 50_000_000)
            assert 50_000_000 == len(await held)
            await until(lambda: len(workers(cluster)) == 2)
            await rounds(cluster, 20)
            assert 2 == submitted(cluster)
            await client.gather(held)


async def test_without_a_memory_limit_results_keep_no_more_than_one_job(trace: Trace) -> None:
    """There a byte of results kept every idle worker."""
    async with local() as (cluster, client):
        cluster.adapt(minimum=0, maximum=3, **QUICK)
        held = client.map(trace.task("go"), range(3))
        await until(lambda: len(trace.runs) == 3)
        trace.open("go")
        await until(lambda: len(workers(cluster)) == 1)
        assert [0, 1, 2] == await client.gather(held)
        assert {"0": 1, "1": 1, "2": 1} == trace.runs
