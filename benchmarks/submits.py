"""How many commands many jobs take: ``python -m benchmarks.submits --jobs 1000``.

Ours and dask-jobqueue ask the same real Slurm for the same number of jobs, and give them up again. The jobs only sleep.
Every command goes through a wrapper that counts it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.systems.slurm import SlurmSystem, slurm

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")


@dataclass(frozen=True)
class Counted:
    """What one side took: seconds until all jobs were in the queue, seconds until none was, and commands."""

    up_s: float
    down_s: float
    commands: Counter[str]


def _program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def wrap(folder: Path) -> Path:
    """Put counting wrappers of Slurm's commands on PATH; the file that they write to."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir()
    calls.touch()
    for name in COMMANDS:
        _program(programs / name, f'echo {name} >> "{calls}"\nexec {shutil.which(name)} "$@"')
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    return calls


async def _queue(system: SlurmSystem, met: Callable[[int], bool]) -> None:
    """Wait for a length of the queue, asked for without the wrappers."""
    real = shutil.which("squeue", path=os.environ["PATH"].partition(":")[2]) or "squeue"
    deadline = time.monotonic() + 600
    while True:
        listing = await asyncio.to_thread(system.ask, real, "-h", "-r", "-o", "%i")
        if met(len(listing.stdout.split())):
            return
        assert time.monotonic() < deadline, "not within ten minutes"
        await asyncio.sleep(0.2)


def _taken(calls: Path) -> Counter[str]:
    """The commands since the last time."""
    words = calls.read_text().split()
    calls.write_text("")
    return Counter(words)


async def _counted(make: Callable[[], Awaitable[Any]], jobs: int, calls: Path) -> Counted:
    _taken(calls)
    cluster = await make()
    began_s = time.perf_counter()
    cluster.scale(jobs=jobs)
    await _queue(slurm(), lambda queued: queued == jobs)
    up_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    await cluster.close()
    await _queue(slurm(), lambda queued: queued == 0)
    return Counted(up_s, time.perf_counter() - began_s, _taken(calls))


async def measure_async(jobs: int) -> dict[str, Counted]:
    """Both sides, one after the other, on the same Slurm."""
    from dask_jobqueue.config import reconfigure
    from dask_jobqueue.slurm import SLURMCluster as Theirs

    from dask_adaptive import SlurmCluster as Ours

    reconfigure()  # its defaults are gone where somebody has set Dask's configuration anew since the import
    slurm()
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls = wrap(folder)
        same: dict[str, Any] = {
            "cores": 1,
            "memory": "1 GB",
            "python": _program(folder / "sleeper", "exec sleep 3600"),
            "log_directory": str(folder / "logs"),
            "walltime": "01:00:00",
            "asynchronous": True,
        }

        async def ours() -> Any:
            return await Ours(**same, host="127.0.0.1", dashboard_address=None)

        async def theirs() -> Any:
            options = {"host": "127.0.0.1", "dashboard_address": ":0"}
            return await Theirs(**same, processes=1, scheduler_options=options)

        try:
            return {"ours": await _counted(ours, jobs, calls), "dask-jobqueue": await _counted(theirs, jobs, calls)}
        finally:
            os.environ["PATH"] = before


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    arguments = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    found = asyncio.run(measure_async(arguments.jobs))
    print(f"{arguments.jobs} jobs    {'up':>9} {'down':>9}  " + "".join(f"{name:>10}" for name in COMMANDS))
    for name, each in found.items():
        counts = "".join(f"{each.commands[command]:>10}" for command in COMMANDS)
        print(f"{name:<13} {each.up_s:>7.1f} s {each.down_s:>7.1f} s  {counts}")


if __name__ == "__main__":
    main()
