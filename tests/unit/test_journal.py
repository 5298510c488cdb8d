"""A journal gives back what was put in, whatever happened to its file; replay decides again what was decided."""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_adaptive import ConfigError, journal
from dask_adaptive.journal import Journal, last, learned, read, read_all, replay
from dask_adaptive.model import Life, Load, Member, Past, Phase, Record, Snapshot, Startup, Target, View, Want
from dask_adaptive.plan import view_of
from dask_adaptive.policy.classic import Fixed, TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.policy.contracts import FRESH

from .records import burst, record
from .strategies import snapshots


def written(path: Path, *records: Record) -> list[Record]:
    """These records, through a file."""
    kept = Journal(path)
    for each in records:
        kept.append(each)
    kept.close()
    return list(read(path))


def rich(number: int, at_s: float) -> Record:
    """A round with something in every corner."""
    made = record(at_s, {Phase.READY: 2, Phase.QUEUED: 1}, submit=1, cancel=["queue000.0"], events=["a word"])
    members = {"ready000.0": (Member("tcp://1", "ready000.0-0-0"),), "ready000.1": (Member("tcp://2", "x"),)}
    state = replace(made.snapshot.pools["default"], startup=Startup((1.0, 2.0), (3.0,)), broken="too often", strays=1)
    snapshot = replace(
        made.snapshot, load=replace(made.snapshot.load, members=members), pools={"default": state}, interval_s=0.25
    )
    target = replace(made.target, look_again_s=3.0, declined=("not worth it",), impossible=("no GPU",))
    return replace(made, number=number, snapshot=snapshot, target=target, past={"since": [1.0, None, "x"]}, error="e")


# --- what is written is read --------------------------------------------------------------------------------------


def test_rounds_come_back_as_they_were(tmp_path: Path) -> None:
    rounds = [rich(1, 0), *(replace(each, number=each.number + 2) for each in burst()), rich(20, 30)]
    assert rounds == written(tmp_path / "deep" / "journal", *rounds)


def test_a_line_holds_only_what_changed(tmp_path: Path) -> None:
    rounds = [replace(record(at_s, {Phase.READY: 500}, events=[f"round {at_s}"]), number=at_s) for at_s in range(20)]
    assert rounds == written(tmp_path / "journal", *rounds)
    first, *others = (tmp_path / "journal").read_bytes().splitlines()
    assert len(first) > 20_000
    assert max(len(line) for line in others) < 1_000


def test_rounds_in_which_nothing_changed_are_not_written(tmp_path: Path) -> None:
    same = [replace(record(at_s, {Phase.READY: 1}), number=at_s) for at_s in range(50)]
    assert [0] == [each.number for each in written(tmp_path / "journal", *same)]


def test_what_is_gone_is_gone_after_reading(tmp_path: Path) -> None:
    before, after = record(0, {Phase.READY: 2, Phase.QUEUED: 1}), record(1, {Phase.READY: 1})
    assert [before, after] == written(tmp_path / "journal", before, after)


def test_a_second_journal_goes_on_in_the_same_file(tmp_path: Path) -> None:
    assert [rich(1, 0)] == written(tmp_path / "journal", rich(1, 0))
    assert [rich(1, 0), rich(1, 50)] == written(tmp_path / "journal", rich(1, 50))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(snapshots(), min_size=1, max_size=6))
def test_any_rounds_come_back(tmp_path: Path, shots: list[Snapshot]) -> None:
    rounds = []
    for number, shot in enumerate(shots, 1):
        target = Target({name: Want(number, "because") for name in shot.pools})
        rounds.append(replace(record(0), number=number, at_s=shot.at_s, snapshot=shot, target=target, events=("x",)))
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    assert rounds == written(path, *rounds)


def test_a_complete_line_comes_every_ten_minutes(tmp_path: Path) -> None:
    rounds = [replace(record(100.0 * i, {Phase.READY: 3}, events=["x"]), number=i) for i in range(14)]
    written(tmp_path / "journal", *rounds)
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert [0, 6, 12] == [line["number"] for line in lines if line["full"]]


