"""The real batch systems of the tests, with one word for what all of them have, and what their tests share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest
from distributed import Client
from tests.systems.sge import Site as SgeSystem
from tests.systems.sge import sge
from tests.systems.slurm import SlurmSystem, slurm
from tests.waiting import until

from dask_adaptive import SGECluster, SlurmCluster

from .worlds import QUICK, Trace, alive


class Site(Protocol):
    """A batch system, by what users of any would notice. Jobs are named by what their names begin with (``key``)."""

    name: str
    cluster: Any
    submit_command: str
    many: tuple[int, int]
    """So many jobs, and in how many submits they come."""
    walltime: Any
    """A short one, as this system counts."""
    alone: Mapping[str, Any]
    """Options of a job beside which there is no room for another."""
    habits: Mapping[str, str]
    """Variables that its users have, and that must not hide our jobs."""
    inherits: bool
    """Whether jobs get the environment of who submits."""
    template: str
    refusal: str
    """What it says of a queue that there is not."""

    def states(self, key: str) -> dict[str, int]:
        """How many jobs are ``running`` and ``queued``, or in a state that only this system has."""
        ...

    def left(self, key: str) -> int:
        """How many jobs it knows of."""
        ...

    def submits(self, key: str) -> set[str]:
        """Its numbers for the submits that there were."""
        ...

    def kill(self, key: str) -> None:
        """End these jobs by the system's own command."""
        ...

    def ended_well(self, number: str) -> bool:
        """Whether the jobs of this submit ended by themselves, without an error."""
        ...

    def told(self, number: str) -> tuple[str, str]:
        """The script of a submit, and what else everybody is told of it."""
        ...

    async def forgets(self, key: str) -> None:
        """Returns when no such job is left after a cluster was closed."""
        ...

    def stop(self) -> None:
        """Its daemon goes; jobs go on."""
        ...

    def start(self) -> None:
        """Its daemon comes back."""
        ...


def renamed(states: Counter[str], words: Mapping[str, str]) -> dict[str, int]:
    return {words.get(state, state): count for state, count in states.items()}


class OnSlurm:
    """Slurm."""

    name = "slurm"
    cluster = SlurmCluster
    submit_command = "sbatch"
    many = (1002, 2)  # one more than the largest array: as many as allowed now, the rest later
    walltime = "1m"  # it counts whole minutes
    alone: ClassVar[Mapping[str, Any]] = {"job_cores": 16, "directives": ["-w n1"]}
    habits: ClassVar[Mapping[str, str]] = {"SQUEUE_PARTITION": "closed"}
    inherits = True
    template = "#!/bin/bash\n#SBATCH --comment=mine -o /dev/null\nexport FLAVOUR=vanilla\nsrun -n 1 {command}\n"
    refusal = "Invalid partition name specified"

    def __init__(self, system: SlurmSystem) -> None:
        self.system = system
        self.stop, self.start = system.stop_controller, system.start_controller
        self.left = system.left

    def states(self, key: str) -> dict[str, int]:
        return renamed(self.system.states(key), {"RUNNING": "running", "PENDING": "queued"})

    def submits(self, key: str) -> set[str]:
        lines = self.said("squeue", "-h", "-r", "-t", "all", "-o", "%j %F").splitlines()
        return {line.split()[1] for line in lines if line.startswith(key)}

    def kill(self, key: str) -> None:
        self.system.ask("scancel", *self.submits(key))

    def ended_well(self, number: str) -> bool:
        return self.said("squeue", "-h", "-t", "all", "-j", number, "-o", "%T").split() == ["COMPLETED"]

    def told(self, number: str) -> tuple[str, str]:
        return self.said("scontrol", "write", "batch_script", number, "-"), self.said("scontrol", "show", "job", number)

    async def forgets(self, key: str) -> None:
        assert 0 == self.left(key)

    def said(self, *command: str) -> str:
        return self.system.ask(*command).stdout.decode()


