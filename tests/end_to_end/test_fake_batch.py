"""Clusters on PBS, Torque, LSF, HTCondor and commands of one's own: real schedulers, workers and results; the systems
are stand-ins that answer as the real ones were recorded (``tests/fakes``), and run the jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from tests.fakes.core import ENDED, RUNNING, Fake
from tests.waiting import until

from dask_adaptive import CommandCluster, HTCondorCluster, LSFCluster, PBSCluster, TorqueCluster
from dask_adaptive.backend import calls

from .sites import adapts, events, phases
from .worlds import Trace, alive, rounds, workers

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
def lsf(directory: Path, **settings: Any) -> Iterator[Fake]:
    with Fake(directory / "system", "lsf:Lsf", **settings).on_path() as fake:
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


@pytest.mark.parametrize(
    ("kind", "system", "settings"),
    [
        (PBSCluster, pbs, {"history": True}),
        (PBSCluster, pbs, {}),  # without a history, as is the default
        (TorqueCluster, torque, {"keep_s": 0}),  # ended jobs are not listed at all
        (HTCondorCluster, htcondor, {}),
        (LSFCluster, lsf, {"json": True}),
        (LSFCluster, lsf, {}),  # an older one, or OpenLava
    ],
    ids=["pbs", "pbs-without-history", "torque", "htcondor", "lsf", "openlava"],
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


# --- sizes and shapes ----------------------------------------------------------------------------------------------


EACH = pytest.mark.parametrize(
    ("kind", "system"),
    [(PBSCluster, pbs), (TorqueCluster, torque), (HTCondorCluster, htcondor)],
    ids=["pbs", "torque", "htcondor"],
)


@EACH
async def test_from_nothing_to_twenty_and_back(kind: Any, system: Any, tmp_path: Path, sleeper: str) -> None:
    with system(tmp_path, capacity=15) as fake:
        async with running(kind, tmp_path, python=sleeper) as cluster:
            await cluster.scale(jobs=20)
            await until(lambda: sorted(phases(cluster)) == ["queued"] * 5 + ["starting"] * 15)
            assert 1 == len(fake.calls("submit"))
            await cluster.scale(jobs=15)
            await until(lambda: len(fake.left()) == 15)
            assert {RUNNING} == {job.state for job in fake.jobs() if job.state != ENDED}, "those that waited went"
            await cluster.scale(0)
            await until(lambda: fake.left() == [])
            await until(lambda: alive(cluster) == [])


@EACH
async def test_several_workers_in_one_job(kind: Any, system: Any, tmp_path: Path) -> None:
    """HTCondor signals the process on top only, PBS and Torque all of them: the job ends by itself, with 0, on each."""
    with system(tmp_path) as fake:
        async with running(kind, tmp_path, cores=4, processes=2, local_directory=str(tmp_path / "a b")) as cluster:
            await cluster.scale(jobs=1)
            await until(lambda: len(workers(cluster)) == 2)
            (job,) = alive(cluster)
            assert {f"{job}-0", f"{job}-1"} == {name.rpartition("-")[0] for name in workers(cluster)}
            assert [2, 2] == [info["nthreads"] for info in workers(cluster).values()]
            assert [4] == [each.slots for each in fake.jobs()]
            await cluster.scale(0)
            await until(lambda: fake.left() == [])
            assert [(0, False)] == [(each.exit, each.cancelled) for each in fake.jobs()]
            assert [] == list((tmp_path / "a b").iterdir())


async def test_jobs_are_drained_and_replaced_before_their_walltime(tmp_path: Path) -> None:
    trace = Trace(tmp_path)
    with htcondor(tmp_path) as fake:
        async with running(HTCondorCluster, tmp_path, walltime="25s") as cluster:
            async with Client(cluster, asynchronous=True) as client:
                await cluster.scale(1)
                held = client.submit(trace.task(), "held")
                assert "held" == await held
                (first,) = workers(cluster)
                await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster), 120)
                assert "held" == await client.gather(held)
                assert {"held": 1} == dict(trace.runs)
                assert (0, False, False) == (lambda job: (job.exit, job.cancelled, job.overran))(fake.jobs()[0])


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


async def test_a_list_that_hangs_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of PBS accepts connections and never answers: qstat would hang for ever."""
    monkeypatch.setattr(calls, "SLOW_S", 1.0)
    with pbs(tmp_path) as fake:
        fake.fault(hang=["query"])
        async with running(PBSCluster, tmp_path, timeout_s=4) as cluster:
            await cluster.scale(1)
            await until(lambda: "qstat has not answered for" in events(cluster))
            fake.fault()
            await until(lambda: phases(cluster) == ["ready"], 120)
            assert 1 == len(fake.jobs())


@EACH
async def test_a_job_that_was_killed_is_replaced(kind: Any, system: Any, tmp_path: Path) -> None:
    with system(tmp_path) as fake:
        async with running(kind, tmp_path) as cluster:
            cluster.adapt(minimum=1, maximum=1)
            await until(lambda: phases(cluster) == ["ready"])
            first = next(iter(workers(cluster)))
            assert 1 == fake.kill()
            await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster))


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


async def test_several_workers_in_a_job_that_is_cancelled_and_one_that_is_killed(tmp_path: Path) -> None:
    with lsf(tmp_path, json=True, capacity=4) as fake:
        async with running(LSFCluster, tmp_path, cores=2, processes=2, memory="2 GB", walltime="1:30") as cluster:
            cluster.adapt(minimum=4, maximum=4)
            await until(lambda: len(workers(cluster)) == 4)
            asked = {line[6:] for line in fake.jobs()[0].extra["script"].splitlines() if line.startswith("#BSUB")}
            assert {"-W 1:30", "-n 2", '-R "span[hosts=1]"', "-M 1953125"} <= asked
            first = alive(cluster)
            assert 1 == fake.kill(lambda job: job.index == 1)
            await until(lambda: len(workers(cluster)) == 4 and alive(cluster) != first)
        await until(lambda: fake.left() == [])
