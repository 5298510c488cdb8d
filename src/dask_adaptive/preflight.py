"""Whether a cluster could run here: what is missing, and for every finding what to do.

First what can be seen without a job (commands, the job list, folders), then one real job: whether it starts, reaches
the scheduler, and has the Python and the packages that are here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client

from dask_adaptive.backend.batch import BatchSystem
from dask_adaptive.backend.dialect import Call
from dask_adaptive.cluster import Cluster
from dask_adaptive.description import Description
from dask_adaptive.errors import AdaptiveError, BackendError
from dask_adaptive.model import Life, Phase
from dask_adaptive.options import PoolOptions
from dask_adaptive.registry import made_backend

__all__ = ["Finding", "examine"]

ASK_S = 30.0
PROBE = "daskprob"
"""The name of a batch that is never submitted."""

SAME = ("python", "dask", "distributed", "msgpack", "cloudpickle")
"""What has to be of one version on both sides; of the other packages a difference is told, no more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``advice`` says what to do where it is not ``good``."""

    what: str
    good: bool = True
    advice: str = ""


async def examine(
    description: Description, pool: str, *, job: bool = True, timeout_s: float = 300.0
) -> AsyncIterator[Finding]:
    """What is found, one after the other; nothing, without a job, of a backend that is not a batch system.

    Parameters
    ----------
    description:
        The cluster.
    pool:
        The pool to look at.
    job:
        Whether a real job is started as well.
    timeout_s:
        How long that job may take to reach the scheduler, the queue included.
    """
    options = description.options[pool]
    backend = made_backend(str(options.backend), options.backend_options)
    good = True
    try:
        if isinstance(backend, BatchSystem):
            async for finding in _around(backend, options):
                good = good and finding.good
                yield finding
    except BackendError as error:
        good = False
        yield Finding(f"{backend.name} cannot be asked: {error}", False, "the sentence above says what is wrong")
    finally:
        await backend.aclose()
    if job and good:
        async for finding in _with_a_job(description, pool, timeout_s):
            yield finding


# --- without a job -------------------------------------------------------------------------------------------------


async def _around(backend: BatchSystem, options: PoolOptions) -> AsyncIterator[Finding]:
    for program in await _programs(backend, options):
        answer = await backend.runner.run(Call(("sh", "-c", 'command -v "$1"', "sh", program)), ASK_S)
        path = answer.stdout.strip()
        advice = f"load the module of {backend.name}, or go to a machine that has it; login= uses one over SSH"
        yield Finding(f"{program}: {path}") if path else Finding(f"{program} is not on PATH", False, advice)
    yield await _folder(backend)
    try:
        await backend.start()
        mine = await backend.jobs(PROBE[:4])
        yield Finding(f"the job list can be read ({len(mine)} jobs of such a cluster are there)")
    except BackendError as error:
        yield Finding(
            f"the job list cannot be read: {error}", False, "ask the people of your site, or wait until it is back"
        )


async def _programs(backend: BatchSystem, options: PoolOptions) -> list[str]:
    dialect, user = backend.dialect, await backend.runner.user()
    spec = options.spec("tls://nowhere", {}, "")
    calls = [dialect.submit(PROBE, 1, "", spec), *dialect.query(user)]
    return list(dict.fromkeys(call.argv[0] for call in calls))


async def _folder(backend: BatchSystem) -> Finding:
    try:
        folder = await backend.runner.folder(backend.log_directory)
        await backend.runner.place(f"{folder}/.doctor", "")
        await backend.runner.remove(f"{folder}/.doctor")
    except BackendError as error:
        advice = "name a folder with log_directory= that you may write to and that jobs see"
        return Finding(f"the folder for logs cannot be used: {error}", False, advice)
    return Finding(f"logs and private files go to {folder}")


# --- with one ------------------------------------------------------------------------------------------------------


async def _with_a_job(description: Description, pool: str, timeout_s: float) -> AsyncIterator[Finding]:
    options = description.options[pool]
    cluster = Cluster(
        pools={pool: description.pools[pool]},
        scheduler_options=description.scheduler,
        security=description.security,
        n_workers=options.workers_per_job,
        asynchronous=True,
    )
    began_s = time.monotonic()
    try:
        await cluster
        yield Finding(f"a scheduler listens at {cluster.scheduler_address}")
        life = await _started(cluster, timeout_s)
        if life is None or life.phase is not Phase.READY:
            yield _did_not_start(life, timeout_s)
            return
        yield Finding(f"job {life.name} ({life.id}) reached the scheduler after {time.monotonic() - began_s:.0f} s")
        async with Client(cluster, asynchronous=True) as client:
            for finding in _compared(await client.get_versions(check=False)):
                yield finding
            for finding in (await client.run(_writable())).values():
                yield Finding(**finding)
    except AdaptiveError as error:
        yield Finding(f"the cluster did not start: {error}", False, "the sentence above says what to change")
    finally:
        await cluster.close()


async def _started(cluster: Cluster, timeout_s: float) -> Life | None:
    """The job, once it serves, failed, or had its time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        record = cluster.controller.record if cluster.controller is not None else None
        lives = list(record.snapshot.lives.values()) if record is not None else []
        over = [life for life in lives if life.phase in (Phase.READY, Phase.FAILED)]
        if over and (
            over[0].phase is Phase.READY or over[0].log_tail or time.monotonic() > deadline_s - timeout_s + 10
        ):
            return over[0]
        if time.monotonic() > deadline_s:
            return lives[0] if lives else None
        await asyncio.sleep(0.1)


