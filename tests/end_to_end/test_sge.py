"""Clusters on a real Grid Engine: what its users would notice, and what Grid Engine itself says at the end."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from distributed import Client
from tests.systems.sge import Site, sge

from dask_adaptive import SGECluster
from dask_adaptive.backend import batch as engine

from .worlds import QUICK, Trace, alive, rounds, until, workers

pytestmark = pytest.mark.system("sge")


@pytest.fixture
def system() -> Iterator[Site]:
    made = sge()
    with made.on_path():
        yield made
        made.clear()


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
async def running(directory: Path, **options: Any) -> AsyncIterator[SGECluster]:
    """A cluster whose jobs Grid Engine does not know any more soon after it is closed."""
    options = {"cores": 1, "host": "127.0.0.1", "dashboard_address": None, "poll_s": 0.5, **options}
    async with SGECluster(asynchronous=True, log_directory=str(directory / "logs"), **options) as cluster:
        yield cluster
    await until(lambda: sge().left(key(cluster)) == 0)
    assert [] == [path.name for path in (directory / "logs").glob(".*")], "private files"


def key(cluster: SGECluster) -> str:
    found: str = cluster._key
    return found


def events(cluster: SGECluster) -> str:
    return "\n".join(event for record in cluster.records for event in record.events)


def phases(cluster: SGECluster) -> list[str]:
    return [row.phase.value for row in cluster.status() if row.phase.value not in ("gone", "failed")]


# --- sizes --------------------------------------------------------------------------------------------------------


async def test_from_nothing_to_twenty_and_back(system: Site, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper) as cluster:
        await cluster.scale(jobs=20)
        await until(lambda: system.states(key(cluster)) == {"r": 20})
        assert 1 == len(system.arrays(key(cluster)))
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0)
        await until(lambda: alive(cluster) == [])


async def test_a_thousand_jobs_are_one_submit(system: Site, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper) as cluster:
        await cluster.scale(jobs=1000)
        await until(lambda: system.left(key(cluster)) == 1000)
        assert 1 == len(system.arrays(key(cluster)))
        await until(lambda: {"starting", "queued"} == set(phases(cluster)))
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0)


async def test_queued_jobs_are_cancelled_before_running_ones(system: Site, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper, job_cores=20, walltime="1h") as cluster:
        await cluster.scale(jobs=4)
        await until(lambda: system.states(key(cluster)) == {"r": 2, "qw": 2})
        (number,) = system.arrays(key(cluster))
        said = system.run("qstat", "-j", number)
        assert re.search("parallel environment: +smp range: 20", said)
        assert re.search("hard resource_list: +h_rt=3600", said)
        await until(lambda: sorted(phases(cluster)) == ["queued"] * 2 + ["starting"] * 2)
        await cluster.scale(jobs=2)
        await until(lambda: system.states(key(cluster)) == {"r": 2})


async def test_adapt_keeps_results_and_runs_nothing_twice(system: Site, tmp_path: Path, trace: Trace) -> None:
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


# --- what a job is ------------------------------------------------------------------------------------------------


async def test_jobs_are_drained_and_replaced_before_their_walltime(system: Site, tmp_path: Path, trace: Trace) -> None:
    """Grid Engine kills at the second, without a word. Work goes on meanwhile, and none of it is cut off."""
    traced = trace.task()

    def slowly(x: int) -> int:
        time.sleep(2)
        return int(traced(x))

    async with running(tmp_path, walltime=40) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        held = client.submit(traced, "held")
        assert "held" == await held
        (first,) = workers(cluster)
        work = client.map(slowly, range(20))
        await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster), 120)
        assert "held" == await client.gather(held)
        assert list(range(20)) == await client.gather(work)
        assert {1} == set(trace.runs.values())
    assert "exit code" not in events(cluster), "none of them was killed"


async def test_several_workers_in_one_job(system: Site, tmp_path: Path) -> None:
    async with running(tmp_path, cores=4, processes=2, memory="1 GB", local_directory=str(tmp_path / "a b")) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: len(workers(cluster)) == 2)
        (job,) = alive(cluster)
        assert {f"{job}-0-0", f"{job}-1-0"} == set(workers(cluster))
        assert [2, 2] == [info["nthreads"] for info in workers(cluster).values()]
        (number,) = system.arrays(key(cluster))
        assert re.search("hard resource_list: +mem_free=954M", system.run("qstat", "-j", number))
        assert [f"{job}-0"] == [path.name for path in (tmp_path / "a b").iterdir()]
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0)
        await until(lambda: "failed       0" in _ended(system, number))
        assert re.search("exit_status +0", _ended(system, number)), "its workers were drained, and it ended by itself"
        assert [] == list((tmp_path / "a b").iterdir())


def _ended(system: Site, number: str) -> str:
    try:
        return system.run("qacct", "-j", number)
    except AssertionError:  # not yet
        return ""


async def test_secrets_reach_the_workers_and_nobody_else(
    system: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_OWNER", "stays at home")
    secret = "hush 'quotes' $(and) \"more\""
    async with running(tmp_path, environment={"TOKEN": secret}) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await cluster.scale(1)
            assert secret == await client.submit(os.getenv, "TOKEN")
            assert None is await client.submit(os.getenv, "OF_THE_OWNER")
        (number,) = system.arrays(key(cluster))
        (script,) = (system.root / "spool" / "qmaster" / "job_scripts").glob(number)
        assert "dask_worker" in script.read_text()
        commands = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
        assert any(key(cluster) in command for command in commands)
        assert "hush" not in script.read_text() + system.run("qstat", "-j", number) + " ".join(commands)


async def test_a_template_of_ones_own(system: Site, tmp_path: Path) -> None:
    template = "#!/bin/sh\n#$ -S /bin/sh\n#$ -o /dev/null -j y\nexport FLAVOUR=vanilla\n{command}\n"
    async with running(tmp_path, template=template) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        assert "vanilla" == await client.submit(os.getenv, "FLAVOUR")
        logs = await cluster.get_logs()
        assert any("Start worker at" in text for name, text in logs.items() if name.startswith("job "))


# --- faults -------------------------------------------------------------------------------------------------------


async def test_a_job_that_was_killed_is_replaced(system: Site, tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.adapt(minimum=1, maximum=1)
        await until(lambda: phases(cluster) == ["ready"])
        first = next(iter(workers(cluster)))
        system.run("qdel", *system.arrays(key(cluster)))
        await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster))


async def test_a_job_that_is_deleted_while_it_works_finishes_and_hands_over(
    system: Site, tmp_path: Path, trace: Trace
) -> None:
    """Grid Engine warns its workers (``-notify``) some time before it kills them."""
    async with running(tmp_path, cores=2, processes=2) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(jobs=2)
        await until(lambda: phases(cluster) == ["ready", "ready"])
        job, _ = (row for row in cluster.status() if row.phase.value == "ready")
        mine = [name for name in workers(cluster) if name.startswith(job.job)]
        working = client.submit(trace.task("slow"), 1, workers=mine[:1], pure=False)
        held = client.submit(os.getpid, workers=mine[1:], pure=False, allow_other_workers=True)
        pid = await held
        await until(lambda: len(trace.runs) == 1)
        system.run("qdel", job.id)
        await until(lambda: "its manager told it to end" in reasons(cluster))
        trace.open("slow")
        assert 1 == await working
        await until(lambda: not any(name.startswith(job.job) for name in workers(cluster)))
        assert pid == await held
        assert {"1": 1} == dict(trace.runs)


def reasons(cluster: SGECluster) -> set[str]:
    return {retire.reason for record in cluster.records for retire in record.plan.retires}


async def test_a_job_that_is_started_again_is_the_same_job(system: Site, tmp_path: Path) -> None:
    """Where workers are not warned of it; else they would be drained, and the job replaced."""
    async with running(tmp_path, directives=["-r y"], directives_skip=["-notify"]) as cluster:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        (job,) = (row for row in cluster.status() if row.phase.value == "ready")
        (first,) = workers(cluster)
        system.run("qmod", "-rj", job.id)
        await until(lambda: len(workers(cluster)) == 1 and first not in workers(cluster))
        await until(lambda: phases(cluster) == ["ready"])
        assert [(job.job, job.id)] == [(row.job, row.id) for row in cluster.status()]
        (second,) = workers(cluster)
        assert second.startswith(f"{job.job}-0-")


async def test_qmaster_goes_and_comes_back(system: Site, tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        system.stop()
        try:
            await until(lambda: "job list could not be read" in events(cluster))
            await cluster.scale(2)
            await rounds(cluster, 3)
            assert "Not trusted" in await cluster.explain()
            assert 3 == await client.submit(sum, [1, 2]), "work goes on"
            assert ["ready"] == phases(cluster)
        finally:
            system.start()
        await until(lambda: phases(cluster) == ["ready", "ready"], 120)
        assert {"r": 2} == system.states(key(cluster))


@pytest.fixture
def commands(system: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand before Grid Engine's on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


async def test_a_submit_whose_answer_is_lost_is_told_of_given_up_and_never_doubled(
    system: Site, tmp_path: Path, commands: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLOW_S", 1.0)
    once = tmp_path / "once"
    hangs = f'mkdir "{once}" 2>/dev/null && qsub "$@" >/dev/null && sleep 600'
    _program(commands / "qsub", f'PATH=${{PATH#*:}}\n{hangs}\nexec qsub "$@"')
    async with running(tmp_path, python=sleeper, timeout_s=4) as cluster:
        await cluster.scale(jobs=3)
        await until(lambda: any("qsub has not answered" in row.reason for row in cluster.status()))
        await until(lambda: phases(cluster) == ["starting"] * 3)
        await rounds(cluster, 3)
        assert {"r": 3} == system.states(key(cluster))


async def test_a_qmaster_that_does_not_answer_is_told_of_and_nothing_is_doubled(
    system: Site, tmp_path: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says whether the submit was heard: its jobs keep their place a while, and are then asked for again."""
    monkeypatch.setattr(engine, "SLOW_S", 1.0)
    with dask.config.set({"adaptive.unknown-timeout": "5s"}):
        await _frozen(system, tmp_path, sleeper)


