"""A job that its manager is about to kill says so, is drained, and is replaced: nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from dask_adaptive import Cluster
from dask_adaptive.backend import _leaving

PATIENCE_S = 60.0


def slow(path: str) -> int:
    """Note that this ran, and take a while."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    time.sleep(3)
    return os.getpid()


def test_a_worker_that_is_told_to_end_finishes_hands_over_and_is_replaced(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with (
        Cluster("local", n_workers=1, preload=_leaving.__file__, scheduler_options={"dashboard": False}) as cluster,
        cluster.get_client() as client,
    ):
        held = client.submit(os.getpid, pure=False)
        pid = held.result(PATIENCE_S)
        running = client.submit(slow, str(runs), pure=False)
        deadline = time.monotonic() + PATIENCE_S
        while not runs.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(pid, signal.SIGTERM)
        assert pid == running.result(PATIENCE_S)
        assert "ran\n" == runs.read_text()
        other = client.submit(os.getpid, pure=False).result(PATIENCE_S)
        assert pid != other
        assert pid == held.result(PATIENCE_S)
        reasons = {retire.reason for record in cluster.records for retire in record.plan.retires}
        assert {"its manager told it to end"} == reasons


def test_nobody_who_drains_means_ending_at_once() -> None:
    with Cluster("local", n_workers=1, preload=_leaving.__file__, scheduler_options={"dashboard": False}) as cluster:
        with cluster.get_client() as client:
            pid = client.submit(os.getpid).result(PATIENCE_S)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE_S
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
