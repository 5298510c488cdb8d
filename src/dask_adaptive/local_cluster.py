"""The cluster class for one machine."""

from __future__ import annotations

from typing import Any

from distributed.system import MEMORY_LIMIT

from dask_adaptive.adaptive import Adaptive
from dask_adaptive.cluster import Cluster
from dask_adaptive.config import bytes_of, check_keys, cores_here, count_of
from dask_adaptive.model import Pool

__all__ = ["LocalCluster"]


class LocalCluster(Cluster):
    """A Dask cluster on this machine: worker processes that come and go with the work.

    Parameters
    ----------
    n_workers:
        A fixed number of workers. Default: adaptive, from none to as many as there are cores.
    threads_per_worker:
        Threads of each worker. Default 1.
    memory_limit:
        Memory of each worker, such as ``"2 GB"``; "auto" (default): its share of the machine; None: no limit.
    scheduler_port, host, dashboard_address:
        Where the scheduler listens. Defaults: any free port, this machine only, Dask's usual port 8787; None: no
        dashboard.
    resources, gpus, preload, environment, workers_per_job, local_directory, worker_arguments, death_timeout:
        As of ``PoolOptions``.
    name, security, journal, on_event, silence_logs, asynchronous, loop, quiet:
        As of ``Cluster``.

    Raises
    ------
    ConfigError
        If something was asked for that cannot be; before anything is started.

    Examples
    --------
    >>> cluster = LocalCluster()  # doctest: +SKIP
    >>> client = cluster.get_client()  # doctest: +SKIP
    """

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int = 1,
        memory_limit: str | int | float | None = "auto",
        *,
        scheduler_port: int = 0,
        host: str = "127.0.0.1",
        dashboard_address: str | None = ":8787",
        **options: Any,
    ) -> None:
        threads = count_of("threads_per_worker", threads_per_worker, least=1)
        memory = _share(threads) if memory_limit == "auto" else bytes_of("memory_limit", memory_limit or 0)
        check_keys("option of LocalCluster:", options, _LOCAL_OPTIONS)
        page = dashboard_address or ":0"
        where = {"port": scheduler_port, "host": host, "dashboard": dashboard_address is not None}
        where["dashboard_address"] = host + page if page.startswith(":") else page
        self._adapts = n_workers is None
        super().__init__(
            options.pop("backend", "local"),
            n_workers=n_workers,
            threads=threads,
            memory=memory,
            scheduler_options={**where, **options.pop("scheduler_options", {})},
            **options,
        )

    def default_maximum_jobs(self, pool: Pool) -> int:
        """As many as keep the cores of this machine busy."""
        return max(1, cores_here() // pool.shape.job_threads)

    async def _start(self) -> None:
        await super()._start()
        if self._adapts and self._adaptive is None:
            self._adaptive = Adaptive(self)


_LOCAL_OPTIONS = (
    *("backend", "scheduler_options", "name", "security", "journal", "asynchronous", "loop", "quiet", "silence_logs"),
    *("resources", "gpus", "preload", "environment", "workers_per_job", "local_directory", "worker_arguments"),
    *("death_timeout", "maximum", "minimum", "profile", "on_event"),
    *("n_workers", "threads_per_worker", "memory_limit", "scheduler_port", "host", "dashboard_address"),
)


def _share(threads: int) -> int:
    """A worker's share of this machine's memory, by its threads."""
    return int(MEMORY_LIMIT * min(1.0, threads / cores_here()))
