"""The registry of named heads: private, one entry to a name, and never in doubt about who is alive."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.head.process import is_idle
from dask_adaptive.head.state import (
    Entry,
    Process,
    Running,
    Setup,
    Standing,
    claim,
    entries,
    entry_of,
    home,
    this_process,
)
from dask_adaptive.model import Capacity, Group, Load, Plan, Record, Snapshot, Target

GONE = Process(socket.gethostname(), 2**22 + 1, 1.0)
ELSEWHERE = Process("another-machine", 1, 1.0)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def running(process: Process, address: str = "tls://127.0.0.1:1", failed: str = "") -> Running:
    return Running("work", process, 1.0, "0", address, failed=failed)


def written(*what: Setup | Running) -> Entry:
    entry = claim("work")
    for each in what:
        entry.write(each)
    return entry


def test_what_is_written_is_read_and_private() -> None:
    setup = Setup(this_process(), {"pools": {"default": {"backend": "local", "threads": 2}}, "maximum": 3})
    before = os.umask(0)
    try:
        entry = written(setup, running(this_process()))
    finally:
        os.umask(before)
    assert (setup, running(this_process())) == (entry.setup(), entry.running())
    assert {0o600} == {path.stat().st_mode & 0o777 for path in entry.folder.iterdir()}
    assert 0o700 == entry.folder.stat().st_mode & 0o777
    assert ["work"] == [each.name for each in entries()]
    entry.remove()
    assert [] == entries()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ([], Standing.STARTING),
        ([Setup(this_process(), {})], Standing.STARTING),
        ([Setup(GONE, {})], Standing.LOST),
        ([Setup(ELSEWHERE, {})], Standing.STARTING),
        ([Setup(GONE, {}, key="abcd")], Standing.ELSEWHERE),
        ([Setup(GONE, {}), running(this_process(), "")], Standing.STARTING),
        ([Setup(GONE, {}), running(this_process())], Standing.RUNNING),
        ([Setup(GONE, {}), running(replace(this_process(), started_s=1.0))], Standing.LOST),
        ([Setup(GONE, {}), running(GONE)], Standing.LOST),
        ([Setup(GONE, {}), running(ELSEWHERE)], Standing.ELSEWHERE),
        ([Setup(GONE, {}), running(this_process(), failed="no room")], Standing.LOST),
    ],
)
def test_what_has_become_of_it(what: list[Setup | Running], expected: Standing) -> None:
    assert expected is written(*what).standing()


def test_an_empty_folder_is_lost_after_a_while() -> None:
    entry = claim("work")
    os.utime(entry.folder, (1.0, 1.0))
    assert Standing.LOST is entry.standing()


def test_a_zombie_is_not_alive() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    process = Process(socket.gethostname(), ended.pid, psutil.Process(ended.pid).create_time())
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert not process.alive
    ended.wait()
    assert not process.alive


def test_a_name_is_taken_once_and_freed_where_nothing_is_left() -> None:
    written(Setup(GONE, {}))
    with pytest.raises(ConfigError, match=r"'work' already \(lost\); `dask adaptive reap work` ends it"):
        claim("work")
    assert "work" == claim("work", is_lost=lambda entry: entry.name == "work").name
    with pytest.raises(ConfigError, match=r"already \(starting\); `dask adaptive down work` ends it"):
        claim("work", is_lost=lambda _: True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-rf", ".hidden", "a b", "a" * 64, "ä"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="is named with letters, digits"):
        claim(name)
    assert not home().exists()


def test_an_unknown_name_lists_the_near_ones() -> None:
    claim("analysis")
    with pytest.raises(ConfigError, match=r"there is no cluster 'wrk'; known: analysis"):
        entry_of("wrk")
    with pytest.raises(ConfigError, match=r"there is no cluster 'analysys'; did you mean 'analysis'\? known: analysis"):
        entry_of("analysys")


def test_a_directory_that_was_open_to_others_is_closed() -> None:
    home().mkdir(parents=True, mode=0o755)
    claim("work")
    assert 0o700 == home().stat().st_mode & 0o777


def test_a_relative_state_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / ".local" / "state" / "dask-adaptive" / "heads" == home()


def test_what_is_not_ours_is_said_and_not_touched() -> None:
    entry = claim("work")
    (entry.folder / "running.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not ours or of another version"):
        entry.running()


def test_a_write_that_fails_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = written(running(this_process()))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"cannot be written to .*: No space left on device; XDG_STATE_HOME names"):
        entry.write(running(this_process(), "tls://127.0.0.1:2"))
    assert running(this_process()) == entry.running()
    assert ["running.json"] == [path.name for path in entry.folder.iterdir()]


def idle(load: Load, error: str = "") -> bool:
    return is_idle(Record(1, 0.0, "", Snapshot(0.0, 1.0, load, {}, {}), {}, Target({}), Plan(), error=error))


def test_idle_is_only_what_can_be_ended_without_a_loss() -> None:
    assert idle(Load(0.0, groups=(Group("g", "g", done=5),), pools={"default": Capacity(workers=3, idle=3)}))
    assert not is_idle(None)
    assert not idle(Load(0.0), error="the scheduler cannot be asked")
    for group in (Group("g", "g", ready=1), Group("g", "g", running=1), Group("g", "g", waiting=1)):
        assert not idle(Load(0.0, groups=(group,)))
    assert not idle(Load(0.0, groups=(Group("g", "g", long_running=1),)))
    assert not idle(Load(0.0, pools={"default": Capacity(workers=1, held_bytes=1)}))
    assert not idle(Load(0.0, foreign=Capacity(workers=1, held_bytes=1)))
    assert not idle(Load(0.0, waiting_clients=1))
