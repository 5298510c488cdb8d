"""Whatever runs jobs by commands of your own, which are templates. Pure. ``examples/custom-scripts`` has an example."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from dask_adaptive.backend.dialect import STARTED, TAG, Answer, Call, Directive
from dask_adaptive.backend.templates import PLACE, Template, check_template, filled, words_of
from dask_adaptive.errors import BackendError, ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Custom"]

AT_ONCE = 500  # ids in one command: one that goes over SSH has to fit into 128 KiB
AWAY, FULL = 69, 75  # of sysexits.h: EX_UNAVAILABLE, it cannot be reached; EX_TEMPFAIL, there is no room now

NAME = re.compile(rf"({TAG.pattern})(?:\.(\d+))?")
ASKED = ("cores", "memory_mb", "gpus", "nodes", "walltime_s", "queue", "account")
PLACES: Mapping[str, Collection[str]] = {
    "submit_command": ("tag", "count", "last", "script", *ASKED),
    "list_command": ("user",),
    "cancel_command": ("ids", "id"),
    "log_path": ("tag", "id"),
}


@dataclass(frozen=True)
class Custom:
    """Jobs by commands of your own. Each is given as words: lists of words, or texts that are split as a shell does it.

    Parameters
    ----------
    submit_command:
        Starts ``{count}`` jobs named ``{tag}.0``, ``{tag}.1`` ... (of one, ``{tag}`` will do) and prints their ids, a
        line each, in order; fewer where there is no room for all. Without ``{count}`` in it, it starts one. The job
        script is on standard input, or at the path ``{script}``. For what a job asks there are ``{cores}``,
        ``{memory_mb}``, ``{gpus}``, ``{nodes}``, ``{walltime_s}`` (0: not said), ``{queue}`` and ``{account}`` (empty);
        ``{last}`` is the count less 1. Exit code 75: no room now; 69: cannot be reached; another: refused.
    list_command:
        Prints a line ``id name state [exit] [reason]`` for each job of ``{user}``. ``state`` is ``queued``,
        ``running``, ``ending`` or ``ended``; ``exit`` a number, or ``-``. Ended jobs may be listed or not; lines with
        names that are not ours are passed over. An exit code says that it could not look.
    cancel_command:
        Ends jobs: the word ``{ids}`` becomes a word for each of up to 500; with ``{id}`` it is run for each. A job that
        is gone is no error. Exit code 69: cannot be reached; another: one may live on.
    log_path:
        Where the output of a job is, with ``{tag}`` or ``{id}``. Default: where the job script writes it.
    index:
        Shell word for the number of a job in its batch, from 0, such as ``${MY_INDEX:-0}``.
    attempt:
        Shell word that is another one each time that a job is started again. Default: the second of
        its start, and the number of its process.
    lag_s, largest:
        How far the list may run behind, in seconds, and how many jobs to ask for at once.

    Raises ``ConfigError`` for a template that is empty, lacks a place or has one that there is not.
    """

    options: ClassVar[tuple[str, ...]] = (*PLACES, "index", "attempt", "lag_s", "largest")
    example: ClassVar[Mapping[str, Sequence[str]]] = {
        "submit_command": ["my-queue", "submit", "{tag}", "{count}"],
        "list_command": ["my-queue", "list"],
        "cancel_command": ["my-queue", "cancel", "{ids}"],
    }

    submit_command: Template = ()
    list_command: Template = ()
    cancel_command: Template = ()
    log_path: str = ""
    index: str = "${DASK_ADAPTIVE_INDEX:-0}"
    attempt: str = STARTED
    lag_s: float = 10.0
    poll_s: float = 5.0
    largest: int = 1000
    name: str = "custom"
    prefix: str = ""
    first: int = 0

    def __post_init__(self) -> None:
        for key, known in PLACES.items():
            check_template(key, getattr(self, key), known, needed=key != "log_path")
        places = {place for word in words_of(self.cancel_command) for place in PLACE.findall(word)}
        if not places or ("ids" in places and "{ids}" not in words_of(self.cancel_command)):
            raise ConfigError("cancel_command must have {ids} as a word of its own, or {id}")
        for key in ("index", "attempt"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                raise ConfigError(f"{key} must be a word of shell, not {getattr(self, key)!r}")
        if isinstance(self.lag_s, bool) or not isinstance(self.lag_s, int | float) or not self.lag_s >= 0:
            raise ConfigError(f"lag_s must be a number of seconds, not {self.lag_s!r}")
        if isinstance(self.largest, bool) or not isinstance(self.largest, int) or self.largest < 1:
            raise ConfigError(f"largest must be a whole number of at least 1, not {self.largest!r}")
        if "count" not in PLACE.findall(" ".join(words_of(self.submit_command))):
            object.__setattr__(self, "largest", 1)

    def probe(self) -> Sequence[Call]:
        """Nothing: commands of one's own are known."""
        return []

    def probed(self, answers: Sequence[Answer]) -> Custom:  # noqa: ARG002
        """Itself."""
        return self

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:  # noqa: ARG002
        """None: what a job asks for is said to the submit command."""
        return []

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """The submit command; the script is a private file where its path is asked for."""
        if spec.request.directives:
            raise Rejected("directives have no place in commands of your own: say it in submit_command")
        words = filled(self.submit_command, {"tag": tag, "count": count, "last": count - 1, **_asked(spec)})
        placed = any("{script}" in word for word in words)
        return Call(words, files={"script": script}) if placed else Call(words, stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """A line, an id."""
        if answer.exit_code:
            raise _failure(answer, NoCapacity if answer.exit_code == FULL else Rejected)
        rows = [line.split() for line in answer.stdout.splitlines()]
        if not 1 <= len(rows) <= count or any(len(row) != 1 for row in rows):
            raise Garbled(f"submit_command must print an id a line, up to {count}: {answer.said}", command=answer.argv)
        return [JobId(row[0]) for row in rows]

    def query(self, user: str) -> Sequence[Call]:
        """The list command."""
        return [Call(filled(self.list_command, {"user": user}))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The jobs with a name of ours."""
        (answer,) = answers
        if answer.exit_code:
            raise _failure(answer, Unavailable)
        rows = [line.split(None, 4) for line in answer.stdout.splitlines()]
        return [_job(row, answer) for row in rows if len(row) > 1 and NAME.fullmatch(row[1])]

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:  # noqa: ARG002
        """Nothing: ended jobs are in the list, or nobody knows."""
        return []

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:  # noqa: ARG002
        """None."""
        return []

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """The cancel command, for many at once or once for each."""
        words = words_of(self.cancel_command)
        if "{ids}" in words:
            parts = [list(ids)[i : i + AT_ONCE] for i in range(0, len(ids), AT_ONCE)]
            return [Call(tuple(w for word in words for w in (part if word == "{ids}" else (word,)))) for part in parts]
        return [Call(filled(words, {"id": each})) for each in ids]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """Any exit code says that a job may live on."""
        for answer in (each for each in answers if each.exit_code):
            raise _failure(answer, Rejected)

    def log(self, id: JobId, log: str) -> str:
        """Where it was said to be, else where the job script writes it."""
        tag = log.rpartition("/")[2].partition(".")[0]
        return PLACE.sub(lambda place: {"id": id, "tag": tag}[place[1]], self.log_path) or log


def _asked(spec: Spec) -> Mapping[str, object]:
    request, shape = spec.request, spec.shape
    memory_bytes = request.memory_bytes or shape.workers * shape.memory_bytes
    cores, memory_mb = request.cores or shape.job_threads, -(-memory_bytes // 2**20)
    gpus, walltime_s = spec.gpus * shape.workers, int(-(-request.walltime_s // 1))
    said = (cores, memory_mb, gpus, request.nodes or 1, walltime_s, request.queue, request.account)
    return dict(zip(ASKED, said, strict=True))


def _job(row: Sequence[str], answer: Answer) -> Job:
    try:
        job_id, name, state, code, reason = (*row, "", "", "")[:5]
        tag, index = NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        exit_code = None if code in ("", "-") else int(code)
        reason = reason.strip() or ("" if exit_code is None else f"exit code {exit_code}")
        return Job(JobId(job_id), f"{tag}.{int(index or 0)}", JobState(state), reason, exit_code)
    except ValueError as error:
        raise Garbled(f"list_command printed {' '.join(row)!r}: {error}", command=answer.argv) from error


def _failure(answer: Answer, kind: type[Unavailable | NoCapacity | Rejected]) -> BackendError:
    kind = Unavailable if answer.exit_code == AWAY else kind
    return kind(answer.said or "nothing was said", command=answer.argv, exit_code=answer.exit_code)