async def _frozen(system: Site, tmp_path: Path, sleeper: str) -> None:
    async with running(tmp_path, python=sleeper, timeout_s=4) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: phases(cluster) == ["starting"])
        system.freeze(True)
        try:
            await cluster.scale(jobs=3)
            await until(lambda: "sge: qstat has not answered for 1 s" in events(cluster))
            await rounds(cluster, 3)
        finally:
            system.freeze(False)
        await until(lambda: phases(cluster) == ["starting"] * 3, 120)
        await rounds(cluster, 3)
        assert {"r": 3} == system.states(key(cluster))


async def test_a_queue_that_there_is_not(system: Site, tmp_path: Path) -> None:
    async with running(tmp_path, queue="nowhere") as cluster:
        await cluster.scale(2)
        await until(lambda: 'unknown queue "nowhere"' in events(cluster))
        assert 'unknown queue "nowhere"' in await cluster.explain()
        await rounds(cluster, 3)
        assert 1 == events(cluster).count("unknown queue")


async def test_a_job_that_fails_at_its_start_shows_what_it_printed(system: Site, tmp_path: Path) -> None:
    async with running(tmp_path, job_script_prologue=["echo module not found: python/4 >&2; exit 3"]) as cluster:
        await cluster.scale(1)
        await until(lambda: "module not found: python/4" in events(cluster))
        failed = next(row for row in cluster.status() if row.phase.value == "failed")
        assert "exit code 3" == failed.reason
        assert "module not found: python/4" in await cluster.explain()


