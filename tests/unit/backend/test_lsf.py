"""LSF: what is said to it, and everything that was recorded of OpenLava understood.

The JSON of LSF 10.1 could not be recorded; these answers have the form of its manual (bjobs, options -json and -o).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.recorded import answer, cases, recording

from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.lsf import Lsf
from dask_adaptive.errors import Ambiguous, BackendError, ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import JobId, JobState, Request, Shape, Spec

PLAIN = Lsf()
JSON = Lsf(tells_json=True)
BARE = Spec("tcp://10.0.0.1:8786")
LOG = "/logs/abcd1234.%.log"
QUEUED, RUNNING, ENDING, ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDING, JobState.ENDED
STATES = {
    "PEND": QUEUED,
    "PSUSP": QUEUED,
    "WAIT": QUEUED,
    "RUN": RUNNING,
    "USUSP": RUNNING,
    "SSUSP": RUNNING,
    "UNKWN": RUNNING,
    "ZOMBI": ENDING,
    "DONE": ENDED,
    "EXIT": ENDED,
}


def said(case: str) -> Answer:
    """A recording in which the arrays, and jobs without a name, have a name of ours."""
    found = answer("lsf", case)
    text = re.sub(r"\b(arr|th|many|part)\[", "abcd1234[", found.stdout)
    return replace(found, stdout=re.sub(r"#!/bin/bash;sleep 30", "abcd1234[7]", text))


def recorded(program: str, *options: str) -> list[str]:
    found = {case: recording("lsf", case).get("argv") or [""] for case in cases("lsf")}
    return [case for case, argv in found.items() if argv[0] == program and set(options) <= set(argv)]


def asked(spec: Spec, dialect: Lsf = PLAIN) -> list[str]:
    return [str(each) for each in dialect.directives(spec, LOG)]


def test_it_is_a_dialect() -> None:
    assert isinstance(PLAIN, Dialect)


# --- what a site is ------------------------------------------------------------------------------------------------

NO_JOBS = Answer(("bjobs",), 255, "", "No unfinished job found\n")


def test_openlava_tells_in_columns_and_counts_kilobytes() -> None:
    site = PLAIN.probed([said("status-json-unsupported"), said("params")])
    assert (False, "", 1000) == (site.tells_json, site.units, site.largest)
    assert [("bjobs", "-u", "me", "-w", "-noheader")] == [call.argv for call in site.query("me")]


@pytest.mark.parametrize(
    ("configuration", "units"),
    [
        ("LSF_UNIT_FOR_LIMITS=GB\n", "gb"),
        ("# LSF_UNIT_FOR_LIMITS=GB\n", ""),
        ("LSF_UNIT_FOR_LIMITS=KB\nLSF_UNIT_FOR_LIMITS = mb # the last holds\n", "mb"),
        ("LSF_UNIT_FOR_LIMITS=KB\n\tLSF_UNIT_FOR_LIMITS = TB\n", "tb"),
    ],
)
def test_a_site_is_asked_for_its_units(configuration: str, units: str) -> None:
    said = Answer(("sh",), 0, f"    MAX_JOB_ARRAY_SIZE = 5000\n{configuration}", "badmin: not found")
    site = PLAIN.probed([NO_JOBS, said])
    assert (True, units, 5000) == (site.tells_json, site.units, site.largest)
    assert "eb" == Lsf(units="eb").probed([NO_JOBS, said]).units, "the user's word holds"


def test_a_site_that_is_away_is_asked_again() -> None:
    with pytest.raises(Unavailable, match="LIM is down"):
        PLAIN.probed([said("daemon-down-status-LSB_NTRIES-2"), Answer((), 0)])


def test_units_that_are_none() -> None:
    with pytest.raises(ConfigError, match="units must be one of kb, mb"):
        Lsf(units="bytes")


# --- what a job asks for -------------------------------------------------------------------------------------------


def test_a_job_asks_for_what_is_set() -> None:
    assert ["-o /logs/abcd1234.%I.log", "-n 1"] == asked(BARE)
    shape = Shape(workers=2, threads=4, memory_bytes=3 * 2**30)
    request = Request(queue="normal", account="physics", walltime_s=3661)
    assert [
        "-o /logs/abcd1234.%I.log",
        "-q normal",
        "-P physics",
        "-W 1:02",
        "-n 8",
        '-R "span[hosts=1]"',
        "-M 6291456",
        '-gpu "num=2"',
    ] == asked(replace(BARE, shape=shape, gpus=1, request=request))


def test_memory_is_in_the_units_of_the_site_and_not_less() -> None:
    spec = replace(BARE, shape=Shape(memory_bytes=2**30 + 1))
    assert "-M 1048577" == asked(spec)[-1]
    assert ["-M 1025", "-M 2"] == [asked(spec, Lsf(units=each))[-1] for each in ("MB", "gb")]


def test_several_hosts_and_a_span_of_ones_own() -> None:
    eight = replace(BARE, shape=Shape(threads=8))
    assert '-R "span[ptile=3]"' in asked(replace(eight, request=Request(nodes=3)))
    assert not any(
        "span" in each for each in asked(replace(eight, request=Request(directives=('-R "span[ptile=8]"',))))
    )


def test_words_with_blanks_are_quoted_and_what_cannot_be_said_is_refused() -> None:
    assert '-P "two words"' in asked(replace(BARE, request=Request(account="two words")))
    with pytest.raises(Rejected, match="quotation mark"):
        asked(replace(BARE, request=Request(queue='a"b')))


# --- submitting ----------------------------------------------------------------------------------------------------


def test_a_submit_is_an_array_with_the_script_on_standard_input() -> None:
    call = PLAIN.submit("abcd1234", 3, "#!/bin/bash\n", replace(BARE, request=Request(throttle=2)))
    assert (("bsub", "-J", "abcd1234[1-3]%2"), "#!/bin/bash\n") == (call.argv, call.stdin)
    assert "2" == call.environment["LSB_NTRIES"], "else it would try for ever"
    calls = [*PLAIN.query("me"), *PLAIN.recall([JobId("1[1]")]), *PLAIN.cancel([JobId("1[1]")]), *PLAIN.probe()]
    assert {"2"} == {each.environment["LSB_NTRIES"] for each in calls}


REFUSED = {
    "submit-array-too-large": (NoCapacity, "array index too large"),
    "daemon-down-submit-LSB_NTRIES-2": (Unavailable, "LIM is down"),
    "submit-unknown-queue": (Rejected, "nope: No such queue"),
    "submit-too-many-cpus": (Rejected, "Too many processors requested"),
}


@pytest.mark.parametrize("case", recorded("bsub"))
def test_every_recorded_submit(case: str) -> None:
    found = said(case)
    if found.exit_code == 0:
        (number,) = re.findall(r"<(\d+)>", found.stdout)
        assert [f"{number}[1]", f"{number}[2]"] == list(PLAIN.submitted(found, 2))
        return
    error, words = REFUSED.get(case, (Rejected, "."))
    with pytest.raises(error, match=words) as raised:
        PLAIN.submitted(found, 2)
    assert type(raised.value) is error


def test_other_answers_to_a_submit() -> None:
    with pytest.raises(Garbled):
        PLAIN.submitted(Answer(("bsub",), 0, "welcome to the site\n"), 1)
    for words, error in {
        "User <me>: Pending job threshold reached. Job not submitted.": NoCapacity,
        "Communication time out. Job not submitted.": Ambiguous,
        "batch system daemon not responding ... still trying": Unavailable,
    }.items():
        with pytest.raises(error):
            PLAIN.submitted(Answer(("bsub",), 255, "", words), 1)


# --- the list ------------------------------------------------------------------------------------------------------


def test_the_elements_of_an_array_in_columns() -> None:
    jobs = PLAIN.queried([said("status-array-noheader")])
    assert {f"106[{i}]": f"abcd1234.{i - 1}" for i in range(1, 11)} == {job.id: job.name for job in jobs}
    assert {RUNNING: 4, QUEUED: 6} == Counter(job.state for job in jobs)


@pytest.mark.parametrize("case", recorded("bjobs", "-w"))
def test_every_recorded_list(case: str) -> None:
    """Those for one id, too, which exit with 255 for what they do not know: a part is no list."""
    found = said(case)
    if found.exit_code:
        with pytest.raises(Unavailable):
            PLAIN.queried([found])
        return
    rows = re.findall(r"(?m)^\d+ +tester +([A-Z]+) .* abcd1234\[\d+\] +\w{3} \d\d \d\d:\d\d", found.stdout)
    assert Counter(STATES[stat] for stat in rows) == Counter(job.state for job in PLAIN.queried([found]))


def test_held_suspended_and_lost() -> None:
    text = said("status-exec-host-pending-w-noheader").stdout
    for stat, state in STATES.items():
        (job,) = PLAIN.queried([Answer((), 0, text.replace("PSUSP", stat))])
        assert (state, 0 if stat == "DONE" else None) == (job.state, job.exit_code)
    assert ["held"] == [job.reason for job in PLAIN.queried([Answer((), 0, text)])]
    with pytest.raises(Garbled, match="unknown state 'MELTED'"):
        PLAIN.queried([Answer((), 0, text.replace("PSUSP", "MELTED"))])


def test_names_with_blanks_are_not_ours() -> None:
    """They are jobs without a name: then the name is the script."""
    text = said("status-exec-host-pending-w-noheader").stdout
    assert [] == list(PLAIN.queried([Answer((), 0, text.replace("abcd1234[7]", "run abcd1234[7]"))]))


@pytest.mark.parametrize("dialect", [PLAIN, JSON])
def test_no_jobs_is_an_error_of_bjobs_and_a_list_for_us(dialect: Lsf) -> None:
    assert [] == list(dialect.queried([said("status-empty")]))
    assert [] == list(dialect.queried([Answer(("bjobs",), 255, "", "No job found\n")]))
    with pytest.raises(Unavailable):
        dialect.queried([said("daemon-down-status-LSB_NTRIES-2")])


def records(*rows: dict[str, Any]) -> Answer:
    return Answer(("bjobs",), 0, json.dumps({"COMMAND": "bjobs", "JOBS": len(rows), "RECORDS": rows}))


def test_a_list_in_json() -> None:
    about = {"JOBID": "106", "JOB_NAME": "abcd1234[1]", "JOBINDEX": "1", "EXIT_CODE": "", "EXIT_REASON": ""}
    waits = {**about, "STAT": "PEND", "PEND_REASON": "Job slot limit reached;"}
    runs = {**about, "JOBINDEX": "2", "STAT": "RUN", "PEND_REASON": ""}
    other = {**about, "JOBINDEX": "0", "JOB_NAME": "my job", "STAT": "RUN"}
    jobs = JSON.queried([records(waits, runs, other)])
    assert [("106[1]", "abcd1234.0", QUEUED, "Job slot limit reached"), ("106[2]", "abcd1234.1", RUNNING, "")] == [
        (job.id, job.name, job.state, job.reason) for job in jobs
    ]
    with pytest.raises(Garbled):
        JSON.queried([replace(records(waits), stdout=records(waits).stdout[:-3])])


# --- how jobs ended ------------------------------------------------------------------------------------------------


def long(case: str) -> Answer:
    """A job of a recording by ``bjobs -l``, as if it were an element with a name of ours."""
    found = answer("lsf", case)
    flat = found.stdout.replace("\n" + " " * 21, "")
    named = re.sub(r"Job Id <(\d+)>, User", r"Job Id <\1[3]>, Job Name <abcd1234[3]>, User", flat)
    head, _, rest = named.lstrip("\n").partition("\n")
    folded = [head[:79], *(head[at : at + 58] for at in range(79, len(head), 58))]
    return replace(found, stdout="\n" + ("\n" + " " * 21).join(folded) + "\n" + rest)


ENDS = {
    "status-finished-l": ("154[3]", 0, ""),
    "status-failed-l": ("155[3]", 3, ""),
    "status-self-kill9-l": ("156[3]", 137, ""),
    "status-command-not-found-l": ("157[3]", 127, ""),
    "status-cancelled-running-l": ("147[3]", 130, ""),
    "status-cancelled-pending-l": ("153[3]", None, ""),
    "status-walltime-exceeded-l": ("497[3]", 0, ""),
}


@pytest.mark.parametrize("case", ENDS)
def test_every_recorded_end(case: str) -> None:
    (job,) = PLAIN.recalled([long(case)])
    assert (*ENDS[case], "abcd1234.2", ENDED) == (job.id, job.exit_code, job.reason, job.name, job.state)


def test_what_runs_or_is_not_known_has_not_ended() -> None:
    assert [] == list(PLAIN.recalled([long("status-held-l"), said("status-unknown-id-l")]))
    text = long("status-failed-l").stdout + long("status-held-l").stdout
    assert ["155[3]"] == [job.id for job in PLAIN.recalled([Answer((), 255, text, "Job <9[9]> is not found")])]


def test_reasons_of_an_end() -> None:
    text = long("status-failed-l").stdout
    cut = text.replace("Exited with", "TERM_RUNLIMIT: job killed after reaching LSF run time limit.\nExited with")
    assert (
        "TERM_RUNLIMIT: job killed after reaching LSF run time limit" == PLAIN.recalled([Answer((), 0, cut)])[0].reason
    )
    signal = text.replace("Exited with exit code 3", "Exited by signal 11")
    (job,) = PLAIN.recalled([Answer((), 0, signal)])
    assert ("by signal 11", None) == (job.reason, job.exit_code)


def test_ends_in_json() -> None:
    about = {"JOBID": "106", "JOB_NAME": "abcd1234[1]", "JOBINDEX": "1", "PEND_REASON": ""}
    done = {**about, "STAT": "DONE", "EXIT_CODE": "", "EXIT_REASON": ""}
    failed = {**about, "JOBINDEX": "2", "STAT": "EXIT", "EXIT_CODE": "3", "EXIT_REASON": ""}
    killed = {
        **about,
        "JOBINDEX": "3",
        "STAT": "EXIT",
        "EXIT_CODE": "130",
        "EXIT_REASON": "TERM_OWNER: job killed by owner",
    }
    running = {**about, "JOBINDEX": "4", "STAT": "RUN", "EXIT_CODE": "", "EXIT_REASON": ""}
    missing = {"ERROR": "Job <106[9]> is not found"}
    ended = JSON.recalled([replace(records(done, failed, killed, running, missing), exit_code=255)])
    assert [("106[1]", 0, ""), ("106[2]", 3, ""), ("106[3]", 130, "TERM_OWNER: job killed by owner")] == [
        (job.id, job.exit_code, job.reason) for job in ended
    ]


# --- ending them ---------------------------------------------------------------------------------------------------


def test_what_is_no_id_is_never_said() -> None:
    ids = [JobId(each) for each in ("106[2]", "7[3]", "no-such-job#77", "", "0", "106")]
    assert [("bkill", "106[2]", "7[3]")] == [call.argv for call in PLAIN.cancel(ids)]
    assert [] == list(PLAIN.cancel([JobId("0")])), "which would end every job"
    assert [201, 201, 2] == [len(call.argv) for call in PLAIN.cancel([JobId(f"9[{i}]") for i in range(401)])]


CANCELS: dict[str, tuple[type[BackendError], str]] = {
    "cancel-other-users-job": (Rejected, "User permission denied"),
    "cancel-garbage-id": (Rejected, "Illegal job ID"),
    "cancel-no-args": (Rejected, "must be specified"),
}


@pytest.mark.parametrize("case", recorded("bkill"))
def test_every_recorded_cancel(case: str) -> None:
    """Also of whole arrays: ``Operation is in progress`` comes with 255 and is no failure."""
    if case in CANCELS:
        error, words = CANCELS[case]
        with pytest.raises(error, match=words):
            PLAIN.cancelled([said(case)])
    else:
        PLAIN.cancelled([said(case)])


def test_a_cancel_that_was_not_heard() -> None:
    with pytest.raises(Unavailable):
        PLAIN.cancelled([said("daemon-down-status-LSB_NTRIES-2")])


def test_where_the_output_of_an_element_is() -> None:
    assert "/logs/abcd1234.7.log" == PLAIN.log(JobId("106[7]"), LOG)
