"""What a user holds: a Dask cluster whose jobs come from a resource manager and go when they are not needed."""

from __future__ import annotations

import asyncio
import atexit
import datetime
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Literal

import dask.config
from distributed import Scheduler
from distributed.core import Status, rpc
from distributed.security import Security
from distributed.utils import Log, Logs, silence_logging_cmgr

from dask_adaptive.account import FirstWorker, JobTable, TellingStatus, explanation, job_table
from dask_adaptive.actuator import Actuator
from dask_adaptive.adaptive import Adaptive
from dask_adaptive.alerts import Alerts, hooks_of, troubles_of
from dask_adaptive.backend.contracts import Backend, Telling
from dask_adaptive.config import check_keys, count_of, flag_of, seconds_of, setting, size_of
from dask_adaptive.controller import Controller, clock
from dask_adaptive.engine.dask_side import DaskEngine
from dask_adaptive.errors import AdaptiveError, ConfigError, EngineError
from dask_adaptive.foreign import POOL, ForeignCluster
from dask_adaptive.history import History, history_path, keep, recall, taught
from dask_adaptive.jobs import Jobs, PoolSetup
from dask_adaptive.journal import Journal, learned
from dask_adaptive.loops import AtOnce, OwnLoop
from dask_adaptive.model import Limits, Pool, Record, Startup
from dask_adaptive.options import PoolOptions, backends_of, pool_options, timeouts
from dask_adaptive.owners import Owner, forget
from dask_adaptive.ownership import ownership
from dask_adaptive.plain import Plain
from dask_adaptive.policy.classic import Fixed
from dask_adaptive.policy.found import AsFound
from dask_adaptive.recording import Recording
from dask_adaptive.security import credential_files, security_of
from dask_adaptive.show.bulletin import Ledger
from dask_adaptive.show.widget import make_widget, status_html
from dask_adaptive.tags import key_of, new_key, tags

__all__ = ["Cluster", "discover"]

CLOSE_TIMEOUT_S = 60.0
LOGS_KEPT = 10_000
HAND_OVER_S = 30.0

_living: weakref.WeakSet[Cluster] = weakref.WeakSet()


