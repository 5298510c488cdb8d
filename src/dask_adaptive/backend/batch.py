"""Jobs of a batch system: one engine for all of them, which asks a dialect what to say and a runner to say it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, TypeVar

from dask_adaptive.backend import _leaving
from dask_adaptive.backend.calls import Calls
from dask_adaptive.backend.command import with_preload, worker_config
from dask_adaptive.backend.dialect import Dialect
from dask_adaptive.backend.known import Known
from dask_adaptive.backend.login import Login
from dask_adaptive.backend.logs import Logs
from dask_adaptive.backend.private import PrivateFiles
from dask_adaptive.backend.runner import Here, Runner
from dask_adaptive.backend.script import environment_file, job_script
from dask_adaptive.errors import BackendError, ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Batch, Job, JobId, JobState, Spec
from dask_adaptive.waiting import within

__all__ = ["BatchSystem", "speaking"]

PRIVATE = "PRIVATE"
"""Stands in a shown job script for the private folder, which is made when jobs are submitted."""

RECALL_AT_ONCE = 200
LEAST_GAP = 0.2
"""Of the polling interval, between two questions for the list, whoever asks."""

LONGEST_POLL_S = 60.0
PATIENCE_S = 10.0
"""For how long start and end wait for a system that does not answer."""

TRIES = 3
"""How often a batch that is over a limit is tried again, with a quarter of its jobs each time."""

T = TypeVar("T")


class BatchSystem:
    """Submits, lists and cancels the jobs of one batch system.

    Parameters
    ----------
    dialect:
        The language of the system.
    log_directory:
        Where the output of jobs goes, one file for each; also, in a private folder that is removed at the end, what
        jobs read (variables, credentials). On a file system that the jobs see. ``~`` is home.
    logs_kept:
        How many files of jobs that are over stay there, the newest; a file of a living job always. Up to twice as many
        while the cluster lives. None: all.
    login:
        ``user@host``, as ``ssh`` takes it: the login node where the commands are run. Default: here.
    runner:
        The same as an object: ``Login(host, options=...)``, or one of your own.
    timeout_s:
        After how many seconds a command that does not answer is given up; a submit then counts as unknown.
    max_pending:
        How many jobs may wait in the queue; more are not submitted. None: as many as the system takes.
    submit_gap_s:
        Least time between two submits, in seconds.
    poll_s:
        Seconds between two looks at the job list while something moves; longer when nothing does, or the system is
        slow. Default: what suits the system.

    Raises
    ------
    ConfigError
        For arguments that cannot be.
    """

    elsewhere = True
    ends_with_owner = False
    takes_requests = True

    def __init__(
        self,
        dialect: Dialect,
        *,
        log_directory: str = "~/.dask-adaptive/logs",
        logs_kept: int | None = 100,
        login: str | None = None,
        runner: Runner | None = None,
        timeout_s: float = 120.0,
        max_pending: int | None = None,
        submit_gap_s: float = 0.0,
        poll_s: float | None = None,
    ) -> None:
        self._least_poll_s = dialect.poll_s if poll_s is None else poll_s
        if not timeout_s > 0 or not self._least_poll_s > 0 or not submit_gap_s >= 0:
            raise ConfigError("timeout_s and poll_s must be positive, and submit_gap_s not negative")
        if max_pending is not None and max_pending < 1:
            raise ConfigError(f"max_pending must be at least 1, not {max_pending!r}")
        if logs_kept is not None and logs_kept < 0:
            raise ConfigError(f"logs_kept must not be negative, not {logs_kept!r}")
        if "%" in log_directory:
            raise ConfigError(f"log_directory must not contain '%': {log_directory!r}")
        self.dialect = dialect
        self.name = dialect.name
        self.lag_s = dialect.lag_s
        self.timeout_s = timeout_s
        self.log_directory, self.logs_kept = log_directory, logs_kept
        if login is not None and runner is not None:
            raise ConfigError("give login= or runner=, not both")
        self.runner: Runner = (Here() if login is None else Login(login)) if runner is None else runner
        self.max_pending = max_pending
        self.submit_gap_s = submit_gap_s
        self._probing = asyncio.Lock()
        self._probed = False
        self._closed = False
        self._known = Known()
        self._logs = Logs(self.runner, log_directory, logs_kept)
        self._private = PrivateFiles(self.runner, log_directory)
        self._unsure: set[str] = set()
        self._calls = Calls(self.runner, timeout_s)
        self._submitting = asyncio.Lock()
        self._submitted_s = float("-inf")
        self._listing = asyncio.Lock()
        self._listed_s = float("-inf")
        self._quiet = 1.0
        self._list_took_s = 0.0

    # --- the contract ---

    async def start(self) -> None:
        """Learn the system's version and limits. Raises ``Rejected`` where its commands are missing."""
        with suppress(Unavailable, asyncio.TimeoutError):  # it is down now: it will be asked again
            await within(PATIENCE_S, self._probe())

    @property
    def poll_s(self) -> float:
        """Seconds until the list is worth another look: more while nothing moves or the manager is slow."""
        wanted_s = max(self._least_poll_s * self._quiet, 5 * self._list_took_s)
        return min(wanted_s, max(LONGEST_POLL_S, self._least_poll_s))

    @property
    def trouble(self) -> str:
        """What keeps us waiting now ("squeue has not answered for 12 s"), else an empty text."""
        return self._calls.trouble

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        """Submit the jobs in one command, as an array; fewer than asked for where a limit does not allow more now."""
        async with self._submitting:
            if self._closed:
                raise Rejected("this backend is closed")
            await self._probe()
            await asyncio.sleep(self._submitted_s + self.submit_gap_s - time.monotonic())
            count = min(batch.count, self.dialect.largest, self._room())
            spec, script = await self._script(batch)
            self._unsure.add(batch.tag)
            try:
                ids = await self._submit(batch.tag, count, script, spec)
            except (Unavailable, Rejected, NoCapacity):
                self._unsure.discard(batch.tag)
                raise
            finally:
                self._submitted_s = time.monotonic()
            self._unsure.discard(batch.tag)
        self._known.submitted(ids, batch.names, self._submitted_s)
        self._logs.submitted(ids, batch.names)
        self._quiet = 1.0
        return ids

    async def jobs(self, cluster: str) -> Sequence[Job]:
        """Every job of ours whose name begins with the cluster's key, by one question for all of the user's jobs."""
        async with self._listing:
            await asyncio.sleep(self._listed_s + LEAST_GAP * self._least_poll_s - time.monotonic())
            await self._probe()
            asked_s = self._listed_s = time.monotonic()
            try:
                listed = await self._list()
            finally:
                self._list_took_s = time.monotonic() - asked_s
            moved = self._known.listed(cluster, listed, asked_s, self.lag_s)
            self._quiet = 1.0 if moved else min(self._quiet * 1.3, 6.0)
            await self._end_stuck(
                job.id for job in listed if job.name.startswith(cluster) and job.state is JobState.ENDED
            )
            await self._recall(cluster)
            await self._prune(slack=self.logs_kept or 0)
        return self._known.jobs(cluster)

    async def cancel(self, ids: Collection[JobId]) -> None:
        """End the jobs, in as few commands as the system allows."""
        wanted = self._known.living(ids)
        if not wanted:
            return
        await self._probe()
        answers = [await self._calls.ask(call) for call in self.dialect.cancel(wanted)]
        _understood(self.dialect.cancelled, answers)
        self._known.told(wanted, time.monotonic())
        self._quiet = 1.0

    async def log(self, id: JobId) -> str:
        """The end of what the job printed."""
        name = self._known.name(id)
        if name is None:
            return ""
        return await self._logs.read(self.dialect, id, name)

    async def aclose(self) -> None:
        """Remove the private files, unless jobs that go on need them, and the oldest logs.

        Jobs whose submit had no answer are looked for once more, and ended.
        """
        self._closed = True
        if self._unsure:
            with suppress(BackendError, asyncio.TimeoutError):
                await within(2 * PATIENCE_S, self._end_unsure())
            self._unsure.clear()
        await self._prune()
        if not self._known.reading:
            with suppress(BackendError):
                await self._private.remove()
        await self.runner.aclose()

    async def leave(self) -> None:
        """Let go of the jobs: what those read that start later stays where it is."""
        self._closed = True
        await self.runner.aclose()

    async def folders(self, cluster: str) -> Sequence[str]:
        """See ``Keeping``."""
        return await self._private.folders(cluster)

    def take_over(self, folders: Sequence[str]) -> None:
        """See ``Keeping``."""
        self._private.take_over(folders)

    def job_script(self, batch: Batch) -> str:
        """Exactly what would be submitted; paths of private files, which do not exist yet, apart.

        Where a job script is a file beside a description (HTCondor), the description comes first.
        """
        tls = {option: f"{PRIVATE}/{option}.pem" for option in batch.spec.tls}
        preload = (f"{PRIVATE}/leaving.py", *batch.spec.preload) if batch.spec.preload else ()
        spec = replace(batch.spec, tls=tls, preload=preload)
        log = f"{Path(self.log_directory).expanduser()}/{batch.tag}.%.log"
        script = job_script(self.dialect, batch.tag, spec, log=log, environment=f"{PRIVATE}/environment.sh")
        call = self.dialect.submit(batch.tag, batch.count, script, spec)
        return "\n".join(filter(None, (call.stdin, *call.files.values())))

    # --- submitting ---

    def _room(self) -> int:
        """How many more jobs may wait in the queue."""
        if self.max_pending is None:
            return self.dialect.largest
        waiting = self._known.waiting
        if waiting >= self.max_pending:
            raise NoCapacity(f"{waiting} jobs wait in the queue, and max_pending is {self.max_pending}")
        return self.max_pending - waiting

    async def _submit(self, tag: str, count: int, script: str, spec: Spec, tries: int = TRIES) -> Sequence[JobId]:
        """As many as the system takes now: a batch that is over a limit is refused as a whole."""
        try:
            return await self._submit_all(tag, count, script, spec)
        except NoCapacity:
            if count == 1 or not tries:
                raise
        return await self._submit(tag, max(1, count // 4), script, spec, tries - 1)

    async def _submit_all(self, tag: str, count: int, script: str, spec: Spec) -> Sequence[JobId]:
        call = await self._private.with_files(tag[:4], self.dialect.submit(tag, count, script, spec))
        return _understood(self.dialect.submitted, await self._calls.run(call), count)

    async def _script(self, batch: Batch) -> tuple[Spec, str]:
        """The specification with its files placed, and the script."""
        place, key, spec = self._private.place, batch.cluster, batch.spec
        leaving = await place(key, await asyncio.to_thread(_read, _leaving.__file__), "py")
        tls = {name: await place(key, await asyncio.to_thread(_read, path), "pem") for name, path in spec.tls.items()}
        config = worker_config(spec) if spec.preload else with_preload(worker_config(spec), leaving)
        environment = await place(key, environment_file(config, spec), "sh")
        spec = replace(spec, tls=tls, preload=(leaving, *spec.preload) if spec.preload else ())
        log = await self._logs.pattern(batch.tag, anew=True)
        return spec, job_script(self.dialect, batch.tag, spec, log=log, environment=environment)

    async def _end_unsure(self) -> None:
        ids = [job.id for job in await self._list() if job.name.partition(".")[0] in self._unsure]
        for call in self.dialect.cancel(ids) if ids else ():
            await self._calls.ask(call)

    # --- the list ---

    async def _list(self) -> Sequence[Job]:
        calls = self.dialect.query(await self.runner.user())
        return _understood(self.dialect.queried, [await self._calls.ask(call) for call in calls])

    async def _end_stuck(self, ended: Iterable[JobId]) -> None:
        """Where what has ended is not listed, something that is could not be started, and would stay there for ever."""
        if getattr(self.dialect, "lists_ended", True):
            return
        for call in self.dialect.cancel(list(ended)):
            with suppress(BackendError):
                await self._calls.ask(call)

    async def _recall(self, cluster: str) -> None:
        """Ask how jobs ended that left the list. That not everything can be learned is no error."""
        now_s = time.monotonic()
        missing = self._known.missing(cluster, now_s)[:RECALL_AT_ONCE]
        calls = self.dialect.recall(missing) if missing else ()
        if calls:
            with suppress(BackendError):
                answers = [await self._calls.ask(call) for call in calls]
                self._known.recalled(_understood(self.dialect.recalled, answers), now_s)

    async def _prune(self, *, slack: int = 0) -> None:
        """Remove old logs. That it cannot be done is no error."""
        with suppress(BackendError, asyncio.TimeoutError):
            call = await within(PATIENCE_S, self._logs.surplus(self.dialect, self._known.over, slack=slack))
            if call is not None:
                await within(PATIENCE_S, self._calls.ask(call))

    async def _probe(self) -> None:
        async with self._probing:
            if not self._probed:
                answers = [await self._calls.ask(call) for call in self.dialect.probe()]
                self.dialect = _understood(self.dialect.probed, answers)
                self.lag_s = self.dialect.lag_s
                self._probed = True


def _understood(understand: Callable[..., T], *arguments: Any) -> T:
    """What a dialect makes of an answer. One that it stumbles over is one that it does not understand."""
    try:
        return understand(*arguments)
    except BackendError:
        raise
    except Exception as error:
        raise Garbled(f"the answer was not understood: {type(error).__name__}: {error}") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise Rejected(f"the credentials in {path} cannot be read: {error.strerror or error}") from error


def speaking(kind: type[Dialect]) -> Callable[..., BatchSystem]:
    """What makes a backend that speaks this dialect: it takes the options of the engine and those of the dialect."""
    mine = [each for each in signature(kind).parameters.values() if each.name in kind.options]

    def make(**options: Any) -> BatchSystem:
        own = {each.name: options.pop(each.name) for each in mine if each.name in options}
        return BatchSystem(kind(**own), **options)

    engine = [
        each for each in signature(BatchSystem).parameters.values() if each.name not in ("dialect", *kind.options)
    ]
    said = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in mine]
    make.__signature__ = Signature([*said, *engine])  # type: ignore[attr-defined]
    make.__doc__ = BatchSystem.__doc__
    make.takes_requests = True  # type: ignore[attr-defined]
    make.parts = (BatchSystem, kind)  # type: ignore[attr-defined]
    return make
