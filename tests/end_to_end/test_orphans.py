"""What is left of clusters whose owner was killed: found and ended by ``dask adaptive reap``, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from distributed import Scheduler
from tests.fakes.core import Fake
from tests.systems.slurm import slurm
from tests.waiting import until

from dask_adaptive import PBSCluster
from dask_adaptive.head import orphans
from dask_adaptive.head.state import Running, claim
from dask_adaptive.owners import Owner, Source, owner_of, owners, this_process, write
from dask_adaptive.show.cli import adaptive

from .worlds import alive

OWNER = """
import sys, time
import dask_adaptive

kind, logs, sleeper = sys.argv[1:4]
cluster = getattr(dask_adaptive, kind)(cores=1, host="127.0.0.1", dashboard_address=None, poll_s=0.2, python=sleeper,
                                       name="notebook", log_directory=logs)
cluster.scale(2)
while sum(row.phase.value in ("queued", "starting") for row in cluster.status()) < 2:
    time.sleep(0.1)
print(cluster.key, flush=True)
sys.stdin.readline()
cluster.close()
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "dask-adaptive"


async def command(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, adaptive, list(arguments))


async def reap(*arguments: str) -> Result:
    return await command("reap", *arguments)


@contextmanager
def on_slurm(_: Path) -> Iterator[Callable[[str], int]]:
    yield slurm().left


@contextmanager
def on_pbs(directory: Path) -> Iterator[Callable[[str], int]]:
    with Fake(directory / "system", "pbs:Pbs").on_path() as fake:
        yield lambda key: sum(job.startswith(key) for job in fake.left())


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    return sleeping(tmp_path)


def sleeping(directory: Path) -> str:
    """An interpreter of workers that only sleeps: a job that costs nothing and never registers."""
    path = directory / "sleeper"
    path.write_text("#!/bin/sh\nexec sleep 600\n")
    path.chmod(0o755)
    return str(path)


