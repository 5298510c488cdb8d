"""Jobs whose time runs out: when each is drained, and when its replacement is asked for. Pure.

A resource manager ends a job at its walltime, whatever it runs. So a job is drained before: it gets no more tasks,
finishes what it runs, and hands its data over. How long that takes is learned; jobs that began together are drained
one after the other, and each is replaced early enough that the next one serves when it goes. A manager may end a job
earlier too, and say so by a signal: the job's workers tell (``Load.leaving``), and it is drained at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dask_adaptive.model import Group, Life, Phase, PoolState, Retire, Snapshot

__all__ = ["drain_at_s", "ending", "ends_s", "leaving", "margin_s", "outlasting"]

NEVER = float("inf")

MARGIN = 0.05
MARGIN_S = (5.0, 120.0)
"""The part of a walltime that is left unused, and its bounds in seconds: clocks and managers are not exact."""

STAGGER = 0.1
STAGGER_S = 600.0
"""Over which part of a walltime, and how long at most, the drains of jobs that began together are spread."""

AGAIN_S = 15.0
"""After how long a job that refused to be drained is asked again."""

_GOLDEN = 0.6180339887498949


def ends_s(life: Life, state: PoolState) -> float:
    """When the manager will end this job: as it said, else its walltime after it began to run; infinite without one."""
    if life.ends_s:
        return life.ends_s
    return life.running_s + state.pool.walltime_s if state.pool.walltime_s and life.running_s else NEVER


def margin_s(walltime_s: float) -> float:
    """How much of a walltime is left unused."""
    return min(max(MARGIN * walltime_s, MARGIN_S[0]), MARGIN_S[1])


def drain_at_s(life: Life, state: PoolState, longest_s: float) -> float:
    """When to begin to drain this job. ``longest_s``: how long tasks that run now may go on."""
    end_s = ends_s(life, state)
    if end_s == NEVER:
        return NEVER
    walltime_s = max(end_s - life.running_s, 0.0)
    lead_s = min(max(state.startup.drained_s(0.9), longest_s) + margin_s(walltime_s), walltime_s / 2)
    return end_s - lead_s - _place(life) * min(STAGGER * walltime_s, STAGGER_S)


def _place(life: Life) -> float:
    """Its place in [0, 1) among those of its batch: multiples of the golden ratio are spread evenly at any number."""
    number = life.name.rpartition(".")[2]
    return int(number) * _GOLDEN % 1.0 if number.isdigit() else 0.0


def leaving(snapshot: Snapshot, pool: str) -> frozenset[str]:
    """The serving jobs of a pool that will be drained before a replacement that is asked for now would serve.

    They are counted out where jobs are compared with what is wanted. At the maximum the limit wins: then the
    replacement waits for the end of the old job.
    """
    state = snapshot.pools[pool]
    told = {name for name in snapshot.load.leaving if name in snapshot.lives and _serves(snapshot.lives[name], pool)}
    if not _has_end(snapshot, state):
        return frozenset(told)
    soon_s = snapshot.at_s + state.startup.quantile_s(0.5)
    longest_s = _longest_s(snapshot.load.groups)
    return frozenset(told).union(
        life.name
        for life in snapshot.lives.values()
        if _serves(life, pool) and drain_at_s(life, state, longest_s) <= soon_s
    )


def _serves(life: Life, pool: str) -> bool:
    return life.phase is Phase.READY and life.pool == pool


def ending(snapshot: Snapshot) -> tuple[Retire, ...]:
    """The jobs to be drained now because the manager will end them soon, or told them to end already."""
    found = [Retire(name, "its manager told it to end", busy=True) for name in _told(snapshot)]
    longest_s = _longest_s(snapshot.load.groups)
    bounded = {name for name, state in snapshot.pools.items() if _has_end(snapshot, state) and not state.stale}
    for life in snapshot.lives.values() if bounded else ():
        if life.phase is not Phase.READY or life.pool not in bounded:
            continue
        state = snapshot.pools[life.pool]
        drain_s = drain_at_s(life, state, longest_s)
        refused = life.since_s > drain_s  # it was drained, refused, and serves again
        if snapshot.at_s >= (life.since_s + AGAIN_S if refused else drain_s):
            left_s = ends_s(life, state) - snapshot.at_s
            found.append(Retire(life.name, f"its walltime ends in {max(left_s, 0):.0f} s", busy=True))
    return tuple(found)


def _told(snapshot: Snapshot) -> Iterator[str]:
    for name in snapshot.load.leaving:
        life = snapshot.lives.get(name)
        if life is None or life.phase is not Phase.READY or snapshot.pools[life.pool].stale:
            continue
        refused = life.since_s > life.ready_s
        if not refused or snapshot.at_s >= life.since_s + AGAIN_S:
            yield name


def outlasting(snapshot: Snapshot) -> Mapping[str, str]:
    """Work whose tasks take longer than a job of any pool may run: a sentence each, by the tasks' prefix."""
    walltimes = [state.pool.walltime_s or NEVER for state in snapshot.pools.values()]
    longest_s = max(walltimes, default=NEVER)
    return {
        group.prefix: f"tasks {group.prefix!r} take {group.mean_s:.0f} s, and no job may run longer than "
        f"{longest_s:.0f} s: a longer walltime, or smaller tasks, would let them end"
        for group in snapshot.load.groups
        if group.mean_s is not None and group.mean_s > longest_s and group.ready + group.running + group.waiting
    }


def _has_end(snapshot: Snapshot, state: PoolState) -> bool:
    return bool(state.pool.walltime_s) or any(life.ends_s for life in snapshot.lives.values())


def _longest_s(groups: tuple[Group, ...]) -> float:
    """How long the tasks that run now may go on: a mean and a spread of the slowest kind among them."""
    known = (group.mean_s + (group.spread_s or 0.0) for group in groups if group.running and group.mean_s is not None)
    return max(known, default=0.0)
