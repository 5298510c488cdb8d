"""Work in bursts: the cluster comes, goes, and tells why."""

from __future__ import annotations

import time

from dask_adaptive import LocalCluster


def simulate(seed: int) -> int:
    time.sleep(0.05)
    return seed % 7


def main() -> None:
    with LocalCluster(dashboard_address=None) as cluster, cluster.get_client() as client:
        cluster.adapt(minimum=0, maximum=2, interval="200 ms", wait_count=2)
        for burst in range(2):
            total = sum(client.gather(client.map(simulate, range(20), pure=False)))
            print(f"burst {burst}: {total}, {len(client.scheduler_info()['workers'])} workers")
            while any(row.workers for row in cluster.status()):  # somebody thinks; the cluster is given back
                time.sleep(0.1)
        for record in cluster.records:
            for submit in record.plan.submits:
                print(f"{submit.count} more: {submit.reason}")
            for retire in record.plan.retires:
                print(f"{retire.job} goes: {retire.reason}")


if __name__ == "__main__":
    main()
