"""``cluster.adapt(Adaptive=dask_adaptive.Adaptive)`` on somebody else's clusters: real schedulers, real workers."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import time
import warnings
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, Worker
from distributed.core import Status
from distributed.security import Security

from dask_adaptive import Adaptive, ConfigError

from .foreign_worlds import (
    HOST,
    QUICK,
    RUNS,
    HandMade,
    HandWritten,
    HandWrittenPlain,
    Several,
    adapt,
    client_of,
    fresh,
    gate,
    hold,
    names,
    ours,
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


# --- every kind of cluster -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [False, True])
def test_a_local_cluster_in_a_plain_script(processes: bool) -> None:
    options = {"n_workers": 0, "threads_per_worker": 1, "processes": processes, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        adaptive = cluster.adapt(Adaptive=Adaptive, minimum=0, maximum=2, **QUICK)
        assert list(range(20)) == client.gather(client.map(lambda x: time.sleep(0.01) or x, range(20)))
        assert 1 <= submitted(adaptive) <= 2
        deadline = time.monotonic() + 120
        while cluster.workers or client.scheduler_info()["workers"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "20 tasks left" in reasons(adaptive)
        assert {} == cluster.worker_spec
    assert cluster.status == Status.closed


async def test_a_specified_cluster_grows_and_shrinks() -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, minimum=0, maximum=3)
        held = client.map(hold, [f"t{i}" for i in range(6)], gate_name="go")
        await until(lambda: len(names(cluster)) == 3)
        await rounds(adaptive)
        assert {"0", "1", "2"} == names(cluster) == set(map(str, cluster.workers)) == set(map(str, cluster.worker_spec))
        gate("go").set()
        await client.gather(held)
        del held
        await until(lambda: not names(cluster) and not cluster.workers and not cluster.worker_spec)
        assert set(RUNS.values()) == {1}


async def test_several_workers_per_job_are_one_job() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, client):
        adaptive = adapt(cluster, minimum=0, maximum=5)
        assert (0, 4) == (adaptive.minimum, adaptive.maximum)
        held = client.map(hold, [f"t{i}" for i in range(9)], gate_name="go")
        await until(lambda: len(names(cluster)) == 4)
        await rounds(adaptive)
        assert (2, 2) == (len(cluster.worker_spec), submitted(adaptive))
        gate("go").set()
        await client.gather(held)
        del held
        await until(lambda: not names(cluster) and not cluster.worker_spec)
        assert set(RUNS.values()) == {1}


async def test_a_minimum_in_workers_is_rounded_up_to_jobs_and_kept() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, _):
        adaptive = adapt(cluster, minimum=3, maximum=8)
        await until(lambda: len(names(cluster)) == 4)
        await rounds(adaptive, 10)
        assert (2, 2) == (len(cluster.worker_spec), submitted(adaptive))


@asynccontextmanager
async def bare():
    """A scheduler that belongs to nobody, a client, and a maker of workers."""
    async with Scheduler(dashboard_address=":0", **HOST) as s, Client(s.address, asynchronous=True) as client:
        made = HandMade(s)
        yield s, client, made
        await made.close()


@pytest.mark.parametrize("kind", [HandWritten, HandWrittenPlain])
async def test_a_hand_written_cluster(kind: Any) -> None:
    async with bare() as (s, client, made):
        cluster = kind(s, made)
        await cluster._start()
        adaptive = adapt(cluster, minimum=0, maximum=3)
        held = client.map(hold, [f"t{i}" for i in range(6)], gate_name="go")
        await until(lambda: len(s.workers) == 3)
        gate("go").set()
        await client.gather(held)
        del held
        await until(lambda: not s.workers and len(made.released) == 3)
        assert {worker.name for worker in made.workers} == set(made.released)
        assert set(RUNS.values()) == {1}
        assert 3 == max(made.asked) == submitted(adaptive)
        await cluster.close()
        await until(lambda: not ours(s))


class Oldest:
    """Has nothing but what the first adaptive deployments needed."""

    def __init__(self, made: HandMade) -> None:
        self.made = made
        self.tasks: list[asyncio.Task[None]] = []

    def scale_up(self, n: int) -> None:
        self.tasks.append(asyncio.ensure_future(self.made.up(n)))

    def scale_down(self, workers: Any) -> None:
        self.tasks.append(asyncio.ensure_future(self.made.down(workers)))


@pytest.mark.parametrize("by_address", [False, True])
async def test_any_object_and_a_bare_scheduler(by_address: bool) -> None:
    async with bare() as (s, client, made):
        adaptive = Adaptive(Oldest(made), scheduler=s.address if by_address else s, maximum=2, **QUICK)
        held = client.map(hold, [f"t{i}" for i in range(6)], gate_name="go")
        await until(lambda: len(s.workers) == 2)
        gate("go").set()
        await client.gather(held)
        del held
        await until(lambda: not s.workers and len(made.released) == 2)
        assert {worker.address for worker in made.workers} == set(made.released)
        assert set(RUNS.values()) == {1}
        adaptive.stop()
        await until(lambda: not ours(s))


class Bringing(Adaptive):
    """Brings its own way to start and end workers."""

    made: HandMade

    async def scale_up(self, n: int) -> None:
        await self.made.up(n)

    async def scale_down(self, workers: Any) -> None:
        await self.made.down(workers)


async def test_a_subclass_that_brings_its_own_way_needs_no_cluster() -> None:
    async with bare() as (s, client, made):
        kind = type("Mine", (Bringing,), {"made": made})
        adaptive = kind(None, scheduler=s, minimum=1, maximum=2, **QUICK)
        await until(lambda: len(s.workers) == 1)
        held = client.map(hold, [f"t{i}" for i in range(6)], gate_name="go")
        await until(lambda: len(s.workers) == 2)
        gate("go").set()
        await client.gather(held)
        del held
        await until(lambda: len(s.workers) == 1)
        adaptive.stop()
        await until(lambda: not ours(s))


def test_an_object_and_an_address_in_a_plain_script() -> None:
    class Recording:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def scale_up(self, n: int) -> None:
            self.asked.append(n)

        def scale_down(self, workers: Any) -> None:
            raise AssertionError("nothing was there")

    with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address=":0") as cluster:
        that = Recording()
        adaptive = Adaptive(that, scheduler=cluster.scheduler_address, minimum=2, maximum=2, **QUICK)
        deadline = time.monotonic() + 120
        while not that.asked:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        adaptive.stop()
        while ours(cluster.scheduler):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert 2 == that.asked[0]


async def test_a_cluster_with_tls() -> None:
    security = Security.temporary()
    scheduler = {
        "cls": Scheduler,
        "options": {**HOST, "dashboard_address": ":0", "protocol": "tls://", "security": security},
    }
    worker = {"cls": Worker, "options": {"nthreads": 1, "protocol": "tls://", "security": security, **HOST}}
    options = {"scheduler": scheduler, "worker": worker, "security": security}
    async with SpecCluster(asynchronous=True, **options) as cluster, client_of(cluster) as client:
        adapt(cluster, maximum=2)
        assert 3 == await client.submit(sum, [1, 2])
        await until(lambda: not cluster.workers)


# --- what a subclass may override ----------------------------------------------------------------------------------


class Plus(Adaptive):
    async def target(self) -> int:
        return await super().target() + 1


class Three(Adaptive):
    def target(self) -> int:  # type: ignore[override]
        return 3


@pytest.mark.parametrize(("kind", "size"), [(Plus, 1), (Three, 3)])
async def test_an_overridden_target(kind: type[Adaptive], size: int) -> None:
    async with specified() as (cluster, _):
        adaptive = cluster.adapt(Adaptive=kind, maximum=5, **QUICK)
        await until(lambda: len(names(cluster)) == size)
        await rounds(adaptive)
        assert size == len(cluster.worker_spec) == submitted(adaptive)
        assert f"target() said {size} workers" in reasons(adaptive)


async def test_an_overridden_target_stays_within_the_limits() -> None:
    async with specified() as (cluster, _):
        adaptive = cluster.adapt(Adaptive=Three, maximum=2, **QUICK)
        await until(lambda: len(names(cluster)) == 2)
        await rounds(adaptive)
        assert 2 == len(cluster.worker_spec)


@pytest.mark.parametrize("by", ["name", "address"])
async def test_an_overridden_choice_of_workers(by: str) -> None:
    class Choosing(Adaptive):
        wanted = 3

        def target(self) -> int:  # type: ignore[override]
            return self.wanted

        def workers_to_close(self, target: int) -> list[Any]:  # type: ignore[override]
            assert 2 == target
            second = next(ws for ws in cluster.scheduler.workers.values() if ws.name == 1)
            return [getattr(second, by)]

    async with specified() as (cluster, _):
        adaptive = cluster.adapt(Adaptive=Choosing, maximum=3, **QUICK)
        await until(lambda: len(names(cluster)) == 3)
        await rounds(adaptive)
        Choosing.wanted = 2
        await until(lambda: len(names(cluster)) == 2)
        await rounds(adaptive)
        assert {"0", "2"} == names(cluster)


async def test_worker_key_puts_workers_together() -> None:
    async with bare() as (s, client, made):
        key = lambda ws: "even" if int(ws.address.rpartition(":")[2]) >= 0 else "odd"  # noqa: E731
        adaptive = Adaptive(Oldest(made), scheduler=s, maximum=4, worker_key=key, **QUICK)
        held = [client.submit(hold, "a"), client.submit(hold, "b")]
        await until(lambda: RUNS["a"] and RUNS["b"])
        gate("a").set()
        await held[0]
        await rounds(adaptive, 10)
        assert 2 == len(s.workers)  # one of the two is idle, and stays with the busy one
        gate("b").set()
        await held[1]
        del held
        await until(lambda: not s.workers)


# --- arguments and configuration -----------------------------------------------------------------------------------


async def test_every_round_that_did_something_is_in_the_log_with_its_reason() -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, maximum=2)
        await client.submit(quick, 1)
        await until(lambda: not cluster.workers)
        kinds = [entry["status"] for _, entry in adaptive.log]
        assert ["up", "down"] == kinds
        assert all(entry["reason"] and isinstance(at_s, float) for at_s, entry in adaptive.log)


async def test_configuration_of_dask_counts_where_nothing_is_said() -> None:
    keys = {"minimum": 1, "maximum": 2, "interval": "70 ms", "wait-count": 4, "target-duration": "3s"}
    with dask.config.set({f"distributed.adaptive.{key}": value for key, value in keys.items()}):
        async with specified() as (cluster, _):
            adaptive = cluster.adapt(Adaptive=Adaptive)
            assert (1, 2) == (adaptive.minimum, adaptive.maximum)
            assert (0.07, 4, 3.0) == (adaptive.interval, adaptive.wait_count, adaptive.target_duration)
            await until(lambda: len(names(cluster)) == 1)


async def test_an_infinite_maximum_becomes_the_default_and_is_said_once(caplog: Any) -> None:
    async with specified() as (cluster, _):
        with caplog.at_level(logging.WARNING, "dask_adaptive"):
            adaptive = cluster.adapt(Adaptive=Adaptive, **QUICK)
            await rounds(adaptive)
        assert 10 == adaptive.maximum
        assert 1 == sum("no maximum was given; it is 10 workers" in line for line in caplog.messages)


async def test_an_infinite_maximum_on_this_machine_is_its_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    options = {"n_workers": 0, "processes": False, "dashboard_address": ":0", "asynchronous": True}
    for threads, workers in ((1, cores), (2, max(1, cores // 2)), (2 * cores, 1)):
        async with LocalCluster(threads_per_worker=threads, **options) as cluster:
            assert workers == cluster.adapt(Adaptive=Adaptive).maximum


async def test_ten_jobs_of_two_workers() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, _):
        assert 20 == cluster.adapt(Adaptive=Adaptive).maximum


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minimum": 5, "maximum": 2}, "minimum=5 .* above maximum=2"),
        ({"maximum": -1}, "maximum must be at least 0"),
        ({"maximum": math.nan}, "maximum must be a whole number"),
        ({"minimum": 1.5}, "minimum must be a whole number"),
        ({"interval": "32 gigs"}, "interval must be a duration"),
        ({"interval": 0}, "interval must be a finite duration above 0"),
        ({"wait_count": -1}, "wait_count must be at least 0"),
        ({"target_duration": "0s"}, "target_duration must be a finite duration above 0"),
        ({"maximun": 3}, "did you mean 'maximum'"),
        ({"policy": "cost"}, "known: "),
        ({"pools": {"gpu": {}}}, "pools= needs a cluster of dask_adaptive"),
    ],
)
async def test_what_cannot_be_is_one_sentence_before_anything_starts(options: Any, words: str) -> None:
    async with specified() as (cluster, _):
        with pytest.raises(ConfigError, match=words):
            cluster.adapt(Adaptive=Adaptive, **options)
        assert not ours(cluster.scheduler)
        assert {} == cluster.worker_spec


async def test_a_maximum_below_one_job() -> None:
    async with specified(Several, group=2, workers=2) as (cluster, _):
        with pytest.raises(ConfigError, match="maximum=1 is less than one job"):
            cluster.adapt(Adaptive=Adaptive, maximum=1)


async def test_a_cluster_that_does_not_scale_is_refused() -> None:
    scheduler = {"cls": Scheduler, "options": {**HOST, "dashboard_address": ":0"}}
    async with SpecCluster(workers={}, scheduler=scheduler, asynchronous=True) as cluster:
        with pytest.raises(ConfigError, match="SpecCluster does not support scaling"):
            cluster.adapt(Adaptive=Adaptive, maximum=2)


async def test_what_has_no_way_to_scale_is_refused() -> None:
    async with bare() as (s, _, _made):
        with pytest.raises(ConfigError, match=r"object has no scale_up\(\), and neither has Adaptive"):
            Adaptive(object(), scheduler=s)


async def test_what_has_no_scheduler_is_refused() -> None:
    async with bare() as (_, _client, made):
        with pytest.raises(ConfigError, match="give scheduler="):
            Adaptive(Oldest(made), maximum=1)


# --- beginning and ending ------------------------------------------------------------------------------------------


async def test_stop_at_once_and_twice_leaves_nothing() -> None:
    async with specified() as (cluster, client):
        adaptive = adapt(cluster, maximum=2)
        adaptive.stop()
        adaptive.stop()
        assert ("stopped", None) == (adaptive.state, adaptive.periodic_callback)
        await until(lambda: not ours(cluster.scheduler))
        later = adapt(cluster, minimum=1, maximum=2)
        await until(lambda: len(names(cluster)) == 1)
        later.stop()
        await until(lambda: not ours(cluster.scheduler))
        assert {"0"} == names(cluster)
        assert not submitted(adaptive)


async def test_adapt_before_the_cluster_runs() -> None:
    scheduler = {"cls": Scheduler, "options": {**HOST, "dashboard_address": ":0"}}
    worker = {"cls": Worker, "options": {"nthreads": 1, **HOST}}
    cluster = SpecCluster(scheduler=scheduler, worker=worker, asynchronous=True)
    adapt(cluster, minimum=1, maximum=2)
    await asyncio.sleep(0.05)
    async with cluster:
        await until(lambda: len(names(cluster)) == 1)


async def test_adapt_twice_leaves_one_loop_and_one_plug_in() -> None:
    async with specified() as (cluster, _):
        first = adapt(cluster, minimum=3, maximum=4)
        await until(lambda: len(names(cluster)) == 3)
        second = adapt(cluster, minimum=1, maximum=1)
        await until(lambda: len(names(cluster)) == 1)
        at = len(first.records)
        await rounds(second, 10)
        assert at == len(first.records)
        assert "stopped" == first.state
        ours = [name for name in map(str, cluster.scheduler.plugins) if name.startswith("dask-adaptive")]
        assert len({name.removesuffix("-page") for name in ours}) == 1


@pytest.mark.parametrize("when", ["idle", "starting", "busy", "retiring"])
async def test_close_while_adapting(when: str) -> None:
    class Slow(Worker):
        async def start_unsafe(self) -> Any:
            await asyncio.sleep(0.3 if when == "starting" else 0)
            return await super().start_unsafe()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with specified(Slow) as (cluster, client):
            adaptive = adapt(cluster, minimum=0 if when == "idle" else 2, maximum=2)
            await rounds(adaptive)
            if when in ("busy", "retiring"):
                await until(lambda: len(names(cluster)) == 2)
                held = [client.submit(hold, f"t{i}", pure=False) for i in range(2)]
                await until(lambda: len(RUNS) == 2)
            if when == "retiring":
                adapt(cluster, minimum=0, maximum=1)
                await until(
                    lambda: any(ws.status == Status.closing_gracefully for ws in cluster.scheduler.workers.values())
                )
            if when in ("busy", "retiring"):
                asyncio.get_running_loop().call_later(0.2, fresh)
                del held
            await asyncio.wait_for(cluster.close(), 30)
        gc.collect()


async def test_scale_during_adapt_ends_it_and_says_so(caplog: Any) -> None:
    async with specified() as (cluster, _):
        adaptive = adapt(cluster, maximum=4)
        await rounds(adaptive)
        with caplog.at_level(logging.WARNING, "dask_adaptive"):
            cluster.scale(3)
            await until(lambda: adaptive.state == "stopped")
        await until(lambda: len(names(cluster)) == 3)
        assert "scale() was called: 3 jobs instead of 0; adaptive scaling ends" in caplog.text
        await until(lambda: not ours(cluster.scheduler))


async def test_a_scheduler_that_is_lost_is_said_once(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("dask_adaptive.controller.LOOK_TIMEOUT_S", 0.5)
    async with bare() as (s, _, made):
        adaptive = Adaptive(Oldest(made), scheduler=s, maximum=1, **QUICK)
        await rounds(adaptive)
        with caplog.at_level(logging.WARNING, "dask_adaptive"):
            await s.close()
            await until(lambda: "the scheduler cannot be asked" in caplog.text)
            await rounds(adaptive, 3)
        assert 1 == caplog.text.count("the scheduler cannot be asked")
        assert "running" == adaptive.state
        adaptive.stop()


async def test_what_was_there_before_is_taken_over() -> None:
    async with specified() as (cluster, client):
        cluster.scale(3)
        await until(lambda: len(names(cluster)) == 3)
        held = client.submit(hold, "t")
        busy = await until(lambda: [str(ws.name) for ws in cluster.scheduler.workers.values() if ws.processing])
        adaptive = adapt(cluster, maximum=3)
        await until(lambda: names(cluster) == set(busy))
        await rounds(adaptive)
        assert 0 == submitted(adaptive)
        gate("t").set()
        assert "t" == await held


# --- faults --------------------------------------------------------------------------------------------------------


def process_runs(worker: Any) -> bool:
    """A Nanny whose process is starting cannot be closed: distributed asserts that. One whose process dies before it is
    told that this had started waits for that for ever: it learns so only 50 ms after the scheduler.
    """
    process = getattr(worker, "worker", worker).process
    return process is not None and process.status is Status.running


async def test_a_killed_worker_process_comes_back_or_is_replaced() -> None:
    async with specified(Nanny) as (cluster, client):
        adapt(cluster, minimum=1, maximum=1)
        await until(lambda: len(names(cluster)) == 1)
        await until(lambda: all(process_runs(each) for each in cluster.workers.values()))
        first = next(iter(cluster.scheduler.workers))
        os.kill(await client.submit(os.getpid), signal.SIGKILL)
        await until(lambda: set(cluster.scheduler.workers) - {first})
        assert 1 == len(cluster.worker_spec)
        await until(lambda: all(process_runs(each) for each in cluster.workers.values()))


async def test_slow_starts_hold_up_nothing() -> None:
    slow: list[bool] = [True]
    release = asyncio.Event()

    class Slow(Worker):
        async def start_unsafe(self) -> Any:
            if slow and slow.pop():
                await release.wait()
            return await super().start_unsafe()

    async with specified(Slow) as (cluster, client):
        adaptive = adapt(cluster, minimum=1, maximum=3)
        await until(lambda: len(cluster.worker_spec) == 1)
        tasks = client.map(quick, range(4))
        held = client.map(hold, [f"t{i}" for i in range(40)], gate_name="go")
        await until(lambda: len(names(cluster)) == 2)  # the others, while the first one starts
        gate("go").set()
        await client.gather([*held, *tasks])
        release.set()
        await until(lambda: names(cluster) and len(cluster.worker_spec) <= 3)
        del held, tasks
        adaptive.stop()


@pytest.mark.filterwarnings("ignore:Scheduler already contains a plugin with name worker-status")
async def test_two_clusters_on_one_scheduler_touch_only_their_own() -> None:
    class Named(SpecCluster):
        prefix = ""

        def _new_worker_name(self, worker_number: Any) -> Any:
            return f"{self.prefix}-{worker_number}"

    class There:
        """Another cluster's scheduler, in the place of one of its own."""

        status = Status.running
        address = ""

        def __await__(self):
            async def itself() -> There:
                return self

            return itself().__await__()

        async def close(self) -> None:
            pass

    async with specified(cluster=type("A", (Named,), {"prefix": "a"})) as (one, client):
        kind = type("There", (There,), {"address": one.scheduler_address})
        worker = {"cls": Worker, "options": {"nthreads": 1, **HOST}}
        other = type("B", (Named,), {"prefix": "b"})
        options = {"scheduler": {"cls": kind}, "worker": worker, "shutdown_scheduler": False, "asynchronous": True}
        async with other(**options) as two:
            first, second = adapt(one, minimum=2, maximum=2), adapt(two, minimum=1, maximum=1)
            await until(lambda: len(names(one)) == 3)
            await rounds(first, 10)
            await rounds(second, 10)
            assert (2, 1) == (len(one.worker_spec), len(two.worker_spec))
            assert {"a-0", "a-1", "b-0"} == names(one)
            adapt(one, minimum=0, maximum=1)
            await until(lambda: names(one) == {"b-0"})
            await rounds(second, 10)
            assert {"b-0"} == names(one)