async def test_a_job_that_cannot_be_started_is_failed_with_the_state_and_does_not_stay(
    system: Site, tmp_path: Path
) -> None:
    async with running(tmp_path, directives=["-wd /no/such/folder"]) as cluster:
        await cluster.scale(1)
        await until(lambda: "in error state (Eqw)" in events(cluster))
        await cluster.scale(0)
        await until(lambda: system.left(key(cluster)) == 0)


OWNER = """
import sys, time
from dask_adaptive import SGECluster

cluster = SGECluster(cores=1, job_cores=30, host="127.0.0.1", dashboard_address=None, poll_s=0.5, death_timeout=3,
                     log_directory=sys.argv[1])
cluster.scale(2)
client = cluster.get_client()
client.wait_for_workers(1)
print(cluster._key, flush=True)
time.sleep(600)
"""


async def test_what_is_left_when_the_owner_is_killed_ends_by_itself(system: Site, tmp_path: Path) -> None:
    """Two jobs where there is room for one: one serves and one waits in the queue."""
    (tmp_path / "owner.py").write_text(textwrap.dedent(OWNER))
    command = [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "logs")]
    owner = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    name = (await owner.stdout.readline()).decode().strip()
    assert re.fullmatch(r"\w{4}", name)
    await until(lambda: system.states(name) == {"r": 1, "qw": 1})
    owner.kill()
    await owner.wait()
    await until(lambda: system.left(name) == 0, 120)
