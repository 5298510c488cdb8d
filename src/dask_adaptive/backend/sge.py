"""The language of Grid Engine: SGE, Son of Grid Engine, Univa's and Altair's. Pure.

Jobs are always arrays, with ids such as ``9.1``. What ended leaves the list at once; the accounting file tells how,
some seconds later. Without ``-notify`` jobs are killed unwarned.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dask_adaptive.backend.dialect import STARTED, TAG, Answer, Call, Directive
from dask_adaptive.errors import Ambiguous, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Sge"]

ONE_HOST = ("smp", "shm", "shared", "threaded", "threads", "openmp", "omp")  # usual names of parallel environments
ARRAY = re.compile(r"(?:^|Your job-array )(\d+)\.\d+-\d+:", re.MULTILINE)  # by -terse, or, with a warning, in words
AWAY = re.compile("commlib error|unable to (?:send message to|contact) qmaster")
REFUSALS = {
    re.compile("reading answer list|failed receiving gdi request|got read error"): Ambiguous,
    AWAY: Unavailable,
    re.compile(r"only \d+ jobs are allowed per"): NoCapacity,
}
GONE = re.compile("does not exist|already in deletion|has registered|has deleted")
WORDS, ENDED = ("taskid", "jobnumber", "exit_status", "failed"), re.compile(r"[1-9]\d* \d+ \d+(?!\w).* \d")


@dataclass(frozen=True)
class Sge:
    """Jobs of Grid Engine.

    Parameters
    ----------
    parallel_environment:
        What a job of several slots asks for. Default: the site's, if it has a common name.
    memory_resource:
        The resource by which memory is asked for; empty: not at all.
    gpu_resource:
        The resource by which GPUs are asked for.
    """

    options = ("parallel_environment", "memory_resource", "gpu_resource")
    parallel_environment: str = ""
    memory_resource: str = "mem_free"
    gpu_resource: str = "gpu"
    environments: tuple[str, ...] = ()  # from here on: what the site has, as probed
    consumable: Mapping[str, str] = field(default_factory=dict)
    largest: int = 75_000
    lag_s: float = 20.0

    name, prefix, index, first = "sge", "#$", "${SGE_TASK_ID}", 1
    attempt = f'$([ "${{RESTARTED:-0}}" = 0 ] && echo 0 || echo "{STARTED}")'  # it tells that, not how often
    poll_s, lists_ended = 2.0, False

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
        request, shape = spec.request, spec.shape
        if request.nodes > 1:
            raise Rejected("Grid Engine gives slots, not hosts: ask with directives=('-pe NAME SLOTS',)")
        if re.search("[,:$]", log):
            raise Rejected(f"Grid Engine cannot write to {log!r}: it has one of ',:$' in it")
        slots = request.cores or shape.job_threads
        memory = self.memory_resource if self.memory_resource in (self.consumable or [self.memory_resource]) else ""
        mebibytes = (request.memory_bytes or shape.workers * shape.memory_bytes) / 2**20
        theirs = {*request.skip, *(text.partition(" ")[0] for text in request.directives)}
        _, _, shell = request.shebang.partition("/env ")
        asked = [
            Directive("-S", f"/bin/{shell.split()[0]}" if shell else request.shebang[2:].split()[0]),
            *(Directive("-cwd"), Directive("-notify"), Directive("-j", "y")),
            Directive("-o", _word(log.replace("%", "$TASK_ID"))),
            request.queue and Directive("-q", _word(request.queue)),
            request.account and Directive("-P", _word(request.account)),
            request.walltime_s and Directive("-l h_rt", str(math.ceil(request.walltime_s)), "="),
            slots > 1 and "-pe" not in theirs and Directive("-pe", f"{self._environment(slots)} {slots}"),
            mebibytes and memory and Directive("-l", f"{self._amount(memory, mebibytes, slots)}M"),
            spec.gpus and Directive("-l", self._amount(self.gpu_resource, spec.gpus * shape.workers, slots)),
        ]
        return [each for each in asked if isinstance(each, Directive)]

    def _environment(self, slots: int) -> str:
        for name in (self.parallel_environment, *ONE_HOST):
            if name and (name == self.parallel_environment or name in (self.environments or ONE_HOST)):
                return name
        raise Rejected(f"{slots} slots need parallel_environment=; the site has {', '.join(self.environments)}")

    def _amount(self, resource: str, amount: float, slots: int) -> str:
        # what slots consume is counted for each slot
        return f"{resource}={math.ceil(amount / slots if self.consumable.get(resource) == 'YES' else amount)}"

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """Always an array; the script goes over standard input."""
        throttle = ("-tc", str(spec.request.throttle)) if spec.request.throttle else ()
        return Call(("qsub", "-terse", "-N", tag, "-t", f"1-{count}", *throttle), stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """A warning makes qsub exit with 1 although the jobs are submitted."""
        found = ARRAY.search(f"{answer.stdout}\n{answer.stderr}")
        if found:
            return [JobId(f"{found[1]}.{task}") for task in range(1, count + 1)]
        other = Rejected if answer.exit_code else Garbled
        kind = next((kind for words, kind in REFUSALS.items() if words.search(answer.stderr)), other)
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
        names = ("JB_name", "JB_job_number", "tasks", "state")
        rows = [[row.findtext(each, "") for each in names] for row in root.iter("job_list")]
        ours = [row for row in rows if TAG.fullmatch(row[0]) and row[2].isdigit()]
        return [Job(JobId(f"{n}.{task}"), f"{tag}.{int(task) - 1}", *_state(word)) for tag, n, task, word in ours]

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """One question for each array: of a list qacct reads only the first number."""
        return [Call(("qacct", "-j", number)) for number in dict.fromkeys(each.partition(".")[0] for each in ids)]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The last word on each task: one that was started again has several."""
        said = re.split("(?m)^=+$", "\n".join(answer.stdout for answer in answers))
        told = ({line[:13].strip(): line[13:].strip() for line in record.splitlines()} for record in said)
        whole = [each for each in told if ENDED.match(" ".join(each.get(word, "-") for word in WORDS))]
        return list({(job := _ended(words)).id: job for words in whole}.values())

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """What is no id of ours is not said: it would be taken for the name of somebody's job."""
        words = [each for each in ids if re.fullmatch(r"\d+\.\d+", each)]
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


def _word(text: str) -> str:
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
    job, name = f"{words['jobnumber']}.{words['taskid']}", f"{words.get('jobname')}.{int(words['taskid']) - 1}"
    return Job(JobId(job), name, JobState.ENDED, reason.strip(), code if code or failed.strip() == "0" else None)
