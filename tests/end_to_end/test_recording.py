"""What really ran, written down, and run again in the simulator."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from operator import add
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import Client, Scheduler
from distributed import LocalCluster as DaskLocalCluster
from tests.waiting import LIMIT_S

from dask_adaptive import Cluster, ConfigError
from dask_adaptive.errors import EngineError
from dask_adaptive.recording import Recording
from dask_adaptive.show.cli import adaptive
from dask_adaptive.sim.recorded import is_recorded, read_recorded

HERE = {"dashboard_address": ":0", "protocol": "tcp"}


def load(i: int) -> int:
    time.sleep(0.05)
    return i


def work(client: Client) -> int:
    """Eight loads, four sums of two, and one of all; then, after a look at it, three more."""
    loads = client.map(load, range(8), pure=False)
    sums = [client.submit(add, loads[2 * i], loads[2 * i + 1], pure=False) for i in range(4)]
    total = int(client.submit(sum, sums, pure=False).result(LIMIT_S))
    time.sleep(0.5)
    client.gather(client.map(load, range(3), pure=False))
    return total


def test_a_run_is_recorded_group_by_group_and_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with (
        Cluster("local", n_workers=2, scheduler_options={"dashboard": False}) as cluster,
        cluster.get_client() as client,
    ):
        client.wait_for_workers(2)
        cluster.record(str(path))
        with pytest.raises(ConfigError, match="already"):
            cluster.record(str(path))
        assert 28 == work(client)
    assert is_recorded(path)
    workload = read_recorded(path)
    first, second = workload.graphs
    assert (13, 3) == (len(first), len(second))
    assert {"load": 8, "add": 4, "sum": 1} == {
        group.prefix: sum(each == i for each in first.group) for i, group in enumerate(first.groups)
    }
    parents = {group.prefix: set() for group in first.groups}
    for task, each in enumerate(first.group):
        parents[first.groups[each].prefix].add(len(first.parents[task]))
    assert {"load": {0}, "add": {2}, "sum": {4}} == parents
    assert all(took_s >= 0.05 for took_s, each in zip(first.run_s, first.group, strict=True) if not each)
    assert [False, True] == [release.thinking for release in workload.releases]
    assert workload.releases[1].wait_s > 0.3
    result = CliRunner().invoke(adaptive, ["simulate", str(path), "--policy", "target-duration", "--seeds", "1"])
    assert 0 == result.exit_code, result.output
    assert "target-duration" in result.output


async def test_a_file_that_cannot_be_written_leaves_nothing_in_the_scheduler(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        Recording(tmp_path, "tcp://127.0.0.1:1")
    folder = tmp_path / "runs"
    folder.mkdir()
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
        before = set(scheduler.plugins), set(scheduler.handlers)
        recording = Recording(folder / "run.json", scheduler.address)
        await recording.start()
        assert before[0] < set(scheduler.plugins)
        folder.rmdir()
        with pytest.raises(EngineError, match=r"run\.json cannot be written: No such file or directory"):
            await recording.stop()
        assert before == (set(scheduler.plugins), set(scheduler.handlers))


def test_the_command_records_any_scheduler_until_it_is_told_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with (
        DaskLocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", protocol="tcp"
        ) as it,
        Client(it) as client,
    ):
        command = [sys.executable, "-m", "dask", "adaptive", "record", it.scheduler_address, "-o", str(path)]
        recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert recorder.stderr is not None
        assert "recording what runs on" in recorder.stderr.readline()
        work(client)
        recorder.send_signal(signal.SIGINT)
        out, err = recorder.communicate(timeout=LIMIT_S)
        assert (0, "") == (recorder.returncode, err)
        assert out.startswith("16 tasks recorded")
        plugins = client.run_on_scheduler(lambda dask_scheduler: [str(name) for name in dask_scheduler.plugins])
        assert [] == [name for name in plugins if "recorder" in name]
    assert 16 == read_recorded(path).tasks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tcp://127.0.0.1:9", "-o", "/no/folder/run.json"], "cannot be written"),
        (["no-such-cluster"], "no-such-cluster"),
        (["foo://x"], "'foo://x' is no address of a scheduler"),
        (["tcp://127.0.0.1"], "'tcp://127.0.0.1' is no address of a scheduler"),
        (["tcp://127.0.0.1:9", "--for", "soon"], "--for"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(adaptive, ["record", *arguments])
    assert 2 == result.exit_code
    assert said in result.output


def recorded(graph: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A recording of one small graph, and of one more like it that says otherwise."""
    group = {"tasks": 1, "run_s": [1.0], "nbytes": 0, "done": 1, "after": {}, "need": {}, "prefix": "a"}
    small = {"at_s": 0.0, "ended_s": 1.0, "groups": {"a": group}}
    other = {**small, "groups": {"a": {**group, **changes}}, **(graph or {})}
    return json.dumps({"format": "dask-adaptive run 1", "graphs": [small, other]})


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "dask-adaptive run 1"}',
        '{"format": "dask-adaptive run 1", "graphs": []}',
        '{"format": "dask-adaptive run 1", "graphs": [{"groups": {"a": {}}}]}',
        '{"format": "dask-adaptive run 2", "graphs": []}',
        '{"format": "dask-adaptive run 1", ',
        recorded(need={"x": "y"}),
        recorded(run_s=[1e300]),
        recorded({"at_s": 1e300, "ended_s": 1e300}),
    ],
)
def test_a_file_that_is_no_recording_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert is_recorded(path)
    result = CliRunner().invoke(adaptive, ["simulate", str(path)])
    assert 2 == result.exit_code
    assert "run.json: " in result.output


def test_a_file_that_cannot_be_read_is_no_recording(tmp_path: Path) -> None:
    assert not is_recorded(tmp_path)
