"""The life of a job: every transition of the table, and what no news may do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive import life as lives
from dask_adaptive.model import ALIVE, Job, JobId, JobState, Life, Phase

NOW_S = 1000.0
ID = JobId("7")
OVER = (Phase.GONE, Phase.FAILED)


def job(phase: str, **more: object) -> Life:
    """A job in this phase, with the marks that it would have collected on its way."""
    told = phase in ("ending",)
    known = {} if phase in ("wanted", "unknown") else {"id": ID, "submitted_s": 10.0}
    served = {"served": True, "present": 1, "ready_s": 30.0} if phase in ("ready", "draining") else {}
    marks = {"told": told, **known, **served, **more}
    return replace(Life("abcdefgh.0", "default", Phase(phase), since_s=20.0, wanted_s=5.0), **marks)  # type: ignore[arg-type]


def shown(state: str, **more: object) -> Callable[[Life], Life]:
    listed = Job(ID, "abcdefgh.0", JobState(state), **more)  # type: ignore[arg-type]
    return lambda life: lives.listed(life, listed, NOW_S, NOW_S + 15)


def unlisted(life: Life) -> Life:
    return lives.unlisted(life, 0.0, NOW_S)


def registers(life: Life) -> Life:
    return lives.registered(life, 1, 1, NOW_S)


def cancels(life: Life) -> Life:
    return lives.cancelled(life, "not needed", NOW_S + 15, NOW_S)


WAYS: list[tuple[Life, str, Callable[[Life], Life], str]] = [
    (job("wanted"), "the manager takes it", lambda life: lives.accepted(life, ID, NOW_S), "submitted"),
    (job("wanted"), "the list is faster than the answer", shown("queued"), "queued"),
    (job("wanted"), "the list is faster than the answer", shown("running"), "starting"),
    (job("wanted"), "workers are faster than the answer", registers, "ready"),
    (job("wanted"), "the manager refuses", lambda life: lives.refused(life, "no", NOW_S), "failed"),
    (job("wanted"), "the list is faster than the answer", shown("ended", exit_code=1), "failed"),
    (job("wanted"), "nobody knows", lambda life: lives.unsure(life, "?", NOW_S + 9, NOW_S), "unknown"),
    (job("submitted"), "the manager queues it", shown("queued"), "queued"),
    (job("submitted"), "the manager runs it", shown("running"), "starting"),
    (job("submitted"), "its workers register", registers, "ready"),
    (job("submitted"), "told to end", cancels, "ending"),
    (job("submitted"), "somebody cancels it", shown("ending"), "ending"),
    (job("submitted", served=True), "it ended well", shown("ended", exit_code=0), "gone"),
    (job("submitted"), "it ended at once", shown("ended", exit_code=1), "failed"),
    (job("submitted"), "it vanished", unlisted, "failed"),
    (job("queued"), "the manager runs it", shown("running"), "starting"),
    (job("queued"), "its workers register", registers, "ready"),
    (job("queued"), "told to end", cancels, "ending"),
    (job("queued", served=True), "requeued, then it ended well", shown("ended"), "gone"),
    (job("queued"), "it ended at once", shown("ended"), "failed"),
    (job("starting"), "preempted", shown("queued"), "queued"),
    (job("starting"), "its workers register", registers, "ready"),
    (job("starting"), "told to end", cancels, "ending"),
    (job("starting", present=1), "a part came in time", lambda life: lives.draining(life, "late", NOW_S), "draining"),
    (job("starting", served=True), "it ended well", shown("ended"), "gone"),
    (job("starting"), "it ended before serving", shown("ended", exit_code=0), "failed"),
    (job("ready", present=0), "preempted", shown("queued"), "queued"),
    (job("ready"), "a drain begins", lambda life: lives.draining(life, "idle", NOW_S), "draining"),
    (job("ready"), "told to end", cancels, "ending"),
    (job("ready"), "somebody cancels it", shown("ending"), "ending"),
    (job("ready"), "it ended well", shown("ended", exit_code=0), "gone"),
    (job("ready"), "it died", shown("ended", exit_code=-9), "failed"),
    (job("ready", present=0), "it vanished after it served", unlisted, "gone"),
    (job("draining"), "the drain is refused", lambda life: lives.kept(life, "an actor", NOW_S), "ready"),
    (job("draining"), "its workers are closed", lambda life: lives.drained(life, NOW_S, NOW_S), "ending"),
    (job("draining"), "told to end", cancels, "ending"),
    (job("draining"), "it ended", shown("ended", exit_code=1), "gone"),
    (job("ending", told=False), "it was ended in order to be requeued", shown("queued"), "queued"),
    (job("ending"), "the cancel failed, and its workers register", registers, "ready"),
    (job("ending"), "it ended", shown("ended", exit_code=-15), "gone"),
    (job("ending"), "the manager forgot it", unlisted, "gone"),
    (job("gone"), "it reappears in the queue", shown("queued"), "queued"),
    (job("gone"), "it reappears running", shown("running"), "starting"),
    (job("gone"), "its workers register after all", registers, "ready"),
    (job("gone", told=True), "it was told to end and reappears", shown("running"), "ending"),
    (job("failed"), "it reappears in the queue", shown("queued"), "queued"),
    (job("failed"), "it reappears running", shown("running"), "starting"),
    (job("failed"), "its workers register after all", registers, "ready"),
    (job("failed", told=True), "it was told to end and reappears", shown("queued"), "ending"),
    (job("unknown"), "it is listed", shown("queued"), "queued"),
    (job("unknown"), "it is listed", shown("running"), "starting"),
    (job("unknown"), "its workers register", registers, "ready"),
    (job("unknown"), "somebody cancels it", shown("ending"), "ending"),
    (job("unknown", served=True), "it is listed as ended well", shown("ended"), "gone"),
    (job("unknown"), "it is listed as ended", shown("ended"), "failed"),
    (job("unknown", deadline_s=NOW_S), "its deadline", lambda life: lives.expired(life, NOW_S), "failed"),
]


@pytest.mark.parametrize(("before", "what", "news", "after"), WAYS, ids=[f"{w[0].phase.value}-{w[3]}" for w in WAYS])
def test_every_way(before: Life, what: str, news: Callable[[Life], Life], after: str) -> None:
    life = news(before)
    assert (Phase(after), NOW_S) == (life.phase, life.since_s), what


def test_the_ways_are_the_table() -> None:
    walked = {(before.phase, Phase(after)) for before, _, _, after in WAYS}
    table = {(start, end) for start, ends in lives.ALLOWED.items() for end in ends}
    assert table == walked
    assert set(Phase) == set(lives.ALLOWED)


def test_the_drawing_is_the_table() -> None:
    """Each arrow of the drawing's first line is allowed, in its order, and each phase is in the drawing."""
    drawing = (lives.__doc__ or "").split("* QUEUED")[0]
    assert {phase.name for phase in Phase} <= set(re.findall(r"[A-Z]{4,}", drawing))
    chain = re.split(r" ─+> ", drawing.strip().splitlines()[2].strip())
    assert ["WANTED", "SUBMITTED", "QUEUED", "STARTING", "READY", "DRAINING", "ENDING", "GONE"] == chain
    for start, end in pairwise(chain):
        assert Phase[end] in lives.ALLOWED[Phase[start]]
    for start in ("SUBMITTED", "QUEUED", "STARTING", "READY", "DRAINING"):
        assert Phase.ENDING in lives.ALLOWED[Phase[start]], "told to end"
    assert Phase.READY in lives.ALLOWED[Phase.DRAINING], "drain refused"


