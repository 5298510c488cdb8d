"""What goes wrong around a cluster: steps of its end that fail, policies that do what they must not, mistakes."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler
from distributed.core import Status
from tests.fakes.memory import MemoryBackend
from tests.waiting import until

from dask_adaptive import Cluster, ConfigError
from dask_adaptive.engine import DaskEngine
from dask_adaptive.errors import NoCapacity
from dask_adaptive.model import Target, Want

from .worlds import local

# --- the end, whatever fails ------------------------------------------------------------------------------------


class _Stubborn:
    """A backend without jobs that fails at its end."""

    name, lag_s, timeout_s = "stubborn", 0.0, 5.0

    async def submit(self, batch: Any) -> list[Any]:
        raise NoCapacity("none at all")

    async def jobs(self, cluster: str) -> list[Any]:
        return []

    async def cancel(self, ids: Any) -> None:
        pass

    async def log(self, id: Any) -> str:
        return ""

    async def aclose(self) -> None:
        raise OSError("the line is dead")


async def test_a_step_that_fails_does_not_keep_the_rest_from_ending() -> None:
    cluster = await Cluster(_Stubborn(), asynchronous=True, scheduler_options={"dashboard": False})
    for _ in range(2):
        await cluster.close()
    assert (Status.closed, Status.closed) == (cluster.status, cluster.scheduler.status)
    assert any("the line is dead" in str(line) for _, line in cluster._cluster_manager_logs)


class _Odd:
    """A policy that keeps what cannot be kept."""

    def decide(self, view: Any, past: Any) -> Any:
        return Target({pool.pool.name: Want(0, "because") for pool in view.pools}), {"odd": {1, 2}}


async def test_a_policy_that_keeps_what_cannot_be_kept_is_told_and_the_rounds_go_on(tmp_path: Path) -> None:
    async with local(journal=str(tmp_path / "journal")) as (cluster, _):
        cluster.adapt(policy=_Odd())
        await until(lambda: "{1, 2}; only plain JSON values" in cluster.controller.record.error)
        before = cluster.controller.record.at_s
        await until(lambda: cluster.controller.record.at_s > before)


async def test_a_round_that_cannot_be_kept_does_not_end_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with local() as (cluster, _):
        monkeypatch.setattr(cluster.controller.journal, "append", lambda _: 1 / 0)
        before = cluster.controller.record.at_s
        await until(lambda: cluster.controller.record.at_s > before + 1)
        assert "could not be kept" in caplog.text


async def test_a_close_in_the_middle_of_the_start_leaves_nothing_at_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    async def never(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(DaskEngine, "_read_pushes", never)
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as s:
        plugins, handlers = set(s.plugins), dict(s.handlers)
        cluster = Cluster("local", scheduler=s.address, asynchronous=True)
        starting = asyncio.ensure_future(cluster._started())
        await begun.wait()
        await cluster.close()
        with suppress(asyncio.CancelledError):
            await starting
        assert (plugins, handlers) == (set(s.plugins), dict(s.handlers))


async def test_who_was_taken_over_leaves_the_jobs_to_the_other() -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as s:
        shared = MemoryBackend(time.monotonic)
        options = {"scheduler": s.address, "name": "study", "asynchronous": True}
        one = await Cluster(shared, n_workers=2, **options)
        await until(lambda: len(shared.alive()) == 2)
        two = await Cluster(shared, **options)
        await until(lambda: two.controller.record and len(two.controller.record.snapshot.lives) == 2)
        await until(lambda: one.engine.ousted)
        await one.close()
        assert 2 == len(shared.alive())
        await two.close()
        assert 0 == len(shared.alive())


# --- a user's mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda c: c.scale(-1), "^n must be at least 0"),
        (lambda c: c.scale(jobs=-1), "^jobs must be at least 0"),
        (lambda c: c.scale(memory="32 gigs"), "^memory"),
        (lambda c: c.scale(cores=float("nan")), "^cores must be"),
        (lambda c: c.adapt(3), "keywords"),
        (lambda c: c.adapt(pools=3), "pools= maps names of pools"),
        (lambda c: c.adapt(policy="fixed"), "what scale does"),
        (lambda c: c.adapt(policy="doubling", target_duration="5s"), "target_duration= is for the policy"),
    ],
)
async def test_a_mistake_is_told_by_the_name_that_was_said(ask: Any, words: str) -> None:
    async with local() as (cluster, _):
        with pytest.raises(ConfigError, match=words):
            ask(cluster)


async def test_memory_without_a_unit_is_not_a_few_bytes() -> None:
    with pytest.raises(ConfigError, match="memory=4 is 4 bytes, in which no worker starts"):
        Cluster("local", memory=4, asynchronous=True)


async def test_a_closed_cluster_says_so() -> None:
    async with local() as (cluster, _):
        pass
    assert (await cluster.explain()).startswith("The cluster is closed; this was its last state.")
    with pytest.raises(ConfigError, match="closed; nothing runs on it"):
        await cluster.record("never.json")