def _did_not_start(life: Life | None, timeout_s: float) -> Finding:
    if life is None:
        return Finding("no job was submitted", False, "dask adaptive script shows what would be")
    reason = f": {life.reason}" if life.reason else ""
    tail = f"; its output ends with: {life.log_tail.strip().splitlines()[-1]}" if life.log_tail.strip() else ""
    if life.phase is Phase.FAILED:
        advice = "dask adaptive script shows what it runs; the python= of the jobs has to have dask installed"
        return Finding(f"job {life.name} failed{reason}{tail}", False, advice)
    if life.phase in (Phase.SUBMITTED, Phase.QUEUED):
        advice = "ask for less, for another queue, or for more patience: --timeout"
        return Finding(f"job {life.name} still waits in the queue after {timeout_s:.0f} s{reason}", False, advice)
    advice = "the jobs' machine has to reach the scheduler's address above: interface=, host= or contact_address="
    return Finding(
        f"job {life.name} runs, and did not reach the scheduler in {timeout_s:.0f} s{reason}{tail}", False, advice
    )


def _compared(versions: Mapping[str, Any]) -> list[Finding]:
    here = versions["client"]["packages"]
    there = next(iter(versions["workers"].values()))["packages"]
    found = []
    for name in SAME:
        same = _short(name, here.get(name)) == _short(name, there.get(name))
        advice = f"install the same {name} on both sides" if not same else ""
        found.append(Finding(f"{name}: {there.get(name)} in the job, {here.get(name)} here", same, advice))
    odd = [name for name in here if name not in SAME and here[name] != there.get(name)]
    if odd:
        found.append(Finding(f"of other versions than here: {', '.join(odd)}"))
    return found


def _short(name: str, version: str | None) -> object:
    """3.11.2 and 3.11.9 are the same Python to a pickle; 3.11 and 3.12 are not."""
    return version.split(".")[:2] if name == "python" and version else version


def _writable() -> Callable[[Any], dict[str, Any]]:
    """What runs in the job: made here, so that it travels whole, to a Python that may have nothing of ours."""

    def look(dask_worker: Any) -> dict[str, Any]:
        import tempfile

        folder = dask_worker.local_directory
        try:
            with tempfile.TemporaryFile(dir=folder):
                return {"what": f"workers may write to {folder}"}
        except OSError as error:
            advice = "name a folder on the jobs' machine with local_directory="
            return {"what": f"workers may not write to {folder}: {error}", "good": False, "advice": advice}

    return look
