"""Policies around policies: limits, patience, the largest, hours, budgets."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Limits, Load, Past, Phase, Pool, PoolView, Shape, Startup, Target, View, Want
from dask_adaptive.plan import checked
from dask_adaptive.policy.classic import Doubling, Fixed, TargetDuration
from dask_adaptive.policy.combine import Budget, Hours, Largest, Limit, Patience, standard
from dask_adaptive.policy.contracts import FRESH, Policy

from .strategies import views

NOW_S = 1.7e9


class Says:
    """Wants what it is told to want, by time."""

    def __init__(self, *jobs: int, firm: bool = False, look_again_s: float | None = None) -> None:
        self.jobs = list(jobs)
        self.firm = firm
        self.look_again_s = look_again_s

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        jobs = self.jobs[min(len(self.jobs) - 1, max(0, int(view.now_s - NOW_S)))]
        wants = {pool.pool.name: Want(jobs, f"said {jobs}", self.firm) for pool in view.pools}
        return Target(wants, self.look_again_s), past


def seen(at_s: float = 0.0, size: int = 0, *, name: str = "default", startup: Startup = Startup(), **pool) -> View:  # noqa: B008
    one = PoolView(Pool(name, **pool), {Phase.READY: size}, startup=startup, idle=size)
    return View(NOW_S + at_s, 1.0, Load(NOW_S), (one,))


def run(policy: Policy, looks: list[tuple[float, int]], **pool) -> list[int]:
    """The target at each look: (seconds, size)."""
    past: Past = FRESH
    answers = []
    for at_s, size in looks:
        target, past = policy.decide(seen(at_s, size, **pool), past)
        answers.append(target.pools["default"].jobs)
    return answers


# --- limit ----------------------------------------------------------------------------------------------------


def test_a_limit_cuts_and_says_so_behind_the_reason():
    want = Limit(Says(12)).decide(seen(limits=Limits(1, 8)), FRESH)[0].pools["default"]
    assert (8, True) == (want.jobs, want.firm)
    assert "said 12; cut from 12 to 8, the maximum of this pool" == want.reason


def test_a_limit_raises_to_the_minimum_and_says_so():
    want = Limit(Says(0)).decide(seen(limits=Limits(2, 8)), FRESH)[0].pools["default"]
    assert Want(2, "said 0; raised from 0 to 2, the minimum of this pool") == want


def test_a_limit_of_its_own_replaces_that_of_the_pool():
    limit = Limit(Says(12), {"default": Limits(0, 5)})
    assert [5] == run(limit, [(0, 0)], limits=Limits(0, 8))


@given(seen=views(), jobs=st.integers(0, 99))
def test_clipping_keeps_the_limits_and_never_erases_the_reason(seen, jobs):
    target = Limit(Says(jobs)).decide(seen, FRESH)[0]
    for pool in seen.pools:
        limits, want = pool.pool.limits, target.pools[pool.pool.name]
        assert limits.minimum <= want.jobs
        assert limits.maximum is None or want.jobs <= limits.maximum
        assert want.reason.startswith("said ")
        assert (want.jobs != jobs) == (" from " in want.reason)


# --- patience -------------------------------------------------------------------------------------------------


def test_growth_is_at_once():
    assert [9] == run(Patience(Says(9), 3.0), [(0, 2)])


def test_shrinks_only_after_the_wait():
    assert [8, 8, 8, 2] == run(Patience(Says(2), 3.0), [(0, 8), (1, 8), (2.9, 8), (3, 8)])


def test_a_burst_in_between_starts_the_wait_again():
    said = Says(2, 2, 8, 2, 2, 2, 2)
    assert [8, 8, 8, 8, 8, 8, 2] == run(Patience(said, 3.0), [(s, 8) for s in range(7)])


def test_shrinks_only_to_the_largest_target_of_the_wait():
    said = Says(2, 5, 1, 1, 1)
    assert [8, 8, 8, 5, 1] == run(Patience(said, 3.0), [(0, 8), (1, 8), (2, 8), (3, 8), (4, 5)])


def test_looking_more_often_changes_nothing():
    rare, often = ([(s / n, 8) for s in range(4 * n + 1)] for n in (1, 10))
    assert run(Patience(Says(1), 3.0), rare) == run(Patience(Says(1), 3.0), often)[::10]


def test_asks_to_be_asked_again_when_the_wait_is_over():
    policy = Patience(Says(1), 3.0)
    target, past = policy.decide(seen(0, 8), FRESH)
    assert pytest.approx(3.0) == target.look_again_s
    later = policy.decide(seen(target.look_again_s, 8), past)[0]
    assert Want(1, "said 1") == later.pools["default"]
    sooner = Patience(Says(1, look_again_s=0.5), 3.0).decide(seen(0, 8), FRESH)[0]
    assert pytest.approx(0.5) == sooner.look_again_s


def test_a_restart_that_takes_long_is_worth_a_longer_wait():
    slow = Startup(start_s=(20.0,))
    assert [8, 8, 8, 1] == run(Patience(Says(1), 3.0), [(0, 8), (3, 8), (19, 8), (20, 8)], startup=slow)
    assert [8, 1] == run(Patience(Says(1), 3.0, startups=0), [(0, 8), (3, 8)], startup=slow)
    hours = Startup(queue_s=(7200.0,), start_s=(20.0,))
    assert [8, 8, 1] == run(Patience(Says(1), 3.0), [(0, 8), (299, 8), (300, 8)], startup=hours)


def test_what_is_needed_again_soon_after_it_was_given_up_is_kept_for_longer():
    said = Says(4, 0, 0, 0, 0, 4, 0)
    looks = [(0, 4), (1, 4), (4, 4), (5, 0), (6, 4), (9, 4), (10.4, 4), (10.5, 4)]
    assert [4, 4, 0, 4, 4, 4, 4, 0] == run(Patience(said, 3.0), looks)


def test_what_is_needed_again_much_later_teaches_nothing():
    said = Says(4, 0, 0, 0, 0, 0, 0, 0, 4, 0)
    looks = [(0, 4), (1, 4), (4, 4), (8, 0), (9, 4), (12, 4)]
    assert [4, 4, 0, 4, 4, 0] == run(Patience(said, 3.0), looks)


@given(pauses=st.lists(st.floats(3.1, 5.9), min_size=1, max_size=30))
def test_patience_is_never_longer_than_three_waits(pauses):
    policy, past, at_s = Patience(Last(), 3.0), FRESH, 0.0
    for pause in pauses:
        for jobs, size, step in ((4, 0, 0.0), (0, 4, 1.0), (0, 4, pause)):
            at_s += step
            policy.policy.jobs = jobs
            past = policy.decide(seen(at_s, size), past)[1]
    policy.policy.jobs = 0
    assert 0 == policy.decide(seen(at_s + 9.0, 4), past)[0].pools["default"].jobs


class Last:
    """Wants what it was told last."""

    jobs = 0

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        return Target({"default": Want(self.jobs, f"said {self.jobs}")}), past


def test_what_somebody_said_is_passed_on_at_once():
    assert [1] == run(Patience(Says(1, firm=True), 3.0), [(0, 8)])


def test_a_job_that_ends_by_itself_is_not_replaced_while_waiting_to_shrink():
    assert [8, 7] == run(Patience(Says(1), 3.0), [(0, 8), (1, 7)])


def test_complaint_released_between_two_cells():
    cells = Says(4, 0, 0, 4, 0, 0, 4)
    assert [4] * 7 == run(standard(cells, 3.0), [(s, 4) for s in range(7)])


def test_complaint_pending_jobs_keep_their_place_in_a_short_pause():
    queued = PoolView(Pool("default"), {Phase.QUEUED: 8}, startup=Startup(queue_s=(30.0,), start_s=(2.0,)))
    view = replace(seen(), pools=(queued,))
    assert 8 == Patience(Says(0), 3.0).decide(view, FRESH)[0].pools["default"].jobs


@given(
    said=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    steps=st.lists(st.floats(0.05, 1.5), min_size=1, max_size=30),
    wait_s=st.floats(0.5, 4.0),
    start=st.integers(0, 12),
)
def test_never_shrinks_before_the_wait_and_never_below_the_largest_of_it(said, steps, wait_s, start):
    policy, inner = Patience(Says(*said), wait_s), Says(*said)
    past: Past = FRESH
    at_s, size, asked = 0.0, start, []
    last_enough_s = at_s
    for step in [0.0, *steps]:
        at_s += step
        view = seen(at_s, size)
        wanted = inner.decide(view, FRESH)[0].pools["default"].jobs
        asked.append((at_s, wanted))
        target, past = policy.decide(view, past)
        jobs = target.pools["default"].jobs
        if wanted >= size:
            last_enough_s = at_s
            assert wanted == jobs
        assert wanted <= jobs
        if jobs < size:
            first_too_low_s = next(time for time, _ in asked if time > last_enough_s or last_enough_s == 0.0)
            assert at_s - first_too_low_s >= wait_s - 0.01
            assert max(low for time, low in asked if at_s - time < wait_s - 0.01) <= jobs
        size = jobs


# --- largest --------------------------------------------------------------------------------------------------


def test_the_largest_answer_wins_with_its_reason():
    want = Largest(Says(2), Says(7), Fixed(3)).decide(seen(), FRESH)[0].pools["default"]
    assert Want(7, "said 7") == want


def test_the_largest_is_firm_only_where_all_are():
    assert not Largest(Fixed(3), Says(1)).decide(seen(), FRESH)[0].pools["default"].firm
    assert Largest(Fixed(3), Fixed(1)).decide(seen(), FRESH)[0].pools["default"].firm


def test_the_largest_looks_again_with_the_most_impatient():
    assert 2.0 == Largest(Says(1, look_again_s=9.0), Says(1, look_again_s=2.0)).decide(seen(), FRESH)[0].look_again_s


def test_each_of_several_policies_keeps_its_own_past():
    both = Largest(Patience(Says(1), 1.0), Patience(Says(2), 3.0))
    assert [8, 8, 2] == run(both, [(0, 8), (1, 8), (3, 8)])


# --- hours ----------------------------------------------------------------------------------------------------


def at(text: str, offset_s: float = 0.0) -> float:
    zone = timezone(timedelta(seconds=offset_s))
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() - NOW_S


OFFICE = {"default": [("mon-fri", "08:00", "18:00", Limits(4, 20)), ("sat,sun", "22:00", "06:00", Limits(0, 100))]}


@pytest.mark.parametrize(
    ("when", "jobs"),
    [
        ("2026-11-20T07:59:59", 0),  # a Friday
        ("2026-11-20T08:00:00", 4),
        ("2026-11-20T17:59:59", 4),
        ("2026-11-20T18:00:00", 0),
        ("2026-11-21T12:00:00", 0),
        ("2026-11-23T09:00:00", 4),
    ],
)
@pytest.mark.parametrize("offset_s", [0.0, 3600.0, -8 * 3600.0])
def test_hours_hold_on_their_days_in_their_zone(when, jobs, offset_s):
    assert [jobs] == run(Hours(Says(0), OFFICE, offset_s), [(at(when, offset_s), 0)])


@pytest.mark.parametrize(
    ("when", "jobs"),
    [
        ("2026-11-21T21:00:00", 200),
        ("2026-11-21T23:00:00", 100),
        ("2026-11-23T05:59:00", 100),  # the night that began on Sunday
        ("2026-11-23T06:01:00", 200),
    ],
)
def test_hours_reach_into_the_next_day(when, jobs):
    assert [jobs] == run(Hours(Says(200), OFFICE), [(at(when), 0)])


def test_hours_say_so_behind_the_reason_and_look_again_when_they_change():
    target = Hours(Says(0), OFFICE).decide(seen(at("2026-11-20T17:30:00")), FRESH)[0]
    assert "said 0; raised from 0 to 4, the minimum of the hours mon-fri 08:00-18:00" == target.pools["default"].reason
    assert 1800.0 == target.look_again_s
    before = Hours(Says(0), OFFICE).decide(seen(at("2026-11-20T07:00:00")), FRESH)[0]
    assert 3600.0 == before.look_again_s


@given(days=st.integers(0, 2000), second=st.integers(0, 86_399), start=st.integers(0, 23), length=st.integers(1, 23))
def test_hours_agree_with_the_calendar(days, second, start, length):
    then = datetime(2024, 1, 1, tzinfo=timezone.utc) + timedelta(days=days, seconds=second)
    began = then - timedelta(hours=start)
    holds = began.strftime("%a") == "Wed" and began.hour + began.minute / 60 + began.second / 3600 < length
    entry = ("wed", f"{start:02}:00", f"{(start + length) % 24:02}:00", Limits(3, 3))
    policy = Hours(Says(0), {"default": [entry]})
    assert [3 if holds else 0] == run(policy, [(then.timestamp() - NOW_S, 0)])


@pytest.mark.parametrize(
    "entry", [("mon-fry", "08:00", "18:00"), ("mon", "8", "18:00"), ("mon", "08:00", "25:00"), ("mon", "08:61", "9:00")]
)
def test_hours_that_cannot_be_read_are_refused(entry):
    with pytest.raises(ConfigError):
        Hours(Says(0), {"default": [(*entry, Limits())]})


# --- budget ---------------------------------------------------------------------------------------------------


def test_a_budget_ends_what_is_there_when_it_is_spent():
    policy = Budget(Says(4), worker_hours=2.0)
    four = {"shape": Shape(workers=4)}
    assert [4, 4, 4, 0, 0] == run(policy, [(0, 1), (900, 1), (1799, 1), (1800, 1), (3600, 0)], **four)


def test_a_budget_shows_what_is_spent_and_looks_when_it_will_be_over():
    policy = Budget(Says(2), 1.0)
    past = policy.decide(seen(0, 2), FRESH)[1]
    target = policy.decide(seen(900, 2), past)[0]
    assert "said 2; 0.5 of 1 worker-hours spent" == target.pools["default"].reason
    assert 900.0 == target.look_again_s


def test_a_spent_budget_keeps_the_reason_of_the_policy_inside():
    want = Budget(Says(2), 0.0).decide(seen(), FRESH)[0].pools["default"]
    assert Want(0, "said 2; 0 of 0 worker-hours spent: nothing new, and what is there is drained", firm=True) == want


def test_queued_jobs_spend_nothing():
    queued = replace(seen(), pools=(PoolView(Pool("default"), {Phase.QUEUED: 9, Phase.WANTED: 3}),))
    policy = Budget(Says(2), 1.0)
    past = policy.decide(queued, FRESH)[1]
    later = policy.decide(replace(queued, now_s=NOW_S + 1e6), past)[0]
    assert 2 == later.pools["default"].jobs


def test_a_budget_of_one_pool_leaves_the_others_alone():
    one = seen(0, 1)
    view = replace(one, pools=(*one.pools, replace(one.pools[0], pool=Pool("gpu"))))
    policy = Budget(Says(2), {"gpu": 1.0})
    past = policy.decide(view, FRESH)[1]
    wants = policy.decide(replace(view, now_s=NOW_S + 3600), past)[0].pools
    assert (2, 0) == (wants["default"].jobs, wants["gpu"].jobs)


@pytest.mark.parametrize("make", [lambda: Budget(Says(1), -1), lambda: Patience(Says(1), -1), Largest])
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(ConfigError):
        make()


# --- properties of all ----------------------------------------------------------------------------------------

EVERY = {
    "standard": standard(TargetDuration(), 3.0),
    "largest": Largest(Patience(TargetDuration(), 2.0), Doubling()),
    "hours": Hours(Patience(TargetDuration(), 1.0), OFFICE),
    "budget": Budget(standard(TargetDuration(), 3.0), 1.0),
    "nested": Limit(Budget(Patience(Largest(Doubling(), Budget(Fixed(2), 9.0)), 2.0), {"default": 5.0})),
}


@pytest.mark.parametrize("name", EVERY)
@given(rounds=st.lists(views("default"), min_size=1, max_size=5))
def test_the_contract_holds_over_rounds_and_asking_twice_gives_the_same(name, rounds):
    policy = EVERY[name]
    past: Past = FRESH
    for view in rounds:
        before = json.dumps(past)
        answer = policy.decide(view, past)
        checked(answer[0], view)
        assert answer == policy.decide(view, json.loads(json.dumps(past)))
        assert json.dumps(past) == before
        again, later = policy.decide(view, answer[1])
        assert answer[0].pools == again.pools
        assert later == policy.decide(view, later)[1]
        past = answer[1]


@pytest.mark.parametrize("name", EVERY)
def test_the_past_stays_small(name):
    policy = EVERY[name]
    past: Past = FRESH
    sizes = []
    for i in range(1000):
        past = policy.decide(seen(i * 0.001, 1000 - i), past)[1]
        sizes.append(len(json.dumps(past)))
    assert 4000 > max(sizes)


def test_the_past_of_patience_stays_small_while_the_target_falls():
    policy = Patience(Falls(), 1000.0)
    past: Past = FRESH
    for i in range(1000):
        target, past = policy.decide(seen(i, 5000), past)
        assert len(json.dumps(past)) < 2000
    assert 5000 == target.pools["default"].jobs
    jobs = policy.decide(seen(1000.5, 5000), past)[0].pools["default"].jobs
    assert 3000 >= jobs > 2900


class Falls:
    """Wants one job less every second."""

    def decide(self, view: View, past: Past) -> tuple[Target, Past]:
        jobs = 3000 - int(view.now_s - NOW_S)
        return Target({"default": Want(jobs, "falling")}), past
