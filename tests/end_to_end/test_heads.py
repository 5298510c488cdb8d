"""Named clusters that live on: with real heads in processes of their own, asked for and looked at from outside."""

from __future__ import annotations

import getpass
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import pytest
from click.testing import CliRunner, Result
from distributed import Client, Scheduler
from distributed.security import Security
from tests.fakes.core import Fake
from tests.sshd import running_hosts
from tests.waiting import LIMIT_S, soon, until

from dask_adaptive import Cluster, ConfigError, EngineError, connect
from dask_adaptive.backend.local import Local
from dask_adaptive.head import start
from dask_adaptive.head.attach import Reach
from dask_adaptive.head.state import Standing, entries, entry_of
from dask_adaptive.model import Record
from dask_adaptive.owners import owners
from dask_adaptive.show.cli import adaptive

from .worlds import MARK, kill, own_mark, rounds, table

PROGRAM = [sys.executable, "-m", "dask", "adaptive"]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A state directory of its own, and a mark that every process started from here carries."""
    yield from own_mark(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a head with one worker, for the tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        for _ in own_mark(tmp_path_factory.mktemp("shared"), patch):
            assert 0 == command("up", "shared", "--minimum", "1", "--maximum", "3").exit_code
            with connect("shared") as cluster, Client(cluster) as client:
                client.wait_for_workers(1, timeout=120)
            yield "shared"
            assert 0 == command("down", "shared").exit_code


def command(*arguments: str) -> Result:
    return CliRunner().invoke(adaptive, list(arguments), prog_name="dask adaptive")


@contextmanager
def program(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which goes with the test."""
    with subprocess.Popen([*PROGRAM, *arguments], text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def up(name: str, *options: str) -> int:
    """Start a head; its process id."""
    done = command("up", name, "--maximum", "2", "--json", *options)
    assert 0 == done.exit_code, done.output
    return int(json.loads(done.stdout)["pid"])


# --- it lives on -------------------------------------------------------------------------------------------------


def test_it_outlives_the_shell_that_started_it_and_down_leaves_nothing(mark: str) -> None:
    """With 4 workers here; ``benchmarks/head.py`` does it with 50."""
    script = f"{' '.join(PROGRAM)} up lasting --minimum 4 --maximum 4 && echo up && sleep 600"
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert shell.stdout is not None
    assert "up\n" in iter(shell.stdout.readline, "")
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    shell.stdout.close()

    with connect("lasting") as cluster, Client(cluster) as client:
        client.wait_for_workers(4, timeout=120)
        kept = client.submit(lambda: "kept", key="kept")
        assert "kept" == kept.result()
        client.publish_dataset(kept=kept)
        pids = set(client.run(os.getpid).values())
    with connect("lasting") as cluster, Client(cluster) as client:  # it was only let go
        assert pids == set(client.run(os.getpid).values())
        assert "kept" == client.get_dataset("kept").result()
        assert 4 == len(cluster.status())

    assert len(table(mark)) >= 5
    done = command("down", "lasting")
    assert (0, "cluster lasting ended") == (done.exit_code, done.stdout.strip())
    assert [] == table(mark)
    assert [] == entries()
    assert [] == list(Path(os.environ["XDG_STATE_HOME"], "dask-adaptive", "heads").iterdir())


def test_ctrl_c_while_it_comes_up_leaves_nothing(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text("import asyncio\nasync def dask_setup(_): await asyncio.sleep(600)\n")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__PRELOAD", str(tmp_path / "slow.py"))
    with program("up", "never", stderr=subprocess.PIPE) as starting:
        soon(lambda: [entry for entry in entries() if entry.running() and (entry.folder / "key.pem").exists()])
        starting.send_signal(signal.SIGINT)
        _, errors = starting.communicate(timeout=LIMIT_S)
    assert 1 == starting.returncode
    assert "Traceback" not in errors
    assert [] == entries()
    soon(lambda: not table(mark))


def test_a_name_is_given_once(shared: str) -> None:
    done = command("up", shared)
    assert 2 == done.exit_code
    assert f"there is a cluster {shared!r} already (running)" in done.stderr


def test_who_is_idle_for_long_enough_ends(mark: str) -> None:
    up("idle", "--idle-timeout", "1s")
    with connect("idle") as cluster, Client(cluster) as client:
        held = client.submit(sum, [1, 2])
        assert 3 == held.result()
        soon(lambda: [row.phase.value for row in cluster.status()] == ["ready"])  # the result keeps it, and the head
        del held
    soon(lambda: not entries() and not table(mark))


def test_the_budget_is_kept_and_the_reason_is_shown(mark: str) -> None:
    """No round in which the hours are spent wants anything; what is there is drained in the first such round."""
    up("frugal", "--minimum", "2", "--budget", "0.001")
    with connect("frugal") as cluster:
        soon(lambda: any(record.plan.retires for record in cluster.records))
        soon(lambda: not [job for job in cluster.status() if job.workers])
        seen = [(spent_s(record), record.target.pools["default"].jobs) for record in cluster.records]
        assert (0.0, 2) in seen
        assert {0} == {wanted for spent, wanted in seen if spent >= 3.6}
        assert [] == [record for record in cluster.records if record.plan.submits and spent_s(record) >= 3.6]
        [pool] = cluster.about()["pools"]
        assert "worker-hours spent: nothing new, and what is there is drained" in pool["reason"]
        assert "of 0.001 worker-hours spent" in cluster.explain()
        with pytest.raises(ConfigError, match="has a budget"):
            cluster.scale(2)
        cluster.adapt(minimum=1, maximum=2)  # does not lift it
        number = cluster.records[-1].number
        soon(lambda: cluster.records[-1].number > number)
        assert 0 == cluster.about()["pools"][0]["wanted"]
    assert 0 == command("down", "frugal").exit_code


def spent_s(record: Record) -> float:
    """Worker-seconds that a round found spent."""
    return float(record.past.get("spent_s", {}).get("default", 0.0))


# --- what can be asked -------------------------------------------------------------------------------------------


def test_it_takes_the_place_of_a_cluster(shared: str) -> None:
    before = set(threading.enumerate())
    with connect(shared) as cluster:
        client = cluster.get_client()
        assert 3 == client.submit(sum, [1, 2]).result()
        assert client.dashboard_link == cluster.dashboard_link
        client.close()
        assert "running" == cluster.status.name
        soon(lambda: ["ready"] == [row.phase.value for row in cluster.status() if row.workers])
        assert cluster.explain().startswith("Pool default: 1 jobs, 1 wanted.")
        assert shared in repr(cluster)
        assert "jobs" in cluster._repr_html_()
        assert "default" in cluster._widget().children[0].value
        soon(lambda: len(cluster.scheduler_info["workers"]) == 1)
        assert "Cluster" in cluster.get_logs()
        (loop,) = {thread for thread in threading.enumerate() if thread.name == "IO loop"} - before
    assert "closed" == cluster.status.name
    assert not loop.is_alive()
    with pytest.raises(ConfigError, match="was closed"):
        cluster.explain()
    with connect(shared) as again:
        assert again.about()["pid"] == entry_of(shared).running().process.pid


async def test_it_can_be_joined_asynchronously(shared: str) -> None:
    async with connect(shared, asynchronous=True) as cluster, Client(cluster, asynchronous=True) as client:
        assert 3 == await client.submit(sum, [1, 2])
        assert 1 <= len(await cluster.status())
        await cluster.adapt(minimum=1, maximum=3)
        with pytest.raises(ConfigError, match="adapt on a head takes plain values"):
            await cluster.adapt(policy=object())
        with pytest.raises(ConfigError, match="unknown pool"):
            await cluster.scale(1, pool="deflaut")


def test_sizes_from_the_command_line(shared: str) -> None:
    assert "2 workers, fixed" in command("scale", shared, "2").stdout
    soon(lambda: json.loads(command("status", shared, "--json").stdout)["workers"] == 2)
    said = command("adapt", shared, "--minimum", "1", "--maximum", "3")
    assert f"cluster {shared}: policy cost-aware, 1 to 3 workers\n" == said.stdout
    both = command("scale", shared, "3", "--jobs", "--cores")
    assert (2, True) == (both.exit_code, "Give --jobs or --cores, not both" in both.stderr)
    fixed = command("adapt", shared, "--policy", "fixed")
    assert (2, True) == (fixed.exit_code, "Error: policy 'fixed'" in fixed.stderr)
    assert "__init__" not in fixed.stderr
    told = [event["text"] for event in json.loads(command("events", shared, "--json").stdout)]
    assert any("scale: pool default to 2 jobs" in text for text in told)
    soon(lambda: json.loads(command("status", shared, "--json").stdout)["workers"] == 1)


def test_what_the_commands_show(shared: str) -> None:
    assert [shared] == [row["name"] for row in json.loads(command("list", "--json").stdout)]
    assert "running" in command("list").stdout
    soon(lambda: "pool default: 1 jobs, 1 wanted (1 to 3)" in command("status").stdout)
    assert "Only a larger maximum" in command("explain").stdout or "More work" in command("explain").stdout
    job = json.loads(command("status", "--json").stdout)["jobs"][0]["job"]
    assert "Start worker at" in command("logs", job).stdout
    assert "up at tls://" in command("logs", shared).stdout
    assert command("dashboard").stdout.startswith("http://127.0.0.1:")


def test_status_goes_on_as_long_as_it_is_watched(shared: str) -> None:
    with program("status", shared, "--watch", stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("adaptive ")
        watching.send_signal(signal.SIGINT)
        assert "" == watching.communicate(timeout=LIMIT_S)[0].partition("Traceback")[1]
    assert 0 == watching.returncode


@pytest.mark.parametrize("words", [("status", "--json", "--watch"), ("events", "--follow")])
def test_what_goes_on_until_ctrl_c_ends_well_with_it(shared: str, words: tuple[str, ...]) -> None:
    with program(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as going:
        assert going.stdout is not None
        assert going.stdout.readline()
        going.send_signal(signal.SIGINT)
        errors = going.communicate(timeout=LIMIT_S)[1]
    assert (0, "") == (going.returncode, errors)


def test_a_way_to_a_dashboard_is_open_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[str] = []

    def far(name: str) -> Reach:
        return Reach(name, "", Security(), "http://x", forwarded=True, let_go=lambda: let_go.append(name))

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dask_adaptive.head.attach.reach", far)
    monkeypatch.setattr("dask_adaptive.show.head_commands.time.sleep", interrupted)
    done = command("dashboard", "host:work")
    assert (0, "http://x\n", ["host:work"]) == (done.exit_code, done.output, let_go)


def test_wrong_names_list_the_near_ones(shared: str) -> None:
    for words in (("status", "shard"), ("scale", "shard", "1"), ("down", "shard"), ("reap", "shard")):
        done = command(*words)
        assert 2 == done.exit_code, words
        assert "there is no cluster 'shard'; did you mean 'shared'?" in done.stderr
    with pytest.raises(ConfigError, match="did you mean 'shared'"):
        connect("shard")
    done = command("logs", "aaaaaaaa.0")
    neither = "Error: cluster 'shared' has no job 'aaaaaaaa.0', and there is no cluster of that name; known clusters: "
    assert (2, True) == (done.exit_code, done.stderr.startswith(f"{neither}shared; known jobs: "))
    done = command("logs", "aaaaaaaa.0", "--cluster", "shared")
    assert (2, True) == (done.exit_code, "unknown job aaaaaaaa.0" in done.stderr)
    assert 2 == command("reap", "--jsn").exit_code
    done = command("reap", shared)
    assert (2, "Error: cluster shared: it runs; `dask adaptive down shared` ends it\n") == (done.exit_code, done.stderr)


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced(mark: str) -> None:
    up("robust", "--minimum", "1")
    with connect("robust") as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=120)
        [pid] = client.run(os.getpid).values()
        kill(pid)
        assert pid != client.submit(os.getpid).result(timeout=120)
    assert 0 == command("down", "robust").exit_code


def test_a_killed_head_leaves_no_jobs_and_is_recognised(mark: str) -> None:
    pid = up("fragile", "--minimum", "2")
    with connect("fragile") as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=120)
        kill(pid)
        soon(lambda: not table(mark))
        with pytest.raises(EngineError, match="cannot be asked"):
            cluster.explain()
    with pytest.raises(EngineError, match=r"cluster 'fragile' is lost \(its process is gone\)"):
        connect("fragile")
    assert 1 == command("status", "fragile").exit_code
    done = command("list")
    assert "no clusters" in done.stdout
    assert "nothing of it is left" in done.stderr
    assert [] == entries()
    up("fragile")  # the name is free again
    assert 0 == command("down", "--all").exit_code


def test_a_head_that_does_not_listen_is_ended_by_a_signal(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = up("deaf")
    os.kill(pid, signal.SIGSTOP)
    try:
        kept = psutil.Process(pid)
        monkeypatch.setattr("dask_adaptive.head.end.KILL_S", 1.0)
        done = command("down", "deaf")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert (0, True) == (done.exit_code, "had to be told by a signal" in done.stdout)
    assert not kept.is_running() or kept.status() == psutil.STATUS_ZOMBIE
    soon(lambda: not table(mark))
    assert [] == entries()


def test_the_head_ends_with_its_scheduler(mark: str) -> None:
    up("ended", "--minimum", "1")
    with connect("ended") as cluster, Client(cluster.scheduler_address, security=cluster.security) as client:
        client.wait_for_workers(1, timeout=120)
        client.shutdown()
    soon(lambda: not entries() and not table(mark))


def test_a_full_disk_is_one_sentence(mark: str) -> None:
    """Every write of more than nothing fails, as it does where no block is free."""

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = subprocess.run([*PROGRAM, "up", "full"], preexec_fn=full, capture_output=True, text=True, check=False)
    assert (2, "") == (done.returncode, done.stdout)
    assert 1 == len(done.stderr.strip().splitlines()), done.stderr
    assert "the state of cluster 'full' cannot be written" in done.stderr
    assert [] == entries()


def test_an_unwritable_state_directory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    done = command("up", "homeless")
    assert (2, "") == (done.exit_code, done.stdout)
    assert 1 == len(done.stderr.strip().splitlines())
    assert "the state directory" in done.stderr
    assert "XDG_STATE_HOME names another place" in done.stderr


def test_a_disk_that_fills_up_costs_no_running_work(mark: str) -> None:
    up("busy", "--minimum", "1")
    pid = entry_of("busy").running().process.pid
    with connect("busy") as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=120)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))  # Python ignores SIGXFSZ: each write is refused
        assert list(range(20)) == client.gather(client.map(lambda x: x, range(20)))
        cluster.scale(2)
        client.wait_for_workers(2, timeout=120)
    assert 0 == command("down", "busy").exit_code
    assert [] == entries()