# --- what no news may do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["starting", "ready", "draining", "ending"])
def test_a_list_that_goes_back_in_time_moves_nothing_back(phase: str) -> None:
    before = job(phase, present=1)
    assert before.phase is shown("queued")(before).phase
    if phase != "starting":
        assert before.phase is shown("running")(before).phase


@pytest.mark.parametrize("phase", ["gone", "failed"])
def test_a_finished_state_is_not_written_again(phase: str) -> None:
    before = job(phase, reason="the first word")
    after = shown("ended", exit_code=1, reason="another word")(before)
    assert (before.phase, "the first word", before.since_s) == (after.phase, after.reason, after.since_s)


def test_the_same_news_twice_is_the_same_object() -> None:
    once = shown("running")(job("queued"))
    assert shown("running")(once) is once
    ready = registers(once)
    assert registers(ready) is ready


def test_a_requeued_job_begins_anew() -> None:
    ready = registers(shown("running")(job("queued")))
    lost = lives.registered(ready, 0, 1, NOW_S + 1)
    assert NOW_S + 1 == lost.lost_s
    queued = lives.listed(lost, Job(ID, lost.name, JobState.QUEUED, "requeued"), NOW_S + 2)
    assert (Phase.QUEUED, 0.0, 0.0, "requeued") == (queued.phase, queued.running_s, queued.ready_s, queued.reason)
    again = lives.registered(lives.listed(queued, Job(ID, lost.name, JobState.RUNNING), NOW_S + 3), 1, 1, NOW_S + 4)
    assert (Phase.READY, NOW_S + 3, NOW_S + 4, 0.0) == (again.phase, again.running_s, again.ready_s, again.lost_s)


