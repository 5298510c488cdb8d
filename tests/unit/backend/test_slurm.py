"""Slurm's language, held against what the real programs said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.recorded import answer, cases

from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.slurm import Slurm
from dask_adaptive.errors import (
    Ambiguous,
    BackendError,
    Garbled,
    NoCapacity,
    Rejected,
    Throttled,
    Unavailable,
)
from dask_adaptive.model import Job, JobId, JobState, Request, Shape, Spec

SLURM = Slurm()


def said(stderr: str, exit_code: int = 1) -> Answer:
    return Answer(("sbatch",), exit_code, "", stderr)


def test_it_is_a_dialect() -> None:
    assert isinstance(SLURM, Dialect)


# --- submit -------------------------------------------------------------------------------------------------------


def test_many_jobs_are_one_array() -> None:
    call = SLURM.submit("abcdefgh", 20, "#!/bin/sh\n", Spec("tcp://h:1", request=Request(throttle=5)))
    assert ("sbatch", "--parsable", "-J", "abcdefgh", "--array=0-19%5") == call.argv
    assert "#!/bin/sh\n" == call.stdin


def test_the_ids_are_those_of_the_elements() -> None:
    assert ["8_0", "8_1", "8_2"] == SLURM.submitted(answer("slurm", "submit-stdin-parsable"), 3)


@pytest.mark.parametrize("stdout", ["7;cluster\n", "Welcome to Stampede2!\n7\n"])
def test_the_id_is_told_from_other_words(stdout: str) -> None:
    assert ["7_0"] == SLURM.submitted(Answer(("sbatch",), 0, stdout), 1)


@pytest.mark.parametrize("stdout", ["", "Stampede2 2\n", "1\n2\n"])
def test_no_id_is_not_guessed(stdout: str) -> None:
    with pytest.raises(Garbled):
        SLURM.submitted(Answer(("sbatch",), 0, stdout), 1)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("submit-array-too-large", NoCapacity),
        ("submit-unknown-partition", Rejected),
        ("submit-too-much-memory", Rejected),
        ("submit-unknown-option", Rejected),
        ("submit-no-shebang", Rejected),
        ("submit-bad-gres", Rejected),
        ("daemon-down-submit", Unavailable),
        ("daemon-hung-submit", Ambiguous),
    ],
)
def test_a_refused_submit(case: str, error: type[BackendError]) -> None:
    heard = answer("slurm", case)
    with pytest.raises(error) as raised:
        SLURM.submitted(heard, 3)
    assert error is type(raised.value)
    assert heard.stderr.split()[-1] in str(raised.value), "with its own words"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)",
            NoCapacity,
        ),
        ("sbatch: error: AssocMaxSubmitJobLimit", NoCapacity),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Throttled),
        ("sbatch: error: Batch job submission failed: Resource temporarily unavailable", Throttled),
    ],
)
def test_limits_that_could_not_be_recorded_here(words: str, error: type[BackendError]) -> None:
    """The words are those of slurm_errno.c."""
    with pytest.raises(error):
        SLURM.submitted(said(words), 3)


# --- directives ---------------------------------------------------------------------------------------------------


def test_what_a_job_asks_for() -> None:
    spec = Spec(
        "tcp://h:1",
        Shape(workers=2, threads=3, memory_bytes=1_500_000_000),
        gpus=1,
        request=Request(queue="gpu fast", account="a#1", walltime_s=90_061),
    )
    expected = [
        "-p 'gpu fast'",
        "-A 'a#1'",
        "-t 1-01:02:00",
        "-n 1",
        "--cpus-per-task=6",
        "--mem=2862M",
        "--gres=gpu:2",
        "-o /logs/abcdefgh.%a.log",
        "--open-mode=append",
    ]
    assert expected == [str(each) for each in SLURM.directives(spec, "/logs/abcdefgh.%.log")]


def test_what_is_not_said_is_left_to_the_site() -> None:
    keys = [each.key for each in SLURM.directives(Spec("tcp://h:1"), "/l/x.%.log")]
    assert ["-n", "--cpus-per-task", "-o", "--open-mode"] == keys


def test_a_launcher_gets_a_task_for_each_worker() -> None:
    spec = Spec("tcp://h:1", Shape(workers=4, threads=2, memory_bytes=2**30), request=Request(nodes=2, launcher="srun"))
    found = [str(each) for each in SLURM.directives(spec, "/l/x.%.log")]
    assert ["-N 2", "-n 4", "--cpus-per-task=2", "--mem=2048M"] == found[:4]


# --- the list -----------------------------------------------------------------------------------------------------


def test_one_question_for_all_jobs_of_the_user() -> None:
    (call,) = SLURM.query("tester")
    assert ("squeue", "-h", "-r", "-t", "all", "-u", "tester", "-a", "-O") == call.argv[:9]


def test_every_state() -> None:
    jobs = {job.id: job for job in SLURM.queried([answer("slurm", "status-user-all-Oformat")])}

    def job(number: str, name: str, state: str, reason: str = "", code: int | None = None, left_s: float | None = None):
        return Job(JobId(number), name, JobState(state), reason, code, left_s)

    day_s, hour_s = 86400.0, 3600.0
    expected = [
        job("1_0", "abcdefgh.0", "ended", "", 0),
        job("1_1", "abcdefgh.1", "ended", "exit code 3", 3),
        job("1_2", "abcdefgh.2", "ended", "JobLaunchFailure", 137),
        job("1_3", "abcdefgh.3", "ended", "CANCELLED"),
        job("1_4", "abcdefgh.4", "running", "SUSPENDED"),
        job("1_5", "abcdefgh.5", "running", left_s=day_s + 2 * hour_s - 3),
        job("1_6", "abcdefgh.6", "running", left_s=day_s + 2 * hour_s - 2),
        job("1_7", "abcdefgh.7", "running", left_s=day_s + 2 * hour_s - 2),
        job("2_0", "bcdefghi.0", "ending", "COMPLETING"),
        job("2_1", "bcdefghi.1", "running", left_s=365 * day_s - 3),
        job("3_0", "cdefghij.0", "queued", "BeginTime; expected to start 2026-11-21T01:19"),
        job("4_0", "defghijk.0", "queued", "JobHeldUser"),
        job("5_0", "efghijkl.0", "queued", "Resources; expected to start 2027-11-21T00:19"),
        job("7_0", "fghijklm.0", "queued", "BeginTime; expected to start 2026-11-21T00:21"),
    ]
    assert expected == [jobs[number] for number in sorted(jobs)]


@pytest.mark.parametrize("case", ["daemon-down-status", "daemon-hung-status", "status-bad-user"])
def test_no_list_is_not_an_empty_list(case: str) -> None:
    with pytest.raises(Unavailable):
        SLURM.queried([answer("slurm", case)])


def test_an_unknown_state_is_not_guessed() -> None:
    heard = answer("slurm", "status-user-all-Oformat")
    with pytest.raises(Garbled, match="BAFFLED"):
        SLURM.queried([replace(heard, stdout=heard.stdout.replace("RUNNING", "BAFFLED"))])


# --- how jobs ended -----------------------------------------------------------------------------------------------

SACCT = """9_0|abcdefgh|0:0|COMPLETED
9_1|abcdefgh|2:0|FAILED
9_2|abcdefgh|0:15|CANCELLED by 1000
9_3|abcdefgh|0:0|RUNNING
9_4|analysis of it|1:0|FAILED
"""


def test_how_jobs_ended() -> None:
    """The form is that of sacct(1), "--parsable2"."""
    found = {job.id: (job.name, job.reason, job.exit_code) for job in SLURM.recalled([Answer(("sacct",), 0, SACCT)])}
    expected = {
        "9_0": ("abcdefgh.0", "", 0),
        "9_1": ("abcdefgh.1", "exit code 2", 2),
        "9_2": ("abcdefgh.2", "CANCELLED", None),
    }
    assert expected == found


def test_nobody_asks_a_site_without_accounting() -> None:
    learned = SLURM.probed([answer("slurm", "config")])
    assert (1001, False) == (learned.largest, learned.accounting)
    assert [] == list(learned.recall([JobId("9_0")]))
    assert "9_0,9_1" in replace(learned, accounting=True).recall([JobId("9_0"), JobId("9_1")])[0].argv
    assert [] == list(learned.recalled([answer("slurm", "sacct-disabled")]))


def test_a_site_without_arrays_gets_single_jobs() -> None:
    config = answer("slurm", "config")
    learned = SLURM.probed([replace(config, stdout=config.stdout.replace("= 1001", "= 0"))])
    assert 1 == learned.largest
    assert ("sbatch", "--parsable", "-J", "abcdefgh") == learned.submit("abcdefgh", 1, "", Spec("tcp://h:1")).argv
    assert ["8"] == learned.submitted(answer("slurm", "submit-stdin-parsable"), 1)
    assert "-o /l/x.0.log" in [str(each) for each in learned.directives(Spec("tcp://h:1"), "/l/x.%.log")]
    assert "/l/x.0.log" == learned.log(JobId("8"), "/l/x.%.log")


@pytest.mark.parametrize("case", ["daemon-down-scontrol", "daemon-hung-scontrol"])
def test_a_site_that_is_down_is_asked_again(case: str) -> None:
    with pytest.raises(Unavailable):
        SLURM.probed([answer("slurm", case)])


def test_a_site_that_does_not_answer_questions_has_the_usual_limits() -> None:
    assert SLURM == SLURM.probed([said("scontrol: error: Access/permission denied")])


# --- cancel -------------------------------------------------------------------------------------------------------


def test_one_command_ends_all() -> None:
    (call,) = SLURM.cancel([JobId("9_0"), JobId("8"), JobId("9_4")])
    assert ("scancel", "9_[0,4]", "8") == call.argv


@pytest.mark.parametrize("case", ["cancel-running", "cancel-unknown-id", "cancel-several"])
def test_a_cancel_that_did_what_it_should(case: str) -> None:
    SLURM.cancelled([answer("slurm", case)])


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("daemon-down-cancel", Unavailable),
        ("daemon-hung-cancel", Unavailable),
        ("cancel-other-users-job", Rejected),
        ("cancel-garbage-id", Unavailable),
    ],
)
def test_a_cancel_that_failed(case: str, error: type[BackendError]) -> None:
    with pytest.raises(error):
        SLURM.cancelled([answer("slurm", case)])


def test_every_recording_is_used() -> None:
    source = Path(__file__).read_text()
    assert [] == [case for case in cases("slurm") if f'"{case}"' not in source]
