"""What can go wrong around a cluster (``test_faults.py``), again: with workers that SSH starts, and a head behind."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner
from distributed import Client, Scheduler
from tests.sshd import Hosts, running_hosts
from tests.waiting import soon, until

from dask_adaptive import Cluster, SSHCluster, connect
from dask_adaptive.backend.ssh import Ssh
from dask_adaptive.show.cli import adaptive

from .worlds import QUICK, Trace, alive, kill, own_mark, pids, workers

HANGS = "import time\ntime.sleep(600)\n"


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


# --- hosts by SSH -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with running_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@asynccontextmanager
async def elsewhere(made: Hosts, **options: Any) -> AsyncIterator[tuple[SSHCluster, Client]]:
    said = {"hosts": made.words(2), "dashboard_address": None, "grace_s": 2, **made.options, **options}
    async with SSHCluster(asynchronous=True, **said) as cluster, Client(cluster, asynchronous=True) as client:
        yield cluster, client
    await until(lambda: not made.jobs_left())


def events(cluster: Any) -> str:
    return "\n".join(event for record in cluster.records for event in record.events)


@pytest.mark.system("ssh")
async def test_killed_workers_idle_busy_and_with_the_only_copy(hosts: Hosts, trace: Trace) -> None:
    async with elsewhere(hosts) as (cluster, client):
        cluster.adapt(minimum=1, maximum=1, **QUICK)
        await until(lambda: len(workers(cluster)) == 1)
        kill(*(await pids(client)).values())  # idle
        held = client.submit(trace.task(), "held")
        assert "held" == await held
        kill(*(await pids(client)).values())  # holding the only copy
        await until(lambda: trace.runs["held"] == 2)
        assert "held" == await client.gather(held)
        busy = client.submit(trace.task("go"), "busy")
        await until(lambda: trace.runs["busy"] == 1)
        kill(*trace.pids("busy"))
        await until(lambda: trace.runs["busy"] == 2)
        trace.open("go")
        assert "busy" == await busy


@pytest.mark.system("ssh")
async def test_every_worker_killed_at_once_elsewhere(hosts: Hosts, trace: Trace) -> None:
    async with elsewhere(hosts) as (cluster, client):
        cluster.adapt(minimum=3, maximum=3, **QUICK)
        await until(lambda: len(workers(cluster)) == 3)
        was = set(workers(cluster))
        for pid in (await pids(client)).values():
            kill(pid)
        await until(lambda: len(workers(cluster)) == 3 and not was & set(workers(cluster)))
        assert list(range(6)) == await client.gather(client.map(trace.task(), range(6)))


@pytest.mark.system("ssh")
async def test_a_worker_command_that_cannot_start_elsewhere(hosts: Hosts) -> None:
    async with elsewhere(hosts, worker_arguments=["--nthreads", "no-such-number"]) as (cluster, _):
        await cluster.scale(1)
        await until(lambda: "no-such-number" in events(cluster))
        await until(lambda: any(state.broken for state in cluster.records[-1].snapshot.pools.values()))
        assert "Broken" in await cluster.explain()


@pytest.mark.system("ssh")
async def test_a_worker_that_never_registers_elsewhere(hosts: Hosts, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text(HANGS)
    with dask.config.set({"adaptive.start-timeout": "3s"}):
        async with elsewhere(hosts, preload=str(hangs)) as (cluster, _):
            await cluster.scale(1)
            await until(lambda: any("did not register" in c.reason for r in cluster.records for c in r.plan.cancels))


@pytest.mark.system("ssh")
async def test_the_scheduler_of_workers_elsewhere_is_gone(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_adaptive.controller.LOOK_TIMEOUT_S", 1.0)
    scheduler = await Scheduler(host="127.0.0.1", dashboard_address=":0")
    backend = Ssh(hosts.words(2), grace_s=2, **hosts.options)
    cluster = await Cluster(backend, scheduler=scheduler.address, security=False, asynchronous=True)
    cluster.adapt(minimum=1, maximum=1, **QUICK)
    await until(lambda: len(workers(cluster)) == 1)
    await scheduler.close()
    await until(lambda: "scheduler cannot be asked" in events(cluster))
    assert "cannot be asked" in await cluster.explain()
    await asyncio.wait_for(cluster.close(), 120)
    await until(lambda: not hosts.jobs_left())


@pytest.mark.system("ssh")
async def test_a_close_during_a_start_elsewhere_leaves_nothing(hosts: Hosts) -> None:
    async with elsewhere(hosts) as (cluster, _):
        cluster.adapt(minimum=4, maximum=4, **QUICK)
        await until(lambda: alive(cluster))


@pytest.mark.system("ssh")
async def test_adapt_twice_and_scale_during_adapt_elsewhere(hosts: Hosts) -> None:
    async with elsewhere(hosts) as (cluster, _):
        first = cluster.adapt(minimum=1, maximum=1, **QUICK)
        second = cluster.adapt(minimum=2, maximum=2, **QUICK)
        await until(lambda: len(workers(cluster)) == 2)
        assert (False, True) == ("running" in repr(first), "running" in repr(second))
        await cluster.scale(1)
        await until(lambda: len(workers(cluster)) == 1)
        assert "adaptive scaling ends" in str(await cluster.get_logs())


@pytest.mark.system("ssh")
async def test_two_clusters_elsewhere_on_one_scheduler(hosts: Hosts) -> None:
    async with Scheduler(host="127.0.0.1", dashboard_address=":0") as scheduler:
        backends = [Ssh(hosts.words(2), grace_s=2, **hosts.options) for _ in range(2)]
        clusters = [
            await Cluster(each, scheduler=scheduler.address, security=False, asynchronous=True) for each in backends
        ]
        for cluster in clusters:
            cluster.adapt(minimum=1, maximum=1, **QUICK)
        await until(lambda: len(scheduler.workers) == 2 and all(len(alive(each)) == 1 for each in clusters))
        await clusters[0].close()
        await until(lambda: len(scheduler.workers) == 1)
        await asyncio.sleep(0.5)  # ten rounds, in which the other one could take a worker for its own
        assert 1 == len(scheduler.workers)
        await clusters[1].close()
    await until(lambda: not hosts.jobs_left())


# --- a head in the background -------------------------------------------------------------------------------------


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from own_mark(tmp_path, monkeypatch)


def command(*arguments: str) -> str:
    done = CliRunner().invoke(adaptive, list(arguments), prog_name="dask adaptive")
    assert 0 == done.exit_code, done.output
    return str(done.stdout)


def test_workers_of_a_head_killed_busy_with_the_only_copy_and_all_at_once(mark: str, trace: Trace) -> None:
    command("up", "hurt", "--minimum", "2", "--maximum", "2")
    with connect("hurt") as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=120)
        held = client.submit(trace.task(), "held")
        assert "held" == held.result(120)
        for pid in client.run(os.getpid).values():  # all at once, and with them the only copy
            kill(pid)
        soon(lambda: trace.runs["held"] == 2)
        assert "held" == held.result(120)
        busy = client.submit(trace.task("go"), "busy")
        soon(lambda: trace.runs["busy"] == 1)
        kill(*trace.pids("busy"))
        soon(lambda: trace.runs["busy"] == 2)
        trace.open("go")
        assert "busy" == busy.result(120)
    command("down", "hurt")


def test_workers_of_a_head_that_cannot_start(mark: str) -> None:
    command("up", "broken", "--maximum", "2", "--set", "worker_arguments=[--nthreads, no-such-number]")
    command("scale", "broken", "1")
    soon(lambda: "Broken" in command("explain", "broken"))
    soon(lambda: "no-such-number" in command("events", "broken"))
    command("down", "broken")


def test_workers_of_a_head_that_never_register(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text(HANGS)
    monkeypatch.setenv("DASK_ADAPTIVE__START_TIMEOUT", "3s")
    command("up", "mute", "--maximum", "1", "--set", f"preload={hangs}")
    command("scale", "mute", "1")
    soon(lambda: "did not register" in command("events", "mute"))
    command("down", "mute")


def test_adapt_twice_and_scale_during_adapt_by_commands(mark: str) -> None:
    command("up", "sized", "--maximum", "1")
    command("adapt", "sized", "--minimum", "1", "--maximum", "1")
    command("adapt", "sized", "--minimum", "2", "--maximum", "2")
    soon(lambda: sum(row["workers"] for row in json.loads(command("list", "--json"))) == 2)
    command("scale", "sized", "1")
    soon(lambda: sum(row["workers"] for row in json.loads(command("list", "--json"))) == 1)
    command("down", "sized")
