"""The language of Grid Engine: SGE, Son of Grid Engine, Univa's and Altair's. Pure.

Jobs are always arrays, a single one too, so that each has an id such as ``9.1``. A job leaves the list the moment it
ends; how it ended is written to the accounting file some seconds later. Without ``-notify`` jobs are killed unwarned.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar

from dask_adaptive.backend.dialect import TAG, Answer, Call, Directive
from dask_adaptive.errors import Ambiguous, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Request, Spec

__all__ = ["Sge"]

ONE_HOST = ("smp", "shm", "shared", "threaded", "threads", "openmp", "omp")
"""Names that sites give to a parallel environment whose slots are all on one host."""

ID = re.compile(r"(\d+)\.(\d+)")
ARRAY = re.compile(r"(?:^|Your job-array )(\d+)\.(\d+)-(\d+):(\d+)", re.MULTILINE)
"""As ``-terse`` has it, or, where qsub warns of something and submits all the same, in a sentence."""

UNSURE = re.compile("reading answer list|failed receiving gdi request|got read error")
AWAY = re.compile("commlib error|unable to (?:send message to|contact) qmaster")
FULL = re.compile(r"only \d+ jobs are allowed per")
COLUMNS = ("JB_name", "JB_job_number", "tasks", "state")
GONE = re.compile("does not exist|already in deletion|has registered|has deleted")


@dataclass(frozen=True)
class Sge:
    """Grid Engine.

    Parameters
    ----------
    parallel_environment:
        What a job of several slots asks for. Default: the site's, if it has a common name.
    memory_resource:
        The resource by which memory is asked for; empty: not at all.
    gpu_resource:
        The resource by which GPUs are asked for.

    Notes
    -----
    The other fields are learned: the site's parallel environments, how each resource is consumed, the largest array,
    how late the accounting file may be.
    """

    options: ClassVar[tuple[str, ...]] = ("parallel_environment", "memory_resource", "gpu_resource")

    parallel_environment: str = ""
    memory_resource: str = "mem_free"
    gpu_resource: str = "gpu"
    environments: tuple[str, ...] = ()
    consumable: Mapping[str, str] = field(default_factory=dict)
    largest: int = 75_000
    lag_s: float = 20.0

    name = "sge"
    prefix = "#$"
    index = "${SGE_TASK_ID}"
    first = 1
    attempt = '$([ "${RESTARTED:-0}" = 0 ] && echo 0 || date +%s)'  # it tells that, not how often
    poll_s = 2.0
    lists_ended = False

    def probe(self) -> Sequence[Call]:
        """Which parallel environments, resources and limits the site has."""
        return [Call(("qconf", option)) for option in ("-spl", "-sc", "-sconf")]

    def probed(self, answers: Sequence[Answer]) -> Sge:
        """What qconf did not tell stays as it is."""
        environments, resources, limits = (answer.stdout * (answer.exit_code == 0) for answer in answers)
        rows = [line.split() for line in resources.splitlines() if not line.startswith("#")]
        most = re.search(r"^max_aj_tasks +([1-9]\d*)", limits, re.MULTILINE)
        late = re.findall(r"\bflush_time=(\d+):(\d+):(\d+)", limits)
        return replace(
            self,
            environments=tuple(environments.split()),
            consumable={row[0]: row[5] for row in rows if len(row) > 5},
            largest=int(most[1]) if most else self.largest,
            lag_s=max([5.0 + 3600 * int(h) + 60 * int(m) + int(s) for h, m, s in late], default=self.lag_s),
        )

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """The shell is said, since many queues have another one."""
        if spec.request.nodes > 1:
            raise Rejected("Grid Engine gives slots, not hosts: ask with directives=('-pe NAME SLOTS',)")
        if re.search("[,:$]", log):
            raise Rejected(f"Grid Engine cannot write to {log!r}: it has one of ',:$' in it")
        return list(self._directives(spec, spec.request, log))

    def _directives(self, spec: Spec, request: Request, log: str) -> Iterator[Directive]:
        slots = request.cores or spec.shape.job_threads
        mebibytes = (request.memory_bytes or spec.shape.workers * spec.shape.memory_bytes) / 2**20
        yield from (Directive("-S", _shell(request)), Directive("-cwd"), Directive("-notify"), Directive("-j", "y"))
        yield Directive("-o", _word(log.replace("%", "$TASK_ID")))
        if request.queue:
            yield Directive("-q", _word(request.queue))
        if request.account:
            yield Directive("-P", _word(request.account))
        if request.walltime_s:
            yield Directive("-l h_rt", str(math.ceil(request.walltime_s)), "=")
        if slots > 1 and not _says(request, "-pe"):
            yield Directive("-pe", f"{self._environment(slots)} {slots}")
        if mebibytes and self.memory_resource and self.consumable.get(self.memory_resource, not self.consumable):
            yield Directive("-l", f"{self._amount(self.memory_resource, mebibytes, slots)}M")
        if spec.gpus:
            yield Directive("-l", self._amount(self.gpu_resource, spec.gpus * spec.shape.workers, slots))

    def _environment(self, slots: int) -> str:
        known = self.environments or ONE_HOST
        for name in (self.parallel_environment, *ONE_HOST):
            if name and (name in known or name == self.parallel_environment):
                return name
        raise Rejected(f"{slots} slots need parallel_environment=; the site has {', '.join(known)}")

    def _amount(self, resource: str, amount: float, slots: int) -> str:
        """How much to ask for: what slots consume is counted for each slot."""
        return f"{resource}={math.ceil(amount / slots if self.consumable.get(resource) == 'YES' else amount)}"

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """Always an array; the script goes over standard input."""
        throttle = ("-tc", str(spec.request.throttle)) if spec.request.throttle else ()
        return Call(("qsub", "-terse", "-N", tag, "-t", f"1-{count}", *throttle), stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """A warning makes qsub exit with 1 although the jobs are submitted."""
        found = ARRAY.search(f"{answer.stdout}\n{answer.stderr}")
        if found:
            number, first, last, _ = found.groups()
            return [JobId(f"{number}.{task}") for task in range(int(first), int(last) + 1)][:count]
        if answer.exit_code == 0:
            raise Garbled(f"qsub told no job id: {answer.said}", command=answer.argv)
        kinds = {UNSURE: Ambiguous, AWAY: Unavailable, FULL: NoCapacity}
        kind = next((kind for words, kind in kinds.items() if words.search(answer.stderr)), Rejected)
        raise kind(answer.said, command=answer.argv, exit_code=answer.exit_code)

    def query(self, user: str) -> Sequence[Call]:
        """Names are whole only in XML; ``-g d``: waiting tasks one by one."""
        return [Call(("qstat", "-u", user, "-g", "d", "-xml"))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """What has ended is not listed; what is in an error state is, but it has ended for us."""
        (answer,) = answers
        if answer.exit_code != 0:
            raise Unavailable(answer.said, command=answer.argv, exit_code=answer.exit_code)
        try:
            root = ET.fromstring(answer.stdout)  # noqa: S314  it is what the site's own qstat wrote
        except ET.ParseError as error:
            raise Garbled(f"qstat wrote XML that is none: {error}", command=answer.argv) from error
        if root.tag != "job_info":
            raise Garbled(f"qstat told of {root.tag}, not of jobs", command=answer.argv)
        rows = [[row.findtext(each, "") for each in COLUMNS] for row in root.iter("job_list")]
        ours = [row for row in rows if TAG.fullmatch(row[0]) and row[2].isdigit()]
        return [Job(JobId(f"{n}.{task}"), f"{tag}.{int(task) - 1}", *_state(word)) for tag, n, task, word in ours]

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """One question for each array: of a list qacct reads only the first number."""
        return [Call(("qacct", "-j", number)) for number in dict.fromkeys(each.partition(".")[0] for each in ids)]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The last word on each task: one that was started again has several."""
        records = re.split("(?m)^=+$", "\n".join(answer.stdout for answer in answers))
        told = [{line[:13].strip(): line[13:].strip() for line in record.splitlines()} for record in records]
        jobs = [_ended(words) for words in told if words.get("taskid", "").isdigit()]
        return list({job.id: job for job in jobs}.values())

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """Neighbours in one word. What is no id of ours would be taken for the name of somebody's job."""
        pairs = sorted((int(found[1]), int(found[2])) for found in map(ID.fullmatch, ids) if found)
        words = []
        for (number, _), run in groupby(enumerate(pairs), lambda each: (each[1][0], each[1][1] - each[0])):
            tasks = [task for _, (_, task) in run]
            words.append(f"{number}.{tasks[0]}" if len(tasks) == 1 else f"{number}.{tasks[0]}-{tasks[-1]}")
        return [Call(("qdel", *words[at : at + 500])) for at in range(0, len(words), 500)]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """Errors are on standard output, one line for each job."""
        for answer in answers:
            bad = [line for line in answer.stdout.splitlines() if not GONE.search(line)]
            if answer.exit_code and (bad or not answer.stdout):
                kind = Unavailable if AWAY.search(answer.said) else Rejected
                raise kind(" ".join(bad) or answer.said, command=answer.argv, exit_code=answer.exit_code)

    def log(self, id: JobId, log: str) -> str:
        """``$TASK_ID`` is what stands behind the dot."""
        return log.replace("%", id.rpartition(".")[2])


