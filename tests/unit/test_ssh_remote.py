"""What runs on a host of the SSH backend, as far as it needs no connection: its files, and what it makes of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dask_adaptive.backend import _remote
from dask_adaptive.backend._keeper import boot, born, write_private
from dask_adaptive.backend._remote import Agent


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setattr(_remote.socket, "gethostname", lambda: "fir")
    made = Agent({"host": "ann@fir", "directory": str(tmp_path), "grace_s": 1.0, "log_bytes": 1000})
    made.place.mkdir(parents=True)
    return made


def job(agent: Agent, name: str, **said: Any) -> Path:
    """The folder of a job that is kept by this very process, unless something else is said."""
    record = {"name": name, "id": f"{name}@ann@fir", "cluster": "c", "host": "ann@fir", "state": "running"}
    record |= {"reason": "", "exit_code": None, "ended_s": 0.0, "group": 0, "secrets": ["tls_key"], "devices": []}
    record |= {"keeper": os.getpid(), "born": born(os.getpid()), "boot": boot(), **said}
    folder = agent.place / name
    folder.mkdir()
    (folder / "tls_key").write_text("secret")
    (folder / "job.json").write_text(json.dumps(record))
    return folder


def listed(agent: Agent) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["reason"]) for each in agent.jobs({})["jobs"]}


def test_jobs_are_kept_apart_by_machine_and_by_the_name_it_is_reached_by(agent: Agent, tmp_path: Path) -> None:
    job(agent, "a.0")
    job(agent, "b.0", host="oak")
    assert tmp_path / "dask-adaptive" / "jobs" / "fir" == agent.place
    assert {"a.0": ("running", "")} == listed(agent)


@pytest.mark.skipif(not boot(), reason="reads /proc")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"boot": "another"}, "its host was restarted"),
        ({"born": "1"}, "its keeper was killed"),
        ({"keeper": 2**22 - 1}, "its keeper was killed"),
    ],
)
def test_a_job_without_its_keeper_is_over_and_its_credentials_go(
    agent: Agent, said: dict[str, Any], reason: str
) -> None:
    folder = job(agent, "a.0", **said)
    (folder / "keeper.log").write_text("Traceback\nOSError: no space\n")
    assert {"a.0": ("ended", f"{reason}: OSError: no space")} == listed(agent)
    assert not (folder / "tls_key").exists()
    assert "ended" == json.loads((folder / "job.json").read_text())["state"]


def test_what_is_half_written_is_not_a_job(agent: Agent) -> None:
    (agent.place / "a.0").mkdir()
    (agent.place / "b.0").mkdir()
    (agent.place / "b.0" / "job.json").write_text('{"name": "b.')
    assert {} == listed(agent)


@pytest.mark.skipif(not boot(), reason="reads /proc")
def test_a_gpu_is_given_once_also_where_the_host_has_two_names(agent: Agent) -> None:
    agent.devices = ["0", "1", "2", "3"]
    job(agent, "a.0", devices=["0"])
    job(agent, "b.0", host="oak", devices=["1"])
    job(agent, "c.0", host="oak", devices=["2"], boot="another")
    assert ["2", "3"] == agent.free_devices(2)
    with pytest.raises(OSError, match="a job takes 3 GPUs, and 2 of 4 are free"):
        agent.free_devices(3)


def test_what_never_became_a_job_is_removed_after_a_day(agent: Agent) -> None:
    for name, ago_s in (("a.0", 60.0), ("b.0", 25 * 3600.0)):
        (agent.place / name).mkdir()
        (agent.place / name / "tls_key").write_text("secret")
        os.utime(agent.place / name, (time.time() - ago_s,) * 2)
    agent.sweep()
    assert ["a.0"] == [folder.name for folder in agent.place.iterdir()]


def test_ended_jobs_are_listed_for_an_hour_and_kept_for_a_day(agent: Agent) -> None:
    now_s = time.time()
    for name, ago_s in (("a.0", 60.0), ("b.0", 2 * 3600.0), ("c.0", 25 * 3600.0)):
        job(agent, name, state="ended", ended_s=now_s - ago_s)
    assert {"a.0"} == set(listed(agent))
    agent.sweep()
    assert {"a.0", "b.0"} == {folder.name for folder in agent.place.iterdir()}


def test_a_full_disk_refuses_the_job_in_a_sentence_and_leaves_nothing(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    running = job(agent, "a.0")
    monkeypatch.setattr(_remote, "write_private", full)
    wanted = {"name": "b.0", "id": "b.0@ann@fir", "cluster": "c", "workers": [["true"]]}
    said = {"low": {}, "high": {}, "secrets": {"tls_key": "x"}, "gpus": 0, "memory_bytes": 0, "limit_bytes": 0}
    assert {"refused": {"b.0": "No space left on device"}} == agent.start({**said, "jobs": [wanted]})
    assert [running] == list(agent.place.iterdir())


def test_private_files_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "first")
    write_private(path, "second")
    assert ("second", 0o600) == (path.read_text(), path.stat().st_mode & 0o777)
    assert [path] == list(tmp_path.iterdir())


def test_names_lead_nowhere_else(agent: Agent) -> None:
    assert {agent.place / "none"} == {agent.folder(name) for name in ("../x", "/etc/passwd", "", "..", "a/b")}


@pytest.mark.parametrize(("said", "found"), [("0, 2,GPU-1", ["0", "2", "GPU-1"]), ("", []), ("-1", [])])
def test_gpus_are_those_that_are_visible(said: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert found == _remote.find_devices()


def test_without_asyncssh_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['asyncssh'] = None\n"
        "from dask_adaptive import ConfigError, SSHCluster\n"
        "try:\n    SSHCluster(['fir'], host='127.0.0.1')\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'dask-adaptive[ssh]'" in done.stdout
