"""Jobs on hosts that are reached by SSH."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from dask_adaptive.backend._link import Link, Message
from dask_adaptive.backend._orders import listed_by, message_of, order_of
from dask_adaptive.backend._places import ANSWER_S, Place, Places, tell
from dask_adaptive.backend.contracts import Wake
from dask_adaptive.backend.hosts import Host, hosts_of
from dask_adaptive.errors import Ambiguous, BackendError, ConfigError, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Batch, Job, JobId, JobState, Shape
from dask_adaptive.waiting import within

__all__ = ["Ssh"]

ATTEMPTS = 3


class Ssh:
    """Runs jobs on hosts that are reached by SSH.

    On each host a small agent, which comes and goes with the connection, starts a keeper per job, which does not. A cut
    connection is repaired and ends nothing; whoever comes later finds the jobs by what their keepers wrote down.

    Parameters
    ----------
    hosts:
        As of ``hosts_of``: a list or a file of ``user@host:port*slots``.
    python:
        The interpreter for workers on the hosts. Default: the path of this one.
    directory:
        Where the hosts keep what is known of jobs, and their logs. Default: ``$XDG_STATE_HOME``, else
        ``~/.local/state``, of the user there.
    environment:
        Variables for every worker.
    host_keys:
        ``"check"``: only hosts whose key is in known_hosts. ``"accept-new"``: the key of a host that is not is added to
        it; a key that changed is refused all the same.
    known_hosts:
        The file of host keys. Default: as ``~/.ssh/config`` says, else ``~/.ssh/known_hosts``.
    config:
        The configuration of SSH. Default: ``~/.ssh/config``, with its users, ports, keys and jump hosts.
    keys:
        Private keys to log in with. Default: those of the configuration, of the agent, and of ``~/.ssh``.
    connect_options:
        More keyword arguments for ``asyncssh.connect``, such as ``tunnel`` or ``passphrase``.
    lost_s:
        After so many seconds without a connection the jobs of a host are no longer listed, and so are replaced once
        their workers are gone; until then the list of jobs is ``Unavailable``.
    grace_s:
        Seconds between SIGTERM and SIGKILL.
    log_bytes:
        How much of the output of a job its host keeps: the newest ``log_bytes`` at least, twice that at most.
    timeout_s:
        After how many seconds without an answer a host is given up for that call.

    Raises
    ------
    ConfigError
        For arguments that cannot be.
    """

    name = "ssh"
    elsewhere = True
    lag_s = 0.0
    poll_s = 2.0

    def __init__(
        self,
        hosts: Any = None,
        *,
        python: str | None = None,
        directory: str | None = None,
        environment: Mapping[str, str] | None = None,
        host_keys: Literal["check", "accept-new"] = "check",
        known_hosts: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
        keys: str | Sequence[str] | None = None,
        connect_options: Mapping[str, Any] | None = None,
        lost_s: float = 60.0,
        grace_s: float = 5.0,
        log_bytes: int = 1_000_000,
        timeout_s: float = 60.0,
    ) -> None:
        if not grace_s >= 0 or not lost_s >= 0 or log_bytes < 1 or not timeout_s > 0:
            raise ConfigError("grace_s and lost_s must not be negative; log_bytes and timeout_s must be positive")
        if host_keys not in ("check", "accept-new"):
            raise ConfigError(f"host_keys must be 'check' or 'accept-new', not {host_keys!r}")
        self.hosts = hosts_of(hosts)
        self.timeout_s, self.lost_s, self.grace_s = timeout_s, lost_s, grace_s
        self._python = python or sys.executable
        self._environment = {str(key): str(value) for key, value in (environment or {}).items()}
        self._accept_new = host_keys == "accept-new"
        self._agent = {"directory": directory or "", "grace_s": grace_s, "log_bytes": log_bytes}
        said = {"known_hosts": known_hosts, "config": config, "client_keys": keys}
        paths = {key: _expanded(value) for key, value in said.items() if value is not None}
        self._ssh = {**paths, **(connect_options or {})}
        self._places = Places(self.hosts, self._opened, lost_s)
        self._closed = False

    # --- the contract ---

    async def start(self) -> None:
        """Meet every host. Raises ``NoCapacity`` when none of them can be used; ``submit`` meets them otherwise."""
        await self._places.meet()
        if self.hosts and all(place.reason for place in self._places):
            raise NoCapacity(f"no host can be used: {self._places.reasons()}")

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        """Start the jobs, on the least loaded hosts first. Returns as soon as their processes exist."""
        if self._closed:
            raise Rejected("this backend is closed")
        if not self.hosts:
            raise Rejected("no hosts were given: hosts=['user@host*slots', ...]")
        try:
            return await within(self.timeout_s, self._submit(batch))
        except asyncio.TimeoutError:
            raise Ambiguous(f"{batch.count} jobs were not started within {self.timeout_s:g} s") from None

    async def _submit(self, batch: Batch) -> Sequence[JobId]:
        await self._places.meet()
        message, names = await message_of(batch, self._environment), list(batch.names)
        started: dict[str, JobId] = {}
        unsure: list[str] = []
        refusals: list[str] = []
        for _ in range(ATTEMPTS):
            shares = await self._places.shares(names, batch.spec.shape)
            if not shares:
                break
            parts = await asyncio.gather(*(self._start(*share, batch, message) for share in shares))
            for ids, doubts, refused in parts:
                started |= ids
                unsure += doubts
                refusals += refused.values()
            names = [name for name in names if name not in started and name not in unsure]
        return self._outcome(batch, started, unsure, refusals)

    async def jobs(self, cluster: str) -> Sequence[Job]:
        """Every job of the cluster on every host, whoever started it; ended ones for an hour.

        Raises ``Unavailable`` while a host with living jobs cannot be reached; after ``lost_s`` its jobs are left out.
        """
        await self._places.meet()
        await self._places.repair()
        places = [place for place in self._places if place.link is not None]
        found: dict[JobId, Job] = {}
        for jobs in await asyncio.gather(*(self._listed(place, cluster) for place in places)):
            found |= {job.id: job for job in jobs}
        await self._places.give_back()
        return list(found.values())

    async def cancel(self, ids: Collection[JobId]) -> None:
        """SIGTERM to the process groups, SIGKILL after ``grace_s``; on a host that is lost, when it is back.

        An id names its host: one that is no longer among ``hosts`` is connected to for this.

        Raises ``Unavailable`` where a host cannot be reached; the jobs of the others are told all the same.
        """
        wanted: dict[str, list[JobId]] = {}
        for each in ids:
            wanted.setdefault(_label(each), []).append(each)
        wanted.pop("", None)
        told = (self._cancelled(label, there) for label, there in wanted.items())
        errors = await asyncio.gather(*told, return_exceptions=True)
        for error in errors:
            if isinstance(error, BaseException):
                raise error

    async def log(self, id: JobId) -> str:
        """The newest ``log_bytes`` of what the job printed, from its host, for a day after its end."""
        label = _label(id)
        if not label:
            return ""
        async with self._linked(label) as link:
            return str((await link.call({"op": "log", "name": id.partition("@")[0]}, ANSWER_S))["text"])

    async def aclose(self) -> None:
        """End the connections; the jobs go on."""
        self._closed = True
        await self._places.aclose()

    def watch(self, wake: Wake) -> None:
        """Call ``wake`` when a job changed or a connection was cut."""
        self._places.wakes.append(wake)

    def notes(self) -> Sequence[str]:
        """What is to be known of the hosts now: which are set aside and why, and what is odd about the others."""
        return self._places.notes()

    def slots(self, shape: Shape) -> int:
        """How many jobs of a shape the hosts run at the same time; a host that was never reached counts as said."""
        return self._places.slots(shape)

    # --- submitting ---

    async def _opened(self, host: Host, hear: Callable[[Message], None], lose: Callable[[Link, str], None]) -> Link:
        options = {**self._agent, "host": host.label}
        return await Link.open(host, host.python or self._python, options, self._ssh, self._accept_new, hear, lose)

    async def _start(
        self, place: Place, names: Sequence[str], batch: Batch, message: Message
    ) -> tuple[dict[str, JobId], list[str], dict[str, str]]:
        """Start some jobs on a host: what runs, what may run, and what surely does not, with the reason."""
        ids = {name: JobId(f"{name}@{place.host.label}") for name in names}
        try:
            link = await self._places.link(place)
            jobs = [order_of(batch, name, ids[name], link.hello["place"]) for name in names]
            refused = (await link.call({**message, "jobs": jobs}, self.timeout_s / 2))["refused"]
        except Unavailable as error:
            return {}, [], dict.fromkeys(names, str(error))
        except (Ambiguous, asyncio.CancelledError) as error:
            place.alive |= set(ids.values())  # so that nobody believes a list without this host
            if not isinstance(error, Ambiguous):
                raise
            return {}, list(names), {}
        finally:
            place.coming -= len(names)
        if refused:
            place.fail(f"{place.host.label}: {next(iter(refused.values()))}", time.monotonic())
        else:
            place.serves()
        started = {name: each for name, each in ids.items() if name not in refused}
        place.alive |= set(started.values())
        return started, [], refused

    def _outcome(
        self, batch: Batch, started: Mapping[str, JobId], unsure: Sequence[str], refusals: Sequence[str]
    ) -> Sequence[JobId]:
        first = [name for name in batch.names if name in started]
        if unsure or tuple(first) != batch.names[: len(first)]:
            said = f"{len(started)} of {batch.count} jobs were started, {len(unsure)} more perhaps"
            raise Ambiguous("; ".join([said, *dict.fromkeys(refusals), self._places.reasons()]))
        if not started:
            hosts = [place for place in self._places if place.usable]
            used = sum(len(place.alive) + place.coming for place in hosts)
            why = f"all {used} slots of {len(hosts)} hosts are used" if hosts else "no host can be used"
            raise NoCapacity("; ".join(filter(None, [why, *dict.fromkeys(refusals), self._places.reasons()])))
        return [started[name] for name in first]

    # --- looking and ending ---

    async def _listed(self, place: Place, cluster: str) -> list[Job]:
        try:
            link = await self._places.link(place)
            answer = await link.call({"op": "jobs"}, ANSWER_S)
        except BackendError as error:
            if not place.alive:
                return []
            raise Unavailable(f"{len(place.alive)} jobs run on a host that cannot be asked: {error}") from error
        place.load = answer["load"]
        place.alive = {JobId(each["id"]) for each in answer["jobs"] if each["state"] != JobState.ENDED.value}
        if place.alive and time.monotonic() >= place.retry_s:
            place.serves()
        return [listed_by(each, place.host.label) for each in answer["jobs"] if each["cluster"] == cluster]

    async def _cancelled(self, label: str, ids: Collection[JobId]) -> None:
        place = self._places.named(label)
        if place is not None and place.link is None and place.lost:
            place.told |= set(ids)
            return
        try:
            async with self._linked(label) as link:
                await tell(link, ids)
        except (Ambiguous, Unavailable) as error:
            why = "" if place is not None else f"{len(ids)} jobs on a host that is no longer in hosts= may live on: "
            raise Unavailable(f"{why}{error}") from error

    @asynccontextmanager
    async def _linked(self, label: str) -> AsyncIterator[Link]:
        """The connection to a host; to one that is not ours any more, one for this alone."""
        place = self._places.named(label)
        if place is not None:
            yield await self._places.link(place)
            return
        (host,) = hosts_of([label])
        link = await self._opened(host, lambda _: None, lambda *_: None)
        try:
            yield link
        finally:
            await link.aclose()


def _label(id: JobId) -> str:
    """The host that an id names, as ``Host.label``; empty for an id that was never ours."""
    match = re.fullmatch(r"\w+\.\d+@(\S+)", id)
    if match is None:
        return ""
    try:
        (host,) = hosts_of([match[1]])
    except ConfigError:
        return ""
    return host.label


def _expanded(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        return str(Path(value).expanduser())
    return [_expanded(each) for each in value]
