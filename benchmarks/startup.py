"""How long a new worker takes: ``python -m benchmarks.startup``.

The time from asking for n workers until all of them are registered, for our local backend and for
``distributed.LocalCluster`` (one process per worker, growing from nothing), in turns in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from distributed import LocalCluster, Scheduler

from dask_adaptive.backend.local import Local
from dask_adaptive.model import Batch, JobState, Shape, Spec

Grow = Callable[[int], Awaitable[float]]


async def _registered(scheduler: Scheduler, n: int) -> None:
    while len(scheduler.workers) != n:  # noqa: ASYNC110 - the scheduler has no event for it
        await asyncio.sleep(0.002)


async def _ours(stack: AsyncExitStack) -> Grow:
    scheduler = await stack.enter_async_context(
        Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
    )
    backend = Local(grace_s=5)
    stack.push_async_callback(backend.aclose)
    await backend.start()
    ended = asyncio.Event()
    backend.watch(lambda _: ended.set())
    spec = Spec(scheduler.address, Shape(threads=1, memory_bytes=2_000_000_000))

    async def grow(n: int) -> float:
        begin = time.perf_counter()
        ids = await backend.submit(Batch("bench", "default", "startups", n, spec))
        await _registered(scheduler, n)
        took = time.perf_counter() - begin
        await backend.cancel(ids)
        ended.clear()
        while any(job.state is not JobState.ENDED for job in await backend.jobs("bench")):
            await ended.wait()
            ended.clear()
        await _registered(scheduler, 0)
        return took

    return grow


async def _dask(stack: AsyncExitStack) -> Grow:
    cluster = await stack.enter_async_context(
        LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            memory_limit="2 GB",
            processes=True,
            asynchronous=True,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        )
    )

    async def grow(n: int) -> float:
        begin = time.perf_counter()
        cluster.scale(n)
        await _registered(cluster.scheduler, n)
        took = time.perf_counter() - begin
        cluster.scale(0)
        await cluster
        await _registered(cluster.scheduler, 0)
        return took

    return grow


async def measure_async(sizes: Sequence[int] = (1, 4), repeats: int = 3) -> dict[str, Any]:
    """As ``measure``, on a running event loop."""
    async with AsyncExitStack() as stack:
        rivals = {"ours": await _ours(stack), "dask": await _dask(stack)}
        for grow in rivals.values():  # what only the first worker pays: the helper's imports, files not yet cached
            await grow(1)
        times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in sizes} for name in rivals}
        for _ in range(repeats):
            for n in sizes:
                for name, grow in rivals.items():
                    times[name][n].append(await grow(n))
    median = {name: {n: statistics.median(taken) for n, taken in of.items()} for name, of in times.items()}
    ratio = {n: median["dask"][n] / median["ours"][n] for n in sizes}
    return {"times_s": times, "median_s": median, "ratio": ratio}


def measure(sizes: Sequence[int] = (1, 4), repeats: int = 3) -> dict[str, Any]:
    """Seconds, ``times_s`` and ``median_s``, by rival and size; ``ratio``, Dask's over ours, by size."""
    return asyncio.run(measure_async(sizes, repeats))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    found = measure(arguments.sizes, arguments.repeats)
    print(f"{'workers':>8} {'ours':>10} {'LocalCluster':>13} {'times faster':>13}")
    for n in arguments.sizes:
        ours, dask = found["median_s"]["ours"][n], found["median_s"]["dask"][n]
        print(f"{n:>8} {ours:>8.3f} s {dask:>11.3f} s {found['ratio'][n]:>13.1f}")


if __name__ == "__main__":
    main()
