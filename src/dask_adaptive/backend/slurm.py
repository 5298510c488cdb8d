"""Slurm: sbatch, squeue, scancel, and sacct where there is accounting.

Written after the manual pages of Slurm (https://slurm.schedmd.com) and recordings of 22.05 (tests/recorded/slurm).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dask_adaptive.backend.dialect import TAG, Answer, Call, Directive
from dask_adaptive.errors import Ambiguous, BackendError, Garbled, NoCapacity, Rejected, Throttled, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Slurm"]

_COLUMNS = {"JobArrayID": 48, "State": 24, "exit_code": 12, "StartTime": 24, "TimeLeft": 24, "Reason": 64, "Name": 64}
"""What squeue is asked for, with widths, which every version keeps. A name may be anything, so it comes last."""

_HIDING = [f"SQUEUE_{word}" for word in ("ACCOUNT", "LICENSES", "NAMES", "PARTITION", "QOS", "SORT", "STATES")]
"""Variables of the user's that would make the list a part, as would hidden partitions (``-a`` shows those)."""

_WORDS = {
    JobState.QUEUED: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobState.RUNNING: "RUNNING SUSPENDED STOPPED RESIZING SIGNALING",
    JobState.ENDING: "COMPLETING STAGE_OUT",
    JobState.ENDED: "COMPLETED FAILED CANCELLED PREEMPTED TIMEOUT NODE_FAIL BOOT_FAIL OUT_OF_MEMORY DEADLINE REVOKED",
}
_STATES = {word: state for state, words in _WORDS.items() for word in words.split()}
"""Job state codes: squeue(1)."""

_ERRORS: Sequence[tuple[Callable[..., BackendError], str]] = (
    (Unavailable, "Unable to contact slurm controller|Connection refused|Zero Bytes were transmitted|Invalid user"),
    (Ambiguous, "timed out|Unexpected message received"),
    (partial(Throttled, retry_after_s=30.0), "temporarily un|rate limit|RPC limit"),
    (NoCapacity, "violates accounting/QOS policy|[Ss]ubmit ?(Job|limit)|Invalid job array specification"),
)
"""What is said where no job was made, or it is not known; anything else is a refusal."""


