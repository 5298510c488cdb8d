"""Arithmetic of the nouns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_adaptive.model import (
    Batch,
    Limits,
    Phase,
    Pool,
    PoolView,
    Shape,
    Spec,
    Startup,
    job_of_worker,
    worker_name,
)


@pytest.mark.parametrize(
    ("need", "slots"),
    [
        ({}, 8),
        ({"GPU": 1}, 4),
        ({"GPU": 0.5}, 8),
        ({"GPU": 2}, 2),
        ({"GPU": 3}, 0),
        ({"GPU": 0}, 8),
        ({"licence": 1}, 0),
        ({"GPU": 1, "disk": 0.1}, 4),
    ],
)
def test_slots_of_a_job_by_need(need, slots):
    shape = Shape(workers=2, threads=4, resources={"GPU": 2, "disk": 0.3})
    assert slots == shape.slots(need)


def test_a_need_that_fits_exactly_fits_whatever_the_rounding():
    assert 3 == Shape(threads=8, resources={"disk": 0.3}).slots({"disk": 0.1})


@settings(deadline=None)
@given(minimum=st.integers(0, 9), more=st.integers(0, 9) | st.none(), jobs=st.integers(0, 30))
def test_clipping_gives_the_nearest_size_within_the_limits(minimum, more, jobs):
    maximum = None if more is None else minimum + more
    allowed = range(minimum, 31 if maximum is None else maximum + 1)
    assert min(allowed, key=lambda size: abs(size - jobs)) == Limits(minimum, maximum).clip(jobs)


@settings(deadline=None)
@given(index=st.integers(0, 999), attempt=st.integers(0, 99), i=st.integers(0, 99_999))
def test_a_worker_tells_its_job(index, attempt, i):
    assert f"abcdefgh.{i}" == job_of_worker(worker_name(f"abcdefgh.{i}", index, attempt))


@pytest.mark.parametrize("name", ["tcp://127.0.0.1:4000", "0", "abcdefgh.1", "Abcdefgh.1-0-0", "abcdefgh.1-0-0 "])
def test_a_worker_that_is_not_ours_has_no_job(name):
    assert job_of_worker(name) is None


def test_the_names_of_a_batch():
    batch = Batch("mine", "default", "abcdefgh", 3, Spec("tcp://x"))
    assert ("abcdefgh.0", "abcdefgh.1", "abcdefgh.2") == batch.names


def test_size_counts_what_serves_or_will():
    phases = {phase: 2**i for i, phase in enumerate(Phase)}
    view = PoolView(Pool("default"), phases)
    serving = [Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.UNKNOWN]
    assert sum(phases[phase] for phase in serving) == view.size
    assert (phases[Phase.READY], view.size - phases[Phase.READY]) == (view.ready, view.coming)


def test_start_up_is_queue_and_start_and_a_default_while_unknown():
    assert 1.0 == Startup().quantile_s(0.5)
    assert 7.0 == Startup(queue_s=(10.0,)).quantile_s(0.5, 7.0)
    learned = Startup(queue_s=(10.0, 30.0, 20.0), start_s=(3.0, 1.0, 2.0))
    assert (22.0, 33.0) == (learned.quantile_s(0.5), learned.quantile_s(1.0))