# --- as a job of the resource manager ----------------------------------------------------------------------------


@pytest.fixture
def manager(mark: str, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Options of a head that is a job, on a batch system that is not there but runs its jobs."""
    said = ("scheduler={host: 127.0.0.1}", f"log_directory={tmp_path / 'logs'}", "poll_s=0.3", "death_timeout=600s")
    said = (*said, f"environment={{{MARK}: {mark}}}")
    with Fake(tmp_path / "pbs", "pbs:Pbs", capacity=2).on_path():
        yield ("--backend", "pbs", "--head", "job", *(word for each in said for word in ("--set", each)))


def queue() -> list[str]:
    """The manager's own list."""
    done = subprocess.run(["qstat", "-t"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines()[2:] if line.split()[4] not in "BFX"]


def test_a_head_can_be_a_job(manager: tuple[str, ...], mark: str, tmp_path: Path) -> None:
    pid = up("job", *manager)
    assert os.getpid() not in {each.pid for each in psutil.Process(pid).parents()}
    assert 1 == len(queue())
    with connect("job") as cluster, Client(cluster) as client:
        assert 3 == client.submit(sum, [1, 2]).result(timeout=120)
        assert 2 == len(queue())
    assert "up at tls://" in command("logs", "job").stdout
    assert 0 == command("down", "job").exit_code
    assert [] == queue()
    soon(lambda: not table(mark))
    assert [] == entries()
    assert [] == list((tmp_path / "logs").glob(".*")), "private files"


def test_reap_cancels_what_a_killed_head_left(manager: tuple[str, ...], mark: str, tmp_path: Path) -> None:
    """A worker ends when its scheduler is gone; a job that was queued until then starts, and waits for it."""
    pid = up("lost", *manager, "--minimum", "2")
    with connect("lost") as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=120)
        soon(lambda: [line.split()[4] for line in queue()] == ["R", "R", "Q"])
    kill(pid)
    soon(lambda: [line.split()[4] for line in queue()] == ["R"])
    [row] = json.loads(command("list", "--json").stdout)
    assert "lost" == row["state"]  # and it is not forgotten: something may be left
    assert "(lost); `dask adaptive reap lost` ends it" in command("up", "lost").stderr
    done = command("reap")
    assert (0, "cluster lost cleaned up; jobs of pbs that had to be cancelled: 1\n") == (done.exit_code, done.stdout)
    assert [] == queue()
    soon(lambda: not table(mark))
    assert [] == entries()
    assert [] == list((tmp_path / "logs").glob(".*")), "private files"
    assert "nothing to clean up" in command("reap").stdout


def test_what_cannot_be_asked_is_not_forgotten(manager: tuple[str, ...], tmp_path: Path) -> None:
    kill(up("unsure", *manager))
    soon(lambda: entry_of("unsure").standing() is Standing.LOST)
    fake = Fake(tmp_path / "pbs", "pbs:Pbs")
    fake.fault(down=("query",))
    done = command("reap")
    assert (1, True) == (done.exit_code, "pbs may still have jobs of this cluster" in done.stderr)
    assert ["unsure"] == [entry.name for entry in entries()]
    fake.fault()
    assert 0 == command("reap").exit_code


def quietly(folder: Path) -> tuple[str, ...]:
    """Options of a head here, on a batch system that need not be there."""
    said = ("scheduler={host: 127.0.0.1}", f"log_directory={folder}", "poll_s=0.3")
    return ("--backend", "pbs", *(word for each in said for word in ("--set", each)))


def test_who_comes_up_beside_a_manager_that_cannot_be_asked_is_told(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "TROUBLE_S", LIMIT_S)
    (tmp_path / "site.yaml").write_text("backend: pbs\n")
    with Fake(tmp_path / "pbs", "pbs:Pbs").on_path() as fake:
        fake.fault(down=("query",))
        done = command("up", "mute", "--config", str(tmp_path / "site.yaml"), *quietly(tmp_path))
        assert (0, True) == (done.exit_code, "cluster mute is up" in done.stdout), done.output
        [told] = done.stderr.splitlines()
        assert told.startswith("pool default gets no jobs now: job list could not be read: ")
        assert "`dask adaptive status mute`" in told
        assert f"`dask adaptive doctor --config {tmp_path / 'site.yaml'} --pool default`" in told
        assert 0 == command("down", "mute").exit_code
        done = command("up", "mute", *quietly(tmp_path), "--json")
        assert "job list could not be read" in json.loads(done.stdout)["troubles"]["default"]
        assert 0 == command("down", "mute").exit_code


def test_who_comes_up_beside_a_manager_that_answers_is_told_of_no_trouble(mark: str, tmp_path: Path) -> None:
    with Fake(tmp_path / "pbs", "pbs:Pbs").on_path():
        done = command("up", "well", *quietly(tmp_path))
        assert (0, "") == (done.exit_code, done.stderr)
        assert 0 == command("down", "well").exit_code


def test_a_head_that_had_no_job_is_believed_where_nobody_can_be_asked(mark: str, tmp_path: Path) -> None:
    with Fake(tmp_path / "pbs", "pbs:Pbs").on_path() as fake:
        fake.fault(down=("query",))
        up("alone", *quietly(tmp_path))
        done = command("down", "alone")
        assert (0, "cluster alone ended; pbs could not be asked; the head had no job left\n") == (
            done.exit_code,
            done.stdout,
        )
    assert [] == entries()
    assert [] == owners()
    assert "no clusters\n" == command("down", "--all").stdout
    assert [] == json.loads(command("down", "--all", "--json").stdout)


def test_a_head_that_ends_at_once_is_told_of(manager: tuple[str, ...], mark: str) -> None:
    done = command("up", "broken", *manager, "--set", "python=/bin/false")
    assert 1 == done.exit_code
    assert "cluster 'broken' did not come up: its job 1.pbshost ended" in done.stderr
    assert [] == queue()
    assert [] == entries()


def test_a_local_job_cannot_be_a_head(mark: str) -> None:
    done = command("up", "short", "--head", "job")
    assert (2, True) == (done.exit_code, "its jobs end with the command that started them" in done.stderr)
    assert [] == entries()


# --- who may come ------------------------------------------------------------------------------------------------

STRANGER = """
    import asyncio, os, sys
    from distributed.comm import connect
    from distributed.security import Security

    folder, address = sys.argv[1:]
    mine = Security.temporary()

    async def knock():
        for there in (address, address.replace("tls://", "tcp://")):
            for arguments in (mine.get_connection_args("client"), {}):
                try:
                    comm = await connect(there, timeout=3, **arguments)
                    await comm.write({"op": "identity"})
                    await asyncio.wait_for(comm.read(), 3)
                except Exception:
                    continue
                sys.exit(f"{there} answers")

    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    for name in ("", "running.json", "setup.json", "key.pem", "cert.pem", "ca.pem", "log"):
        try:
            os.listdir(folder) if not name else open(os.path.join(folder, name)).read()
        except PermissionError:
            continue
        sys.exit(f"{name or folder} can be read")
    asyncio.run(knock())
    print("nowhere")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_gets_nowhere(shared: str) -> None:
    entry = entry_of(shared)
    arguments = [str(entry.folder), entry.running().address]
    where = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    program = [sys.executable, "-c", textwrap.dedent(STRANGER), *arguments]
    done = subprocess.run(program, cwd="/", env=where, capture_output=True, text=True, timeout=120, check=False)
    assert "nowhere" == done.stdout.strip(), done.stderr


def test_every_file_is_private(shared: str) -> None:
    entry = entry_of(shared)
    assert 0o700 == entry.folder.stat().st_mode & 0o777
    assert 0o700 == entry.folder.parent.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in entry.folder.iterdir()}
    command_line = " ".join(psutil.Process(entry.running().process.pid).cmdline())
    assert (entry.folder / "key.pem").read_text() not in command_line


def test_the_dashboard_shows_no_logs_and_no_arguments(shared: str) -> None:
    def tell(secret: str) -> int:
        import logging

        logging.getLogger("distributed.worker").warning("logged %s", secret)
        return len(secret)

    word = uuid.uuid4().hex
    with connect(shared) as cluster, Client(cluster) as client:
        held = client.submit(tell, word, key="held")
        assert 32 == held.result()
        worker = next(iter(cluster.scheduler_info["workers"]))
        base, pages = cluster.dashboard_link.removesuffix("/status"), every_page()
        paths = [path.replace("(.*)", quote(worker, safe="")) for path in pages]
        found = {path: fetched(f"{base}{path}") for path in [*paths, "/info/task/held.html", "/status"]}
    assert found["/status"] is not None
    assert [] == [path for path, text in found.items() if text is not None and word in text]
    assert [] == [path for path, text in found.items() if text is not None and ("logs" in path or "call" in path)]


def every_page() -> list[str]:
    """Paths that Dask's scheduler serves by default, charts apart."""
    names = ("prometheus", "info", "json", "api")
    modules = [f"distributed.http.scheduler.{name}" for name in names]
    found = [rule[0] for module in modules for rule in __import__(module, fromlist=["routes"]).routes]
    assert len(found) >= 15
    return [f"/{path.lstrip('/')}" for path in found]


def fetched(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(answer.read(1_000_000), errors="replace")
    except (OSError, ValueError):
        return None


def test_the_dashboard_can_be_off(mark: str) -> None:
    up("hidden", "--no-dashboard")
    done = command("dashboard", "hidden")
    assert (1, True) == (done.exit_code, "was started without a dashboard" in done.stderr)
    with connect("hidden") as cluster:
        port = cluster.scheduler_info["services"].get("dashboard")
        assert port is None or fetched(f"http://127.0.0.1:{port}/status") is None
    assert 0 == command("down", "hidden").exit_code


# --- a controller that comes back --------------------------------------------------------------------------------


class Lasting(Local):
    """Jobs that stay when a controller leaves."""

    ends_with_owner = False

    async def aclose(self) -> None:
        """Not now."""

    async def end(self) -> None:
        await super().aclose()


async def test_a_controller_that_comes_back_adopts_its_jobs(tmp_path: Path) -> None:
    backend = Lasting(directory=str(tmp_path / "logs"))
    options: dict[str, Any] = {"name": "same", "asynchronous": True}
    try:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler:
            first = await Cluster(backend, scheduler=scheduler.address, n_workers=2, **options)
            await until(lambda: len(scheduler.workers) == 2)
            before = {worker.name for worker in scheduler.workers.values()}
            await first.detach()
            assert before == {worker.name for worker in scheduler.workers.values()}
            async with Cluster(backend, scheduler=scheduler.address, **options) as second:
                await rounds(second)  # as long as nothing is said, what is there stays
                second.adapt(minimum=2, maximum=2, interval="50ms")
                await until(lambda: [row.phase.value for row in second.status()] == ["ready", "ready"])
                assert before == {f"{row.job}-0-0" for row in second.status()}
                events = [event for record in second.records for event in record.events]
                assert 2 == sum("was found in the list and adopted" in event for event in events)
                assert 0 == sum(submit.count for record in second.records for submit in record.plan.submits)
            assert {} == scheduler.workers  # closed, not left: adopted jobs are its own
    finally:
        await backend.end()


async def test_what_would_end_anyway_cannot_be_left() -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler:
        async with Cluster("local", scheduler=scheduler.address, asynchronous=True) as cluster:
            with pytest.raises(ConfigError, match="jobs of the backend 'local' end with this process"):
                cluster.detach()
    async with Cluster("local", asynchronous=True, scheduler_options={"dashboard": False}) as cluster:
        with pytest.raises(ConfigError, match="`dask adaptive up` starts a cluster that lives on"):
            cluster.detach()


# --- from a laptop -----------------------------------------------------------------------------------------------


def elsewhere(home: Path) -> dict[str, str]:
    """The environment of a host with the same heads, and without what a login shell of this user does."""
    return {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"], "HOME": str(home)}


@pytest.mark.system("ssh")
def test_from_a_laptop_through_a_forward(shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hosts(tmp_path / "hosts", 1, **elsewhere(tmp_path)) as hosts:
        program = tmp_path / "ssh"
        options = (
            "-F none",
            f"-i {hosts.key}",
            f"-p {hosts.sshds[0].port}",
            f"-o UserKnownHostsFile={hosts.known_hosts}",
        )
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {" ".join(options)} -o BatchMode=yes "$@"\n')
        program.chmod(0o755)
        user = getpass.getuser()
        there = f"{user}@127.0.0.1"
        with connect(f"{there}:{shared}", ssh=[str(program)]) as cluster, Client(cluster) as client:
            assert cluster.scheduler_address != entry_of(shared).running().address
            assert 3 == client.submit(sum, [1, 2]).result()
            assert "Limits: 1 to 3 jobs" in cluster.explain()
            page, port = cluster.dashboard_link, urlsplit(cluster.scheduler_address).port
            assert page != entry_of(shared).running().dashboard
            assert "Dask" in str(fetched(page))
            assert "\n" in cluster.security.tls_client_key  # in memory only
        assert fetched(page) is None
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(ConfigError, match=f"no cluster 'shard' on {there}; did you mean 'shared'"):
            connect(f"{there}:shard", ssh=[str(program)])
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert "pool default" in command("status", f"{there}:{shared}").stdout
        hosts.sshds[0].stop()
        done = command("status", f"{there}:{shared}")
        assert (1, True) == (done.exit_code, "cannot be looked up" in done.stderr)


@pytest.mark.system("ssh")
def test_a_forward_that_is_cut_is_made_again(shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same port, and not for ever: what was there comes back, and letting go ends it."""
    monkeypatch.setattr("dask_adaptive.head.forward.LONGEST_REST_S", 1.0)
    with running_hosts(tmp_path / "hosts", 1, **elsewhere(tmp_path)) as hosts:
        (host,) = hosts.sshds
        options = ["-F", "none", "-i", str(hosts.key), "-p", str(host.port)]
        ssh = ["ssh", *options, "-o", f"UserKnownHostsFile={hosts.known_hosts}", "-o", "BatchMode=yes"]
        with connect(f"{getpass.getuser()}@127.0.0.1:{shared}", ssh=ssh) as cluster:
            address = cluster.scheduler_address
            (first,) = forwards(host.port)
            first.kill()
            soon(lambda: forwards(host.port) not in ([], [first]) and cluster.answers)
            host.stop()
            soon(lambda: not cluster.answers)
            host.start()
            soon(lambda: cluster.answers)
            assert address == cluster.scheduler_address
            with Client(cluster) as client:
                assert 3 == client.submit(sum, [1, 2]).result()
            host.stop()
            soon(lambda: not cluster.answers)
        host.start()
        assert [] == forwards(host.port)


def forwards(port: int) -> list[psutil.Process]:
    """The ``ssh`` of ours that forward through the server at this port."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if each.name() == "ssh" and str(port) in each.cmdline():
                found.append(each)
    return found


@pytest.mark.system("ssh")
def test_a_forward_ends_with_whoever_opened_it(shared: str, tmp_path: Path) -> None:
    """However it ends."""
    with running_hosts(tmp_path / "hosts", 1, **elsewhere(tmp_path)) as hosts:
        options = ["-F", "none", "-i", str(hosts.key), "-p", str(hosts.sshds[0].port)]
        ssh = ["ssh", *options, "-o", f"UserKnownHostsFile={hosts.known_hosts}", "-o", "BatchMode=yes"]
        place = urlsplit(entry_of(shared).running().address).netloc
        program = f"""
            import time
            from dask_adaptive.head.forward import Forward
            way = Forward("{getpass.getuser()}@127.0.0.1", [{place!r}], {ssh!r})
            print(way.ports[0], flush=True)
            time.sleep(600)
        """
        opened = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
        assert opened.stdout is not None
        port = int(opened.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        opened.kill()
        opened.communicate()

        def closed() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return False
            return True

        soon(closed)


@pytest.mark.parametrize("word", ["host:", ":work", "-oProxyCommand=x:work", "host:../work", "host:a b"])
def test_names_elsewhere_that_cannot_be(word: str) -> None:
    with pytest.raises(ConfigError, match="user@host:NAME"):
        connect(word)
