"""The language of LSF, and of OpenLava, which speaks an older form of it. Pure.

Jobs are always arrays, a single one too, so that each has an id such as ``106[7]``. The list has what did not end; how
a job ended is asked for by its id. OpenLava's ``bjobs -UF`` is not used: it reads job scripts as formats of printf.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from dask_adaptive.backend.dialect import STARTED, TAG, Answer, Call, Directive
from dask_adaptive.errors import Ambiguous, ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Lsf"]

QUIET = {"LSB_NTRIES": "2"}  # without it, commands go on trying for ever where nothing answers
CONFIGURATION = 'bparams -l; cat "${LSF_ENVDIR:-/etc}/lsf.conf"; badmin showconf mbd LSF_UNIT_FOR_LIMITS; true'
FORMAT = ("-json", "-o", "jobid jobindex stat job_name exit_code exit_reason pend_reason")
UNITS = ("kb", "mb", "gb", "tb", "pb", "eb")
NAME = re.compile(rf"(?P<tag>{TAG.pattern})\[(?P<element>\d+)\]")
LONG = re.compile(rf"Job(?: Id)? <(?P<number>\d+)\[\d+\]>, Job Name <{NAME.pattern}>.*?, Status <(?P<word>\w+)>")
AWAY = re.compile("not responding|is down|try later|cannot be contacted", re.IGNORECASE)
REFUSALS = {
    re.compile("communication time|sending/receiving", re.IGNORECASE): Ambiguous,
    AWAY: Unavailable,
    re.compile("array index too large|threshold reached|limit (?:has been )?reached|too many jobs", re.I): NoCapacity,
}
GONE = re.compile("in progress|already finished|No matching job|is not found")
STATES: Mapping[str, tuple[JobState, str]] = {  # see the manual of bjobs, "STAT"
    **dict.fromkeys(("PEND", "WAIT", "PROV"), (JobState.QUEUED, "")),
    "PSUSP": (JobState.QUEUED, "held"),
    "RUN": (JobState.RUNNING, ""),
    **dict.fromkeys(("USUSP", "SSUSP"), (JobState.RUNNING, "suspended")),
    "UNKWN": (JobState.RUNNING, "its host does not answer"),
    "ZOMBI": (JobState.ENDING, "it was ended, and its host does not answer"),
    **dict.fromkeys(("DONE", "EXIT"), (JobState.ENDED, "")),
}


@dataclass(frozen=True)
class Lsf:
    """Jobs of LSF and OpenLava.

    Parameters
    ----------
    units:
        In which it counts memory. Default: as it is configured, else ``"kb"``.
    """

    options: ClassVar[tuple[str, ...]] = ("units",)
    units: str = ""
    tells_json: bool = False  # from here on: as probed
    largest: int = 1000
    name, prefix, index, first, lag_s, poll_s = "lsf", "#BSUB", "${LSB_JOBINDEX}", 1, 10.0, 5.0
    attempt = f'$([ -z "${{LSB_RESTART:-}}" ] && echo 0 || echo "{STARTED}")'  # it tells that, not how often

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
            raise Unavailable(listed.said, command=listed.argv)
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
        request, shape, theirs = spec.request, spec.shape, " ".join(spec.request.directives)
        cores, nodes = request.cores or shape.job_threads, max(1, request.nodes)
        memory_bytes = request.memory_bytes or shape.workers * shape.memory_bytes
        memory = math.ceil(memory_bytes / 1024 ** (UNITS.index(self.units.lower() or "kb") + 1))
        hours, minutes = divmod(math.ceil(request.walltime_s / 60), 60)
        span, count = ("hosts", 1) if nodes == 1 else ("ptile", math.ceil(cores / nodes))
        asked = [
            Directive("-o", _word(log.replace("%", "%I"))),
            request.queue and Directive("-q", _word(request.queue)),
            request.account and Directive("-P", _word(request.account)),
            request.walltime_s and Directive("-W", f"{hours}:{minutes:02}"),
            Directive("-n", str(cores)),
            cores > 1 and "span[" not in theirs and Directive(f'-R "span[{span}', f'{count}]"', "="),
            memory and Directive("-M", str(memory)),
            spec.gpus and Directive("-gpu", f'"num={math.ceil(spec.gpus * shape.workers / nodes)}"'),
        ]
        return [each for each in asked if isinstance(each, Directive)]

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """The script goes over standard input: of a file, LSF does not read the directives."""
        name = f"{tag}[1-{count}]" + (f"%{spec.request.throttle}" if spec.request.throttle else "")
        environment = {**QUIET, "LSB_STDOUT_DIRECT": "Y"}  # else output is seen when the job has ended
        return Call(("bsub", "-J", name), stdin=script, environment=environment)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """The exit code of every error is 255."""
        found = re.search(r"Job <(\d+)> is submitted", answer.stdout)
        if found:
            return [JobId(f"{found[1]}[{element}]") for element in range(1, count + 1)]
        other = Rejected if answer.exit_code else Garbled
        kind = next((kind for words, kind in REFUSALS.items() if words.search(answer.stderr)), other)
        raise kind(answer.said, command=answer.argv, exit_code=answer.exit_code)

    def query(self, user: str) -> Sequence[Call]:
        """What has not ended."""
        return [Call(("bjobs", "-u", user, *(FORMAT if self.tells_json else ("-w", "-noheader"))), environment=QUIET)]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """That there is no job is an error of bjobs, too."""
        (answer,) = answers
        if answer.exit_code and not re.search(r"No (\w+ )?job found", answer.stderr):
            raise Unavailable(answer.said, command=answer.argv, exit_code=answer.exit_code)
        return list(_records(answer) if self.tells_json else _rows(answer))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """How they ended, for as long as LSF knows (CLEAN_PERIOD, an hour)."""
        return [Call(("bjobs", *(FORMAT if self.tells_json else ("-l",)), *ids), environment=QUIET)]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """Ids that LSF has forgotten make it exit with 255; the others are told."""
        jobs = (job for each in answers for job in (_records(each) if self.tells_json else _long(each)))
        return [job for job in jobs if job.state is JobState.ENDED]

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """What is no id of ours is not said: ``0`` would be every job."""
        words = [each for each in ids if re.fullmatch(r"\d+\[\d+\]", each)]
        return [Call(("bkill", *words[at : at + 200]), environment=QUIET) for at in range(0, len(words), 200)]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """``Operation is in progress``: it is being done."""
        for answer in answers:
            bad = [line for line in answer.stderr.splitlines() if line.strip() and not GONE.search(line)]
            if answer.exit_code and bad:
                raise (Unavailable if AWAY.search(answer.stderr) else Rejected)(" ".join(bad), command=answer.argv)

    def log(self, id: JobId, log: str) -> str:
        """``%I`` is what stands in the brackets."""
        return log.replace("%", id.partition("[")[2].rstrip("]"))


def _word(text: str) -> str:
    if '"' in text:
        raise Rejected(f"LSF cannot be told of {text!r}: it has a quotation mark in it")
    return text if re.fullmatch(r"[\w@%+=./:,-]+", text) else f'"{text}"'


def _rows(answer: Answer) -> Iterator[Job]:
    """Columns: id, user, state, queue, two hosts, name, and three words of time. Other names may have blanks."""
    for words in map(str.split, answer.stdout.splitlines()):
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
            reason = (record.get("EXIT_REASON") or record.get("PEND_REASON") or "").strip(" ;-")
            yield _job(record["JOBID"], found, record["STAT"], record.get("EXIT_CODE", ""), reason)


def _long(answer: Answer) -> Iterator[Job]:
    """Of ``bjobs -l``, whose lines are broken anywhere, and go on behind 21 blanks."""
    for text in re.split(r"\n(?=Job)", answer.stdout.replace(f"\n{' ' * 21}", "")):
        found = LONG.match(text.lstrip())
        if found:
            code = re.search(r"Exited with exit code (\d+)", text)
            told = re.search(r"TERM_\w+: [^.\n]+|(?<=Exited )by (?:LSF )?signal \d+", text)
            yield _job(found["number"], found, found["word"], code[1] if code else "", told[0] if told else "")


def _job(number: str, name: re.Match[str], word: str, code: str = "", reason: str = "") -> Job:
    if word not in STATES:
        raise Garbled(f"bjobs told of an unknown state {word!r}")
    state, usual = STATES[word]
    exit_code = int(code) if code.isdigit() else 0 if word == "DONE" else None
    element = JobId(f"{number.partition('[')[0]}[{name['element']}]")
    return Job(element, f"{name['tag']}.{int(name['element']) - 1}", state, reason or usual, exit_code)
