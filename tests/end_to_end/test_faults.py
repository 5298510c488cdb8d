"""Everything that can go wrong around our own clusters, on real schedulers and workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, Scheduler
from distributed.core import Status
from tests.fakes.memory import After, MemoryBackend
from tests.waiting import until

from dask_adaptive import Ambiguous, ConfigError, Garbled, LocalCluster, NoCapacity, Rejected, Throttled, Unavailable
from dask_adaptive.model import Batch, JobId, Past, Target, View, Want
from dask_adaptive.policy.classic import Fixed

from .worlds import MARK, QUICK, Trace, alive, kill, local, marked, own, pids, rounds, submitted, workers


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


def events(cluster: Any) -> list[str]:
    return [event for record in cluster.records for event in record.events]


# --- workers die --------------------------------------------------------------------------------------------------


async def test_row_36_a_killed_idle_worker_is_replaced_at_once() -> None:
    with dask.config.set({"adaptive.lost-timeout": "600s"}):
        async with local() as (cluster, client):
            cluster.adapt(minimum=2, maximum=2, **QUICK)
            await until(lambda: len(workers(cluster)) == 2)
            was = set(workers(cluster))
            kill(next(iter((await pids(client)).values())))
            await until(lambda: len(workers(cluster)) == 2 and len(was & set(workers(cluster))) == 1)
            assert 3 == submitted(cluster)


async def test_a_killed_busy_worker_costs_one_more_execution(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=1, maximum=1, **QUICK)
        future = client.submit(trace.task("go"), 1)
        await until(lambda: trace.runs)
        kill(*trace.pids(1))
        await until(lambda: trace.runs["1"] == 2)
        trace.open("go")
        assert 1 == await future
        assert 2 == submitted(cluster)


async def test_the_only_copy_on_a_killed_worker_is_computed_again(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=1, maximum=1, **QUICK)
        future = client.submit(trace.task(), 1)
        await future
        kill(*trace.pids(1))
        await until(lambda: trace.runs["1"] == 2)
        assert 1 == await future


async def test_every_worker_killed_at_once(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=3, maximum=3, **QUICK)
        futures = client.map(trace.task("go"), range(3))
        await until(lambda: len(trace.runs) == 3)
        for pid in (await pids(client)).values():
            kill(pid)
        await until(lambda: sum(trace.runs.values()) == 6)
        trace.open("go")
        assert [0, 1, 2] == await client.gather(futures)
        await until(lambda: len(alive(cluster)) == 3)
        assert dict.fromkeys("012", 2) == trace.runs


async def test_a_job_that_lost_one_of_its_workers_is_drained_and_replaced(trace: Trace) -> None:
    with dask.config.set({"adaptive.lost-timeout": "500 ms"}):
        async with local(workers_per_job=2) as (cluster, client):
            cluster.adapt(minimum=2, maximum=4, **QUICK)
            await until(lambda: len(workers(cluster)) == 2)
            (damaged,) = alive(cluster)
            place, pid = next(iter((await pids(client)).items()))
            (other,) = set(cluster.scheduler_info["workers"]) - {place}
            future = client.submit(trace.task("go"), 1, workers=[other], allow_other_workers=True)
            await until(lambda: trace.runs)
            kill(pid)
            await until(lambda: len(workers(cluster)) == 3 and damaged in alive(cluster))
            trace.open("go")
            assert 1 == await future
            await until(lambda: damaged not in alive(cluster))
            assert (2, {"1": 1}) == (len(workers(cluster)), trace.runs)


async def test_the_helper_that_starts_workers_is_killed(trace: Trace) -> None:
    async with local() as (cluster, client):
        cluster.adapt(minimum=1, maximum=1, **QUICK)
        was = set(await until(lambda: workers(cluster)))
        (worker,) = (await pids(client)).values()
        helper = psutil.Process(worker).parent()
        assert helper is not None
        assert helper.pid != os.getpid()
        kill(helper.pid)
        await until(lambda: workers(cluster) and not was & set(workers(cluster)))
        assert 1 == await client.submit(trace.task(), 1)
        await until(lambda: not psutil.pid_exists(worker))


# --- workers that do not serve ------------------------------------------------------------------------------------


def preload(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


async def test_row_40_a_start_that_failed_is_tried_again(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    once = preload(
        tmp_path / "once.py",
        f"""
        from pathlib import Path
        if not Path({str(flag)!r}).exists():
            Path({str(flag)!r}).touch()
            raise RuntimeError("not this time")
        """,
    )
    async with local(preload=once) as (cluster, _):
        cluster.adapt(minimum=1, maximum=1, **QUICK)
        await until(lambda: len(workers(cluster)) == 1)
        (failed,) = [row for row in cluster.status() if row.phase.value == "failed"]
        assert "not this time" in (await cluster.get_logs())[f"job {failed.job}"]
        await until(lambda: not cluster.controller.record.snapshot.pools["default"].broken)


async def test_a_pool_that_cannot_start_is_broken_and_the_others_go_on(tmp_path: Path) -> None:
    bad = preload(tmp_path / "bad.py", "raise RuntimeError('no such licence')\n")
    pools: dict[str, dict[str, Any]] = {"bad": {"preload": bad}, "good": {}}
    async with own(pools=pools) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(2, pool="bad")
        await cluster.scale(1, pool="good")
        await until(lambda: len(workers(cluster)) == 1)
        assert 1 == await client.submit(lambda: 1)
        await until(lambda: "3 failures in a row" in cluster.controller.record.snapshot.pools["bad"].broken)
        before = submitted(cluster)
        await rounds(cluster, 3)
        assert submitted(cluster) <= before + 1, "it backs off"
        life = next(life for life in cluster.controller.record.snapshot.lives.values() if life.log_tail)
        assert "no such licence" in life.log_tail
        assert "Broken: " in await cluster.explain()
        assert not cluster.controller.record.snapshot.pools["good"].broken


async def test_a_worker_that_never_registers_is_cancelled_and_replaced(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    stuck = preload(
        tmp_path / "stuck.py",
        f"""
        import time
        from pathlib import Path
        if not Path({str(flag)!r}).exists():
            Path({str(flag)!r}).touch()
            print("stuck here", flush=True)
            time.sleep(10_000)
        """,
    )
    with dask.config.set({"adaptive.start-timeout": "5s"}):
        async with local(preload=stuck) as (cluster, _):
            cluster.adapt(minimum=1, maximum=1, **QUICK)
            await until(lambda: len(workers(cluster)) == 1)
            (over,) = [row for row in cluster.status() if row.phase.value in ("gone", "failed", "ending")]
            assert "did not register within 5 s" in over.reason
            assert "stuck here" in (await cluster.get_logs())[f"job {over.job}"]


# --- the scheduler is gone ----------------------------------------------------------------------------------------


@pytest.fixture
def scheduler_process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", "0"]
    more = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    with subprocess.Popen([*command, *more], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (file.exists() and file.read_text().strip().endswith("}")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, __import__("json").loads(file.read_text())["address"]
        process.kill()


async def test_row_44_a_dead_scheduler_is_reported_once(
    scheduler_process: tuple[subprocess.Popen[bytes], str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, address = scheduler_process
    cluster = await own(scheduler=address)
    cluster.adapt(minimum=1, maximum=1, **QUICK)
    await until(lambda: len(workers(cluster)) == 1)
    monkeypatch.setattr("dask_adaptive.controller.LOOK_TIMEOUT_S", 1.0)
    process.kill()
    process.wait()
    await until(lambda: cluster.controller.record.error)
    await rounds(cluster, 4)
    assert 1 == len([event for event in events(cluster) if "scheduler cannot be asked" in event])
    assert "cannot be asked" in await cluster.explain()
    await asyncio.wait_for(cluster.close(), 120)
    assert cluster.status == Status.closed
    ours = [r for r in caplog.records if r.name.startswith("dask_adaptive") and r.levelno >= logging.WARNING]
    assert len(ours) <= 1, [r.getMessage() for r in ours]
    assert not any(r.exc_info for r in ours)


# --- policies go wrong --------------------------------------------------------------------------------------------


class Raising:
    """Raises the first ``times`` times, then wants one job."""

    def __init__(self, error: Exception, times: int = 1) -> None:
        self.error, self.left = error, times

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        if self.left:
            self.left -= 1
            raise self.error
        return Fixed(1).decide(view, past)


async def test_row_45_a_round_that_raises_is_recorded_and_the_next_one_comes() -> None:
    async with local() as (cluster, _):
        cluster.adapt(maximum=2, policy=Raising(ZeroDivisionError("by nought")), **QUICK)
        await until(lambda: len(workers(cluster)) == 1)
        (error,) = [record.error for record in cluster.records if record.error]
        assert "ZeroDivisionError: by nought" in error


class Wrong:
    def __init__(self, target: Any) -> None:
        self.target = target

    def decide(self, view: View, past: Past) -> tuple[Any, Past]:
        return self.target, past


@pytest.mark.parametrize(
    "target",
    [
        Target({}),
        Target({"default": Want(-1, "less than none")}),
        Target({"default": Want(1, "")}),
        Target({"default": Want(1, "right"), "other": Want(1, "what pool?")}),
        Target({"default": Want(1.5, "a half")}),  # type: ignore[arg-type]
        None,
    ],
)
async def test_a_policy_that_breaks_its_contract_changes_nothing(target: Any) -> None:
    async with local() as (cluster, _):
        await cluster.scale(1)
        await until(lambda: len(workers(cluster)) == 1)
        cluster.adapt(maximum=2, policy=Wrong(target), **QUICK)
        await until(lambda: cluster.controller.record.error)
        await rounds(cluster, 3)
        assert (1, 1) == (submitted(cluster), len(workers(cluster)))
        assert "Error: " in await cluster.explain()


# --- resource managers go wrong -----------------------------------------------------------------------------------


class Shaky(MemoryBackend):
    """Raises what nobody should raise."""

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        if not self.calls["submit"]:
            self.calls["submit"] += 1
            raise KeyError("what is this")
        return await super().submit(batch)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("no route"),
        Throttled("slowly", retry_after_s=0.2),
        NoCapacity("all taken"),
        Garbled("?!"),
    ],
)
async def test_a_submit_that_failed_is_tried_again(error: Exception) -> None:
    backend = MemoryBackend(time.monotonic)
    backend.submit_errors.append(error)  # type: ignore[arg-type]
    with dask.config.set({"adaptive.unknown-timeout": "1s"}):
        async with own(backend) as cluster:
            await cluster.scale(1)
            await until(lambda: len(backend.alive()) == 1)
            assert 2 == backend.calls["submit"]
            assert any(str(error) in event for event in events(cluster))


async def test_a_submit_that_was_refused_rests_for_a_minute_and_says_why() -> None:
    backend = MemoryBackend(time.monotonic)
    backend.submit_errors.append(Rejected("no such queue"))
    async with own(backend) as cluster:
        await cluster.scale(1)
        await rounds(cluster, 1)
        await until(lambda: "no such queue" in cluster.controller.record.snapshot.pools["default"].broken)
        await rounds(cluster, 3)
        assert 1 == backend.calls["submit"]
        assert "no such queue" in await cluster.explain()


async def test_a_submit_whose_answer_was_lost_is_not_repeated() -> None:
    backend = MemoryBackend(time.monotonic)
    backend.submit_errors.append(After(Ambiguous("the answer was lost")))
    async with own(backend) as cluster:
        await cluster.scale(2)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["starting"] * 2)
        await rounds(cluster, 5)
        assert (1, 2) == (backend.calls["submit"], len(backend.alive()))


async def test_a_backend_that_raises_anything_ends_no_round() -> None:
    with dask.config.set({"adaptive.unknown-timeout": "1s"}):
        backend = Shaky(time.monotonic)
        async with own(backend) as cluster:
            await cluster.scale(1)
            await until(lambda: any("what is this" in event for event in events(cluster)))
            assert "what is this" in str(cluster.status())
            await until(lambda: len(backend.alive()) == 1)
            assert not any(record.error for record in cluster.records)


async def test_a_list_that_cannot_be_read_holds_everything() -> None:
    backend = MemoryBackend(time.monotonic)
    async with own(backend) as cluster:
        await cluster.scale(1)
        await until(lambda: len(backend.alive()) == 1)
        backend.jobs_errors.extend([Unavailable("no route")] * 1000)
        await until(lambda: cluster.controller.record.snapshot.pools["default"].stale)
        await cluster.scale(0)
        await rounds(cluster, 3)
        assert (1, []) == (len(backend.alive()), backend.cancels)
        assert "Not trusted: " in await cluster.explain()
        backend.jobs_errors.clear()
        await until(lambda: not backend.alive())


async def test_a_cancel_that_failed_is_tried_again_and_nothing_is_forgotten() -> None:
    backend = MemoryBackend(time.monotonic)
    with dask.config.set({"adaptive.end-timeout": "500 ms"}):
        async with own(backend) as cluster:
            await cluster.scale(1)
            await until(lambda: len(backend.alive()) == 1)
            backend.cancel_errors.append(Unavailable("no route"))
            await cluster.scale(0)
            await until(lambda: any("will be tried again" in event for event in events(cluster)))
            assert 1 == len(alive(cluster))
            await until(lambda: not backend.alive())
            await until(lambda: not alive(cluster))


async def test_a_manager_that_hangs_does_not_hang_the_rounds_or_close() -> None:
    backend = MemoryBackend(time.monotonic, timeout_s=1.0)
    async with own(backend) as cluster:
        for method in ("jobs", "cancel", "log"):
            backend.gates[method] = asyncio.Event()
        await cluster.scale(1)
        await until(lambda: len(backend.alive()) == 1)
        await cluster.scale(0)
        await rounds(cluster, 3)
        for gate in backend.gates.values():
            gate.set()
        await until(lambda: not backend.alive())


async def test_a_duplicate_counts_and_the_younger_one_is_cancelled() -> None:
    backend = MemoryBackend(time.monotonic)
    async with own(backend, maximum=2) as cluster:
        await cluster.scale(2)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["starting"] * 2)
        first = set(backend.made)
        (younger, _) = backend.foreign(backend.batches[0])
        await until(lambda: len(backend.alive()) == 2)
        assert younger in {each for ids in backend.cancels for each in ids}
        assert first.isdisjoint(each for ids in backend.cancels for each in ids)
        assert 1 == len(backend.batches)


async def test_a_requeued_job_is_waited_for_and_not_replaced() -> None:
    backend = MemoryBackend(time.monotonic)
    async with own(backend) as cluster:
        await cluster.scale(1)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["starting"])
        (name,) = backend.alive()
        backend.requeue(name, "preempted by a richer user")
        row = await until(lambda: next((row for row in cluster.status() if row.phase.value == "queued"), None))
        assert "preempted by a richer user" == row.reason
        backend.run(name)
        await until(lambda: [row.phase.value for row in cluster.status()] == ["starting"])
        assert (1, []) == (backend.calls["submit"], backend.cancels)


async def test_a_list_that_goes_back_in_time_starts_nothing() -> None:
    backend = MemoryBackend(time.monotonic, lag_s=3600.0)
    backend.late_s, backend.poll_s = 0.0, 0.05  # type: ignore[attr-defined]
    async with own(backend, maximum=2) as cluster:
        await cluster.scale(2)
        await until(lambda: len(backend.alive()) == 2)
        for late_s in (3600.0, 0.0, 3600.0):
            backend.late_s = late_s
            before = backend.calls["jobs"]
            await until(lambda: backend.calls["jobs"] > before + 1)  # noqa: B023
        await rounds(cluster, 3)
        assert (1, 2, []) == (backend.calls["submit"], len(backend.alive()), backend.cancels)
        backend.late_s, backend.lag_s = 0.0, 0.0


# --- the end ------------------------------------------------------------------------------------------------------


async def test_close_during_a_start_leaves_nothing() -> None:
    mark = uuid.uuid4().hex
    for steps in (0, 1, 3, 10, 30):
        cluster = LocalCluster(n_workers=2, dashboard_address=None, asynchronous=True, environment={MARK: mark})
        starting = asyncio.ensure_future(cluster)  # type: ignore[call-overload]
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.wait_for(cluster.close(), 120)
        await asyncio.gather(starting, return_exceptions=True)
        assert cluster.status == Status.closed
        assert cluster.scheduler is None or cluster.scheduler.status == Status.closed
    await until(lambda: not marked(mark))


@pytest.mark.parametrize("listens", [False, True])
async def test_close_during_the_start_of_the_scheduler_leaves_nothing(
    listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, never, start = asyncio.Event(), asyncio.Event(), Scheduler.start_unsafe

    async def stuck(scheduler: Scheduler) -> None:
        if listens:
            await start(scheduler)
        begun.set()
        await never.wait()

    monkeypatch.setattr(Scheduler, "start_unsafe", stuck)
    before = listening()
    cluster = LocalCluster(dashboard_address=None, asynchronous=True)
    starting = asyncio.ensure_future(cluster)  # type: ignore[call-overload]
    await begun.wait()
    assert listening() - before, "that of the page at least"
    await asyncio.wait_for(cluster.close(), 120)
    await asyncio.gather(starting, return_exceptions=True)
    assert set() == listening() - before


def listening() -> set[int]:
    """The ports where this process listens."""
    sockets = psutil.Process().net_connections("tcp")
    return {socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN}


async def test_close_while_jobs_start_leaves_nothing() -> None:
    mark = uuid.uuid4().hex
    async with local(environment={MARK: mark}) as (cluster, _):
        await cluster.scale(3)
        await until(lambda: alive(cluster))
    assert [] == marked(mark)


async def test_close_twice_and_at_the_same_time() -> None:
    cluster = await LocalCluster(n_workers=1, dashboard_address=None, asynchronous=True)
    await asyncio.gather(cluster.close(), cluster.close())
    await cluster.close()
    assert cluster.status == Status.closed


def test_close_twice_in_a_plain_script() -> None:
    cluster = LocalCluster(n_workers=1, dashboard_address=None)
    cluster.close()
    cluster.close()
    assert cluster.status == Status.closed
    for size in (cluster.adapt, lambda: cluster.scale(1)):
        with pytest.raises(ConfigError, match="closed"):
            size()


SCRIPT = """
import os, time
from dask_adaptive import LocalCluster

