"""The SSH backend with real servers, and everything that can happen to a connection, a host and a job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.contract.subjects import NOWHERE, batch, key
from tests.sshd import Hosts, make_key, running_hosts
from tests.waiting import until

from dask_adaptive.backend import _places
from dask_adaptive.backend._link import Link, Message
from dask_adaptive.backend.ssh import Ssh
from dask_adaptive.errors import Ambiguous, ConfigError, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Shape, Spec

pytestmark = pytest.mark.system("ssh")

SLEEP = replace(NOWHERE, command=("sleep", "1000"))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with running_hosts(tmp_path / "hosts") as made:
        yield made


def backend_of(made: Hosts, **options: Any) -> Ssh:
    return Ssh(**{"hosts": made.words(2), "grace_s": 1, **made.options, **options})


def says(*command: str, **spec: Any) -> Spec:
    return replace(NOWHERE, command=command, **spec)


async def state_of(backend: Ssh, job_id: JobId) -> JobState | None:
    return next((job.state for job in await backend.jobs(key("mine")) if job.id == job_id), None)


async def ended(backend: Ssh, job_id: JobId) -> Job:
    async def met() -> bool:
        return await state_of(backend, job_id) is JobState.ENDED

    await until(met)
    return next(job for job in await backend.jobs(key("mine")) if job.id == job_id)


def sleepers(hosts: Hosts) -> set[int]:
    found = set()
    for process in hosts.left():
        with suppress(psutil.Error):
            if process.name() == "sleep":
                found.add(process.pid)
    return found


# --- who is let in -------------------------------------------------------------------------------------------------


async def test_a_host_with_an_unknown_key_is_set_aside_and_the_sentence_says_what_to_do(hosts: Hosts) -> None:
    known, unknown = hosts.sshds
    hosts.knows(known)
    backend = backend_of(hosts)
    await backend.start()
    (note,) = backend.notes()
    command = ["ssh-keygen", "-l", "-f", str(unknown.folder / "host_key.pub")]
    fingerprint = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]  # noqa: ASYNC221
    assert note.startswith(f"host {unknown.label}: its host key ssh-ed25519 {fingerprint} is not in known_hosts")
    assert "host_keys='accept-new'" in note
    ids = await backend.submit(batch(3, spec=SLEEP))
    assert [known.label] * 2 == [job_id.partition("@")[2] for job_id in ids], "its two slots, and nobody else's"
    await backend.aclose()


async def test_new_keys_are_accepted_when_asked_for_and_a_changed_one_never(hosts: Hosts) -> None:
    first, second = hosts.sshds
    hosts.known_hosts.unlink()
    backend = backend_of(hosts, host_keys="accept-new")
    await backend.start()
    assert [] == list(backend.notes())
    await backend.aclose()
    checking = backend_of(hosts)
    await checking.start()
    assert [] == list(checking.notes()), "they are in known_hosts now"
    await checking.aclose()
    first.stop()
    (first.folder / "host_key").unlink()
    make_key(first.folder / "host_key")
    first.start()
    again = backend_of(hosts, host_keys="accept-new")
    await again.start()
    (note,) = again.notes()
    assert f"host {first.label}: its host key" in note
    assert "is not the one in known_hosts" in note
    assert f"ssh-keygen -R '[127.0.0.1]:{first.port}'" in note
    await again.aclose()


async def test_a_configuration_that_turns_the_check_off_is_refused(hosts: Hosts) -> None:
    config = hosts.folder / "config"
    config.write_text(f"Host *\nUserKnownHostsFile none\nGlobalKnownHostsFile none\nIdentityFile {hosts.key}\n")
    backend = Ssh(hosts.words(), config=str(config), connect_options={"agent_path": None})
    with pytest.raises(NoCapacity, match="its key cannot be checked, by UserKnownHostsFile"):
        await backend.start()
    await backend.aclose()
    assert [] == hosts.left()


async def test_an_answer_that_nobody_waits_for_any_more_harms_no_other(hosts: Hosts) -> None:
    backend = backend_of(hosts)
    await backend.start()
    link = next(place.link for place in backend._places if place.link is not None)
    given_up = asyncio.ensure_future(link.call({"op": "jobs"}, 60.0))
    await asyncio.sleep(0)  # it has asked
    given_up.cancel()
    assert [] == (await link.call({"op": "jobs"}, 60.0))["jobs"]
    await backend.aclose()


async def test_what_asks_when_the_connection_is_closed_is_told_so(hosts: Hosts) -> None:
    backend = backend_of(hosts)
    await backend.start()
    link = next(place.link for place in backend._places if place.link is not None)
    agents = [agent for sshd in hosts.sshds for agent in sshd.agents()]
    for agent in agents:
        agent.suspend()  # else it might have answered before the end
    asked = asyncio.ensure_future(link.call({"op": "jobs"}, 3600.0))
    await asyncio.sleep(0)
    await backend.aclose()
    for agent in agents:
        agent.resume()
    with pytest.raises(Ambiguous, match="the connection was closed"):
        await asked
    with pytest.raises(Unavailable):
        await backend.log(JobId(f"a.0@{link.host.label}"))
    assert [] == [place for place in backend._places if place.link is not None], "nothing is opened again"


async def test_a_new_key_goes_on_a_line_of_its_own(hosts: Hosts) -> None:
    hosts.known_hosts.write_text("# mine, without an end of line")
    backend = backend_of(hosts, host_keys="accept-new")
    await backend.start()
    await backend.aclose()
    first, *others = hosts.known_hosts.read_text().splitlines()
    assert "# mine, without an end of line" == first
    assert len(hosts.sshds) == len(others)


async def test_a_new_key_that_cannot_be_written_down_is_not_accepted(hosts: Hosts, tmp_path: Path) -> None:
    backend = backend_of(hosts, host_keys="accept-new", known_hosts="/proc/nowhere/known_hosts")
    with pytest.raises(NoCapacity, match="/proc/nowhere"):
        await backend.start()
    await backend.aclose()


async def test_nobody_lets_us_in(hosts: Hosts, tmp_path: Path) -> None:
    backend = backend_of(hosts, keys=[str(make_key(tmp_path / "another_key"))])
    with pytest.raises(NoCapacity) as caught:
        await backend.start()
    for sshd in hosts.sshds:
        assert f"{sshd.label}: it does not let us in" in str(caught.value)
    with pytest.raises(NoCapacity, match="has to work without a password"):
        await backend.submit(batch(1))
    await backend.aclose()


async def test_the_agents_keys_are_used(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no keys there
    sock = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        await until(lambda: Path(sock).exists())
        command = ["ssh-add", "-q", str(hosts.key)]
        subprocess.run(command, check=True, env={**os.environ, "SSH_AUTH_SOCK": sock}, stdin=subprocess.DEVNULL)  # noqa: ASYNC221
        monkeypatch.setenv("SSH_AUTH_SOCK", sock)
        backend = Ssh(hosts.words(), known_hosts=str(hosts.known_hosts), config=hosts.options["config"])
        await backend.start()
        assert [] == list(backend.notes())
        await backend.aclose()
    finally:
        agent.kill()
        agent.wait()


async def test_the_configuration_of_ssh_is_honoured_with_its_jump_hosts(hosts: Hosts) -> None:
    near, far = hosts.sshds
    lines = f"UserKnownHostsFile {hosts.known_hosts}\nIdentityFile {hosts.key}\nHostName 127.0.0.1\n"
    config = hosts.folder / "config"
    config.write_text(f"Host near\nPort {near.port}\n{lines}Host far\nPort {far.port}\nProxyJump near\n{lines}")
    near.stop()
    with pytest.raises(NoCapacity, match="far: "):
        await Ssh(["far"], config=str(config), connect_options={"agent_path": None}).start()
    near.start()
    backend = Ssh(["far*1"], config=str(config), connect_options={"agent_path": None})
    (job_id,) = await backend.submit(batch(1, spec=says("sh", "-c", "echo $SSH_CONNECTION")))
    await ended(backend, job_id)
    assert str(far.port) == (await backend.log(job_id)).split()[-1]
    await backend.aclose()


# --- what the host has to have -------------------------------------------------------------------------------------


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no Python .* on it; python= names the one to use"),
        ("printf '\\ndask-adaptive-agent 3 6 8\\n'", "is Python 3.6.8; 3.10 or later is needed"),
        (f'exec {sys.executable} -S "$@"', "has no 'distributed'; install it there"),
        ("echo broken >&2; exit 3", "ended with exit code 3: broken"),
    ],
)
async def test_a_host_without_the_right_python_is_set_aside(
    hosts: Hosts, tmp_path: Path, text: str | None, sentence: str
) -> None:
    python = script(tmp_path / "python", text) if text else str(tmp_path / "python")
    good, bad = hosts.sshds
    words = [f"{good.label}*2", {"address": "127.0.0.1", "port": bad.port, "slots": 2, "python": python}]
    backend = backend_of(hosts, hosts=words)
    ids = await backend.submit(batch(3, spec=SLEEP))
    assert [good.label] * 2 == [job_id.partition("@")[2] for job_id in ids]
    with pytest.raises(NoCapacity, match=sentence):
        await backend.submit(batch(1, spec=SLEEP))
    (note,) = backend.notes()
    assert f"host {bad.label}: " in note
    await backend.aclose()


async def test_another_version_is_used_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = tmp_path / "path" / "distributed-1.2.3.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: distributed\nVersion: 1.2.3\n")
    with running_hosts(tmp_path / "hosts", PYTHONPATH=str(tmp_path / "path")) as hosts:
        backend = backend_of(hosts)
        await backend.start()
        said = [record.message for record in caplog.records if record.name == "dask_adaptive"]
        assert 1 == len(said)
        assert "and distributed 1.2.3, here are" in said[0]
        assert 2 == len(backend.notes()), "each host, for who asks"
        assert 2 == len(await backend.submit(batch(2, spec=SLEEP)))
        await backend.aclose()


async def test_a_state_directory_that_cannot_be_written_sets_the_host_aside(hosts: Hosts) -> None:
    backend = backend_of(hosts, directory="/proc/nowhere")
    with pytest.raises(NoCapacity, match=r"its state directory /proc/nowhere/.* cannot be written .*directory="):
        await backend.start()
    await backend.aclose()


async def test_what_a_shell_prints_first_does_no_harm(tmp_path: Path) -> None:
    noise = tmp_path / "noise.sh"
    noise.write_text('echo Welcome; echo \'{"op": "hello"}\'; echo oh >&2\n')
    with running_hosts(tmp_path / "hosts", count=1, BASH_ENV=str(noise)) as hosts:
        backend = backend_of(hosts)
        await backend.start()
        assert [] == list(backend.notes())
        await backend.aclose()


# --- slots ---------------------------------------------------------------------------------------------------------


async def test_the_least_loaded_host_first_until_all_slots_are_used(hosts: Hosts) -> None:
    first, second = hosts.sshds
    backend = backend_of(hosts, hosts=[f"{first.label}*1", f"{second.label}*3"])
    assert 4 == backend.slots(Shape())
    two = await backend.submit(batch(2, spec=SLEEP))
    assert {first.label, second.label} == {job_id.partition("@")[2] for job_id in two}
    assert 2 == len(await backend.submit(batch(5, spec=SLEEP))), "two slots were left"
    with pytest.raises(NoCapacity, match="all 4 slots of 2 hosts are used"):
        await backend.submit(batch(1, spec=SLEEP))
    await backend.cancel(two[:1])
    await ended(backend, two[0])
    assert 1 == len(await backend.submit(batch(1, spec=SLEEP)))
    await backend.aclose()


async def test_without_slots_a_host_takes_what_its_cores_allow(hosts: Hosts) -> None:
    backend = backend_of(hosts, hosts=[sshd.label for sshd in hosts.sshds])
    await backend.start()
    cores = len(os.sched_getaffinity(0))
    assert 2 * cores == backend.slots(Shape())
    assert 2 == backend.slots(Shape(workers=2, threads=cores))
    await backend.aclose()


async def test_a_host_without_jobs_is_given_back_and_taken_again(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_places, "IDLE_S", 0.0)
    backend = backend_of(hosts)
    await backend.start()
    assert 2 == len(hosts.left()), "an agent on each"
    await asyncio.sleep(0.01)
    await backend.jobs(key("mine"))
    await until(lambda: not hosts.left())
    ids = await backend.submit(batch(4, spec=SLEEP))
    assert 4 == len(ids)
    assert 4 == len(await backend.jobs(key("mine")))
    await backend.aclose()


async def test_what_cannot_be_is_a_sentence(hosts: Hosts) -> None:
    with pytest.raises(Rejected, match="no hosts were given"):
        await Ssh().submit(batch(1))
    with pytest.raises(ConfigError, match="'check' or 'accept-new'"):
        Ssh(host_keys="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must not be negative"):
        Ssh(grace_s=-1)
    missing = replace(SLEEP, tls={"tls_key": "/no/such/key"})
    backend = backend_of(hosts)
    with pytest.raises(Rejected, match="TLS files of the job cannot be read"):
        await backend.submit(batch(1, spec=missing))
    await backend.aclose()


# --- connections ---------------------------------------------------------------------------------------------------


async def test_a_cut_connection_ends_nothing_and_is_repaired(hosts: Hosts) -> None:
    backend = backend_of(hosts)
    words: list[str] = []
    backend.watch(words.append)
    ids = await backend.submit(batch(4, spec=SLEEP))
    await until(lambda: len(sleepers(hosts)) == 4)
    before = sleepers(hosts)
    for sshd in hosts.sshds:
        sshd.cut()
    await until(lambda: sum("was cut" in word for word in words) == 2)

    async def repaired() -> bool:
        with suppress(Unavailable):
            return {JobState.RUNNING} == {job.state for job in await backend.jobs(key("mine"))}
        return False

    await until(repaired)
    assert set(ids) == {job.id for job in await backend.jobs(key("mine"))}
    assert before == sleepers(hosts)
    await backend.cancel(ids)
    await until(lambda: not sleepers(hosts))
    await backend.aclose()


async def test_a_host_that_cannot_be_asked_makes_the_list_unavailable_until_it_counts_as_lost(hosts: Hosts) -> None:
    backend = backend_of(hosts, lost_s=3.0)
    ids = await backend.submit(batch(4, spec=SLEEP))
    away, other = hosts.sshds
    there = [job_id for job_id in ids if job_id.endswith(away.label)]
    away.stop()
    with pytest.raises(Unavailable, match=f"2 jobs run on a host that cannot be asked: {away.label}"):
        await backend.jobs(key("mine"))
    with pytest.raises(Unavailable):
        await backend.cancel(there)

    async def lost() -> bool:
        with suppress(Unavailable):
            return set(ids) - set(there) == {job.id for job in await backend.jobs(key("mine"))}
        return False

    await until(lost)
    assert any(note.startswith(f"host {away.label}: ") for note in backend.notes())
    await backend.cancel(there[:1])  # is told when it is back
    away.start()

    async def back() -> bool:
        with suppress(Unavailable):
            return await state_of(backend, there[1]) is JobState.RUNNING
        return False

    await until(back)
    await ended(backend, there[0])
    await until(lambda: len(sleepers(hosts)) == 3)
    assert [] == list(backend.notes())
    await backend.aclose()


async def test_an_answer_that_is_lost_leaves_the_submit_open(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Link.call

    async def deaf(self: Link, message: Message, timeout_s: float) -> Message:
        if message["op"] != "start":
            return await call(self, message, timeout_s)
        await call(self, message, timeout_s)
        self._connection.abort()
        raise Ambiguous("the answer was lost")

    backend = backend_of(hosts)
    await backend.start()
    monkeypatch.setattr(Link, "call", deaf)
    wanted = batch(2, spec=SLEEP)
    with pytest.raises(Ambiguous, match="0 of 2 jobs were started, 2 more perhaps"):
        await backend.submit(wanted)

    async def shown() -> bool:
        with suppress(Unavailable):
            return set(wanted.names) == {job.name for job in await backend.jobs(key("mine"))}
        return False

    await until(shown)
    await backend.aclose()


async def test_a_host_that_hangs_is_said_to_be_unavailable(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_adaptive.backend.ssh.ANSWER_S", 0.5)
    backend = backend_of(hosts)
    (job_id,) = await backend.submit(batch(1, spec=SLEEP))
    (mine,) = [sshd for sshd in hosts.sshds if job_id.endswith(sshd.label)]
    for agent in mine.agents():
        agent.suspend()
    with pytest.raises(Unavailable, match="no answer within"):
        await backend.jobs(key("mine"))
    await backend.aclose()


# --- jobs that outlive us ------------------------------------------------------------------------------------------


async def test_jobs_of_an_owner_that_was_killed_are_found_by_the_next(hosts: Hosts) -> None:
    program = (
        "import asyncio, json, sys\n"
        "from tests.contract.subjects import batch\nfrom tests.contract.test_ssh import SLEEP\n"
        "from dask_adaptive.backend.ssh import Ssh\n"
        "async def main():\n"
        "    wanted = batch(3, spec=SLEEP)\n"
        "    print(wanted.cluster, *await Ssh(**json.loads(sys.argv[1])).submit(wanted), flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    options = json.dumps({"hosts": hosts.words(), **hosts.options})
    owner = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", program, options], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert owner.stdout is not None
    cluster, *ids = owner.stdout.readline().split()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert 3 == len(ids)
    await until(lambda: len(sleepers(hosts)) == 3)
    before = sleepers(hosts)
    backend = backend_of(hosts)
    assert set(ids) == {job.id for job in await backend.jobs(cluster)}
    assert [] == list(await backend.jobs("another"))
    assert before == sleepers(hosts)
    assert 1 == len(await backend.submit(batch(2, spec=SLEEP))), "three of four slots are taken"
    await backend.cancel([JobId(each) for each in ids])
    await until(lambda: len(sleepers(hosts)) == 1)
    await backend.aclose()


async def test_jobs_of_a_host_that_is_no_longer_named_are_ended_there(hosts: Hosts) -> None:
    first = backend_of(hosts)
    ids = await first.submit(batch(4, spec=says("sh", "-c", "echo begun; exec sleep 1000")))
    await until(lambda: len(sleepers(hosts)) == 4)
    await first.aclose()
    kept, dropped = hosts.sshds
    there = [job_id for job_id in ids if job_id.endswith(dropped.label)]
    backend = backend_of(hosts, hosts=[kept.label])
    assert "begun" in await backend.log(there[0])
    await backend.cancel(there[:1])
    await until(lambda: len(sleepers(hosts)) == 3)
    assert [] == dropped.agents(), "the connection was for this alone"
    dropped.stop()
    with pytest.raises(Unavailable, match=rf"1 jobs on a host .* no longer in hosts= may live on: {dropped.label}: "):
        await backend.cancel(set(ids) - {there[0]})
    await until(lambda: len(sleepers(hosts)) == 1)
    dropped.start()
    await backend.cancel(ids)
    await until(lambda: not sleepers(hosts))
    await backend.aclose()


async def test_a_job_whose_keeper_was_killed_is_over(hosts: Hosts) -> None:
    backend = backend_of(hosts)
    (job_id,) = await backend.submit(batch(1, spec=says("sh", "-c", "sleep 1000 & sleep 1000")))
    await until(lambda: len(sleepers(hosts)) == 2)
    (first, *_) = sleepers(hosts)
    for parent in psutil.Process(first).parents():
        if parent.pid == os.getsid(first):
            parent.kill()
    job = await ended(backend, job_id)
    assert ("its keeper was killed", None) == (job.reason, job.exit_code)
    await until(lambda: not hosts.jobs_left())
    await backend.aclose()


# --- ending, and what is left --------------------------------------------------------------------------------------


async def test_a_job_is_ended_as_a_group_by_force_if_need_be(hosts: Hosts) -> None:
    backend = backend_of(hosts)
    stubborn = "trap 'echo not me' TERM; sleep 1000 & while true; do sleep 1000; done"
    (job_id,) = await backend.submit(batch(1, spec=says("sh", "-c", stubborn)))
    await until(lambda: len(sleepers(hosts)) == 2)
    await backend.cancel([job_id])
    job = await ended(backend, job_id)
    assert ("cancelled", -signal.SIGKILL) == (job.reason, job.exit_code)
    assert "not me" in await backend.log(job_id)
    assert [] == hosts.jobs_left()
    await backend.aclose()
    await until(lambda: not hosts.left())  # the agent ends when it sees the end of its connection


async def test_the_log_is_bounded_and_read_after_death_by_others(hosts: Hosts) -> None:
    backend = backend_of(hosts, log_bytes=10_000)
    chatty = 'import sys; sys.stdout.write("x" * 300_000 + "\\nthe end\\n")'
    (job_id,) = await backend.submit(batch(1, spec=says(sys.executable, "-c", chatty)))
    job = await ended(backend, job_id)
    assert ("exit code 0", 0) == (job.reason, job.exit_code)
    await backend.aclose()
    later = backend_of(hosts, log_bytes=10_000)
    log = await later.log(job_id)
    assert log.endswith("x\nthe end\n")
    assert len(log) <= 10_000
    assert 20_000 >= sum(each.stat().st_size for sshd in hosts.sshds for each in sshd.jobs.glob("*/log*"))
    await later.aclose()


async def test_credentials_are_private_never_in_a_command_line_and_go_with_the_job(
    hosts: Hosts, tmp_path: Path
) -> None:
    secret = "-----a very private key-----"
    (tmp_path / "key.pem").write_text(secret)
    backend = backend_of(hosts)
    worker = replace(NOWHERE, scheduler="tls://127.0.0.1:9", tls={"tls_key": str(tmp_path / "key.pem")})
    ids = await backend.submit(batch(2, spec=replace(worker, command=SLEEP.command)))
    files = [path for sshd in hosts.sshds for path in sshd.jobs.glob("*/tls_key")]
    assert [secret] * 2 == [path.read_text() for path in files]
    assert {0o600} == {path.stat().st_mode & 0o777 for path in files}
    assert {0o700} == {path.parent.stat().st_mode & 0o777 for path in files}
    for process in hosts.left():
        assert secret not in " ".join([*process.cmdline(), *process.environ().values()])
    await backend.cancel(ids)
    for each in ids:
        await ended(backend, each)
    assert [] == [path for path in files if path.exists()]
    await backend.aclose()


async def test_a_worker_is_told_where_its_credentials_are(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    backend = backend_of(hosts)
    spec = Spec("tls://127.0.0.1:9", tls={"tls_ca_file": str(tmp_path / "ca.pem")})
    (job_id,) = await backend.submit(batch(1, spec=spec))
    (sshd,) = [each for each in hosts.sshds if job_id.endswith(each.label)]
    path = str(sshd.jobs / job_id.partition("@")[0] / "tls_ca_file")
    await until(lambda: any(path in argv for argv in commands(hosts)) or not hosts.jobs_left())
    await ended(backend, job_id)
    await backend.aclose()


def commands(hosts: Hosts) -> list[list[str]]:
    found = []
    for process in hosts.left():
        with suppress(psutil.Error):
            found.append(process.cmdline())
    return found


async def test_environment_of_backend_and_job_arrive(hosts: Hosts) -> None:
    backend = backend_of(hosts, environment={"FROM_BACKEND": "1", "BOTH": "backend"})
    spec = says("sh", "-c", "echo $FROM_BACKEND $BOTH", environment={"BOTH": "job"})
    (job_id,) = await backend.submit(batch(1, spec=spec))
    await ended(backend, job_id)
    assert "1 job\n" == await backend.log(job_id)
    await backend.aclose()


def visible(hosts: Hosts) -> list[str]:
    """The GPUs that each worker sees."""
    found = []
    for process in hosts.left():
        with suppress(psutil.Error):
            found += [process.environ()["CUDA_VISIBLE_DEVICES"]] if "-m" in process.cmdline() else []
    return found


async def test_gpus_are_handed_out_once_each(tmp_path: Path) -> None:
    with running_hosts(tmp_path / "hosts", count=1, CUDA_VISIBLE_DEVICES="a,b,c") as hosts:
        backend = backend_of(hosts, hosts=[f"{hosts.sshds[0].label}*4"])
        spec = replace(NOWHERE, gpus=2)
        first = await backend.submit(batch(1, spec=spec))
        with pytest.raises(NoCapacity, match="a job takes 2 GPUs, and 1 of 3 are free"):
            await backend.submit(batch(1, spec=spec))
        await until(lambda: visible(hosts) == ["a,b"])
        await backend.cancel(first)
        await ended(backend, first[0])

        async def again() -> bool:
            with suppress(NoCapacity):
                return len(await backend.submit(batch(1, spec=spec))) == 1
            return False

        await until(again)
        await backend.aclose()


async def test_the_memory_of_a_worker_is_watched(hosts: Hosts) -> None:
    backend = backend_of(hosts)
    greedy = "x = bytearray(400_000_000)\nimport time; time.sleep(1000)"
    spec = says(sys.executable, "-c", greedy, shape=Shape(memory_bytes=100_000_000))
    (job_id,) = await backend.submit(batch(1, spec=spec))
    assert "of its limit of 100 MB" in (await ended(backend, job_id)).reason
    await backend.aclose()
