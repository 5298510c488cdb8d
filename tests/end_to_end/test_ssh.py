"""``SSHCluster`` with real servers that stand for several hosts: real workers, real results, real losses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from click.testing import CliRunner, Result
from distributed import Client, Scheduler
from tests.ports import free_ports
from tests.sshd import Hosts, Sshd, make_key, running_hosts
from tests.waiting import until

from dask_adaptive import Cluster, ConfigError, NoCapacity, SSHCluster, connect
from dask_adaptive.backend.ssh import Ssh
from dask_adaptive.show.cli import adaptive

from .worlds import QUICK, Trace, alive, workers

pytestmark = pytest.mark.system("ssh")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with running_hosts(tmp_path / "hosts") as made:
        yield made


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


@asynccontextmanager
async def cluster_on(made: Hosts, **options: Any) -> AsyncIterator[tuple[SSHCluster, Client]]:
    said = {"hosts": made.words(2), "dashboard_address": None, "grace_s": 2, **made.options, **options}
    async with SSHCluster(asynchronous=True, **said) as cluster, Client(cluster, asynchronous=True) as client:
        yield cluster, client


def host_of(hosts: Hosts, pid: int) -> Sshd:
    """The host on which a process runs."""
    (found,) = [sshd for sshd in hosts.sshds if pid in [process.pid for process in sshd.left()]]
    return found


async def test_work_takes_hosts_and_gives_them_back_and_close_leaves_nothing(hosts: Hosts, trace: Trace) -> None:
    async with cluster_on(hosts) as (cluster, client):
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:"), "workers on other machines: encrypted"
        adaptive = cluster.adapt(**QUICK)
        assert 4 == adaptive.maximum, "the slots of the hosts"
        futures = client.map(trace.task("go"), range(4))
        await until(lambda: sum(trace.runs.values()) == 4)
        busy = Counter(host_of(hosts, trace.pids(x)[0]).label for x in range(4))
        assert dict.fromkeys((sshd.label for sshd in hosts.sshds), 2) == busy
        trace.open("go")
        assert list(range(4)) == await client.gather(futures)
        del futures
        await until(lambda: not alive(cluster))
        await until(lambda: not hosts.jobs_left())
        assert dict.fromkeys("0123", 1) == trace.runs
        logs = await cluster.get_logs()
        assert any("Registered to" in text for name, text in logs.items() if name.startswith("job ")), "after death"
        await client.submit(trace.task(), 5)
    await until(lambda: not hosts.left())


async def test_a_lost_host_is_set_aside_and_its_work_done_by_the_others(hosts: Hosts, trace: Trace) -> None:
    settings = {"adaptive.lost-timeout": "1s"}
    with dask.config.set(settings):
        async with cluster_on(hosts, lost_s=1.0) as (cluster, client):
            cluster.adapt(minimum=2, maximum=2, **QUICK)
            await client.wait_for_workers(2)
            futures = client.map(trace.task("go"), range(2))
            await until(lambda: len(trace.runs) == 2)
            lost = host_of(hosts, trace.pids(0)[0])
            (other,) = [sshd for sshd in hosts.sshds if sshd is not lost]
            lost.lose()
            await until(lambda: len(trace.pids(0)) == 2 and trace.pids(0)[-1] != trace.pids(0)[0])
            trace.open("go")
            assert [0, 1] == await client.gather(futures)
            assert 1 == trace.runs["1"], "the others were left alone"
            await until(lambda: len(workers(cluster)) == 2)
            assert {other.label} == {row.id.partition("@")[2] for row in cluster.status() if row.job in alive(cluster)}
            note = next(line for line in str(cluster.status()).splitlines() if line.startswith(f"host {lost.label}"))
            assert re.search(r"set aside, tried again in \d+ s", note)
            assert lost.label in await cluster.explain()


async def test_a_cut_connection_costs_no_work(hosts: Hosts, trace: Trace) -> None:
    async with cluster_on(hosts, n_workers=2) as (cluster, client):
        await client.wait_for_workers(2)
        before = set(workers(cluster))
        futures = client.map(trace.task("go"), range(2))
        await until(lambda: len(trace.runs) == 2)
        agents = {agent.pid for sshd in hosts.sshds for agent in sshd.agents()}
        for sshd in hosts.sshds:
            sshd.cut()
        await until(lambda: all({each.pid for each in sshd.agents()} - agents for sshd in hosts.sshds))
        trace.open("go")
        assert [0, 1] == await client.gather(futures)
        assert {"0": 1, "1": 1} == trace.runs
        assert before == set(workers(cluster))


async def test_a_controller_that_comes_back_finds_its_jobs(hosts: Hosts) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler:

        def attached() -> Cluster:
            backend = Ssh(hosts.words(2), grace_s=2, **hosts.options)
            return Cluster(backend, scheduler=scheduler.address, name="mine", asynchronous=True)

        first = await attached()
        first.scale(3)
        await until(lambda: len(scheduler.workers) == 3)
        before = set(scheduler.workers)
        await first.detach()
        assert before == set(scheduler.workers)
        async with attached() as second:
            await until(lambda: len(alive(second)) == 3)
            second.scale(3)
            await until(lambda: [row.phase.value for row in second.status()] == ["ready"] * 3)
            assert before == set(scheduler.workers)
        await until(lambda: not hosts.left())


OWNER = """
import json, sys, time
from dask_adaptive import SSHCluster
if __name__ == "__main__":
    cluster = SSHCluster(n_workers=3, dashboard_address=None, **json.loads(sys.argv[1]))
    cluster.wait_for_workers(3)
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("ending", ["kill", "interrupt"])
def test_nothing_outlives_an_owner_that_dies(hosts: Hosts, ending: str) -> None:
    options = json.dumps({"hosts": hosts.words(2), "death_timeout": "5s", **hosts.options})
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert "ready\n" == owner.stdout.readline()
    assert hosts.jobs_left()
    owner.kill() if ending == "kill" else owner.send_signal(2)
    owner.communicate(timeout=120)
    asyncio.run(until(lambda: not hosts.left()))
    assert [] == [path for sshd in hosts.sshds for path in sshd.jobs.glob("*/tls_*")], "credentials are gone, too"


