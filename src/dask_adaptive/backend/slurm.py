"""Slurm: sbatch, squeue, scancel, and sacct where there is accounting.

Written after the manual pages of Slurm (https://slurm.schedmd.com) and recordings of 22.05 (tests/recorded/slurm).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dask_adaptive.backend.dialect import TAG, Answer, Call, Directive
from dask_adaptive.errors import Ambiguous, Garbled, NoCapacity, Rejected, Throttled, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Slurm"]

_COLUMNS = {"JobArrayID": 48, "State": 24, "exit_code": 12, "StartTime": 24, "Reason": 64, "Name": 64}
"""What squeue is asked for, with widths, which every version keeps. A name may be anything, so it comes last."""

_QUEUED = "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT"
_RUNNING = "RUNNING SUSPENDED STOPPED RESIZING SIGNALING"
_ENDING = "COMPLETING STAGE_OUT"
_ENDED = "COMPLETED FAILED CANCELLED PREEMPTED TIMEOUT NODE_FAIL BOOT_FAIL OUT_OF_MEMORY DEADLINE REVOKED"
_STATES: Mapping[str, JobState] = {
    **dict.fromkeys(_QUEUED.split(), JobState.QUEUED),
    **dict.fromkeys(_RUNNING.split(), JobState.RUNNING),
    **dict.fromkeys(_ENDING.split(), JobState.ENDING),
    **dict.fromkeys(_ENDED.split(), JobState.ENDED),
}
"""Job state codes: squeue(1)."""

_AWAY = ("Unable to contact slurm controller", "Connection refused", "Zero Bytes were transmitted")
_SILENT = ("timed out", "Unexpected message received")
_LATER = ("temporarily unable to accept", "Resource temporarily unavailable", "rate limit", "RPC limit")
_LIMITS = ("Job violates accounting/QOS policy", "submit limit", "SubmitJob", "Invalid job array specification")
_ID = re.compile(r"(\d+)(?:;\S+)?")


@dataclass(frozen=True)
class Slurm:
    """``largest`` and ``accounting`` are learned from the controller's configuration."""

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
        (answer,) = answers
        if answer.exit_code:
            _raise_if_away(answer)
            return self
        settings = dict(re.findall(r"(?m)^(\w+)\s*=\s*(.*?)\s*$", answer.stdout))
        size = settings.get("MaxArraySize", "")
        kept = settings.get("AccountingStorageType", "accounting_storage/none")
        return replace(
            self,
            largest=max(1, int(size)) if size.isdigit() else self.largest,
            accounting=not kept.endswith(("none", "(null)")),
        )

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """See ``Dialect``."""
        return list(self._directives(spec, log))

    def _directives(self, spec: Spec, log: str) -> Iterator[Directive]:
        request, shape = spec.request, spec.shape
        nodes = max(1, request.nodes)
        tasks = shape.workers if request.launcher else 1
        cores = request.cores or shape.job_threads
        memory_bytes = request.memory_bytes or shape.workers * shape.memory_bytes
        if request.queue:
            yield Directive("-p", shlex.quote(request.queue))
        if request.account:
            yield Directive("-A", shlex.quote(request.account))
        if request.walltime_s:
            yield Directive("-t", _clock(request.walltime_s))
        if nodes > 1:
            yield Directive("-N", str(nodes))
        yield Directive("-n", str(tasks))
        yield Directive("--cpus-per-task", str(math.ceil(cores / tasks)), "=")
        if memory_bytes:
            yield Directive("--mem", f"{math.ceil(memory_bytes / nodes / 2**20)}M", "=")
        if spec.gpus:
            yield Directive("--gres", f"gpu:{math.ceil(spec.gpus * shape.workers / nodes)}", "=")
        yield Directive("-o", shlex.quote(log.replace("%", "%a" if self.largest > 1 else "0")))
        yield Directive("--open-mode", "append", "=")

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """Always an array, so that ids and outputs are alike; but where the site does not have arrays."""
        throttle = f"%{spec.request.throttle}" if spec.request.throttle else ""
        array = (f"--array=0-{count - 1}{throttle}",) if self.largest > 1 else ()
        return Call(("sbatch", "--parsable", "-J", tag, *array), stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """See ``Dialect``."""
        if answer.exit_code:
            _raise_if_away(answer)
            raise _refusal(answer)
        found = [match.group(1) for line in answer.stdout.splitlines() if (match := _ID.fullmatch(line.strip()))]
        if len(found) != 1:
            raise Garbled(f"sbatch gave no job id: {answer.said}", command=answer.argv)
        return [JobId(f"{found[0]}_{i}" if self.largest > 1 else found[0]) for i in range(count)]

    def query(self, user: str) -> Sequence[Call]:
        """See ``Dialect``."""
        columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
        return [Call(("squeue", "-h", "-r", "-t", "all", "-u", user, "-O", columns))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """See ``Dialect``."""
        (answer,) = answers
        if answer.exit_code or "error" in answer.stderr:  # it has been seen to exit with 0 and an error
            raise Unavailable(f"squeue: {answer.said}", command=answer.argv, exit_code=answer.exit_code)
        return list(_jobs(answer.stdout))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """See ``Dialect``."""
        if not self.accounting:
            return []
        return [Call(("sacct", "-n", "-P", "-X", "-j", ",".join(ids), "-o", "JobID,JobName,ExitCode,State"))]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """See ``Dialect``."""
        found = []
        for line in "".join(answer.stdout for answer in answers).splitlines():
            job_id, _, rest = line.partition("|")
            tag, _, rest = rest.partition("|")
            code, _, state = rest.partition("|")
            word = state.split(" ")[0].rstrip("+")  # "CANCELLED by 1000"
            if _STATES.get(word) is JobState.ENDED and TAG.fullmatch(tag):
                exit_code, _, signal = code.partition(":")
                found.append(_job(job_id, tag, word, int(exit_code) << 8 | int(signal or 0), ""))
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
            bad = [line for line in answer.stderr.splitlines() if "nvalid job id" not in line and "already" not in line]
            if answer.exit_code and bad:
                kind = Rejected if "denied" in answer.stderr else Unavailable
                raise kind(f"scancel: {answer.said}", command=answer.argv, exit_code=answer.exit_code)

    def log(self, id: JobId, log: str) -> str:
        """See ``Dialect``."""
        return log.replace("%", id.partition("_")[2] or "0")


def _jobs(listing: str) -> Iterator[Job]:
    for line in listing.splitlines():
        cells, at = [], 0
        for width in _COLUMNS.values():
            cells.append(line[at : at + width].strip())
            at += width
        job_id, state, status, start, reason, tag = cells
        if not TAG.fullmatch(tag):
            continue
        if state not in _STATES or not status.isdigit():
            raise Garbled(f"squeue gave a line that is not understood: {line.strip()!r}")
        yield _job(job_id, tag, state, int(status), "" if reason == "None" else reason, start)


def _job(id: str, tag: str, word: str, status: int, reason: str, start: str = "N/A") -> Job:
    """A job from Slurm's words for it; ``status`` is as of wait(2)."""
    state, exit_code = _STATES[word], None
    if state is JobState.QUEUED and start[:1].isdigit():
        reason = f"{reason}; expected to start {start[:16]}"
    elif state is JobState.ENDED:
        exit_code = {"COMPLETED": 0, "FAILED": status >> 8 or 128 + (status & 127)}.get(word)
        if word == "FAILED" and reason in ("", "NonZeroExitCode"):
            reason = f"exit code {exit_code}"
        elif word not in ("FAILED", "COMPLETED"):
            reason = word if reason in ("", word) else f"{word} ({reason})"
    elif word not in ("PENDING", "RUNNING"):
        reason = f"{word} {reason}".strip()
    return Job(JobId(id), f"{tag}.{id.partition('_')[2] or 0}", state, reason, exit_code)


def _raise_if_away(answer: Answer) -> None:
    said = answer.said
    if any(word in said for word in _AWAY):
        raise Unavailable(said, command=answer.argv, exit_code=answer.exit_code)
    if any(word in said for word in _SILENT):
        raise Ambiguous(said, command=answer.argv, exit_code=answer.exit_code)


def _refusal(answer: Answer) -> Rejected | NoCapacity | Throttled:
    said = answer.said
    if any(word in said for word in _LATER):
        return Throttled(said, retry_after_s=30.0, command=answer.argv, exit_code=answer.exit_code)
    kind = NoCapacity if any(word in said for word in _LIMITS) else Rejected
    return kind(said, command=answer.argv, exit_code=answer.exit_code)


def _clock(seconds: float) -> str:
    """``days-hours:minutes:seconds``; Slurm counts whole minutes, so nothing is cut off."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"
