"""Grid Engine: what is said to it, and everything that was recorded understood."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from tests.recorded import answer, cases, recording

from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.sge import Sge
from dask_adaptive.errors import Ambiguous, BackendError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import JobId, JobState, Request, Shape, Spec

SGE = Sge()
BARE = Spec("tcp://10.0.0.1:8786")
LOG = "/logs/abcd1234.%.log"
QUEUED, RUNNING, ENDING, ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDING, JobState.ENDED


def said(case: str) -> Answer:
    """A recording in which jobs have a name of ours and are all arrays."""
    found = answer("sge", case)
    text = re.sub(r"STDIN|job\.sh|dask-worker|sleep(?=<)", "abcd1234", found.stdout)
    text = re.sub(r"(</slots>)(\s*</job_list>)", r"\1<tasks>1</tasks>\2", text)
    return replace(found, stdout=text.replace("taskid       undefined", "taskid       1"))


def recorded(program: str, *options: str) -> list[str]:
    found = {case: recording("sge", case).get("argv") or [""] for case in cases("sge")}
    return [case for case, argv in found.items() if argv[0] == program and set(options) <= set(argv)]


def asked(spec: Spec, dialect: Sge = SGE) -> list[str]:
    return [str(each) for each in dialect.directives(spec, LOG)]


def test_it_is_a_dialect() -> None:
    assert isinstance(SGE, Dialect)


# --- what a site is ------------------------------------------------------------------------------------------------


def test_a_site_is_asked_what_it_has() -> None:
    assert [("qconf", "-spl"), ("qconf", "-sc"), ("qconf", "-sconf")] == [call.argv for call in SGE.probe()]
    names = ("probe-parallel-environments", "probe-complexes", "global-config")
    site = SGE.probed([said(case) for case in names])
    assert (("smp",), 75_000, 20.0) == (site.environments, site.largest, site.lag_s)
    assert ("NO", "YES") == (site.consumable["mem_free"], site.consumable["slots"])


def test_accounting_that_is_written_sooner_is_waited_for_less() -> None:
    said = Answer((), 0, "max_aj_tasks  0\nreporting_params  accounting=true flush_time=00:01:02 joblog=false\n")
    site = SGE.probed([Answer((), 1), Answer((), 1), said])
    assert (67.0, 75_000) == (site.lag_s, site.largest), "0: without limit"


def test_a_site_that_does_not_let_us_look_is_taken_as_usual() -> None:
    assert SGE == SGE.probed([Answer((), 1, "", "denied: host is neither submit nor admin host")] * 3)


# --- what a job asks for -------------------------------------------------------------------------------------------


def test_a_job_asks_for_what_is_set() -> None:
    assert ["-S /bin/bash", "-cwd", "-notify", "-j y", "-o /logs/abcd1234.$TASK_ID.log"] == asked(BARE)
    shape = Shape(workers=2, threads=4, memory_bytes=3 * 2**30)
    request = Request(queue="all.q", account="physics", walltime_s=90.5)
    assert [
        "-S /bin/bash",
        "-cwd",
        "-notify",
        "-j y",
        "-o /logs/abcd1234.$TASK_ID.log",
        "-q all.q",
        "-P physics",
        "-l h_rt=91",
        "-pe smp 8",
        "-l mem_free=6144M",
        "-l gpu=2",
    ] == asked(replace(BARE, shape=shape, gpus=1, request=request))


def test_what_slots_consume_is_asked_for_each_slot() -> None:
    shape = Shape(threads=4, memory_bytes=2**32 + 1)
    site = Sge(memory_resource="h_vmem", consumable={"h_vmem": "YES", "gpu": "JOB"})
    assert ["-l h_vmem=1025M", "-l gpu=1"] == asked(replace(BARE, shape=shape, gpus=1), site)[-2:]
    assert not any("mem" in each for each in asked(replace(BARE, shape=shape), replace(site, memory_resource="")))
    assert not any("mem" in each for each in asked(replace(BARE, shape=shape), Sge(consumable={"h_rt": "NO"})))


def test_the_parallel_environment_is_the_sites_or_the_users() -> None:
    two = replace(BARE, shape=Shape(threads=2))
    assert "-pe shm 2" in asked(two, Sge(environments=("mpi", "shm")))
    assert "-pe mpi 2" in asked(two, Sge(environments=("mpi", "shm"), parallel_environment="mpi"))
    with pytest.raises(Rejected, match="2 slots need parallel_environment=; the site has mpi, ompi"):
        asked(two, Sge(environments=("mpi", "ompi")))
    for request in (Request(directives=("-pe mpi 2",)), Request(skip=("-pe",))):
        assert not any(
            each.startswith("-pe") for each in asked(replace(two, request=request), Sge(environments=("mpi",)))
        )


def test_the_shell_is_the_one_of_the_first_line() -> None:
    for shebang, shell in {"#!/bin/zsh -l": "/bin/zsh", "#!/usr/bin/env bash": "/bin/bash"}.items():
        assert f"-S {shell}" == asked(replace(BARE, request=Request(shebang=shebang)))[0]


def test_words_with_blanks_are_quoted_and_what_cannot_be_said_is_refused() -> None:
    """Tried on a real one: blanks and apostrophes between quotation marks are taken as they are."""
    assert '-q "it\'s a.q"' in asked(replace(BARE, request=Request(queue="it's a.q")))
    assert '-o "/my logs/x.$TASK_ID"' in [str(each) for each in SGE.directives(BARE, "/my logs/x.%")]
    with pytest.raises(Rejected, match="quotation mark"):
        asked(replace(BARE, request=Request(queue='a"b')))
    for bad in ("/a,b/x.%", "/host:/x.%", "/$HOME/x.%"):
        with pytest.raises(Rejected, match="cannot write to"):
            SGE.directives(BARE, bad)
    with pytest.raises(Rejected, match="slots, not hosts"):
        asked(replace(BARE, request=Request(nodes=2)))


# --- submitting ----------------------------------------------------------------------------------------------------


def test_a_submit_is_an_array_with_the_script_on_standard_input() -> None:
    call = SGE.submit("abcd1234", 1, "#!/bin/bash\n", BARE)
    assert (("qsub", "-terse", "-N", "abcd1234", "-t", "1-1"), "#!/bin/bash\n") == (call.argv, call.stdin)
    throttled = SGE.submit("abcd1234", 10, "", replace(BARE, request=Request(throttle=2)))
    assert ("-t", "1-10", "-tc", "2") == throttled.argv[-4:]


def test_the_ids_of_an_array() -> None:
    assert ["10.1", "10.2", "10.3"] == list(SGE.submitted(said("submit-array-terse"), 3))
    assert ["13.1"] == list(SGE.submitted(said("submit-array-one"), 1))


def test_a_warning_is_no_refusal() -> None:
    """The exit code is 1, and the jobs are submitted."""
    assert 1 == said("submit-array-warning").exit_code
    assert ["12.1", "12.2", "12.3"] == list(SGE.submitted(said("submit-array-warning"), 3))


REFUSED = {
    "submit-over-user-limit": (NoCapacity, "only 2 jobs are allowed per user"),
    "submit-over-cluster-limit": (NoCapacity, "only 1 jobs are allowed per cluster"),
    "daemon-down-submit": (Unavailable, "unable to send message to qmaster"),
    "daemon-hung-submit": (Unavailable, "unable to send message to qmaster"),
    "submit-unknown-queue": (Rejected, 'unknown queue "nope"'),
    "submit-unknown-pe": (Rejected, 'parallel environment "nope" does not exist'),
    "submit-array-too-large": (Rejected, "more than 75000 tasks"),
}


@pytest.mark.parametrize("case", recorded("qsub"))
def test_every_recorded_submit(case: str) -> None:
    """What is no array is never submitted by us: its answer has no id that we understand."""
    found = said(case)
    if re.search(r"\d+\.\d+-\d+:1", found.stdout + found.stderr):
        assert len(SGE.submitted(found, 1000)) > 0
        return
    error, words = REFUSED.get(case, (Rejected, ".") if found.exit_code else (Garbled, "."))
    with pytest.raises(error, match=words) as raised:
        SGE.submitted(found, 1)
    assert type(raised.value) is error


def test_an_answer_that_did_not_come_leaves_it_open() -> None:
    lost = Answer(("qsub",), 1, "", "Unable to run job: Error reading answer list from qmaster\nExiting.\n")
    with pytest.raises(Ambiguous):
        SGE.submitted(lost, 1)


# --- the list ------------------------------------------------------------------------------------------------------


def test_one_question_for_all_jobs_of_a_user() -> None:
    assert [("qstat", "-u", "me", "-g", "d", "-xml")] == [call.argv for call in SGE.query("me")]


def states(case: str) -> list[tuple[str, JobState]]:
    return [(job.id, job.state) for job in SGE.queried([said(case)])]


def test_the_elements_of_an_array() -> None:
    jobs = SGE.queried([said("status-array-gd-xml")])
    assert [f"9.{i}" for i in range(1, 11)] == [job.id for job in jobs]
    assert [f"abcd1234.{i}" for i in range(10)] == [job.name for job in jobs]
    assert [RUNNING] * 4 + [QUEUED] * 6 == [job.state for job in jobs]


def test_waiting_held_and_running() -> None:
    assert [("32.1", RUNNING), ("33.1", QUEUED), ("34.1", QUEUED), ("35.1", QUEUED), ("36.1", QUEUED)] == states(
        "status-pending-xml"
    )
    assert {"34.1": "held", "35.1": "held"} == {
        job.id: job.reason for job in SGE.queried([said("status-pending-xml")]) if job.reason
    }


def test_a_job_that_is_being_deleted_is_ending() -> None:
    assert ("33.1", ENDING) == states("status-just-after-cancel-running-xml")[0]


def test_a_job_in_an_error_state_has_failed_with_a_reason() -> None:
    failed = SGE.queried([said("status-error-state-array")])
    assert [("21.1", ENDED, None), ("21.2", ENDED, None)] == [(job.id, job.state, job.exit_code) for job in failed]
    assert "in error state (Eqw)" in failed[0].reason


LETTERS = {
    "qw": (QUEUED, ""),
    "hqw": (QUEUED, "held"),
    "hRwq": (QUEUED, "held"),
    "Rq": (QUEUED, "to be started again"),
    "t": (RUNNING, ""),
    "r": (RUNNING, ""),
    "Rr": (RUNNING, ""),
    "s": (RUNNING, "suspended"),
    "S": (RUNNING, "suspended"),
    "T": (RUNNING, "suspended"),
    "dr": (ENDING, "being deleted"),
    "dRr": (ENDING, "being deleted"),
    "dt": (ENDING, "being deleted"),
}
"""Letters that were recorded or are in the manual of qstat."""


@pytest.mark.parametrize("letters", LETTERS)
def test_every_state(letters: str) -> None:
    text = said("status-running-xml").stdout.replace("<state>r<", f"<state>{letters}<")
    assert {LETTERS[letters]} == {(job.state, job.reason) for job in SGE.queried([Answer((), 0, text)])}


@pytest.mark.parametrize(
    "case", [each for each in recorded("qstat", "-xml") if "-j" not in recording("sge", each)["argv"]]
)
def test_every_recorded_list(case: str) -> None:
    found = said(case)
    if found.exit_code:
        with pytest.raises(Unavailable):
            SGE.queried([found])
        return
    rows = re.findall("<JB_name>abcd1234<.*?<state>(\\w+)<.*?<tasks>([-\\d]+)[:<]", found.stdout, re.DOTALL)
    told = Counter(
        LETTERS[letters][0] if letters != "z" else RUNNING
        for letters, tasks in rows
        if tasks.isdigit() and letters != "Eqw"
    )
    jobs = [job for job in SGE.queried([found]) if job.state is not ENDED]
    assert told == Counter(job.state for job in jobs)


def test_no_jobs_is_a_list_and_what_is_no_list_is_an_error() -> None:
    assert [] == list(SGE.queried([said("status-empty-xml")]))
    with pytest.raises(Garbled, match="unknown_jobs"):
        SGE.queried([said("status-unknown-id-xml")])
    with pytest.raises(Garbled, match="XML"):
        SGE.queried([Answer(("qstat",), 0, said("status-running-xml").stdout[:-40])])


# --- how jobs ended ------------------------------------------------------------------------------------------------


def test_accounts_are_asked_for_array_by_array() -> None:
    """Of ``84,85`` qacct reads the first only, as recorded."""
    assert ["84"] == re.findall(r"jobnumber +(\d+)", said("qacct-comma-list").stdout)
    calls = SGE.recall([JobId("84.1"), JobId("84.2"), JobId("85.1")])
    assert [("qacct", "-j", "84"), ("qacct", "-j", "85")] == [call.argv for call in calls]


ENDS = {
    "qacct-finished-ok": [("84.1", 0, "")],
    "qacct-failed": [("85.1", 3, "")],
    "qacct-command-not-found": [("87.1", 127, "")],
    "qacct-self-kill9": [("86.1", 137, "killed by signal 9")],
    "qacct-cancelled-running": [("88.1", 137, "killed by signal 9")],
    "qacct-walltime-exceeded-h_rt": [("90.1", 137, "qmaster enforced h_rt, h_cpu, or h_vmem limit")],
    "qacct-exit-100": [("45.1", 100, "application error returned")],
    "qacct-array-task": [("89.2", 1, "")],
    "qacct-cancelled-pending": [],
    "qacct-unknown": [],
    "qacct-bad-interpreter": [],
}


@pytest.mark.parametrize("case", ENDS)
def test_every_recorded_end(case: str) -> None:
    jobs = SGE.recalled([said(case)])
    assert ENDS[case] == [(job.id, job.exit_code, job.reason) for job in jobs]
    assert all(job.state is ENDED and re.fullmatch(r"abcd1234\.[01]", job.name) for job in jobs)


def test_the_tasks_of_an_array_and_their_last_start() -> None:
    array = said("qacct-array")
    assert ["89.1", "89.2", "89.3"] == [job.id for job in SGE.recalled([array])]
    again = replace(array, stdout=array.stdout + array.stdout.replace("exit_status  0 ", "exit_status  7 "))
    assert 7 == SGE.recalled([again])[0].exit_code


def test_a_job_that_never_ran_has_no_exit_code() -> None:
    text = said("qacct-finished-ok").stdout.replace(
        "failed       0    ", "failed       28  : changing into working directory"
    )
    (job,) = SGE.recalled([Answer((), 0, text)])
    assert (None, "changing into working directory") == (job.exit_code, job.reason)


# --- ending them ---------------------------------------------------------------------------------------------------


def test_what_is_no_id_is_never_said() -> None:
    ids = [JobId(each) for each in ("9.10", "8.7", "no-such-job#77", "", "*", "9")]
    assert [("qdel", "9.10", "8.7")] == [call.argv for call in SGE.cancel(ids)]
    assert [] == list(SGE.cancel([JobId("abcd1234")])), "a name would end jobs of that name"
    assert [501, 501, 2] == [len(call.argv) for call in SGE.cancel([JobId(f"9.{i}") for i in range(1001)])]


CANCELS: dict[str, tuple[type[BackendError], str]] = {
    "cancel-other-users-job": (Rejected, "do not have the necessary privileges"),
    "cancel-no-args": (Rejected, "no option argument"),
    "cancel-array-t-flag": (Rejected, "lonely"),
    "cancel-force": (Rejected, r"\.\.\."),
    "daemon-down-cancel": (Unavailable, "unable to send message"),
    "daemon-hung-cancel": (Unavailable, "got send timeout"),
}


@pytest.mark.parametrize("case", recorded("qdel"))
def test_every_recorded_cancel(case: str) -> None:
    if case in CANCELS:
        error, words = CANCELS[case]
        with pytest.raises(error, match=words):
            SGE.cancelled([said(case)])
    else:
        SGE.cancelled([said(case)])


def test_where_the_output_of_a_task_is() -> None:
    assert "/logs/abcd1234.7.log" == SGE.log(JobId("9.7"), LOG)
