"""A ``distributed.SpecCluster``, or what derives from it: its ``worker_spec`` maps names to jobs.

A job has one worker, or as many as its ``group`` has suffixes. Jobs are started and closed one by one and not by the
cluster's own ``_correct_state``: that one starts everything under one lock, so that a slow start holds up every other
start and every close, keeps a worker whose start failed for ever, and retires by names where addresses are expected.
``worker_spec`` and ``workers`` always agree, so that it finds nothing to correct.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dask.utils import parse_bytes
from distributed.core import Server, Status
from distributed.deploy.spec import SpecCluster
from distributed.utils import import_term

from dask_adaptive.config import cores_here
from dask_adaptive.foreign import POOL, Members, Seen, Work
from dask_adaptive.model import Load, Member, Shape

__all__ = ["Specified", "Starting", "runs_here", "specified_shape"]

CLOSE_WAIT_S = 30.0
OVER = (Status.closing, Status.closed, Status.failed)

Declare = Callable[[Mapping[str, str]], None]


class Starting:
    """Stands in a cluster's ``workers`` for a worker that is being started; closing waits until that is over."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self._start = asyncio.ensure_future(worker)
        self._start.add_done_callback(_heard)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    async def _ended(self) -> Any:
        await asyncio.wait({self._start})
        return self.worker if self._start.cancelled() else self._start.result()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._ended().__await__()

    async def close(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the start, not for ever; then close the worker, unless it failed and closed itself."""
        await asyncio.wait({self._start}, timeout=CLOSE_WAIT_S)
        self._start.cancel()
        if not (isinstance(self.worker, Server) and self.worker.status in (Status.closed, Status.failed)):
            await self.worker.close(*args, **kwargs)


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody may be left who asks how it ended."""
    if not future.cancelled():
        future.exception()


class Specified:
    """The side of a ``SpecCluster``.

    Parameters
    ----------
    cluster:
        The cluster.
    declare:
        Told which job each worker, by name or address, belongs to.
    """

    one_by_one = False

    def __init__(self, cluster: SpecCluster, declare: Declare) -> None:
        self._cluster: Any = cluster
        self._declare = declare
        self._tokens = {str(token): token for token in cluster.worker_spec}
        self._addresses: dict[str, str] = {}
        self._leaving: dict[str, Any] = {}
        if self._tokens:
            declare(dict(self._declared(self._tokens)))

    def _declared(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        for name in names:
            for suffix in _group(self._cluster.worker_spec[self._tokens[name]]):
                yield name + suffix, name

    @property
    def resized(self) -> str:
        """Whether somebody called ``scale``: the cluster cannot tell us, but its entries are not ours any more."""
        there, ours = len(self._cluster.worker_spec), len(self._tokens)
        return "" if there == ours else f"scale() was called: {there} jobs instead of {ours}"

    def shape(self, load: Load) -> Shape:
        """See ``Side``."""
        return specified_shape(self._cluster, load)

    # --- looking ---

    def jobs(self, members: Members) -> Mapping[str, Seen]:
        """See ``Side``."""
        spec, seen, late = self._cluster.worker_spec, {}, {}
        for name, token in self._tokens.items():
            if token not in spec:
                continue
            workers = len(_group(spec[token]))
            if members.get(name):
                seen[name] = Seen(workers)
                continue
            worker = self._cluster.workers.get(token)
            seen[name] = _unserved(worker, workers)
            address = _address(worker)
            if "://" in address and self._addresses.get(address) != name:
                late[address] = name
        if late:  # its name did not show up: the scheduler may know the worker by another one
            self._addresses.update(late)
            self._declare(late)
        return seen

    # --- growing ---

    def grow(self, count: int, members: Members) -> Work:  # noqa: ARG002
        """See ``Side``. Names are never used twice: the cluster closes after 15 s what has the name of a lost one."""
        begun: list[tuple[str, Any]] = []
        failures: list[Exception] = []
        for _ in range(count):
            ((token, entry),) = self._cluster.new_worker_spec().items()
            self._cluster._i += 1  # noqa: SLF001  where it counts names
            try:
                starting = Starting(_made(self._cluster, token, entry))
            except Exception as error:  # noqa: BLE001  the worker's class is somebody else's
                failures.append(error)
                break
            self._cluster.worker_spec[token], self._cluster.workers[token] = entry, starting
            self._tokens[str(token)] = token
            begun.append((str(token), starting))
        self._declare(dict(self._declared([name for name, _ in begun])))
        yield from (((name,), self._started(name, starting)) for name, starting in begun)
        yield from (((), _raised(error)) for error in failures)

    async def _started(self, name: str, starting: Starting) -> None:
        try:
            worker = await starting
        except Exception:
            if not isinstance(starting.worker, Server):
                with suppress(Exception):
                    await starting.worker.close()
            raise
        worker._cluster = weakref.ref(self._cluster)  # noqa: SLF001  as the cluster itself does
        token = self._tokens.get(name)
        if self._cluster.workers.get(token) is starting:
            self._cluster.workers[token] = starting.worker

    # --- letting go ---

    def handles(self, members: Sequence[Member]) -> tuple[Any, ...]:  # noqa: ARG002
        """See ``Side``: the job's own name says it all."""
        return ()

    def release(self, jobs: Mapping[str, tuple[Any, ...]]) -> Work:
        """See ``Side``."""
        return [((name,), self._close(name)) for name in jobs]

    async def _close(self, name: str) -> None:
        """Close the job; one that could not be closed is kept for the next time."""
        if name in self._tokens:
            self._leaving[name] = self._cluster.workers.get(self._tokens[name])
            self.forget([name])
        worker = self._leaving.get(name)
        if worker is None:  # the cluster itself is starting it, and closes it then
            await self._cluster._correct_state()  # noqa: SLF001
        else:
            await self._to_the_end(worker.close())
        self._leaving.pop(name, None)

    async def _to_the_end(self, closing: Coroutine[Any, Any, Any]) -> None:
        """Close a worker; if we are stopped meanwhile it goes on, and a cluster that closes waits for it."""
        close = asyncio.ensure_future(closing)
        close.add_done_callback(_heard)
        ended = asyncio.ensure_future(asyncio.wait({close}))
        awaited = self._cluster._futures  # noqa: SLF001  what it waits for when it closes
        awaited.add(ended)
        ended.add_done_callback(awaited.discard)
        await asyncio.shield(close)

    def forget(self, names: Iterable[str]) -> None:
        """See ``Side``."""
        for name in names:
            token = self._tokens.pop(name, None)
            self._cluster.worker_spec.pop(token, None)
            self._cluster.workers.pop(token, None)


def _group(entry: Mapping[str, Any]) -> Sequence[str]:
    """The suffixes of a job's workers."""
    group: Sequence[str] = entry.get("group", ("",))
    return group


def _address(worker: Any) -> str:
    """Where a worker listens; empty as long as it does not, which a ``Server`` answers with an error."""
    with suppress(ValueError):
        address = getattr(worker, "worker_address", None) or getattr(worker, "address", None)
        return address if isinstance(address, str) else ""
    return ""


def _unserved(worker: Any, workers: int) -> Seen:
    """A job without registered workers."""
    if worker is None or isinstance(worker, Starting):
        return Seen(workers)
    status: Any = getattr(worker, "status", None)
    over = f"{type(worker).__name__} is {status.name}" if status in OVER else ""
    return Seen(workers, over, queued=not isinstance(worker, Server))


def _made(cluster: Any, token: Any, entry: Mapping[str, Any]) -> Any:
    """The worker of an entry, made as ``SpecCluster`` makes it."""
    kind = import_term(entry["cls"]) if isinstance(entry["cls"], str) else entry["cls"]
    address = getattr(cluster.scheduler, "contact_address", None) or cluster.scheduler.address
    return kind(address, **{"name": token, **entry.get("options", {})})


async def _raised(error: Exception) -> None:
    raise error


# --- shape -----------------------------------------------------------------------------------------------------


def runs_here(cluster: Any) -> bool:
    """Whether the workers run on this machine: Dask's own local cluster."""
    return isinstance(cluster, SpecCluster) and type(cluster).__module__ == "distributed.deploy.local"


def specified_shape(cluster: Any, load: Load) -> Shape:
    """What one job brings: as seen where workers serve, else as the options of new workers say."""
    entry = cluster.new_spec or {}
    options = entry.get("options", {})
    workers = len(_group(entry))
    seen = load.pools.get(POOL)
    if seen is not None and seen.workers > seen.paused and seen.threads:
        threads = max(1, round(seen.threads / (seen.workers - seen.paused)))
        return Shape(workers, threads, seen.memory_bytes // seen.workers, _resources(options, load))
    threads = options.get("nthreads") or int(options.get("cores") or 0) // workers
    threads = threads or (cores_here() if runs_here(cluster) else 1)
    memory = _bytes(options.get("memory_limit")) or _bytes(options.get("memory")) // workers
    return Shape(workers, int(threads), memory, _resources(options, load))


def _resources(options: Mapping[str, Any], load: Load) -> Mapping[str, float]:
    """The resources of a worker; where the options cannot say, whatever one task needs."""
    said = options.get("resources")
    if isinstance(said, Mapping):
        return {str(name): float(amount) for name, amount in said.items()}
    if "nthreads" in options:
        return {}
    return {name: amount for group in load.groups for name, amount in group.need.items()}


def _bytes(value: Any) -> int:
    try:
        return int(parse_bytes(value)) if isinstance(value, str) else int(value or 0)
    except (ValueError, TypeError):
        return 0
