"""From the plug-in's answer, plain rows of numbers, to a ``Load``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dask_adaptive.model import Capacity, Group, IdleJob, Load, Member

__all__ = ["Reader"]


class Reader:
    """Keeps what did not change between two looks: members, idle jobs, and the difference of two clocks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.members_version = 0
        self.idle_version = 0
        self._clock = clock
        self._offset_s: float | None = None
        self._members: Mapping[str, tuple[Member, ...]] = {}
        self._idle: tuple[IdleJob, ...] = ()

    def load(self, answer: Mapping[str, Any]) -> Load:
        """The load that an answer of the plug-in tells."""
        now_s = self._clock()
        offset_s = self._offset(now_s - answer["now"])
        if answer["members"] is not None:
            self.members_version = answer["members_version"]
            self._members = _members(answer["members"])
        if answer["idle"] is not None:
            self.idle_version = answer["idle_version"]
            self._idle = tuple(
                IdleJob(job, min(now_s, since_s + offset_s), held, only) for job, since_s, held, only in answer["idle"]
            )
        return Load(
            at_s=now_s,
            groups=tuple(_group(*row) for row in answer["groups"]),
            members=self._members,
            idle=self._idle,
            pools={pool: Capacity(*row) for pool, row in answer["pools"].items()},
            foreign=Capacity(*answer["foreign"]),
            waiting_clients=answer["waiting_clients"],
            replicated_bytes=answer["replicated"],
            leaving=tuple(answer["leaving"]),
        )

    def _offset(self, seen_s: float) -> float:
        """Difference of the clocks; kept while it stays the same, so that unchanged times stay unchanged."""
        if self._offset_s is None or abs(seen_s - self._offset_s) > 1.0:
            self._offset_s = seen_s
            self.idle_version = 0
        return self._offset_s


def _members(rows: Mapping[str, Any]) -> Mapping[str, tuple[Member, ...]]:
    return {job: tuple(Member(address, name) for address, name in workers) for job, workers in rows.items()}


def _group(
    name: str,
    prefix: str,
    need: Any,
    pinned: bool,
    ready: int,
    running: int,
    waiting: int,
    done: int,
    unrunnable: int,
    long_running: int,
    oldest_s: float,
    mean_s: float | None,
    spread_s: float | None,
    after: Any,
    held_bytes: int,
) -> Group:
    return Group(
        name=name,
        prefix=prefix,
        ready=ready,
        running=running,
        waiting=waiting,
        done=done,
        unrunnable=unrunnable,
        long_running=long_running,
        mean_s=mean_s,
        spread_s=spread_s,
        oldest_s=oldest_s,
        need=dict(need),
        pinned=pinned,
        after=tuple(after),
        held_bytes=held_bytes,
    )
