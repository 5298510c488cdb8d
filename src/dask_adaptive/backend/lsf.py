"""The language of LSF, and of OpenLava, which speaks an older form of it. Pure.

Jobs are always arrays, a single one too, so that each has an id such as ``106[7]``. The list has what did not end;
how a job ended is asked for by its id. OpenLava's ``bjobs -UF`` is not used: it reads job scripts as formats of printf.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from dask_adaptive.backend.dialect import TAG, Answer, Call, Directive
from dask_adaptive.errors import Ambiguous, ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Lsf"]

QUIET = {"LSB_NTRIES": "2"}
"""Without it, commands go on trying for ever where nothing answers."""

CONFIGURATION = 'bparams -l; cat "${LSF_ENVDIR:-/etc}/lsf.conf"; badmin showconf mbd LSF_UNIT_FOR_LIMITS; true'
FORMAT = ("-json", "-o", "jobid jobindex stat job_name exit_code exit_reason pend_reason")
UNITS = ("kb", "mb", "gb", "tb", "pb", "eb")

ID = re.compile(r"(\d+)\[(\d+)\]")
NAME = re.compile(rf"({TAG.pattern})\[(\d+)\]")
LONG = re.compile(r"Job(?: Id)? <(\d+)\[\d+\]>, Job Name <([^>]*)>.*?, Status <(\w+)>")
AWAY = re.compile("not responding|is down|try later|cannot be contacted", re.IGNORECASE)
UNSURE = re.compile("communication time|sending/receiving", re.IGNORECASE)
FULL = re.compile("array index too large|threshold reached|limit (?:has been )?reached|too many jobs", re.IGNORECASE)
GONE = re.compile("being terminated|in progress|already finished|No matching job|is not found")

STATES: Mapping[str, tuple[JobState, str]] = {
    "PEND": (JobState.QUEUED, ""),
    "WAIT": (JobState.QUEUED, ""),
    "PROV": (JobState.QUEUED, "its host is being provisioned"),
    "PSUSP": (JobState.QUEUED, "held"),
    "RUN": (JobState.RUNNING, ""),
    "USUSP": (JobState.RUNNING, "suspended by its owner or an administrator"),
    "SSUSP": (JobState.RUNNING, "suspended by the system"),
    "UNKWN": (JobState.RUNNING, "its host does not answer"),
    "ZOMBI": (JobState.ENDING, "it was ended, and its host does not answer"),
    "DONE": (JobState.ENDED, ""),
    "EXIT": (JobState.ENDED, ""),
}
"""See the manual of bjobs, "STAT"."""


@dataclass(frozen=True)
class Lsf:
    """LSF. ``units`` are those in which it counts memory; default: as it is configured, else ``"kb"``. Whether bjobs
    tells in JSON (LSF 10.1 and later) and the largest array are learned.
    """

    options: ClassVar[tuple[str, ...]] = ("units",)

    units: str = ""
    tells_json: bool = False
    largest: int = 1000

    name = "lsf"
    prefix = "#BSUB"
    index = "${LSB_JOBINDEX}"
    first = 1
    attempt = '$([ -z "${LSB_RESTART:-}" ] && echo 0 || echo $$)'  # it tells that, not how often
    lag_s = 10.0
    poll_s = 5.0

    def __post_init__(self) -> None:
        if self.units and self.units.lower() not in UNITS:
            raise ConfigError(f"units must be one of {', '.join(UNITS)}, not {self.units!r}")

    def probe(self) -> Sequence[Call]:
        """Whether bjobs knows JSON, and what is configured."""
        return [Call(("bjobs", *FORMAT), environment=QUIET), Call(("sh", "-c", CONFIGURATION), environment=QUIET)]

    def probed(self, answers: Sequence[Answer]) -> Lsf:
        """What is not told stays as it is; the last word of a configuration holds."""
        listed, configured = answers
        if AWAY.search(listed.stderr):
            raise Unavailable(listed.said, command=listed.argv, exit_code=listed.exit_code)
        units = re.findall(r"(?im)^\s*LSF_UNIT_FOR_LIMITS\s*=\s*\W?([kmgtpe]b)", configured.stdout)
        sizes = re.findall(r"(?m)^\s*MAX_JOB_ARRAY_SIZE\s*=\s*(\d+)", configured.stdout)
        return replace(
            self,
            tells_json=not re.search("invalid option|illegal option|usage:", listed.stderr, re.IGNORECASE),
            units=self.units or (units[-1].lower() if units else ""),
            largest=int(sizes[-1]) if sizes else self.largest,
        )

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """LSF sends the output by mail where none is named."""
        return list(self._directives(spec, log))

    def _directives(self, spec: Spec, log: str) -> Iterator[Directive]:
        request, shape = spec.request, spec.shape
        cores, nodes = request.cores or shape.job_threads, max(1, request.nodes)
        memory_bytes = request.memory_bytes or shape.workers * shape.memory_bytes
        yield Directive("-o", _word(log.replace("%", "%I")))
        if request.queue:
            yield Directive("-q", _word(request.queue))
        if request.account:
            yield Directive("-P", _word(request.account))
        if request.walltime_s:
            minutes = math.ceil(request.walltime_s / 60)
            yield Directive("-W", f"{minutes // 60}:{minutes % 60:02}")
        yield Directive("-n", str(cores))
        if not any("span[" in text for text in request.directives) and cores > 1:
            span = ("hosts", 1) if nodes == 1 else ("ptile", math.ceil(cores / nodes))
            yield Directive(f'-R "span[{span[0]}', f'{span[1]}]"', "=")
        if memory_bytes:
            unit = 1024 ** (UNITS.index(self.units.lower() or "kb") + 1)
            yield Directive("-M", str(math.ceil(memory_bytes / unit)))
        if spec.gpus:
            yield Directive("-gpu", f'"num={math.ceil(spec.gpus * shape.workers / nodes)}"')

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """The script goes over standard input: of a file, LSF does not read the directives."""
        throttle = f"%{spec.request.throttle}" if spec.request.throttle else ""
        environment = {**QUIET, "LSB_STDOUT_DIRECT": "Y"}  # else output is seen when the job has ended
        return Call(("bsub", "-J", f"{tag}[1-{count}]{throttle}"), stdin=script, environment=environment)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """The exit code of every error is 255."""
        found = re.search(r"Job <(\d+)> is submitted", answer.stdout)
        if found:
            return [JobId(f"{found[1]}[{element}]") for element in range(1, count + 1)]
        if answer.exit_code == 0:
            raise Garbled(f"bsub told no job id: {answer.said}", command=answer.argv)
        kinds = {UNSURE: Ambiguous, AWAY: Unavailable, FULL: NoCapacity}
        kind = next((kind for words, kind in kinds.items() if words.search(answer.stderr)), Rejected)
        raise kind(answer.said, command=answer.argv, exit_code=answer.exit_code)

    def query(self, user: str) -> Sequence[Call]:
        """What has not ended."""
        form = FORMAT if self.tells_json else ("-w", "-noheader")
        return [Call(("bjobs", "-u", user, *form), environment=QUIET)]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """That there is no job is an error of bjobs, too."""
        (answer,) = answers
        if answer.exit_code and not re.search(r"No (?:\w+ )?job found", answer.stderr):
            raise Unavailable(answer.said, command=answer.argv, exit_code=answer.exit_code)
        return list(_records(answer) if self.tells_json else _rows(answer))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """How they ended, for as long as LSF knows (CLEAN_PERIOD, an hour)."""
        return [Call(("bjobs", *(FORMAT if self.tells_json else ("-l",)), *ids), environment=QUIET)]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """Ids that LSF has forgotten make it exit with 255; the others are told."""
        made = [job for answer in answers for job in (_records(answer) if self.tells_json else _long(answer))]
        return [job for job in made if job.state is JobState.ENDED]

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """One word for each array, of at most 50 elements."""
        arrays: dict[str, list[str]] = {}
        for found in filter(None, map(ID.fullmatch, ids)):
            arrays.setdefault(found[1], []).append(found[2])
        words = [f"{n}[{','.join(each[at : at + 50])}]" for n, each in arrays.items() for at in range(0, len(each), 50)]
        return [Call(("bkill", *words[at : at + 100]), environment=QUIET) for at in range(0, len(words), 100)]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """``Operation is in progress``: it is being done."""
        for answer in answers:
            bad = [line for line in answer.stderr.splitlines() if line.strip() and not GONE.search(line)]
            if answer.exit_code and bad:
                kind = Unavailable if AWAY.search(answer.stderr) else Rejected
                raise kind(" ".join(bad), command=answer.argv, exit_code=answer.exit_code)

    def log(self, id: JobId, log: str) -> str:
        """``%I`` is what stands in the brackets."""
        return log.replace("%", id.partition("[")[2].rstrip("]"))


def _word(text: str) -> str:
    if '"' in text:
        raise Rejected(f"LSF cannot be told of {text!r}: it has a quotation mark in it")
    return text if re.fullmatch(r"[\w@%+=./:,-]+", text) else f'"{text}"'


def _rows(answer: Answer) -> Iterator[Job]:
    """Columns: id, user, state, queue, two hosts, name, and three words of time. Other names may have blanks."""
    for line in answer.stdout.splitlines():
        words = line.split()
        found = NAME.fullmatch(words[-4]) if len(words) in (9, 10) else None
        if found:
            yield _job(words[0], found, words[2])


def _records(answer: Answer) -> Iterator[Job]:
    try:
        records = json.loads(answer.stdout)["RECORDS"] if answer.stdout.strip() else []
    except (ValueError, KeyError) as error:
        raise Garbled(f"bjobs wrote JSON that is none: {answer.said}", command=answer.argv) from error
    for record in records:
        found = NAME.fullmatch(f"{record.get('JOB_NAME', '').partition('[')[0]}[{record.get('JOBINDEX')}]")
        if found:
            reason = record.get("EXIT_REASON") or record.get("PEND_REASON") or ""
            yield _job(record["JOBID"], found, record["STAT"], record.get("EXIT_CODE", ""), reason.strip(" ;-"))


def _long(answer: Answer) -> Iterator[Job]:
    """Of ``bjobs -l``, whose lines are broken anywhere, and go on behind 21 blanks."""
    for text in re.split(r"\n(?=Job)", answer.stdout.replace(f"\n{' ' * 21}", "")):
        head = LONG.match(text.lstrip())
        found = head and NAME.fullmatch(head[2])
        if head and found:
            code = re.search(r"Exited with exit code (\d+)", text)
            told = re.search(r"TERM_\w+: [^.\n]+|(?<=Exited )by (?:LSF )?signal \d+", text)
            yield _job(head[1], found, head[3], code[1] if code else "", told[0] if told else "")


def _job(number: str, name: re.Match[str], word: str, code: str = "", reason: str = "") -> Job:
    if word not in STATES:
        raise Garbled(f"bjobs told of an unknown state {word!r}")
    state, usual = STATES[word]
    exit_code = int(code) if code.isdigit() else 0 if word == "DONE" else None
    element = JobId(f"{number.partition('[')[0]}[{name[2]}]")
    return Job(element, f"{name[1]}.{int(name[2]) - 1}", state, reason or usual, exit_code)