def main():
    print("start", flush=True)
    with LocalCluster(n_workers=2, dashboard_address=None) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2)
        print("compute", flush=True)
        if os.environ.get("LINGER"):
            client.submit(time.sleep, 10_000).result()
        client.submit(lambda: 1).result()
        print("close", flush=True)
    print("closed", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Any]:
    """Runs the script until it says a word; whatever is left is ended."""
    (tmp_path / "script.py").write_text(SCRIPT)
    mark = uuid.uuid4().hex
    started: list[subprocess.Popen[str]] = []

    def run(word: str) -> tuple[subprocess.Popen[str], str]:
        environment = {**os.environ, MARK: mark, "PYTHONWARNINGS": "default"}
        if word == "compute":
            environment["LINGER"] = "1"
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        while (line := process.stdout.readline()).strip() != word:
            assert line, process.communicate()[1]
        return process, mark

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for process in marked(mark):
        process.kill()


async def test_nothing_outlives_an_owner_that_was_killed(script: Any) -> None:
    process, mark = script("compute")
    assert len(marked(mark)) >= 3
    process.kill()
    process.wait()
    await until(lambda: not marked(mark))


@pytest.mark.parametrize(("word", "delay_s"), [("start", 0.0), ("start", 0.4), ("compute", 0.2), ("close", 0.0)])
async def test_ctrl_c_at_any_moment_leaves_nothing(script: Any, word: str, delay_s: float) -> None:
    process, mark = script(word)
    await asyncio.sleep(delay_s)  # somewhere inside; whatever moment it hits has to do
    os.killpg(process.pid, signal.SIGINT)
    await until(lambda: process.poll() is not None)
    assert process.returncode != 0 or word == "close"
    await until(lambda: not marked(mark))
