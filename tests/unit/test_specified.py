"""A ``SpecCluster`` as one side of the drop-in: what can be seen of its jobs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from distributed import Worker

from dask_adaptive.model import Member
from dask_adaptive.specified import Specified


def test_a_worker_that_is_still_starting_is_no_error():
    worker = Worker("tcp://127.0.0.1:1", nthreads=1, dashboard=False)
    cluster: Any = SimpleNamespace(worker_spec={0: {"cls": Worker}}, workers={0: worker})
    side = Specified(cluster, lambda jobs: None)
    seen = side.jobs({})
    assert ("", False, 1) == (seen["0"].over, seen["0"].queued, seen["0"].workers)
    assert {"0"} == set(side.jobs({"0": (Member("tcp://127.0.0.1:2", "0"),)}))
