"""What other people's tools expect of a cluster: dask-labextension, dask-ctl, notebooks, ``Client``."""

from __future__ import annotations

import inspect
import json
import textwrap
from importlib.metadata import entry_points

import dask.distributed
import nbformat
import pytest
from dask_labextension.manager import DaskClusterManager
from dask_labextension.tests import test_manager
from distributed import Client
from distributed.core import Status
from nbclient import NotebookClient

from dask_adaptive import LocalCluster

THEIRS = [name for name, member in inspect.getmembers(test_manager, callable) if name.startswith("test_")]


class Factory(LocalCluster):
    """Our class under the name and with the argument that their tests use."""

    def __init__(self, *, processes: bool, **options: object) -> None:
        assert processes is False
        super().__init__(memory_limit="200 MB", dashboard_address=None, **options)


@pytest.mark.parametrize("name", THEIRS)
def test_labextensions_own_manager_tests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask.distributed, "LocalCluster", Factory)
    getattr(test_manager, name)()


async def test_row_53_the_sidebar_gets_json(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = {"module": "dask.distributed", "class": "LocalCluster", "args": [], "kwargs": {"processes": False}}
    monkeypatch.setattr(dask.distributed, "LocalCluster", Factory)
    with dask.config.set({"labextension": {"initial": [], "default": {"adapt": {"minimum": 0}}, "factory": factory}}):
        async with DaskClusterManager() as manager:
            model = await manager.start_cluster()
            assert json.loads(json.dumps(model, allow_nan=False)) == model
            assert model["adapt"]["minimum"] == 0
            assert model["adapt"]["maximum"] >= 1


async def test_row_49_the_sidebars_scale_is_not_undone() -> None:
    async with LocalCluster(memory_limit="200 MB", dashboard_address=None, asynchronous=True) as cluster:
        cluster.adapt(minimum=0, maximum=4, interval="50ms", wait_count=1)
        await cluster.scale(2)
        await cluster._wait_for_workers(2)
        reasons = []
        while len(reasons) < 5:
            record = await cluster.controller.step()
            reasons.append(record.target.pools["default"].reason)
        assert reasons == ["2 jobs asked for"] * 5
        assert len(cluster.scheduler_info["workers"]) == 2


async def test_dask_ctl_would_find_it_by_its_name() -> None:
    """Its entry point and class method; dask-ctl 2024.1 itself does not import beside any ``distributed`` of today."""
    [point] = entry_points(group="dask_cluster_discovery", name="dask-adaptive")
    async with LocalCluster(0, name="found-by-ctl", dashboard_address=None, asynchronous=True) as cluster:
        found = {name: kind async for name, kind in point.load()()}
        assert found["found-by-ctl"].from_name("found-by-ctl") is cluster
    assert "found-by-ctl" not in {name async for name, _ in point.load()()}


async def test_the_status_is_dasks_and_a_table() -> None:
    async with LocalCluster(0, dashboard_address=None, asynchronous=True) as cluster:
        assert cluster.status == Status.running
        assert cluster.status in (Status.running, Status.closed)
        assert cluster.status.name == "running"
        assert str(cluster.status()) == "no jobs"
        async with Client(cluster, asynchronous=True) as client:
            assert client.cluster is cluster
    assert cluster.status == Status.closed


def test_a_notebook_shows_it_live() -> None:
    cells = """
        from dask_adaptive import LocalCluster
        cluster = LocalCluster(n_workers=1, memory_limit="200 MB", dashboard_address=None, name="in-a-notebook")
        cluster.wait_for_workers(1)
        ---
        cluster
        ---
        widget = cluster._widget()
        import time
        while "1 " not in widget.children[0].value:
            time.sleep(0.05)
        print(widget.children[0].value)
        cluster.close()
    """
    sources = textwrap.dedent(cells).split("---")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.strip()) for source in sources])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = notebook.cells[1].outputs[0].data
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert "in-a-notebook" in shown["text/html"]
    assert shown["text/plain"].startswith("LocalCluster(in-a-notebook")
    assert "in-a-notebook" in notebook.cells[2].outputs[0].text