@asynccontextmanager
async def notebook(kind: str, directory: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process that has a cluster with two jobs, which would sleep for ten minutes; and the key of their names."""
    (directory / "owner.py").write_text(OWNER)
    command = [sys.executable, str(directory / "owner.py"), kind, str(directory / "logs"), sleeping(directory)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    key = (await process.stdout.readline()).decode().strip()
    assert re.fullmatch(r"\w{4}", key)
    try:
        yield process, key
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("kind", "backend", "system"),
    [
        pytest.param("SlurmCluster", "slurm", on_slurm, marks=pytest.mark.system("slurm"), id="slurm"),
        pytest.param("PBSCluster", "pbs", on_pbs, id="pbs"),
    ],
)
async def test_what_a_killed_notebook_left_is_ended_and_what_a_living_one_has_is_not(
    kind: str, backend: str, system: Any, tmp_path: Path, state: Path
) -> None:
    with system(tmp_path) as left:
        async with notebook(kind, tmp_path) as (process, key):
            private = list((tmp_path / "logs").glob(".*"))
            assert 1 == len(private)
            assert "nothing to clean up" in (await reap("--backend", backend)).stdout
            refused = await reap("notebook")
            assert 2 == refused.exit_code
            assert f"it belongs to process {process.pid}, which runs" in refused.stderr
            assert 2 == left(key)
            process.kill()
            await process.wait()
            assert "nothing to clean up" in (await reap("--backend", "lsf")).stdout
            done = await reap("--backend", backend)
            assert f"cluster notebook cleaned up; jobs of {backend} that had to be cancelled: 2\n" == done.stdout
            assert 0 == left(key)
            assert [] == list((tmp_path / "logs").glob(".*")), "private files"
            assert [] == list((state / "owners").iterdir())
            assert "nothing to clean up" in (await reap()).stdout


async def test_a_manager_that_cannot_be_asked_is_asked_again_later(tmp_path: Path) -> None:
    with Fake(tmp_path / "system", "pbs:Pbs").on_path() as fake:
        async with notebook("PBSCluster", tmp_path) as (process, _):
            process.kill()
            await process.wait()
            fake.fault(down=["query"])
            refused = await reap()
            assert 1 == refused.exit_code
            assert "cluster notebook: pbs may still have jobs of this cluster" in refused.stderr
            assert 1 == len(list((tmp_path / "logs").glob(".*"))), "what queued jobs may yet read"
            fake.fault()
            assert 0 == (await reap()).exit_code
            assert [] == fake.left()


async def test_an_orderly_end_leaves_nothing_to_reap(tmp_path: Path, state: Path) -> None:
    with Fake(tmp_path / "system", "pbs:Pbs").on_path() as fake:
        async with notebook("PBSCluster", tmp_path) as (process, key):
            assert owner_of(key) is not None
            await process.communicate(b"\n")
            assert 0 == process.returncode
            assert [] == fake.left()
            assert [] == list((state / "owners").iterdir())


async def test_who_comes_back_takes_over_the_files_of_before(tmp_path: Path, state: Path, sleeper: str) -> None:
    logs = tmp_path / "logs"
    options = {"cores": 1, "name": "again", "security": False, "poll_s": 0.2, "log_directory": str(logs)}
    options |= {"python": sleeper, "dashboard_address": None, "asynchronous": True}
    with Fake(tmp_path / "system", "pbs:Pbs").on_path() as fake:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            first = await PBSCluster(scheduler=scheduler.address, **options)
            await first.scale(1)
            await until(lambda: len(fake.left()) == 1)
            await first.detach()
            assert 1 == len(list(logs.glob(".*"))), "the job may yet read it"
            assert "nothing to clean up" in (await reap()).stdout
            async with PBSCluster(scheduler=scheduler.address, **options) as second:
                assert first.key == second.key
                await until(lambda: len(alive(second)) == 1)
                assert 1 == len(fake.left())
            assert [] == fake.left()
            assert [] == list(logs.glob(".*"))
            assert [] == list((state / "owners").iterdir())


# --- whose owner is gone, as far as can be told ---------------------------------------------------------------------


@pytest.fixture
def gone(tmp_path: Path) -> Iterator[Owner]:
    """What an owner wrote that is not there any more, of a cluster without jobs."""
    with ExitStack() as until_over:
        until_over.enter_context(Fake(tmp_path / "system", "pbs:Pbs").on_path())
        folder = tmp_path / "private"
        folder.mkdir()
        process = replace(this_process(), started_s=1.0)
        yield Owner("notebook", "abcd", process, [Source("pbs", {}, [str(folder)])])


async def test_the_same_number_is_not_the_same_process(gone: Owner, tmp_path: Path) -> None:
    assert gone.process.pid == os.getpid()
    write(gone)
    assert "notebook lost its owner, process" in (await command("list")).stderr
    assert "cluster notebook cleaned up\n" == (await reap()).stdout
    assert not (tmp_path / "private").exists()
    assert [] == owners()


async def test_an_owner_on_another_machine_is_told_of_and_left_alone(gone: Owner, tmp_path: Path) -> None:
    write(replace(gone, process=replace(gone.process, host="elsewhere")))
    done = await reap()
    assert f"cluster notebook belongs to process {os.getpid()} on elsewhere" in done.stderr
    assert "nothing to clean up" in done.stdout
    named = await reap("notebook")
    assert 2 == named.exit_code
    assert f"it belongs to process {os.getpid()} on elsewhere" in named.stderr
    assert (tmp_path / "private").exists()
    assert [gone.key] == [owner.key for owner in owners()]
    assert socket.gethostname() != "elsewhere"


async def test_a_head_on_another_machine_is_not_taken_for_a_notebook(gone: Owner) -> None:
    there = replace(gone.process, host="node7")
    entry = claim("work")
    entry.write(Running("work", there, 0.0, "1", "tls://node7:1", key=gone.key))
    write(replace(gone, process=there))
    assert [] == orphans.elsewhere()
    entry.remove()
    assert [gone.key] == [owner.key for owner in orphans.elsewhere()]


async def test_jobs_on_a_scheduler_that_may_live_on_are_ended_only_by_name(gone: Owner, tmp_path: Path) -> None:
    write(replace(gone, scheduler="tls://10.0.0.1:8786"))
    assert "nothing to clean up" in (await reap()).stdout
    assert (tmp_path / "private").exists()
    assert 0 == (await reap("notebook")).exit_code
    assert not (tmp_path / "private").exists()


async def test_what_is_not_understood_is_nobodys(gone: Owner, state: Path) -> None:
    write(gone)
    (state / "owners" / "wxyz.json").write_text("{")
    assert ["abcd"] == [owner.key for owner in owners()]
    assert 0o600 == (state / "owners" / "abcd.json").stat().st_mode & 0o777
    assert 0o700 == (state / "owners").stat().st_mode & 0o777


async def test_what_was_said_wrongly_is_one_sentence() -> None:
    for arguments, said in (
        (("nobody",), "there is no cluster 'nobody'"),
        (("--backend", "slrum"), "did you mean 'slurm'?"),
        (("a", "--backend", "slurm"), "give names or --backend, not both"),
    ):
        done = await reap(*arguments)
        assert 2 == done.exit_code
        assert said in done.stderr
    assert [] == json.loads((await reap("--json")).stdout)
