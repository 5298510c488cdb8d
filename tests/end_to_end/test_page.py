"""The page on the Dask dashboard in a real browser, and the metrics: with a scheduler here and one far away."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import dask.config
import pytest
from distributed import Client, Scheduler
from tests.unit.records import burst
from tests.waiting import LIMIT_S, until

from dask_adaptive import Adaptive, Cluster
from dask_adaptive.engine.dask_side import DaskEngine
from dask_adaptive.show.bulletin import Ledger

from .browser import browser

pytest.importorskip("bokeh")
prometheus = pytest.importorskip("prometheus_client.parser")

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"

WITHOUT_US = """
import sys
sys.modules["dask_adaptive"] = None
from distributed.cli.dask_scheduler import main
main()
"""
"""A ``dask scheduler`` on whose machine this package is not installed."""


LINKS = """
(() => {
  const found = [];
  const walk = node => {
    if (node.nodeName === "A" && node.href.includes("info/logs/")) found.push(node.href);
    if (node.shadowRoot) walk(node.shadowRoot);
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return found;
})()
"""
"""Every link to a log on the page."""


async def read(url):
    return (await asyncio.to_thread(lambda: urlopen(url, timeout=LIMIT_S).read())).decode()


def samples(text):
    """Every metric of ours: name and labels -> value."""
    families = prometheus.text_string_to_metric_families(text)
    found = [sample for family in families for sample in family.samples if sample.name.startswith("dask_adaptive_")]
    values = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in found}
    assert len(values) == len(found)
    return values


@asynccontextmanager
async def scheduler_here(dashboard=True):
    async with Scheduler(host="127.0.0.1", port=0, dashboard=dashboard, dashboard_address="127.0.0.1:0") as scheduler:
        yield scheduler, f"http://127.0.0.1:{scheduler.http_server.port}/"


@asynccontextmanager
async def telling(scheduler, bulletin, key="abcd"):
    """An engine that has published this."""
    engine = DaskEngine(scheduler.address, key=key)
    engine.publish(lambda: bulletin)
    await until(lambda: heard(scheduler, bulletin["cluster"]))
    try:
        yield engine
    finally:
        await engine.aclose()


async def heard(scheduler, cluster):
    return any(getattr(plugin, "bulletin", {}).get("cluster") == cluster for plugin in scheduler.plugins.values())


def bulletin_of(records, name="mine", logs=False, **changes):
    ledger = Ledger(name, logs=logs)
    for each in records:
        ledger.take(each)
    return {**ledger.bulletin({"default": {"submit": 2}}), **changes}


@pytest.fixture
def remote(tmp_path: Path):
    """Address of a scheduler process with a dashboard that cannot import our package, and the dashboard's."""
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    command = [sys.executable, "-c", WITHOUT_US, *options, "--scheduler-file", str(file)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + LIMIT_S
            while not file.exists() or not file.read_text().endswith("}"):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            identity = json.loads(file.read_text())
            yield identity["address"], f"http://127.0.0.1:{identity['services']['dashboard']}/"
        finally:
            process.terminate()
            process.wait(LIMIT_S)


@pytest.mark.system("chromium")
async def test_a_running_cluster_is_seen_on_the_dashboard_of_a_remote_scheduler(remote, tmp_path):
    address, url = remote
    (tmp_path / "profile").mkdir()
    async with Cluster(scheduler=address, name="seen", maximum=2, asynchronous=True) as cluster:
        cluster.adapt(minimum=1, maximum=2)
        async with Client(address, asynchronous=True) as client, browser(tmp_path / "profile") as tab:
            await tab.open(f"{url}adaptive")
            await tab.until("No cluster" if not cluster.records else "Adaptive")
            assert [1, 2, 3] == await client.gather(client.map(lambda x: x + 1, range(3)))
            seen = await tab.until("seen", "1 ready", "Pools", "0 → 1", "Decisions", "Jobs", "Status Workers Tasks")
            job = next(iter(cluster.controller.record.snapshot.lives))
            assert job in seen
            assert "1 to 2" in seen
            assert [] == await tab.evaluate(LINKS)  # logs are for those whom the owner lets see them
            assert 2 == await tab.evaluate("Bokeh.documents[0].roots()[0].children.filter(c => c.x_range).length")
            assert "Adaptive" in await read(f"{url}status")
            await tab.open(f"{url}{json.loads(await read(f'{url}individual-plots.json'))['Individual Adaptive'][1:]}")
            await tab.until("1 ready", "Pools")
        metrics = told_of(samples(await read(f"{url}metrics")), {"cluster": "seen", "pool": "default"})
        assert 1 == metrics["dask_adaptive_jobs", "ready"]
        assert 2 == metrics[("dask_adaptive_jobs_maximum",)]
    assert {} == samples(await read(f"{url}metrics"))
    assert "Individual Adaptive" not in await read(f"{url}individual-plots.json")
    assert "dask_scheduler_workers" in await read(f"{url}metrics")


@pytest.mark.system("chromium")
async def test_whatever_is_said_is_shown_as_text(tmp_path):
    job = [HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, 1000.0, HOSTILE]
    pools = {HOSTILE: bulletin_of(burst())["pools"]["default"] | {"why": HOSTILE, "broken": HOSTILE, "stale": HOSTILE}}
    decision = [1, 1000.0, HOSTILE, 0, 1, HOSTILE]
    logs = {"logs": {HOSTILE: HOSTILE}, "addresses": {}, "declined": [HOSTILE], "impossible": [HOSTILE]}
    changes = {"error": HOSTILE, "pools": pools, "jobs": [job], "decisions": [decision], **logs}
    hostile = bulletin_of(burst(), **changes, cluster=HOSTILE)
    async with scheduler_here() as (scheduler, url), telling(scheduler, hostile), browser(tmp_path) as tab:
        for page in ("adaptive", "individual-adaptive"):
            await tab.open(f"{url}{page}")
            seen = await tab.until("Considered and not done")
            assert seen.count(HOSTILE) >= 12
            assert "Dask: Adaptive" == await tab.evaluate("document.title")


@pytest.mark.system("chromium")
async def test_logs_are_reached_where_the_owner_says_so(tmp_path):
    with dask.config.set({"adaptive.page-logs": True}):
        cluster = Cluster(n_workers=1, asynchronous=True, scheduler_options={"dashboard_address": "127.0.0.1:0"})
    async with cluster, browser(tmp_path) as tab:
        await tab.open(cluster.dashboard_link.removesuffix("status") + "adaptive")
        await tab.until("1 ready", " log ")
        (link,) = await tab.evaluate(LINKS)
        await tab.open(link)
        await tab.until("distributed.worker - INFO - Registered to")


@pytest.mark.system("chromium")
async def test_a_silent_controller_is_told_and_its_past_is_kept(tmp_path):
    async with scheduler_here() as (scheduler, url), browser(tmp_path) as tab:
        async with telling(scheduler, bulletin_of(burst()[:6])) as first:
            page = next(plugin for plugin in scheduler.plugins.values() if hasattr(plugin, "bulletin"))
            page.heard -= 60
            await tab.open(f"{url}adaptive")
            await tab.until("mine", "the controller has said nothing for 6")
            async with telling(scheduler, bulletin_of(burst(), name="next")):  # of the same key: it takes over
                await tab.until("next")
                assert "the controller has said nothing" not in await tab.until("next")
                (now,) = [plugin for plugin in scheduler.plugins.values() if hasattr(plugin, "bulletin")]
                assert [point[0] for point in page.points] == [point[0] for point in now.points[:1]]
            await first.aclose()
        await tab.open(f"{url}status")
        assert "adaptive" not in (await read(f"{url}status"))


async def test_every_metric():
    async with scheduler_here(dashboard=False) as (scheduler, url), telling(scheduler, bulletin_of(burst()[:5])):
        found = samples(await read(f"{url}metrics"))
    assert {
        ("dask_adaptive_jobs", "ready"): 2,
        ("dask_adaptive_jobs_wanted",): 2,
        ("dask_adaptive_jobs_minimum",): 0,
        ("dask_adaptive_jobs_maximum",): 8,
        ("dask_adaptive_workers",): 2,
        ("dask_adaptive_price",): 1,
        ("dask_adaptive_worker_seconds_total",): 6,
        ("dask_adaptive_spend_total",): 6,
        ("dask_adaptive_jobs_submitted_total",): 2,
        ("dask_adaptive_jobs_failed_total",): 0,
        ("dask_adaptive_pool_broken",): 0,
        ("dask_adaptive_decisions_total", "more"): 1,
        ("dask_adaptive_decisions_total", "fewer"): 0,
        ("dask_adaptive_backend_errors_total", "submit"): 2,
    } == told_of(found, {"cluster": "mine", "pool": "default"})
    assert {
        ("dask_adaptive_tasks", "waiting"): 0,
        ("dask_adaptive_tasks", "ready"): 2,
        ("dask_adaptive_tasks", "running"): 2,
        ("dask_adaptive_rounds_total",): 5,
        ("dask_adaptive_round_errors_total",): 0,
    } == {key: value for key, value in told_of(found, {"cluster": "mine"}).items() if "silent" not in key[0]}


def told_of(found, labels):
    """Name and the values of its other labels -> value, of the samples with these labels."""
    mine = {}
    for (name, *pairs), value in found.items():
        if labels.items() <= dict(pairs).items() and ("pool" in dict(pairs)) == ("pool" in labels):
            mine[(name, *(each for key, each in pairs if key not in labels))] = value
    return mine


async def test_two_clusters_on_one_scheduler_are_told_apart_and_go_one_by_one():
    async with scheduler_here() as (scheduler, url), telling(scheduler, bulletin_of(burst(), "one"), "aaaa"):
        async with telling(scheduler, bulletin_of(burst(), "two"), "bbbb"):
            assert {"one", "two"} == clusters_in(await read(f"{url}metrics"))
        assert {"one"} == clusters_in(await read(f"{url}metrics"))
        assert "No cluster" not in await read(f"{url}adaptive")


def clusters_in(text):
    return {dict(labels)["cluster"] for _, *labels in samples(text)}


async def test_without_a_dashboard_there_is_no_page():
    async with scheduler_here(dashboard=False) as (scheduler, url), telling(scheduler, bulletin_of(burst())):
        with pytest.raises(OSError, match="404"):
            await read(f"{url}adaptive")


async def test_without_prometheus_the_page_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with scheduler_here() as (scheduler, url), telling(scheduler, bulletin_of(burst())):
        assert "Adaptive" in await read(f"{url}adaptive")
        monkeypatch.undo()
        assert {} == samples(await read(f"{url}metrics"))


async def test_nothing_of_ours_stays_behind():
    async with scheduler_here() as (scheduler, url):
        await read(f"{url}status")  # Dask's own pages bring plug-ins
        before = set(scheduler.handlers), set(scheduler.plugins), list(scheduler.http_application.applications)
        async with telling(scheduler, bulletin_of(burst())):
            assert "adaptive" in await read(f"{url}status")
        after = set(scheduler.handlers), set(scheduler.plugins), list(scheduler.http_application.applications)
        assert before == after
        assert "adaptive" not in await read(f"{url}status")


async def test_somebody_elses_cluster_tells_too():
    from distributed import LocalCluster

    kind = {"processes": False, "n_workers": 0, "dashboard_address": "127.0.0.1:0"}
    async with LocalCluster(**kind, name="theirs", asynchronous=True) as cluster:
        adaptive = cluster.adapt(Adaptive=Adaptive, minimum=1, maximum=2)
        url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/"

        async def told():
            metrics = told_of(samples(await read(f"{url}metrics")), {"cluster": "theirs", "pool": "default"})
            return 1 == metrics.get(("dask_adaptive_jobs_minimum",))

        await until(told)
        adaptive.stop()


async def test_a_cluster_can_keep_it_all_to_itself():
    with dask.config.set({"adaptive.page": False}):
        cluster = Cluster(name="shy", asynchronous=True, scheduler_options={"dashboard_address": "127.0.0.1:0"})
    async with cluster:
        await until(lambda: asyncio.sleep(0, bool(cluster.records)))
        assert not await heard(cluster.scheduler, "shy")
        assert [] == [name for name in cluster.scheduler.plugins if name.endswith("-page")]


async def test_a_scheduler_that_forgot_the_page_gets_it_again():
    async with scheduler_here() as (scheduler, url), telling(scheduler, bulletin_of(burst())) as engine:
        page = next(plugin for plugin in scheduler.plugins.values() if hasattr(plugin, "bulletin"))
        page.stop()
        assert not await heard(scheduler, "mine")
        engine.publish(lambda: bulletin_of(burst(), "again"))
        await until(lambda: heard(scheduler, "again"))
        assert "Adaptive" in await read(f"{url}adaptive")


async def test_many_bulletins_become_few_and_the_last_one_arrives():
    asked = []

    def numbered(number):
        def make():
            asked.append(number)
            return bulletin_of(burst(), f"number {number}")

        return make

    async with scheduler_here(dashboard=False) as (scheduler, _), telling(scheduler, bulletin_of(burst())) as engine:
        for number in range(1000):
            engine.publish(numbered(number))
        await until(lambda: heard(scheduler, "number 999"))
        assert [999] == asked


async def test_what_cannot_be_told_harms_nobody(caplog):
    engine = DaskEngine("tcp://127.0.0.1:9", key="abcd", timeout_s=1.0)
    engine.publish(lambda: bulletin_of(burst()))
    await asyncio.sleep(0.2)
    engine.publish(lambda: {}["no such key"])
    await until(lambda: asyncio.sleep(0, "A bulletin could not be published" in caplog.text))
    await engine.aclose()
