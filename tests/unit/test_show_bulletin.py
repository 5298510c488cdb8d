from __future__ import annotations

from dataclasses import replace

import dask.config
import msgpack
import pytest

from dask_adaptive import Cluster
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Limits, Phase, Startup
from dask_adaptive.show.bulletin import LONGEST_TEXT, MOST_DECISIONS, MOST_JOBS, Ledger

from .records import burst, record, work


def told(records, **options):
    ledger = Ledger("mine", **options)
    for each in records:
        ledger.take(each)
    return ledger


def failed_with_log(tail):
    """One failed job whose log the pool's reason quotes."""
    one = record(0, {Phase.FAILED: 1, Phase.READY: 1})
    lives = {
        name: replace(life, log_tail=tail) if life.phase is Phase.FAILED else life
        for name, life in one.snapshot.lives.items()
    }
    state = replace(
        one.snapshot.pools["default"], broken=f"3 failures in a row; the last: died ({tail.splitlines()[-1]})"
    )
    return replace(one, snapshot=replace(one.snapshot, lives=lives, pools={"default": state}))


def test_before_the_first_round_there_is_nothing_to_say():
    assert {} == Ledger("mine").bulletin()


def test_a_bulletin_is_a_plain_value():
    bulletin = told(burst()).bulletin({"default": {"submit": 1}})
    assert bulletin == msgpack.unpackb(msgpack.packb(bulletin))


def test_sums_of_a_burst():
    # two jobs of one worker run from 2 s to 8 s
    bulletin = told(burst()).bulletin()
    pool = bulletin["pools"]["default"]
    assert (12, 12, 2, 0, 1, 1) == tuple(
        pool[key] for key in ("worker_s", "spend", "submitted", "failed", "more", "fewer")
    )
    assert (9, 0) == (bulletin["rounds"], bulletin["errors"])


def test_spend_is_worker_seconds_times_the_price():
    rounds = []
    for at_s in (0, 10):
        one = record(at_s, {Phase.READY: 3}, workers=2)
        state = one.snapshot.pools["default"]
        pools = {"default": replace(state, pool=replace(state.pool, price=0.5))}
        rounds.append(replace(one, snapshot=replace(one.snapshot, pools=pools)))
    pool = told(rounds).bulletin()["pools"]["default"]
    assert (60, 30, 0.5) == (pool["worker_s"], pool["spend"], pool["price"])


def test_what_is_now_comes_from_the_last_round():
    rounds = [record(0), record(1, {Phase.READY: 2, Phase.QUEUED: 1}, groups=[work(ready=5, running=2, waiting=3)])]
    bulletin = told(rounds).bulletin()
    assert {"waiting": 3, "ready": 3, "running": 2} == bulletin["tasks"]
    assert {"ready": 2, "queued": 1} == bulletin["pools"]["default"]["phases"]


@pytest.mark.parametrize("maximum", [5, None])
def test_limits_are_told(maximum):
    pool = told([record(0, limits=Limits(1, maximum))]).bulletin()["pools"]["default"]
    assert (1, maximum) == (pool["minimum"], pool["maximum"])


def test_start_ups_are_told_as_median_and_most():
    one = record(0)
    state = replace(one.snapshot.pools["default"], startup=Startup((1.0, 2.0, 9.0), (4.0,)))
    one = replace(one, snapshot=replace(one.snapshot, pools={"default": state}))
    startup = told([one]).bulletin()["pools"]["default"]["startup"]
    assert {"queue": [2.0, 9.0, 3], "start": [4.0, 4.0, 1]} == startup


def test_decisions_are_numbered_and_the_newest_is_first():
    rounds = burst(reason="much to do")
    bulletin = told(rounds).bulletin()
    assert [
        [2, rounds[0].at_s + 7, "default", 2, 0, "idle for 2 s"],
        [1, rounds[0].at_s + 1, "default", 0, 2, "much to do"],
    ] == bulletin["decisions"]


def test_a_failed_job_is_counted_once_however_long_it_is_listed():
    rounds = [record(0, {Phase.FAILED: 1}), record(1, {Phase.FAILED: 2}), record(2, {Phase.FAILED: 2})]
    assert 2 == told(rounds).bulletin()["pools"]["default"]["failed"]


def test_failed_calls_to_the_manager_are_told_by_pool():
    bulletin = told(burst()).bulletin({"default": {"submit": 2, "list": 1}})
    assert {"submit": 2, "list": 1} == bulletin["pools"]["default"]["manager_errors"]


def test_a_bulletin_is_bounded():
    rounds = [record(i, {Phase.QUEUED: 1000}, submit=1, reason="x" * 5000) for i in range(100)]
    bulletin = told(rounds, logs=True).bulletin()
    assert (MOST_JOBS, 1000 - MOST_JOBS) == (len(bulletin["jobs"]), bulletin["jobs_left_out"])
    assert MOST_DECISIONS == len(bulletin["decisions"])
    assert {LONGEST_TEXT} == {len(decision[-1]) for decision in bulletin["decisions"]}
    assert len(msgpack.packb(bulletin)) < 200_000


def test_logs_are_not_told_unless_the_owner_says_so():
    rounds = [failed_with_log("starting\npassword=hunter2")]
    quiet, open_ = told(rounds).bulletin(), told(rounds, logs=True).bulletin()
    assert "hunter2" not in str(quiet)
    assert "3 failures in a row; the last: died" == quiet["pools"]["default"]["broken"]
    assert not {"logs", "addresses"} & set(quiet)
    assert ["starting\npassword=hunter2"] == list(open_["logs"].values())
    assert "hunter2" in open_["pools"]["default"]["broken"]


def test_the_end_of_a_log_is_not_told_either_when_its_job_is_forgotten():
    one = failed_with_log("starting\n  password=hunter2")
    ledger = told([one])
    assert "hunter2" not in str(ledger.bulletin())
    ledger.take(replace(one, number=1, at_s=one.at_s + 1, snapshot=replace(one.snapshot, lives={})))
    assert "3 failures in a row; the last: died" == ledger.bulletin()["pools"]["default"]["broken"]


def test_the_living_come_first():
    bulletin = told([record(0, {Phase.GONE: 300, Phase.READY: 1})]).bulletin()
    assert ("ready000.0", "ready") == (bulletin["jobs"][0][0], bulletin["jobs"][0][3])
    assert {"ready": 1} == bulletin["pools"]["default"]["phases"]


@pytest.mark.parametrize("key", ["page", "page-logs"])
def test_what_is_neither_true_nor_false_shows_nothing_by_mistake(key):
    with dask.config.set({f"adaptive.{key}": "off"}):
        with pytest.raises(ConfigError, match=f"adaptive.{key} must be true or false, not 'off'"):
            Cluster(asynchronous=True)
