"""The engine against a scheduler in another process, and over TLS: the same code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client, Scheduler, Worker
from distributed.security import Security
from tests.waiting import LIMIT_S

from dask_adaptive.engine import DaskEngine
from dask_adaptive.model import worker_name

WITHOUT_US = """
import sys
sys.modules["dask_adaptive"] = None
from distributed.cli.dask_scheduler import main
main()
"""
"""A ``dask scheduler`` on whose machine this package is not installed."""


@pytest.fixture
def remote(tmp_path: Path):
    """Address of a scheduler process that cannot import our package."""
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", WITHOUT_US, *options], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + LIMIT_S
            while not file.exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield address_in(file)
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def address_in(file: Path) -> str:
    return str(json.loads(file.read_text())["address"])


async def test_a_scheduler_without_our_package(remote: str):
    words: list[str] = []
    one = DaskEngine(remote, key="abcd")
    one.watch(words.append)
    await one.start()
    await one.declare({"abcdtest": "pool"})
    names = [worker_name("abcdtest.0", 0), worker_name("abcdtest.1", 0)]
    async with Worker(remote, name=names[0], nthreads=1) as a, Worker(remote, name=names[1], nthreads=1) as b:
        async with Client(remote, asynchronous=True) as client:
            data = await client.scatter({"x": 1}, workers=[a.address])
            future = client.submit(lambda x: x + 1, data["x"], workers=[a.address])
            assert 2 == await future
            load = await one.look()
            assert {"abcdtest.0": a.address, "abcdtest.1": b.address} == {
                job: members[0].address for job, members in load.members.items()
            }
            assert {"abcdtest.0": ""} == await one.drain({"abcdtest.0": [a.address]}, LIMIT_S)
            assert [1, 2] == [await data["x"], await future]
            assert ["abcdtest.1"] == list((await one.look()).members)
    assert "graph" in words
    await one.aclose()


async def test_over_tls():
    security = Security.temporary()
    words: list[str] = []
    async with Scheduler(
        protocol="tls://", host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0", security=security
    ) as scheduler:
        connection_args = security.get_connection_args("client")
        one = DaskEngine(scheduler.address, key="abcd", connection_args=connection_args)
        one.watch(words.append)
        await one.start()
        async with Worker(scheduler.address, name=worker_name("abcdtest.0", 0), security=security):
            assert 1 == (await one.look()).pools[""].workers
        deadline = time.monotonic() + LIMIT_S
        while "worker left" not in words:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await one.aclose()


async def test_in_process_without_a_socket():
    async with Scheduler(protocol="inproc", dashboard=False, dashboard_address=":0") as scheduler:
        one = DaskEngine(scheduler.address, key="abcd")
        async with Worker(scheduler.address, name=worker_name("abcdtest.0", 0)) as worker:
            assert worker.address == (await one.look()).members["abcdtest.0"][0].address
        await one.aclose()
