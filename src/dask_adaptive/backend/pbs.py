"""PBS Pro and OpenPBS: ``qsub``, ``qstat`` and ``qdel``. Pure. Torque speaks most of it as well.

Recorded: an array of one is refused; ``qstat -x`` shows nothing where no history is kept; ``-F json`` shows the first
of several ids only (decision 10); with an unknown id the exit code is bad and the rest is done.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dask_adaptive.backend.dialect import STARTED, TAG, Answer, Call, Directive
from dask_adaptive.errors import Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Job, JobId, JobState, Spec

__all__ = ["Pbs", "jobs_of", "per_node", "span"]

INDEX = "^array_index^"  # in paths of output: the number of the element
STATES = {
    **dict.fromkeys("QHWTM", JobState.QUEUED),  # queued, held, waiting for its time, in transit, moved elsewhere
    **dict.fromkeys("RSUB", JobState.RUNNING),  # also suspended, by an operator or by who sits at its host
    "E": JobState.ENDING,
    **dict.fromkeys("FXC", JobState.ENDED),  # X: the element of an array of which others live; C: Torque's word
}
WORDS = {"H": "held", "W": "waits for its time", "S": "suspended", "U": "suspended"}
OWN = {-29: "walltime exceeded", -11: "walltime exceeded"}  # OpenPBS, Torque
TOO_MANY = re.compile(r"array job exceeds|array size too large|would exceed|maximum number of jobs", re.I)
NO_SERVER = re.compile(r"can ?not connect|couldn't connect|unable to communicate", re.I)
AT_ONCE = 500  # ids in one command: one that goes over SSH has to fit into 128 KiB


@dataclass(frozen=True)
class Pbs:
    """Jobs of PBS Pro and OpenPBS. ``largest``, ``history`` (of ended jobs) and ``user`` (us) are learned."""

    options, gone = (), frozenset({0, 35, 153, 156})  # qdel: finished, unknown, no element

    name: str = "pbs"
    prefix, first, lag_s, poll_s = "#PBS", 0, 5.0, 5.0
    index: str = "${PBS_ARRAY_INDEX:-0}"
    attempt: str = STARTED  # a job is not told how often it was started
    largest: int = 1000
    history: bool = False
    user: str = ""

    def probe(self) -> Sequence[Call]:
        """The attributes of the server, and who we are: all users' jobs are listed, and a name can be forged."""
        return [Call(("qstat", "-B", "-f")), Call(("id", "-un"))]

    def probed(self, answers: Sequence[Answer]) -> Pbs:
        """Whether there is a history, how large an array may be, and whose jobs are ours."""
        if NO_SERVER.search(said := answers[0].said + answers[0].stdout):
            raise _failure(answers[0], Unavailable)
        largest = re.search(r"^\s*max_array_size = (\d+)$", said, re.M)
        history = re.search(r"^\s*job_history_enable = True$", said, re.M) is not None
        size, user = int(largest[1]) if largest else self.largest, answers[1].stdout.strip()
        return replace(self, history=history, largest=size, user=user)

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """Queue, account, walltime, one chunk (``select=1:ncpus=..``) for each node; both streams into one file."""
        request = spec.request
        names = {"-q": request.queue, "-A": request.account}
        asked = [Directive(key, word(name)) for key, name in names.items() if name]
        asked += [Directive("-l walltime", clock(request.walltime_s), "=")] if request.walltime_s else []
        return [*asked, *self.resources(spec), Directive("-j", "oe"), Directive("-o", word(self.output(log)))]

    def resources(self, spec: Spec) -> Sequence[Directive]:
        """Cores, memory and GPUs, for each node."""
        nodes, cores, memory_mb, gpus = per_node(spec)
        memory, devices = f":mem={memory_mb}mb" * bool(memory_mb), f":ngpus={gpus}" * bool(gpus)
        return [Directive("-l select", f"{nodes}:ncpus={cores}{memory}{devices}", "=")]

    def output(self, log: str) -> str:
        """The path for ``-o``."""
        return log.replace("%", INDEX)

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """As an array, or as a single job: an array of one is refused."""
        if count == 1:
            return Call(("qsub", "-N", tag), stdin=script.replace(INDEX, "0"))
        return Call(("qsub", "-N", tag, "-J", span(count, spec)), stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """The ids of the elements, from ``10[].server``, or of the job, from ``10.server``."""
        if answer.exit_code != 0:
            raise _failure(answer, NoCapacity if TOO_MANY.search(answer.said) else Rejected)
        found = re.findall(r"^(\d+)(\[\])?(\.\S+)?\s*$", answer.stdout, re.M)
        if len(found) != 1 or (count > 1 and not found[0][1]):
            raise Garbled(f"qsub answered no job id: {answer.said}", command=answer.argv)
        number, array, server = found[0]
        return [JobId(f"{number}[{i}]{server}") for i in range(count)] if array else [JobId(number + server)]

    def query(self, user: str) -> Sequence[Call]:  # noqa: ARG002
        """Every job of the server, with the elements of arrays: the long form cannot be asked for by user."""
        return [Call(("qstat", "-t", "-f"))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The jobs with a name of ours; arrays are left out, their elements are listed."""
        (answer,) = answers
        if answer.exit_code != 0:
            raise _failure(answer, Unavailable)
        return list(jobs_of(_paragraphs(answer), self.user))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """The history, where there is one: of an array at once, since each id costs the server some milliseconds."""
        whole = dict.fromkeys(re.sub(r"\[\d+\]", "[]", each) for each in ids)
        return [Call(("qstat", "-x", "-t", "-f", *whole))] if self.history else []

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """Those that ended. What is not known any more makes an exit code, and is left out."""
        return [job for one in answers for job in jobs_of(_paragraphs(one), self.user) if job.state is JobState.ENDED]

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """Element by element: ``qdel`` of a large array as a whole may never come back (seen with Torque)."""
        return [Call(("qdel", *list(ids)[i : i + AT_ONCE])) for i in range(0, len(ids), AT_ONCE)]

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """Exit codes that mean "gone" are fine: the others of the command were deleted all the same."""
        for answer in answers:
            if answer.exit_code not in self.gone:
                raise _failure(answer, Rejected)

    def log(self, id: JobId, log: str) -> str:
        """Where the output arrives when the job has ended."""
        return log.replace("%", _element(id))


def word(text: str) -> str:
    if re.search(r"[\s\"'\\,]", text):
        raise Rejected(f"blanks, quotes and commas cannot be in a directive of PBS: {text!r}")
    return text


def per_node(spec: Spec) -> tuple[int, int, int, int]:
    """Nodes, and for each of them cores, memory in MiB and GPUs, rounded up."""
    request, shape = spec.request, spec.shape
    nodes, cores = request.nodes or 1, request.cores or shape.job_threads
    memory_mb = -(-(request.memory_bytes or shape.workers * shape.memory_bytes) // (nodes * 2**20))
    return nodes, -(-cores // nodes), memory_mb, -(-spec.gpus * shape.workers // nodes)


def clock(seconds: float) -> str:
    minutes, left = divmod(int(-(-seconds // 1)), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left:02}"


def span(count: int, spec: Spec) -> str:
    """``0-9``, or ``0-9%2`` where two may run at a time."""
    return f"0-{count - 1}" + f"%{spec.request.throttle}" * bool(spec.request.throttle)


def jobs_of(found: Mapping[str, Mapping[str, str]], user: str) -> Iterator[Job]:
    """The jobs of this user with a name of ours, from their attributes by id."""
    for job_id, about in found.items():
        name, letter = re.sub(r"-\d+$", "", about.get("Job_Name", "")), about.get("job_state", "")
        owner = about.get("Job_Owner", "").partition("@")[0]
        if not TAG.fullmatch(name) or "[]" in job_id or (user and owner not in ("", user)):
            continue
        if letter not in STATES:
            raise Garbled(f"qstat shows {job_id} in the unknown state {letter!r}")
        reason, code, comment = WORDS.get(letter, ""), None, about.get("comment", "")
        if STATES[letter] is JobState.QUEUED and not comment.startswith("Job Array Began"):
            reason = comment or reason
        elif STATES[letter] is JobState.ENDED:
            code, reason = _end(about, comment)
        yield Job(JobId(job_id), f"{name}.{_element(job_id)}", STATES[letter], reason, code)


def _end(about: Mapping[str, str], comment: str) -> tuple[int | None, str]:
    """Exit code and reason. A status over 256 is a signal, a negative one says why PBS ended the job."""
    if not (said := about.get("Exit_status", about.get("exit_status", ""))):
        return None, comment or "deleted before it ran"
    if not re.fullmatch(r"-?\d+", said):
        raise Garbled(f"qstat shows the exit status {said!r}, which is no number")
    if (status := int(said)) < 0:
        return None, OWN.get(status, f"ended by the batch system (status {status})")
    code = status if status <= 256 else 256 - status
    if re.search(r"terminated|exceeded", comment):
        return code, comment
    if about.get("substate") == "91":  # terminated: so a comment does not always say
        return code, "deleted"
    return code, f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def _element(job_id: str) -> str:
    return match[1] if (match := re.match(r"\d+\[(\d+)\]", job_id)) else "0"


def _failure(answer: Answer, kind: type[Rejected | NoCapacity | Unavailable]) -> Exception:
    kind = Unavailable if NO_SERVER.search(answer.said) else kind
    return kind(answer.said, command=answer.argv, exit_code=answer.exit_code)


def _paragraphs(answer: Answer) -> Mapping[str, Mapping[str, str]]:
    """The long form: a paragraph for each job, long lines folded; of a name that is there twice the first counts."""
    jobs = [each.split("\n") for each in re.split(r"^Job Id: ", answer.stdout.replace("\n\t", ""), flags=re.M)[1:]]
    said = {key: (line.partition(" = ") for line in lines[::-1] if " = " in line) for key, *lines in jobs}
    return {key: {name.strip(): value.strip() for name, _, value in about} for key, about in said.items()}