def test_a_job_with_registered_workers_is_never_gone_by_absence() -> None:
    before = job("ready", present=1)
    assert unlisted(before) is before


def test_absence_counts_only_after_the_lag_of_the_list() -> None:
    before = job("queued")
    missed = lives.unlisted(before, 30.0, NOW_S)
    assert (Phase.QUEUED, NOW_S) == (missed.phase, missed.missing_s)
    assert Phase.QUEUED is lives.unlisted(missed, 30.0, NOW_S + 29).phase
    assert Phase.FAILED is lives.unlisted(missed, 30.0, NOW_S + 30).phase
    seen = lives.listed(missed, Job(ID, before.name, JobState.QUEUED), NOW_S + 29)
    assert 0.0 == seen.missing_s


def test_an_unknown_submit_holds_its_place_until_its_deadline() -> None:
    before = job("unknown", deadline_s=NOW_S + 1, reason="no answer")
    assert unlisted(before) is before
    assert lives.expired(before, NOW_S) is before
    assert "no answer; never listed" == lives.expired(before, NOW_S + 1).reason


def test_only_a_part_of_the_workers_is_not_ready() -> None:
    half = lives.registered(job("starting"), 1, 2, NOW_S)
    assert (Phase.STARTING, 1, False) == (half.phase, half.present, half.served)


def test_an_ending_job_is_told_again_at_its_deadline() -> None:
    once = cancels(job("queued"))
    again = lives.cancelled(once, "still there", NOW_S + 40, NOW_S + 20)
    assert (Phase.ENDING, NOW_S, NOW_S + 40) == (again.phase, again.since_s, again.deadline_s)


NEWS: list[Callable[[Life], Life]] = [
    *(shown(state.value, exit_code=code) for state in JobState for code in (None, 0, 1)),
    unlisted,
    registers,
    cancels,
    lambda life: lives.registered(life, 0, 1, NOW_S),
    lambda life: lives.accepted(life, ID, NOW_S),
    lambda life: lives.refused(life, "no", NOW_S),
    lambda life: lives.unsure(life, "?", NOW_S, NOW_S),
    lambda life: lives.expired(life, NOW_S),
    lambda life: lives.draining(life, "idle", NOW_S),
    lambda life: lives.kept(life, "an actor", NOW_S),
    lambda life: lives.drained(life, NOW_S, NOW_S),
]


@given(st.lists(st.sampled_from(NEWS), max_size=30))
def test_any_news_in_any_order_keeps_to_the_table(news: list[Callable[[Life], Life]]) -> None:
    life = lives.wanted("abcdefgh.0", "default", 5.0)
    for each in news:
        before, life = life, each(life)
        assert life.phase is before.phase or life.phase in lives.ALLOWED[before.phase]
        if life.phase in OVER and before.phase in ALIVE:
            assert life.reason, "a job that is over says why"


def test_a_job_whose_drain_was_refused_serves_with_the_part_that_came() -> None:
    half = lives.draining(lives.registered(job("starting"), 1, 2, NOW_S), "late", NOW_S)
    stays = lives.kept(half, "busy", NOW_S + 1)
    assert (Phase.READY, False, NOW_S + 1) == (stays.phase, stays.served, stays.lost_s)
    whole = lives.registered(stays, 2, 2, NOW_S + 2)
    assert (Phase.READY, True, 0.0) == (whole.phase, whole.served, whole.lost_s)


def test_a_job_whose_rest_came_while_it_was_drained_misses_nothing() -> None:
    half = lives.draining(lives.registered(job("starting"), 1, 2, NOW_S), "late", NOW_S)
    stays = lives.kept(lives.registered(half, 2, 2, NOW_S + 1), "an actor", NOW_S + 2)
    whole = lives.registered(stays, 2, 2, NOW_S + 2)
    assert (Phase.READY, True, 0.0) == (whole.phase, whole.served, whole.lost_s)
    assert lives.registered(whole, 2, 2, NOW_S + 3) is whole


def test_a_job_of_which_nothing_came_is_not_drained() -> None:
    assert Phase.STARTING is lives.draining(job("starting"), "late", NOW_S).phase


@pytest.mark.parametrize(("left_s", "ends_s"), [(600.0, 600.0), (3590.0, 3600.0), (3650.0, 3600.0), (7000.0, 7000.0)])
def test_the_end_is_taken_again_where_it_moved(left_s: float, ends_s: float) -> None:
    life = lives.listed(job("ready"), Job(ID, "abcdefgh.0", JobState.RUNNING, left_s=3600.0), 0.0)
    assert ends_s == lives.listed(life, Job(ID, "abcdefgh.0", JobState.RUNNING, left_s=left_s), 0.0).ends_s
