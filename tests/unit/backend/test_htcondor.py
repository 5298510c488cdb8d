"""HTCondor: what is said, and everything that was recorded understood."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.recorded import answer, cases, recording

from dask_adaptive.backend.batch import BatchSystem
from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.htcondor import HTCondor
from dask_adaptive.errors import BackendError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Batch, JobId, JobState, Request, Shape, Spec

CONDOR = HTCondor()
SPEC = Spec("tcp://10.0.0.1:8786", Shape(workers=2, threads=4, memory_bytes=3 * 2**30))


def said(case: str) -> Answer:
    return answer("htcondor", case)


def named(case: str) -> Answer:
    """A recorded list, its jobs in a batch of ours: these were recorded without a name."""
    found = said(case)
    ads = json.loads(found.stdout or "[]")
    return replace(found, stdout=json.dumps([{**ad, "JobBatchName": "abcd1234"} for ad in ads]))


def recorded(program: str) -> list[str]:
    every = {case: recording("htcondor", case) for case in cases("htcondor")}
    return [
        case
        for case, about in every.items()
        if "argv" in about and about["argv"][0] == program and about["exit"] is not None
    ]


def listed(answers: Answer) -> list[tuple[Any, ...]]:
    return [(job.id, job.state, job.reason, job.exit_code) for job in CONDOR.queried([answers])]


def test_it_is_a_dialect_that_asks_for_nothing_first() -> None:
    assert isinstance(CONDOR, Dialect)
    assert [] == list(CONDOR.probe())
    assert CONDOR is CONDOR.probed([])


# --- submitting ----------------------------------------------------------------------------------------------------


def description(spec: Spec, count: int = 3) -> list[str]:
    return CONDOR.submit("abcd1234", count, "#!/bin/bash\n", spec).stdin.splitlines()


def test_a_batch_is_described_on_standard_input() -> None:
    """``condor_submit -`` submits nothing and exits 0 (submit-stdin-dash)."""
    call = CONDOR.submit("abcd1234", 3, "#!/bin/bash\nexit\n", SPEC)
    assert (("condor_submit",), {"script": "#!/bin/bash\nexit\n"}) == (call.argv, call.files)
    assert [
        "universe = vanilla",
        "batch_name = abcd1234",
        "executable = /bin/bash",
        "arguments = \" '{script}'\"",
        "transfer_executable = false",
        'environment = "DASK_ADAPTIVE_INDEX=$(Process)"',
        "request_cpus = 8",
        "request_memory = 6144",
        "job_max_vacate_time = 30",
        "periodic_remove = JobStatus == 5",
        "queue 3",
    ] == call.stdin.splitlines()


def test_everything_that_can_be_asked_for() -> None:
    request = Request(account="group_p21.ada", walltime_s=5400.5, cores=16, memory_bytes=2**30 + 1)
    lines = description(replace(SPEC, gpus=2, request=request))
    assert {
        "request_cpus = 16",
        "request_memory = 1025",
        "request_gpus = 4",
        "allowed_execute_duration = 5401",
        "accounting_group = group_p21.ada",
    } <= set(lines)


def test_a_users_lines_replace_ours_and_skipped_ones_are_left_out() -> None:
    own = ("Request_Memory = 7 GB", '+MyGroup = "a b"', "requirements = HasGlibc")
    lines = description(replace(SPEC, request=Request(directives=own, skip=("periodic_remove",))))
    assert [*own, "queue 3"] == lines[-4:]
    assert [] == [line for line in lines if line.startswith(("request_memory", "periodic_remove"))]


def test_the_interpreter_of_the_script_is_what_is_run() -> None:
    """What runs on top alone gets the signal of ``condor_rm``: a shell that becomes the worker."""
    lines = description(replace(SPEC, request=Request(shebang="#!/usr/bin/env -S bash -l")))
    assert {"executable = /usr/bin/env", "arguments = \"-S bash -l '{script}'\""} <= set(lines)


def test_the_description_is_shown_with_the_script() -> None:
    """``cluster.job_script()`` and ``dask adaptive script`` show what would be submitted, and refuse what would be."""
    system = BatchSystem(CONDOR, log_directory="/logs")
    shown = system.job_script(Batch("dask", "default", "abcd1234", 1, SPEC))
    assert shown.startswith("universe = vanilla\nbatch_name = abcd1234\n")
    assert '\nqueue 1\n\n#!/bin/bash\nexec >>/logs/abcd1234."$((${DASK_ADAPTIVE_INDEX:-0}))".log 2>&1\n' in shown
    with pytest.raises(Rejected, match="no queues"):
        system.job_script(Batch("dask", "default", "abcd1234", 1, replace(SPEC, request=Request(queue="long"))))


@pytest.mark.parametrize(
    "request_",
    [
        Request(queue="long"),
        Request(nodes=2),
        Request(throttle=5),
        Request(directives=("queue 5",)),
        Request(account="$(Process)"),
        Request(account='a"b'),
        Request(shebang="#!/bin/sh '"),
    ],
)
def test_what_cannot_be_said_is_refused(request_: Request) -> None:
    with pytest.raises(Rejected):
        CONDOR.submit("abcd1234", 1, "", replace(SPEC, request=request_))


def test_the_ids_of_what_was_submitted() -> None:
    """There is always something on standard error, which is no error."""
    assert [f"17.{i}" for i in range(10)] == CONDOR.submitted(said("submit-array-10"), 10)
    assert ["9.0"] == CONDOR.submitted(said("submit-stdin"), 1)
    assert "WARNING" in said("submit-unknown-command").stderr
    assert ["28.0"] == CONDOR.submitted(said("submit-unknown-command"), 1)


@pytest.mark.parametrize("case", ["submit-stdin-dash", "submit-dry-run", "version"])
def test_what_submitted_nothing_is_not_understood(case: str) -> None:
    assert 0 == said(case).exit_code
    with pytest.raises(Garbled):
        CONDOR.submitted(said(case), 1)


@pytest.mark.parametrize(
    "case", [case for case in recorded("condor_submit") if recording("htcondor", case)["exit"] != 0]
)
def test_a_refusal_is_one_and_says_why(case: str) -> None:
    with pytest.raises(BackendError) as caught:
        CONDOR.submitted(said(case), 1)
    assert (Unavailable if case == "daemon-down-submit" else Rejected) is type(caught.value)
    assert " ".join(said(case).stderr.split())[:60] in str(caught.value)


def test_a_limit_on_jobs_is_no_room_now() -> None:
    words = "ERROR: Number of submitted jobs would exceed MAX_JOBS_PER_OWNER"
    with pytest.raises(NoCapacity):
        CONDOR.submitted(Answer(("condor_submit",), 1, "", words), 5)


# --- the list ------------------------------------------------------------------------------------------------------


def test_one_question_for_the_queue_of_a_user() -> None:
    (call,) = CONDOR.query("ada")
    assert ("condor_q", "ada", "-json", "-attributes") == call.argv[:4]


def test_the_jobs_of_a_batch() -> None:
    jobs = CONDOR.queried([named("status-array-json")])
    assert [(f"17.{i}", f"abcd1234.{i}") for i in range(10)] == [(job.id, job.name) for job in jobs]
    assert [JobState.RUNNING] * 3 + [JobState.QUEUED] * 7 == [job.state for job in jobs]


def test_every_state_of_a_job() -> None:
    assert [
        ("40.0", JobState.ENDED, "held: submitted on hold at user's request", None),
        ("41.0", JobState.RUNNING, "", None),
        ("42.0", JobState.QUEUED, "", None),
        ("48.0", JobState.ENDED, "exit code 0", 0),
    ] == listed(named("status-mixed-states-json"))
    assert [("39.0", JobState.QUEUED, "no match found", None)] == listed(named("status-pending-json"))
    assert [("79.0", JobState.ENDING, "removed", None)] == listed(named("status-removing-json-exec-top"))


def test_what_is_on_hold_failed_and_says_why() -> None:
    """Nothing that goes wrong at start ends a job of HTCondor: it is held, and would stay for ever."""
    (held,) = [job for job in CONDOR.queried([named("status-hold-reasons-json")]) if job.state is JobState.ENDED]
    assert ("37.0", "held: The job exceeded allowed execute duration of 00:05") == (held.id, held.reason)
    assert [("41.0", JobState.ENDED, "held: via condor_hold (by user tester)", None)] == listed(
        named("status-held-by-user")
    )
    running = listed(named("status-walltime-exceeded"))  # has a reason already, and runs on for its grace
    assert [("81.0", JobState.RUNNING, "", None)] == running


@pytest.mark.parametrize(("status", "state", "reason"), [(6, JobState.ENDING, ""), (7, JobState.RUNNING, "suspended")])
def test_states_that_were_not_recorded_as_json(status: int, state: JobState, reason: str) -> None:
    found = named("status-removing-json-exec-top")
    text = found.stdout.replace('"JobStatus": 3', f'"JobStatus": {status}')
    assert [("79.0", state, reason, None)] == listed(replace(found, stdout=text))


@pytest.mark.parametrize("case", ["status-empty-json", "status-finished-json", "status-unknown-id-json"])
def test_nothing_at_all_is_an_empty_queue(case: str) -> None:
    """Not even ``[]`` is printed."""
    assert ("", 0) == (said(case).stdout, said(case).exit_code)
    assert [] == CONDOR.queried([said(case)])


def test_jobs_of_others_are_not_ours() -> None:
    assert [] == CONDOR.queried([said("status-array-json")])  # without a name
    assert [] == CONDOR.queried([said("status-running-json")])  # dask-worker


@pytest.mark.parametrize("case", ["daemon-down-status-json", "daemon-hung-schedd-status", "status-bad-option"])
def test_a_list_that_an_error_came_with_is_none(case: str) -> None:
    with pytest.raises(Unavailable):
        CONDOR.queried([said(case)])


@pytest.mark.parametrize(
    "text", ["[\n{", '{"a": 1}', '[{"JobBatchName": "abcd1234", "JobStatus": 9}]', "[1]", "-- Schedd"]
)
def test_what_is_no_list_is_not_understood(text: str) -> None:
    with pytest.raises(Garbled):
        CONDOR.queried([Answer(("condor_q",), 0, text)])


# --- how jobs ended ------------------------------------------------------------------------------------------------


def test_the_history_is_asked_for_what_left_the_queue() -> None:
    (call,) = CONDOR.recall([JobId("17.1"), JobId("17.2")])
    assert ("condor_history", "17.1", "17.2", "-limit", "2", "-json", "-attributes") == call.argv[:7]


def test_how_jobs_ended() -> None:
    jobs = CONDOR.recalled([named("history-mixed-json-attributes")])
    assert [
        ("45.0", -9, "killed by signal 9"),
        ("44.0", 3, "exit code 3"),
        ("43.0", 0, "exit code 0"),
    ] == [(job.id, job.exit_code, job.reason) for job in jobs]
    assert {JobState.ENDED} == {job.state for job in jobs}


def test_a_removed_job_says_by_whom() -> None:
    (job,) = CONDOR.recalled([named("history-cancelled-running-json")])
    assert (JobState.ENDED, "removed via condor_rm (by user tester)") == (job.state, job.reason)


def test_a_job_that_was_removed_for_being_held_says_why_it_was_held() -> None:
    found = named("history-cancelled-running-json")
    (ad,) = json.loads(found.stdout)
    ad |= {
        "RemoveReason": "The job attribute PeriodicRemove expression 'JobStatus == 5' evaluated to TRUE",
        "LastHoldReason": "Error from slot1@host: Failed to execute '/nope'",
    }
    (job,) = CONDOR.recalled([replace(found, stdout=json.dumps([ad]))])
    assert "held: Error from slot1@host: Failed to execute '/nope'" == job.reason


def test_what_the_history_does_not_know_is_left_out() -> None:
    assert [] == CONDOR.recalled([said("history-unknown-id-json")])
    assert [] == CONDOR.recalled([said("daemon-down-status-json")])


def test_where_the_output_of_a_job_is() -> None:
    assert "/logs/abcd1234.12.log" == CONDOR.log(JobId("17.12"), "/logs/abcd1234.%.log")


# --- cancelling ----------------------------------------------------------------------------------------------------


ALIVE = {
    "cancel-no-args": Rejected,
    "daemon-down-cancel": Unavailable,
    "daemon-hung-schedd-cancel": Unavailable,
}


@pytest.mark.parametrize("case", recorded("condor_rm"))
def test_a_cancel_is_done_unless_a_job_may_live_on(case: str) -> None:
    """A job that is gone and one of somebody else are the same word; we name ours only."""
    if case not in ALIVE:
        CONDOR.cancelled([said(case)])
        return
    with pytest.raises(ALIVE[case]):
        CONDOR.cancelled([said("cancel-running"), said(case)])


def test_a_cancel_that_was_not_allowed_is_not_done() -> None:
    words = "\nJob 17.1 not found\nPermission denied to remove job 17.2\n"
    with pytest.raises(Rejected):
        CONDOR.cancelled([Answer(("condor_rm",), 1, "", words)])


def test_jobs_are_cancelled_by_name_and_many_in_one_command() -> None:
    ids = [JobId(f"17.{i}") for i in range(1200)]
    assert ids == [word for call in CONDOR.cancel(ids) for word in call.argv[1:]]
    assert 2 == len(CONDOR.cancel(ids))
