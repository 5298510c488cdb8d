"""Requests that keep coming: what counts as a stream, how many wait for how many, and what that makes of a size."""

from __future__ import annotations

import math
from collections import deque
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.model import Group, Load, Past, Phase, Pool, PoolView, Shape, Startup, View
from dask_adaptive.policy.cost_aware import CostAware
from dask_adaptive.policy.durations import Durations
from dask_adaptive.policy.remaining import Piece, remaining
from dask_adaptive.policy.stream import Stream, erlang_c


def pieces(*groups: Group) -> list[Piece]:
    return remaining(Load(0.0, groups), Durations({}, 5.0, {}))


def request(name: str = "request", **fields: Any) -> Group:
    return Group(name, "request", **{"ready": 1, "mean_s": 2.0, "spread_s": 0.0, **fields})


def streaming(moments: list[float]) -> Stream:
    """Requests of two seconds at these moments, each done before the next one comes."""
    stream = Stream()
    for number, at_s in enumerate(moments):
        stream = stream.now(pieces(request(f"r-{number}")), at_s).now([], at_s + 0.5)
    return stream


# --- what counts -----------------------------------------------------------------------------------------------


def test_requests_are_told_by_their_groups_or_by_their_number() -> None:
    by_name = streaming([0, 3, 6, 9])
    assert ((0.0, 1), (3.0, 1), (6.0, 1), (9.0, 1)) == by_name.arrivals
    same = Stream()
    for done, at_s in enumerate((0.0, 3.0, 6.0, 9.0)):  # one group, whose results are kept
        same = same.now(pieces(request(done=done)), at_s).now(pieces(request(done=done)), at_s + 1).now([], at_s + 2)
    assert by_name.arrivals == same.arrivals


def test_a_graph_that_is_worked_on_is_one_arrival() -> None:
    stream = Stream()
    for done in range(8):
        stream = stream.now(pieces(request(ready=8 - done, done=done)), float(done))
    assert ((0.0, 8),) == stream.arrivals


@pytest.mark.parametrize(
    ("moments", "left_s"),
    [
        ([0, 3, 6, 9, 12, 15], 12.0),  # at 15: four gaps of three seconds
        ([0, 3, 6, 9, 12], 0.0),  # too few
        ([0, 3, 6, 9, 12, 100], 0.0),  # the last one is the first of another stream
    ],
)
def test_a_stream_lasts_for_four_gaps_more(moments: list[float], left_s: float) -> None:
    assert left_s == streaming(moments).left_s(moments[-1], threads=1)


def test_large_graphs_are_no_stream() -> None:
    stream = Stream()
    for number in range(8):
        stream = stream.now(pieces(request(f"r-{number}", ready=4)), 3.0 * number).now([], 3.0 * number + 1)
    assert (0.0, True) == (stream.left_s(21.0, threads=1), stream.left_s(21.0, threads=4) > 0)


def test_guessed_run_times_make_no_stream() -> None:
    stream = streaming([0, 3, 6, 9, 12, 15])
    assert 0.0 == stream.now(pieces(request("r-9", mean_s=None)), 16.0).left_s(16.0, threads=1)


def test_what_arrivals_leave_between_them_are_pauses_while_it_lasts() -> None:
    stream = streaming([0, 3, 6, 9, 12, 13, 18])  # each takes two seconds: the one at 13 leaves nothing
    assert [1, 1, 1, 1, 3] == stream.pauses([], 20.0, threads=1)
    assert 6 * [50.0] == stream.pauses(6 * [50.0], 20.0, threads=1)  # seen more often
    assert [] == stream.pauses([], 18.0 + 4 * 3.0, threads=1)  # over


def test_it_survives_as_json() -> None:
    stream = streaming([0, 3, 6, 9])
    assert stream == Stream.read(stream.plain())
    assert Stream() == Stream.read({})


# --- how many wait ---------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.floats(0.01, 0.99))
def test_the_formula_of_erlang(servers: int, part: float) -> None:
    """As it stands in every book: the last term of a sum of Poisson's, against the recursion."""
    load = part * servers
    last = load**servers / math.factorial(servers) / (1 - load / servers)
    expected = last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)
    assert expected == pytest.approx(erlang_c(servers, load))


