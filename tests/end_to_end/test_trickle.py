from __future__ import annotations

import asyncio
import itertools
import time

from distributed import Client

from dask_adaptive import LocalCluster

numbers = itertools.count()


async def test_row_35_a_trickle_does_not_keep_the_whole_cluster() -> None:
    """One short task after another needs one worker, although the scheduler gives them to all in turn."""
    async with LocalCluster(asynchronous=True, dashboard_address=None) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="100 ms", wait_count=5)
        async with Client(cluster, asynchronous=True) as client:
            burst = client.map(time.sleep, 20 * [0.2], pure=False)
            await client.wait_for_workers(2, timeout=120)
            await client.gather(burst)
            del burst
            deadline_s = time.monotonic() + 120
            while len(cluster.scheduler.workers) > 1:
                assert time.monotonic() < deadline_s, cluster.status()
                await trickle(client)
            asked = sum(submit.count for record in cluster.records for submit in record.plan.submits)
            for _ in range(20):
                await trickle(client)
            assert asked == sum(submit.count for record in cluster.records for submit in record.plan.submits)
            assert 1 == len(cluster.scheduler.workers)


async def trickle(client: Client) -> None:
    """One of a kind of its own, and so seldom that one worker is enough on a machine that is slow, too."""
    await client.submit(time.sleep, 0.01, key=f"seldom-{next(numbers)}")
    await asyncio.sleep(0.25)
