"""What the contract suite runs on: every backend, behind one small face.

A new backend joins with one function here, decorated with ``@subject("its name")``: an asynchronous context manager
that gives a ``Subject``. One that needs a real system says so with ``system="slurm"`` and runs with ``--system slurm``.
"""

from __future__ import annotations

import itertools
import string
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
from tests.fakes.core import Fake
from tests.fakes.memory import MemoryBackend
from tests.sshd import running_hosts
from tests.systems.sge import sge
from tests.systems.slurm import slurm
from tests.waiting import until

from dask_adaptive.backend.batch import BatchSystem
from dask_adaptive.backend.contracts import Backend
from dask_adaptive.backend.custom import Custom
from dask_adaptive.backend.dialect import Dialect
from dask_adaptive.backend.htcondor import HTCondor
from dask_adaptive.backend.local import Local
from dask_adaptive.backend.lsf import Lsf
from dask_adaptive.backend.pbs import Pbs
from dask_adaptive.backend.sge import Sge
from dask_adaptive.backend.slurm import Slurm
from dask_adaptive.backend.torque import Torque
from dask_adaptive.model import Batch, Job, JobId, JobState, Shape, Spec

NOWHERE = Spec("tcp://127.0.0.1:9", Shape(workers=1, threads=1), death_timeout_s=300)
"""A job that runs until it is cancelled: its worker waits for a scheduler that never answers."""

_TAILS = map("".join, itertools.product(*[string.ascii_lowercase] * 4))
_subjects = itertools.count()
_number = ""


def key(cluster: str) -> str:
    """The key of a cluster in the present test: a system that is shared remembers those of the tests before."""
    return cluster[0] + _number


def batch(count: int, *, cluster: str = "mine", spec: Spec = NOWHERE) -> Batch:
    """A new batch."""
    return Batch(key(cluster), "default", key(cluster) + next(_TAILS), count, spec)


def broken(count: int = 1) -> Batch:
    """A batch whose jobs end at once, with exit code 2 and a complaint about ``no-such-number``.

    (Of an option that does not exist ``dask worker`` does not tell the name where it has a preload.)
    """
    return batch(count, spec=replace(NOWHERE, worker_arguments=("--nthreads", "no-such-number")))


@dataclass
class Subject:
    """A backend under test. ``left`` tells what of its jobs still exists in the world, whatever the backend says."""

    backend: Backend
    left: Callable[[], Collection[object]]

    def __post_init__(self) -> None:
        global _number
        _number = f"{next(_subjects):03d}"

    async def jobs(self, cluster: str = "mine") -> dict[JobId, Job]:
        return {job.id: job for job in await self.backend.jobs(key(cluster))}

    async def close(self) -> None:
        """End what a cluster ends when it closes, and wait until it is gone."""
        if not getattr(self.backend, "ends_with_owner", False):
            await self.backend.cancel([each for name in ("mine", "somebody else's") for each in await self.jobs(name)])
            await until(lambda: not self.left())
        await self.backend.aclose()

    async def states(self, ids: Sequence[JobId], *wanted: JobState) -> None:
        """Wait until each of these jobs is in one of these states."""

        async def met() -> bool:
            jobs = await self.jobs()
            return all(each in jobs and jobs[each].state in wanted for each in ids)

        await until(met)


Make = Callable[[Path], AbstractAsyncContextManager[Subject]]
SUBJECTS: dict[str, Make] = {}
SYSTEMS: dict[str, str] = {}


def subject(name: str, *, system: str = "") -> Callable[[Callable[[Path], AsyncIterator[Subject]]], Make]:
    """Register a backend for the suite."""

    def register(make: Callable[[Path], AsyncIterator[Subject]]) -> Make:
        SUBJECTS[name] = asynccontextmanager(make)
        if system:
            SYSTEMS[name] = system
        return SUBJECTS[name]

    return register


@subject("memory")
async def memory(_: Path) -> AsyncIterator[Subject]:
    """The fake that the controller's tests use has to keep the contract as well."""
    backend = _Breaking(time.monotonic)
    yield Subject(backend, lambda: () if backend.closed else backend.alive())


class _Breaking(MemoryBackend):
    """Jobs of a broken batch end at once."""

    async def submit(self, batch: Batch) -> Sequence[JobId]:
        ids = await super().submit(batch)
        for each in ids if batch.spec.worker_arguments else ():
            self.logs[each] = f"Error: {batch.spec.worker_arguments[1]}"
            self.end(self.made[each].name, exit_code=2, reason="exit code 2")
        return ids


