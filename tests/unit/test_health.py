"""How a pool is doing: failures make it rest longer each time, limits only make it wait."""

from __future__ import annotations

from dask_adaptive.health import BROKEN_AFTER, Health


def test_a_limit_is_waited_for_and_no_failure() -> None:
    health = Health()
    for now_s in (0.0, 10.0, 20.0, 30.0):
        health.wait("the manager took 3 of 9 jobs", now_s)
    assert (0, 38.0) == (len(health.failed), health.retry_s)
    assert "the manager took 3 of 9 jobs" == health.word(31.0, trying=True)
    assert "" == health.word(38.0, trying=True)


def test_a_wait_does_not_end_a_rest() -> None:
    health = Health()
    health.fail("abcdefgh", "no such queue", 0.0, rest_s=60.0)
    health.wait("full", 1.0)
    assert 60.0 == health.retry_s


def test_failures_in_a_row_let_it_try_one_job() -> None:
    health = Health()
    for number in range(BROKEN_AFTER):
        health.fail(f"abcdefg{number}", "it broke", 0.0)
    assert "3 failures in a row; the last: it broke" == health.word(0.0, trying=False)
    assert "waiting for one job" in health.word(10.0, trying=True)
    assert "" == health.word(10.0, trying=False)


def test_it_never_rests_longer_than_the_longest_rest_however_often_it_fails() -> None:
    health = Health()
    for number in range(2000):
        health.fail(f"batch {number}", "it broke", 0.0)
        health.wait("full", 0.0)
    assert 300.0 == health.retry_s
