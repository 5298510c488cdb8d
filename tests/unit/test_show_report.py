from __future__ import annotations

import re
import struct
import sys
from xml.etree import ElementTree

import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Limits, Phase
from dask_adaptive.show.report import duration, summary, write_report
from dask_adaptive.show.timeline import Totals

from .records import burst, record


def test_png_is_a_picture_of_a_size_that_can_be_read(tmp_path):
    data = write_report(burst(), tmp_path / "run.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 1000
    assert height >= 600


def test_svg_is_well_formed_and_the_same_each_time(tmp_path):
    first = write_report(burst(), tmp_path / "one.svg")
    second = write_report(burst(), tmp_path / "two.svg")
    assert ElementTree.parse(first).getroot().tag.endswith("svg")
    assert first.read_bytes() == second.read_bytes()


def test_html_needs_no_other_file_and_lists_every_decision(tmp_path):
    page = write_report(burst(), tmp_path / "new" / "run.html", title="my run").read_text()
    assert "<h1>my run</h1>" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert page.count("<svg") == 1
    assert "12 tasks of about 0.5 s each would keep 2 jobs busy for 3 s" in page
    assert "idle for 2 s" in page
    assert "0 → 2" in page
    assert "2 → 0" in page


def test_what_users_and_managers_say_is_escaped(tmp_path):
    page = write_report(burst(reason="<script>alert(1)</script> & $x^$"), tmp_path / "a.html", title="<b>").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x^$" in page
    assert "<h1>&lt;b&gt;</h1>" in page


@pytest.mark.parametrize("form", [".png", ".svg", ".html"])
@pytest.mark.parametrize(
    "records",
    [
        [record(0)],
        [record(0), record(1, {Phase.READY: 1}, limits=Limits(1, None))],
        [record(0, error="scheduler lost"), record(3600, {Phase.FAILED: 2, Phase.UNKNOWN: 1})],
        [record(i / 10, submit=1, reason="$ & <again> " * 40) for i in range(200)],
    ],
    ids=["one round", "no limit", "failures", "many decisions"],
)
def test_any_run_can_be_drawn(tmp_path, form, records):
    assert write_report(records, tmp_path / f"run{form}", title="costs $1 and $2").stat().st_size > 1000


def test_another_ending_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.pgn.*did you mean '\.png'.*\.html"):
        write_report(burst(), tmp_path / "run.pgn")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_rounds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no round"):
        write_report([], tmp_path / "run.png")


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'dask-adaptive[report]'")):
        write_report(burst(), tmp_path / "run.png")


def test_summary_is_one_line_and_tells_of_failures_only_when_there_are_any():
    assert summary(Totals(12.34, 40.2, 1, 1, 6)) == "12.3 s, 40 worker-seconds, at most 1 worker, 6 jobs in 1 submit"
    assert summary(Totals(failures=1, errors=2)).endswith("1 job failed, 2 rounds without a decision")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (59.4, "59.4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (59.97, "1 min 0 s")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
