from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Limits, Phase
from dask_adaptive.show.bulletin import Ledger
from dask_adaptive.show.widget import make_widget, status_html

from .records import burst, record, work


def words(page: str) -> str:
    """What a reader sees."""
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append
    parser.feed(page)
    return " ".join(seen)


class Loop:
    def add_callback(self, install):
        install()


class FakeCluster:
    def __init__(self, records=()):
        self.records, self.name, self.dashboard_link, self.loop = list(records), "mine", None, Loop()
        self.periodic_callbacks: dict = {}
        self.asked: list = []

    def bulletin(self):
        ledger = Ledger(self.name)
        for each in self.records:
            ledger.take(each)
        return ledger.bulletin()

    def scale(self, n):
        self.asked.append(("scale", n))

    def adapt(self, **options):
        if options["minimum"] > options["maximum"]:
            raise ConfigError("minimum 5 is above maximum <1>")
        self.asked.append(("adapt", options))


def test_status_tells_size_work_limits_and_the_last_decision():
    seen = words(status_html(burst()[:5], "my cluster"))
    assert "my cluster" in seen
    assert "2 ready" in seen
    assert "2 running, 2 ready, 0 waiting" in seen
    assert "2 jobs; at least 0, at most 8" in seen
    assert "0 → 2 jobs: 12 tasks of about 0.5 s each would keep 2 jobs busy for 3 s" in seen


def test_status_of_a_cluster_that_has_not_started():
    assert "none yet" in words(status_html([], "new"))


def test_status_says_what_is_wrong():
    one = record(0, {Phase.FAILED: 2}, limits=Limits(0, None), error="scheduler lost")
    state = replace(one.snapshot.pools["default"], broken="no such command", stale="timed out")
    one = replace(
        one,
        snapshot=replace(one.snapshot, pools={"default": state}),
        target=replace(one.target, impossible=("3 tasks need a GPU",)),
    )
    seen = words(status_html([one]))
    for sentence in (
        "scheduler lost",
        "2 failed",
        "broken: no such command",
        "timed out",
        "without a maximum",
        "3 tasks need a GPU",
    ):
        assert sentence in seen


def test_names_and_reasons_are_escaped():
    page = status_html(burst(reason="<script>")[:2], "<b>", 'http://x/"onclick=')
    assert not re.search(r"<script|<b>|/\"onclick", page)
    assert "<script>" in words(page)


@pytest.fixture
def stopped(monkeypatch):
    """Widgets outside a notebook, and a refresh that comes only when it is called."""
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr("tornado.ioloop.PeriodicCallback.start", lambda self: None)


def click(widget, row):
    widget.children[row].children[-1].click()


def test_buttons_size_the_cluster(stopped):
    cluster = FakeCluster(burst())
    widget = make_widget(cluster)
    widget.children[1].children[0].value = 3
    click(widget, 1)
    widget.children[2].children[1].value = 7
    click(widget, 2)
    assert cluster.asked == [("scale", 3), ("adapt", {"minimum": 0, "maximum": 7})]


def test_what_the_cluster_refuses_is_shown(stopped):
    widget = make_widget(FakeCluster())
    widget.children[2].children[0].value = 5
    click(widget, 2)
    assert widget.children[3].value == "minimum 5 is above maximum &lt;1&gt;"


def test_the_widget_follows_the_cluster(stopped):
    cluster = FakeCluster()
    widget = make_widget(cluster)
    assert "none yet" in widget.children[0].value
    cluster.records += [record(0, {Phase.READY: 4}, groups=[work(ready=1)])]
    cluster.periodic_callbacks["cluster-repr"].callback()
    assert "4 ready" in widget.children[0].value


def test_the_widget_tells_what_was_spent(stopped):
    seen = words(make_widget(FakeCluster(burst())).children[0].value)
    assert "spent 12 worker-seconds" in seen


def test_start_ups_and_prices_are_told_as_on_the_page():
    pool = {"worker_s": 120.4, "price": 0.5, "spend": 60.2, "startup": {"start": [3.25, 4.0, 7]}}
    seen = words(status_html(burst(), bulletin={"pools": {"default": pool}}))
    assert "starts in 3.2 s" in seen
    assert "spent 120 worker-seconds x 0.5 = 60.20" in seen


def test_without_ipywidgets_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert make_widget(FakeCluster()) is None
