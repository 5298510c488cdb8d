"""What runs teach later ones: a small private file that never stands in the way."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path

import dask.config
import pytest
from tests.unit.records import record

from dask_adaptive.errors import ConfigError
from dask_adaptive.history import History, history_path, keep, recall, taught
from dask_adaptive.model import Past, Record, Startup


@dataclass
class Ran:
    record: Record | None
    past: Past


def test_a_run_teaches_what_its_policy_remembers_and_how_its_pools_started() -> None:
    lessons = taught(Ran(record(1), {"inner": {"kinds": {"load": 2.5}}}), "local/{}".format)
    assert History({"load": 2.5}, {"local/default": Startup()}) == lessons
    assert History() == taught(Ran(None, {"kinds": {"load": 2.5}}), str), "no round, no lesson"
    assert History() == taught(None, str), "no run, no lesson"


def test_what_was_kept_is_recalled(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.json"
    keep(path, History({"load": 2.5}, {"local/default": Startup((0.0,), (0.4,))}))
    assert History({"load": 2.5}, {"local/default": Startup((0.0,), (0.4,))}) == recall(path)


def test_the_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.json"
    keep(path, History({"load": 2.5}))
    assert ["history.json"] == [each.name for each in path.parent.iterdir()]
    assert (0o600, 0o700) == tuple(stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent))


def test_later_runs_add_and_the_latest_counts(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    keep(path, History({"load": 2.5, "sum": 1.0}, {"local/default": Startup((0.0,), (0.4,))}))
    keep(path, History({"load": 3.0}, {"slurm/gpu": Startup((60.0,), (5.0,)), "never/came": Startup()}))
    assert {"load": 3.0, "sum": 1.0} == recall(path).durations
    assert {"local/default", "slurm/gpu"} == set(recall(path).startups)


def test_it_stays_small_and_forgets_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    for run in range(30):
        startup = Startup((0.0,) * 100, (1.0,) * 100)
        keep(path, History({f"{run}-{n}": 1.0 for n in range(100)}, {f"{run}-{n}": startup for n in range(10)}))
    found = recall(path)
    assert (512, 64) == (len(found.durations), len(found.startups))
    assert {32} == {len(each.start_s) for each in found.startups.values()}
    assert "29-99" in found.durations
    assert "0-0" not in found.durations


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"durations": 3}', '{"durations": {"a": "b"}, "startups": {}}', '{"durations": {}}', "\x00" * 9],
)
def test_what_cannot_be_read_teaches_nothing_and_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "history.json"
    path.write_text(text)
    assert History() == recall(path)
    keep(path, History({"load": 1.0}))
    assert {"load": 1.0} == recall(path).durations


def test_numbers_that_cannot_be_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    startups = {"p": {"queue_s": [1.0, -1.0], "start_s": [2.0, float("inf")]}}
    path.write_text(json.dumps({"durations": {"good": 1.0, "bad": -1.0, "worse": float("nan")}, "startups": startups}))
    assert History({"good": 1.0}, {"p": Startup((1.0,), (2.0,))}) == recall(path)


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keep(tmp_path / "file" / "history.json", History({"load": 1.0}))
    assert History() == recall(tmp_path / "file" / "history.json")


def test_nothing_is_kept_by_who_does_not_want_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for said in (False, "false", "False"):
        with dask.config.set({"adaptive.history": said}):
            assert history_path() is None
    keep(None, History({"load": 1.0}))
    assert History() == recall(None)
    assert [] == list(tmp_path.iterdir())
    with dask.config.set({"adaptive.history": True}):
        assert tmp_path / "dask-adaptive" / "history.json" == history_path()
    with dask.config.set({"adaptive.history": str(tmp_path / "mine")}):
        assert tmp_path / "mine" == history_path()
    with dask.config.set({"adaptive.history": 3}), pytest.raises(ConfigError, match=r"adaptive\.history must be true"):
        history_path()