@pytest.mark.parametrize("servers", [1, 2])
def test_waiting_times_are_those_of_a_queue(servers: int) -> None:
    """Poisson arrivals at a queue that is simulated here, customer by customer."""
    rng, now_s, free, waited_s, moments = Random(1), 0.0, deque([0.0] * servers), 0.0, []
    for _ in range(200_000):
        now_s += rng.expovariate(1 / 3.0)
        start_s = max(now_s, free.popleft())
        waited_s += start_s - now_s
        free.append(start_s + 2.0)  # all take as long, so the first to begin is the first to be free
        moments.append(now_s)
    stream = Stream(tuple((at_s, 1) for at_s in moments), moments[0], each_s=2.0)
    tolerance = 0.02 if servers == 1 else 0.2  # exact for one server, known to be rough for more
    assert waited_s == pytest.approx(stream.waited_s(servers, 0, moments[-1]), rel=tolerance)


def test_a_backlog_by_hand() -> None:
    """Ten tasks of two seconds, and one more every four seconds: one server works off 0.5 s a second, in 40 s."""
    stream = streaming([0, 4, 8, 12, 16, 20])
    assert 40 * 10 / 2 == pytest.approx(stream.waited_s(1, 10, 100))
    assert 20 / 1.5 * 10 / 2 == pytest.approx(stream.waited_s(2, 10, 100))


# --- what comes of it ------------------------------------------------------------------------------------------


def look(policy: CostAware, past: Past, at_s: float, *groups: Group, jobs: int = 1) -> tuple[int, str, Past]:
    pool = PoolView(
        Pool("p", Shape(threads=1)),
        {Phase.READY: jobs} if jobs else {},
        startup=Startup((0.0,) * 3, (15.0,) * 3),
        idle=max(0, jobs - len(groups)),
    )
    target, past = policy.decide(View(at_s, 1.0, Load(at_s, groups), (pool,)), past)
    want = target.pools["p"]
    return want.jobs, want.reason, past


def served(policy: CostAware, moments: list[float]) -> tuple[int, str, Past]:
    past: Past = {}
    jobs, reason = 0, ""
    for number, at_s in enumerate(moments):
        _, _, past = look(policy, past, at_s, request(f"r-{number}", running=1))
        _, _, past = look(policy, past, at_s + 0.05)
        jobs, reason, past = look(policy, past, at_s + 0.1)
    return jobs, reason, past


UNEVEN = [0.0, 1.0, 6.0, 7.0, 9.0, 15.0, 16.0, 17.5, 21.0, 27.0, 28.0, 29.0]


def test_uneven_requests_get_a_second_job_and_even_ones_do_not() -> None:
    jobs, reason, _ = served(CostAware(10), UNEVEN)
    assert 2 == jobs
    assert "for requests that come every 2.56 s: the last saves" in reason
    assert 1 == served(CostAware(10), [2.56 * number for number in range(12)])[0]


def test_more_time_value_gives_never_fewer() -> None:
    sizes = [served(CostAware(value), UNEVEN)[0] for value in (0.1, 1, 10, 100, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_numbers_of_the_reason_decide() -> None:
    words = served(CostAware(10), UNEVEN)[1].rpartition(": the last ")[2].split()
    numbers = [float(word.strip(",")) for word in words if word.strip(",").replace(".", "").isdigit()]
    saved_s, worth, cost = numbers
    assert worth == pytest.approx(10 * saved_s, rel=0.1)
    assert worth > cost


def test_a_stream_that_is_over_holds_nothing() -> None:
    policy = CostAware(10)
    _, _, past = served(policy, UNEVEN)
    assert 0 == look(policy, past, UNEVEN[-1] + 3600.0)[0]


def test_who_serves_a_stream_stays_until_the_next_request() -> None:
    """Seven requests came while a job started; it does them at once, and the next one is due."""
    cloud = Startup(start_s=(10.0,))

    def seen(now_s: float, ready: int, idle: int, groups: tuple[Group, ...]) -> View:
        phases = {Phase.READY: ready} if ready else {Phase.STARTING: 1}
        pool = PoolView(Pool("default", Shape()), phases, startup=cloud, idle=idle)
        return View(now_s, 1.0, Load(now_s, groups), (pool,))

    def kept(every_s: float) -> int:
        past: Past = {}
        came = [seen(every_s * n, 0, 0, (request(ready=n + 1, mean_s=None),)) for n in range(7)]
        last_s = 6 * every_s
        done = [seen(last_s + 0.1, 1, 0, (request(ready=7, running=1),)), seen(last_s + 0.2, 1, 1, ())]
        for each in (*came, *done, seen(last_s + 14.0, 1, 1, ())):
            target, past = CostAware().decide(each, past)
        return target.pools["default"].jobs

    assert [0, 1] == [kept(every_s) for every_s in (0.4, 15.0)]
