"""Fourteen shapes of work, each 5 to 25 seconds long on eight workers.

Tasks sleep: what is measured is the scaling, and several cells can run at the same time on a small machine. A shape
is one coroutine that talks to the cluster through a ``Session`` and marks with ``session.response()`` what a user
would wait for.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future, get_worker, worker_client

__all__ = ["SHAPES", "STARTED", "Session", "Workload"]

MIB = 2**20

STARTED: list[str] = []
"""The key of every task execution that began in this process; a key that is in it twice was repeated."""


# --- tasks -----------------------------------------------------------------------------------------------------


def note_start() -> None:
    """Write down that the present task began; workers live in this process, so the list sees them all."""
    task = get_worker().get_current_task()
    STARTED.append(str(task))


def nap(seconds: float, _inputs: Any = None) -> float:
    """A task that takes ``seconds`` and no processor time."""
    note_start()
    time.sleep(seconds)
    return seconds


def where(seconds: float) -> str:
    """Like ``nap``, but the result is the address of the worker."""
    nap(seconds)
    return str(get_worker().address)


class Ballast:
    """A result that claims to be large; sent over a wire it is nothing."""

    def __sizeof__(self) -> int:
        return 256 * MIB


def ballast(seconds: float) -> Ballast:
    """Like ``nap``, but the result claims 256 MiB."""
    nap(seconds)
    return Ballast()


def nest(count: int, seconds: float) -> int:
    """A task that computes ``count`` others with a client of its own and waits for them."""
    note_start()
    with worker_client() as client:
        futures = client.map(nap, count * [seconds], key=unique_keys("inner", count))
        return len(client.gather(futures))


def unique_keys(name: str, count: int) -> list[str]:
    """Keys with the prefix ``name`` that nobody used before."""
    token = uuid.uuid4().hex
    return [f"{name}-{token}-{i}" for i in range(count)]


# --- sessions --------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """A user at work: submits tasks, waits for results, and is asked how long that took."""

    client: Client
    responses: list[float] = field(default_factory=list)

    @contextmanager
    def response(self) -> Iterator[None]:
        """What happens inside is one thing that the user waited for."""
        start = time.monotonic()
        yield
        self.responses.append(time.monotonic() - start)

    def map(
        self,
        name: str,
        seconds: Sequence[float],
        inputs: Any = None,
        function: Callable[..., Any] = nap,
        **options: Any,
    ) -> list[Future]:
        """Submit one task per entry of ``seconds`` under the prefix ``name``."""
        arguments = [seconds] if inputs is None else [seconds, len(seconds) * [inputs]]
        keys = unique_keys(name, len(seconds))
        return self.client.map(function, *arguments, key=keys, pure=False, **options)

    async def results(self, futures: Iterable[Future]) -> list[Any]:
        """Wait for all of them; a task that failed raises."""
        return list(await self.client.gather(list(futures)))

    async def answer(self, name: str, seconds: Sequence[float], **options: Any) -> list[Any]:
        """One response: submit, wait, forget."""
        with self.response():
            return await self.results(self.map(name, seconds, **options))


# --- shapes ----------------------------------------------------------------------------------------------------


async def burst(session: Session) -> None:
    await session.answer("burst", 64 * [0.5])


async def idle_then_burst(session: Session) -> None:
    await session.answer("first", 16 * [0.25])
    await asyncio.sleep(6)
    await session.answer("second", 96 * [0.25])


async def ramp(session: Session) -> None:
    async def wave(number: int) -> None:
        await asyncio.sleep(1.5 * number)
        await session.answer("wave", 2**number * [0.5])

    await asyncio.gather(*(wave(number) for number in range(6)))


async def map_reduce(session: Session) -> None:
    with session.response():
        loaded = session.map("load", 40 * [0.5])
        summed = session.map("sum", [4.0], inputs=loaded)
        applied = session.map("apply", 40 * [0.5], inputs=summed)
        await session.results(session.map("total", [0.2], inputs=applied))


async def stragglers(session: Session) -> None:
    await session.answer("straggler", [*(48 * [0.25]), 6.0, *(48 * [0.25]), 6.0])


async def persisted(session: Session) -> None:
    with session.response():
        kept = session.map("persist", 12 * [0.5], function=ballast)
        await asyncio.gather(*kept)
    await asyncio.sleep(5)
    with session.response():
        await session.results(
            session.client.map(nap, 12 * [0.5], kept, key=unique_keys("use", 12), pure=False),
        )


async def many_tiny(session: Session) -> None:
    await session.answer("tiny", 3000 * [0.002])


async def never_seen(session: Session) -> None:
    for stage in ("alpha", "beta", "gamma", "delta", "epsilon"):
        await session.answer(stage, 24 * [0.4])


async def bound_to_resource(session: Session) -> None:
    await session.answer("bound", 24 * [1.0], resources={"GPU": 1})


async def pinned(session: Session) -> None:
    with session.response():
        [home] = await session.results(session.map("home", [0.2], function=where))
        await session.results(session.map("pinned", 20 * [0.4], workers=[home], allow_other_workers=False))


async def nested(session: Session) -> None:
    with session.response():
        keys = unique_keys("outer", 4)
        outer = [session.client.submit(nest, 16, 0.5, key=key, pure=False) for key in keys]
        await session.results(outer)


async def periodic(session: Session) -> None:
    for _ in range(5):
        await session.answer("period", 16 * [0.5])
        await asyncio.sleep(2.5)


async def trickle(session: Session) -> None:
    async def drop(number: int) -> None:
        await asyncio.sleep(0.5 * number)
        await session.answer("drop", [0.3])

    await asyncio.gather(*(drop(number) for number in range(24)))


async def few_long(session: Session) -> None:
    await session.answer("long", 6 * [6.0])


@dataclass(frozen=True)
class Workload:
    """A shape of work, and the worker that it needs; every rival gets the same worker.

    ``alone``: it keeps the processor busy, so that nothing else may be measured at the same time.
    """

    name: str
    about: str
    run: Callable[[Session], Awaitable[None]]
    threads: int = 1
    resources: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 1024 * MIB
    alone: bool = False


SHAPES = {
    workload.name: workload
    for workload in (
        Workload("burst", "64 tasks of 0.5 s at once", burst),
        Workload("idle-then-burst", "16 short tasks, 6 s of nothing, 96 short tasks", idle_then_burst),
        Workload("ramp", "every 1.5 s twice as many tasks of 0.5 s, up to 32", ramp),
        Workload("map-reduce", "40 tasks, one of 4 s on all of them, 40 tasks, one: a single graph", map_reduce),
        Workload("stragglers", "96 tasks of 0.25 s and two of 6 s under the same name", stragglers),
        Workload("persisted", "3 GiB kept on workers of 1 GiB, 5 s of nothing, then used", persisted),
        Workload("many-tiny", "3,000 tasks of 2 ms", many_tiny, alone=True),
        Workload("never-seen", "five stages of 24 tasks of 0.4 s, each of a new name", never_seen),
        Workload(
            "resource",
            "24 tasks of 1 s that take the one GPU of a worker with 4 threads",
            bound_to_resource,
            threads=4,
            resources={"GPU": 1},
        ),
        Workload("pinned", "20 tasks of 0.4 s that may only run on one worker", pinned),
        Workload("nested", "4 tasks that each compute 16 tasks of 0.5 s and wait for them", nested),
        Workload("periodic", "five times 16 tasks of 0.5 s, 2.5 s of nothing between", periodic),
        Workload("trickle", "a task of 0.3 s every 0.5 s, 24 times", trickle),
        Workload("few-long", "6 tasks of 6 s", few_long),
    )
}
"""Every shape by name."""