def test_a_large_file_is_rotated_and_both_parts_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROTATE_BYTES", 5_000)
    kept = Journal(tmp_path / "journal")
    rounds = [replace(record(at_s, {Phase.READY: 3}, events=["y" * 300]), number=at_s) for at_s in range(60)]
    for each in rounds:
        kept.append(each)
    kept.close()
    old, new = list(read(tmp_path / "journal.1")), list(read(tmp_path / "journal"))
    assert (tmp_path / "journal").stat().st_size < 10_000
    assert rounds[-len(old + new) :] == old + new
    assert old
    assert old + new == list(read_all(tmp_path / "journal"))


@pytest.mark.parametrize("torn", [False, True])
def test_what_is_read_of_a_rotated_journal_is_older_then_newer(tmp_path: Path, torn: bool) -> None:
    path = tmp_path / "journal"
    assert [] == list(read_all(path)), "neither is there"
    written(path, rich(1, 0), rich(2, 1))
    assert [rich(1, 0), rich(2, 1)] == list(read_all(path)), "there is no older one"
    rename(path, cut=20 if torn else 0)
    left = [rich(1, 0)] if torn else [rich(1, 0), rich(2, 1)]
    assert left == list(read_all(path)), "there is no newer one yet"
    assert left[-1] == last(path)
    written(path, rich(3, 2))
    assert [*left, rich(3, 2)] == list(read_all(path))
    assert rich(3, 2) == last(path)


def rename(path: Path, cut: int = 0) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    path.rename(path.with_name(path.name + ".1"))


def test_a_journal_that_is_rotated_while_it_is_opened_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    written(path, rich(1, 0))
    opened, rounds = journal._opened, [rich(1, 0), rich(2, 1)]

    def opening(each: Path, until_read: ExitStack) -> BinaryIO | None:
        file = opened(each, until_read)
        if not each.with_name("journal.1").exists():
            rename(path)
            written(path, rich(2, 1))
        return file

    monkeypatch.setattr(journal, "_opened", opening)
    assert rounds == list(read_all(path))


# --- what happens to files ----------------------------------------------------------------------------------------


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    written(tmp_path / "journal", *burst())
    text = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(text[:-20])
    assert burst()[:-1] == list(read(tmp_path / "journal"))
    assert burst()[-2] == last(tmp_path / "journal")


def test_a_journal_goes_on_after_a_cut_line(tmp_path: Path) -> None:
    """The writer was killed in the middle of a line, and a new one begins."""
    path = tmp_path / "journal"
    written(path, *burst())
    path.write_bytes(path.read_bytes()[:-20])
    assert [*burst()[:-1], rich(1, 90)] == written(path, rich(1, 90))


@pytest.mark.parametrize(
    "garbage", [b"garbage\n", b"{}\n", b"[1]\n", b'{"number": "x", "at_s": 1}\n', b"\xff\xfe\n", b"\n"]
)
def test_a_line_of_something_else_is_named(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "journal"
    written(path, rich(1, 0))
    path.write_bytes(path.read_bytes() + garbage)
    with pytest.raises(ConfigError, match=r"line 2 of .* is not a journal's"):
        list(read(path))


def test_a_file_that_begins_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path, *burst())
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(ConfigError, match="does not begin with a complete round"):
        list(read(path))


def test_a_missing_file(tmp_path: Path) -> None:
    assert last(tmp_path / "nothing") is None
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read(tmp_path / "nothing"))


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "journal"):
        with pytest.raises(ConfigError, match="cannot be written"):
            Journal(path)


@pytest.mark.timeout(60)
def test_a_named_pipe_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert {} == learned(str(tmp_path / "pipe"))
    with pytest.raises(ConfigError, match="pipe' cannot be written: it is no regular file"):
        Journal(tmp_path / "pipe")


