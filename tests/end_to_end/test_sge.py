"""Clusters on a real Grid Engine: what only its users would notice; ``test_batch_systems.py`` has what all would."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Client
from tests.waiting import until

from dask_adaptive.backend import calls

from .sites import OnSge, events, on_sge, phases, running, sleeping
from .worlds import Trace, rounds, workers

pytestmark = pytest.mark.system("sge")


@pytest.fixture
def site() -> Iterator[OnSge]:
    with on_sge() as made:
        yield made


async def test_queued_jobs_are_cancelled_before_running_ones(site: OnSge, tmp_path: Path) -> None:
    async with running(
        site, tmp_path, python=sleeping(tmp_path), job_cores=20, memory="1 GB", walltime="1h"
    ) as cluster:
        await cluster.scale(jobs=4)
        await until(lambda: site.system.states(cluster.key) == {"r": 2, "qw": 2})
        (number,) = site.system.arrays(cluster.key)
        said = site.system.run("qstat", "-j", number)
        assert re.search("parallel environment: +smp range: 20", said)
        assert re.search("hard resource_list: .*h_rt=3600", said)
        assert re.search("hard resource_list: .*mem_free=954M", said)
        await until(lambda: sorted(phases(cluster)) == ["queued"] * 2 + ["starting"] * 2)
        await cluster.scale(jobs=2)
        await until(lambda: site.system.states(cluster.key) == {"r": 2})


async def test_a_job_that_is_deleted_while_it_works_finishes_and_hands_over(site: OnSge, tmp_path: Path) -> None:
    """Grid Engine warns its workers (``-notify``) some time before it kills them."""
    trace = Trace(tmp_path)
    async with running(site, tmp_path, cores=2, processes=2) as cluster, Client(cluster, asynchronous=True) as client:
        await cluster.scale(jobs=2)
        await until(lambda: phases(cluster) == ["ready", "ready"])
        job, _ = (row for row in cluster.status() if row.phase.value == "ready")
        mine = [name for name in workers(cluster) if name.startswith(job.job)]
        working = client.submit(trace.task("slow"), 1, workers=mine[:1], pure=False)
        held = client.submit(os.getpid, workers=mine[1:], pure=False, allow_other_workers=True)
        pid = await held
        await until(lambda: len(trace.runs) == 1)
        site.system.run("qdel", job.id)
        await until(lambda: "its manager told it to end" in reasons(cluster))
        trace.open("slow")
        assert 1 == await working
        await until(lambda: not any(name.startswith(job.job) for name in workers(cluster)))
        assert pid == await held
        assert {"1": 1} == dict(trace.runs)


def reasons(cluster: Any) -> set[str]:
    return {retire.reason for record in cluster.records for retire in record.plan.retires}


async def test_a_job_that_is_started_again_is_the_same_job(site: OnSge, tmp_path: Path) -> None:
    """Where workers are not warned of it; else they would be drained, and the job replaced."""
    async with running(site, tmp_path, directives=["-r y"], directives_skip=["-notify"]) as cluster:
        await cluster.scale(1)
        await until(lambda: phases(cluster) == ["ready"])
        (job,) = (row for row in cluster.status() if row.phase.value == "ready")
        (first,) = workers(cluster)
        site.system.run("qmod", "-rj", job.id)
        await until(lambda: len(workers(cluster)) == 1 and first not in workers(cluster))
        await until(lambda: phases(cluster) == ["ready"])
        assert [(job.job, job.id)] == [(row.job, row.id) for row in cluster.status()]
        (second,) = workers(cluster)
        assert second.startswith(f"{job.job}-0-")


async def test_a_qmaster_that_does_not_answer_is_told_of_and_nothing_is_doubled(
    site: OnSge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says whether the submit was heard: its jobs keep their place a while, and are then asked for again."""
    monkeypatch.setattr(calls, "SLOW_S", 1.0)
    with dask.config.set({"adaptive.unknown-timeout": "5s"}):
        await _frozen(site, tmp_path)


async def _frozen(site: OnSge, tmp_path: Path) -> None:
    async with running(site, tmp_path, python=sleeping(tmp_path), timeout_s=4) as cluster:
        await cluster.scale(jobs=1)
        await until(lambda: phases(cluster) == ["starting"])
        site.system.freeze(True)
        try:
            await cluster.scale(jobs=3)
            await until(lambda: "sge: qstat has not answered for 1 s" in events(cluster))
            await rounds(cluster, 3)
        finally:
            site.system.freeze(False)
        await until(lambda: phases(cluster) == ["starting"] * 3, 120)
        await rounds(cluster, 3)
        assert {"r": 3} == site.system.states(cluster.key)


async def test_a_job_that_cannot_be_started_is_failed_with_the_state_and_does_not_stay(
    site: OnSge, tmp_path: Path
) -> None:
    async with running(site, tmp_path, directives=["-wd /no/such/folder"]) as cluster:
        await cluster.scale(1)
        await until(lambda: "in error state (Eqw)" in events(cluster))
        await cluster.scale(0)
        await until(lambda: site.system.left(cluster.key) == 0)
