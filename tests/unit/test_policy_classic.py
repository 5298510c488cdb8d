"""The simple policies. Tests named ``test_row_NN`` belong to a weakness of Dask's rule in the table of the docs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.errors import ConfigError, PolicyError
from dask_adaptive.model import (
    Capacity,
    Group,
    Limits,
    Load,
    Phase,
    Pool,
    PoolView,
    Shape,
    Startup,
    Target,
    View,
)
from dask_adaptive.plan import checked
from dask_adaptive.policy.classic import Doubling, Fixed, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import FRESH, Policy

from .strategies import groups, views

GB = 10**9
QUICK = Startup(start_s=(0.0,))
AT_ONCE = standard(TargetDuration(), 0.0)
ALL = [Fixed(3), Doubling(), TargetDuration()]


def pool(
    ready: int = 0,
    *,
    name: str = "default",
    idle: int | None = None,
    queued: int = 0,
    shape: Shape = Shape(),  # noqa: B008
    maximum: int | None = None,
    startup: Startup = QUICK,
    price: float = 1.0,
    broken: str = "",
    **capacity: int,
) -> PoolView:
    idle = ready if idle is None else idle
    workers = ready * shape.workers
    offered = {
        "workers": workers,
        "threads": workers * shape.threads,
        "memory_bytes": workers * shape.memory_bytes,
        "idle": idle * shape.workers,
        "busy": (ready - idle) * shape.workers,
    }
    return PoolView(
        Pool(name, shape, Limits(0, maximum), price),
        {Phase.READY: ready, Phase.QUEUED: queued},
        Capacity(**{**offered, **capacity}),
        startup,
        broken,
        idle,
    )


def view(*pools: PoolView, groups: tuple[Group, ...] = (), **load) -> View:
    pools = pools or (pool(),)
    seen = Load(0.0, groups=groups, pools={one.pool.name: one.capacity for one in pools}, **load)
    return View(0.0, 1.0, seen, pools)


def work(ready: int, mean_s: float | None = 0.5, name: str = "f", **more) -> Group:
    return Group(f"{name}-1", name, ready=ready, mean_s=mean_s, **more)


def target(seen: View, policy: Policy | None = None) -> Target:
    return (policy or TargetDuration()).decide(seen, FRESH)[0]


def jobs(seen: View, policy: Policy | None = None) -> int:
    return target(seen, policy).pools["default"].jobs


# --- the rows of the table of weaknesses ----------------------------------------------------------------------


def test_row_11_a_long_running_task_of_an_unknown_kind_tells_about_the_others_before_it_ends():
    assert 3 == jobs(view(groups=(work(16, None),)))
    assert 3 == jobs(view(pool(3, idle=0), groups=(work(16, None, running=3, oldest_s=1.1),)))
    assert 16 == jobs(view(pool(3, idle=0), groups=(work(16, None, running=3, oldest_s=1.4),)))


def test_row_12_tiny_tasks_ask_for_little_as_soon_as_one_has_finished():
    assert 2 == jobs(view(groups=(work(4000, 0.002),)))


def test_row_13_a_straggler_speaks_only_for_itself():
    calm = view(groups=(work(20, 1.0),))
    straggling = view(groups=(work(20, 1.0, running=1, oldest_s=500.0),))
    assert (5, 6) == (jobs(calm), jobs(straggling))


def test_row_14_every_group_counts_in_full_whatever_their_order():
    mixed = tuple(work(100, 0.05 if i % 2 else 5.0, name=f"f{i}") for i in range(4))
    assert {203} == {jobs(view(groups=order)) for order in (mixed, mixed[::-1], mixed[1:] + mixed[:1])}


def test_row_15_threads_are_not_workers_from_zero():
    eight = pool(shape=Shape(threads=8))
    assert 3 == jobs(view(eight, groups=(work(20, 60.0),)))
    assert 2 == jobs(view(pool(shape=Shape(workers=2, threads=8)), groups=(work(20, 60.0),)))


def test_row_16_a_gpu_bounds_the_tasks_of_a_worker():
    gpu = pool(shape=Shape(threads=4, resources={"GPU": 1}))
    assert 8 == jobs(view(gpu, groups=(work(8, 10.0, need={"GPU": 1}),)))
    assert 4 == jobs(view(gpu, groups=(work(8, 10.0, need={"GPU": 0.5}),)))


def test_row_16_tasks_without_a_gpu_share_the_workers_of_those_with_one():
    gpu = pool(shape=Shape(threads=4, resources={"GPU": 1}))
    both = (work(8, 10.0, need={"GPU": 1}), work(24, 10.0, name="g"))
    assert 8 == jobs(view(gpu, groups=both))


def test_row_17_impossible_work_starts_nothing_and_is_reported():
    answer = target(view(groups=(work(64, 10.0, need={"GPU": 1}, unrunnable=64),)))
    assert 0 == answer.pools["default"].jobs
    assert ("64 tasks of 'f' need GPU=1, which no worker of default offers",) == answer.impossible


def test_row_18_pending_work_counts_in_the_same_way_up_and_down():
    waiting = (work(16, 1.0, unrunnable=16),)
    shape = Shape(threads=4)
    sizes = [jobs(view(pool(ready, shape=shape), groups=waiting)) for ready in range(6)]
    assert [1] * 6 == sizes


def test_row_19_pinned_work_starts_nothing_and_the_busy_stay():
    pinned = work(60, 1.0, pinned=True, running=1)
    answer = target(view(pool(3, idle=2), groups=(pinned,)), AT_ONCE)
    assert 1 == answer.pools["default"].jobs
    assert "60 tasks of 'f' are pinned" in answer.declined[0]


def test_row_19_workers_stay_for_waiting_work_that_is_pinned_to_them():
    pinned = work(0, None, pinned=True, waiting=5)
    assert 3 == jobs(view(pool(3), groups=(pinned,)))
    assert 0 == jobs(view(groups=(pinned,)))


def test_row_20_waiting_work_keeps_what_it_needs_sooner_than_a_start():
    def serial(elapsed_s: float) -> View:
        step = work(1, 8.0, "step", running=1, oldest_s=elapsed_s)
        stage = Group("stage-1", "stage", waiting=64, after=("step-1",))
        slow = pool(7, idle=6, startup=Startup(start_s=(3.0,)))
        return view(slow, groups=(step, stage))

    assert (1, 7) == (jobs(serial(1.0)), jobs(serial(6.0)))


def test_row_21_memory_asks_for_what_is_missing():
    shape = Shape(memory_bytes=GB)
    assert 7 == jobs(view(pool(6, shape=shape, held_bytes=4 * GB)))


def test_row_21_memory_at_most_doubles_what_serves():
    shape = Shape(memory_bytes=GB)
    sizes = [jobs(view(pool(ready, shape=shape, held_bytes=60 * GB))) for ready in (2, 4, 200)]
    assert [4, 8, 100] == sizes


def test_row_22_replicas_are_not_counted_twice():
    shape = Shape(memory_bytes=GB)
    broadcast = view(pool(4, shape=shape, held_bytes=2_800_000_000), replicated_bytes=2_100_000_000)
    assert 2 == jobs(broadcast)


def test_row_23_without_a_memory_limit_results_keep_one_job():
    assert 1 == jobs(view(pool(8, held_bytes=28)))
    assert 0 == jobs(view(pool(8)))


def test_row_24_paused_workers_are_no_capacity():
    answer = target(view(pool(1, idle=0, paused=1, threads=0), groups=(work(5, 0.5),)))
    assert 2 == answer.pools["default"].jobs
    assert "paused" in answer.pools["default"].reason


def test_row_25_lightly_used_jobs_stay_until_they_are_idle():
    spread = view(pool(4, idle=0, shape=Shape(threads=4)), groups=(work(4, 100.0, running=4),))
    answer = target(spread, AT_ONCE).pools["default"]
    assert 4 == answer.jobs
    assert "= 1 job of 4 threads; 4 kept, as they are busy" in answer.reason


def test_row_26_never_more_slots_than_tasks():
    assert 3 == jobs(view(groups=(work(3, 1000.0),)))
    assert 2 == jobs(view(pool(shape=Shape(threads=2)), groups=(work(3, None, running=1, oldest_s=900.0),)))


def test_row_27_a_seceded_task_keeps_its_job_and_asks_for_no_other():
    nested = Group("outer-1", "outer", ready=0, long_running=1)
    assert 1 == jobs(view(pool(4, idle=3), groups=(nested,)), AT_ONCE)


# --- sizes ----------------------------------------------------------------------------------------------------


def test_an_idle_cluster_needs_nothing():
    assert 0 == jobs(view(pool(5)))


def test_the_reason_shows_the_numbers():
    want = target(view(pool(shape=Shape(threads=2)), groups=(work(48, 0.5),))).pools["default"]
    sentence = "48 tasks ready, 24.0 s of work at 0.5 s each; in 4 s that takes 6 threads = 3 jobs of 2 threads"
    assert (3, sentence) == (want.jobs, want.reason)


def test_nothing_is_asked_for_that_would_arrive_when_the_work_is_done():
    pods = pool(4, idle=0, startup=Startup(start_s=(30.0,)))
    answer = target(view(pods, groups=(work(100, 1.0),)))
    assert 4 == answer.pools["default"].jobs
    assert "not worth it" in answer.declined[0]
    assert 39 == jobs(view(pods, groups=(work(1000, 1.0),)))


def test_a_new_job_has_work_for_most_of_the_time_that_it_takes_to_start():
    slow = pool(2, idle=0, startup=Startup(start_s=(3.0,)))
    assert [2, 2, 3, 10] == [jobs(view(slow, groups=(work(tasks, 1.0),))) for tasks in (9, 12, 13, 40)]
    quick = pool(2, idle=0, startup=Startup(start_s=(0.1,)))
    assert [2, 3] == [jobs(view(quick, groups=(work(tasks, 1.0),))) for tasks in (8, 9)]


def test_while_nothing_serves_a_guess_asks_only_for_much_more():
    sizes = [jobs(view(pool(queued=1), groups=(work(tasks, None),))) for tasks in (7, 12, 16)]
    assert [1, 3, 3] == sizes
    assert 2 == jobs(view(pool(queued=1), groups=(work(7, 1.0),)))


def test_a_guess_does_not_ask_for_a_little_more():
    assert [6, 5] == [jobs(view(pool(ready), groups=(work(40, None),))) for ready in (4, 5)]
    assert 6 == jobs(view(pool(5), groups=(work(40, 0.6),)))


def test_of_more_tasks_each_is_expected_to_be_shorter():
    sizes = [jobs(view(groups=(work(tasks, None),))) for tasks in (1, 8, 64, 1000)]
    assert [1, 2, 8, 48] == sizes


def test_a_tenth_of_a_job_is_not_worth_a_start():
    assert [2, 2, 3] == [jobs(view(groups=(work(tasks, 0.1),))) for tasks in (80, 84, 85)]


def test_what_ready_tasks_will_leave_behind_is_counted_with_the_results():
    shape = Shape(memory_bytes=GB)

    def half_done(ready: int) -> View:
        tasks = work(ready, 0.5, done=4, held_bytes=GB)
        return view(pool(3, shape=shape, held_bytes=GB), groups=(tasks,))

    assert [2, 4, 6] == [jobs(half_done(ready)) for ready in (0, 4, 10)]
    streaming = work(4, 0.5, done=400, held_bytes=GB)
    assert 2 == jobs(view(pool(3, shape=shape, held_bytes=GB), groups=(streaming,)))


def test_looks_again_when_more_may_be_known_of_an_unknown_kind():
    one = pool(1, idle=0)

    def again_s(**more) -> float | None:
        return target(view(one, groups=(work(6, **more),))).look_again_s

    unknown = [again_s(mean_s=None, waiting=2, running=1, oldest_s=age) for age in (0.0, 0.45, 1.0, 2.0)]
    assert pytest.approx([0.95, 0.5, 0.14, 0.5]) == unknown
    assert again_s(mean_s=0.5) is None
    assert target(view(groups=(work(6, None),))).look_again_s is None


def test_a_client_that_waits_for_any_worker_gets_one():
    assert 1 == jobs(view(waiting_clients=1))
    assert 0 == jobs(view(waiting_clients=1, foreign=Capacity(workers=1, threads=1)))


def test_any_task_gets_a_worker_however_short():
    assert 1 == jobs(view(groups=(work(1, 0.0),)))


def test_workers_that_are_not_ours_take_their_part():
    foreign = Capacity(workers=1, threads=4)
    assert 6 == jobs(view(groups=(work(10, 60.0),), foreign=foreign))
    assert 0 == jobs(view(groups=(work(3, 60.0),), foreign=foreign))


def test_the_cheapest_capable_pool_serves_first_and_the_next_what_is_beyond_its_maximum():
    cheap = pool(name="cheap", price=1.0, maximum=4)
    dear = pool(name="dear", price=3.0)
    few, many = (target(view(dear, cheap, groups=(work(tasks, 60.0),))).pools for tasks in (3, 10))
    assert (3, 0) == (few["cheap"].jobs, few["dear"].jobs)
    assert (4, 6) == (many["cheap"].jobs, many["dear"].jobs)


def test_what_is_beyond_every_maximum_is_left_for_the_limits_to_cut():
    assert 10 == jobs(view(pool(maximum=4), groups=(work(10, 60.0),)))


def test_work_goes_to_a_pool_that_is_able_and_not_broken():
    plain, gpu = pool(name="plain"), pool(name="gpu", price=5.0, shape=Shape(resources={"GPU": 1}))
    answer = target(view(plain, gpu, groups=(work(2, 60.0, need={"GPU": 1}), work(3, 60.0, "g")))).pools
    assert (3, 2) == (answer["plain"].jobs, answer["gpu"].jobs)
    broken = pool(name="plain", broken="no such queue")
    answer = target(view(broken, gpu, groups=(work(3, 60.0),))).pools
    assert (0, 3) == (answer["plain"].jobs, answer["gpu"].jobs)


def test_doubling_waits_until_the_last_step_serves():
    tasks = (work(100),)
    sizes = [jobs(view(one, groups=tasks), Doubling()) for one in (pool(), pool(2, idle=0), pool(2, idle=0, queued=2))]
    assert [1, 4, 4] == sizes


def test_doubling_does_not_grow_beyond_the_tasks_nor_while_a_worker_is_idle():
    assert 5 == jobs(view(pool(4, idle=0), groups=(work(5),)), Doubling())
    assert 4 == jobs(view(pool(4, idle=1), groups=(work(9),)), Doubling())


def test_doubling_gives_up_idle_jobs_when_nothing_waits_but_keeps_the_results():
    assert 1 == jobs(view(pool(4, idle=3), groups=(work(1, running=1),)), Doubling())
    full = pool(4, shape=Shape(memory_bytes=GB), held_bytes=3 * GB)
    assert 8 == jobs(view(full), Doubling())
    half = pool(8, shape=Shape(memory_bytes=GB), held_bytes=3 * GB)
    assert 6 == jobs(view(half), Doubling())


def test_fixed_means_the_first_pool_and_the_others_have_their_minimum():
    both = view(pool(), pool(name="gpu"))
    assert {"default": 4, "gpu": 0} == {name: want.jobs for name, want in target(both, Fixed(4)).pools.items()}
    by_name = target(both, Fixed({"gpu": 2})).pools
    assert {"default": 0, "gpu": 2} == {name: want.jobs for name, want in by_name.items()}
    assert by_name["gpu"].firm


def test_fixed_refuses_a_pool_that_is_not_there():
    with pytest.raises(PolicyError, match="did you mean 'default'"):
        Fixed({"defualt": 2}).decide(view(), FRESH)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed(-1),
        lambda: Fixed(True),
        lambda: Fixed({"default": 1.5}),  # type: ignore[dict-item]
        lambda: Doubling(factor=1),
        lambda: Doubling(memory=0),
        lambda: TargetDuration(0),
        lambda: TargetDuration(math.nan),
        lambda: TargetDuration(math.inf),
        lambda: TargetDuration(memory=60),
        lambda: TargetDuration(unknown_s=-1),
        lambda: TargetDuration(soon_s=0),
    ],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(ConfigError):
        make()


# --- properties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: type(policy).__name__)
@given(seen=views("default"))
def test_the_contract_is_kept_and_asking_twice_gives_the_same(policy, seen):
    answer, past = policy.decide(seen, FRESH)
    checked(answer, seen)
    assert (answer, past) == policy.decide(seen, FRESH)
    assert answer == policy.decide(seen, past)[0]


@pytest.mark.parametrize("policy", [Doubling(), TargetDuration()], ids=lambda policy: type(policy).__name__)
@given(seen=views("default"))
def test_frozen_demand_makes_no_second_decision(policy, seen):
    first = jobs(seen, policy)
    one = seen.pools[0]
    grown = {**one.phases, Phase.QUEUED: one.phases.get(Phase.QUEUED, 0) + max(0, first - one.size)}
    assert first == jobs(replace(seen, pools=(replace(one, phases=grown),)), policy)


@pytest.mark.parametrize("policy", [Doubling(), TargetDuration()], ids=lambda policy: type(policy).__name__)
@given(seen=views("default"), extra=groups(pinned=True))
def test_pinned_work_never_grows(policy, seen, extra):
    more = replace(seen, load=replace(seen.load, groups=(*seen.load.groups, replace(extra, name="p-1"))))
    assert max(jobs(seen, policy), seen.pools[0].ready) >= jobs(more, policy)


@pytest.mark.parametrize("policy", [Doubling(), TargetDuration()], ids=lambda policy: type(policy).__name__)
@given(seen=views("default"), extra=groups(need={"unobtainium": 1.0}, pinned=False))
def test_impossible_work_never_grows_and_is_reported(policy, seen, extra):
    extra = replace(extra, name="p-1", ready=extra.ready + 1, unrunnable=extra.ready + 1, waiting=0)
    more = replace(seen, load=replace(seen.load, groups=(*seen.load.groups, extra)))
    answer = target(more, policy)
    assert jobs(seen, policy) == answer.pools["default"].jobs
    assert any("unobtainium" in sentence for sentence in answer.impossible)


@given(seen=views("default"), extra=groups(pinned=False))
def test_more_work_never_fewer_jobs(seen, extra):
    extra = replace(extra, name="x-1", after=())
    more = replace(seen, load=replace(seen.load, groups=(*seen.load.groups, extra)))
    assert jobs(seen) <= jobs(more)


@given(seen=views("default"), index=st.integers(0, 3), tasks=st.integers(1, 100))
def test_more_tasks_of_a_group_never_fewer_jobs(seen, index, tasks):
    fewer = list(seen.load.groups) or [work(0)]
    more = list(fewer)
    more[index % len(more)] = replace(more[index % len(more)], ready=more[index % len(more)].ready + tasks)
    small, large = (replace(seen, load=replace(seen.load, groups=tuple(some))) for some in (fewer, more))
    assert jobs(small) <= jobs(large)


@given(tasks=st.lists(groups(pinned=False, need={}), max_size=4), threads=st.integers(1, 16), more=st.integers(0, 16))
def test_more_threads_per_job_never_more_jobs(tasks, threads, more):
    small, large = (pool(shape=Shape(threads=number)) for number in (threads, threads + more))
    assert jobs(view(small, groups=tuple(tasks))) >= jobs(view(large, groups=tuple(tasks)))


@given(seen=views("default"), power=st.integers(-3, 3))
def test_scaling_all_times_changes_nothing(seen, power):
    scale = 2.0**power

    def scaled(group: Group) -> Group:
        mean_s = None if group.mean_s is None else group.mean_s * scale
        return replace(group, mean_s=mean_s, oldest_s=group.oldest_s * scale)

    one = seen.pools[0]
    one = replace(one, startup=replace(one.startup, start_s=one.startup.start_s or (1.0,)))
    seen = replace(seen, pools=(one,))
    startup = Startup(*(tuple(s * scale for s in times) for times in (one.startup.queue_s, one.startup.start_s)))
    load = replace(seen.load, groups=tuple(scaled(group) for group in seen.load.groups))
    other = replace(seen, load=load, pools=(replace(one, startup=startup),))
    assert jobs(seen) == jobs(other, TargetDuration(4.0 * scale, unknown_s=1.9 * scale, soon_s=2.0 * scale))


@given(seen=views())
def test_no_more_slots_than_tasks_in_any_number_of_pools(seen):
    tasks = sum(group.ready for group in seen.load.groups)
    empty = tuple(replace(one, phases={}, capacity=Capacity(), idle=0) for one in seen.pools)
    load = replace(seen.load, pools={}, waiting_clients=0)
    answer = target(replace(seen, pools=empty, load=load))
    assert tasks + len(seen.pools) - 1 >= sum(want.jobs for want in answer.pools.values())
    assert (tasks > 0) >= any(want.jobs for want in answer.pools.values())
