"""Clusters on real batch systems: what users of each would notice, and what the system itself says at the end."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client
from tests.waiting import until

from dask_adaptive.backend import calls

from .sites import SITES, Site, adapts, events, phases, running, sleeping, stand_before
from .worlds import Trace, alive, rounds, workers


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.system(name)) for name in SITES])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Each system in turn."""
    with SITES[request.param]() as made:
        yield made


# --- sizes --------------------------------------------------------------------------------------------------------


async def test_from_nothing_to_twenty_and_back(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in site.habits.items():
        monkeypatch.setenv(name, value)
    async with running(site, tmp_path, python=sleeping(tmp_path)) as cluster:
        await cluster.scale(jobs=20)
        await until(lambda: phases(cluster) == ["starting"] * 20)
        for name in site.habits:
            monkeypatch.delenv(name)
        await until(lambda: site.states(cluster.key) == {"running": 20})
        assert 1 == len(site.submits(cluster.key))
        await cluster.scale(0)
        await until(lambda: site.left(cluster.key) == 0)
        await until(lambda: alive(cluster) == [])


async def test_a_thousand_jobs_are_few_submits(site: Site, tmp_path: Path) -> None:
    jobs, submits = site.many
    async with running(site, tmp_path, python=sleeping(tmp_path)) as cluster:
        await cluster.scale(jobs=jobs)
        await until(lambda: site.left(cluster.key) == jobs, 120)
        assert submits == len(site.submits(cluster.key))
        await until(lambda: {"starting", "queued"} == set(phases(cluster)))
        await cluster.scale(0)
        await until(lambda: site.left(cluster.key) == 0, 120)


async def test_adapt_keeps_results_and_runs_nothing_twice(site: Site, tmp_path: Path) -> None:
    async with running(site, tmp_path) as cluster:
        await adapts(cluster, Trace(tmp_path), lambda: site.left(cluster.key))


# --- what a job is ------------------------------------------------------------------------------------------------


async def test_jobs_are_drained_and_replaced_before_their_walltime(site: Site, tmp_path: Path) -> None:
    """Work goes on meanwhile, and none of it is cut off."""
    trace = Trace(tmp_path)
    traced = trace.task()

    def slowly(x: int) -> int:
        time.sleep(2)
        return int(traced(x))

    async with running(site, tmp_path, walltime=site.walltime) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        held = client.submit(traced, "held")
        assert "held" == await held
        (first,) = workers(cluster)
        (number,) = site.submits(cluster.key)
        work = client.map(slowly, range(25))
        await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster), 120)
        assert "held" == await client.gather(held)
        assert list(range(25)) == await client.gather(work)
        assert {1} == set(trace.runs.values())
        await until(lambda: site.ended_well(number))
    assert "exit code" not in events(cluster), "none of them was killed"


async def test_several_workers_in_one_job(site: Site, tmp_path: Path) -> None:
    scratch = tmp_path / "a b"
    async with running(site, tmp_path, cores=4, processes=2, memory="2 GB", local_directory=str(scratch)) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: len(workers(cluster)) == 2)
        (job,) = alive(cluster)
        assert {f"{job}-0-0", f"{job}-1-0"} == set(workers(cluster))
        assert [2, 2] == [info["nthreads"] for info in workers(cluster).values()]
        assert [f"{job}-0"] == [path.name for path in scratch.iterdir()]
        (number,) = site.submits(cluster.key)
        await cluster.scale(0)
        await until(lambda: site.left(cluster.key) == 0)
        await until(lambda: site.ended_well(number))  # its workers were drained
        await until(lambda: list(scratch.iterdir()) == [])


async def test_a_template_of_ones_own(site: Site, tmp_path: Path) -> None:
    async with running(site, tmp_path, template=site.template) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        assert "vanilla" == await client.submit(os.getenv, "FLAVOUR")
        logs = await cluster.get_logs()
        assert any("Start worker at" in text for name, text in logs.items() if name.startswith("job "))


