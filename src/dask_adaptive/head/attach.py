"""Joining a named head: an object that behaves like a cluster, and only ever lets go of what it joined."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from distributed.core import Status, rpc
from distributed.security import Security
from distributed.utils import Log, Logs

from dask_adaptive.account import JobRow, JobTable, TellingStatus
from dask_adaptive.alerts import Alerts, Troubles, hooks_of
from dask_adaptive.config import setting
from dask_adaptive.controller import clock
from dask_adaptive.errors import AdaptiveError, ConfigError, EngineError
from dask_adaptive.head.control import CONNECT_S, ask_through, fingerprint
from dask_adaptive.head.forward import forward, is_far
from dask_adaptive.head.state import Standing, entry_of, security_from
from dask_adaptive.journal import records_of
from dask_adaptive.loops import OwnLoop
from dask_adaptive.model import Phase, Record
from dask_adaptive.show.widget import make_widget, status_html

__all__ = ["HeadCluster", "Reach", "connect", "job_table_of", "reach"]

FOLLOW_S = 1.0
KEEP_ROUNDS = 1000
LOST_AFTER = 3
"""After how many questions without an answer a head counts as lost."""


@dataclass(frozen=True)
class Reach:
    """How a head is reached. ``let_go`` gives back what that takes, a forward for example."""

    name: str
    address: str
    security: Security
    dashboard: str = ""
    forwarded: bool = False
    let_go: Callable[[], None] = lambda: None


def reach(name: str, ssh: Sequence[str] = ("ssh",)) -> Reach:
    """How to reach the head of this name, here or as ``user@host:NAME`` elsewhere.

    Raises ``ConfigError`` for a name that is not known, ``EngineError`` for a head that is not up or not reached.
    """
    if is_far(name):
        far, credentials, way = forward(name, ssh)
        return Reach(name, far.address, security_from(*credentials), far.dashboard, forwarded=True, let_go=way.close)
    entry = entry_of(name)
    running, standing = entry.running(), entry.standing()
    if standing is Standing.LOST:
        why = running.failed if running is not None and running.failed else "its process is gone"
        raise EngineError(f"cluster {name!r} is lost ({why}); `dask adaptive reap {name}` cleans up after it")
    if running is None or not running.address:
        raise EngineError(f"cluster {name!r} is not up yet ({standing.value}); `dask adaptive list` shows when it is")
    return Reach(name, running.address, entry.security(), running.dashboard)


class HeadCluster(OwnLoop):
    """A cluster whose head lives elsewhere; ``connect`` makes it.

    It takes the place of a cluster: ``Client(it)``, ``scale``, ``adapt``, ``status()``, ``explain()``, ``records``, the
    widget. Closing it, leaving its ``with`` block or the end of the process only lets go: the cluster lives on.
    ``answers`` tells whether the head did when it was last asked, which is every second.
    """

    _supports_scaling = True

    def __init__(self, where: Reach, *, on_event: Any = None, asynchronous: bool = False, loop: Any = None) -> None:
        self._where = where
        self._alerts = Alerts(hooks_of(setting("on-event") if on_event is None else on_event))
        self.security = where.security
        self.answers = True
        self._rounds: list[Record] = []
        self._bulletin: dict[str, Any] = {}
        self._following: asyncio.Task[None] | None = None
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=True, name=where.name)
        if not asynchronous:
            self._loop_runner.start()
            self.sync(self._start)

    def __await__(self) -> Any:
        return self._started().__await__()

    async def _started(self) -> HeadCluster:
        if self.status == Status.created:
            await self._start()
        return self

    async def __aenter__(self) -> HeadCluster:
        return await self._started()

    async def _start(self) -> None:
        self.status = Status.starting
        arguments = self.security.get_connection_args("client")
        self.scheduler_comm = rpc(self._where.address, connection_args=arguments, timeout=CONNECT_S)
        try:
            await self._follow_once()
        except BaseException:
            await self._close()
            raise
        self._following = asyncio.ensure_future(self._follow())
        self.status = Status.running

    async def _ask(self, call: str, **arguments: Any) -> Any:
        if self.status == Status.closed:
            raise ConfigError(f"this connection was closed; connect({self._where.name!r}) makes another")
        return await ask_through(self.scheduler_comm, call, **arguments)

    async def _follow(self) -> None:
        """Keep up with the head, until we let go; one that does not answer is asked again."""
        missed = 0
        while True:
            await asyncio.sleep(FOLLOW_S)
            troubles: Troubles = {}
            try:
                await self._follow_once()
                self.answers, missed = True, 0
            except AdaptiveError as error:
                self.answers, missed = False, missed + 1
                if missed >= LOST_AFTER:
                    troubles = {("head-lost", ""): str(error)}
            self._alerts.follow(troubles, self.name, clock())

    async def _follow_once(self) -> None:
        after = self._rounds[-1].number if self._rounds else 0
        news = await self._ask("news", after=after, workers=fingerprint(self.scheduler_info["workers"]))
        self.scheduler_info.update(news["identity"])
        if news["workers"] is not None:
            self.scheduler_info["workers"] = dict(news["workers"])
        with suppress(ConfigError):  # rounds of another version; all else is plain values
            self._rounds = [*self._rounds, *records_of(news["rounds"])][-KEEP_ROUNDS:]
        self._bulletin = dict(news.get("bulletin", {}))  # a head that is older than we are has none

    # --- what it tells ---

    @property
    def scheduler_address(self) -> str:
        """Where clients connect to."""
        return self._where.address

    @property
    def dashboard_link(self) -> str:
        """The page of Dask's dashboard; empty where it is off."""
        return self._where.dashboard

    @property
    def records(self) -> Sequence[Record]:
        """The latest rounds, oldest first, as far as they are known here."""
        return tuple(self._rounds)

    def bulletin(self) -> dict[str, Any]:
        """What the page of the dashboard shows, and the widget; see ``Cluster.bulletin``."""
        return dict(self._bulletin)

    @property
    def status(self) -> Any:
        """Dask's status of this object; called, ``status()``, it is the table of the cluster's jobs."""
        return TellingStatus(self._status, lambda: self.sync(self._job_table))

    @status.setter
    def status(self, status: Status) -> None:
        self._status = Status(getattr(status, "value", status))

    async def _job_table(self) -> JobTable:
        return job_table_of(await self._ask("status"))

    def about(self) -> Any:
        """Everything that the head says of itself and its cluster, in plain values."""
        return self.sync(self._ask, "status")

    def explain(self) -> Any:
        """Why the cluster is as large as it is; see ``Cluster.explain``."""
        return self.sync(self._ask, "explain")

    def log(self, job: str) -> Any:
        """The end of what a job printed, a dead one too."""
        return self.sync(self._ask, "log", job=job)

    async def _get_logs(self, cluster: bool = True, scheduler: bool = True, workers: Any = True) -> Logs:
        logs = Logs()
        if cluster:
            logs["Cluster"] = Log("\n".join(event["text"] for event in await self._ask("events")))
        rest = await super()._get_logs(cluster=False, scheduler=scheduler, workers=workers)
        logs.update(rest)
        return logs

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        status = f'<tr><td colspan="2">{status_html(self.records, self.name, None, self.bulletin())}</td></tr>'
        return str(super()._repr_html_(cluster_status=status + (cluster_status or "")))

    def _widget(self) -> Any:
        if not hasattr(self, "_cached_widget"):
            self._cached_widget = make_widget(self)
        return self._cached_widget

    # --- what it asks for ---

    def scale(self, n: int | None = None, **size: Any) -> Any:
        """Set a fixed size; see ``Cluster.scale``. Returns when the head has taken it."""
        return self.sync(self._ask, "scale", **(size if n is None else {"n": n, **size}))

    def adapt(self, *, Adaptive: Any = None, **options: Any) -> Any:  # noqa: N803  Dask's own name
        """Let a policy choose the size from now on; see ``Cluster.adapt``.

        Returns
        -------
        str
            What the head does now.

        Raises
        ------
        ConfigError
            For options that cannot be, or that cannot be sent: a policy is given by its name.
        """
        try:
            json.dumps(options)
        except TypeError:
            raise ConfigError("adapt on a head takes plain values; a policy is given by its name") from None
        if Adaptive is not None:
            raise ConfigError("a head adapts by itself; a subclass of Adaptive cannot be sent to it")
        return self.sync(self._ask, "adapt", **options)

    # --- the end ---

    def detach(self) -> Any:
        """The same as ``close``: let go, and leave everything as it is."""
        return self.close()

    async def _close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        await super()._close()
        await asyncio.to_thread(self._alerts.close)
        await asyncio.to_thread(self._where.let_go)


