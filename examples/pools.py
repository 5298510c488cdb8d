"""Two kinds of worker: work goes to the cheapest that can run it."""

from __future__ import annotations

from dask_adaptive import Cluster

POOLS = {
    "plain": {"threads": 1, "maximum": 2},
    "licensed": {"threads": 1, "resources": {"licence": 1}, "price": 5, "maximum": 1},
}


def main() -> None:
    with Cluster(pools=POOLS, scheduler_options={"dashboard": False}) as cluster, cluster.get_client() as client:
        cluster.adapt()
        plain = client.map(abs, range(-10, 0))
        licensed = client.submit(max, 3, 4, resources={"licence": 1})
        print(sum(client.gather(plain)), licensed.result())
        print(cluster.status())


if __name__ == "__main__":
    main()
