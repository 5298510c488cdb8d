"""What the tests of our own clusters share: clusters, tasks that leave a trace of every execution, and waiting."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from tests.waiting import soon, until

from dask_adaptive import Cluster, LocalCluster

MARK = "DASK_ADAPTIVE_TEST_MARK"
QUICK = {"interval": "50 ms", "wait_count": 2, "target_duration": "50 ms"}
"""Options of ``adapt`` that ask for a job per task, and give up what is idle at once."""


@asynccontextmanager
async def local(**options: Any) -> AsyncIterator[tuple[LocalCluster, Client]]:
    """A cluster on this machine and a client of it; fixed at no worker unless something else is said."""
    options = {"n_workers": 0, "dashboard_address": None, **options}
    async with LocalCluster(asynchronous=True, **options) as cluster, Client(cluster, asynchronous=True) as client:
        yield cluster, client


def own(backend: Any = "local", **options: Any) -> Cluster:
    """A general cluster without a dashboard."""
    return Cluster(backend, asynchronous=True, scheduler_options={"dashboard": False}, **options)


def workers(cluster: Any) -> dict[str, Any]:
    """The workers that the cluster knows of, by name."""
    return {info["name"]: info for info in cluster.scheduler_info["workers"].values()}


def alive(cluster: Any) -> list[str]:
    """Names of the jobs that may hold something of the machine."""
    over = ("gone", "failed")
    return [row.job for row in cluster.status() if row.phase.value not in over]


def submitted(cluster: Any) -> int:
    """How many jobs were ever asked for."""
    return sum(submit.count for record in cluster.records for submit in record.plan.submits)


async def rounds(cluster: Any, count: int = 5) -> None:
    """Wait for so many more rounds."""
    begin = cluster.controller.record.number if cluster.controller.record else 0
    await until(lambda: cluster.controller.record and cluster.controller.record.number >= begin + count)


class Trace:
    """Tasks that write down each of their executions, and that end when they are told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / uuid.uuid4().hex
        self.folder.mkdir()

    def task(self, gate: str = "") -> Callable[..., Any]:
        """A function that returns its argument; with a gate it first waits until that gate is opened."""
        folder = str(self.folder)

        def traced(x: Any = 0, *_: Any) -> Any:
            import os
            import uuid
            from pathlib import Path

            Path(folder, f"ran {x} {os.getpid()} {uuid.uuid4().hex}").touch()
            while gate and not Path(folder, gate).exists():
                time.sleep(0.01)
            return x

        traced.__name__ = f"traced_{gate}"  # another kind of task: nothing is known of its run time yet
        return traced

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    @property
    def runs(self) -> Counter[str]:
        """How often each argument was executed, so far."""
        return Counter(path.name.split()[1] for path in self.folder.glob("ran *"))

    def pids(self, x: object) -> list[int]:
        """The processes that executed this argument."""
        return [int(path.name.split()[2]) for path in self.folder.glob(f"ran {x} *")]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def pids(client: Client) -> dict[str, int]:
    """The process of each worker, by address."""
    return dict(await client.run(os.getpid))


def marked(mark: str) -> list[psutil.Process]:
    """Every process of this machine, zombies apart, that carries the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def own_mark(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """A state directory of its own, and a mark that every process started from here carries; none may be left."""
    word = uuid.uuid4().hex
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    patch.setenv(MARK, word)
    yield word
    try:
        soon(lambda: not table(word))
    finally:
        left = table(word)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        assert [] == left, "processes were left behind"


def table(word: str) -> list[psutil.Process]:
    """The process table: what carries the mark and is not this test."""
    return [process for process in marked(word) if process.pid != os.getpid()]
