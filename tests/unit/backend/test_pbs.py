"""PBS Pro and OpenPBS: what is said, and everything that was recorded understood."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.recorded import answer, cases, recording

from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.pbs import Pbs
from dask_adaptive.errors import BackendError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import JobId, JobState, Request, Shape, Spec

PBS = Pbs(history=True)
SPEC = Spec("tcp://10.0.0.1:8786", Shape(workers=2, threads=4, memory_bytes=3 * 2**30))


def said(case: str) -> Answer:
    """A recorded answer, its job named by us."""
    found = answer("openpbs", case)
    return replace(found, stdout=found.stdout.replace("STDIN", "abcd1234"))


def recorded(program: str) -> list[str]:
    """The cases of a program that ended, without those that only tell the version."""
    found = [case for case in cases("openpbs") if "argv" in recording("openpbs", case)]
    every = {case: recording("openpbs", case) for case in found}
    return [case for case, about in every.items() if about["argv"][0] == program and about["exit"] is not None]


def test_it_is_a_dialect() -> None:
    assert isinstance(Pbs(), Dialect)


# --- what a job asks for -------------------------------------------------------------------------------------------


def head(spec: Spec, log: str = "/logs/abcd1234.%.log") -> list[str]:
    return [str(each) for each in PBS.directives(spec, log)]


def test_a_job_asks_for_what_its_workers_need() -> None:
    assert ["-l select=1:ncpus=8:mem=6144mb", "-j oe", "-o /logs/abcd1234.^array_index^.log"] == head(SPEC)


def test_everything_that_can_be_asked_for() -> None:
    request = Request(queue="long", account="p21", walltime_s=5400.5, cores=16, memory_bytes=2**30 + 1, nodes=2)
    assert [
        "-q long",
        "-A p21",
        "-l walltime=01:30:01",
        "-l select=2:ncpus=8:mem=513mb:ngpus=2",
        "-j oe",
        "-o /logs/abcd1234.^array_index^.log",
    ] == head(replace(SPEC, gpus=2, request=request))


def test_the_keys_by_which_a_user_replaces_a_line() -> None:
    request = Request(queue="long", account="p21", walltime_s=60)
    keys = [each.key for each in PBS.directives(replace(SPEC, request=request), "/logs/x.%.log")]
    assert ["-q", "-A", "-l walltime", "-l select", "-j", "-o"] == keys


@pytest.mark.parametrize("odd", ["a b", "a\tb", "'a'", '"a"', "a\\b", "a,b"])
def test_what_could_be_taken_for_two_values_is_refused(odd: str) -> None:
    with pytest.raises(Rejected, match="directive"):
        head(replace(SPEC, request=Request(queue=odd)))
    with pytest.raises(Rejected, match="directive"):
        head(SPEC, f"/{odd}/x.%.log")


# --- submitting ----------------------------------------------------------------------------------------------------


def test_an_array_is_submitted_and_named() -> None:
    call = PBS.submit("abcd1234", 10, "#!/bin/sh\n", SPEC)
    assert (("qsub", "-N", "abcd1234", "-J", "0-9"), "#!/bin/sh\n") == (call.argv, call.stdin)
    throttled = replace(SPEC, request=Request(throttle=2))
    assert ("qsub", "-N", "abcd1234", "-J", "0-9%2") == PBS.submit("abcd1234", 10, "", throttled).argv


def test_one_job_is_no_array_and_has_the_same_log() -> None:
    """``-J 0-0`` is refused (submit-array-one), and outside of an array no number is put into a path."""
    script = f"#PBS {head(SPEC)[-1]}\n"
    call = PBS.submit("abcd1234", 1, script, SPEC)
    assert (("qsub", "-N", "abcd1234"), "#PBS -o /logs/abcd1234.0.log\n") == (call.argv, call.stdin)
    assert "/logs/abcd1234.0.log" == PBS.log(JobId("7.pbshost"), "/logs/abcd1234.%.log")
    assert "/logs/abcd1234.12.log" == PBS.log(JobId("7[12].pbshost"), "/logs/abcd1234.%.log")


def test_the_ids_of_what_was_submitted() -> None:
    assert ["1.pbshost"] == PBS.submitted(said("submit-stdin"), 1)
    assert [f"10[{i}].pbshost" for i in range(10)] == PBS.submitted(said("submit-array-10"), 10)


@pytest.mark.parametrize("case", ["submit-stdin", "submit-terse", "version-qsub"])
def test_an_answer_without_the_id_of_an_array_is_not_understood(case: str) -> None:
    with pytest.raises(Garbled):
        PBS.submitted(said(case), 10)


def test_a_wrapper_may_say_more() -> None:
    wrapped = Answer(("qsub",), 0, "submitted to project <p21>\n10[].pbshost\nhave 99.5 of fun\n")
    assert ["10[0].pbshost", "10[1].pbshost"] == PBS.submitted(wrapped, 2)


REFUSED = {
    "daemon-down-submit": Unavailable,
    "daemon-down-submit-default": Unavailable,
    "submit-array-too-large": NoCapacity,
    "submit-bad-server": Unavailable,
}
"""What recorded refusals mean; all others are plain ones."""


@pytest.mark.parametrize("case", [case for case in recorded("qsub") if recording("openpbs", case)["exit"] != 0])
def test_a_refusal_is_one_and_says_why(case: str) -> None:
    with pytest.raises(BackendError) as caught:
        PBS.submitted(said(case), 1)
    assert REFUSED.get(case, Rejected) is type(caught.value)
    assert " ".join(said(case).stderr.split())[:60] in str(caught.value)


@pytest.mark.parametrize(
    "words", ["would exceed queue generic's per-user limit", "Maximum number of jobs already in queue"]
)
def test_a_limit_on_jobs_is_no_room_now(words: str) -> None:
    with pytest.raises(NoCapacity):
        PBS.submitted(Answer(("qsub",), 38, "", f"qsub: {words}\n"), 5)


# --- the list ------------------------------------------------------------------------------------------------------


def test_one_question_for_all_jobs() -> None:
    """Never with ``-x``: without a history it lists nothing, not even what runs, and exits 0."""
    assert [("qstat", "-t", "-f")] == [call.argv for call in PBS.query("tester")]
    assert "not configured" in said("nohistory-mixed-json").stderr
    assert 0 == said("nohistory-mixed-json").exit_code


def test_the_elements_of_an_array_are_listed_and_the_array_is_not() -> None:
    jobs = PBS.queried([said("status-array-elements-f")])
    assert [(f"10[{i}].pbshost", f"abcd1234.{i}") for i in range(10)] == [(job.id, job.name) for job in jobs]
    assert [JobState.RUNNING] * 4 + [JobState.QUEUED] * 6 == [job.state for job in jobs]
    assert {""} == {job.reason for job in jobs}


LISTED = {
    "status-pending-f": (JobState.QUEUED, "Not Running: Not enough free nodes available"),
    "status-held-f": (JobState.QUEUED, "held"),
    "status-exiting-f-exec-top": (JobState.RUNNING, ""),
    "status-suspended-f": (JobState.RUNNING, ""),  # its letter is R all the same
}


@pytest.mark.parametrize("case", LISTED)
def test_every_state_of_a_job_that_is_not_over(case: str) -> None:
    (job,) = PBS.queried([said(case)])
    assert (LISTED[case], None) == ((job.state, job.reason), job.exit_code)


def test_what_can_never_run_says_so() -> None:
    """Such requests are accepted, and wait for ever."""
    reasons = [job.reason for job in PBS.queried([said("status-never-runnable-f")])]
    assert "Can Never Run: Insufficient amount of resource: mem (R: 999gb A: 16gb T: 16gb)" == reasons[2]


def test_letters_that_were_not_recorded() -> None:
    """qstat(1B), "Job states"."""
    text = said("status-held-f")
    for letter, state, reason in [
        ("W", JobState.QUEUED, "waits for its time"),
        ("T", JobState.QUEUED, ""),
        ("E", JobState.ENDING, ""),
        ("S", JobState.RUNNING, "suspended"),
        ("U", JobState.RUNNING, "suspended"),
    ]:
        (job,) = PBS.queried([replace(text, stdout=text.stdout.replace("job_state = H", f"job_state = {letter}"))])
        assert (state, reason) == (job.state, job.reason)
    with pytest.raises(Garbled, match="unknown state 'Y'"):
        PBS.queried([replace(text, stdout=text.stdout.replace("job_state = H", "job_state = Y"))])


def test_jobs_of_others_are_not_ours() -> None:
    assert [] == PBS.queried([answer("openpbs", "status-array-elements-f")])
    assert [] == PBS.queried([answer("openpbs", "status-running-f")])  # dask-worker


@pytest.mark.parametrize(
    "case", ["daemon-down-status-all", "daemon-down-status", "status-mixed-states-f", "status-unknown-id-f"]
)
def test_a_list_that_an_error_came_with_is_none(case: str) -> None:
    with pytest.raises(Unavailable):
        PBS.queried([said(case)])


def test_a_variable_of_a_stranger_does_not_break_the_list() -> None:
    odd = 'Variable_List = EVIL="\x0b\x1c {"Jobs": [}\\,\n\tJob Id: 9.pbshost\n    job_state = ?'
    listed = said("status-pending-f")
    text = listed.stdout.replace("Variable_List = PBS_O_HOME=/home/tester", odd)
    (job,) = PBS.queried([replace(listed, stdout=text)])
    assert (JobId("26.pbshost"), "abcd1234.0") == (job.id, job.name)


def test_a_variable_without_a_value_does_not_break_the_list() -> None:
    listed = said("status-pending-f")
    text = listed.stdout.replace("    job_state = Q\n", "    comment = \n    job_state = Q\n")
    assert text != listed.stdout
    (job,) = PBS.queried([replace(listed, stdout=text)])
    assert (JobState.QUEUED, "") == (job.state, job.reason)


def test_an_exit_status_that_is_no_number_is_not_understood() -> None:
    ended = said("status-failed-xf")
    with pytest.raises(Garbled, match="the exit status 'three', which is no number"):
        PBS.recalled([replace(ended, stdout=ended.stdout.replace("Exit_status = 3", "Exit_status = three"))])


# --- how jobs ended ------------------------------------------------------------------------------------------------


ENDED = {
    "status-finished-xf": (0, "exit code 0"),
    "status-failed-xf": (3, "exit code 3"),
    "status-command-not-found-f": (127, "exit code 127"),
    "status-bad-interpreter-f": (127, "exit code 127"),
    "status-self-kill9-f": (137, "exit code 137"),
    "status-after-signal-KILL": (-15, "killed by signal 15"),
    "status-walltime-exceeded-f": (None, "walltime exceeded"),
    "status-cancelled-held-f": (None, "deleted before it ran"),
    "status-array-element-finished-while-array-runs-xf": (3, "exit code 3"),
}


@pytest.mark.parametrize("case", ENDED)
def test_how_a_job_ended(case: str) -> None:
    (job,) = PBS.recalled([said(case)])
    assert (JobState.ENDED, *ENDED[case]) == (job.state, job.exit_code, job.reason)


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("status-cancelled-running-f", -15),
        ("status-after-kill-f-exec-top", -15),
        ("status-after-kill-f-shell-parent", 143),
    ],
)
def test_who_deleted_a_running_job_is_told(case: str, code: int) -> None:
    (job,) = PBS.recalled([said(case)])
    assert (code, True) == (job.exit_code, job.reason.endswith("terminated by tester@pbshost"))


def test_an_element_that_was_deleted_did_not_fail() -> None:
    """Recorded as JSON (status-array-after-cancel-json): exit status 1, and the comment is "Subjob finished"."""
    listed = json.loads(said("status-array-after-cancel-json").stdout)["Jobs"]
    lines = [f"Job Id: {key}\n" + "".join(f"    {k} = {v}\n" for k, v in job.items()) for key, job in listed.items()]
    jobs = PBS.recalled([Answer(("qstat",), 0, "\n".join(lines))])
    assert [f"10[{i}].pbshost" for i in range(10)] == [job.id for job in jobs]
    assert "deleted" == jobs[0].reason
    assert "terminated by tester@pbshost" in jobs[3].reason
    assert [] == [job for job in jobs if "exit code" in job.reason]


def test_several_are_recalled_at_once_in_the_form_that_shows_them_all() -> None:
    """JSON shows the first of several ids only (status-mixed-states-xjson)."""
    assert '"27.pbshost"' in said("status-mixed-states-xjson").stdout
    assert '"30.pbshost"' not in said("status-mixed-states-xjson").stdout
    ids = [JobId("30.pbshost"), JobId("10[3].pbshost"), JobId("10[4].pbshost")]
    assert [("qstat", "-x", "-t", "-f", "30.pbshost", "10[].pbshost")] == [call.argv for call in PBS.recall(ids)]


def test_without_a_history_nothing_is_recalled() -> None:
    assert [] == Pbs(history=False).recall([JobId("30.pbshost")])


def test_what_lives_is_not_recalled_as_ended() -> None:
    assert [] == PBS.recalled([said("status-running-f"), said("status-held-f"), said("status-unknown-id-f")])


def test_what_the_server_can_do_is_asked() -> None:
    assert [("qstat", "-B", "-f"), ("id", "-un")] == [call.argv for call in Pbs().probe()]
    us = Answer(("id", "-un"), 0, "tester\n")
    assert (True, 10_000) == (lambda pbs: (pbs.history, pbs.largest))(Pbs().probed([said("history-duration"), us]))
    mute = replace(said("history-duration"), stdout="Server: pbshost\n")
    assert (False, 1000) == (lambda pbs: (pbs.history, pbs.largest))(Pbs().probed([mute, us]))
    with pytest.raises(Unavailable):
        Pbs().probed([said("daemon-down-status"), us])


def test_a_job_of_another_user_with_a_name_of_ours_is_not_ours() -> None:
    """The list has the jobs of all users. Not even a state that we do not know is looked at."""
    listed = said("status-held-f")
    site = Pbs().probed([said("history-duration"), Answer(("id", "-un"), 0, "tester\n")])
    assert 1 == len(site.queried([listed]))
    forged = listed.stdout.replace("Job_Owner = tester@", "Job_Owner = testers@").replace(
        "job_state = H", "job_state = ?"
    )
    assert forged.count("testers@") == 1
    assert [] == site.queried([replace(listed, stdout=forged)])
    over = said("status-finished-xf")
    assert site.recalled([over])
    assert [] == site.recalled([replace(over, stdout=over.stdout.replace("Job_Owner = tester@", "Job_Owner = other@"))])


# --- cancelling ----------------------------------------------------------------------------------------------------


ALIVE = {
    "cancel-garbage-id": Rejected,
    "cancel-no-args": Rejected,
    "cancel-other-users-job": Rejected,
    "daemon-down-cancel": Unavailable,
}
"""Recorded answers after which a job may live on; after all others none does."""


@pytest.mark.parametrize("case", recorded("qdel"))
def test_a_cancel_is_done_unless_a_job_may_live_on(case: str) -> None:
    if case not in ALIVE:
        PBS.cancelled([said(case)])
        return
    with pytest.raises(ALIVE[case]):
        PBS.cancelled([said("cancel-running"), said(case)])


def test_elements_are_cancelled_by_name_and_many_in_one_command() -> None:
    ids = [JobId(f"10[{i}].pbshost") for i in range(1200)]
    commands = [call.argv for call in PBS.cancel(ids)]
    assert [501, 501, 201] == [len(argv) for argv in commands]
    assert ids == [word for argv in commands for word in argv[1:]]
    assert [] == PBS.cancel([])
