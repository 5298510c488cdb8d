"""The commands of a batch system, run on a login node: a real sshd, and the real ssh program."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from tests.sshd import Hosts, make_key, running_hosts

from dask_adaptive.backend.dialect import Call
from dask_adaptive.backend.login import Login
from dask_adaptive.errors import Ambiguous, ConfigError, Rejected, Unavailable

pytestmark = pytest.mark.system("ssh")
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with running_hosts(tmp_path_factory.mktemp("login"), 2) as made:
        yield made


def options(hosts: Hosts, number: int = 0) -> tuple[str, ...]:
    known = f"UserKnownHostsFile={hosts.known_hosts}"
    files = ("-F", str(hosts.folder / "config"), "-i", str(hosts.key), "-o", known, "-o", "IdentitiesOnly=yes")
    return (*files, "-p", str(hosts.sshds[number].port))


@pytest.fixture
async def login(hosts: Hosts) -> AsyncIterator[Login]:
    made = Login("127.0.0.1", options=options(hosts))
    yield made
    await made.aclose()


async def test_a_command_is_run_there_word_by_word(login: Login) -> None:
    words = ("printf", "%s|", "a b", "$(id)", "'", '"', "`x`", "ö", ";", "-n")
    answer = await login.run(Call(words), TIMEOUT_S)
    assert (0, "a b|$(id)|'|\"|`x`|ö|;|-n|", "") == (answer.exit_code, answer.stdout, answer.stderr)
    assert words == answer.argv


async def test_input_variables_errors_and_exit_codes_come_through(login: Login) -> None:
    script = 'cat; echo "$WORD" >&2; exit 255'
    answer = await login.run(Call(("sh", "-c", script), "in\n", {"WORD": "a 'b'"}), TIMEOUT_S)
    assert (255, "in\n", "a 'b'\n") == (answer.exit_code, answer.stdout, answer.stderr)


async def test_what_a_login_shell_prints_is_no_part_of_the_answer(hosts: Hosts, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".profile").write_text("echo 'Welcome to job 42'\n")
    login = Login("127.0.0.1", options=options(hosts, 1))
    try:
        answer = await login.run(Call(("env", f"HOME={home}", "sh", "-lc", "true")), TIMEOUT_S)
        assert "Welcome to job 42\n" == answer.stdout, "the profile does speak"
        assert "" == (await login.run(Call(("true",)), TIMEOUT_S)).stdout
    finally:
        await login.aclose()


async def test_a_program_that_is_missing_is_named(login: Login) -> None:
    with pytest.raises(Rejected, match=r"there is no .sbatch-of-nobody. on"):
        await login.run(Call(("sbatch-of-nobody",)), TIMEOUT_S)


async def test_files_are_private_and_whole(login: Login, tmp_path: Path) -> None:
    folder = await login.folder(f"{tmp_path}/a 'b'/c")
    assert 0o700 == stat.S_IMODE(os.stat(folder).st_mode)  # noqa: PTH116
    path = await login.place(f"{folder}/secret $x", "text\nof two lines")
    assert "text\nof two lines" == Path(path).read_text()
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
    assert "two lines" == await login.tail(path, 9)
    assert "" == await login.tail(f"{path}.not", 9)
    await login.remove(f"{tmp_path}/a 'b'")
    await login.remove(f"{tmp_path}/a 'b'")
    assert not Path(folder).exists()


async def test_where_nothing_can_be_written_is_said(login: Login) -> None:
    with pytest.raises(Rejected, match="cannot be written"):
        await login.folder("/proc/nowhere")


async def test_the_user_is_the_one_there(login: Login) -> None:
    assert psutil.Process().username() == await login.user()


async def test_all_commands_share_one_connection_which_ends_with_it(hosts: Hosts) -> None:
    login = Login("127.0.0.1", options=options(hosts))
    await asyncio.gather(*(login.run(Call(("true",)), TIMEOUT_S) for _ in range(8)))
    folder = login._folder
    assert Path(folder).exists()
    await login.aclose()
    assert not Path(folder).exists()
    assert [] == [process for process in psutil.process_iter(["cmdline"]) if folder in str(process.info["cmdline"])]


async def test_nothing_is_made_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    await Login("ann@nowhere").aclose()
    assert [] == list(tmp_path.iterdir())


async def test_who_is_given_up_while_it_connects_is_ended(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    proxy = f"ProxyCommand=sh -c 'touch {begun}; cat > /dev/null'"
    login = Login("nowhere", options=("-F", "none", "-o", proxy))
    connecting = asyncio.ensure_future(login.run(Call(("true",)), TIMEOUT_S))
    while not begun.exists():
        assert not connecting.done()
        await asyncio.sleep(0.05)
    folder = login._folder
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    left = [each for each in psutil.process_iter(["cmdline"]) if f"{folder}/s" in str(each.info["cmdline"])]
    assert [] == left
    await login.aclose()


def test_a_closed_cluster_asks_on_one_loop_after_the_other(hosts: Hosts) -> None:
    login = Login("127.0.0.1", options=options(hosts))

    async def ask() -> list[str]:
        answers = await asyncio.gather(*(login.run(Call(("echo", str(i))), TIMEOUT_S) for i in range(3)))
        await login.aclose()
        return [answer.stdout for answer in answers]

    for _ in range(3):
        assert ["0\n", "1\n", "2\n"] == asyncio.run(ask())


async def test_a_connection_that_is_cut_is_made_again(login: Login, hosts: Hosts) -> None:
    assert 0 == (await login.run(Call(("true",)), TIMEOUT_S)).exit_code
    hosts.sshds[0].cut()
    answers = []
    while not answers:
        try:
            answers.append(await login.run(Call(("echo", "again")), TIMEOUT_S))
        except (Unavailable, Ambiguous):
            await asyncio.sleep(0.05)
    assert "again\n" == answers[0].stdout


async def test_a_command_that_is_cut_off_may_have_happened(login: Login, hosts: Hosts, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    running = asyncio.ensure_future(login.run(Call(("sh", "-c", f"touch {begun}; sleep 60")), TIMEOUT_S))
    while not begun.exists():
        assert not running.done()
        await asyncio.sleep(0.05)
    hosts.sshds[0].cut()
    with pytest.raises(Ambiguous):
        await running


async def test_a_command_that_hangs_is_given_up(login: Login) -> None:
    await login.user()
    with pytest.raises(Ambiguous, match=r"sleep on 127.0.0.1 has not answered for 0\.5 s"):
        await login.run(Call(("sleep", "60")), 0.5)


async def test_a_host_with_an_unknown_key_is_not_spoken_to(hosts: Hosts, tmp_path: Path) -> None:
    empty = ("-o", f"UserKnownHostsFile={tmp_path}/none", *options(hosts))
    login = Login("127.0.0.1", options=empty)
    with pytest.raises(Unavailable, match="shows its key"):
        await login.run(Call(("true",)), TIMEOUT_S)
    await login.aclose()


async def test_a_key_that_does_not_open_it_is_said(hosts: Hosts, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    words = [str(wrong) if word == str(hosts.key) else word for word in options(hosts)]
    login = Login("127.0.0.1", options=words)
    with pytest.raises(Unavailable, match="has to work first"):
        await login.run(Call(("true",)), TIMEOUT_S)
    await login.aclose()


@pytest.mark.parametrize("host", ["", "-oProxyCommand=evil", "a b", None])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="login must be"):
        Login(host)