# --- dask-jobqueue -------------------------------------------------------------------------------------------------

SBATCH = """#!/bin/sh
set -e
folder={folder}
id=$$
cp "$1" "$folder/job$id"
setsid sh "$folder/job$id" >"$folder/log$id" 2>&1 &
echo $! >"$folder/pid$id"
echo "Submitted batch job $id"
"""
SCANCEL = """#!/bin/sh
echo "$1" >>{folder}/cancelled
kill -TERM -- -$(cat {folder}/pid$1) 2>/dev/null || true
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: Any):
    """``sbatch`` and ``scancel`` that start and end jobs as processes of this machine."""
    folder, programs = tmp_path / "jobs", tmp_path / "bin"
    folder.mkdir()
    (folder / "cancelled").touch()
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (programs / name).write_text(text.format(folder=folder))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    yield folder
    for file in folder.glob("pid*"):
        with suppress(ProcessLookupError):
            os.killpg(int(file.read_text()), signal.SIGKILL)


async def test_dask_jobqueue_with_two_workers_per_job(slurm: Path, tmp_path: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    options = {
        "cores": 2,
        "processes": 2,
        "memory": "1 GB",
        "interface": "lo",
        "local_directory": str(tmp_path),
        "log_directory": str(tmp_path),
        "asynchronous": True,
        "scheduler_options": {"dashboard": False, "dashboard_address": ":0", "host": "127.0.0.1"},
    }
    async with jobqueue.SLURMCluster(**options) as cluster, client_of(cluster) as client:
        adaptive = adapt(cluster, minimum=0, maximum_jobs=2, maximum=None)
        assert 4 == adaptive.maximum
        marks = tmp_path / "marks"
        marks.mkdir()

        def leave(i: int) -> int:
            (marks / f"{i}-{time.time_ns()}").touch()
            time.sleep(0.5)
            return i

        tasks = client.map(leave, range(12))
        assert list(range(12)) == await client.gather(tasks)
        del tasks
        await until(lambda: not cluster.worker_spec and not cluster.scheduler.workers)
        jobs = {path.name.removeprefix("job") for path in slurm.glob("job*")}
        assert 1 <= len(jobs) <= submitted(adaptive) <= 2
        await until(lambda: jobs == set((slurm / "cancelled").read_text().split()))  # told behind our back
        assert 12 == len(list(marks.iterdir()))