async def test_secrets_reach_the_workers_and_nobody_else(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_OWNER", "from home")
    secret = "hush 'quotes' $(and) \"more\""
    async with running(site, tmp_path, environment={"TOKEN": secret}) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await cluster.scale(1)
            assert secret == await client.submit(os.getenv, "TOKEN")
            assert ("from home" if site.inherits else None) == await client.submit(os.getenv, "OF_THE_OWNER")
        (number,) = site.submits(cluster.key)
        script, told = site.told(number)
        assert "dask_worker" in script
        commands = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
        assert any(cluster.key in command for command in commands)
        assert "hush" not in script + told + " ".join(commands)
        (private,) = (tmp_path / "logs").glob(".*")
        assert 0o700 == private.stat().st_mode & 0o777
        modes = {path.suffix: path.stat().st_mode & 0o777 for path in private.iterdir()}
        assert {".sh", ".pem"} <= set(modes)
        assert {0o600} == set(modes.values())


# --- faults -------------------------------------------------------------------------------------------------------


async def test_a_job_that_was_killed_is_replaced(site: Site, tmp_path: Path) -> None:
    async with running(site, tmp_path) as cluster:
        cluster.adapt(minimum=1, maximum=1)
        await until(lambda: phases(cluster) == ["ready"])
        first = next(iter(workers(cluster)))
        site.kill(cluster.key)
        await until(lambda: phases(cluster) == ["ready"] and first not in workers(cluster))


async def test_its_daemon_goes_and_comes_back(site: Site, tmp_path: Path) -> None:
    async with running(site, tmp_path) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        site.stop()
        try:
            await until(lambda: "job list could not be read" in events(cluster))
            await cluster.scale(2)
            await rounds(cluster, 3)
            assert "Not trusted" in await cluster.explain()
            assert 3 == await client.submit(sum, [1, 2]), "work goes on"
            assert ["ready"] == phases(cluster)
        finally:
            site.start()
        await until(lambda: phases(cluster) == ["ready", "ready"], 120)
        await until(lambda: site.states(cluster.key) == {"running": 2})  # Grid Engine is behind its own jobs at times


async def test_a_submit_whose_answer_is_lost_is_told_of_given_up_and_never_doubled(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SLOW_S", 1.0)
    submit, folder = site.submit_command, tmp_path / "bin"
    hangs = f'mkdir "{tmp_path}/once" 2>/dev/null && {submit} "$@" >/dev/null && sleep 600'
    stand_before(submit, f'{hangs}\nexec {submit} "$@"', folder, monkeypatch)
    async with running(site, tmp_path, python=sleeping(tmp_path), timeout_s=4) as cluster:
        await cluster.scale(jobs=3)
        await until(lambda: f"{site.name}: {submit} has not answered for 1 s" in events(cluster))
        await until(lambda: f"submit of 3 to pool default failed: {submit} has not answered for 4 s" in events(cluster))
        await until(lambda: phases(cluster) == ["starting"] * 3)
        await rounds(cluster, 3)
        assert {"running": 3} == site.states(cluster.key)
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(folder) in str(each.info["cmdline"])]


async def test_a_queue_that_refuses(site: Site, tmp_path: Path) -> None:
    async with running(site, tmp_path, queue="nowhere") as cluster:
        await cluster.scale(2)
        await until(lambda: site.refusal in events(cluster))
        assert site.refusal in await cluster.explain()
        await rounds(cluster, 3)
        assert 1 == events(cluster).count(site.refusal)


async def test_a_job_that_fails_at_its_start_shows_what_it_printed(site: Site, tmp_path: Path) -> None:
    prologue = ["echo module not found: python/4 >&2; exit 3"]
    async with running(site, tmp_path, job_script_prologue=prologue) as cluster:
        await cluster.scale(1)
        await until(lambda: "module not found: python/4" in events(cluster))
        failed = next(row for row in cluster.status() if row.phase.value == "failed")
        assert "exit code 3" == failed.reason
        assert "module not found: python/4" in await cluster.explain()


OWNER = """
import sys, time
from dask_adaptive import {cluster}

cluster = {cluster}(cores=1, host="127.0.0.1", dashboard_address=None, poll_s=0.5, death_timeout=3,
                    log_directory=sys.argv[1], **{options!r})
cluster.scale(2)
client = cluster.get_client()
client.wait_for_workers(1)
print(cluster.key, flush=True)
time.sleep(600)
"""


async def test_what_is_left_when_the_owner_is_killed_ends_by_itself(site: Site, tmp_path: Path) -> None:
    """Two jobs where there is room for one: one serves and one waits in the queue."""
    text = OWNER.format(cluster=site.cluster.__name__, options=dict(site.alone))
    (tmp_path / "owner.py").write_text(textwrap.dedent(text))
    command = [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "logs")]
    owner = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    key = (await owner.stdout.readline()).decode().strip()
    assert re.fullmatch(r"\w{4}", key)
    await until(lambda: site.states(key) == {"running": 1, "queued": 1})
    owner.kill()
    await owner.wait()
    await until(lambda: site.left(key) == 0, 120)