def _says(request: Request, key: str) -> bool:
    return key in request.skip or any(text.split()[:1] == [key] for text in request.directives)


def _shell(request: Request) -> str:
    """The program of the first line; of one that ``env`` finds, where it usually is."""
    words = request.shebang.removeprefix("#!").split()
    return f"/bin/{words[1]}" if len(words) > 1 and words[0].endswith("/env") else words[0]


def _word(text: str) -> str:
    """One word of a directive line."""
    if '"' in text:
        raise Rejected(f"Grid Engine cannot be told of {text!r}: it has a quotation mark in it")
    return text if re.fullmatch(r"[\w@%+=./*|!&$-]+", text) else f'"{text}"'


def _state(letters: str) -> tuple[JobState, str]:
    """What its letters say; see qstat's manual, "state"."""
    if "E" in letters:
        return JobState.ENDED, f"in error state ({letters}): Grid Engine could not start it and will not try again"
    if "d" in letters:
        return JobState.ENDING, "being deleted"
    if "q" in letters:
        return JobState.QUEUED, "held" if "h" in letters else "to be started again" if "R" in letters else ""
    return JobState.RUNNING, "suspended" if set(letters) & set("sST") else ""


def _ended(words: Mapping[str, str]) -> Job:
    """``failed 100``: a signal ended it; other numbers stand for reasons of Grid Engine's own."""
    code, (failed, _, reason) = int(words["exit_status"].split()[0]), words["failed"].partition(":")
    if failed.strip() == "100" and code > 128:
        reason = f"killed by signal {code - 128}"
    job, name = f"{words['jobnumber']}.{words['taskid']}", f"{words['jobname']}.{int(words['taskid']) - 1}"
    return Job(JobId(job), name, JobState.ENDED, reason.strip(), code if code or failed.strip() == "0" else None)
