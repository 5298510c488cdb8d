"""HTCondor: ``condor_submit``, ``condor_q``, ``condor_history`` and ``condor_rm``. Pure.

Recorded from HTCondor 25.14 (``tests/recorded/htcondor``), read with its manual (https://htcondor.readthedocs.io). What
the recordings teach: no jobs are an empty answer, not an empty list; a job that ended leaves ``condor_q`` at once; what
goes wrong at start puts a job on hold, where it would stay for ever; ``condor_rm`` signals the process on top only and
waits ten minutes, unless told otherwise; one with ids that are gone fails, with a line for each; a warning is no error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dask_adaptive.backend.dialect import STARTED, TAG, Answer, Call, Directive
from dask_adaptive.errors import BackendError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Request, Spec

__all__ = ["HTCondor"]

STATES = {
    **dict.fromkeys((1,), JobState.QUEUED),
    **dict.fromkeys((2, 7), JobState.RUNNING),  # 7: suspended
    **dict.fromkeys((3, 6), JobState.ENDING),  # 3: removed, while its processes live; 6: output on its way
    **dict.fromkeys((4, 5), JobState.ENDED),  # 5: held
}
"""JobStatus: manual, "Job ClassAd Attributes"."""

ATTRIBUTES = (
    "ClusterId,ProcId,JobStatus,JobBatchName,ExitCode,ExitBySignal,ExitSignal,HoldReason,LastHoldReason,RemoveReason,"
    "LastRejMatchReason"
)
AWAY = re.compile(r"failed to connect|failed to fetch ads|communication error|SECMAN:|CEDAR:", re.I)
TOO_MANY = re.compile(r"MAX_JOBS|would exceed", re.I)
OVER = re.compile(r"not found|couldn't find/remove all jobs|no jobs in the queue|already", re.I)
GRACE_S = 30
AT_ONCE = 1000  # ids in one command: one that goes over SSH has to fit into 128 KiB


@dataclass(frozen=True)
class HTCondor:
    """Jobs of HTCondor. Directives are lines of the submit description, such as ``requirements = HasGlibc``.

    The job script is a private file, and redirects its output itself: both have to be on a file system that jobs see.
    """

    options: ClassVar[tuple[str, ...]] = ()

    name: str = "htcondor"
    prefix: str = ""
    index: str = "${DASK_ADAPTIVE_INDEX:-0}"
    first: int = 0
    attempt: str = STARTED  # a job is not told how often it was started
    lag_s: float = 5.0
    poll_s: float = 5.0
    largest: int = 5000
    lists_ended: bool = False  # but what is held

    def probe(self) -> Sequence[Call]:
        """Nothing: what differs between versions is not used."""
        return []

    def probed(self, answers: Sequence[Answer]) -> HTCondor:  # noqa: ARG002
        """Itself."""
        return self

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:  # noqa: ARG002
        """Lines of the submit description. The walltime is kept by HTCondor (``allowed_execute_duration``)."""
        request, shape = spec.request, spec.shape
        memory_bytes = request.memory_bytes or shape.workers * shape.memory_bytes
        asked = {
            "request_cpus": request.cores or shape.job_threads,
            "request_memory": -(-memory_bytes // 2**20),  # MiB
            "request_gpus": spec.gpus * shape.workers,
            "allowed_execute_duration": int(-(-request.walltime_s // 1)),
            "accounting_group": request.account,
            "job_max_vacate_time": GRACE_S,
            "periodic_remove": "JobStatus == 5",  # what is held failed, and would stay for ever
        }
        return [Directive(key, str(value), " = ") for key, value in asked.items() if value]

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """One cluster of ``count`` jobs, described on standard input."""
        interpreter, _, option = spec.request.shebang.removeprefix("#!").strip().partition(" ")
        lines = [
            "universe = vanilla",
            f"batch_name = {tag}",
            f"executable = {interpreter}",
            f"arguments = \"{option} '{{script}}'\"",
            "transfer_executable = false",
            'environment = "DASK_ADAPTIVE_INDEX=$(Process)"',
            *self._lines(spec),
            f"queue {count}",
        ]
        return Call(("condor_submit",), stdin="\n".join(lines) + "\n", files={"script": script})

    def _lines(self, spec: Spec) -> Sequence[str]:
        """Our directives without those that the user leaves out or brings, then the user's."""
        _refuse(spec.request)
        own = spec.request.directives
        dropped = {line.partition("=")[0].strip().lower() for line in (*spec.request.skip, *own)}
        return [*(str(each) for each in self.directives(spec, "") if each.key not in dropped), *own]

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """``17.0`` and so on, from ``10 job(s) submitted to cluster 17.``"""
        if answer.exit_code != 0:
            raise _failure(answer, NoCapacity if TOO_MANY.search(answer.said) else Rejected)
        found = re.findall(r"^(\d+) job\(s\) submitted to cluster (\d+)\.$", answer.stdout, re.M)
        if len(found) != 1:
            raise Garbled(f"condor_submit named no cluster: {answer.said}", command=answer.argv)
        return [JobId(f"{found[0][1]}.{i}") for i in range(min(count, int(found[0][0])))]

    def query(self, user: str) -> Sequence[Call]:
        """The queue of this user."""
        return [Call(("condor_q", user, "-json", "-attributes", ATTRIBUTES))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The jobs with a name of ours. An empty answer is an empty queue."""
        (answer,) = answers
        if answer.exit_code != 0:
            raise _failure(answer, Unavailable)
        return list(_jobs(answer))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """The history; of those that are not in it the whole of it is read."""
        return [Call(("condor_history", *ids, "-limit", str(len(ids)), "-json", "-attributes", ATTRIBUTES))]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """Those that completed or were removed."""
        return [job for answer in answers if answer.exit_code == 0 for job in _jobs(answer, over=True)]

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """``condor_rm``, with many ids at once."""
        return [Call(("condor_rm", *list(ids)[i : i + AT_ONCE])) for i in range(0, len(ids), AT_ONCE)]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """That a job was not found is fine; nothing else may have been said."""
        for answer in answers:
            said = [line for line in answer.stderr.splitlines() if line.strip()]
            if answer.exit_code != 0 and (AWAY.search(answer.said) or not said or not all(map(OVER.search, said))):
                raise _failure(answer, Rejected)

    def log(self, id: JobId, log: str) -> str:
        """Where the job script wrote it."""
        return log.replace("%", id.partition(".")[2])


def _refuse(request: Request) -> None:  # nothing is taken and then ignored
    if request.queue:
        raise Rejected("HTCondor has no queues: say which machines with a line 'requirements = ...' in directives")
    if request.nodes > 1:
        raise Rejected("a job of HTCondor is on one machine: nodes must be 1")
    if request.throttle:
        raise Rejected("HTCondor does not list the jobs that a throttle holds back: use the maximum of the pool")
    if any(re.match(r"queue\b", line.strip(), re.I) for line in request.directives):
        raise Rejected("how many jobs are queued is not for directives to say")
    if re.search(r"[\n$\"']", request.account + request.shebang):
        raise Rejected("quotes and '$' cannot be in the account or the shebang of a job of HTCondor")


def _jobs(answer: Answer, *, over: bool = False) -> Iterator[Job]:
    """The jobs in JSON; ``over``: these left the queue, so that "removed" is an end."""
    try:
        found: list[Mapping[str, Any]] = json.loads(answer.stdout) if answer.stdout.strip() else []
        for about in found:
            name, status = str(about.get("JobBatchName", "")), int(about["JobStatus"])
            if TAG.fullmatch(name):
                state = JobState.ENDED if over else STATES[status]
                code, reason = _end(about, status) if state is JobState.ENDED else (None, _waiting(about, status))
                yield Job(
                    JobId(f"{about['ClusterId']}.{about['ProcId']}"), f"{name}.{about['ProcId']}", state, reason, code
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Garbled(f"{answer.argv[0]} printed what is no list of jobs: {error!r}", command=answer.argv) from error


def _waiting(about: Mapping[str, Any], status: int) -> str:
    return {1: str(about.get("LastRejMatchReason", "")), 3: "removed", 7: "suspended"}.get(status, "")


def _end(about: Mapping[str, Any], status: int) -> tuple[int | None, str]:
    if status == 5:
        return None, f"held: {about.get('HoldReason', 'no reason is told')}"
    if status == 3:
        why = str(about.get("RemoveReason", ""))
        return None, f"held: {about.get('LastHoldReason')}" if "PeriodicRemove" in why else f"removed {why}".strip()
    if about.get("ExitBySignal"):
        return -int(about["ExitSignal"]), f"killed by signal {about['ExitSignal']}"
    return int(about["ExitCode"]), f"exit code {about['ExitCode']}"


def _failure(answer: Answer, kind: type[Unavailable | NoCapacity | Rejected]) -> BackendError:
    kind = Unavailable if AWAY.search(answer.said) else kind
    return kind(answer.said, command=answer.argv, exit_code=answer.exit_code)
