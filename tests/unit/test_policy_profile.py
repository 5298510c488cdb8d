"""What is left to do, and what one more job is worth for it: by hand, enumerated, and by hypothesis."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.model import Group, Load
from dask_adaptive.policy.durations import Durations, classes, remembered, slowest
from dask_adaptive.policy.profile import Profile, Stretch, order, profile
from dask_adaptive.policy.release import Idle, rental
from dask_adaptive.policy.remaining import graphs_alike, remaining
from dask_adaptive.policy.worth import Terms, margin, worthwhile

lengths = st.floats(0.1, 100.0)
phases = st.lists(st.tuples(lengths, st.integers(0, 12)), max_size=6)


def uneven(profile_: Profile, jobs: int) -> float:
    """What a profile takes, phase by phase."""
    return sum(length_s * max(1.0, width / jobs) for length_s, width in profile_.phases)


# --- the profile ---


def test_a_profile_by_hand() -> None:
    """10 s that keep 4 busy, then 5 s for 1: 45 s of work, 15 s at least."""
    work = Profile([(10.0, 4.0), (5.0, 1.0)])
    assert (45.0, 15.0, 4.0) == (work.work_s, work.shortest_s, work.width)
    assert [45.0, 25.0, 15.0, 15.0] == [work.takes_s(jobs) for jobs in (1, 2, 4, 8)]
    assert math.inf == work.takes_s(0)


@given(phases=phases, jobs=st.integers(1, 15))
def test_a_profile_takes_what_its_phases_take(phases: list[tuple[float, int]], jobs: int) -> None:
    work = Profile(phases)
    assert work.takes_s(jobs) == pytest.approx(uneven(work, jobs))


@given(phases=phases, jobs=st.integers(2, 15))
def test_each_job_more_saves_less_than_the_one_before(phases: list[tuple[float, int]], jobs: int) -> None:
    work = Profile(phases)
    saves = [work.takes_s(n) - work.takes_s(n + 1) for n in (jobs - 1, jobs)]
    assert saves[0] >= saves[1] - 1e-6
    assert saves[1] >= -1e-6


@given(phases=phases, rank=st.integers(2, 15))
def test_what_a_job_saves_is_the_sum_of_its_uses(phases: list[tuple[float, int]], rank: int) -> None:
    work = Profile(phases)
    saved = sum(use.saves_s for use in work.uses(rank))
    assert work.takes_s(rank - 1) - work.takes_s(rank) == pytest.approx(saved, abs=1e-6)


@given(phases=phases, jobs=st.integers(1, 15), seconds=lengths)
def test_time_that_passes_is_time_that_is_not_left(phases: list[tuple[float, int]], jobs: int, seconds: float) -> None:
    work = Profile(phases)
    left = max(0.0, work.takes_s(jobs) - seconds) if phases else 0.0
    assert left == pytest.approx(work.after(seconds, jobs).takes_s(jobs), abs=1e-6)


stretches = st.builds(
    lambda start, length, width: Stretch(start, start + length, width),
    st.floats(0.0, 50.0),
    lengths,
    st.floats(0.1, 9.0),
)


@given(some=st.lists(stretches, max_size=6), at_s=st.floats(0.0, 160.0))
def test_the_width_of_a_profile_is_what_runs_at_that_moment(some: list[Stretch], at_s: float) -> None:
    edges = {each.start_s for each in some} | {each.end_s for each in some}
    if any(abs(at_s - edge) < 1e-6 for edge in edges):
        return
    running = sum(each.width for each in some if each.start_s <= at_s < each.end_s)
    clock, found = 0.0, 0.0
    for length_s, width in profile(some).phases:
        if clock <= at_s < clock + length_s:
            found = width
        clock += length_s
    assert running == pytest.approx(found, abs=1e-6)


def test_a_thousand_stretches_are_few_phases_of_the_same_work() -> None:
    some = [Stretch(number * 1.0, number * 1.0 + 7.5, 1.0 + number % 5) for number in range(1000)]
    made = profile(some)
    assert len(made.phases) <= 64
    assert sum(7.5 * each.width for each in some) == pytest.approx(made.work_s)
    assert 999.0 + 7.5 == pytest.approx(made.shortest_s)


def test_names_come_after_what_they_wait_for_and_a_cycle_is_cut() -> None:
    assert ["a", "b", "c"] == order({"c": ["b", "a"], "b": ["a"], "a": []})
    assert {"a", "b"} == set(order({"a": ["b"], "b": ["a"]}))
    assert ["a"] == order({"a": ["a", "not here"]})
    chain = {f"{n}": [f"{n - 1}"] for n in range(5000)}
    assert [str(n) for n in range(5000)] == order(dict(reversed(chain.items())))


# --- durations ---


def test_a_guess_is_doubled_while_the_first_of_its_kind_runs_on() -> None:
    durations = Durations({}, prior_s=5.0)
    for oldest_s, expected_s in ((0.0, 5.0), (2.0, 5.0), (4.0, 8.0), (100.0, 200.0)):
        found = durations.of(Group("f-1", "f", ready=3, running=1, oldest_s=oldest_s))
        assert (pytest.approx(expected_s), False) == (found.mean_s, found.known)


def test_an_unknown_kind_takes_what_tasks_took_on_average_and_a_known_one_what_it_took() -> None:
    durations = Durations({"other": 80.0, "known": 3.0}, prior_s=5.0)
    assert (80 * 3 * 5) ** (1 / 3) == pytest.approx(durations.of(Group("f-1", "f", ready=1)).mean_s)
    assert 3.0 == durations.of(Group("known-1", "known", ready=1)).mean_s
    assert 0.5 == durations.of(Group("known-1", "known", ready=1, mean_s=0.5)).mean_s


def test_what_is_remembered_stays_small_and_the_latest_counts() -> None:
    before = {f"old-{number}": 1.0 for number in range(400)}
    load = Load(0.0, (Group("f-1", "f", ready=1, mean_s=2.0), Group("g-1", "g", ready=1)))
    found = remembered({**before, "f": 9.0}, load)
    assert 256 == len(found)
    assert (2.0, False, True) == (found["f"], "g" in found, "old-399" in found)


@given(tasks=st.integers(1, 10_000), spread_s=st.floats(0.0, 30.0), mean_s=st.floats(0.01, 100.0))
def test_thirds_are_all_tasks_and_all_their_work(tasks: int, spread_s: float, mean_s: float) -> None:
    found = Durations({}, 5.0).of(Group("f-1", "f", ready=tasks, mean_s=mean_s, spread_s=spread_s))
    thirds = classes(found, tasks)
    assert tasks == pytest.approx(sum(number for number, _ in thirds))
    assert tasks * mean_s == pytest.approx(sum(number * each_s for number, each_s in thirds))
    assert slowest(found, tasks) >= found.mean_s * (1 - 1e-9)


# --- what is left ---


def test_waiting_tasks_follow_when_the_slowest_before_them_ends() -> None:
    """A map of 4 at 10 s each, then one of 5 s that takes them all; nothing varies."""
    load = Load(
        0.0,
        (
            Group("map", "map", ready=4, mean_s=10.0, spread_s=0.0),
            Group("sum", "sum", waiting=1, mean_s=5.0, spread_s=0.0, after=("map", "gone")),
        ),
    )
    pieces = {piece.group.name: piece.stretches for piece in remaining(load, Durations({}, 5.0))}
    assert {"map": (Stretch(0.0, 10.0, 4),), "sum": (Stretch(10.0, 15.0, 1),)} == pieces


def test_tasks_that_wait_for_their_own_group_follow_in_rows() -> None:
    load = Load(0.0, (Group("chain", "chain", ready=1, waiting=4, mean_s=100.0, spread_s=0.0),))
    (piece,) = remaining(load, Durations({}, 5.0))
    assert 500.0 == profile(piece.stretches).shortest_s
    assert 1.0 == profile(piece.stretches).width


def test_graphs_of_a_kind_are_counted_and_parts_of_one_are_not() -> None:
    def pieces(*some: Group) -> int:
        return graphs_alike(remaining(Load(0.0, some), Durations({}, 5.0)))

    one = [Group("load-0", "load", ready=3), Group("sum-0", "sum", waiting=1, after=("load-0",))]
    two = [Group("load-1", "load", ready=3), Group("sum-1", "sum", waiting=1, after=("load-1",))]
    other = [Group("fetch-0", "fetch", ready=1)]
    assert (1, 1, 2, 2) == (pieces(), pieces(*one, *other), pieces(*one, *two), pieces(*one, *two, *other))
    assert 3 == pieces(*(Group(f"request-{number}", "request", ready=1) for number in range(3)))


# --- worth ---


def terms(**changes: float) -> Terms:
    return Terms(**{"now_s": 0.0, "time_value": 10.0, "rate": 1.0, "billed_s": 15.0, "sole": False, **changes})  # type: ignore[arg-type]


def best_by_trying(work: Profile, given: Terms, rank: int) -> float:
    """The most that a job of this rank can gain, over every choice of being there or not at each of its uses."""
    uses, best = work.uses(rank), 0.0
    for chosen in itertools.product((False, True), repeat=len(uses)):
        value, last = 0.0, None
        for index, (use, there) in enumerate(zip(uses, chosen, strict=True)):
            if not there:
                continue
            start = given.rate * given.billed_s
            if last == index - 1 and index:
                start = min(start, given.rate * use.gap_s)
            value += given.time_value * use.saves_s - start
            last = index
        best = max(best, value)
    return best


TINY = [
    Profile([(a, wide), (b, low), (a, wide)])
    for a, b, wide, low in itertools.product((0.5, 3.0, 30.0), (0.5, 10.0, 100.0), (2, 3, 6), (0, 1, 2))
]


@pytest.mark.parametrize("time_value", [0.1, 1.0, 10.0, 100.0])
def test_a_job_is_worth_the_best_that_can_be_made_of_it(time_value: float) -> None:
    for work, billed_s, rank in itertools.product(TINY, (0.0, 1.0, 60.0), (1, 2, 3, 6)):
        given = terms(time_value=time_value, billed_s=billed_s)
        best = best_by_trying(work, given, rank)
        found = margin(work, given, rank)
        assert found.pays == (best > 1e-9), (work.phases, given, rank)
        if found.pays:
            assert best == pytest.approx(found.gain - found.cost)


def sizes(work: Profile, **changes: float) -> tuple[int, int]:
    return worthwhile(work, terms(**changes), 0)


def test_every_job_before_the_last_is_worth_it_and_the_next_is_not() -> None:
    for work, time_value, billed_s in itertools.product(TINY, (0.1, 1.0, 10.0), (0.0, 1.0, 60.0)):
        given = terms(time_value=time_value, billed_s=billed_s)
        worth, _ = worthwhile(work, given, 0)
        paying = [margin(work, given, rank).pays for rank in range(1, 8)]
        assert [True] * worth + [False] * (7 - worth) == paying


def test_a_dearer_second_never_means_fewer_jobs_and_dearer_jobs_never_more() -> None:
    """Enumerated: time value up; price, start-up and both parts of it down, on every tiny profile."""
    for work in TINY:
        by_value = [sizes(work, time_value=value)[0] for value in (0.1, 1.0, 3.0, 10.0, 100.0, 1e4)]
        assert sorted(by_value) == by_value
        by_price = [sizes(work, rate=rate)[0] for rate in (0.01, 0.1, 1.0, 3.0, 100.0)]
        assert sorted(by_price, reverse=True) == by_price
        by_start = [sizes(work, billed_s=billed_s)[0] for billed_s in (0.0, 0.5, 3.0, 15.0, 60.0, 1e4)]
        assert sorted(by_start, reverse=True) == by_start
        late = [worthwhile(work.after(seconds, 1), terms(), 0)[0] for seconds in (0.0, 1.0, 5.0, 20.0, 200.0)]
        assert sorted(late, reverse=True) == late


@given(
    phases=phases,
    values=st.tuples(st.floats(0.01, 1e3), st.floats(1.0, 100.0)),
    billed_s=st.floats(0.0, 100.0),
    rate=st.floats(0.1, 10.0),
)
def test_more_for_a_second_never_means_fewer_jobs(
    phases: list[tuple[float, int]], values: tuple[float, float], billed_s: float, rate: float
) -> None:
    work, (value, times) = Profile(phases), values
    fewer, more = (sizes(work, time_value=v, billed_s=billed_s, rate=rate)[0] for v in (value, times * value))
    assert fewer <= more


@given(phases=phases, times=st.floats(0.01, 100.0), billed_s=st.floats(0.0, 100.0))
def test_the_same_in_other_units_is_the_same(phases: list[tuple[float, int]], times: float, billed_s: float) -> None:
    work = Profile(phases)
    scaled = Profile([(times * length_s, width) for length_s, width in phases])
    jobs, others = (
        [margin(each, terms(billed_s=start_s), rank) for rank in range(1, 13)]
        for each, start_s in ((work, billed_s), (scaled, times * billed_s))
    )
    for one, other in zip(jobs, others, strict=True):
        assert one.pays == other.pays or one.gain == pytest.approx(one.cost)


# --- release ---


@given(steps=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=12))
def test_each_rank_knows_since_when_it_is_idle(steps: list[tuple[int, int]]) -> None:
    idle, now_s, since = Idle(), 0.0, dict.fromkeys(range(1, 8), -1.0)
    for needed, seconds in steps:
        now_s += seconds
        idle = Idle.read(idle.now(needed, now_s).plain())
        for rank in since:
            since[rank] = -1.0 if rank <= needed else (now_s if since[rank] < 0 else since[rank])
    for rank, since_s in since.items():
        if since_s >= 0:
            assert since_s == idle.since_s(rank, now_s)


def test_idle_ranks_are_remembered_in_bounded_space() -> None:
    idle = Idle()
    for number in range(1000):
        idle = idle.now(1000 - number, float(number))
    assert 16 == len(idle.steps)
    assert (1, 999.0) == idle.steps[-1]


def unknown_cost(wait_s: float, even_s: float, steps: int = 20_000) -> float:
    """The mean cost over pauses whose logarithm is uniform between 0.1 s and an hour: by summing, not by calculus."""
    pauses = [0.1 * 36_000 ** ((step + 0.5) / steps) for step in range(steps)]
    return sum(pause_s if pause_s <= wait_s else wait_s + even_s for pause_s in pauses) / steps


@pytest.mark.parametrize("even_s", [2.0, 10.0, 100.0])
def test_without_experience_a_job_is_kept_while_the_pause_may_well_end(even_s: float) -> None:
    best = min(unknown_cost(even_s * part / 50, even_s) for part in range(1, 101))
    assert unknown_cost(rental([], even_s)[0], even_s) <= 1.02 * best


@pytest.mark.parametrize(
    ("pauses", "low_s", "high_s"),
    [
        ([20.0] * 5, 25.0, 30.0),  # they surely end in time, and the next one may be a quarter longer
        ([40.0] * 5, 0.25, 2.0),  # they surely do not
        ([1000.0], 0.25, 4.0),
        ([2.0, 2.0, 900.0, 2.0, 900.0], 2.0, 4.0),
    ],
)
def test_pauses_teach_how_long_to_wait(pauses: list[float], low_s: float, high_s: float) -> None:
    """A restart is worth 30 s."""
    assert low_s <= rental(pauses, 30.0)[0] <= high_s


@given(pauses=st.lists(st.floats(0.1, 1000.0), max_size=16), even_s=st.floats(0.3, 100.0))
def test_no_job_is_kept_for_longer_than_two_restarts_nor_for_no_time(pauses: list[float], even_s: float) -> None:
    assert 0.25 <= rental(pauses, even_s)[0] <= 2 * even_s


@given(pauses=st.lists(st.floats(0.3, 1000.0), min_size=4, max_size=16), even_s=st.floats(1.0, 100.0))
def test_experience_is_close_to_the_best_that_could_have_been_done(pauses: list[float], even_s: float) -> None:
    """What one unknown pause more may cost, and the grid of waits, are all that is lost on those seen."""

    def cost(wait_s: float) -> float:
        return sum(pause_s if pause_s <= wait_s else wait_s + even_s for pause_s in pauses)

    best = min(cost(wait_s) for wait_s in (0.25, *(pause_s for pause_s in pauses if pause_s <= 2 * even_s)))
    assert cost(rental(pauses, even_s)[0]) <= 1.2 * best + 2 * even_s
