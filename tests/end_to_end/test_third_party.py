"""A batch system comes from a package of its own: one class, one entry point, nothing of ours edited."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "examples" / "dask-adaptive-flux"

USE = """
import asyncio
from dask_adaptive.backend.dialect import Dialect
from dask_adaptive.model import Batch, Request, Shape, Spec
from dask_adaptive.registry import backends, load_backend

async def main():
    flux = load_backend("flux")(log_directory="logs", poll_s=0.1)
    assert isinstance(flux.dialect, Dialect)
    spec = Spec("tcp://127.0.0.1:9", Shape(), death_timeout_s=300, request=Request(prologue=("echo up",)))
    batch = Batch("flux", "default", "fluxabcd", 3, spec)
    ids = await flux.submit(batch)
    print("names", *sorted(job.name for job in await flux.jobs("flux") if job.id in ids))
    while not all([await flux.log(each) for each in ids]):
        await asyncio.sleep(0.05)
    print("log", (await flux.log(ids[2])).split()[0])
    await flux.cancel(ids)
    await flux.cancel(ids)
    while any(job.state != "ended" for job in await flux.jobs("flux")):
        await asyncio.sleep(0.05)
    print("reasons", *{job.reason for job in await flux.jobs("flux")})
    await flux.aclose()

print("from", backends()["flux"].dist.name)
asyncio.run(main())
"""


def installed(site: Path) -> Path:
    """What an installer would leave behind: the module, and the entry points of its metadata."""
    project = (PACKAGE / "pyproject.toml").read_text()
    (site / "dask_adaptive_flux.py").write_text((PACKAGE / "dask_adaptive_flux.py").read_text())
    metadata = site / "dask_adaptive_flux-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dask-adaptive-flux\nVersion: 0.1.0\n")
    group, name, value = re.findall(r'^\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"$', project, re.M)[0]
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    return site


def test_a_package_of_its_own_adds_a_batch_system(tmp_path: Path) -> None:
    site, jobs = tmp_path / "site", tmp_path / "jobs"
    site.mkdir()
    jobs.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed(site)),
        "PATH": f"{PACKAGE / 'fake'}{os.pathsep}{os.environ['PATH']}",
        "FLUX_FAKE": str(jobs),
    }
    done = subprocess.run(
        [sys.executable, "-c", USE], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=150
    )
    assert "" == done.stderr
    assert [
        "from dask-adaptive-flux",
        "names fluxabcd.0 fluxabcd.1 fluxabcd.2",
        "log up",
        "reasons cancelled",
    ] == done.stdout.splitlines()


def test_it_is_as_small_as_is_promised() -> None:
    assert len((PACKAGE / "dask_adaptive_flux.py").read_text().splitlines()) < 200
