from __future__ import annotations

from dataclasses import replace

from tests.unit.records import record, work

from dask_adaptive.account import FirstWorker, explanation, job_table
from dask_adaptive.model import Limits, Phase, Plan, Record, Target, Want


def with_pool(made: Record, **changes: object) -> Record:
    pools = {name: replace(state, **changes) for name, state in made.snapshot.pools.items()}
    return replace(made, snapshot=replace(made.snapshot, pools=pools))


def test_what_backends_want_to_be_known_stands_below_the_table_and_in_the_explanation() -> None:
    table = job_table(None, 0.0, ["host fir: <away>"])
    assert "no jobs\nhost fir: <away>" == str(table)
    assert "<p>host fir: &lt;away&gt;</p>" in table._repr_html_()
    assert "To be known: host fir: away" in explanation(record(1, {Phase.READY: 1}), notes=["host fir: away"])


def test_before_the_first_round_nothing_is_made_up():
    assert "no jobs" == str(job_table(None, 0.0))
    assert "has not decided yet" in explanation(None)


def test_the_table_has_every_job_the_living_first_with_the_words_of_the_manager():
    made = record(5, {Phase.FAILED: 1, Phase.QUEUED: 1, Phase.READY: 1})
    lives = {name: replace(life, wanted_s=1_000.0) for name, life in made.snapshot.lives.items()}
    lives["queue000.0"] = replace(lives["queue000.0"], reason="Resources", wanted_s=1_002.0)
    table = job_table(replace(made, snapshot=replace(made.snapshot, lives=lives)), 1_012.0)
    assert [Phase.READY, Phase.QUEUED, Phase.FAILED] == [row.phase for row in table]
    head, *lines = str(table).splitlines()
    assert ["job", "pool", "phase", "workers", "age", "reason"] == head.split()
    assert ["queue000.0", "default", "queued", "0", "10", "s", "Resources"] == lines[1].split()


def test_words_of_others_are_escaped_in_a_notebook():
    made = record(1, {Phase.QUEUED: 1})
    lives = {name: replace(life, reason="<script>") for name, life in made.snapshot.lives.items()}
    page = job_table(replace(made, snapshot=replace(made.snapshot, lives=lives)), 1_001.0)._repr_html_()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_the_explanation_says_why_what_is_held_back_and_what_would_make_it_grow():
    made = record(1, {Phase.READY: 2}, want=5, reason="40 tasks ready", limits=Limits(0, 8))
    text = explanation(replace(made, plan=Plan(held={"default": "a submit is in flight"})))
    assert "2 jobs, 5 wanted" in text
    assert "40 tasks ready" in text
    assert "Held back: a submit is in flight" in text
    assert "0 to 8 jobs. More work" in text


def test_a_limit_of_the_manager_is_waited_for():
    made = with_pool(record(1, {Phase.READY: 3}), broken="the manager took 3 of 9 jobs")
    assert "Waits: the manager took 3 of 9 jobs" in explanation(made)


def test_at_the_maximum_only_a_larger_one_helps():
    assert "Only a larger maximum" in explanation(record(1, {Phase.READY: 2}, limits=Limits(0, 2)))
    assert "or more" in explanation(record(1, {Phase.READY: 2}, limits=Limits(1, None)))


def test_what_is_wrong_is_said():
    made = with_pool(
        record(1, error="the scheduler cannot be asked"), broken="3 failures", failures=3, stale="no answer for 9 s"
    )
    target = Target({"default": Want(0, "idle")}, None, ("2 more not worth it",), ("4 tasks need GPU=1",))
    text = explanation(replace(made, target=target), ["job a holds 3 results that client b wants"])
    for words in (
        "Broken: 3 failures",
        "Not trusted: no answer for 9 s",
        "Not done: 2 more not worth it",
        "Impossible: 4 tasks need GPU=1",
        "Error: the scheduler cannot be asked",
        "Holds data: job a holds 3 results",
    ):
        assert words in text


def test_the_notice_is_one_line_with_what_the_manager_answers_and_is_said_once():
    def waiting(at_s: float) -> Record:
        made = record(at_s, {Phase.QUEUED: 2}, groups=[work(ready=7)])
        lives = {name: replace(life, reason="Priority") for name, life in made.snapshot.lives.items()}
        return replace(made, snapshot=replace(made.snapshot, lives=lives))

    first = FirstWorker(10.0)
    line = "7 tasks have waited 12 s for their first worker; jobs: 2 queued (Priority)"
    assert ["", "", line, ""] == [first.notice(waiting(at_s)) for at_s in (0, 9, 12, 30)]


def test_the_notice_is_said_again_after_a_time_without_waiting_work_or_with_a_worker():
    first = FirstWorker(10.0)
    for served in (record(20), record(20, {Phase.READY: 1}, groups=[work(ready=7)])):
        assert not first.notice(record(0, groups=[work(ready=7)]))
        assert first.notice(record(10, groups=[work(ready=7)]))
        assert not first.notice(served)


def test_no_notice_where_nobody_wants_it():
    first = FirstWorker(0.0)
    assert ["", ""] == [first.notice(record(at_s, groups=[work(ready=7)])) for at_s in (0, 1000)]


def test_the_notice_without_a_job_tells_the_reason_of_the_policy():
    first = FirstWorker(10.0)
    waiting = [record(at_s, groups=[work(ready=7)], reason="cut to 0") for at_s in (0, 10)]
    line = [first.notice(with_pool(each, broken="no python3 on the node")) for each in waiting][-1]
    assert "none (cut to 0)" in line
    assert line.endswith("no python3 on the node")
