"""The cost-aware policy: what it asks for, what it keeps, and why. Numbers are by hand."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Group, Limits, Past, Shape, Startup, Target, View
from dask_adaptive.plan import checked
from dask_adaptive.policy.combine import Budget, Largest, Limit, Patience, standard
from dask_adaptive.policy.contracts import FRESH, Policy
from dask_adaptive.policy.cost_aware import CostAware, kinds_in
from dask_adaptive.policy.effect import Effect

from .strategies import groups, views
from .test_policy_classic import pool, view, work
from .test_policy_loop import World, tasks

GB = 10**9
CLOUD = Startup(start_s=(60.0,))
PURE = CostAware(launch_s=0.0)


def decided(policy: Policy, *rounds: View) -> Target:
    """The last target of a few rounds."""
    past: Past = FRESH
    for each in rounds:
        target, past = policy.decide(each, past)
        checked(target, each)
        past = json.loads(json.dumps(past))
    return target


def jobs(policy: Policy, *rounds: View) -> int:
    return decided(policy, *rounds).pools["default"].jobs


def later(seen: View, seconds: float) -> View:
    return replace(seen, now_s=seen.now_s + seconds)


# --- how many ---


def test_as_many_as_the_square_root_says() -> None:
    """1,000 s of work, 10 for a second, 60 for a start: job n saves 1000 / (n (n - 1)) s, worth 60 up to n = 13."""
    seen = view(pool(startup=CLOUD), groups=(work(1000, 1.0, spread_s=0.0),))
    assert 13 == jobs(PURE, seen)
    assert 10 * 1000 / (13 * 12) > 60 > 10 * 1000 / (14 * 13)


def test_somebody_in_a_hurry_gets_more_and_a_dear_pool_less() -> None:
    seen = view(pool(startup=CLOUD), groups=(work(1000, 1.0, spread_s=0.0),))
    dear = view(pool(startup=CLOUD, price=4.0), groups=(work(1000, 1.0, spread_s=0.0),))
    assert 4 < jobs(PURE, dear) < jobs(PURE, seen) < jobs(CostAware(100, launch_s=0.0), seen)


def test_never_more_than_the_work_is_wide_and_one_even_for_the_smallest_task() -> None:
    assert 7 == jobs(CostAware(1e6), view(pool(), groups=(work(7, 10.0, spread_s=0.0),)))
    assert 1 == jobs(CostAware(0.001), view(pool(startup=CLOUD), groups=(work(1, 0.001),)))
    assert 2 == jobs(CostAware(1e6), view(pool(shape=Shape(threads=4)), groups=(work(7, 10.0, spread_s=0.0),)))


def test_nothing_is_asked_for_that_would_arrive_when_nothing_is_left() -> None:
    """Four jobs are done with 200 s of work before a fifth could serve."""
    seen = view(pool(4, idle=0, startup=CLOUD), groups=(work(20, 10.0, running=4, spread_s=0.0),))
    assert 4 == jobs(CostAware(1e6), seen, later(seen, 5.0))


def test_jobs_for_a_later_phase_are_asked_for_when_a_start_before_it() -> None:
    """A task of 300 s, then 50 of 100 s that wait for it; a start takes 60 s."""
    wide = Group("wide", "wide", waiting=50, mean_s=100.0, spread_s=0.0, after=("one",))

    def seen(oldest_s: float) -> View:
        one = Group("one", "one", ready=1, running=1, mean_s=300.0, spread_s=0.0, oldest_s=oldest_s)
        return view(pool(1, idle=0, startup=CLOUD), groups=(one, wide))

    assert 1 == jobs(PURE, seen(10.0), later(seen(10.0), 1.0))
    assert 20 < jobs(PURE, seen(250.0), later(seen(250.0), 1.0))
    assert "not yet" in "".join(decided(PURE, seen(10.0)).declined)


def test_a_place_in_a_queue_that_nobody_pays_is_asked_for_at_once_and_kept() -> None:
    queue = Startup(queue_s=(120.0,) * 5, start_s=(1.0,) * 5)
    work_left = (work(60, 30.0, spread_s=0.0),)
    assert 60 == jobs(PURE, view(pool(startup=queue, maximum=100), groups=work_left))
    waiting = view(pool(2, idle=0, queued=58, startup=queue, maximum=100), groups=work_left)
    assert 60 == jobs(PURE, waiting, later(waiting, 500.0))


def test_one_round_of_demand_is_not_yet_demand_except_from_zero() -> None:
    seen = view(pool(2, idle=0), groups=(work(100, 10.0),))
    first = decided(PURE, seen)
    assert (2, pytest.approx(0.1)) == (first.pools["default"].jobs, first.look_again_s)
    assert 2 < jobs(PURE, seen, later(seen, 0.1))
    assert 2 < jobs(PURE, view(pool(0), groups=(work(100, 10.0),)))


def test_what_the_scheduler_cannot_feed_asks_for_no_jobs() -> None:
    """10,000 tasks of 1 ms: at half a millisecond each the scheduler keeps two threads busy."""
    assert 2 >= jobs(CostAware(1e6), view(pool(), groups=(work(10_000, 0.001, spread_s=0.0),)))


# --- unknown kinds ---


def test_a_guess_is_doubled_while_the_first_of_its_kind_runs_on() -> None:
    sizes = []
    for oldest_s in (0.0, 10.0, 50.0, 250.0):
        seen = view(pool(2, idle=0, startup=CLOUD), groups=(work(100, None, running=2, oldest_s=oldest_s),))
        target = decided(PURE, seen, later(seen, 1.0))
        sizes.append(target.pools["default"].jobs)
        assert target.look_again_s is not None
    assert sorted(set(sizes)) == sizes


def test_what_earlier_runs_taught_is_known_until_this_one_knows_better() -> None:
    policy = CostAware(launch_s=0.0, history={"f": 100.0})
    unknown = view(pool(startup=CLOUD), groups=(work(50, None),))
    known = view(pool(startup=CLOUD), groups=(work(50, 1.0),))
    assert jobs(policy, unknown) > jobs(PURE, unknown)
    assert jobs(policy, known) == jobs(PURE, known)
    assert jobs(PURE, unknown) < jobs(PURE.taught({"f": 100.0}), unknown)


def test_who_is_taught_stays_what_it_is() -> None:
    class Mine(CostAware):
        pass

    mine = Mine(3.0, memory=0.5, unknown_s=7.0, startup_s=8.0, launch_s=9.0, feed_s=0.01, truth={"f": 1.0})
    mine.word = "also what a subclass adds"  # type: ignore[attr-defined]
    same = mine.taught({"f": 100.0})
    assert Mine is type(same)
    assert {**vars(mine), "history": {"f": 100.0}} == vars(same)
    assert {} == mine.history


# --- letting go ---


def test_nothing_is_kept_for_ever_when_nothing_is_left() -> None:
    busy = view(pool(4, idle=0, startup=CLOUD), groups=(work(4, 10.0, running=4),))
    quiet = view(pool(4, startup=CLOUD))
    left_s = decided(CostAware(), busy, quiet).look_again_s
    assert left_s is not None
    assert 1.0 < left_s < 60.0
    assert 4 == jobs(CostAware(), busy, quiet, later(quiet, left_s - 0.1))
    assert 4 > jobs(CostAware(), busy, quiet, later(quiet, left_s))
    assert 0 == jobs(CostAware(), busy, quiet, later(quiet, 1000.0))


def test_pauses_that_last_teach_to_let_go_sooner_and_those_that_end_to_wait() -> None:
    busy = view(pool(4, idle=0, startup=CLOUD), groups=(work(4, 10.0, running=4),))
    quiet = view(pool(4, startup=CLOUD))

    def wait_s(pause_s: float) -> float:
        pauses = [later(busy, number * pause_s) for number in range(4)]
        rounds = [each for start in pauses for each in (start, later(start, 0.001))]
        rounds = [each if number % 2 == 0 else replace(quiet, now_s=each.now_s) for number, each in enumerate(rounds)]
        found = decided(CostAware(), *rounds).look_again_s
        return found or 0.0

    fresh = decided(CostAware(), busy, quiet).look_again_s or 0.0
    assert wait_s(5000.0) < fresh / 2
    assert wait_s(50.0) > 1.5 * fresh


@pytest.mark.parametrize("before_s", [50.0, 5000.0])
def test_the_time_before_the_first_work_is_no_pause(before_s: float) -> None:
    """How long the first graph was in coming says nothing of how soon the next one comes."""
    nothing = view(pool(0, startup=CLOUD))
    busy = later(view(pool(4, idle=0, startup=CLOUD), groups=(work(4, 10.0, running=4),)), before_s)
    quiet = later(view(pool(4, startup=CLOUD)), before_s + 10.0)
    waited = decided(CostAware(), nothing, later(nothing, 0.1), busy, quiet)
    at_once = decided(CostAware(), busy, quiet)
    assert at_once.look_again_s == waited.look_again_s


def test_what_the_last_work_did_without_is_kept_half_as_long() -> None:
    """Four jobs were needed once; since then a short task comes every second. A restart costs 60 s and 3 s beside."""
    busy = view(pool(4, idle=0, startup=CLOUD), groups=(work(4, 10.0, running=4),))
    short = view(pool(4, idle=3, startup=CLOUD), groups=(work(1, 0.5, running=1),))
    quiet = view(pool(4, startup=CLOUD))
    rounds = [each for second in range(1, 34) for each in (later(quiet, second), later(short, second + 0.5))]
    sizes = [jobs(CostAware(), busy, *rounds[:end]) for end in (2, 60, len(rounds))]
    assert [4, 4, 1] == sizes
    reason = decided(CostAware(), busy, *rounds).pools["default"].reason
    assert "half of that as 1 job did without it" in reason


def test_a_job_that_is_needed_again_before_a_restart_pays_is_kept() -> None:
    """Ten idle jobs; a task of 5 s or 500 s, and ten that wait for it. A restart costs 60 s and what waits for it."""
    for run_s, kept in ((5.0, 10), (500.0, 1)):
        one = Group("one", "one", ready=1, running=1, mean_s=run_s, spread_s=0.0)
        wide = Group("wide", "wide", waiting=10, mean_s=30.0, spread_s=0.0, after=("one",))
        seen = view(pool(10, idle=9, startup=CLOUD), groups=(one, wide))
        assert kept == jobs(CostAware(), seen, later(seen, 0.25))


def test_a_tail_that_lasts_is_no_reason_to_keep_what_is_idle() -> None:
    """One task runs for 1,000 s more: whatever comes then comes later than a restart is worth."""
    tail = view(pool(10, idle=9, startup=CLOUD), groups=(work(1, 1000.0, running=1),))
    assert 10 == jobs(CostAware(), tail)  # nothing goes within a quarter of a second
    assert 1 == jobs(CostAware(), tail, later(tail, 0.25))


@pytest.mark.parametrize("held", [{"pinned": True}, {"long_running": 1, "ready": 0, "running": 0}])
def test_work_that_others_do_keeps_idle_jobs_for_a_while_only(held: dict[str, bool]) -> None:
    """A task that runs on, pinned or seceded, says nothing of when the next graph comes."""
    one = replace(work(1, 3.0, running=1), **held)
    seen = view(pool(4, idle=3), groups=(one,))
    assert 0 == jobs(CostAware(), seen, later(seen, 500.0)) - 1


def test_a_place_that_few_could_hold_is_worth_more_than_one_of_many() -> None:
    """Where a start takes longer than the work does, the first jobs save all of it, and the last ones nothing."""
    queue = Startup(queue_s=(600.0,) * 3, start_s=(1.0,) * 3)
    busy = view(pool(40, idle=0, startup=queue), groups=(work(40, 5.0, running=40),))
    quiet = view(pool(40, startup=queue))
    sizes = [jobs(CostAware(), busy, quiet, later(quiet, seconds)) for seconds in (1.0, 10.0, 60.0, 5000.0)]
    assert sorted(sizes, reverse=True) == sizes
    assert 40 > sizes[1] > 0
    assert 0 == sizes[-1]


def test_busy_jobs_stay() -> None:
    assert 5 == jobs(CostAware(), view(pool(5, idle=0, startup=CLOUD)), later(view(pool(5, idle=0)), 9999.0))


# --- floors, pools, effect ---


def test_results_need_memory_whatever_work_is_worth() -> None:
    shape = Shape(memory_bytes=4 * GB)
    seen = view(pool(3, shape=shape, held_bytes=12 * GB))
    assert 5 == jobs(CostAware(), seen, later(seen, 9999.0))


def test_paused_workers_are_no_capacity() -> None:
    seen = view(pool(3, idle=0, paused=2), groups=(work(6, 100.0, spread_s=0.0),))
    assert 8 == jobs(CostAware(1e4), seen, later(seen, 1.0))


def test_the_cheapest_pool_works_first_and_what_is_beyond_its_maximum_goes_to_the_next() -> None:
    def seen(maximum: int, broken: str = "") -> View:
        cheap = pool(name="cheap", maximum=maximum, price=0.5, broken=broken)
        return view(pool(name="dear", price=2.0), cheap, groups=(work(40, 100.0, spread_s=0.0),))

    wants = decided(CostAware(), seen(100)).pools
    assert (40, 0) == (wants["cheap"].jobs, wants["dear"].jobs)
    wants = decided(CostAware(), seen(10)).pools
    assert (10, 30) == (wants["cheap"].jobs, wants["dear"].jobs)
    wants = decided(CostAware(), seen(100, broken="no such queue")).pools
    assert (0, 40) == (wants["cheap"].jobs, wants["dear"].jobs)


def test_a_pool_that_failed_counts_as_dearer_for_a_while() -> None:
    def seen(broken: str, now_s: float) -> View:
        pools = pool(name="dear", price=2.0), pool(name="cheap", price=1.0, broken=broken)
        return replace(view(*pools, groups=(work(4, 100.0, spread_s=0.0),)), now_s=now_s)

    soon = decided(CostAware(), seen("broken", 0.0), seen("", 100.0)).pools
    assert (0, 4) == (soon["cheap"].jobs, soon["dear"].jobs)
    recovered = decided(CostAware(), seen("broken", 0.0), seen("", 400.0)).pools
    assert (4, 0) == (recovered["cheap"].jobs, recovered["dear"].jobs)


def test_work_that_no_pool_can_do_is_said_and_asks_for_nothing() -> None:
    seen = view(groups=(work(5, 10.0, need={"GPU": 1.0}, unrunnable=5), work(3, 1.0, "p", pinned=True)))
    target = decided(CostAware(), seen)
    assert 0 == target.pools["default"].jobs
    assert (1, 1) == (len(target.impossible), sum("pinned" in sentence for sentence in target.declined))


def rate_with(per_s: dict[int, float]) -> list[View]:
    """Rounds in which so many tasks are done per second with so many jobs."""
    rounds, done, now_s = [], 0.0, 0.0
    for serving, rate in per_s.items():
        for _ in range(2):
            group = work(10_000, 5.0, running=serving, done=int(done), spread_s=0.0)
            rounds.append(replace(view(pool(serving, idle=0), groups=(group,)), now_s=now_s))
            now_s += 100.0
            done += 100.0 * rate
        group = work(10_000, 5.0, running=serving, done=int(done), spread_s=0.0)
        rounds.append(replace(view(pool(serving, idle=0), groups=(group,)), now_s=now_s))
    return rounds


def test_more_jobs_that_bring_nothing_twice_are_the_last() -> None:
    bound = rate_with({4: 2.0, 8: 2.01, 16: 2.02})
    target = decided(CostAware(), *bound, later(bound[-1], 1.0))
    assert 16 == target.pools["default"].jobs
    assert any("bring nothing" in sentence for sentence in target.declined)
    fine = rate_with({4: 2.0, 8: 3.9, 16: 7.0})
    assert 16 < jobs(CostAware(), *fine, later(fine[-1], 1.0))


def test_another_group_is_judged_anew() -> None:
    bound = Effect("f-1", 16, 100, 0.0, 2.0, 8, 2.0, strikes=2)
    assert bound.bound
    assert not bound.now([work(500, 5.0, "g", running=16)], 16, 16, 1.0).bound
    assert not bound.now([work(3, 5.0, running=3, done=100)], 16, 16, 1.0).bound


# --- the properties ---


def test_every_number_in_an_explanation_decides_as_was_decided() -> None:
    """Enumerated: what was asked for is worth more than it costs, what was declined is not."""
    numbers = re.compile(r"worth ([\d.e+-]+), and costs ([\d.e+-]+)")
    seen_some = 0
    for ready, mean_s, value, start_s in itertools.product((2, 7, 300), (0.5, 20.0), (1.0, 50.0), (0.5, 60.0)):
        target = decided(
            CostAware(value), view(pool(startup=Startup(start_s=(start_s,))), groups=(work(ready, mean_s),))
        )
        for gain, cost in numbers.findall(target.pools["default"].reason):
            assert float(gain) >= float(cost)  # they are rounded
            seen_some += 1
        for gain, cost in numbers.findall("".join(target.declined)):
            assert float(gain) <= float(cost)
            seen_some += 1
    assert seen_some > 20


@given(seen=views())
def test_it_keeps_the_contract_whatever_it_sees(seen: View) -> None:
    for policy in (CostAware(), standard(CostAware(), 3.0), Largest(CostAware(), CostAware(1.0))):
        target, past = policy.decide(seen, FRESH)
        checked(target, seen)
        assert (target, past) == policy.decide(seen, FRESH)
        again, _ = policy.decide(later(seen, 1.0), json.loads(json.dumps(past)))
        checked(again, seen)


@given(work=st.lists(groups(), max_size=3), threads=st.integers(1, 4), maximum=st.integers(1, 20))
def test_frozen_demand_is_met_once_and_starts_are_bounded(work: list[Group], threads: int, maximum: int) -> None:
    world = World(standard(CostAware(), 3.0), maximum=maximum, threads=threads)
    world.run(4, *work)
    first = world.submitted
    world.run(12, *work)
    assert first == world.submitted <= maximum
    given_up = world.given_up
    world.run(12, *work)
    assert (first, given_up) == (world.submitted, world.given_up)


def test_empty_with_no_future_everything_is_let_go() -> None:
    world = World(standard(CostAware(), 3.0))
    world.run(5, tasks(20))
    assert world.lives
    world.run(60)
    assert {} == world.lives


def test_no_job_is_started_that_nothing_needs() -> None:
    world = World(standard(CostAware(), 3.0))
    world.run(20)
    assert 0 == world.submitted


@given(seen=views("default"), times=st.floats(0.1, 10.0))
def test_where_everything_is_known_all_times_are_relative(seen: View, times: float) -> None:
    """No prior, no launch, nothing to learn: a world that is slower in everything is decided alike."""
    startup = Startup((2.0,), (9.0,))
    known = tuple(replace(each, mean_s=each.mean_s or 1.0, spread_s=0.0) for each in seen.load.groups)
    slow = tuple(replace(each, mean_s=times * (each.mean_s or 1.0), oldest_s=times * each.oldest_s) for each in known)

    def wanted(some: tuple[Group, ...], by: float) -> int:
        pools = (replace(seen.pools[0], startup=Startup((2.0 * by,), (9.0 * by,))),)
        return jobs(
            CostAware(launch_s=0.0, feed_s=0.0), replace(seen, load=replace(seen.load, groups=some), pools=pools)
        )

    del startup
    assert abs(wanted(known, 1.0) - wanted(slow, times)) <= 1  # one more or less where worth and cost are the same


@given(some=st.lists(groups(pinned=False), max_size=3), ready=st.integers(0, 9))
def test_who_comes_back_without_a_past_decides_the_same(some: list[Group], ready: int) -> None:
    known = tuple(replace(each, mean_s=each.mean_s or 1.0) for each in some)
    seen = view(pool(ready, idle=0), groups=known)
    _, past = PURE.decide(seen, FRESH)
    with_past, _ = PURE.decide(later(seen, 1.0), past)
    _, fresh = PURE.decide(later(seen, 0.5), FRESH)
    without, _ = PURE.decide(later(seen, 1.0), fresh)
    assert with_past.pools == without.pools


def calls(seen: View) -> int:
    """How many functions a decision calls: its cost on any machine."""
    number = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    _, past = CostAware().decide(seen, FRESH)
    sys.setprofile(count)
    try:
        CostAware().decide(seen, past)
    finally:
        sys.setprofile(None)
    return number


@pytest.mark.parametrize(("ready", "idle"), [(0, 0), (1000, 0), (1000, 900)])
def test_a_decision_costs_the_same_for_a_thousand_tasks_and_a_million(ready: int, idle: int) -> None:
    def seen(tasks: int) -> View:
        some = []
        for number in range(100):
            before = tuple(f"g{other}-1" for other in range(max(0, number - 3), number))
            each = work(
                0 if number % 3 else tasks // 100, 1.0 + number, f"g{number}", after=before if number % 3 else ()
            )
            some.append(replace(each, waiting=tasks // 100 if number % 3 else 0, spread_s=1.0))
        return view(pool(ready, idle=idle, maximum=2000, startup=CLOUD), groups=tuple(some))

    few, many = calls(seen(1_000)), calls(seen(1_000_000))
    assert many <= 1.5 * few
    assert many <= 20_000  # a few milliseconds


def test_its_past_is_plain_and_small() -> None:
    past: Past = FRESH
    policy = standard(CostAware(), 3.0)
    for number in range(2000):
        some = tuple(work(number % 7, 1.0 + number % 3, f"kind{number}-{k}") for k in range(number % 3))
        seen = replace(view(pool(number % 11), groups=some), now_s=float(number))
        _, past = policy.decide(seen, json.loads(json.dumps(past)))
    assert len(json.dumps(past)) < 20_000


def test_patience_is_put_around_it_only_where_somebody_said_so() -> None:
    assert isinstance(standard(CostAware(), 3.0), Limit)
    assert isinstance(standard(CostAware(), 3.0).policy, CostAware)  # type: ignore[attr-defined]
    said = standard(CostAware(), 3.0, said=True).policy  # type: ignore[attr-defined]
    assert isinstance(said, Patience)
    assert (3.0, 0.0) == (said.wait_s, said.startups)


def test_what_it_learned_is_found_inside_of_others() -> None:
    seen = view(pool(), groups=(work(3, 2.0),))
    for policy in (CostAware(), standard(CostAware(), 1.0, said=True), Budget(Largest(CostAware(), CostAware()), 1.0)):
        assert {"f": 2.0} == kinds_in(policy.decide(seen, FRESH)[1])
    assert {} == kinds_in(FRESH)


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_value": 0},
        {"time_value": float("nan")},
        {"time_value": True},
        {"memory": 0},
        {"unknown_s": -1},
        {"startup_s": float("inf")},
        {"launch_s": -1},
        {"feed_s": -1},
    ],
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CostAware(**wrong)


def test_it_stays_within_the_limits() -> None:
    seen = view(pool(maximum=3), groups=(work(1000, 100.0),))
    assert 3 == jobs(standard(CostAware(), 3.0), seen)
    least = replace(pool(), pool=replace(pool().pool, limits=Limits(2, 5)))
    assert 2 == jobs(standard(CostAware(), 3.0), view(least))


def test_tasks_of_another_kind_do_not_wait_for_what_runs_long() -> None:
    """The work would end no sooner; somebody may wait for them all the same."""
    long = Group("long", "long", ready=1, running=1, oldest_s=3600.0)
    quick = Group("quick", "quick", ready=30, mean_s=0.001, spread_s=0.0, done=100)
    busy = pool(1, idle=0)
    want = decided(CostAware(), view(busy, groups=(long, quick))).pools["default"]
    assert 2 == want.jobs
    assert "1 job more for tasks that would wait" in want.reason
    assert 1 == jobs(CostAware(), view(busy, groups=(replace(long, oldest_s=0.0, mean_s=0.2), quick)))
    assert 1 == jobs(CostAware(), view(busy, groups=(long, replace(quick, running=1, ready=1))))
