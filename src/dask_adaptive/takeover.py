"""A controller for a cluster that has none: found its scheduler, its loop, and the way to ask it for workers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.security import Security
from distributed.utils import LoopRunner

from dask_adaptive.controller import Advisor, Controller, clock
from dask_adaptive.engine.dask_side import DaskEngine
from dask_adaptive.errors import ConfigError
from dask_adaptive.foreign import POOL, ForeignCluster
from dask_adaptive.history import History, history_path, keep, recall, taught
from dask_adaptive.model import Limits, Load, Record, Shape
from dask_adaptive.plain import Plain
from dask_adaptive.policy.contracts import Policy
from dask_adaptive.specified import Specified, specified_shape

__all__ = ["Owner", "Takeover", "check_scalable", "foreign_shape"]

logger = logging.getLogger(__name__)

NOT_YET = (None, Status.created, Status.starting, Status.init)
OVER = (Status.closing, Status.closed, Status.failed)


class Owner(Advisor, Protocol):
    """The ``Adaptive`` on whose behalf a cluster is sized."""

    policy: Policy
    interval: float

    def own(self, name: str) -> Callable[..., Any] | None:
        """Its method of this name where it brings one."""
        ...

    @property
    def advises(self) -> bool:
        """Whether it wants to be asked in every round."""
        ...

    def on_record(self, record: Record) -> None:
        """Told of every round."""
        ...

    def teach(self, history: History) -> None:
        """Told before the first round what earlier runs taught."""
        ...

    def stop(self) -> None:
        """Stop deciding."""
        ...


class Takeover:
    """Waits until a cluster runs, then is its controller until stopped.

    Parameters
    ----------
    owner:
        Gives policy and interval, and may have a word in each round.
    cluster:
        A Dask cluster or any object with ``scale_up`` and ``scale_down``; None where the owner brings both.
    scheduler:
        A ``Scheduler`` or its address, where the cluster does not know it.
    worker_key:
        Names the job of a worker of a plain cluster.
    limits:
        In jobs.
    """

    def __init__(self, owner: Owner, cluster: Any, scheduler: Any, worker_key: Any, limits: Limits) -> None:
        self.controller: Controller | None = None
        self._owner, self._cluster, self._scheduler = owner, cluster, scheduler
        self._worker_key, self._limits = worker_key, limits
        self._history_path = history_path()
        self._actuator: ForeignCluster | None = None
        self._engine: DaskEngine | None = None
        self._task: asyncio.Task[None] | None = None
        self._last: asyncio.Future[None] | None = None
        self._stopped = False
        self._runner: LoopRunner | None = None
        scheduler_of(cluster, scheduler)
        self._soon(self._begin)

    # --- on the loop of the cluster ---

    def _soon(self, begin: Callable[[], Awaitable[None]]) -> None:
        """Run it on the loop of the cluster or scheduler, on the running one, or else on one of our own."""
        loop = getattr(self._cluster, "loop", None) or getattr(self._scheduler, "loop", None)
        running = None
        with suppress(RuntimeError):
            running = asyncio.get_running_loop()
        if loop is None and running is None and self._runner is None:
            self._runner = runner = LoopRunner()
            runner.start()
        if self._runner is not None:
            loop = self._runner.loop
        if loop is None or getattr(loop, "asyncio_loop", loop) is running:
            self._last = asyncio.ensure_future(begin())
            if isinstance(futures := getattr(self._cluster, "_futures", None), set) and self._stopped:
                futures.add(self._last)  # a SpecCluster that closes waits for these
        else:
            loop.add_callback(begin)

    async def _begin(self) -> None:
        if not self._stopped:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("adapt: adaptive scaling ends: %s", error, exc_info=error)
            self._owner.stop()

    async def _run(self) -> None:
        while getattr(self._cluster, "status", Status.running) in NOT_YET:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0.02)
        history = await asyncio.to_thread(recall, self._history_path)
        self._owner.teach(history)
        address, connection_args = scheduler_of(self._cluster, self._scheduler)
        if getattr(self._cluster, "status", Status.running) in OVER:
            self._owner.stop()
            return
        specified = self._specified
        self._engine = engine = DaskEngine(
            address,
            key=secrets.token_hex(4),
            named=False,
            declared_only=specified,
            worker_key=self._worker_key,
            connection_args=connection_args,
            clock=clock,
        )
        side = Specified(self._cluster, engine.expect) if specified else self._plain()
        self._actuator = ForeignCluster(side, engine, history.startups.get(self._kind(POOL)))
        self._actuator.limits = self._limits
        self.controller = Controller(
            engine, self._actuator, self._owner.policy, interval_s=self._owner.interval, on_record=self._on_record
        )
        self.controller.advisor = self._owner if self._owner.advises else None
        await self.controller.run()

    def _kind(self, pool: str) -> str:
        """What start-ups are remembered by."""
        return f"{type(self._owner if self._cluster is None else self._cluster).__name__}/{pool}"

    @property
    def _specified(self) -> bool:
        brings = self._owner.own("scale_up") or self._owner.own("scale_down")
        return isinstance(self._cluster, SpecCluster) and not brings

    def _plain(self) -> Plain:
        cluster = self._owner if self._cluster is None else self._cluster
        return Plain(cluster, self._owner.own("scale_up"), self._owner.own("scale_down"))

    def _on_record(self, record: Record) -> None:
        self._owner.on_record(record)
        if getattr(self._cluster, "status", Status.running) in OVER:
            self._owner.stop()
        elif self._actuator is not None and (why := self._actuator.resized):
            logger.warning("adapt: %s; adaptive scaling ends. For a floor use adapt(minimum=n)", why)
            self._owner.stop()

    def publish(self, bulletin: Callable[[], Mapping[str, Any]]) -> None:
        """Show it on the dashboard of the scheduler; see ``DaskEngine.publish``."""
        if self._engine is not None:
            self._engine.publish(bulletin)

    def limit(self, limits: Limits) -> None:
        """From now on these limits, in jobs."""
        self._limits = limits
        if self._actuator is not None:
            self._actuator.limits = limits

    # --- ending ---

    def stop(self) -> None:
        """Decide nothing more; what is ours leaves the scheduler."""
        self._stopped = True
        with suppress(RuntimeError):  # the loop is closed: nothing is left to be stopped
            self._soon(self._end)

    async def _end(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()  # more than once: before Python 3.12 ``wait_for`` may lose it
            await asyncio.wait({self._task}, timeout=0.1)
        await asyncio.to_thread(keep, self._history_path, taught(self.controller, self._kind))
        if self._actuator is not None:
            await self._actuator.aclose(0.0)
        if self._engine is not None:
            await self._engine.aclose()
        if self._runner is not None:
            self._runner.loop.add_callback(self._runner.loop.stop)


# --- what somebody else's cluster is -----------------------------------------------------------------------------


def check_scalable(cluster: Any, brings: Callable[[str], object], owner: str) -> None:
    """Refuse a cluster that nothing can be asked of."""
    kind = type(cluster).__name__
    for name, others in (("scale_up", ("scale_up", "scale")), ("scale_down", ("scale_down",))):
        if not brings(name) and not any(callable(getattr(cluster, other, None)) for other in others):
            raise ConfigError(f"{kind} has no {name}(), and neither has {owner}: nothing can be sized")
    if getattr(cluster, "_supports_scaling", True) is False:
        raise ConfigError(f"{kind} does not support scaling")


def foreign_shape(cluster: Any) -> Shape:
    """What one job of it brings, as far as it says so before anything runs."""
    return specified_shape(cluster, Load(0.0)) if isinstance(cluster, SpecCluster) else Shape()


def scheduler_of(cluster: Any, scheduler: Any) -> tuple[str, Mapping[str, Any]]:
    """Address of the scheduler, empty as long as the cluster does not run, and how to connect to it."""
    comm = getattr(cluster, "scheduler_comm", None)
    known = scheduler if scheduler is not None else comm or getattr(cluster, "scheduler", None)
    address = known if isinstance(known, str) else getattr(known, "address", "")
    address = address or getattr(cluster, "scheduler_address", "")
    if not address and getattr(cluster, "status", Status.running) not in NOT_YET:
        kind = type(cluster).__name__
        raise ConfigError(f"{kind} has no scheduler_comm; give scheduler= (a Scheduler or its address)")
    if scheduler is None and comm is not None and getattr(comm, "connection_args", None):
        return address, comm.connection_args
    security: Any = getattr(scheduler, "security", None) or getattr(cluster, "security", None) or Security()
    return address, security.get_connection_args("client")