@dataclass(frozen=True)
class Slurm:
    """Jobs of Slurm. ``largest`` and ``accounting`` are learned from the controller's configuration."""

    options = ()
    name: str = "slurm"
    prefix: str = "#SBATCH"
    index: str = "${SLURM_ARRAY_TASK_ID:-0}"
    first: int = 0
    attempt: str = "${SLURM_RESTART_COUNT:-0}"
    lag_s: float = 2.0
    poll_s: float = 5.0
    largest: int = 1001
    accounting: bool = False

    def probe(self) -> Sequence[Call]:
        """See ``Dialect``."""
        return [Call(("scontrol", "show", "config"))]

    def probed(self, answers: Sequence[Answer]) -> Slurm:
        """A site that does not let us look has the usual limits."""
        answer = answers[0]
        if answer.exit_code and isinstance(_error(answer), Unavailable | Ambiguous):
            raise Unavailable(answer.said, command=answer.argv, exit_code=answer.exit_code)
        settings = dict(re.findall(r"(?m)^(\w+)\s*=\s*(.*?)\s*$", answer.stdout))
        largest = max(1, int(settings.get("MaxArraySize", self.largest)))
        return replace(self, largest=largest, accounting="slurmdbd" in settings.get("AccountingStorageType", ""))

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """See ``Dialect``."""
        request, shape = spec.request, spec.shape
        nodes = max(1, request.nodes)
        tasks = max(nodes, shape.workers if request.launcher else 1)
        mebibytes = math.ceil((request.memory_bytes or shape.workers * shape.memory_bytes) / nodes / 2**20)
        minutes = math.ceil(request.walltime_s / 60)  # Slurm counts whole ones
        wanted = (
            ("-p", request.queue and shlex.quote(request.queue), " "),
            ("-A", request.account and shlex.quote(request.account), " "),
            ("-t", minutes and f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00", " "),
            ("-N", nodes > 1 and str(nodes), " "),
            ("-n", str(tasks), " "),
            ("--cpus-per-task", str(math.ceil((request.cores or shape.job_threads) / tasks)), "="),
            ("--mem", mebibytes and f"{mebibytes}M", "="),
            ("--gres", spec.gpus and f"gpu:{math.ceil(spec.gpus * shape.workers / nodes)}", "="),
            ("-o", shlex.quote(log.replace("%", "%a" if self.largest > 1 else "0")), " "),
            ("--open-mode", "append", "="),
        )
        return [Directive(key, str(value), joint) for key, value, joint in wanted if value]

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """Always an array, so that ids and outputs are alike; but where the site does not have arrays."""
        throttle = f"%{spec.request.throttle}" if spec.request.throttle else ""
        array = (f"--array=0-{count - 1}{throttle}",) if self.largest > 1 else ()
        return Call(("sbatch", "--parsable", "-J", tag, *array), stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """See ``Dialect``."""
        if answer.exit_code:
            raise _error(answer)
        found = re.findall(r"(?m)^\s*(\d+)(?:;\S+)?\s*$", answer.stdout)
        if len(found) != 1:
            raise Garbled(f"sbatch gave no job id: {answer.said}", command=answer.argv)
        return [JobId(f"{found[0]}_{i}" if self.largest > 1 else found[0]) for i in range(count)]

    def query(self, user: str) -> Sequence[Call]:
        """See ``Dialect``."""
        columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
        argv = ("squeue", "-h", "-r", "-t", "all", "-u", user, "-a", "-O", columns)
        return [Call(argv, environment=dict.fromkeys(_HIDING))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """See ``Dialect``."""
        (answer,) = answers
        if answer.exit_code or not isinstance(_error(answer), Rejected):  # it has been seen to exit with 0 and an error
            raise Unavailable(answer.said, command=answer.argv, exit_code=answer.exit_code)
        return list(_jobs(answer.stdout))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """See ``Dialect``."""
        argv = ("sacct", "-n", "-P", "-X", "-j", ",".join(ids), "-o", "JobID,JobName,ExitCode,State")
        return [Call(argv)] if self.accounting else []

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """See ``Dialect``."""
        found = []
        for line in "".join(answer.stdout for answer in answers).splitlines():
            job_id, tag, code, state = (*line.split("|"), "", "", "")[:4]
            word = state.split(" ")[0]  # "CANCELLED by 1000"
            if TAG.fullmatch(tag) and _STATES.get(word) is JobState.ENDED:
                exit_code, _, signal = code.partition(":")
                found.append(_job(job_id, tag, word, int(exit_code) << 8 | int(signal), ""))
        return found

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """One word for each array: ``11_[0,3,4]``."""
        arrays: dict[str, list[str]] = {}
        for job_id in ids:
            array, _, element = job_id.partition("_")
            arrays.setdefault(array, []).extend([element] if element else [])
        words = [f"{array}_[{','.join(elements)}]" if elements else array for array, elements in arrays.items()]
        return [Call(("scancel", *words))]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """See ``Dialect``."""
        for answer in answers:
            bad = [
                line for line in answer.stderr.splitlines() if not re.search("Invalid job id specified|already", line)
            ]
            if answer.exit_code and bad:
                kind = Rejected if "denied" in answer.stderr else Unavailable
                raise kind(answer.said, command=answer.argv, exit_code=answer.exit_code)

    def log(self, id: JobId, log: str) -> str:
        """See ``Dialect``."""
        return log.replace("%", id.partition("_")[2] or "0")


def _jobs(listing: str) -> Iterator[Job]:
    for line in listing.splitlines():
        cells, at = [], 0
        for width in _COLUMNS.values():
            cells.append(line[at : at + width].strip())
            at += width
        job_id, state, status, start, left, reason, tag = cells
        if not TAG.fullmatch(tag):
            continue
        if state not in _STATES or not status.isdigit():
            raise Garbled(f"squeue gave a line that is not understood: {line.strip()!r}")
        job = _job(job_id, tag, state, int(status), "" if reason == "None" else reason, start)
        clock = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", left) if state == "RUNNING" else None
        if clock:
            days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
            job = replace(job, left_s=((days * 24 + hours) * 60.0 + minutes) * 60 + seconds)
        yield job


def _job(job_id: str, tag: str, word: str, status: int, reason: str, start: str = "") -> Job:
    """A job from Slurm's words for it; ``status`` is as of wait(2)."""
    state, exit_code = _STATES[word], None
    if state is JobState.ENDED:
        exit_code = {"COMPLETED": 0, "FAILED": status >> 8 or 128 + (status & 127)}.get(word)
        if word == "FAILED" and reason in ("", "NonZeroExitCode"):
            reason = f"exit code {exit_code}"
    elif word == "PENDING" and start[:1].isdigit():
        reason = f"{reason}; expected to start {start[:16]}"
    if word not in ("PENDING", "RUNNING", "COMPLETED", "FAILED"):
        reason = f"{word} ({reason})" if reason else word
    return Job(JobId(job_id), f"{tag}.{job_id.partition('_')[2] or 0}", state, reason, exit_code)


def _error(answer: Answer) -> BackendError:
    """What an answer that is no success means."""
    kind = next((kind for kind, words in _ERRORS if re.search(words, answer.stderr)), Rejected)
    return kind(answer.said, command=answer.argv, exit_code=answer.exit_code)
