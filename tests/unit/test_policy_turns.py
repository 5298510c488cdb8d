"""Requests in a queue that nobody pays: how many are asked for, and which keep their place."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.model import Group, Startup, View
from dask_adaptive.policy.contracts import FRESH
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.policy.profile import Profile
from dask_adaptive.policy.turns import Run, Turns

from .test_policy_classic import pool, view, work

WAITS_S = (20.0, 40.0, 60.0, 90.0, 120.0, 160.0, 240.0, 400.0, 800.0)
QUEUE = Startup(queue_s=WAITS_S, start_s=(1.0,) * 9)


def decided(seen: View, policy: CostAware | None = None) -> tuple[int, str]:
    want = (policy or CostAware()).decide(seen, FRESH)[0].pools["default"]
    return want.jobs, want.reason


def waiting(ready: int, queued: int, groups: tuple[Group, ...], idle: int = 0) -> View:
    return view(pool(ready, idle=idle, queued=queued, startup=QUEUE, maximum=100), groups=groups)


# --- what the work takes with jobs that come one after the other ---


def test_a_supply_that_grows_by_hand() -> None:
    """40 s of work; after 5 s a second job comes, after 15 s a third: 5 + 20 done by then, 15 left for three."""
    turns = Turns((5.0, 15.0))
    assert Run(20.0, 2.0, 0.0) == turns.run(Profile([(10.0, 4.0)]), serving=1, asked=2)
    assert Run(10.0, 1.0, 0.0) == turns.run(Profile([(10.0, 1.0)]), serving=1, asked=2)
    assert Run(45.0, 1.0, 0.0) == Turns((5.0,)).run(Profile([(10.0, 4.0)]), serving=0, asked=1)
    assert math.inf == turns.run(Profile([(10.0, 4.0)]), serving=0, asked=0).end_s


def test_idle_is_what_waits_for_a_wider_phase_and_not_what_nothing_needs_any_more() -> None:
    turns = Turns((100.0,))
    assert 20.0 == turns.run(Profile([(10.0, 1.0), (10.0, 3.0)]), serving=3, asked=0).idle_s
    assert 10.0 == turns.run(Profile([(10.0, 1.0), (10.0, 2.0)]), serving=3, asked=0).idle_s
    assert 0.0 == turns.run(Profile([(10.0, 3.0), (10.0, 1.0)]), serving=3, asked=0).idle_s


@given(
    phases=st.lists(st.tuples(st.floats(0.1, 100.0), st.integers(0, 12)), max_size=6),
    waits_s=st.lists(st.floats(0.0, 500.0), min_size=1, max_size=6),
    serving=st.integers(0, 5),
    asked=st.integers(1, 20),
)
def test_more_that_serve_or_wait_never_take_longer(
    phases: list[tuple[float, int]], waits_s: list[float], serving: int, asked: int
) -> None:
    work_left, turns = Profile(phases), Turns(tuple(sorted(waits_s)))
    run = turns.run(work_left, serving, asked)
    for more in (turns.run(work_left, serving, asked + 1), turns.run(work_left, serving + 1, asked)):
        assert more.end_s <= run.end_s * (1 + 1e-9)
    assert 0 <= run.starts <= asked * (1 + 1e-9)
    assert run.idle_s >= 0
    at_once = work_left.takes_s(serving + asked)
    assert at_once * (1 - 1e-9) <= run.end_s <= max(waits_s) + at_once * (1 + 1e-9)


def test_short_waits_are_no_queue() -> None:
    assert not Turns.of(Startup(), 4.0)
    assert not Turns.of(Startup(queue_s=(1.0, 2.0, 900.0), start_s=(1.0,)), 4.0)
    assert Turns((6.0, 7.0)) == Turns.of(Startup(queue_s=(6.0, 5.0), start_s=(1.0,)), 4.0)


# --- how many are asked for ---


def test_the_first_of_many_has_its_turn_soon_so_more_are_asked_for_than_are_worth_starting() -> None:
    """60 tasks of 3 s at 1: by the square root seven that serve are worth it. Of seven the first waits for long."""
    asked, reason = decided(waiting(0, 0, (work(60, 3.0, spread_s=0.0),)), CostAware(1.0))
    assert 7 < asked <= 60
    gain, cost = (float(number) for number in re.findall(r"worth ([\d.e+-]+), and costs ([\d.e+-]+)", reason)[0])
    assert gain > cost


def test_of_tasks_that_take_longer_than_any_wait_only_as_many_as_are_worth_starting() -> None:
    """All have their turn: 60,000 s of work at 0.01 and 4 s for a start are 12 jobs, and a few as they come late."""
    asked, _ = decided(waiting(0, 0, (work(60, 1000.0, spread_s=0.0),)), CostAware(0.01))
    assert 10 <= asked <= 18


def test_never_more_than_the_work_is_wide() -> None:
    assert 5 == decided(waiting(0, 0, (work(5, 500.0, spread_s=0.0),)), CostAware(1e6))[0]


# --- what keeps its place ---


@pytest.mark.parametrize("value", [1.0, 10.0, 100.0])
def test_what_was_asked_for_is_not_given_up_while_nothing_changes(value: float) -> None:
    """Enumerated: work of one and of two phases, jobs that serve, of which some may idle, or none."""
    policy = CostAware(value)
    for ready, mean_s, serving in itertools.product((1, 4, 60), (0.5, 3.0, 60.0), (0, 1, 4, 12)):
        busy = min(serving, ready)
        first = work(ready, mean_s, spread_s=0.3 * mean_s, running=busy)
        then = Group("then", "then", waiting=40, mean_s=2.0, spread_s=0.0, after=(first.name,))
        for groups in ((first,), (first, then)):
            size = serving
            past = FRESH
            for second in range(8):
                seen = waiting(serving, size - serving, groups, idle=serving - busy)
                target, past = policy.decide(replace(seen, now_s=float(second)), past)
                wanted = target.pools["default"].jobs
                if size > serving:
                    assert wanted >= size, (ready, mean_s, serving, second, target.pools["default"].reason)
                size = max(wanted, serving)


def test_enough_that_serve_make_the_rest_of_the_queue_superfluous_and_the_end_of_the_work_too() -> None:
    many = (work(60, 3.0, spread_s=0.0),)
    first, reason = decided(waiting(1, 59, many), CostAware(1.0))
    assert 60 == first
    assert "59 requests" not in reason  # all tasks could run now: nothing has to be said
    few = (work(40, 3.0, spread_s=0.0, running=12),)
    past = CostAware(1.0).decide(waiting(12, 48, few), FRESH)[1]
    assert CostAware(1.0).decide(replace(waiting(12, 48, few), now_s=1.0), past)[0].pools["default"].jobs < 60
    done = waiting(12, 20, (work(1, 3.0, spread_s=0.0, running=1),), idle=11)
    past = CostAware().decide(done, FRESH)[1]
    assert CostAware().decide(replace(done, now_s=30.0), past)[0].pools["default"].jobs <= 1


def test_a_place_is_kept_for_a_phase_that_is_to_come_and_the_words_say_what_it_is_worth() -> None:
    """One task of 30 s, then 40 of 20 s: who gave the places up now would wait from the beginning."""
    one = Group("one", "one", ready=1, running=1, mean_s=30.0, spread_s=0.0)
    wide = Group("wide", "wide", waiting=40, mean_s=20.0, spread_s=0.0, after=("one",))
    seen = waiting(1, 39, (one, wide))
    past = CostAware().decide(seen, FRESH)[1]
    want = CostAware().decide(replace(seen, now_s=60.0), past)[0].pools["default"]
    assert 40 == want.jobs
    found = re.search(
        r"39 requests kept in the queue: the last .* worth ([\d.e+-]+), and costs ([\d.e+-]+)", want.reason
    )
    assert found is not None, want.reason
    assert float(found[1]) > 0.5 * float(found[2])


def test_what_was_just_asked_for_has_not_idled_since_before_that() -> None:
    """Ranks that were idle for long go; the same ranks, asked for anew, wait as long as others do."""
    cloud = Startup(start_s=(15.0,) * 3)

    def seen(now_s: float, ready: int, coming: int, oldest_s: float) -> View:
        one = Group("one", "one", ready=1, running=1, mean_s=200.0, spread_s=0.0, oldest_s=oldest_s)
        wide = Group("wide", "wide", waiting=40, mean_s=30.0, spread_s=0.0, after=("one",))
        pools = pool(ready, idle=ready - 1, queued=coming, startup=cloud, maximum=100)
        return replace(view(pools, groups=(one, wide)), now_s=now_s)

    policy = CostAware()
    past = policy.decide(seen(0.0, 1, 0, 10.0), FRESH)[1]  # ranks above 1 have nothing to do from here on
    for now_s in (176.0, 178.0):
        target, past = policy.decide(seen(now_s, 1, 0, now_s + 10.0), past)
    asked = target.pools["default"].jobs
    assert asked > 10
    target, _ = policy.decide(seen(178.5, 1, asked - 1, 188.5), past)
    assert asked == target.pools["default"].jobs
