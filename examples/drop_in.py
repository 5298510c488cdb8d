"""Our policy on somebody else's cluster: here Dask's own ``LocalCluster``, with its workers in this process."""

from __future__ import annotations

import distributed

from dask_adaptive import Adaptive


def main() -> None:
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        adaptive = cluster.adapt(Adaptive=Adaptive, minimum=0, maximum=2)
        with distributed.Client(cluster) as client:
            print(sum(client.gather(client.map(abs, range(-10, 0)))))
        for _, entry in adaptive.log:
            print(entry["status"], entry["reason"])


if __name__ == "__main__":
    main()
