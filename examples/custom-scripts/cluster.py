"""A Dask cluster on commands of one's own: here ``jobs``, a queue of a few lines beside this file."""

from pathlib import Path

from dask_adaptive import CommandCluster

JOBS = str(Path(__file__).parent / "jobs")


def main() -> None:
    with CommandCluster(
        submit_command=[JOBS, "submit", "{tag}", "{count}"],
        list_command=[JOBS, "list"],
        cancel_command=[JOBS, "cancel", "{ids}"],
        cores=1,
    ) as cluster:
        cluster.adapt(minimum=0, maximum=3)
        with cluster.get_client() as client:
            print(sum(client.gather(client.map(lambda x: x * x, range(100)))))
        print(cluster.status())


if __name__ == "__main__":
    main()
