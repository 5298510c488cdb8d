from __future__ import annotations

import json
import os
import re
import struct
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.journal import Journal
from dask_adaptive.model import Limits, Phase
from dask_adaptive.show.report import (
    check_report,
    check_writable,
    read_run,
    report_one,
    report_several,
    summary,
    write_report,
)
from dask_adaptive.show.run import rounds_of
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


# --- any journal -----------------------------------------------------------------------------------------------------


def written(path, records):
    kept = Journal(path)
    for each in records:
        kept.append(each)
    kept.close()
    return path


def torn(path):
    """Its writer was killed in the middle of a line."""
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rstrip(b"\n").rfind(b"\n") + 20])


def live(path):
    """It is still being written."""
    return Journal(path)


def rotated(path):
    """The first part was renamed; the second begins with a complete round."""
    path.rename(path.with_name(path.name + ".1"))
    later = [replace(each, number=each.number + 100, at_s=each.at_s + 100) for each in burst()]
    written(path, later)


@pytest.mark.parametrize("form", [".png", ".svg", ".html"])
@pytest.mark.parametrize("happened", [torn, live, rotated])
def test_any_journal_can_be_drawn(tmp_path, form, happened):
    path = written(tmp_path / "run.jsonl", burst())
    happened(path)
    said = report_one(path, tmp_path / f"run{form}")
    assert (tmp_path / f"run{form}").stat().st_size > 1000
    assert f"picture in {tmp_path / f'run{form}'}" == said[-1]
    assert any("12 tasks of about 0.5 s" in line for line in said)


def test_what_was_rotated_belongs_to_the_run(tmp_path):
    path = written(tmp_path / "run.jsonl", burst())
    alone = len(read_run(path))
    rotated(path)
    rounds = read_run(path)
    assert 2 * alone == len(rounds)
    assert 4 == len(json.loads(report_one(path, as_json=True)[0])["decisions"])
    assert rounds == rounds_of(path, rounds[0].at_s, rounds[-1].at_s), "also of a run that has just ended"
    path.unlink()  # the moment between two files
    assert alone == len(read_run(path))


def test_a_journal_that_has_only_begun_is_one_sentence(tmp_path):
    (tmp_path / "run.jsonl").write_bytes(b'{"number":1,"at_s"')
    with pytest.raises(ConfigError, match="holds no round yet"):
        read_run(tmp_path / "run.jsonl")


def test_the_time_between_two_runs_in_one_journal_costs_nothing(tmp_path):
    path = written(tmp_path / "run.jsonl", burst()[:5])  # two workers from 2 s on; its writer was killed at 5 s
    written(path, [replace(each, at_s=each.at_s + 10_000) for each in burst()])
    assert 6 + 12 == json.loads(report_one(path, as_json=True)[0])["totals"]["worker_s"]


def test_a_long_run_makes_no_large_picture(tmp_path):
    rounds = [record(i / 2, {Phase.READY: i % 7}) for i in range(20_000)]
    assert write_report(rounds, tmp_path / "run.svg").stat().st_size < 2_000_000


# --- side by side ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    slower = [replace(each, at_s=2 * (each.at_s - burst()[0].at_s) + burst()[0].at_s) for each in burst("so <much>")]
    return [written(tmp_path / "one.jsonl", burst()), written(tmp_path / "two.jsonl", slower)]


@pytest.mark.parametrize("form", [".png", ".svg", ".html"])
def test_two_runs_side_by_side(tmp_path, two, form):
    report_several(two, tmp_path / f"compare{form}")
    assert (tmp_path / f"compare{form}").stat().st_size > 1000


def test_two_runs_are_told_in_one_table(two):
    rows = [line.split() for line in report_several(two)]
    assert ["one", "two"] == rows[0]
    assert ["time", "10.0", "s", "20.0", "s"] == rows[1]
    assert ["worker-seconds", "12", "24"] == rows[2]


def test_the_page_of_two_runs_has_one_picture_and_the_decisions_of_both(tmp_path, two):
    report_several(two, tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text()
    assert 1 == page.count("<svg")
    assert "12 tasks of about 0.5 s" in page
    assert "so &lt;much&gt;" in page
    assert ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6]).tag.endswith("svg")


def test_two_runs_for_programs(two):
    found = json.loads(report_several(two, as_json=True)[0])
    assert [10, 20] == [each["totals"]["duration_s"] for each in found]
    assert [str(path) for path in two] == [each["journal"] for each in found]


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [written(tmp_path / folder / "run.jsonl", burst()) for folder in ("a", "b")]
    assert str(paths[0]) in report_several(paths)[0]


def test_more_than_can_be_read_are_refused(two):
    with pytest.raises(ConfigError, match="at most 4 journals"):
        report_several(two * 3)


def test_asking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "there.svg").write_text("x")
    for path in (tmp_path / "deep" / "new.svg", tmp_path / "there.svg"):
        check_writable(path, "it")
    assert ["there.svg"] == [each.name for each in tmp_path.iterdir()]
    assert "x" == (tmp_path / "there.svg").read_text()


@pytest.mark.parametrize("where", ["/proc/zz/x.svg", ".", "file/x.svg", f"{'long' * 99}.svg"])
def test_a_place_that_cannot_be_written_is_known_before(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="it cannot be written to"):
        check_writable(tmp_path / where, "it")


def nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "folder")
    (tmp_path / "link.svg").symlink_to(tmp_path / "missing" / "x.svg")


def circle(tmp_path):
    (tmp_path / "link").symlink_to("link")
    (tmp_path / "link.svg").symlink_to("link.svg")


@pytest.mark.parametrize("links", [nowhere, circle])
@pytest.mark.parametrize("where", ["link.svg", "link/x.svg", "link/deep/x.svg"])
def test_a_link_that_leads_nowhere_is_known_before(tmp_path, links, where):
    links(tmp_path)
    with pytest.raises(ConfigError, match="the picture cannot be written to"):
        check_report(tmp_path / where)


def test_what_a_link_names_is_made(tmp_path):
    (tmp_path / "latest.svg").symlink_to(tmp_path / "monday.svg")
    write_report(burst(), tmp_path / "latest.svg")
    assert (tmp_path / "monday.svg").stat().st_size > 1000


def test_no_picture_waits_for_who_reads_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.svg")
    with pytest.raises(ConfigError, match=r"cannot be written to .*pipe\.svg: it is no regular file"):
        check_report(tmp_path / "pipe.svg")


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the picture cannot be written to .*file"):
        write_report(burst(), tmp_path / "file" / "run.svg")
