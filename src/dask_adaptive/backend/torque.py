"""Torque: ``qsub``, ``qstat`` and ``qdel`` as of PBS, other words for what a job asks for, and XML. Pure.

Recorded from Torque 6.1 (``tests/recorded/torque``). What that teaches: ``qstat 'N[]'`` without ``-t`` lists every
job, and with it the elements only, each with its number behind the name; ended jobs stay listed for ``keep_completed``
seconds (which may be 0) and are unknown then; ``qdel`` of an array of 500 never came back; a running job that is
deleted has no time to do anything.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dask_adaptive.backend.dialect import Answer, Call, Directive
from dask_adaptive.backend.pbs import Pbs, jobs_of, per_node, span
from dask_adaptive.errors import Garbled, Unavailable
from dask_adaptive.model import Job, JobId, Spec

__all__ = ["Torque"]

FIELDS = re.compile(r"<(Job_Name|Job_Owner|job_state|comment|exit_status)>(.*?)</\1>", re.S)
JOB = re.compile(r"<Job><Job_Id>(.*?)</Job_Id>(.*?)</Job>", re.S)


@dataclass(frozen=True)
class Torque(Pbs):
    """Jobs of Torque. ``largest``: more elements in one array hold up the server, and ``qdel`` with it."""

    gone = frozenset({0, 153, 170})
    """What qdel says of a job that has ended: is not known, is complete."""

    name: str = "torque"
    index: str = "${PBS_ARRAYID:-0}"
    largest: int = 200

    def probe(self) -> Sequence[Call]:
        """Who we are; what differs between versions is not used."""
        return [Call(("id", "-un"))]

    def probed(self, answers: Sequence[Answer]) -> Torque:
        """The one that knows whose jobs are ours."""
        return replace(self, user=answers[0].stdout.strip())

    def resources(self, spec: Spec) -> Sequence[Directive]:
        """``nodes=1:ppn=..``, and the memory of the whole job."""
        nodes, cores, memory_mb, gpus = per_node(spec)
        devices = f":gpus={gpus}" * bool(gpus)
        asked = [Directive("-l nodes", f"{nodes}:ppn={cores}{devices}", "=")]
        return [*asked, Directive("-l mem", f"{memory_mb * nodes}mb", "=")] if memory_mb else asked

    def output(self, log: str) -> str:
        """The folder: Torque names the file itself, and for an array puts the element's number behind any name."""
        return log.rpartition("/")[0] + "/"

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """As an array, also of one."""
        return Call(("qsub", "-N", tag, "-t", span(count, spec)), stdin=script)

    def query(self, user: str) -> Sequence[Call]:  # noqa: ARG002
        """Every job of the server, element by element."""
        return [Call(("qstat", "-t", "-x"))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The jobs with a name of ours. No XML at all means no jobs at all.

        It is not read as a document: the variables of a stranger's job may hold what XML does not allow.
        """
        (answer,) = answers
        if answer.exit_code != 0:
            raise Unavailable(f"qstat: {answer.said}", command=answer.argv, exit_code=answer.exit_code)
        text = answer.stdout.strip()
        if text and not text.endswith("</Data>"):
            raise Garbled(f"qstat printed no whole XML: {text[-100:]}", command=answer.argv)
        found = {
            job_id: {name: html.unescape(value) for name, value in FIELDS.findall(about)}
            for job_id, about in JOB.findall(text)
        }
        return list(jobs_of(found, self.user))

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:  # noqa: ARG002
        """Nothing: there is no history beyond the list."""
        return []

    def log(self, id: JobId, log: str) -> str:
        """Where the output arrives when the job has ended: ``<tag>.o8-3``."""
        folder, _, file = log.rpartition("/")
        match = re.match(r"(\d+)\[(\d+)\]", id)
        number = f"{match[1]}-{match[2]}" if match else id.partition(".")[0]
        return f"{folder}/{file.partition('.')[0]}.o{number}"
