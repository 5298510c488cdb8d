"""Batch systems that are not there print what the real ones were recorded printing, and run jobs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fakes.core import ENDED, HELD, PENDING, RUNNING, Fake, FakeJob, user
from tests.recorded import recording
from tests.waiting import soon

T0 = 1795187000.0
FRONTS = {"openpbs": "pbs:Pbs", "torque": "torque:Torque", "htcondor": "htcondor:HTCondor"}


def job(number: int, state: str = RUNNING, *, index: int | None = None, **what: Any) -> FakeJob:
    """A job like those of the recordings: submitted from /tmp/w with output there."""
    extra = {
        "options": {"o": "/tmp/w/", "e": "/tmp/w/", **what.pop("options", {})},
        "wanted": what.pop("wanted", {}),
        "variables": what.pop("variables", {}),
        "arguments": what.pop("arguments", "-o /tmp/w/ -e /tmp/w/"),
        "cwd": "/tmp/w",
        "said": what.pop("said", {}),
    }
    made = FakeJob(number, index, 1, "STDIN", "", state=state, submitted_s=T0, extra=extra)
    if state in (RUNNING, ENDED) and what.get("ran", True):
        made.started_s = T0 + 1
    if state == ENDED:
        made.ended_s, made.exit = T0 + 2, 0
    what.pop("ran", None)
    for name, value in what.items():
        setattr(made, name, value)
    return made


def run(
    directory: Path, manager: str, case: str, jobs: list[FakeJob], *, capacity: int = 0, **settings: Any
) -> list[str]:
    """What the front prints for the arguments of a recorded case."""
    fake = Fake(directory, FRONTS[manager], capacity=capacity, **settings)
    front = fake._front(directory)
    number = 1 + max((job.number for job in jobs), default=0)
    with front.state(start=False) as state:
        state.number, state.jobs = number, jobs
    program, *arguments = recording(manager, case)["argv"]
    done = subprocess.run(  # in a process of its own, as it will be
        [str(fake.bin / program), *arguments],
        input=recording(manager, case)["stdin"] or "",
        capture_output=True,
        text=True,
    )
    return [str(done.returncode), plain(done.stdout), plain(done.stderr)]


def expected(manager: str, case: str) -> list[str]:
    found = recording(manager, case)
    return [str(found["exit"]), plain(found["stdout"]), plain(found["stderr"])]


VOLATILE = [
    (r'\t+"resources_used":\t\{.*?\},\n', ""),
    (r"    resources_used\.\w+ = .*\n", ""),
    (r"<(resources_used|Walltime|Variable_List)>.*?</\1>|<(session_id|total_runtime|exec_host)>.*?</\2>", ""),
    (r"<(\w*time)>\d{10}</\1>", r"<\1>N</\1>"),
    (r'  "LastRejMatchReason": "no match found",\n', ""),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}", "DATE"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d at \d\d:\d\d", "WHEN"),
    (r'((?:timestamp|session_id)(?:":\t| = ))\d+', r"\1N"),
    (r'\t+"session_id":\tN,\n|    session_id = N\n', ""),
    (r'(exec_host(?:":\t| = ))[^\s,]+', r"\1X"),
    (r" +(\d\d:\d\d:\d\d|0) (?=[BRFXCQHW] )", " T "),
]


def plain(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(rf"\b{user()}\b", "tester", text)
    for pattern, instead in VOLATILE:
        text = re.sub(pattern, instead, text, flags=re.S if "resources_used" in pattern and "{" in pattern else 0)
    return text


WANTED = {"wanted": {"select": "1:ncpus=1"}, "arguments": "-o /tmp/w/ -e /tmp/w/ -l select=1:ncpus=1"}
ARRAY = {
    "options": {"J": "0-9"},
    "wanted": {"select": "1:ncpus=2"},
    "slots": 2,
    "arguments": "-J 0-9 -o /tmp/w/ -e /tmp/w/ -l select=1:ncpus=2",
}
PBS_CASES: dict[str, Callable[[], list[FakeJob]]] = {
    "status-finished-json": lambda: [job(32, ENDED)],
    "status-failed-xf-json": lambda: [job(283, ENDED, exit=3)],
    "status-failed-xf": lambda: [job(33, ENDED, exit=3)],
    "status-finished-json-without-x": lambda: [job(32, ENDED)],
    "status-held-f": lambda: [job(27, HELD, arguments="-o /tmp/w/ -e /tmp/w/ -h")],
    "status-array-elements-json": lambda: [job(10, RUNNING if i < 4 else PENDING, index=i, **ARRAY) for i in range(10)],
    "status-array-elements": lambda: [job(10, RUNNING if i < 4 else PENDING, index=i, **ARRAY) for i in range(10)],
    "status-mixed-states-xjson": lambda: [
        job(27, HELD, arguments="-o /tmp/w/ -e /tmp/w/ -h"),
        job(30),
        job(31),
        job(32),
        job(33),
    ],
    "status-unknown-id-json": list,
    "status-two-unknown-ids": list,
    "status-finished": lambda: [job(32, ENDED)],
    "status-running-json-no-f": lambda: [job(8)],
    "version": list,
    "cancel-unknown-id": list,
    "cancel-finished": lambda: [job(32, ENDED)],
    "cancel-garbage-id": list,
    "cancel-array-unknown-element": lambda: [job(10, PENDING, index=0, **ARRAY)],
    "cancel-several-with-unknown": lambda: [job(40, HELD), job(41, HELD)],
    "cancel-pending": lambda: [job(31, PENDING)],
    "submit-stdin": list,
    "submit-array-one": list,
    "submit-unknown-queue": list,
    "submit-name-with-space": list,
    "submit-array-too-large": list,
}


T_ARRAY = {
    "options": {"t": "0-9"},
    "wanted": {"nodes": "1:ppn=2"},
    "slots": 2,
    "arguments": "-t 0-9 -o /tmp/w/ -e /tmp/w/ -l nodes=1:ppn=2",
}
TORQUE_CASES: dict[str, Callable[[], list[FakeJob]]] = {
    "status-finished-xml": lambda: [t_job(22, ENDED)],
    "status-known-and-unknown-xml": lambda: [
        t_job(20, wanted={"nodes": "1:ppn=1"}, arguments="-o /tmp/w/ -e /tmp/w/ -l nodes=1:ppn=1")
    ],
    "status-array-elements": lambda: [t_job(8, RUNNING if i < 4 else PENDING, index=i, **T_ARRAY) for i in range(10)],
    "status-finished-after-keep-completed-xml": list,
    "version": list,
    "cancel-unknown-id": list,
    "cancel-two-unknown": list,
    "cancel-finished": lambda: [t_job(22, ENDED)],
    "cancel-garbage-id": list,
    "cancel-array-unknown-element": lambda: [t_job(8, PENDING, index=0, **T_ARRAY)],
    "cancel-array-element-finished": lambda: [t_job(8, ENDED, index=0, **T_ARRAY)],
    "cancel-several-with-unknown": lambda: [t_job(30, HELD), t_job(31, HELD)],
    "submit-array-one": lambda: [t_job(10)],
    "submit-stdin": lambda: [t_job(0)],
    "submit-unknown-queue": list,
    "submit-name-with-space": list,
}


def t_job(number: int, state: str = RUNNING, **what: Any) -> FakeJob:
    made = job(number, state, **what)
    suffix = "" if made.index is None else f"-{made.index}"
    made.output = f"/tmp/w/STDIN.o{number}{suffix}"
    return made


def c_job(number: int, index: int, state: str = RUNNING, **what: Any) -> FakeJob:
    return job(number, state, index=index, **what)


CONDOR_CASES: dict[str, Callable[[], list[FakeJob]]] = {
    "status-array-json": lambda: [c_job(17, i, RUNNING if i < 3 else PENDING) for i in range(10)],
    "status-pending-json": lambda: [c_job(39, 0, PENDING)],
    "status-held-json": lambda: [c_job(40, 0, HELD)],
    "status-removing-json-exec-top": lambda: [c_job(79, 0, RUNNING, cancelled=True)],
    "status-finished-json": lambda: [c_job(43, 0, ENDED)],
    "status-empty-json": list,
    "status-unknown-id-json": list,
    "status-known-and-unknown-json": lambda: [c_job(41, 0)],
    "history-mixed-json-attributes": lambda: [
        c_job(43, 0, ENDED),
        c_job(44, 0, ENDED, exit=3),
        c_job(45, 0, ENDED, exit=-9),
        c_job(46, 0, ENDED, exit=127),
    ],
    "history-known-and-unknown": lambda: [c_job(43, 0, ENDED)],
    "history-unknown-id-json": list,
    "cancel-unknown-id": list,
    "cancel-unknown-cluster-with-jobs-in-queue": lambda: [c_job(43, 0, PENDING)],
    "cancel-unknown-proc": list,
    "cancel-array-element-finished": lambda: [c_job(17, 0, ENDED), c_job(17, 1, PENDING)],
    "cancel-array-subset": lambda: [c_job(17, i, PENDING) for i in range(10)],
    "cancel-array-whole": lambda: [c_job(17, i, PENDING) for i in range(10)],
    "submit-no-executable": list,
    "submit-missing-executable": list,
    "submit-stdin": lambda: [c_job(8, 0)],
    "submit-queue-zero": lambda: [c_job(18, 0)],
}


@pytest.mark.parametrize("case", TORQUE_CASES)
def test_torque_prints_what_was_recorded(case: str, tmp_path: Path) -> None:
    assert expected("torque", case) == run(tmp_path, "torque", case, TORQUE_CASES[case]())


@pytest.mark.parametrize("case", CONDOR_CASES)
def test_htcondor_prints_what_was_recorded(case: str, tmp_path: Path) -> None:
    assert expected("htcondor", case) == run(tmp_path, "htcondor", case, CONDOR_CASES[case]())


@pytest.mark.parametrize("case", PBS_CASES)
def test_openpbs_prints_what_was_recorded(case: str, tmp_path: Path) -> None:
    assert expected("openpbs", case) == run(tmp_path, "openpbs", case, PBS_CASES[case](), history=True)


# --- jobs run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    made = Fake(tmp_path / "system", "pbs:Pbs", capacity=2, grace_s=0.5)
    with made.on_path():
        yield made


def qsub(script: str, *options: str) -> str:
    text = f"#!/bin/bash\n{script}\n"
    return subprocess.run(["qsub", *options], input=text, capture_output=True, text=True, check=True).stdout.strip()


def test_what_fits_runs_and_the_rest_follows(fake: Fake, tmp_path: Path) -> None:
    waits = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    qsub(f"echo $PBS_ARRAY_INDEX >{tmp_path}/$PBS_ARRAY_INDEX; {waits}; exit 3", "-J", "0-2")
    soon(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    assert [RUNNING, RUNNING, PENDING] == [each.state for each in fake.jobs()]
    (tmp_path / "go").touch()
    soon(lambda: not fake.left())
    assert [3, 3, 3] == [each.exit for each in fake.jobs()]
    assert "2\n" == (tmp_path / "2").read_text()


def test_a_cancel_is_felt_and_then_enforced(fake: Fake, tmp_path: Path) -> None:
    stubborn = qsub(f"trap 'echo told >{tmp_path}/told' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done")
    soon((tmp_path / "up").exists)
    subprocess.run(["qdel", stubborn], check=True)
    soon(lambda: not fake.left())
    assert "told\n" == (tmp_path / "told").read_text()
    assert (-signal.SIGKILL, True) == (fake.jobs()[0].exit, fake.jobs()[0].cancelled)


def test_a_job_over_its_time_is_ended(fake: Fake) -> None:
    qsub("sleep 1000", "-l", "walltime=00:00:01")
    soon(lambda: not fake.left())
    assert fake.jobs()[0].overran


def test_a_job_that_a_machine_lost_is_started_again_where_that_is_said(fake: Fake, tmp_path: Path) -> None:
    qsub(f"echo >>{tmp_path}/starts; sleep 1000")
    soon((tmp_path / "starts").exists)
    assert 1 == fake.kill(requeue=True)
    soon(lambda: 2 == len((tmp_path / "starts").read_text().splitlines()))
    assert 1 == fake.kill()
    soon(lambda: not fake.left())


def test_faults_are_switched_on_and_off(fake: Fake) -> None:
    fake.fault(down=["submit"])
    assert 162 == subprocess.run(["qsub"], input="", capture_output=True, text=True).returncode
    fake.fault(reject="over-limit-walltime")
    assert 188 == subprocess.run(["qsub"], input="", capture_output=True, text=True).returncode
    for hangs, done in (("hang", lambda: len(fake.calls("submit")) == 3), ("lost", lambda: len(fake.jobs()) == 1)):
        fake.fault(**{hangs: ["submit"]})
        with subprocess.Popen(["qsub"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asked:
            assert asked.stdin is not None
            asked.stdin.write("sleep 1000")
            asked.stdin.close()
            soon(done)
            with pytest.raises(subprocess.TimeoutExpired):
                asked.wait(1)
            asked.kill()
    assert 1 == len(fake.jobs())  # it was lost only on the way back
    fake.fault(late_s=1000)
    assert "" == subprocess.run(["qstat"], capture_output=True, text=True, check=True).stdout
    fake.fault()
    assert "1.pbshost" in subprocess.run(["qstat"], capture_output=True, text=True, check=True).stdout
    assert 4 == len(fake.calls("submit"))


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with Fake(tmp_path / "system", "pbs:Pbs").on_path() as fake:
        qsub("sleep 1000")
        soon(lambda: fake.jobs()[0].pid)
        group = fake.jobs()[0].pid
    soon(lambda: not fake.left() and gone(group))


def gone(process: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE  # where nobody asks how it ended
    return True