class OnSge:
    """Grid Engine."""

    name = "sge"
    cluster = SGECluster
    submit_command = "qsub"
    many = (1000, 1)
    walltime = 40
    alone: ClassVar[Mapping[str, Any]] = {"job_cores": 30}
    habits: ClassVar[Mapping[str, str]] = {}
    inherits = False
    template = "#!/bin/sh\n#$ -S /bin/sh\n#$ -o /dev/null -j y\nexport FLAVOUR=vanilla\n{command}\n"
    refusal = 'unknown queue "nowhere"'

    def __init__(self, system: SgeSystem) -> None:
        self.system = system
        self.stop, self.start = system.stop, system.start
        self.left, self.submits = system.left, system.arrays

    def states(self, key: str) -> dict[str, int]:
        return renamed(self.system.states(key), {"r": "running", "qw": "queued"})

    def kill(self, key: str) -> None:
        self.system.run("qdel", *self.submits(key))

    def ended_well(self, number: str) -> bool:
        try:
            said = self.system.run("qacct", "-j", number).splitlines()
        except AssertionError:  # not written down yet
            return False
        return {("failed", "0"), ("exit_status", "0")} <= {tuple(line.split()) for line in said}

    def told(self, number: str) -> tuple[str, str]:
        (script,) = (self.system.root / "spool" / "qmaster" / "job_scripts").glob(number)
        return script.read_text(), self.system.run("qstat", "-j", number)

    async def forgets(self, key: str) -> None:
        await until(lambda: self.left(key) == 0)  # a job that ends is listed for a moment


@contextmanager
def on_slurm() -> Iterator[OnSlurm]:
    yield OnSlurm(slurm())


@contextmanager
def on_sge() -> Iterator[OnSge]:
    system = sge()
    with system.on_path():
        yield OnSge(system)
        system.clear()


SITES = {"slurm": on_slurm, "sge": on_sge}


# --- clusters on them ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(site: Site, directory: Path, **options: Any) -> AsyncIterator[Any]:
    """A cluster of which the system knows no job any more when it is closed, and which leaves no private file."""
    options = {"cores": 1, "host": "127.0.0.1", "dashboard_address": None, "poll_s": 0.5, **options}
    async with site.cluster(asynchronous=True, log_directory=str(directory / "logs"), **options) as cluster:
        yield cluster
    await site.forgets(cluster.key)
    assert [] == [path.name for path in (directory / "logs").glob(".*")], "private files"


def events(cluster: Any) -> str:
    return "\n".join(event for record in cluster.records for event in record.events)


def phases(cluster: Any) -> list[str]:
    return [row.phase.value for row in cluster.status() if row.phase.value not in ("gone", "failed")]


async def adapts(cluster: Any, trace: Trace, left: Callable[[], object]) -> None:
    """From nothing to three jobs, results held while they go, and back to nothing; nothing is run twice."""
    async with Client(cluster, asynchronous=True) as client:
        assert cluster.scheduler_address.startswith("tls://")
        cluster.adapt(minimum=0, maximum=3, **QUICK)
        futures = client.map(trace.task("first"), range(3), pure=False)
        await until(lambda: len(trace.runs) == 3)
        held = client.submit(sum, futures)
        trace.open("first")
        assert 3 == await held
        await until(lambda: len(alive(cluster)) == 1)
        assert [0, 1, 2] == await client.gather(futures)
        assert {"0": 1, "1": 1, "2": 1} == dict(trace.runs)
        del futures, held
        await until(lambda: not left())


def program(path: Path, text: str) -> str:
    """A program of some lines of shell; its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def sleeping(directory: Path) -> str:
    """An interpreter of workers that only sleeps: a job that costs nothing and never registers."""
    return program(directory / "sleeper", "exec sleep 600")


def stand_before(word: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of another on PATH; what it runs itself is the other."""
    program(folder / word, f"PATH=${{PATH#*:}}\n{text}")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
