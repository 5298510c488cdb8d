"""What the head process runs: a cluster, until somebody asks it to end, its scheduler ends, or nobody needs it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dask.config
from distributed.security import Security

import dask_adaptive
from dask_adaptive.cluster import Cluster
from dask_adaptive.controller import clock
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, ConfigError
from dask_adaptive.head.control import Control
from dask_adaptive.head.state import Entry, Running, this_process
from dask_adaptive.model import Load, Record

__all__ = ["PAGES", "is_idle", "main", "serve"]

logger = logging.getLogger(__name__)

PAGES = ("distributed.http.scheduler.prometheus", "distributed.http.health", "distributed.http.statics")
"""What is served beside the charts. Dask's ``info``, ``json`` and ``proxy`` are not: anybody who can reach the port may
read them, and they show logs, call stacks and the arguments of tasks."""

ENDS = (signal.SIGTERM, signal.SIGINT)
LOOK_S = 0.5


async def serve(entry: Entry) -> None:
    """Be the head of this name; returns when it has ended and nothing is left of it.

    Raises
    ------
    ConfigError
        If what was asked for cannot be.
    AdaptiveError
        If it could not be started.
    """
    setup = entry.setup()
    if setup is None:
        raise ConfigError(f"nothing was asked for in {str(entry.folder)!r}; `dask adaptive up` starts a head")
    running = _begun(entry)
    entry.write(running)
    over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with _signals(over), dask.config.set({"distributed.scheduler.http.routes": list(PAGES)}):
        try:
            left = await _run(entry, running, Description(**setup.description), over)
        except (AdaptiveError, OSError) as error:
            with suppress(AdaptiveError):
                _failed(entry, running, str(error) or type(error).__name__)
            raise
        if left:
            _failed(entry, running, left)
            raise AdaptiveError(f"`dask adaptive reap {entry.name}` is needed: {left}")
        entry.remove()


async def _run(entry: Entry, running: Running, description: Description, over: asyncio.Future[str]) -> str:
    """The cluster from its start to its end, which may come at any moment; what may be left of its jobs."""
    cluster = _cluster(description, entry.name, entry.make_credentials())
    try:
        starting = asyncio.ensure_future(_started(cluster))
        first: set[asyncio.Future[Any]] = {starting, over}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            page, address = _page(cluster, description), cluster.scheduler_address
            running = replace(running, address=address, dashboard=page, key=cluster.key)
            Control(cluster, _about(running), lambda why: _end(over, why), description.budget).install()
            entry.write(running)
            _say(f"up at {running.address}")
            _say(f"ending: {await _end_of(cluster, over, description.idle_timeout_s)}")
        else:
            starting.add_done_callback(_heard)
            _say(f"ending before it was up: {over.result()}")
    finally:
        await cluster.close()
    return "; ".join(cluster.left)


async def _started(cluster: Cluster) -> None:
    await cluster


def _heard(starting: asyncio.Future[None]) -> None:
    """Closing ends the start as well; nobody needs to know how."""
    if not starting.cancelled():
        starting.exception()


def _failed(entry: Entry, running: Running, why: str) -> None:
    """Keep why, and what the names of its jobs begin with if it got that far."""
    entry.write(replace(entry.running() or running, address="", failed=why))


def _begun(entry: Entry) -> Running:
    return Running(entry.name, this_process(), clock(), dask_adaptive.__version__)


def _cluster(description: Description, name: str, security: Security) -> Cluster:
    """The cluster, not started yet: of one machine where all of its jobs are, else for every machine to reach."""
    local = all(options.get("backend", "local") == "local" for options in description.pools.values())
    where: dict[str, Any] = {"host": "127.0.0.1" if local else None, **description.scheduler}
    page = {"dashboard_address": f"{where['host'] or ''}:0"} if description.headed.dashboard else {"dashboard": False}
    return description.cluster(
        name=name, security=security, scheduler_options={**page, **where}, asynchronous=True, quiet=True
    )


def _page(cluster: Cluster, description: Description) -> str:
    return str(cluster.dashboard_link) if description.headed.dashboard else ""


def _about(running: Running) -> Mapping[str, Any]:
    told = asdict(running)
    return {key: told[key] for key in ("name", "since_s", "version", "dashboard", "key")} | {**told["process"]}


def _say(words: str) -> None:
    with suppress(OSError):  # a full disk costs the log, never the cluster
        print(words, flush=True)  # noqa: T201 - the log of the head


# --- the end -----------------------------------------------------------------------------------------------------


def _end(over: asyncio.Future[str], why: str) -> None:
    if not over.done():
        over.set_result(why)


@contextmanager
def _signals(over: asyncio.Future[str]) -> Iterator[None]:
    """A signal that asks us to end ends the cluster first; that the terminal is gone is no such thing."""
    loop = asyncio.get_running_loop()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in ENDS:
        loop.add_signal_handler(number, _end, over, f"told by {signal.Signals(number).name}")
    yield
    for number in ENDS:
        loop.remove_signal_handler(number)
    signal.signal(signal.SIGHUP, before)


async def _end_of(cluster: Cluster, over: asyncio.Future[str], idle_timeout_s: float | None) -> str:
    """Wait for what comes first; why it is over."""
    scheduler: Any = cluster.scheduler
    waits: Mapping[asyncio.Future[Any], str] = {
        over: "",
        asyncio.ensure_future(scheduler.finished()): "its scheduler was closed",
        asyncio.ensure_future(_idle(cluster, idle_timeout_s)): f"idle for {idle_timeout_s} s",
    }
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return next(why or over.result() for future, why in waits.items() if future.done())
    finally:
        for future in waits:
            future.cancel()


async def _idle(cluster: Cluster, timeout_s: float | None) -> None:
    """Wait until the cluster has been idle for so long; None: for ever."""
    since_s, seen = clock(), None
    while timeout_s is None or clock() - since_s < timeout_s:
        await asyncio.sleep(LOOK_S)
        record = cluster.controller.record if cluster.controller is not None else None
        done = _done(record)
        if not is_idle(record) or done != seen:
            since_s, seen = clock(), done


def is_idle(record: Record | None) -> bool:
    """Whether nothing waits or runs and nobody's results are held: ending the cluster then loses nothing."""
    if record is None or record.error:
        return False
    load: Load = record.snapshot.load
    held = sum(capacity.held_bytes + capacity.busy for capacity in (*load.pools.values(), load.foreign))
    pending = sum(group.ready + group.running + group.waiting + group.long_running for group in load.groups)
    return not held and not pending and not load.waiting_clients


def _done(record: Record | None) -> int:
    """Grows with every task that ends: short ones, too, that no round saw running."""
    return sum(group.done for group in record.snapshot.load.groups) if record else 0


# --- the program -------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """``python -m dask_adaptive.head FOLDER``: exit code 0, 1 for a failure, 2 for what cannot be."""
    if len(arguments) != 1:
        _say("usage: python -m dask_adaptive.head FOLDER; `dask adaptive up` starts it")
        return 2
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    try:
        asyncio.run(serve(Entry(Path(arguments[0]))))
    except (AdaptiveError, OSError) as error:
        _say(f"Error: {error}")
        return 2 if isinstance(error, ConfigError) else 1
    return 0