@subject("local-fork")
async def local_fork(directory: Path) -> AsyncIterator[Subject]:
    async with local("fork", directory) as made:
        yield made


@subject("local-exec")
async def local_exec(directory: Path) -> AsyncIterator[Subject]:
    async with local("exec", directory) as made:
        yield made


@asynccontextmanager
async def local(start: Literal["fork", "exec"], directory: Path) -> AsyncIterator[Subject]:
    mark = uuid.uuid4().hex
    backend = Local(start=start, directory=str(directory), grace_s=2, environment={MARK: mark})
    yield Subject(backend, lambda: marked(mark))
    await backend.aclose()


MARK = "DASK_ADAPTIVE_TEST_MARK"


def marked(mark: str) -> list[str]:
    """Every process of this machine, zombies apart, that carries the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()}")
    return found


@subject("ssh", system="ssh")
async def ssh(directory: Path) -> AsyncIterator[Subject]:
    """Two servers of OpenSSH on loopback."""
    from dask_adaptive.backend.ssh import Ssh

    with running_hosts(directory / "hosts") as hosts:
        backend = Ssh(hosts.words(slots=12), grace_s=2, **hosts.options)
        yield Subject(backend, hosts.jobs_left)
        await backend.aclose()


@subject("slurm", system="slurm")
async def real_slurm(directory: Path) -> AsyncIterator[Subject]:
    """Slurm's own daemons."""
    system = slurm()
    backend = BatchSystem(Slurm(), log_directory=str(directory), poll_s=0.5)
    made = Subject(backend, lambda: [name for name in ("mine", "somebody else's") if system.left(key(name))])
    yield made
    if made.left():
        await made.close()


@subject("sge", system="sge")
async def real_sge(directory: Path) -> AsyncIterator[Subject]:
    """Grid Engine's own daemons."""
    system = sge()
    with system.on_path():
        backend = BatchSystem(Sge(), log_directory=str(directory), poll_s=0.5)
        yield Subject(backend, system.listed)
        await backend.aclose()
        system.clear()


@subject("pbs")
async def fake_pbs(directory: Path) -> AsyncIterator[Subject]:
    """A server that keeps a history, answering as recorded."""
    async with faked(directory, Pbs(), "pbs:Pbs", history=True) as made:
        yield made


@subject("torque")
async def fake_torque(directory: Path) -> AsyncIterator[Subject]:
    async with faked(directory, Torque(), "torque:Torque") as made:
        yield made


@subject("htcondor")
async def fake_htcondor(directory: Path) -> AsyncIterator[Subject]:
    async with faked(directory, HTCondor(), "htcondor:HTCondor") as made:
        yield made


@subject("lsf")
async def fake_lsf(directory: Path) -> AsyncIterator[Subject]:
    """One that tells in JSON, as LSF 10.1 does."""
    async with faked(directory, Lsf(), "lsf:Lsf", json=True) as made:
        yield made


@subject("openlava")
async def fake_openlava(directory: Path) -> AsyncIterator[Subject]:
    """One that tells in columns, as older forms of LSF do."""
    async with faked(directory, Lsf(), "lsf:Lsf") as made:
        yield made


@asynccontextmanager
async def faked(directory: Path, dialect: Dialect, front: str, **settings: object) -> AsyncIterator[Subject]:
    """A batch system that is not there (``tests/fakes/core.py``)."""
    with Fake(directory / "system", front, **settings).on_path() as fake:
        backend = BatchSystem(dialect, log_directory=str(directory / "logs"), poll_s=0.2)
        yield Subject(backend, fake.left)
        await backend.aclose()


SCRIPTS = Path(__file__).parents[2] / "examples" / "custom-scripts" / "jobs"


@subject("custom")
async def custom(directory: Path) -> AsyncIterator[Subject]:
    """The example: a queue in a few lines of shell."""
    jobs = ["env", f"QUEUE={directory / 'queue'}", "QUEUE_SLOTS=20", str(SCRIPTS)]

    def left() -> list[str]:
        listed = subprocess.run([*jobs, "list"], capture_output=True, text=True, check=True).stdout.splitlines()
        return [line for line in listed if line.split()[2] != "ended"]

    dialect = Custom([*jobs, "submit", "{tag}", "{count}"], [*jobs, "list"], [*jobs, "cancel", "{ids}"])
    backend = BatchSystem(dialect, log_directory=str(directory / "logs"), poll_s=0.2)
    made = Subject(backend, left)
    yield made
    if made.left():
        await made.close()
    await backend.aclose()
