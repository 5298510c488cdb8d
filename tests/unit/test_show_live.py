from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field, replace

import pytest

from dask_adaptive.model import Phase, Record
from dask_adaptive.show.live import LiveView, headline, news

from .records import burst, record, work


@dataclass
class Kept:
    records: list[Record] = field(default_factory=list)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_headline_tells_size_and_work():
    one = record(0, {Phase.READY: 2, Phase.STARTING: 1, Phase.GONE: 9}, groups=[work(waiting=28, ready=12, running=2)])
    assert headline(one) == "3 jobs (1 starting, 2 ready), 40 tasks (2 running)"
    assert headline(record(0)) == "0 jobs, 0 tasks"
    assert headline(record(0, {Phase.READY: 1}, groups=[work(ready=1)])) == "1 job (1 ready), 1 task"


def test_a_decision_is_news_with_its_reason():
    assert news(record(1, submit=2, reason="much to do"), record(0)) == "0 jobs, 0 tasks; 0 → 2: much to do"


def test_a_decision_names_its_pool_where_there_are_several():
    one = record(1, submit=2, reason="much to do")
    pools = {**one.snapshot.pools, "gpu": one.snapshot.pools["default"]}
    assert "; default 0 → 2: much to do" in news(replace(one, snapshot=replace(one.snapshot, pools=pools)), None)


def test_more_work_alone_is_no_news():
    assert news(record(1, groups=[work(ready=5)]), record(0)) is None


def test_a_lasting_error_is_said_once():
    first, second = record(0, error="scheduler lost"), record(1, error="scheduler lost")
    assert news(first, record(-1)) == "0 jobs, 0 tasks; no decision: scheduler lost"
    assert news(second, first) is None


def test_a_failed_job_is_told_with_the_words_of_the_manager():
    failed = record(1, {Phase.FAILED: 1})
    (name, life), *_ = failed.snapshot.lives.items()
    failed = replace(failed, snapshot=replace(failed.snapshot, lives={name: replace(life, reason="out of memory")}))
    assert news(failed, record(0)) == f"0 jobs, 0 tasks; job {name} failed: out of memory"
    assert news(replace(failed, at_s=failed.at_s + 1), failed) is None


def test_piped_it_is_one_line_for_each_change():
    out = io.StringIO()
    with LiveView(Kept(burst()), out):
        pass
    lines = out.getvalue().splitlines()
    assert lines == [
        "adaptive     0.0 s  0 jobs, 0 tasks",
        "adaptive     1.0 s  0 jobs, 16 tasks; 0 → 2: 12 tasks of about 0.5 s each would keep 2 jobs busy for 3 s",
        "adaptive     2.0 s  2 jobs (2 starting), 16 tasks",
        "adaptive     3.0 s  2 jobs (2 ready), 16 tasks (2 running)",
        "adaptive     7.0 s  2 jobs (2 ready), 0 tasks; 2 → 0: idle for 2 s",
        "adaptive     7.5 s  2 jobs (2 draining), 0 tasks",
        "adaptive     8.0 s  0 jobs, 0 tasks",
    ]


def test_records_that_come_while_it_watches_are_shown_once():
    out, kept = io.StringIO(), Kept()
    with LiveView(kept, out):
        kept.records += burst()
    assert len(out.getvalue().splitlines()) == 7


def test_on_a_terminal_the_last_decision_stays_in_view():
    pytest.importorskip("rich")
    out = Terminal()
    with LiveView(Kept(burst()[:5]), out):
        pass
    assert "2 ready" in out.getvalue()
    assert "0 → 2: 12 tasks of about 0.5 s each" in out.getvalue()


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.live", None)
    out = Terminal()
    with LiveView(Kept(burst()[:1]), out):
        pass
    assert out.getvalue() == "adaptive     0.0 s  0 jobs, 0 tasks\n"
