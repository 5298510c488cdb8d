"""The contract between the batch engine and the language of one batch system. Pure.

A *dialect* knows what to say to a batch system and understands what it answers. It runs nothing: ``batch.py`` does,
through a ``Runner``. A new batch system is one file with one class that keeps this contract, an entry point in the
group ``dask_adaptive.dialects``, and recordings of what the real programs print.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from dask_adaptive.model import Job, JobId, Spec

__all__ = ["STARTED", "TAG", "Answer", "Call", "Dialect", "Directive"]

TAG = re.compile(r"[a-z][a-z0-9]{7}")
"""The names that our batches have; the first four characters are the cluster's key."""

STARTED = "$(date +%s)_$$"
"""Shell word for one start of a job: the second, and its shell, as a job may be started again within that second."""


@dataclass(frozen=True, slots=True)
class Call:
    """One command to run: without a shell, with this standard input and these variables added to the environment.

    A variable that is None is taken away.

    ``files`` are private files to be placed first: a ``{name}`` in ``argv`` or ``stdin`` becomes the path of the file
    with that name.
    """

    argv: tuple[str, ...]
    stdin: str = ""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answered. A command that did not come back is no answer but an error of the runner."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str = ""
    stderr: str = ""

    @property
    def said(self) -> str:
        """What it said went wrong, for a person: standard error, else standard output, on one line."""
        return " ".join((self.stderr.strip() or self.stdout.strip()).split())[:500]


@dataclass(frozen=True, slots=True)
class Directive:
    """One line of a job script's head, such as ``-p normal``.

    ``key`` is the option itself (``-p``, ``--mem``, ``-l walltime``): by it a user removes or replaces the line.
    ``value`` is put after it, with ``joint`` between; None: the option stands alone.
    """

    key: str
    value: str | None = None
    joint: str = " "

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}{self.joint}{self.value}"


@runtime_checkable
class Dialect(Protocol):
    """The language of one batch system. Frozen; every method is pure and quick."""

    name: str
    """The word under which it is registered."""

    options: ClassVar[tuple[str, ...]]
    """Which arguments of its constructor a user may give; the others are learned by probing."""

    prefix: str
    """What makes a line of a job script a directive: ``#SBATCH``; empty where directives go elsewhere."""

    index: str
    """Shell word for the number of an array's element, such as ``${SLURM_ARRAY_TASK_ID:-0}``; counted from ``first``,
    and ``first`` outside of an array. It stands in ``$((...))``.
    """

    first: int
    """The number of the first element of an array: 0, or 1 where 0 is refused."""

    attempt: str
    """Shell word for how often the system started this job again; ``0`` where it does not tell."""

    lag_s: float
    """How far the job list may run behind, in seconds."""

    poll_s: float
    """Seconds between two looks at the job list while something moves."""

    largest: int
    """How many jobs one submit may ask for."""

    def probe(self) -> Sequence[Call]:
        """What to ask once, before the first use, to learn the version and what it can do; may be empty."""
        ...

    def probed(self, answers: Sequence[Answer]) -> Dialect:
        """The dialect that knows what was learned; itself where there is nothing to learn.

        Raises ``Unavailable`` where the system is down: it is asked again later.
        """
        ...

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        """What a job asks for: name apart, everything of ``spec`` and ``spec.request`` that is set.

        ``log`` is the path where the job's output goes (both streams), with ``%`` for what makes it the element's own:
        the dialect replaces ``%`` with its own pattern for the number of the element, or names no output at all.
        """
        ...

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        """Submit ``count`` jobs named ``tag`` that run ``script``, as one array (``count == 1``: as it likes)."""
        ...

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        """The ids of the elements, in order. Raises ``Rejected``, ``NoCapacity``, ``Throttled``, ``Unavailable``,
        ``Ambiguous`` or ``Garbled``, each with what the system said.
        """
        ...

    def query(self, user: str) -> Sequence[Call]:
        """Ask for every job of this user: one bulk question (two where ended jobs are kept elsewhere)."""
        ...

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """Every job in the answers that has a name of ours (``TAG``), as ``<tag>.<i>`` with ``i`` counted from 0.

        What the system still holds although it can never run (SGE's ``Eqw``) has ended, with a reason. A dialect whose
        ``lists_ended`` is False (default: True) says that nothing else that ended is listed: then these are cancelled.
        Raises ``Unavailable`` or ``Garbled``; an answer that is a part, or that an error came with, is no answer.
        """
        ...

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        """Ask how these jobs ended, which left the list; empty where the system does not keep that."""
        ...

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        """The ended ones among them (with exit code or reason where told). What is not known is left out; no errors."""
        ...

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        """End these jobs, in as few commands as the system allows."""
        ...

    def cancelled(self, answers: Sequence[Answer]) -> None:
        """Raises ``Unavailable`` or ``Rejected`` if one of them may live on; a job already gone is no error."""
        ...

    def log(self, id: JobId, log: str) -> str:
        """Where the output of this job is, as ``directives`` directed it to ``log``."""
        ...
