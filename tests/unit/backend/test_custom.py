"""Commands of one's own: how templates are filled, and what is understood of what they print."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_adaptive.backend.custom import Custom
from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.errors import ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Request, Shape, Spec

CUSTOM = Custom(["go", "{tag}", "{count}"], ["look", "--user={user}"], ["stop", "--", "{ids}"])
SPEC = Spec("tcp://10.0.0.1:8786", Shape(workers=2, threads=4, memory_bytes=3 * 2**30))


def test_it_is_a_dialect_that_asks_for_nothing_first() -> None:
    assert isinstance(CUSTOM, Dialect)
    assert [] == list(CUSTOM.probe())
    assert CUSTOM is CUSTOM.probed([])
    assert [] == list(CUSTOM.directives(SPEC, "/logs/x.%.log"))


# --- templates -----------------------------------------------------------------------------------------------------


def test_what_may_be_said_to_the_submit_command() -> None:
    words = "{tag} {count} {last} {cores} {memory_mb} {gpus} {nodes} {walltime_s} q={queue} a={account}"
    request = Request(queue="long", account="p 21", walltime_s=90.5)
    made = replace(CUSTOM, submit_command=["go", *words.split()])
    filled = made.submit("abcd1234", 3, "#!/bin/sh\n", replace(SPEC, gpus=1, request=request))
    assert ("go", "abcd1234", "3", "2", "8", "6144", "2", "1", "91", "q=long", "a=p 21") == filled.argv
    assert "#!/bin/sh\n" == filled.stdin


def test_the_script_may_be_a_file() -> None:
    call = replace(CUSTOM, submit_command="go --script={script} {tag}").submit("abcd1234", 1, "#!/bin/sh\n", SPEC)
    assert (("go", "--script={script}", "abcd1234"), {"script": "#!/bin/sh\n"}, "") == (
        call.argv,
        call.files,
        call.stdin,
    )


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_value_is_one_word_whatever_is_in_it(value: str) -> None:
    spec = replace(SPEC, request=Request(account=value))
    made = replace(CUSTOM, submit_command=["go", "{account}", "{count}"])
    assert ("go", value, "2") == made.submit("abcd1234", 2, "", spec).argv


def test_a_command_may_be_one_text() -> None:
    made = Custom("go 'in two words' {tag}", "look", "stop {id}")
    assert ("go", "in two words", "abcd1234") == made.submit("abcd1234", 1, "", SPEC).argv


def test_a_command_without_a_count_starts_one_job() -> None:
    assert 1 == Custom("go {tag}", "look", "stop {id}").largest
    assert 1000 == CUSTOM.largest
    assert 5 == replace(CUSTOM, largest=5).largest


def test_cancel_takes_all_ids_or_is_run_for_each() -> None:
    ids = [JobId("7"), JobId("8 {id}")]
    assert [("stop", "--", "7", "8 {id}")] == [call.argv for call in CUSTOM.cancel(ids)]
    many = [JobId(str(i)) for i in range(1001)]
    assert many == [word for call in CUSTOM.cancel(many) for word in call.argv[2:]]
    assert [500, 500, 1] == [len(call.argv) - 2 for call in CUSTOM.cancel(many)], "a command line has an end"
    each = replace(CUSTOM, cancel_command=["stop", "job={id}"])
    assert [("stop", "job=7"), ("stop", "job=8 {id}")] == [call.argv for call in each.cancel(ids)]


def test_where_the_log_is() -> None:
    assert "/logs/abcd1234.%.log" == CUSTOM.log(JobId("7"), "/logs/abcd1234.%.log")
    own = replace(CUSTOM, log_path="~/out/{tag}/{id}.txt")
    assert "~/out/abcd1234/7.txt" == own.log(JobId("7"), "/logs/abcd1234.%.log")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"submit_command": []}, "submit_command must be said"),
        ({"list_command": ""}, "list_command must be said"),
        ({"submit_command": ["go", "{tags}"]}, "submit_command has no {tags}; did you mean 'tag'?"),
        ({"list_command": ["look", "{ids}"]}, "list_command has no {ids}; known: user"),
        ({"log_path": "{index}.log"}, "log_path has no {index}"),
        ({"cancel_command": ["stop"]}, "cancel_command must have {ids}"),
        ({"cancel_command": ["stop", "--ids={ids}"]}, "cancel_command must have {ids} as a word of its own"),
        ({"submit_command": [1, 2]}, "submit_command must be a list of words"),
        ({"submit_command": "go 'unclosed"}, "submit_command must be a list of words"),
        ({"submit_command": 7}, "submit_command must be a list of words"),
        ({"index": 3}, "index must be a word of shell, not 3"),
        ({"attempt": ""}, "attempt must be a word of shell, not ''"),
        ({"lag_s": "soon"}, "lag_s must be a number of seconds, not 'soon'"),
        ({"lag_s": float("nan")}, "lag_s must be a number of seconds, not nan"),
        ({"largest": 0}, "largest must be a whole number of at least 1, not 0"),
    ],
)
def test_a_template_that_cannot_be_filled_is_said_at_once(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(CUSTOM, **said)
    assert words in str(caught.value)


def test_directives_are_not_taken_and_ignored() -> None:
    with pytest.raises(Rejected, match="submit_command"):
        CUSTOM.submit("abcd1234", 1, "", replace(SPEC, request=Request(directives=("--exclusive",))))


# --- what is printed -----------------------------------------------------------------------------------------------


def test_a_line_an_id() -> None:
    assert ["7", "8"] == CUSTOM.submitted(Answer(("go",), 0, "7\n8\n"), 2)
    assert ["7"] == CUSTOM.submitted(Answer(("go",), 0, "7"), 2)  # the rest was refused


@pytest.mark.parametrize("text", ["", "\n", "7\n8\n9\n", "job 7 started\n", "7\n\n"])
def test_anything_else_is_not_understood(text: str) -> None:
    with pytest.raises(Garbled, match="an id a line"):
        CUSTOM.submitted(Answer(("go",), 0, text), 2)


@pytest.mark.parametrize(("code", "kind"), [(75, NoCapacity), (69, Unavailable), (1, Rejected), (-9, Rejected)])
def test_exit_codes_of_submit(code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="queue is closed"):
        CUSTOM.submitted(Answer(("go",), code, "", "queue is closed"), 2)


def test_the_list() -> None:
    text = (
        "JOBID NAME STATE\n"  # a heading is no job of ours
        "7 abcd1234.0 queued - waits for a licence\n"
        "8 abcd1234.1 running\n"
        "9 abcd1234.2 ending -\n"
        "10 abcd1234.11 ended 3\n"
        "11 abcd9999 ended 0   all  well \n"
        "12 somebody-else running\n"
        "\n"
    )
    jobs = CUSTOM.queried([Answer(("look",), 0, text)])
    assert [
        Job(JobId("7"), "abcd1234.0", JobState.QUEUED, "waits for a licence"),
        Job(JobId("8"), "abcd1234.1", JobState.RUNNING),
        Job(JobId("9"), "abcd1234.2", JobState.ENDING),
        Job(JobId("10"), "abcd1234.11", JobState.ENDED, "exit code 3", 3),
        Job(JobId("11"), "abcd9999.0", JobState.ENDED, "all  well", 0),
    ] == jobs
    assert ("look", "--user=ada") == CUSTOM.query("ada")[0].argv


def test_an_empty_list_is_no_jobs_and_an_exit_code_is_no_list() -> None:
    assert [] == CUSTOM.queried([Answer(("look",), 0)])
    with pytest.raises(Unavailable, match="no route"):
        CUSTOM.queried([Answer(("look",), 1, "7 abcd1234.0 running\n", "no route")])


@pytest.mark.parametrize("line", ["7 abcd1234.0", "7 abcd1234.0 R", "7 abcd1234.0 ended three"])
def test_a_line_of_ours_that_is_not_understood_is_named(line: str) -> None:
    with pytest.raises(Garbled, match=r"list_command printed '7 abcd1234\.0"):
        CUSTOM.queried([Answer(("look",), 0, f"{line}\n")])


def test_cancel_is_done_or_is_an_error() -> None:
    CUSTOM.cancelled([Answer(("stop",), 0, "whatever"), Answer(("stop",), 0)])
    with pytest.raises(Rejected):
        CUSTOM.cancelled([Answer(("stop",), 0), Answer(("stop",), 1)])
    with pytest.raises(Unavailable):
        CUSTOM.cancelled([Answer(("stop",), 69)])


def test_nobody_knows_how_a_job_ended_that_left_the_list() -> None:
    assert [] == list(CUSTOM.recall([JobId("7")]))
    assert [] == list(CUSTOM.recalled([]))