class Cluster(OwnLoop):
    """A Dask cluster that is as large as its work.

    Parameters
    ----------
    backend:
        Name of a backend (``dask adaptive backends`` lists them) or an object of one. Default ``"local"``.
    pools:
        Kinds of jobs: name -> options of ``PoolOptions``; None: one pool ``default`` with the options given here.
    scheduler:
        Address of a living scheduler to attach to; it is never closed. None: start one in this process.
    security:
        Dask's TLS options; True makes temporary credentials, False means no encryption. Default: as Dask is configured;
        where it is not and a backend runs jobs on other machines, True.
    name:
        Name of the cluster. Default: made up.
    n_workers:
        Start with this many workers (of the first pool). Default: none; at a living scheduler as many as are there of
        an earlier cluster of the same name and backend.
    journal:
        File that every round is written to, as JSON lines. Default: ``adaptive.journal`` of Dask's configuration.
    scheduler_options:
        Keyword arguments for ``distributed.Scheduler``.
    on_event:
        Whom to tell of broken pools, a budget that is reached and a lost scheduler (``dask_adaptive.alerts``): a
        function of an ``Event``, ``"module:function"``, a command as a list of words that gets the event as JSON on its
        standard input, or a list of these. Default: ``adaptive.on-event`` of Dask's configuration.
    silence_logs:
        Level below which the logs of ``distributed`` are not shown while the cluster lives; False: as configured.
    asynchronous, loop, quiet:
        As in ``distributed``.
    **options:
        Options of ``PoolOptions`` for all pools, arguments of a backend that is given by name, and ``profile``: a set
        of such options below ``adaptive.profiles`` in Dask's configuration.

    Raises
    ------
    ConfigError
        If something was asked for that cannot be; before anything is started.

    Attributes
    ----------
    left:
        After ``close``: which jobs the resource manager still showed when patience ended, a sentence each.

    Notes
    -----
    A subclass that has ``scale_up(n)`` and ``scale_down(workers)`` (plain or ``async``) and sets ``scheduler_comm``
    brings its own workers: it gives no backend, and gets adaptive scaling, repr, widget, ``scheduler_info`` and logs.
    ``scale_up`` is asked for ``n`` workers in all; ``scale_down`` gets the addresses of drained workers.
    """

    _supports_scaling = True

    def __init__(
        self,
        backend: str | Backend | None = None,
        pools: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        scheduler: str | None = None,
        security: Security | Mapping[str, Any] | bool | None = None,
        name: str | None = None,
        n_workers: int | None = None,
        journal: str | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        on_event: Any = None,
        silence_logs: int | Literal[False] = logging.WARNING,
        asynchronous: bool = False,
        loop: Any = None,
        quiet: bool = False,
        **options: Any,
    ) -> None:
        self._options = pool_options(pools, options, backend)
        self._wanted, self._said_no_size = count_of("n_workers", n_workers or 0), n_workers is None
        self._check_size(next(iter(self._options)), self._jobs_for(self._wanted, next(iter(self._options))))
        self._journal_path = journal if journal is not None else setting("journal")
        self._publishes, logs = (flag_of(f"adaptive.{key}", setting(key)) for key in ("page", "page-logs"))
        self._first = FirstWorker(seconds_of("adaptive.first-worker-notice", setting("first-worker-notice")))
        if scheduler is not None and not isinstance(scheduler, str):
            raise ConfigError(f"scheduler must be an address such as 'tcp://10.0.0.1:8786', not {scheduler!r}")
        self._attached = scheduler
        self._alerts = Alerts(hooks_of(setting("on-event") if on_event is None else on_event), self._hook_failed)
        self._scheduler_options = dict(scheduler_options or {})
        self._backends = {} if self._brings_workers else backends_of(self._options)
        self._elsewhere = any(getattr(each, "elsewhere", False) for each in self._backends.values())
        self.security = security_of(security, encrypt=self._elsewhere and scheduler is None)
        self.scheduler: Scheduler | None = None
        self.engine: DaskEngine | None = None
        self.controller: Controller | None = None
        self._journal: Journal | None = None
        self._startups: Mapping[str, Startup] = {}
        self.history, self._history_path = History(), history_path()
        self._jobs: Jobs | None = None
        self._leaves = False
        self._owner: Owner | None = None
        self.left: Sequence[str] = ()
        self._starting: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._recording: Recording | None = None
        self._scaling: asyncio.Future[None] | None = None
        self._until_closed, self._silence_logs = ExitStack(), silence_logs
        self.scheduler_comm: Any = None
        self._adaptive: Any = None
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=name)
        self._cluster_manager_logs: Any = deque(maxlen=LOGS_KEPT)
        self._key = new_key()
        self._ledger = Ledger(self.name, logs=logs)
        if not asynchronous and not (self._brings_workers and scheduler is None):
            self._begin()

    @property
    def _brings_workers(self) -> bool:
        return hasattr(self, "scale_up") and hasattr(self, "scale_down")

    # --- starting ---

    def _begin(self) -> None:
        """Start on the first use; in asynchronous mode ``await cluster`` does that."""
        if self.status == Status.created and not self.asynchronous:
            self._loop_runner.start()
            try:
                self.sync(self._started)
            except KeyboardInterrupt:  # nobody has a cluster in hand that could be closed
                self.loop.add_callback(self._close)
                raise

    def __await__(self) -> Any:
        return self._started().__await__()

    async def _started(self) -> Cluster:
        """Start, or wait for the start that is in flight."""
        if self._starting is None and self.status == Status.created:
            self._starting = asyncio.ensure_future(self._start())
        if self._starting is not None:
            await asyncio.shield(self._starting)
        return self

    async def _start(self) -> None:
        self.status = Status.starting
        _living.add(self)
        if self._silence_logs:
            self._until_closed.enter_context(silence_logging_cmgr(level=self._silence_logs))
        try:
            self.history = await asyncio.to_thread(recall, self._history_path)
            earlier = await asyncio.to_thread(learned, self._journal_path)
            self._startups = {**self._startups_of(self.history), **earlier}
            self._journal = Journal(self._journal_path)
            self.engine = engine = await self._connect()
            self.controller = self._controlled(engine, await self._make_actuator(engine))
            self._owner = await ownership(self.name, self._key, self._options, self._backends, self._attached or "")
            await self._follow(engine)
            self.controller.start()
        except BaseException:
            await self._close()
            raise

    def _kind(self, pool: str) -> str:
        """What start-ups of a pool are remembered by."""
        backend = self._backends.get(pool)
        return f"{getattr(backend, 'name', type(self).__name__)}/{pool}"

    def _startups_of(self, history: History) -> dict[str, Startup]:
        kinds = {name: self._kind(name) for name in self._options}
        return {name: history.startups[kind] for name, kind in kinds.items() if kind in history.startups}

    async def _connect(self) -> DaskEngine:
        """Reach the scheduler: the one that a subclass set, the one given, or one of our own."""
        if self.scheduler_comm is None and self._attached is None:
            options = {"host": None if self._elsewhere else "127.0.0.1", "port": 0, **self._scheduler_options}
            if options.get("dashboard") is False:  # it serves metrics still, on Dask's usual port if nothing is said
                options["dashboard_address"] = f"{options['host'] or '127.0.0.1'}:0"
            starting = self.scheduler = Scheduler(security=self.security, **options)
            await starting  # it listens already: whoever closes in the middle has to find it
        connection = self.security.get_connection_args("client")
        if self.scheduler_comm is None:
            address = self.scheduler.address if self.scheduler is not None else self._attached
            self.scheduler_comm = rpc(address, connection_args=connection)
        else:
            connection = getattr(self.scheduler_comm, "connection_args", None) or connection
        if not self._brings_workers:  # the same again for who comes back to a living scheduler: so it finds its jobs
            self._key = key_of(self.name, (await self.scheduler_comm.identity())["id"])
        engine = self.engine = DaskEngine(  # known before it starts, so that a close in the middle takes it out again
            self.scheduler_comm.address,
            connection_args=connection,
            key=self._key,
            named=not self._brings_workers,
            on_worker=self._update_worker_status,
            clock=clock,
        )
        await engine.start()
        return engine

    async def _make_actuator(self, engine: DaskEngine) -> Actuator:
        if self._brings_workers:
            return ForeignCluster(Plain(self), engine)
        for backend in {id(each): each for each in self._backends.values()}.values():
            start = getattr(backend, "start", None)
            if start is not None:
                await start()
        setups = [self._setup(name, options) for name, options in self._options.items()]
        self._jobs = Jobs(
            self._key,
            setups,
            engine=engine,
            tag=tags(self._key),
            clock=clock,
            startups=self._startups,
            comes_back=self._attached is not None,
        )
        return self._jobs

    def _setup(self, name: str, options: PoolOptions) -> PoolSetup:
        backend = self._backends[name]
        address, config = self._contact_address(), dask.config.serialize(dask.config.global_config)
        spec = options.spec(address, credential_files(self.security, "worker", self._until_closed), config)
        poll_s = getattr(backend, "poll_s", 1.0 if not backend.lag_s else 10.0)
        return PoolSetup(options.pool(name), backend, spec, timeouts(), poll_s)

    def _contact_address(self) -> str:
        """Where workers find the scheduler."""
        listens = str(self.scheduler_comm.address)
        said = getattr(self.scheduler, "contact_address", None)
        if not said:
            return listens
        return said if "://" in said else f"{listens.partition('://')[0]}://{said}"

    def _controlled(self, engine: DaskEngine, actuator: Actuator) -> Controller:
        first = next(iter(self._options))
        jobs = dict.fromkeys(self._options, 0) | {first: self._jobs_for(self._wanted, first)}
        return Controller(
            engine,
            actuator,
            AsFound() if self._attached is not None and self._said_no_size else Fixed(jobs),
            journal=self._journal,
            interval_s=1.0,
            on_record=self._on_record,
        )

    async def _follow(self, engine: DaskEngine) -> None:
        """Keep ``scheduler_info`` up to date and tell the scheduler who we are."""
        self.scheduler_info.update(await engine.identity())
        key = "cluster-manager-info" if self._attached is None else f"cluster-manager-info-{self._key}"
        await self.scheduler_comm.set_metadata(keys=[key], value=dict(self._cluster_info))
        for callback in self.periodic_callbacks.values():
            callback.start()
        self.status = Status.running

    def _on_record(self, record: Record) -> None:
        if notice := self._first.notice(record):
            self._log(notice)
        self._alerts.follow(troubles_of(record, lost=bool(self._running.lost_s)), self.name, record.at_s)
        for event in record.events:
            at = datetime.datetime.fromtimestamp(record.at_s)  # noqa: DTZ006  local time, as Dask's own entries
            self._cluster_manager_logs.append((at, event))
        self._ledger.take(record)
        if self._publishes and self.engine is not None:
            self.engine.publish(self.bulletin)

    def bulletin(self) -> dict[str, Any]:
        """What the page of the dashboard, the metrics and the widget show: plain values, of the last round."""
        return self._ledger.bulletin(self._jobs.errors if self._jobs is not None else {})

    def _hook_failed(self, sentence: str) -> None:
        logging.getLogger(__name__).warning(sentence)
        if self.controller is not None:
            self.loop.add_callback(self.controller.say, sentence)  # from the hook's thread

    @property
    def _running(self) -> Controller:
        if self.controller is None:
            raise ConfigError(f"the cluster is {self.status.name}; it can be sized once it runs")
        return self.controller

    # --- sizes ---

    def adapt(self, Adaptive: type[Any] = Adaptive, **options: Any) -> Any:  # noqa: N803  Dask's own name
        """Let a policy choose the size from now on. Every call stands alone: nothing of an earlier one remains.

        Parameters
        ----------
        Adaptive:
            Class to use; a subclass of ``dask_adaptive.Adaptive`` may override ``target`` and ``workers_to_close``.
        **options:
            As of ``dask_adaptive.Adaptive``: ``minimum``, ``maximum`` (workers), ``minimum_jobs``, ``maximum_cores``,
            ``maximum_memory`` and so on, ``policy``, ``interval``, ``wait_count``, ``target_duration``, ``pools``.

        Returns
        -------
        Adaptive
            With ``minimum``, ``maximum``, ``log`` and ``stop()``.
        """
        if not callable(Adaptive):
            raise ConfigError(f"adapt takes keywords, as adapt(maximum=20), and perhaps a class; not {Adaptive!r}")
        self._check_scalable()
        self._begin()
        adaptive = Adaptive(self, **options)
        earlier, self._adaptive = self._adaptive, adaptive
        if earlier is not None:
            earlier.stop()
        return adaptive

    def scale(
        self,
        n: int | None = None,
        *,
        jobs: int | None = None,
        cores: int | None = None,
        memory: str | int | None = None,
        pool: str | None = None,
    ) -> Any:
        """Set a fixed size; ends adaptive scaling, and says so.

        Parameters
        ----------
        n, jobs, cores, memory:
            One of them: workers, jobs, threads, or bytes; rounded up to whole jobs.
        pool:
            The pool to size; the others stay as they are. Default: the first one.

        Raises
        ------
        ConfigError
            For no size, several sizes, a size that cannot be, or an unknown pool.
        """
        self._check_scalable()
        name = next(iter(self._options)) if pool is None else pool
        check_keys("pool", [name], self._options)
        size = size_of(self._options[name].shape(), n=n, jobs=jobs, cores=cores, memory=memory)
        self._check_size(name, size)
        self._begin()
        if not self.asynchronous:
            return self.sync(self._scale, name, size)
        self._scaling = asyncio.ensure_future(self._scale(name, size))  # as with Dask, it need not be awaited
        return self._scaling

    def _check_scalable(self) -> None:
        if not self._supports_scaling:
            raise ConfigError(f"{type(self).__name__} does not support scaling")
        if self.status in (Status.closing, Status.closed):
            raise ConfigError(f"the cluster is {self.status.name}; it can no longer be sized")

    def _check_size(self, name: str, size: int) -> None:
        hard = self.hard_limits(name)
        if hard.maximum is not None and size > hard.maximum:
            raise ConfigError(f"{size} jobs are more than the maximum of pool {name!r}, {hard.maximum}")

    async def _scale(self, name: str, size: int) -> None:
        await self
        sizes = self._sizes() | {name: size}
        earlier, self._adaptive = self._adaptive, None
        if earlier is not None:
            earlier.stop()
            self._log(f"scale: adaptive scaling ends; pool {name} is fixed at {size} jobs")
        self._fix(sizes, f"scale: pool {name} to {size} jobs")

    def hold(self, adaptive: Any) -> None:
        """Stay as large as now, if it was this one that chose the size."""
        if self._adaptive is adaptive and self.status == Status.running:
            self._adaptive = None
            self.loop.add_callback(lambda: self._fix(self._sizes(), "adaptive scaling was stopped"))

    def _fix(self, sizes: Mapping[str, int], why: str) -> None:
        controller = self._running
        controller.advisor = None
        self.limit({name: self.hard_limits(name) for name in self._options})
        controller.use(Fixed(sizes), why=why)

    def _sizes(self) -> dict[str, int]:
        """What each pool is asked to have now."""
        record, policy = self._running.record, self._running.policy
        if isinstance(policy, Fixed) and isinstance(policy.jobs, Mapping):
            return dict(policy.jobs)
        wanted = record.target.pools if record else {}
        return {name: wanted[name].jobs if name in wanted else 0 for name in self._options}

    def limit(self, limits: Mapping[str, Limits]) -> None:
        """Set the limits, in jobs, of some pools."""
        if self._jobs is not None:
            for name, each in limits.items():
                setup = self._jobs.setups[name]
                self._jobs.setups[name] = replace(setup, pool=replace(setup.pool, limits=each))
        elif self.controller is not None and isinstance(self.controller.actuator, ForeignCluster):
            self.controller.actuator.limits = limits[POOL]

    def hard_limits(self, pool: str) -> Limits:
        """The limits of a pool, in jobs, that were given when the cluster was made."""
        return self._options[pool].pool(pool).limits

    def default_maximum_jobs(self, pool: Pool) -> int:  # noqa: ARG002  others look at its shape
        """How many jobs ``adapt`` asks for at most, of a pool for which nobody says a maximum."""
        return count_of("maximum-jobs", setting("maximum-jobs"))

    def _jobs_for(self, workers: int, pool: str) -> int:
        return -(-workers // self._options[pool].workers_per_job)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools with their present limits."""
        if self._jobs is not None:
            return tuple(setup.pool for setup in self._jobs.setups.values())
        return tuple(options.pool(name) for name, options in self._options.items())

    # --- its account of itself ---

    @property
    def status(self) -> Any:
        """Dask's status of the cluster; called, ``status()``, it is the table of jobs."""
        return TellingStatus(self._status, self._job_table)

    @status.setter
    def status(self, status: Status) -> None:
        self._status = Status(getattr(status, "value", status))

    def _job_table(self) -> JobTable:
        return job_table(self.controller.record if self.controller is not None else None, clock(), self._notes())

    def _notes(self) -> Sequence[str]:
        """What the backends want to be known."""
        telling = {id(each): each for each in self._backends.values() if isinstance(each, Telling)}
        return [note for backend in telling.values() for note in backend.notes()]

    @property
    def records(self) -> Sequence[Record]:
        """The latest rounds, oldest first; rounds in which nothing changed are left out."""
        return tuple(self.controller.journal.records) if self.controller is not None else ()

    def explain(self) -> Any:
        """Why the cluster is as large as it is, what would make it grow, and which client keeps it from shrinking."""
        return self.sync(self._explain)

    async def _explain(self) -> str:
        holders: Sequence[str] = ()
        if self.engine is not None:
            with suppress(AdaptiveError):
                holders = [str(holding) for holding in await self.engine.holders()]
        record = self.controller.record if self.controller is not None else None
        over = ["The cluster is closed; this was its last state."] if self.status == Status.closed else []
        return "\n".join([*over, explanation(record, holders, self._notes())])

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        status = f'<tr><td colspan="2">{status_html(self.records, self.name, None, self.bulletin())}</td></tr>'
        return str(super()._repr_html_(cluster_status=status + (cluster_status or "")))

    def _widget(self) -> Any:
        if not hasattr(self, "_cached_widget"):
            self._cached_widget = make_widget(self)
        return self._cached_widget

    async def _get_logs(self, cluster: bool = True, scheduler: bool = True, workers: Any = True) -> Logs:
        alive = self.status == Status.running
        logs = await super()._get_logs(cluster, scheduler and alive, workers if alive else False)
        if workers and self._jobs is not None:
            for name, text in (await self._jobs.logs()).items():
                logs[f"job {name}"] = Log(text)
        return logs

    def log(self, job: str) -> Any:
        """The end of what a job printed, a dead one too. Raises ``ConfigError`` that lists the known jobs."""
        return self.sync(self._job_log, job)

    async def _job_log(self, job: str) -> str:
        if self._jobs is None:
            raise ConfigError("the jobs of this cluster are somebody else's; it cannot read their output")
        return await self._jobs.log(job)

    @property
    def key(self) -> str:
        """What the name of every job begins with, once the cluster runs."""
        return self._key

    def record(self, path: str) -> Any:
        """Record what runs from now on, group by group, to a file that ``dask adaptive simulate`` replays.

        Returns
        -------
        Recording
            ``await recording.stop()`` writes the file and ends; the end of the cluster does so as well.

        Raises
        ------
        ConfigError
            If the file cannot be written, or something is recorded already.
        """
        return self.sync(self._record, path)

    async def _record(self, path: str) -> Recording:
        if self.status in (Status.closing, Status.closed):
            raise ConfigError(f"the cluster is {self.status.name}; nothing runs on it any more that could be recorded")
        if self._recording is not None:
            raise ConfigError(f"a run is being recorded already, to {self._recording.path}")
        connection = self.security.get_connection_args("client")
        recording = Recording(path, self.scheduler_comm.address, connection)
        await recording.start()
        self._recording = recording
        return recording

    # --- the end ---

    def detach(self) -> Any:
        """Stop deciding, and leave the jobs and the scheduler as they are.

        ``Cluster(scheduler=...)`` with the same name and backend adopts them later, from here or elsewhere.

        Raises
        ------
        ConfigError
            Where they would end with this process: a scheduler of our own, jobs of the local backend, credentials that
            exist in memory only. ``dask adaptive up`` starts a cluster that lives on.
        """
        mortal = [each.name for each in self._backends.values() if getattr(each, "ends_with_owner", False)]
        if self._attached is None:
            raise ConfigError("the scheduler ends with this process; `dask adaptive up` starts a cluster that lives on")
        if mortal:
            raise ConfigError(f"jobs of the backend {mortal[0]!r} end with this process; close() ends them now")
        if self.security.require_encryption and "\n" in str(self.security.tls_worker_key):
            raise ConfigError("jobs that start later need the credentials as files; these exist in memory only")
        self._leaves = True
        return self.close()

    def close(self, timeout: float | None = None) -> Any:
        """End every job, and the scheduler if it is ours. Safe to call twice, and after ctrl-C."""
        if self.status == Status.created and self._starting is None:
            self.status = Status.closed
        return super().close(timeout)

    async def _close(self) -> None:
        if self.status == Status.closed:
            return
        starting = self._starting
        if starting is not None and starting is not asyncio.current_task():
            while not starting.done():
                starting.cancel()  # it closes what it has begun; again: before Python 3.12 ``wait_for`` may lose it
                await asyncio.wait([starting], timeout=5.0)
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._really_close())
        await asyncio.shield(self._closing)

    async def _really_close(self) -> None:
        """One step after the other; a step that fails is told, and the others follow."""
        self.status = Status.closing
        for callback in self.periodic_callbacks.values():
            callback.stop()
        if self._recording is not None:
            await self._tried("the run was not recorded", self._recording.stop)
        if not await self._tried("its jobs may not have ended", self._end_jobs):
            self.left = (*self.left, "nobody knows whether all jobs have ended")
        await self._tried("what it learned was not kept", self._keep_learned)
        if self._owner is not None and not self.left and not self._abandons:
            await self._tried("its entry stays", asyncio.to_thread, forget, self._owner.key)
        if self.engine is not None:
            await self._tried("the scheduler may keep its plug-in", self.engine.aclose)
        if self.scheduler_comm is not None:
            await self._tried("a connection stays", self.scheduler_comm.close_rpc)
        if self.scheduler is not None:
            await self._tried("the scheduler may go on", self.scheduler.close)
        await self._tried("somebody may not have been told", asyncio.to_thread, self._alerts.close)
        if self._journal is not None:
            await self._tried("the journal may lack its end", asyncio.to_thread, self._journal.close)
        await self._tried("private files may stay", asyncio.to_thread, self._until_closed.close)
        self.status = Status.closed
        _living.discard(self)

    async def _tried(self, otherwise: str, step: Callable[..., Any], *arguments: Any) -> bool:
        """Whether a step of the end succeeded."""
        try:
            await step(*arguments)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not keep the rest from ending
            self._log(f"{otherwise}: {str(error) or type(error).__name__}")
            return False
        return True

    @property
    def _abandons(self) -> bool:
        """Whether jobs live on: we were told to leave them, or somebody else has adopted them."""
        return self._leaves or (self.engine is not None and self.engine.ousted)

    async def _end_jobs(self) -> None:
        if self.controller is None:
            for backend in self._backends.values():
                await self._tried(f"the backend {backend.name!r} may go on", backend.aclose)
            return
        await self.controller.stop()
        if self._abandons:
            if self._jobs is not None:
                await self._jobs.leave()
            return
        if self._attached is not None:
            await self._hand_over()
        self.left = await self.controller.actuator.aclose(CLOSE_TIMEOUT_S)
        for sentence in self.left:
            self._log(sentence)

    async def _keep_learned(self) -> None:
        await asyncio.to_thread(keep, self._history_path, taught(self.controller, self._kind))

    async def _hand_over(self) -> None:
        """Before our workers leave a scheduler that goes on: let them finish and give their data to the others."""
        controller = self.controller
        record = controller.record if controller is not None and not controller.lost_s else None
        if self.engine is None or record is None or self._jobs is None:
            return
        members = record.snapshot.load.members
        jobs = {name: [member.address for member in each] for name, each in members.items()}
        with suppress(EngineError):
            for name, refusal in (await self.engine.drain(jobs, HAND_OVER_S, busy=True)).items():
                if refusal:
                    self._log(f"job {name} ends although {refusal}")

    # --- identity ---

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @classmethod
    def from_name(cls, name: str, **_: Any) -> Cluster:
        """The living cluster of this name in this process (dask-ctl asks for it)."""
        known = {each.name: each for each in _living}
        check_keys("cluster", [name], known)
        return known[name]


async def discover() -> AsyncIterator[tuple[str, type[Cluster]]]:
    """Names and classes of the living clusters of this process, as dask-ctl asks for them."""
    for cluster in list(_living):
        yield cluster.name, type(cluster)


@atexit.register
def _close_all() -> None:
    """Leave nothing behind when the interpreter ends."""
    for cluster in list(_living):
        with suppress(Exception):
            cluster.loop.add_callback(lambda: asyncio.get_running_loop().set_default_executor(AtOnce()))
            cluster.close(timeout=20)
