"""Clusters on PBS, Torque, HTCondor and commands of one's own: real schedulers, workers and results; the systems are
stand-ins that answer as the real ones were recorded (``tests/fakes``), and run the jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from tests.fakes.core import RUNNING, Fake

from dask_adaptive import CommandCluster, HTCondorCluster, PBSCluster, TorqueCluster

from .worlds import QUICK, Trace, alive, rounds, until, workers

SCRIPTS = Path(__file__).parents[2] / "examples" / "custom-scripts" / "jobs"
Left = Callable[[], list[str]]


@contextmanager
def pbs(directory: Path, **settings: Any) -> Iterator[Fake]:
    with Fake(directory / "system", "pbs:Pbs", **settings).on_path() as fake:
        yield fake


@contextmanager
def torque(directory: Path, **settings: Any) -> Iterator[Fake]:
    with Fake(directory / "system", "torque:Torque", **settings).on_path() as fake:
        yield fake


@contextmanager
def htcondor(directory: Path, **settings: Any) -> Iterator[Fake]:
    with Fake(directory / "system", "htcondor:HTCondor", **settings).on_path() as fake:
        yield fake


@asynccontextmanager
async def running(kind: Any, directory: Path, **options: Any) -> AsyncIterator[Any]:
    """A cluster of which nothing is left when it is closed."""
    options = {"cores": 1, "host": "127.0.0.1", "dashboard_address": None, "poll_s": 0.2, **options}
    async with kind(asynchronous=True, log_directory=str(directory / "logs"), **options) as cluster:
        yield cluster
    assert [] == [path.name for path in (directory / "logs").glob(".*")], "private files"


def events(cluster: Any) -> str:
    return "\n".join(event for record in cluster.records for event in record.events)


def phases(cluster: Any) -> list[str]:
    return [row.phase.value for row in cluster.status() if row.phase.value not in ("gone", "failed")]


async def adapts(cluster: Any, trace: Trace, left: Left) -> None:
    """From nothing to three jobs, results held while they go, and back to nothing; nothing is run twice."""
    async with Client(cluster, asynchronous=True) as client:
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
        await until(lambda: left() == [])


@pytest.mark.parametrize(
    ("kind", "system", "settings"),
    [
        (PBSCluster, pbs, {"history": True}),
        (PBSCluster, pbs, {}),  # without a history, as is the default
        (TorqueCluster, torque, {"keep_s": 0}),  # ended jobs are not listed at all
        (HTCondorCluster, htcondor, {}),
    ],
    ids=["pbs", "pbs-without-history", "torque", "htcondor"],
)
async def test_adapt_keeps_results_and_runs_nothing_twice(
    kind: Any, system: Any, settings: Any, tmp_path: Path
) -> None:
    with system(tmp_path, **settings) as fake:
        async with running(kind, tmp_path) as cluster:
            await adapts(cluster, Trace(tmp_path), fake.left)
        assert len(fake.calls("submit")) <= 3
        assert [] == fake.left()


async def test_adapt_on_commands_of_ones_own(tmp_path: Path) -> None:
    jobs = ["env", f"QUEUE={tmp_path / 'queue'}", str(SCRIPTS)]
    options = {
        "submit_command": [*jobs, "submit", "{tag}", "{count}"],
        "list_command": [*jobs, "list"],
        "cancel_command": [*jobs, "cancel", "{ids}"],
    }

    def left() -> list[str]:
        every = [job.name for job in (tmp_path / "queue").glob("*.*/")]
        return [job for job in every if not (tmp_path / "queue" / job / "exit").exists()]

    async with running(CommandCluster, tmp_path, **options) as cluster:
        await adapts(cluster, Trace(tmp_path), left)


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    """An interpreter of workers that only sleeps: a job that costs nothing and never registers."""
    path = tmp_path / "sleeper"
    path.write_text("#!/bin/sh\nexec sleep 600\n")
    path.chmod(0o755)
    return str(path)


async def test_the_server_goes_and_comes_back(tmp_path: Path) -> None:
    with pbs(tmp_path, history=True) as fake:
        async with running(PBSCluster, tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
            await cluster.scale(1)
            await until(lambda: phases(cluster) == ["ready"])
            fake.fault(down=["submit", "query", "cancel"])
            await until(lambda: "job list could not be read" in events(cluster))
            await cluster.scale(2)
            await rounds(cluster, 3)
            assert 3 == await client.submit(sum, [1, 2]), "work goes on"
            assert ["ready"] == phases(cluster)
            fake.fault()
            await until(lambda: phases(cluster) == ["ready", "ready"], 120)
            assert 2 == len(fake.left())


async def test_a_job_that_is_started_again_is_the_same_job(tmp_path: Path) -> None:
    """Its worker comes back under a new name, although PBS does not say how often it was started."""
    with pbs(tmp_path, history=True) as fake:
        async with running(PBSCluster, tmp_path) as cluster:
            await cluster.scale(1)
            await until(lambda: phases(cluster) == ["ready"])
            (job,), (first,) = alive(cluster), workers(cluster)
            assert 1 == fake.kill(requeue=True)
            await until(lambda: len(workers(cluster)) == 1 and first not in workers(cluster))
            await until(lambda: phases(cluster) == ["ready"])
            assert [job] == alive(cluster)
            assert 1 == len(fake.jobs())


async def test_a_submit_whose_answer_is_lost_is_never_doubled(tmp_path: Path, sleeper: str) -> None:
    with htcondor(tmp_path) as fake:
        fake.fault(lost=["submit"])
        async with running(HTCondorCluster, tmp_path, timeout_s=2, python=sleeper) as cluster:
            await cluster.scale(2)
            await until(lambda: "condor_submit has not answered" in events(cluster))
            await until(lambda: phases(cluster) == ["starting", "starting"])
            await rounds(cluster, 5)
            assert 2 == len(fake.jobs())
            fake.fault()
            await cluster.scale(0)
            await until(lambda: fake.left() == [])


async def test_what_the_queue_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with torque(tmp_path) as fake:
        async with running(TorqueCluster, tmp_path, queue="nope") as cluster:
            await cluster.scale(1)
            await until(lambda: "requested queue not found" in events(cluster))
            assert [] == fake.jobs()


async def test_what_does_not_fit_waits_and_says_why(tmp_path: Path, sleeper: str) -> None:
    with torque(tmp_path, capacity=1) as fake:
        async with running(TorqueCluster, tmp_path, python=sleeper) as cluster:
            await cluster.scale(2)
            await until(lambda: sorted(phases(cluster)) == ["queued", "starting"])
            reasons = [row.reason for row in cluster.status() if row.phase.value == "queued"]
            assert ["Not Running: Not enough of the right type of nodes are available"] == reasons
            await cluster.scale(1)
            await until(lambda: len(fake.left()) == 1)
            assert [RUNNING] == [job.state for job in fake.jobs() if job.state != "ended"]
            await cluster.scale(0)
            await until(lambda: fake.left() == [])