def job_table_of(about: Mapping[str, Any]) -> JobTable:
    """The table of jobs from what a head says of itself; what a later version adds is left out."""
    known = [each.name for each in fields(JobRow)]
    rows = ({**{key: row[key] for key in known}, "phase": Phase(row["phase"])} for row in about["jobs"])
    return JobTable(tuple(JobRow(**row) for row in rows))


def connect(
    name: str,
    *,
    on_event: Any = None,
    asynchronous: bool = False,
    loop: Any = None,
    ssh: Sequence[str] = ("ssh",),
) -> HeadCluster:
    """Join a named cluster that ``dask adaptive up`` started.

    Parameters
    ----------
    name:
        Its name, of this machine or of a file system that it shares; ``user@host:NAME`` for one that is reached by SSH.
    on_event:
        Whom to tell when the head does not answer any longer, and when it does again; as of ``Cluster``.
    asynchronous, loop:
        As in ``distributed``.
    ssh:
        The program that reaches another machine, with its first arguments.

    Returns
    -------
    HeadCluster
        Behaves like a cluster: ``Client(it)``, ``get_client()``, ``status()``, ``explain()``, ``scale``, ``adapt``. To
        close it only lets go.

    Raises
    ------
    ConfigError
        For a name that is not known; the known ones are listed.
    EngineError
        For a cluster that is not up, or whose head does not answer.
    """
    return HeadCluster(reach(name, ssh), on_event=on_event, asynchronous=asynchronous, loop=loop)
