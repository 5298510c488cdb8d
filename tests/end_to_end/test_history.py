"""What one cluster learned, the next one knows."""

from __future__ import annotations

import time
from pathlib import Path

import dask.config

from dask_adaptive import LocalCluster
from dask_adaptive.history import recall


def nap(number: int) -> int:
    time.sleep(0.05)
    return number


def test_the_next_cluster_knows_how_long_tasks_and_starts_took(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    for run in range(2):
        with dask.config.set({"adaptive.history": str(path)}), LocalCluster(dashboard_address=None) as cluster:
            adaptive = cluster.adapt(maximum=1, interval="50 ms")
            with cluster.get_client() as client:
                assert sum(range(10)) == sum(client.gather(client.map(nap, range(10))))
            asked = next(record for record in adaptive.records if record.plan.submits)
            told = asked.plan.submits[0].reason, bool(asked.snapshot.pools["default"].startup.start_s)
        assert (run == 0, run == 1) == ("guessed" in told[0], told[1])
    assert 0.04 < recall(path).durations["nap"]
    assert ["local/default"] == list(recall(path).startups)
