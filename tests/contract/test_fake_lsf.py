"""The LSF that is not there prints what OpenLava was recorded printing."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.core import ENDED, HELD, PENDING, RUNNING, Fake, FakeJob, user
from tests.recorded import recording


def job(number: int, state: str, index: int | None = None, *, name: str = "arr", slots: int = 2) -> FakeJob:
    made = FakeJob(number, index, 1, name, "", slots=slots, state=state, submitted_s=time.time())
    made.extra = {"queue": "normal", "variables": {}, "script": "#!/bin/bash\nexit 3\n"}
    if state in (RUNNING, ENDED):
        made.started_s = time.time()
    if state == ENDED:
        made.ended_s, made.exit = time.time(), 3
    return made


ARRAY = [job(106, RUNNING if index < 5 else PENDING, index) for index in (2, 1, 4, 3, 5, 6, 7, 8, 9, 10)]
CASES: dict[str, Callable[[], list[FakeJob]]] = {
    "status-array-noheader": lambda: ARRAY,
    "status-exec-host-pending-w-noheader": lambda: [job(192, HELD, name="#!/bin/bash;sleep 30")],
    "status-empty": list,
    "status-unknown-id": list,
    "status-json-unsupported": list,
    "cancel-array-whole": lambda: ARRAY,
    "cancel-array-subset": lambda: ARRAY,
    "cancel-array-element-unknown": lambda: ARRAY,
    "cancel-finished": lambda: [job(154, ENDED)],
    "cancel-several-with-unknown": lambda: [job(163, PENDING), job(164, PENDING)],
    "cancel-unknown-id": list,
    "cancel-garbage-id": list,
    "submit-array-10": lambda: [job(105, PENDING)],
    "submit-array-too-large": list,
    "submit-unknown-queue": list,
}


@pytest.mark.parametrize("case", CASES)
def test_lsf_prints_what_was_recorded(case: str, tmp_path: Path) -> None:
    fake = Fake(tmp_path, "lsf:Lsf", capacity=0)
    with fake._front(tmp_path).state(start=False) as state:
        state.jobs = CASES[case]()
        state.number = 1 + max((job.number for job in state.jobs), default=100)
    about = recording("lsf", case)
    program, *arguments = about["argv"]
    done = subprocess.run([fake.bin / program, *arguments], input=about["stdin"], capture_output=True, text=True)
    assert [about["exit"], plain(about["stdout"]), plain(about["stderr"])] == [
        done.returncode,
        plain(done.stdout),
        plain(done.stderr),
    ]


def plain(text: str) -> str:
    """Without what differs from run to run: who, and when."""
    text = re.sub(rf"\b({user()}|tester) +", "SOMEBODY ", text)
    return re.sub(r"[A-Z][a-z]{2} \d\d \d\d:\d\d", "THEN", text)


def test_a_finished_job_in_long_form_is_broken_as_recorded(tmp_path: Path) -> None:
    """At 79 columns, and on behind 21 blanks."""
    fake = Fake(tmp_path, "lsf:Lsf", capacity=0)
    with fake._front(tmp_path).state(start=False) as state:
        state.jobs = [job(155, ENDED, 3, name="abcd1234")]
    said = subprocess.run([fake.bin / "bjobs", "-l", "155[3]"], capture_output=True, text=True).stdout
    assert all(len(line) <= 79 for line in said.splitlines())
    assert "Exited with exit code 3. The CPU time used is 0.0 seconds." in said.replace("\n" + " " * 21, "")
    recorded = recording("lsf", "status-failed-l")["stdout"]
    assert {79} == {len(text.split("\n")[1]) for text in (said, recorded)}