async def test_when_no_host_can_be_used_it_says_why_and_does_not_start(hosts: Hosts, tmp_path: Path) -> None:
    with pytest.raises(NoCapacity, match=r"no host can be used: .*does not let us in.*without a password"):
        async with cluster_on(hosts, keys=str(make_key(tmp_path / "another"))):
            pass
    assert [] == hosts.left()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"hosts": []}, "hosts must name at least one host"),
        ({"hosts": ["a", "a"]}, "named twice"),
        ({"hosts": ["a"], "host": "127.0.0.1", "interface": "lo"}, "host= or interface=, not both"),
        ({"hosts": ["a"], "interface": "nowhere0"}, "interface='nowhere0'"),
        ({"hosts": ["127.0.0.1"], "host_key": "check"}, "did you mean 'host_keys'"),
        ({"hosts": ["a"], "host": "127.0.0.1", "threads": 0}, "threads must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_starts(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        SSHCluster(**arguments)


async def test_workers_are_told_the_contact_address(hosts: Hosts) -> None:
    with_port = {"scheduler_port": free_ports(1)[0], "security": False}
    contact = f"localhost:{with_port['scheduler_port']}"
    async with cluster_on(hosts, contact_address=contact, n_workers=1, **with_port) as (cluster, client):
        await client.wait_for_workers(1)
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
        told = [argv for argv in commands(hosts) if "distributed.cli.dask_worker" in argv]
        assert [f"tcp://{contact}"] == [argv[argv.index("distributed.cli.dask_worker") + 1] for argv in told]


def commands(hosts: Hosts) -> list[list[str]]:
    found = []
    for process in hosts.left():
        with suppress(psutil.Error):
            found.append(process.cmdline())
    return found


def test_a_head_with_hosts_by_ssh(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it leaves nothing on them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    pools = {"hosts": {"backend": "ssh", "hosts": hosts.words(2), **hosts.options}}
    (tmp_path / "cluster.yaml").write_text(json.dumps({"name": "far", "pools": pools}))
    assert 0 == command("up", "far", "--config", str(tmp_path / "cluster.yaml")).exit_code
    try:
        with connect("far") as cluster, Client(cluster) as client:
            cluster.scale(2)
            client.wait_for_workers(2, timeout=120)
            assert 3 == client.submit(sum, [1, 2]).result()
        assert hosts.jobs_left()
        (row,) = json.loads(command("list", "--json").stdout)
        os.kill(row["pid"], signal.SIGKILL)
        asyncio.run(until(lambda: not hosts.jobs_left()))
        assert 0 == command("reap").exit_code
    finally:
        command("down", "far")
    asyncio.run(until(lambda: not hosts.left()))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(adaptive, list(arguments), prog_name="dask adaptive")
