"""The page that travels to the scheduler: what it needs there, what it keeps, what it shows of logs."""

from __future__ import annotations

import ast
import pickle
import sys
import time
from pathlib import Path

import dask.config
import pytest

from dask_adaptive.engine import page
from dask_adaptive.engine.page import KEPT, Page, jobs_table, stairs, table
from dask_adaptive.engine.parcel import parcel
from dask_adaptive.show.bulletin import Ledger

from .records import burst, record

SOURCE = Path(page.__file__).read_text(encoding="utf-8")


def bulletin(at_s=0.0):
    ledger = Ledger("mine")
    ledger.take(record(at_s))
    return ledger.bulletin()


def test_the_page_needs_only_what_every_scheduler_has():
    tree = ast.parse(SOURCE, feature_version=(3, 10))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [
        alias.name if isinstance(node, ast.Import) else str(node.module) for node in imports for alias in node.names
    ]
    roots = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert {"bokeh", "dask", "distributed", "prometheus_client", "tornado"} == roots
    top = {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not {"bokeh", "prometheus_client"} & {name.partition(".")[0] for name in top}  # where they are


def test_the_page_travels_as_text(monkeypatch):
    sent = parcel("Page", {"name": "n", "token": "t"})
    monkeypatch.setitem(sys.modules, "dask_adaptive", None)
    made = pickle.loads(sent)
    assert "n" == made.name
    assert type(made).__module__ not in sys.modules


def test_every_name_of_dask_that_it_relies_on_is_there():
    from importlib import import_module

    pytest.importorskip("bokeh")
    for where, name, _ in page.NAMES:
        if where != "scheduler":
            assert hasattr(import_module(where), name)


def test_a_day_of_bulletins_is_kept_in_a_bounded_list():
    one = Page(name="n", token="t")
    for at_s in range(5 * KEPT):
        assert one.publish("t", {"at_s": float(at_s), "tasks": {}, "pools": {}})
    times = [at_s for at_s, *_ in one.points]
    assert KEPT // 2 <= len(times) <= KEPT
    assert (0.0, 5.0 * KEPT - 1) == (times[0], times[-1])
    assert sorted(times) == times


def test_another_controller_cannot_speak_for_this_one():
    one = Page(name="n", token="t")
    assert one.publish("t", bulletin())
    assert not one.publish("other", bulletin(9.0))
    assert 1 == len(one.points)


def test_every_value_stands_until_the_next():
    assert [1, 1, 4, 4, 9] == stairs([1, 4, 9])


def test_an_empty_table_says_so():
    assert "<p>none</p>" == table(["a"], [])


def shown(**more):
    jobs = [
        ["ready000.0", "17", "default", "ready", 1, 1000.0, ""],
        ["faile000.0", "18", "default", "failed", 0, 0, ""],
    ]
    return jobs_table({"jobs": jobs, "jobs_left_out": 3, **more})


def test_there_is_no_column_for_logs_unless_the_owner_gave_them():
    assert "log" not in shown()
    assert "and 3 more" in shown()


def test_a_failed_job_shows_its_end_and_a_living_one_links_to_its_workers():
    seen = shown(
        logs={"faile000.0": "<b>killed</b>"}, addresses={"ready000.0": ["tcp://10.0.0.1:80"], "faile000.0": []}
    )
    assert "&lt;b&gt;killed&lt;/b&gt;" in seen
    assert 'href="info/logs/tcp%3A%2F%2F10.0.0.1%3A80.html"' in seen


def test_no_link_leads_to_a_page_that_the_scheduler_does_not_have():
    with dask.config.set({"distributed.scheduler.http.routes": ["distributed.http.health"]}):
        assert "href" not in shown(logs={}, addresses={"ready000.0": ["tcp://10.0.0.1:80"], "faile000.0": []})


def test_points_follow_a_burst():
    one, ledger = Page(name="n", token="t"), Ledger("mine")
    for each in burst():
        ledger.take(each)
        one.publish("t", ledger.bulletin())
    series = page.jobs_series("default", ledger.bulletin()["bands"])
    assert [0, 0, 0, 2, 2, 2, 0, 0, 0] == [series(point)["ready"] for point in one.points]
    assert [0, 0, 2, 0, 0, 0, 0, 0, 0] == [series(point)["starting"] for point in one.points]
    assert {8} == {series(point)["maximum"] for point in one.points}


@pytest.mark.parametrize("set_s", [-3600.0, 0.0, 2 * page.FORGOTTEN_S])
def test_silence_is_what_has_passed_however_the_clock_was_set(set_s, monkeypatch):
    pytest.importorskip("bokeh")
    one = Page(name="n", token="t")
    one.publish("t", bulletin())
    monkeypatch.setattr(page, "time", lambda: time.time() + 60 + set_s, raising=False)
    monkeypatch.setattr(page, "monotonic", lambda: time.monotonic() + 60, raising=False)
    words = page.Words()
    words.update(one, None)
    assert "the controller has said nothing for 60 s" in words.above.text
