"""Commands and files on this machine."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path

import psutil
import pytest
from tests.waiting import until

from dask_adaptive.backend.dialect import Call
from dask_adaptive.backend.runner import Here, Runner
from dask_adaptive.errors import Ambiguous, Rejected, Unavailable


@pytest.fixture
def here() -> Here:
    return Here()


def test_it_is_a_runner(here: Here) -> None:
    assert isinstance(here, Runner)


async def test_a_command_gets_its_words_as_they_are(here: Here) -> None:
    words = ("printf", "%s|", "a b", "$(id)", "'", "")
    answer = await here.run(Call(words), 60)
    assert (0, "a b|$(id)|'||", "") == (answer.exit_code, answer.stdout, answer.stderr)


async def test_input_and_variables(here: Here) -> None:
    answer = await here.run(Call(("sh", "-c", 'cat; echo "$WORD" >&2; exit 3'), "text\n", {"WORD": "ü"}), 60)
    assert (3, "text\n", "ü") == (answer.exit_code, answer.stdout, answer.said)


async def test_a_variable_is_taken_away(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "old")
    assert "none\n" == (await here.run(Call(("sh", "-c", "echo ${WORD-none}"), environment={"WORD": None}), 60)).stdout


async def test_the_user_is_who_we_are(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert pwd.getpwuid(os.geteuid()).pw_name == await here.user()


async def test_a_command_that_reads_nothing(here: Here) -> None:
    assert 0 == (await here.run(Call(("true",), "x" * 1_000_000), 60)).exit_code


async def test_a_program_that_is_not_there(here: Here) -> None:
    with pytest.raises(Rejected, match="no-such-program"):
        await here.run(Call(("no-such-program",)), 60)


async def test_words_that_cannot_be_given(here: Here) -> None:
    with pytest.raises(Unavailable):
        await here.run(Call(("true", "a\0b")), 60)


async def test_nothing_is_left_of_a_command_that_hangs(here: Here, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(Ambiguous, match=r"sh has not answered for 3 s"):
        await here.run(Call(("sh", "-c", f"sleep 600 & echo $! $$ > {pids}; wait")), 3)
    sleeping, shell = map(int, pids.read_text().split())
    assert not psutil.pid_exists(shell)
    await until(lambda: not _runs(sleeping))  # it is told to die by then: only its parent could wait for that


async def test_a_command_whose_daemon_holds_its_output_is_given_up(here: Here, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(Ambiguous):
        await here.run(Call(("sh", "-c", f"setsid sleep 600 & echo $! > {pid}; sleep 600")), 3)
    os.kill(int(pid.read_text()), signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_files_are_private(here: Here, tmp_path: Path) -> None:
    folder = await here.folder(str(tmp_path / "a" / "b"))
    path = await here.place(f"{folder}/secret", "hush\n")
    assert (0o700, 0o600) == (Path(folder).stat().st_mode & 0o777, Path(path).stat().st_mode & 0o777)
    assert "hush\n" == Path(path).read_text()
    await here.place(path, "new")
    assert ["secret"] == [each.name for each in Path(folder).iterdir()]
    assert "new" == Path(path).read_text()
    await here.remove(path)
    assert [] == list(Path(folder).iterdir())
    await here.remove(folder)
    await here.remove(folder)
    assert not Path(folder).exists()


async def test_home(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "logs") == await here.folder("~/logs")


async def test_no_place_for_files(here: Here, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Rejected, match="Not a directory"):
        await here.folder(str(tmp_path / "file" / "logs"))


async def test_the_tail(here: Here, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntwo\n")
    assert "wo\n" == await here.tail(str(tmp_path / "log"), 3)
    assert "one\ntwo\n" == await here.tail(str(tmp_path / "log"), 100)
    assert "" == await here.tail(str(tmp_path / "none"), 100)
