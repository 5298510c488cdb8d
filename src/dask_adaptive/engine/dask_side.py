"""The engine: one object that speaks with one Dask scheduler, in this process or far away, by the same code."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dask.utils import format_bytes
from distributed.comm import connect
from distributed.core import rpc
from distributed.metrics import time as dask_time
from distributed.protocol import pickle as dask_pickle
from distributed.versions import get_versions

from dask_adaptive.engine.parcel import parcel
from dask_adaptive.engine.reading import Reader
from dask_adaptive.errors import EngineError
from dask_adaptive.model import WORKER_NAME, Load
from dask_adaptive.waiting import within

__all__ = ["DaskEngine", "Holding"]

FIRST_CONTACT_S = 30.0
PUBLISH_S = 1.0

logger = logging.getLogger(__name__)

OnWorker = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Holding:
    """Results of one job that one client wants: why the job cannot simply go.

    ``client`` is "" for results that only other tasks wait for; ``keys`` are the first few, ``count`` all of them.
    """

    job: str
    client: str
    keys: tuple[str, ...]
    count: int
    nbytes: int

    def __str__(self) -> str:
        who = f"{self.client} wants" if self.client else "waiting tasks need"
        keys = ", ".join(self.keys) + (", ..." if self.count > len(self.keys) else "")
        return f"{self.job} holds {self.count} results ({format_bytes(self.nbytes)}) that {who}: {keys}"


class DaskEngine:
    """Asks a Dask scheduler what there is to do, and takes workers out of service; implements ``Engine``.

    Parameters
    ----------
    address:
        Where the scheduler listens (``tcp://``, ``tls://``, ``inproc://``).
    key:
        Names our plug-in on the scheduler; another engine with the same key takes over from this one. Also the first
        characters of all tags of this cluster: workers with such names are ours although their tag was not declared
        (their pool is then "").
    named:
        True where our workers have our names (``model.worker_name``). False on somebody else's cluster: every worker
        is ours, in the pool "default"; its job is the one declared for its name or address, else what ``worker_key``
        says, else its own address.
    declared_only:
        With ``named=False``: only workers that were declared are ours.
    worker_key:
        A function of Dask's ``WorkerState`` that names the job of a worker; sent pickled, so the Python versions must
        be equal.
    connection_args:
        ``security.get_connection_args("client")``.
    timeout_s:
        After how many seconds a call is given up; the first contact has 30.
    silent_s:
        After how many seconds without a word from us the scheduler puts workers that are being drained into service
        again.
    on_worker:
        Told of every worker that joins or leaves, in the words of ``Cluster._update_worker_status``:
        ``("add", {"workers": {address: identity}})`` and ``("remove", address)``.
    clock:
        Tells the time of a load, in seconds since the epoch.

    Attributes
    ----------
    ousted:
        Whether another controller has taken over: what is there is no longer ours to end.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str,
        named: bool = True,
        declared_only: bool = False,
        worker_key: Callable[[Any], Any] | None = None,
        connection_args: Mapping[str, Any] | None = None,
        timeout_s: float = 8.0,
        silent_s: float = 30.0,
        on_worker: OnWorker | None = None,
        clock: Callable[[], float] = dask_time,
    ) -> None:
        self.address = address
        self.name = f"dask-adaptive-{key}"
        self.notice = ""
        self.ousted: bool = False
        self.lost = ""
        self._worker_key = worker_key
        self._config: dict[str, Any] = {
            "name": self.name,
            "everything": not named,
            "declared_only": declared_only,
            "pattern": WORKER_NAME.pattern,
            "prefix": key,
            "worker_key": None,
            "silent_s": float(silent_s),
            "token": uuid.uuid4().hex,
        }
        self._connection_args = dict(connection_args or {})
        self._timeout_s = timeout_s
        self._on_worker = on_worker
        self._wake: Callable[[str], None] | None = None
        self._reader = Reader(clock)
        self._tags: dict[str, str] = {}
        self._jobs: dict[str, str] = {}
        self._unsaid: dict[str, str] = {}
        self._workers: set[str] = set()
        self._rpc: Any = None
        self._registered = self._attached = False
        self._attaching = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._streaming = asyncio.Event()
        self._bulletin: Callable[[], Mapping[str, Any]] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._published = False
        self._closed = False

    # --- Engine ---

    async def start(self) -> None:
        """Attach now rather than at the first look, and wait until pushes flow, if wanted. Raises ``EngineError``."""
        await self._attach()
        self._listen()
        if self._listening is None:
            return
        with suppress(asyncio.TimeoutError):
            await within(self._timeout_s, self._streaming.wait())

    async def look(self) -> Load:
        """The load at this moment. Raises ``EngineError`` when the scheduler cannot be asked."""
        if self._unsaid:
            jobs, self._unsaid = self._unsaid, {}
            await self.declare_jobs(jobs)
        answer = await self._ask("look", members=self._reader.members_version, idle=self._reader.idle_version)
        self._listen()
        return self._reader.load(answer)

    async def declare(self, tags: Mapping[str, str]) -> None:
        """Tell which pool the jobs of each tag belong to, before their workers arrive."""
        self._tags.update(tags)
        await self._ask("declare", tags=dict(tags), jobs={})

    async def declare_jobs(self, jobs: Mapping[str, str]) -> None:
        """Tell which job each worker (by name or address) belongs to; only with ``named=False``."""
        self._jobs.update(jobs)
        await self._ask("declare", tags={}, jobs=dict(jobs))

    def expect(self, jobs: Mapping[str, str]) -> None:
        """The same, told with the next look."""
        self._jobs.update(jobs)
        self._unsaid.update(jobs)

    async def drain(self, jobs: Mapping[str, Sequence[str]], wait_s: float, *, busy: bool = False) -> Mapping[str, str]:
        """Take whole jobs out of service without losing anything; for each why it was refused, or ""."""
        listed = {job: list(addresses) for job, addresses in jobs.items()}
        alive = asyncio.ensure_future(self._stay_alive())
        try:
            refusals = await self._ask("drain", _timeout_s=wait_s, jobs=listed, wait_s=wait_s, busy=busy)
        finally:
            alive.cancel()
        return dict(refusals)

    async def _stay_alive(self) -> None:
        """Speak often enough that the scheduler does not take us for dead, however seldom the controller looks."""
        while True:
            await asyncio.sleep(self._config["silent_s"] / 3)
            with suppress(EngineError):
                await self._ask("declare", tags={}, jobs={})

    def watch(self, wake: Callable[[str], None]) -> None:
        """From now on call ``wake`` with a word on what happened at the scheduler.

        "graph", "demand" (tasks became ready that no thread is free for), "quiet" (the last task is done), "learned"
        (the first task of an unknown kind has ended), "worker joined", "worker left", "client waits", "restart",
        "scheduler lost", "scheduler found".
        """
        self._wake = wake
        if self._attached:
            self._listen()

    async def holders(self, jobs: int = 20, keys: int = 5) -> tuple[Holding, ...]:
        """Which client wants which results, for the ``jobs`` jobs that hold most; the first ``keys`` keys each."""
        rows = await self._ask("holders", jobs=jobs, keys=keys)
        return tuple(Holding(job, client, tuple(first), count, nbytes) for job, client, first, count, nbytes in rows)

    def publish(self, bulletin: Callable[[], Mapping[str, Any]]) -> None:
        """Show on the scheduler's dashboard, and in its metrics, what ``bulletin`` says when it is asked.

        It is asked at most once a second, and the last one given always is. Never waits and never raises: a scheduler
        that cannot be told is told the next time.
        """
        self._bulletin = bulletin
        if not self._closed and (self._publishing is None or self._publishing.done()):
            self._publishing = asyncio.ensure_future(self._keep_publishing())

    async def identity(self) -> dict[str, Any]:
        """What the scheduler says about itself and its workers, as Dask's clusters keep it in ``scheduler_info``."""
        found: dict[str, Any] = await self._call("identity", self._timeout_s)
        return found

    async def aclose(self) -> None:
        """Take everything of ours out of the scheduler again; quiet when it is gone already."""
        if self._closed:
            return
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.wait([self._publishing])
        if self._rpc is not None:
            if self._published:
                with suppress(EngineError):
                    await self._call(f"{self._page}-detach", min(self._timeout_s, 5.0), token=self._config["token"])
            if self._attached:
                with suppress(EngineError):
                    await self._call(f"{self.name}-detach", min(self._timeout_s, 5.0), token=self._config["token"])
            await self._rpc.close_rpc()

    # --- calls ---

    async def _ask(self, call: str, _timeout_s: float = 0.0, **arguments: Any) -> Any:
        """Call our plug-in; attach first, and again where the scheduler does not know us any more."""
        for _ in range(2):
            await self._attach()
            answer = await self._call(f"{self.name}-{call}", self._timeout_s + _timeout_s, **arguments)
            if answer is not None:
                return answer
            self._attached = False
        raise EngineError(f"the scheduler at {self.address} does not keep our plug-in {self.name}")

    async def _call(self, op: str, timeout_s: float, **arguments: Any) -> Any:
        if self._rpc is None:
            self._rpc = rpc(self.address, connection_args=self._connection_args, timeout=timeout_s)
        try:
            answer = await within(timeout_s, getattr(self._rpc, op)(**arguments))
        except (OSError, asyncio.TimeoutError) as error:
            self._attached = False
            self._lose(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            raise EngineError(f"the scheduler at {self.address} cannot be asked ({self.lost})") from error
        except Exception as error:
            raise EngineError(f"the scheduler at {self.address} refused {op}: {error}") from error
        self._find()
        return answer

    async def _attach(self) -> None:
        """Compare versions, then put our plug-in into the scheduler and tell it what we declared."""
        if self._closed:
            raise EngineError(f"the engine for {self.address} is closed")
        async with self._attaching:
            if self._attached:
                return
            if not await self._still_there():
                await self._register()
            await self._call(f"{self.name}-declare", self._timeout_s, tags=dict(self._tags), jobs=dict(self._jobs))
            self._attached = self._registered = True

    async def _still_there(self) -> bool:
        """Whether our plug-in outlived a lost connection. Raises ``EngineError`` where it serves another engine."""
        if not self._registered:
            return False
        owner = await self._call(f"{self.name}-owner", self._timeout_s)
        self.ousted = owner not in (None, self._config["token"])
        if self.ousted:
            raise EngineError(f"another controller took over {self.name} at {self.address}")
        return owner is not None

    async def _register(self) -> None:
        same_python = self._compare(await self._call("versions", max(self._timeout_s, FIRST_CONTACT_S)))
        if self._worker_key is not None:
            if not same_python:
                raise EngineError(f"worker_key cannot be sent: {self.notice}")
            self._config["worker_key"] = dask_pickle.dumps(self._worker_key)
        plugin = parcel("Inside", self._config)
        await self._call("register_scheduler_plugin", self._timeout_s, plugin=plugin, name=self.name, idempotent=False)

    def _compare(self, theirs: Mapping[str, Any]) -> bool:
        """Put differences between their versions and ours into ``notice``; True where Python is the same."""
        ours = get_versions()
        python = [re.match(r"\d+\.\d+", str(dict(side["host"])["python"])) for side in (theirs, ours)]
        here, there = (dict(side["packages"]) for side in (ours, theirs))
        differences = [
            f"{name} {there.get(name)} there, {here[name]} here"
            for name in ("dask", "distributed", "msgpack")
            if there.get(name) != here[name]
        ]
        versions = [match.group() if match else "" for match in python]
        if versions[0] != versions[1]:
            differences.insert(0, f"Python {versions[0]} there, {versions[1]} here")
        self.notice = f"the scheduler at {self.address} differs: {'; '.join(differences)}" if differences else ""
        return versions[0] == versions[1]

    def _lose(self, why: str) -> None:
        if not self.lost:
            self.lost = why
            self._tell("scheduler lost")

    def _find(self) -> None:
        if self.lost:
            self.lost = ""
            self._tell("scheduler found")

    def _tell(self, word: str) -> None:
        if self._wake is not None and not self._closed:
            self._wake(word)

    # --- the page ---

    @property
    def _page(self) -> str:
        return f"{self.name}-page"

    async def _keep_publishing(self) -> None:
        while self._bulletin is not None and not self._closed:
            bulletin, self._bulletin = self._bulletin, None
            try:
                await self._publish(bulletin())
            except EngineError as error:
                logger.debug("Nothing published: %s", error)
            except Exception:  # what cannot be shown must not end the showing
                logger.exception("A bulletin could not be published")
            await asyncio.sleep(PUBLISH_S)

    async def _publish(self, bulletin: Mapping[str, Any]) -> None:
        """Tell the plug-in of the page; put it into the scheduler first where it is not there, or no longer."""
        token = self._config["token"]
        for _ in range(2):
            if not self._published:
                page = parcel("Page", {"name": self._page, "token": token})
                self._published = True  # from here on there is something to be taken out again
                call = {"plugin": page, "name": self._page, "idempotent": False}
                await self._call("register_scheduler_plugin", self._timeout_s, **call)
            if await self._call(f"{self._page}-publish", self._timeout_s, token=token, bulletin=bulletin) is not None:
                return
            self._published = False

    # --- pushes ---

    def _listen(self) -> None:
        wanted = self._wake is not None or self._on_worker is not None
        if wanted and not self._closed and (self._listening is None or self._listening.done()):
            self._listening = asyncio.ensure_future(self._keep_listening())

    async def _keep_listening(self) -> None:
        """Read pushes; after a lost connection come back, more and more patiently."""
        delay_s = 0.1
        while not self._closed:
            try:
                await self._attach()
                connecting = connect(self.address, timeout=self._timeout_s, **self._connection_args)
                comm = await within(2 * self._timeout_s, connecting)
                try:
                    await self._read_pushes(comm)
                    delay_s = 0.1
                finally:
                    comm.abort()
            except (OSError, asyncio.TimeoutError, EngineError) as error:
                logger.debug("No pushes from %s: %s", self.address, error)
            except Exception:  # somebody else's callback must not end the pushes
                logger.exception("Reading pushes from %s failed; trying again", self.address)
            self._streaming.clear()
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, 5.0)

    async def _read_pushes(self, comm: Any) -> None:
        await comm.write({"op": f"{self.name}-watch", "details": self._on_worker is not None})
        first = await within(self._timeout_s, comm.read())
        if not isinstance(first, dict) or "workers" not in first:
            self._attached = False  # a scheduler that does not know us any more
            return
        self._resync(first["workers"])
        self._streaming.set()
        with suppress(OSError):
            while True:
                for message in await comm.read():
                    for op, address, info in message["workers"]:
                        self._worker(op, address, info)
                    for word in message["words"]:
                        self._tell(word)
        if not self._closed:  # is it the connection or the scheduler? the next call tells
            self._attached = False

    def _resync(self, workers: Mapping[str, Any]) -> None:
        for address in self._workers - set(workers):
            self._worker("remove", address, None)
        for address in [address for address in workers if address not in self._workers]:
            self._worker("add", address, workers[address])

    def _worker(self, op: str, address: str, info: Any) -> None:
        if self._on_worker is None:
            return
        if op == "add":
            self._workers.add(address)
            self._on_worker("add", {"workers": {address: info}})
        elif address in self._workers:
            self._workers.discard(address)
            self._on_worker("remove", address)
