"""The hosts of the SSH backend as they are now: connected, set aside, cut off, lost, or given back."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dask_adaptive.backend._link import Link, Message
from dask_adaptive.backend.hosts import Host
from dask_adaptive.backoff import backoff_s
from dask_adaptive.errors import BackendError, Unavailable
from dask_adaptive.model import JobId, Shape

__all__ = ["ANSWER_S", "Place", "Places", "tell"]

logger = logging.getLogger("dask_adaptive")

ANSWER_S = 20.0
LONGEST_REST_S = 300.0
HURRIED_REST_S = 5.0
REPAIR_S = 3.0
MEET_S = 5.0
IDLE_S = 300.0
AT_ONCE = 16  # a jump host refuses more that have not logged in yet


@dataclass(eq=False)
class Place:
    """A host as it is now.

    ``alive`` are the ids of its jobs that have not ended, as far as is known; ``coming`` counts those on their way.
    ``reason`` says why it is set aside until ``retry_s``; ``cut_s`` is since when its connection is cut, and ``lost``
    whether that is so long ago that its jobs are no longer waited for.
    """

    host: Host
    link: Link | None = None
    opening: asyncio.Task[None] | None = None
    cores: int = 0
    load: float = 0.0
    alive: set[JobId] = field(default_factory=set)
    coming: int = 0
    told: set[JobId] = field(default_factory=set)
    failures: int = 0
    reason: str = ""
    retry_s: float = 0.0
    cut_s: float = 0.0
    lost: bool = False
    used_s: float = 0.0
    oddity: str = ""

    def slots(self, shape: Shape) -> int:
        """How many jobs of a shape it runs at the same time."""
        return self.host.slots or max(1, self.cores // shape.job_threads)

    @property
    def usable(self) -> bool:
        """Whether it is connected and not set aside."""
        return self.link is not None and time.monotonic() >= self.retry_s

    def free(self, shape: Shape) -> int:
        """How many more it takes now; none while it cannot be used."""
        return max(0, self.slots(shape) - len(self.alive) - self.coming) if self.usable else 0

    def serves(self) -> None:
        """It did what it was asked for."""
        self.failures, self.reason = 0, ""

    def burden(self, shape: Shape) -> tuple[float, float]:
        """By how much it is loaded: by our jobs, then by what else runs there."""
        return (len(self.alive) + self.coming) / self.slots(shape), self.load / max(1, self.cores)

    def fail(self, reason: str, now_s: float) -> None:
        """Set it aside; each time in a row for twice as long, but not for long while somebody waits for its jobs."""
        self.failures += 1
        self.reason = reason
        longest_s = LONGEST_REST_S if self.lost or not self.alive else HURRIED_REST_S
        self.retry_s = now_s + backoff_s(self.failures, longest_s)


Opened = Callable[[Host, Callable[[Message], None], Callable[[Link, str], None]], Coroutine[Any, Any, Link]]


class Places:
    """All hosts of a backend, and the connections to them.

    Parameters
    ----------
    hosts:
        The hosts.
    opened:
        Connects to one; gets what to call with a message of its agent, and with the reason when it is cut.
    lost_s:
        After so many seconds without a connection a host counts as lost.
    """

    def __init__(self, hosts: Iterable[Host], opened: Opened, lost_s: float) -> None:
        self.lost_s = lost_s
        self.wakes: list[Callable[[str], None]] = []
        self._opened = opened
        self._places = {host.label: Place(host) for host in hosts}
        self._oddities: set[str] = set()
        self._met: list[asyncio.Task[None]] | None = None
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._closed = False

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    def named(self, label: str) -> Place | None:
        """The host that is named so."""
        return self._places.get(label)

    def notes(self) -> Sequence[str]:
        """What is to be known of the hosts now: which are set aside and why, and what is odd about the others."""
        now_s, notes = time.monotonic(), []
        for place in self:
            if place.reason:
                rest_s = max(0.0, place.retry_s - now_s)
                notes.append(f"host {place.reason}; set aside, tried again in {rest_s:.0f} s")
            elif place.oddity:
                notes.append(place.oddity)
        return notes

    def slots(self, shape: Shape) -> int:
        """How many jobs of a shape the hosts run at the same time; the ones that could not be reached count as said."""
        return sum(place.slots(shape) if place.cores else place.host.slots or 0 for place in self)

    def reasons(self) -> str:
        """Why hosts are set aside, all of it."""
        return "; ".join(place.reason for place in self if place.reason)

    # --- connections ---

    async def meet(self) -> None:
        """Try every host once. Once there is one to work with, the others are not waited for very long."""
        if self._met is None:
            self._met = [self._opening(place) for place in self]
        end_s = time.monotonic() + MEET_S
        while waited := [task for task in self._met if not task.done()]:
            left_s = end_s - time.monotonic()
            if left_s <= 0 and any(place.link is not None for place in self):
                return
            await asyncio.wait(waited, timeout=max(left_s, 0.1), return_when=asyncio.FIRST_COMPLETED)

    def _opening(self, place: Place) -> asyncio.Task[None]:
        if place.opening is None or place.opening.done():
            place.opening = asyncio.ensure_future(self._open(place))
        return place.opening

    async def _open(self, place: Place) -> None:
        if self._closed:
            return
        try:
            async with self._gate:
                link = await self._opened(place.host, self._hear, self._lost)
        except BackendError as error:
            place.fail(str(error), time.monotonic())
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this host only
            place.fail(f"{place.host.label}: {error!r}", time.monotonic())
            return
        place.link, place.cores, place.load = link, link.hello["cores"], link.hello["load"]
        place.reason, place.retry_s, place.cut_s, place.lost = "", 0.0, 0.0, False
        place.used_s = time.monotonic()
        self._compare(place, link.hello)
        if place.told:
            with suppress(BackendError):
                await tell(link, place.told)
                place.told.clear()
        self._wake(f"host {place.host.label} is connected")

    def _compare(self, place: Place, hello: Message) -> None:
        """Say once what is different there."""
        ours = (".".join(map(str, sys.version_info[:3])), importlib.metadata.version("distributed"))
        theirs = (hello["version"], hello["distributed"])
        same = (ours[0].rpartition(".")[0], ours[1]) == (theirs[0].rpartition(".")[0], theirs[1])
        words = "Python {} and distributed {}"
        place.oddity = "" if same else (
            f"host {place.host.label} has {words.format(*theirs)}, here are {words.format(*ours)}: give it the same "
            "environment, or name one with python="
        )  # fmt: skip
        if place.oddity and str(theirs) not in self._oddities:
            self._oddities.add(str(theirs))
            logger.warning("%s", place.oddity)

    def _lost(self, link: Link, why: str) -> None:
        place = self._places[link.host.label]
        if place.link is link:
            place.link, place.cut_s = None, time.monotonic()
            place.fail(f"{place.host.label}: the connection is cut: {why}", place.cut_s)
            place.retry_s = place.cut_s  # once at once
            self._wake(f"the connection to {place.host.label} was cut")

    def _hear(self, message: Message) -> None:
        self._wake(f"{message['name']} {message['state']}: {message['reason']}")

    def _wake(self, why: str) -> None:
        for wake in self.wakes:
            wake(why)

    async def link(self, place: Place) -> Link:
        """The connection to a host; tried again where it is due. Raises ``Unavailable``."""
        if place.link is None and time.monotonic() >= place.retry_s:
            await asyncio.wait([self._opening(place)])
        if place.link is None:
            raise Unavailable(place.reason or f"{place.host.label}: not connected")
        return place.link

    async def repair(self) -> None:
        """Try again where jobs live and no connection does. Raises ``Unavailable`` while they may be there."""
        cut = [place for place in self if place.link is None and place.alive]
        for place in cut:
            place.lost = place.cut_s > 0 and time.monotonic() - place.cut_s >= self.lost_s
        due = [(place, self._opening(place)) for place in cut if time.monotonic() >= place.retry_s]
        if waited := [task for place, task in due if not place.lost]:
            await asyncio.wait(waited, timeout=REPAIR_S)
        for place in cut:
            if place.link is None and not place.lost:
                raise Unavailable(f"{len(place.alive)} jobs run on a host that cannot be asked: {place.reason}")

    async def give_back(self) -> None:
        """Leave hosts that have had no job for a while."""
        now_s = time.monotonic()
        for place in self:
            if place.alive or place.coming:
                place.used_s = now_s
            elif place.link is not None and now_s - place.used_s > IDLE_S:
                await self.leave(place)

    async def leave(self, place: Place) -> None:
        """End the connection; jobs go on."""
        link, place.link = place.link, None
        if link is not None:
            await link.aclose()

    async def shares(self, names: Sequence[str], shape: Shape) -> Sequence[tuple[Place, list[str]]]:
        """Which host takes which of these jobs, in order; the last ones are left out where there is no more room."""
        places = list(self)
        resting = [place for place in places if place.link is None and time.monotonic() >= place.retry_s]
        opening = [(place, self._opening(place)) for place in resting]
        room = sum(place.free(shape) for place in places)
        waited = [task for place, task in opening if not place.reason or not room]
        if waited and room < len(names):
            await asyncio.wait(waited)
        shares: dict[str, tuple[Place, list[str]]] = {}
        for name in names:
            free = [place for place in places if place.free(shape) > 0]
            if not free:
                break
            place = min(free, key=lambda each: each.burden(shape))
            place.coming += 1
            shares.setdefault(place.host.label, (place, []))[1].append(name)
        return list(shares.values())

    async def aclose(self) -> None:
        """End every connection, and make no more."""
        self._closed = True
        opening = [place.opening for place in self if place.opening is not None]
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        await asyncio.gather(*(self.leave(place) for place in self))


async def tell(link: Link, ids: Iterable[JobId]) -> None:
    """Tell these jobs of a host to end."""
    await link.call({"op": "cancel", "names": [each.partition("@")[0] for each in ids]}, ANSWER_S)