@pytest.mark.parametrize("text", ["x = 1\ny = 2", "x = 1", '{"a": 1}', '{"a": 1}\n'])
def test_a_file_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "theirs").write_text(text)
    with pytest.raises(ConfigError, match="no journal; name another file"):
        Journal(tmp_path / "theirs")
    assert text == (tmp_path / "theirs").read_text()


def test_a_full_disk_costs_the_journal_and_not_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = threading.Event()
    original = Path.open

    def opened(self: Path, mode: str = "r", *more: object) -> object:
        if mode == "ab" and full.is_set():
            with original(self, mode) as file:
                file.write(b'{"number": half a li')
            raise OSError(28, "No space left on device")
        return original(self, mode, *more)  # type: ignore[call-overload]

    kept = Journal(tmp_path / "journal")
    written_once = threading.Semaphore(0)
    write = kept._writer._write  # type: ignore[union-attr]

    def writing(*arguments: Any) -> OSError | None:
        try:
            return write(*arguments)
        finally:
            written_once.release()

    monkeypatch.setattr(kept._writer, "_write", writing)
    monkeypatch.setattr(Path, "open", opened)
    rounds = [replace(record(at_s, events=[str(at_s)]), number=at_s) for at_s in range(9)]
    for each in rounds:
        if each.number in (3, 6):
            full.set() if each.number == 3 else full.clear()
        kept.append(each)
        assert written_once.acquire(timeout=60)
    kept.close()
    assert rounds == list(kept.records), "in memory nothing is lost"
    found = [each.number for each in read(tmp_path / "journal")]
    assert [0, 1, 2, 6, 7, 8] == found, "it goes on once there is room"
    assert 1 == len([r for r in caplog.records if r.levelno == logging.WARNING and "No space left" in r.getMessage()])


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP", 100)
    kept = Journal()
    for at_s in range(100):
        kept.append(replace(record(at_s, {Phase.READY: 9}, events=[str(at_s)]), number=at_s))
    assert [95, 96, 97, 98, 99] == [each.number for each in kept.records]


# --- replay -------------------------------------------------------------------------------------------------------


@given(st.lists(snapshots(), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_same_snapshots_are_the_same_decisions(shots: list[Snapshot]) -> None:
    made, past = [], FRESH
    policy = standard(TargetDuration(), 3.0)
    for number, shot in enumerate(sorted(shots, key=lambda shot: shot.at_s), 1):
        target, after = policy.decide(view_of(shot), past)
        made.append(replace(record(0), number=number, snapshot=shot, past=past, target=target))
        past = after
    assert [] == replay(made, standard(TargetDuration(), 3.0).decide, view_of)


def test_another_policy_is_found_out() -> None:
    snapshot = Snapshot(1.0, 1.0, Load(1.0), {}, record(0).snapshot.pools)
    target, _ = Fixed(2).decide(view_of(snapshot), FRESH)
    made = [
        replace(record(0), number=n, snapshot=snapshot, target=target, error=error) for n, error in ((1, ""), (2, "e"))
    ]
    assert [] == replay(made, Fixed(2).decide, view_of)
    assert [1] == replay(made, Fixed(3).decide, view_of), "a round with an error has decided nothing"


def test_replay_from_a_file_keeps_past_and_view(tmp_path: Path) -> None:
    """What a policy remembered is in the file."""

    class Counting:
        def decide(self, view: View, past: Past) -> tuple[Target, Past]:
            count = int(past.get("count", 0)) + 1
            return Target({pool.pool.name: Want(count, f"round {count}") for pool in view.pools}), {"count": count}

    past, made = FRESH, []
    for number in range(1, 6):
        shot = replace(record(number).snapshot, lives={"a.0": Life("a.0", "default", Phase.READY, float(number))})
        target, after = Counting().decide(view_of(shot), past)
        made.append(replace(record(number), number=number, snapshot=shot, past=past, target=target))
        past = after
    assert [] == replay(written(tmp_path / "journal", *made), Counting().decide, view_of)
