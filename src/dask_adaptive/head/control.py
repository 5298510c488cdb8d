"""What a head can be asked, over Dask's own comms: one handler on its scheduler, in plain values.

Whoever may connect to the scheduler holds the credentials of the cluster, and may ask. Answers are ``{"value": ...}``
or ``{"error": class name, "message": sentence}``, so that both ends may be of different versions.
"""

from __future__ import annotations

import asyncio
import inspect
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from distributed.core import rpc
from distributed.security import Security

from dask_adaptive.cluster import Cluster
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, ConfigError, EngineError, PolicyError, nearest
from dask_adaptive.journal import lines_of
from dask_adaptive.model import ALIVE, Record
from dask_adaptive.waiting import within

__all__ = ["CONNECT_S", "HANDLER", "Control", "ask", "ask_through", "fingerprint"]

HANDLER = "dask_adaptive_head"
ASK_S = 30.0
CONNECT_S = 5.0


class Control:
    """Answers for one head.

    Parameters
    ----------
    cluster:
        The cluster, running.
    about:
        What is told of the head itself: name, process, since when, version.
    leave:
        Called to end the head.
    budget:
        Worker-hours, in all or by pool, that hold whatever is asked for later; None: without limit.
    """

    def __init__(
        self,
        cluster: Cluster,
        about: Mapping[str, Any],
        leave: Callable[[str], None],
        budget: float | Mapping[str, float] | None = None,
    ) -> None:
        self.cluster = cluster
        self.about = dict(about)
        self.leave = leave
        self.budget = budget
        asked = (self.status, self.explain, self.events, self.news, self.log, self.scale, self.adapt, self.end)
        self.calls: dict[str, Callable[..., Any]] = {call.__name__: call for call in asked}

    def install(self) -> None:
        """From now on answer."""
        if self.cluster.scheduler is not None:
            self.cluster.scheduler.handlers[HANDLER] = self.answer

    async def answer(self, call: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One answer; whatever goes wrong is a part of it."""
        try:
            if call not in self.calls:
                raise ConfigError(f"this head cannot be asked for {call!r}; {nearest(call, self.calls)}")
            value = self.calls[call](**arguments)
            return {"value": await value if inspect.isawaitable(value) else value}
        except Exception as error:  # noqa: BLE001 - the one who asked is told
            return {"error": type(error).__name__, "message": str(error)}

    # --- what can be asked ---

    def status(self) -> dict[str, Any]:
        """Everything about the cluster in plain values: itself, its pools, jobs, workers and tasks."""
        record = self._record
        jobs = [{**asdict(row), "phase": row.phase.value} for row in self.cluster.status()]
        groups = record.snapshot.load.groups if record else ()
        return {
            **self.about,
            "address": self.cluster.scheduler_address,
            "workers": len(self.cluster.scheduler_info["workers"]),
            "threads": sum(each["nthreads"] for each in self.cluster.scheduler_info["workers"].values()),
            "tasks": {word: sum(getattr(group, word) for group in groups) for word in ("ready", "running", "waiting")},
            "pools": list(_pools(record)),
            "jobs": jobs,
            "error": record.error if record else "",
        }

    async def explain(self) -> str:
        """As ``Cluster.explain``."""
        return str(await self.cluster.explain())

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """What happened in the rounds after number ``after``, oldest first; decisions and their reasons among it."""
        return [
            {"number": record.number, "at_s": record.at_s, "text": text}
            for record in self.cluster.records
            if record.number > after
            for text in _sentences(record)
        ]

    def news(self, after: int = 0, workers: int = 0) -> dict[str, Any]:
        """The rounds after number ``after`` as lines of a journal, and the workers if their fingerprint is another."""
        info = self.cluster.scheduler_info
        same = fingerprint(info["workers"]) == workers
        known = [] if same else {address: _plain(worker) for address, worker in info["workers"].items()}
        services = {name: int(port) for name, port in info.get("services", {}).items()}
        identity = {"id": info.get("id", ""), "address": info.get("address", ""), "services": services}
        rounds = [record for record in self.cluster.records if record.number > after]
        news = {"identity": identity, "workers": None if same else known, "rounds": lines_of(rounds[-100:])}
        return {**news, "bulletin": self.cluster.bulletin()}

    async def log(self, job: str) -> str:
        """The end of what a job printed, also after its death."""
        return str(await self.cluster.log(job))

    async def scale(self, **size: Any) -> str:
        """As ``Cluster.scale``; refused where a budget is to be kept."""
        if self.budget is not None:
            raise ConfigError("this cluster has a budget, which a fixed size could not keep; use adapt with limits")
        await self.cluster.scale(**size)
        return "fixed"

    def adapt(self, **options: Any) -> str:
        """As ``Cluster.adapt``; a policy is given by its name, and the budget of the head stays what it is."""
        if self.budget is not None and "budget" not in options:
            options["budget"] = self.budget = _left(self.budget, self._record)
        adaptive = self.cluster.adapt(**options)
        said = {key: options[key] for key in ("policy", "target_duration", "time_value") if key in options}
        chosen = Description(**said)
        top = " workers or more" if adaptive.maximum is None else f" to {adaptive.maximum} workers"
        return f"policy {chosen.policy_name}, {adaptive.minimum}{top}"

    def end(self, why: str = "asked to") -> dict[str, Any]:
        """End every job, the scheduler and the head."""
        self.leave(why)
        return self.about

    @property
    def _record(self) -> Record | None:
        controller = self.cluster.controller
        return controller.record if controller is not None else None


def _left(budget: float | Mapping[str, float], record: Record | None) -> float | dict[str, float]:
    """What is left of a budget: a new policy counts from nothing."""
    spent_s: Mapping[str, float] = record.past.get("spent_s", {}) if record is not None else {}
    if isinstance(budget, Mapping):
        return {pool: max(0.0, hours - spent_s.get(pool, 0.0) / 3600) for pool, hours in budget.items()}
    return max(0.0, budget - sum(spent_s.values()) / 3600)


def fingerprint(addresses: Sequence[str] | Mapping[str, Any]) -> int:
    """A number that tells one set of workers from another; never 0."""
    return zlib.crc32("\n".join(sorted(addresses)).encode()) + 1


def _plain(worker: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("type", "id", "host", "name", "nthreads", "memory_limit", "local_directory", "resources", "status")
    return {key: worker[key] for key in kept if key in worker}


def _pools(record: Record | None) -> Iterator[dict[str, Any]]:
    for name, state in record.snapshot.pools.items() if record else ():
        want = record.target.pools.get(name) if record else None
        lives = record.snapshot.lives.values() if record else ()
        yield {
            "pool": name,
            "jobs": sum(life.pool == name and life.phase in ALIVE for life in lives),
            "wanted": want.jobs if want else None,
            "reason": want.reason if want else "",
            "minimum": state.pool.limits.minimum,
            "maximum": state.pool.limits.maximum,
            "broken": state.broken,
            "stale": state.stale,
        }


def _sentences(record: Record) -> Iterator[str]:
    yield from record.events
    for submit in record.plan.submits:
        yield f"pool {submit.pool}: {submit.count} more: {submit.reason}"
    for retire in record.plan.retires:
        yield f"job {retire.job} is given up: {retire.reason}"
    for cancel in record.plan.cancels:
        yield f"job {cancel.job} is cancelled: {cancel.reason}"
    if record.error:
        yield record.error


# --- the other end -----------------------------------------------------------------------------------------------


async def ask(address: str, security: Security, call: str, *, timeout_s: float = ASK_S, **arguments: Any) -> Any:
    """Ask the head whose scheduler listens at ``address``; errors as of ``ask_through``."""
    connection = security.get_connection_args("client")
    remote = rpc(address, connection_args=connection, timeout=min(timeout_s, CONNECT_S))
    try:
        return await ask_through(remote, call, timeout_s=timeout_s, **arguments)
    finally:
        await remote.close_rpc()


async def ask_through(remote: Any, call: str, *, timeout_s: float = ASK_S, **arguments: Any) -> Any:
    """Ask the head to whose scheduler this ``rpc`` leads.

    Raises
    ------
    EngineError
        If it does not answer within ``timeout_s`` seconds, or is no head.
    AdaptiveError
        Whatever it refuses with, as the class that it names.
    """
    try:
        question: Awaitable[Any] = getattr(remote, HANDLER)(call=call, arguments=arguments)
        answer = await within(timeout_s, _awaited(question))
    except (OSError, asyncio.TimeoutError) as error:
        words = str(error) or f"no answer within {timeout_s:g} s"
        raise EngineError(f"the head at {remote.address} cannot be asked: {words}") from error
    except Exception as error:
        raise EngineError(f"the scheduler at {remote.address} is not a head of ours: {error}") from error
    if "error" not in answer:
        return answer["value"]
    kinds = {kind.__name__: kind for kind in (ConfigError, EngineError, PolicyError)}
    raise kinds.get(answer["error"], AdaptiveError)(answer["message"])


async def _awaited(question: Awaitable[Any]) -> Any:
    return await question
