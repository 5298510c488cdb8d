"""Flux: ``flux submit``, ``flux jobs`` and ``flux cancel``. Pure.

Written from the manual pages of flux-core, flux-submit(1), flux-jobs(1) and flux-cancel(1).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from dask_adaptive.backend.dialect import STARTED, TAG, Answer, Call, Directive
from dask_adaptive.errors import Garbled, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Flux"]

STATES = {
    **dict.fromkeys(("NEW", "DEPEND", "PRIORITY", "SCHED"), JobState.QUEUED),
    "RUN": JobState.RUNNING,
    "CLEANUP": JobState.ENDING,
    "INACTIVE": JobState.ENDED,
}
NAME = re.compile(rf"{TAG.pattern}\.\d+")
COLUMNS = "{id.f58} {name} {state} {result:h} {returncode:h} {exception.note}"
NEVER_RAN = "-128"
GONE = re.compile(r"inactive|unknown job", re.I)


@dataclass(frozen=True)
class Flux:
    """The language of Flux. Directives are options of ``flux submit``, such as ``--requires=host:n7``."""

    options: ClassVar[tuple[str, ...]] = ()

    name: str = "flux"
    prefix: str = ""
    index: str = "${FLUX_JOB_CC:-0}"
    first: int = 0
    attempt: str = STARTED
    lag_s: float = 5.0
    poll_s: float = 5.0
    largest: int = 1000

    def probe(self) -> Sequence[Call]:
        """Nothing."""
        return []

    def probed(self, answers: Sequence[Answer]) -> Flux:
        """Itself."""
        return self

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """Options of ``flux submit``: one task with all cores. Flux does not count memory."""
        request, shape = spec.request, spec.shape
        asked = {
            "--nodes": request.nodes,
            "--cores-per-task": request.cores or shape.job_threads,
            "--gpus-per-task": spec.gpus * shape.workers,
            "--time-limit": f"{request.walltime_s:g}s" if request.walltime_s else "",
            "--queue": request.queue,
            "--bank": request.account,
        }
        return [Directive(key, str(value), "=") for key, value in asked.items() if value]

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """One command: a job for each number in ``--cc``, which is put into its name."""
        own = [word for line in spec.request.directives for word in shlex.split(line)]
        dropped = {word.partition("=")[0] for word in (*spec.request.skip, *own)}
        ours = [str(each) for each in self.directives(spec, "") if each.key not in dropped]
        named = [f"--cc=0-{count - 1}", f"--job-name={tag}.{{cc}}", "--ntasks=1"]
        return Call(("flux", "submit", *named, *ours, *own, "/bin/bash", "{script}"), files={"script": script})

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """A line, an id."""
        if answer.exit_code:
            raise _failure(answer)
        ids = answer.stdout.split()
        if not ids or len(ids) > count:
            raise Garbled(f"flux submit printed {len(ids)} ids for {count} jobs", command=answer.argv)
        return [JobId(each) for each in ids]

    def query(self, user: str) -> Sequence[Call]:
        """The jobs of this user, also those that ended."""
        return [Call(("flux", "jobs", "-a", "-n", f"--user={user}", "--count=100000", "-o", COLUMNS))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """Those with a name of ours."""
        (answer,) = answers
        if answer.exit_code:
            raise Unavailable(answer.said, command=answer.argv, exit_code=answer.exit_code)
        rows = [line.split(None, 5) for line in answer.stdout.splitlines()]
        return [_job(row) for row in rows if len(row) >= 5 and NAME.fullmatch(row[1])]

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """Nothing: ended jobs are in the list."""
        return []

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """None."""
        return []

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """One command."""
        return [Call(("flux", "cancel", *ids))] if ids else []

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """That a job is inactive already is fine."""
        for answer in answers:
            said = answer.stderr.splitlines()
            if answer.exit_code and (not said or not all(map(GONE.search, said))):
                raise _failure(answer)

    def log(self, id: JobId, log: str) -> str:
        """Where the job script writes it: ``log`` with the number, which is not in the id, in it."""
        return log


def _job(row: Sequence[str]) -> Job:
    job_id, name, state, result, code, note = (*row, "")[:6]
    if state not in STATES:
        raise Garbled(f"flux jobs shows {job_id} in the unknown state {state!r}")
    if STATES[state] is not JobState.ENDED:
        return Job(JobId(job_id), name, STATES[state], note.strip())
    exit_code = None if code in ("-", NEVER_RAN) else int(code)
    told = {"CANCELED": "cancelled", "TIMEOUT": "walltime exceeded"}.get(result, f"exit code {exit_code}")
    return Job(JobId(job_id), name, JobState.ENDED, note.strip() or told, exit_code)


def _failure(answer: Answer) -> Exception:
    away = re.search(r"unable to connect|connection refused|timed out", answer.said, re.I)
    return (Unavailable if away else Rejected)(answer.said, command=answer.argv, exit_code=answer.exit_code)
