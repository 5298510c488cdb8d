"""Clusters made from files, really; and real troubles, told to hooks."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Scheduler
from tests.waiting import until

from dask_adaptive import connect
from dask_adaptive.alerts import Event
from dask_adaptive.backend.local import Local
from dask_adaptive.description import flagged, read
from dask_adaptive.errors import Throttled
from dask_adaptive.model import Batch, JobId

from .test_heads import command, mark, soon, up  # noqa: F401  ``mark`` is a fixture
from .worlds import alive, own, rounds, workers

MIXED = """\
name: mixed
interval: 50 ms
wait-count: 2
scheduler: {dashboard: false}
maximum: 2
pools:
  base:
    minimum: 1
    maximum: 1
  gpu:
    environment: {KIND: gpu}
    resources: {chip: 1}
    grace-s: 1
    price: 4
"""


def kind_here() -> str:
    return os.environ.get("KIND", "base")


async def test_two_backends_in_one_cluster_from_a_file(tmp_path: Path) -> None:
    """A baseline that stays, and a pool of another backend that comes for the work that needs it, and goes."""
    path = tmp_path / "mixed.yaml"
    path.write_text(MIXED, encoding="utf-8")
    async with read(path).cluster(asynchronous=True) as cluster, Client(cluster, asynchronous=True) as client:
        await until(lambda: len(workers(cluster)) == 1)
        assert "base" == await client.submit(kind_here, pure=False)
        special = client.map(lambda _: kind_here(), range(3), resources={"chip": 1}, pure=False)
        assert ["gpu"] * 3 == await client.gather(special)
        first, second = {id(setup.backend): setup.backend for setup in cluster._jobs.setups.values()}.values()
        assert [5.0, 1] == [first.grace_s, second.grace_s]
        del special
        await until(lambda: len(alive(cluster)) == len(workers(cluster)) == 1)
        assert "base" == await client.submit(kind_here, pure=False)


async def test_a_budget_is_hard_and_told_of_to_a_function_and_to_a_command(tmp_path: Path) -> None:
    """Where it is spent even a minimum ends."""
    told: list[Event] = []
    file = tmp_path / "told.json"
    script = f"import sys; open({str(file)!r}, 'a').write(sys.stdin.read())"
    description = flagged(minimum=1, maximum=1, interval="50 ms", budget=1e-6, scheduler={"dashboard": False})
    hooks = [told.append, [sys.executable, "-c", script]]
    async with description.cluster(asynchronous=True, on_event=hooks, name="spender") as cluster:
        await until(lambda: told)
        await until(lambda: cluster.records and "worker-hours spent: nothing new" in why(cluster))
        await until(lambda: not alive(cluster))
        assert [("budget-reached", "spender", "")] == [(event.kind, event.cluster, event.pool) for event in told]
    assert told[0].sentence in file.read_text(encoding="utf-8")


def why(cluster: Any) -> str:
    return cluster.records[-1].target.pools["default"].reason


class Busy(Local):
    """A manager that sends the first three batches away."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        if self.refused < 3:
            self.refused += 1
            raise Throttled("come again later", retry_after_s=0.5)
        return await super().submit(batch)


async def test_a_broken_pool_is_told_of_and_a_hook_that_fails_is_in_the_journal() -> None:
    told: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError(f"nobody reads {event.kind}")

    async with own(Busy(), on_event=[told.append, fail]) as cluster:
        await cluster.scale(1)
        await until(lambda: len(told) == 2)
        assert [("pool-broken", "default"), ("pool-mended", "default")] == [(each.kind, each.pool) for each in told]
        assert told[0].sentence.endswith("3 failures in a row; the last: come again later")
        await until(lambda: blamed(cluster))
        await rounds(cluster)
        (sentence,) = blamed(cluster)
        assert "nobody reads pool-broken" in sentence


def blamed(cluster: Any) -> list[str]:
    return [event for record in cluster.records for event in record.events if "said once" in event]


async def test_a_lost_scheduler_is_told_of_to_the_configured_hook(tmp_path: Path) -> None:
    file = tmp_path / "told.json"
    script = f"import sys; open({str(file)!r}, 'a').write(sys.stdin.read())"
    hook = {"adaptive.on-event": [sys.executable, "-c", script]}
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        with dask.config.set(hook):
            cluster = own(scheduler=scheduler.address)
        async with cluster:
            await until(lambda: cluster.records)
            await scheduler.close()
            await until(lambda: file.exists() and file.read_text(encoding="utf-8"))
            event = Event(**json.loads(file.read_text(encoding="utf-8")))
            assert ("scheduler-lost", cluster.name) == (event.kind, event.cluster)
            assert "the scheduler cannot be asked" in event.sentence


def test_a_lost_head_is_told_of_to_who_joined_it_and_when_it_is_reaped(mark: str, tmp_path: Path) -> None:  # noqa: F811
    """Whoever joined it hears when it stops to answer; the hooks of its file hear when it is cleaned up."""
    told: list[Event] = []
    file, site = tmp_path / "told.json", tmp_path / "site.yaml"
    script = f"import sys; open({str(file)!r}, 'a').write(sys.stdin.read())"
    site.write_text(f"on-event: {json.dumps([sys.executable, '-c', script])}\n", encoding="utf-8")
    pid = up("doomed", "--config", str(site))
    with connect("doomed", on_event=told.append):
        os.kill(pid, signal.SIGKILL)
        soon(lambda: told)
    assert [("head-lost", "doomed")] == [(event.kind, event.cluster) for event in told]
    assert not file.exists()
    done = command("reap", "doomed")
    assert 0 == done.exit_code, done.output
    event = Event(**json.loads(file.read_text(encoding="utf-8")))
    assert ("head-lost", "doomed") == (event.kind, event.cluster)
