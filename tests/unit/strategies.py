"""Made-up snapshots, views and loads for property tests."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dask_adaptive.model import (
    Capacity,
    Group,
    IdleJob,
    Life,
    Limits,
    Load,
    Phase,
    Pool,
    PoolState,
    PoolView,
    Shape,
    Snapshot,
    Startup,
    View,
)

# A slow machine is no failure.
settings.register_profile("any-machine", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

GB = 10**9

seconds = st.floats(0.001, 1000.0).map(lambda value: round(value, 3))
needs = st.sampled_from([{}, {}, {}, {"GPU": 1.0}, {"GPU": 0.5}, {"licence": 1.0}])
shapes = st.builds(
    Shape,
    workers=st.integers(1, 4),
    threads=st.integers(1, 8),
    memory_bytes=st.sampled_from([0, 2 * GB, 8 * GB]),
    resources=st.sampled_from([{}, {"GPU": 1.0}, {"GPU": 2.0, "licence": 1.0}]),
)
startups = st.builds(
    Startup, queue_s=st.lists(seconds, max_size=3).map(tuple), start_s=st.lists(seconds, max_size=3).map(tuple)
)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    minimum = draw(st.integers(0, 5))
    return Limits(minimum, draw(st.none() | st.integers(minimum, 40)))


@st.composite
def groups(draw: st.DrawFn, need: Mapping[str, float] | None = None, pinned: bool | None = None) -> Group:
    ready = draw(st.integers(0, 500))
    running = draw(st.integers(0, min(ready, 16)))
    name = draw(st.sampled_from("abcdef"))
    return Group(
        name=f"{name}-1",
        prefix=name,
        ready=ready,
        running=running,
        waiting=draw(st.integers(0, 100)),
        unrunnable=draw(st.integers(0, ready)),
        mean_s=draw(st.none() | seconds),
        oldest_s=draw(seconds) if running else 0.0,
        need=draw(needs) if need is None else need,
        pinned=draw(st.booleans()) if pinned is None else pinned,
        after=draw(st.sampled_from([(), ("a-1",), ("b-1", "c-1")])),
    )


pools = st.builds(Pool, name=st.just("default"), shape=shapes, limits=limits(), price=st.sampled_from([0.5, 1.0, 3.0]))


@st.composite
def capacities(draw: st.DrawFn, shape: Shape, jobs: int) -> Capacity:
    workers = jobs * shape.workers
    paused = draw(st.integers(0, workers))
    busy = draw(st.integers(0, workers))
    return Capacity(
        workers=workers,
        threads=(workers - paused) * shape.threads,
        memory_bytes=workers * shape.memory_bytes,
        held_bytes=draw(st.sampled_from([0, 1, GB, 30 * GB])) if workers else 0,
        busy=busy,
        idle=workers - busy,
        paused=paused,
    )


@st.composite
def pool_views(draw: st.DrawFn, name: str = "default") -> PoolView:
    pool = draw(st.builds(Pool, name=st.just(name), shape=shapes, limits=limits(), price=st.sampled_from([0.5, 1.0])))
    phases = draw(st.dictionaries(st.sampled_from(Phase), st.integers(0, 20), max_size=5))
    ready = phases.get(Phase.READY, 0)
    return PoolView(
        pool=pool,
        phases=phases,
        capacity=draw(capacities(pool.shape, ready)),
        startup=draw(startups),
        broken=draw(st.sampled_from(["", "", "no such queue"])),
        idle=draw(st.integers(0, ready)),
    )


@st.composite
def views(draw: st.DrawFn, *names: str) -> View:
    """A view of the named pools; of one or two where none is named."""
    chosen = names or draw(st.sampled_from([("default",), ("default", "gpu")]))
    seen = tuple(draw(pool_views(name)) for name in chosen)
    now_s = draw(st.floats(1e9, 2e9).map(round).map(float))
    load = Load(
        at_s=now_s,
        groups=tuple(draw(st.lists(groups(), max_size=4))),
        pools={view.pool.name: view.capacity for view in seen},
        foreign=draw(st.sampled_from([Capacity(), Capacity(), Capacity(workers=2, threads=4, idle=2)])),
        waiting_clients=draw(st.sampled_from([0, 0, 1])),
        replicated_bytes=draw(st.sampled_from([0, GB])),
    )
    return View(now_s, 1.0, load, seen)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """One or two pools in any state, whatever their jobs are doing."""
    now_s = 1e9
    names = draw(st.sampled_from([("default",), ("default", "gpu")]))
    states = {
        name: PoolState(
            pool=Pool(name, draw(shapes), draw(limits())),
            broken=draw(st.sampled_from(["", "", "no such queue"])),
            retry_s=draw(st.sampled_from([0.0, now_s + 30])),
            stale=draw(st.sampled_from(["", "", "", "the manager does not answer"])),
            strays=draw(st.integers(0, 5)),
            submitting=draw(st.sampled_from([False, False, True])),
        )
        for name in names
    }
    lives: dict[str, Life] = {}
    idle = []
    for i in range(draw(st.integers(0, 30))):
        name = f"abcdefgh.{i}"
        phase, refused_s = draw(st.sampled_from(Phase)), draw(st.sampled_from([0, 20]))
        life = Life(name, draw(st.sampled_from(names)), phase, now_s - i, ready_s=now_s - i - refused_s)
        lives[name] = life
        if life.phase is Phase.READY and draw(st.booleans()):
            idle.append(IdleJob(name, now_s - draw(st.integers(0, 9)), only_bytes=draw(st.integers(0, 3))))
    members = dict.fromkeys(draw(st.sets(st.sampled_from(sorted(lives)))), ()) if lives else {}
    return Snapshot(now_s, 1.0, Load(now_s, members=members, idle=tuple(idle)), lives, states)
