"""What is left of a cluster of a plain script once it is closed: no thread, and all that it can still tell."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.core import Status
from tests.fakes.core import Fake
from tests.fakes.memory import MemoryBackend
from tests.waiting import soon

from dask_adaptive import Cluster, ConfigError, LocalCluster, PBSCluster
from dask_adaptive.controller import clock
from dask_adaptive.errors import Rejected

from .worlds import alive

CLOSED = "The cluster is closed; this was its last state."


def loops() -> set[threading.Thread]:
    """The threads that event loops run in, and those that these put calls into."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(("IO loop", "asyncio_"))}


@contextmanager
def no_thread_left() -> Iterator[None]:
    before = loops()
    yield
    assert set() == loops() - before


def small(**options: Any) -> LocalCluster:
    return LocalCluster(**{"n_workers": 0, "dashboard_address": None, **options})


# --- no thread ----------------------------------------------------------------------------------------------------


def test_a_closed_cluster_leaves_no_thread_and_still_answers() -> None:
    with no_thread_left():
        with small(n_workers=1) as cluster:
            cluster.wait_for_workers(1, timeout=120)
            (job,) = alive(cluster)
        assert cluster.explain().startswith(CLOSED)
        assert isinstance(cluster.log(job), str)
        assert {"Cluster", f"job {job}"} == set(cluster.get_logs())
        assert [job] == [row.job for row in cluster.status()]
        with pytest.raises(ConfigError, match=job):
            cluster.log("nobody")
        with pytest.raises(ConfigError, match="nothing runs on it"):
            cluster.record("never.json")
        cluster.close()
        assert cluster._widget() is not None


def test_clusters_one_after_the_other_leave_no_thread() -> None:
    with no_thread_left():
        for _ in range(3):
            small().close()


def test_a_client_that_is_closed_first_leaves_no_thread_either() -> None:
    with no_thread_left(), small(n_workers=1) as cluster, Client(cluster) as client:
        assert 3 == client.submit(sum, [1, 2]).result(timeout=120)


@pytest.mark.parametrize("end", [lambda cluster, _: cluster.close(), lambda _, client: client.shutdown()])
def test_a_client_that_is_still_open_keeps_the_loop_that_it_shares(end: Any) -> None:
    with no_thread_left():
        cluster = small()
        client = Client(cluster)
        end(cluster, client)
        assert cluster.status == Status.closed
        assert client.loop.asyncio_loop.is_running()
        assert cluster.explain().startswith(CLOSED)
        client.close()
        cluster.close()
        client._loop_runner.stop()  # Dask's client never does once its scheduler is gone


def test_a_cluster_that_could_not_start_leaves_no_thread() -> None:
    class Refusing(MemoryBackend):
        async def start(self) -> None:
            raise Rejected("there is no such system")

    with no_thread_left(), pytest.raises(Rejected, match="no such system"):
        Cluster(Refusing(clock), scheduler_options={"dashboard": False})


def test_a_close_that_takes_too_long_can_be_said_again() -> None:
    with no_thread_left():
        cluster = small()
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):  # two of them before Python 3.11
            cluster.close(timeout=0.0001)
        cluster.close()
        assert cluster.status == Status.closed


def test_who_asks_while_it_closes_is_answered() -> None:
    with no_thread_left():
        cluster, over = small(), threading.Event()
        answers: list[str] = []

        def ask() -> None:
            while not over.is_set():
                answers.append(cluster.explain())

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        soon(lambda: len(answers) > 20)
        cluster.close()
        said = len(answers)
        soon(lambda: len(answers) > said + 20)
        over.set()
        for asker in askers:
            asker.join(30)
        assert not any(asker.is_alive() for asker in askers)
        assert answers[-1].startswith(CLOSED)


def test_two_threads_that_close_it_at_the_same_time_both_return() -> None:
    with no_thread_left():
        cluster = small()
        closers = [threading.Thread(target=cluster.close) for _ in range(4)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(60)
        assert not any(closer.is_alive() for closer in closers)
        assert cluster.status == Status.closed


@pytest.mark.parametrize(
    "ends", ["with small() as cluster: pass", "cluster = small(); cluster.close()", "cluster = small()"]
)
def test_the_interpreter_ends_without_a_complaint(ends: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from dask_adaptive import LocalCluster\n"
        "def small(): return LocalCluster(n_workers=1, dashboard_address=None)\n"
        f"if __name__ == '__main__':\n    {ends}\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_what_was_learned_is_kept_also_where_nobody_closed_the_cluster(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from distributed import Client\n"
        "from dask_adaptive import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, dashboard_address=None, journal='rounds.jsonl')\n"
        "    client = Client(cluster)\n"
        "    client.submit(sum, [1, 2], key='add-1').result()\n"
        "    cluster.adapt(maximum=1)\n"
        "    client.submit(sum, [1, 2], key='add-2').result()\n"
        "    client.close()\n"  # Dask complains of results that it loses with the workers, if a client wants them still
    )
    environment = {**os.environ, "DASK_ADAPTIVE__HISTORY": str(tmp_path / "history.json")}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert (tmp_path / "history.json").is_file()
    assert (tmp_path / "rounds.jsonl").read_bytes().endswith(b"\n")


# --- asked from elsewhere -----------------------------------------------------------------------------------------


async def test_a_closed_cluster_answers_where_another_loop_runs_as_in_a_notebook() -> None:
    with no_thread_left():
        with small() as cluster:
            pass
        assert cluster.explain().startswith(CLOSED)
        assert {"Cluster"} == set(cluster.get_logs())


def test_an_asynchronous_cluster_answers_when_its_loop_has_ended() -> None:
    async def used() -> LocalCluster:
        async with small(asynchronous=True) as cluster:
            return cluster

    cluster = asyncio.run(used())
    assert cluster.explain().startswith(CLOSED)


# --- other backends -----------------------------------------------------------------------------------------------


def test_what_jobs_of_a_batch_system_printed_is_read_after_the_end(tmp_path: Path) -> None:
    options = {"cores": 1, "host": "127.0.0.1", "dashboard_address": None, "poll_s": 0.2}
    with Fake(tmp_path / "system", "pbs:Pbs", history=True).on_path(), no_thread_left():
        with PBSCluster(log_directory=str(tmp_path / "logs"), n_workers=2, **options) as cluster:
            cluster.wait_for_workers(2, timeout=120)
            jobs = alive(cluster)
        for job in jobs:
            assert "Start worker at" in cluster.log(job)
        assert {"Cluster", *(f"job {job}" for job in jobs)} == set(cluster.get_logs())
        assert cluster.explain().startswith(CLOSED)


def test_who_lets_go_of_its_jobs_leaves_no_thread_either() -> None:
    with small() as home, no_thread_left():
        cluster = Cluster(MemoryBackend(clock), scheduler=home.scheduler_address, security=False)
        cluster.detach()
        assert cluster.status == Status.closed
        assert cluster.explain().startswith(CLOSED)
        cluster.detach()
