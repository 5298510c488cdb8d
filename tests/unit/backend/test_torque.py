"""Torque: what is said otherwise than to PBS, and everything that was recorded understood."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.recorded import answer, cases, recording

from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.torque import Torque
from dask_adaptive.errors import BackendError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import JobId, JobState, Request, Shape, Spec

TORQUE = Torque()
SPEC = Spec("tcp://10.0.0.1:8786", Shape(workers=2, threads=4, memory_bytes=3 * 2**30))


def said(case: str) -> Answer:
    found = answer("torque", case)
    return replace(found, stdout=found.stdout.replace("STDIN", "abcd1234"))


def recorded(program: str) -> list[str]:
    every = {case: recording("torque", case) for case in cases("torque")}
    return [
        case
        for case, about in every.items()
        if "argv" in about and about["argv"][0] == program and about["exit"] is not None
    ]


def test_it_is_a_dialect_that_asks_who_we_are() -> None:
    assert isinstance(TORQUE, Dialect)
    assert [("id", "-un")] == [call.argv for call in TORQUE.probe()]
    assert "tester" == TORQUE.probed([Answer(("id", "-un"), 0, "tester\n")]).user


def test_a_job_of_another_user_with_a_name_of_ours_is_not_ours() -> None:
    """The list has the jobs of all users."""
    site, listed = TORQUE.probed([Answer(("id", "-un"), 0, "tester\n")]), said("status-array-elements-xml")
    assert 10 == len(site.queried([listed]))
    forged = listed.stdout.replace("<Job_Owner>tester@", "<Job_Owner>somebody@", 3)
    assert 7 == len(site.queried([replace(listed, stdout=forged)]))


def test_a_job_asks_in_words_of_torque() -> None:
    request = Request(queue="batch", walltime_s=300, nodes=2)
    asked = TORQUE.directives(replace(SPEC, gpus=1, request=request), "/logs/abcd1234.%.log")
    assert [
        "-q batch",
        "-l walltime=00:05:00",
        "-l nodes=2:ppn=4:gpus=1",
        "-l mem=6144mb",
        "-j oe",
        "-o /logs/",
    ] == [str(each) for each in asked]
    bare = Spec("tcp://10.0.0.1:8786")
    assert ["-l nodes=1:ppn=1", "-j oe", "-o /logs/"] == [
        str(each) for each in TORQUE.directives(bare, "/logs/x.%.log")
    ]


def test_where_the_output_of_an_element_is() -> None:
    """As in status-array-elements-xml: STDIN.o8-3, in the folder that was asked for."""
    assert "torquehost:/tmp/w/abcd1234.o8-1<" in said("status-array-elements-xml").stdout
    assert "/tmp/w/abcd1234.o8-1" == TORQUE.log(JobId("8[1].torquehost"), "/tmp/w/abcd1234.%.log")
    assert "/tmp/w/abcd1234.o8" == TORQUE.log(JobId("8.torquehost"), "/tmp/w/abcd1234.%.log")


def test_an_array_of_one_is_an_array() -> None:
    assert ("qsub", "-N", "abcd1234", "-t", "0-0") == TORQUE.submit("abcd1234", 1, "", SPEC).argv
    throttled = replace(SPEC, request=Request(throttle=3))
    assert ("qsub", "-N", "abcd1234", "-t", "0-9%3") == TORQUE.submit("abcd1234", 10, "", throttled).argv
    assert ["11[0].torquehost"] == TORQUE.submitted(said("submit-array-one"), 1)
    assert [f"8[{i}].torquehost" for i in range(10)] == TORQUE.submitted(said("submit-array-10"), 10)


def test_arrays_stay_small() -> None:
    """One of 500 could not be deleted within 300 s (cancel-array-500-hangs)."""
    assert recording("torque", "cancel-array-500-hangs")["exit"] is None
    assert TORQUE.largest < 500


REFUSED = {
    "daemon-down-submit": Unavailable,
    "daemon-hung-submit": Unavailable,
    "submit-array-too-large": NoCapacity,
    "submit-bad-server": Unavailable,
}


@pytest.mark.parametrize("case", [case for case in recorded("qsub") if recording("torque", case)["exit"] != 0])
def test_a_refusal_is_one_and_says_why(case: str) -> None:
    with pytest.raises(BackendError) as caught:
        TORQUE.submitted(said(case), 1)
    assert REFUSED.get(case, Rejected) is type(caught.value)
    assert " ".join(said(case).stderr.split())[:60] in str(caught.value)


# --- the list ------------------------------------------------------------------------------------------------------


def test_one_question_for_all_elements() -> None:
    """With the id of an array and without ``-t``, every job is listed (status-array-xml)."""
    assert [("qstat", "-t", "-x")] == [call.argv for call in TORQUE.query("tester")]


def test_elements_have_their_number_behind_the_name() -> None:
    jobs = TORQUE.queried([said("status-array-elements-xml")])
    assert [(f"8[{i}].torquehost", f"abcd1234.{i}") for i in range(10)] == [(job.id, job.name) for job in jobs]
    assert [JobState.RUNNING] * 4 + [JobState.QUEUED] * 6 == [job.state for job in jobs]
    assert "Not Running: Not enough of the right type of nodes are available" == jobs[4].reason


def test_every_state_of_a_job() -> None:
    jobs = TORQUE.queried([said("status-mixed-states-xml")])  # one document for each id
    assert [
        ("17.torquehost", JobState.QUEUED, "held", None),
        ("20.torquehost", JobState.RUNNING, "", None),
        ("21.torquehost", JobState.QUEUED, "held", None),
        ("22.torquehost", JobState.ENDED, "exit code 0", 0),
        ("23.torquehost", JobState.ENDED, "exit code 3", 3),
    ] == [(job.id, job.state, job.reason, job.exit_code) for job in jobs]


def with_status(status: str) -> Answer:
    found = said("status-finished-xml")
    return replace(found, stdout=found.stdout.replace("<exit_status>0</exit_status>", status))


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        ("<exit_status>271</exit_status>", -15, "killed by signal 15"),  # status-after-kill-f-exec-top
        ("<exit_status>-11</exit_status>", None, "walltime exceeded"),  # status-walltime-exceeded-f
        ("<exit_status>-3</exit_status>", None, "ended by the batch system (status -3)"),
        ("", None, "Job started on Fri Nov 20 at 15:38"),  # what there is
    ],
)
def test_how_a_job_ended(status: str, code: int | None, reason: str) -> None:
    (job,) = TORQUE.queried([with_status(status)])
    assert (JobState.ENDED, code, reason) == (job.state, job.exit_code, job.reason)


def test_a_job_that_was_deleted_before_it_ran_says_so() -> None:
    found = with_status("")
    bare = found.stdout.replace("<comment>Job started on Fri Nov 20 at 15:38</comment>", "")
    (job,) = TORQUE.queried([replace(found, stdout=bare)])
    assert "deleted before it ran" == job.reason


def test_jobs_of_others_are_not_ours_and_arrays_are_not_elements() -> None:
    assert [] == TORQUE.queried([answer("torque", "status-all-xml")])
    listed = TORQUE.queried([said("status-array-xml")])
    assert [] == [job for job in listed if "[]" in job.id]


def test_nothing_at_all_is_an_empty_list() -> None:
    assert [] == TORQUE.queried([Answer(("qstat", "-t", "-x"), 0)])


def test_a_part_of_a_list_is_none() -> None:
    found = said("status-mixed-states-xml")
    with pytest.raises(Garbled):
        TORQUE.queried([replace(found, stdout=found.stdout[: len(found.stdout) // 2])])


@pytest.mark.parametrize("case", ["daemon-down-status-xml", "daemon-hung-status-xml", "status-known-and-unknown-xml"])
def test_a_list_that_an_error_came_with_is_none(case: str) -> None:
    with pytest.raises(Unavailable):
        TORQUE.queried([said(case)])


def test_a_variable_of_a_stranger_does_not_break_the_list() -> None:
    found = said("status-mixed-states-xml")
    odd = found.stdout.replace("PBS_O_LANG=C.UTF-8", "EVIL=\x01\x0b&nonsense;")
    assert TORQUE.queried([found]) == TORQUE.queried([replace(found, stdout=odd)])


def test_there_is_no_history() -> None:
    assert [] == list(TORQUE.recall([JobId("8[1].torquehost")]))
    assert [] == list(TORQUE.recalled([]))


# --- cancelling ----------------------------------------------------------------------------------------------------


ALIVE = {
    "cancel-array-subset-brackets": Rejected,
    "cancel-force": Rejected,
    "cancel-garbage-id": Rejected,
    "cancel-no-args": Rejected,
    "cancel-other-users-job": Rejected,
    "daemon-down-cancel": Unavailable,
    "daemon-hung-cancel": Unavailable,
}


@pytest.mark.parametrize("case", recorded("qdel"))
def test_a_cancel_is_done_unless_a_job_may_live_on(case: str) -> None:
    if case not in ALIVE:
        TORQUE.cancelled([said(case)])
        return
    with pytest.raises(ALIVE[case]):
        TORQUE.cancelled([said("cancel-running"), said(case)])


def test_elements_are_cancelled_by_name() -> None:
    ids = [JobId("8[1].torquehost"), JobId("9[2].torquehost")]
    assert [("qdel", *ids)] == [call.argv for call in TORQUE.cancel(ids)]
