"""The local backend with real schedulers, real workers, and everything that can happen to a process."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import dask.config
import psutil
import pytest
from distributed import Client, Scheduler
from tests.contract.subjects import MARK, NOWHERE, batch, broken, key, marked
from tests.waiting import until

from dask_adaptive.backend.local import Local
from dask_adaptive.errors import Ambiguous, ConfigError, NoCapacity, Rejected
from dask_adaptive.model import Job, JobId, JobState, Shape, Spec

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass
class World:
    """A scheduler, a client, and a way to start workers for it."""

    scheduler: Scheduler
    client: Client
    backend: Local
    mark: str

    async def start(self, count: int = 1, **spec: Any) -> list[JobId]:
        """Submit jobs and wait until all their workers are registered."""
        wanted = Spec(self.scheduler.address, **spec)
        before = len(self.scheduler.workers)
        ids = list(await self.backend.submit(batch(count, spec=wanted)))
        await until(lambda: len(self.scheduler.workers) == before + len(ids) * wanted.shape.workers)
        return ids

    async def job(self, job_id: JobId) -> Job:
        return next(job for job in await self.backend.jobs(key("mine")) if job.id == job_id)

    async def ended(self, job_id: JobId) -> Job:
        async def met() -> bool:
            return (await self.job(job_id)).state is JobState.ENDED

        await until(met)
        return await self.job(job_id)

    async def ask(self, function: Callable[[], Any]) -> list[Any]:
        """Run a function on every worker."""
        return list((await self.client.run(function)).values())


async def world_of(**arguments: Any) -> AsyncIterator[World]:
    async with (
        Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        mark = uuid.uuid4().hex
        backend = Local(environment={MARK: mark}, **arguments)
        try:
            yield World(scheduler, client, backend, mark)
        finally:
            await backend.aclose()


@pytest.fixture(params=["fork", "exec"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async for made in world_of(start=request.param, directory=str(tmp_path / "logs"), log_bytes=10_000, grace_s=1):
        yield made


@pytest.fixture
async def forked(tmp_path: Path) -> AsyncIterator[World]:
    async for made in world_of(directory=str(tmp_path / "logs"), log_bytes=10_000, grace_s=1, gpus=4):
        yield made


# --- what a worker is ---------------------------------------------------------------------------------------------


async def test_workers_are_what_the_shape_says_and_run_tasks(world: World) -> None:
    shape = Shape(workers=2, threads=3, memory_bytes=4_000_000_000, resources={"FOO": 2.0})
    (job_id,) = await world.start(shape=shape)
    name = (await world.job(job_id)).name
    workers = world.scheduler.workers.values()
    assert {f"{name}-0-0", f"{name}-1-0"} == {worker.name for worker in workers}
    assert {(3, 4_000_000_000)} == {(worker.nthreads, worker.memory_limit) for worker in workers}
    assert [worker.resources for worker in workers] == [{"FOO": 2.0}] * 2
    assert 42 == await world.client.submit(lambda: 6 * 7)


async def test_a_worker_finds_the_modules_and_files_of_its_owner(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_the_script.py").write_text("def answer(): return 'found'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    await world.start()
    assert [str(tmp_path)] == await world.ask(os.getcwd)
    answer = __import__("beside_the_script").answer
    assert "found" == await world.client.submit(answer)


async def test_environment_configuration_and_preload_arrive(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("FROM_OWNER", "set after the import")
    preload = tmp_path / "early.py"
    preload.write_text("import os\nos.environ['PRELOADED'] = 'yes'\n")
    with dask.config.set({"testing.word": "from the owner", "scheduler": "dask.distributed"}):
        text = dask.config.serialize(dask.config.config)
    await world.start(environment={"FROM_SPEC": "1"}, preload=(str(preload),), dask_config=text)
    names = ("FROM_SPEC", "FROM_OWNER", "PRELOADED", "OMP_NUM_THREADS")

    def look() -> list[Any]:
        import dask

        return [*[os.environ.get(name) for name in names], dask.config.get("testing.word", None)]

    assert [["1", "set after the import", "yes", "1", "from the owner"]] == await world.ask(look)
    assert [None] == await world.ask(lambda: dask.config.get("scheduler", None))


async def test_a_command_runs_once_per_job_in_the_place_of_workers(world: World) -> None:
    spec = Spec(NOWHERE, shape=Shape(workers=2), environment={"WORD": "said"}, command=("sh", "-c", "echo $WORD"))
    ids = await world.backend.submit(batch(2, spec=spec))
    assert [0, 0] == [(await world.ended(job_id)).exit_code for job_id in ids]
    assert ["said\n"] * 2 == [await world.backend.log(job_id) for job_id in ids]


@LINUX
async def test_a_worker_holds_nothing_of_the_helper(world: World) -> None:
    await world.start(count=2)

    for links, session, default in await world.ask(_links):
        assert [] == [link for link in links if str(world.backend.directory) in link]
        assert "/dev/null" in links
        assert os.getsid(0) != session, "ctrl-C in the terminal would reach the worker"
        assert default


def _links() -> tuple[list[str], int, bool]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of the listing itself
            links.append(str(entry.readlink()))
    return links, os.getsid(0), signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


async def test_random_numbers_differ_between_workers(forked: World) -> None:
    await forked.start(count=3)

    def draw() -> tuple[float, float]:
        import numpy as np

        return random.random(), float(np.random.random())

    drawn = await forked.ask(draw)
    assert 3 == len({ours for ours, _ in drawn})
    assert 3 == len({numpys for _, numpys in drawn})


async def test_every_worker_has_its_own_gpus_and_gives_them_back(forked: World) -> None:
    shape = Shape(workers=2)
    ids = await forked.start(count=1, shape=shape, gpus=1)
    more = await forked.backend.submit(batch(5, spec=Spec(forked.scheduler.address, shape, gpus=1)))
    assert 1 == len(more), "two more GPUs are free: one job of the five"
    await until(lambda: len(forked.scheduler.workers) == 4)
    devices = await forked.ask(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert ["0", "1", "2", "3"] == sorted(devices)
    assert [worker.resources["GPU"] for worker in forked.scheduler.workers.values()] == [1.0] * 4
    with pytest.raises(NoCapacity):
        await forked.backend.submit(batch(1, spec=replace(NOWHERE, gpus=1)))
    with pytest.raises(Rejected, match="takes 5 GPUs"):
        await forked.backend.submit(batch(1, spec=replace(NOWHERE, gpus=5)))
    await forked.backend.cancel(ids)
    await forked.ended(ids[0])
    assert 1 == len(await forked.backend.submit(batch(1, spec=replace(NOWHERE, gpus=2))))


# --- how it ends --------------------------------------------------------------------------------------------------


async def test_a_worker_beyond_its_memory_is_killed_and_the_reason_says_so(forked: World) -> None:
    (job_id,) = await forked.start(shape=Shape(memory_bytes=400_000_000))

    def grow() -> None:
        import time

        kept = []
        while True:
            kept.append(os.urandom(10_000_000))
            time.sleep(0.001)

    growing = forked.client.submit(grow)
    job = await forked.ended(job_id)
    del growing
    assert -signal.SIGKILL == job.exit_code
    assert job.reason.startswith("used ")
    assert job.reason.endswith(" of its limit of 400 MB")


async def test_a_killed_worker_is_told_of_at_once(forked: World) -> None:
    (job_id,) = await forked.start()
    words: list[str] = []
    forked.backend.watch(words.append)
    (pid,) = await forked.ask(os.getpid)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: any("ended" in word for word in words))
    job = await forked.job(job_id)
    assert (job.exit_code, job.reason) == (-9, "killed by signal 9 (SIGKILL)")


async def test_the_news_of_an_end_does_not_wait_for_a_tick(forked: World) -> None:
    ended = asyncio.Event()
    forked.backend.watch(lambda word: ended.set() if "ended" in word else None)
    delays = []
    for _ in range(5):
        await forked.start()
        (pid,) = await forked.ask(os.getpid)
        ended.clear()
        begin = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(ended.wait(), 120)
        delays.append(time.monotonic() - begin)
        await until(lambda: not forked.scheduler.workers)
    assert min(delays) < 0.5, "the helper looks by itself only once a second"


async def test_a_job_of_which_one_worker_died_runs_on_and_says_so(forked: World) -> None:
    (job_id,) = await forked.start(shape=Shape(workers=2))
    pid, other = await forked.ask(os.getpid)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(forked.scheduler.workers) == 1)
    await until(lambda: not psutil.pid_exists(pid))
    assert "a worker ended: killed by signal 9 (SIGKILL)" == (await forked.job(job_id)).reason
    assert [other] == await forked.ask(os.getpid)
    await forked.backend.cancel([job_id])
    assert -9 == (await forked.ended(job_id)).exit_code


async def test_workers_that_exit_by_themselves_are_a_completed_job(forked: World) -> None:
    (job_id,) = await forked.start(shape=Shape(workers=2))
    await forked.scheduler.retire_workers(list(forked.scheduler.workers), close_workers=True)
    job = await forked.ended(job_id)
    assert (job.exit_code, job.reason) == (0, "exit code 0")


async def test_what_does_not_listen_to_sigterm_is_killed_after_the_grace(forked: World) -> None:
    (job_id,) = await forked.start()
    (pid,) = await forked.ask(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    await forked.backend.cancel([job_id])
    await until(lambda: not psutil.pid_exists(pid))
    assert -signal.SIGKILL == (await forked.ended(job_id)).exit_code


async def test_processes_that_tasks_started_end_with_their_job(forked: World) -> None:
    (job_id,) = await forked.start()

    def start_child() -> int:
        code = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    (child,) = await forked.ask(start_child)
    await forked.backend.cancel([job_id])
    assert JobState.ENDING is (await forked.job(job_id)).state
    await forked.ended(job_id)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


async def test_a_chatty_worker_neither_blocks_nor_fills_the_disk(forked: World) -> None:
    (job_id,) = await forked.start()

    def chat() -> None:
        for number in range(100_000):
            print("x" * 50, number)  # noqa: T201
        sys.stdout.flush()

    await forked.client.run(chat)

    async def met() -> bool:
        return "99999" in await forked.backend.log(job_id)

    await until(met)
    assert forked.backend.directory is not None
    assert sum(path.stat().st_size for path in forked.backend.directory.glob(f"{job_id.partition('#')[0]}*")) <= 20_000
    assert 0 < len(await forked.backend.log(job_id)) <= 10_000


async def test_a_preload_that_cannot_be_imported_shows_in_the_log(world: World) -> None:
    spec = replace(NOWHERE, preload=("no_such_module_anywhere",))
    (job_id,) = await world.backend.submit(batch(1, spec=spec))
    job = await world.ended(job_id)
    assert job.exit_code
    assert f"exit code {job.exit_code}" == job.reason
    assert "no_such_module_anywhere" in await world.backend.log(job_id)


async def test_a_missing_interpreter_is_rejected() -> None:
    backend = Local(python="/no/such/python")
    with pytest.raises(Rejected, match="/no/such/python"):
        await backend.submit(batch(1))
    await backend.aclose()


async def test_an_interpreter_that_cannot_run_is_a_failed_job(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("not a program")
    fake.chmod(0o755)
    backend = Local(python=str(fake))
    (job_id,) = await backend.submit(batch(1))

    async def met() -> bool:
        return [job.state for job in await backend.jobs(key("mine"))] == [JobState.ENDED]

    await until(met)
    assert 1 == (await backend.jobs(key("mine")))[0].exit_code
    assert "Exec format error" in await backend.log(job_id)
    await backend.aclose()


@LINUX
@pytest.mark.parametrize("limit", [30, 31])  # a job takes two: it is the helper that has none left, or the new child
async def test_no_more_processes_than_the_system_allows(tmp_path: Path, limit: int) -> None:
    backend = Local(start="exec", directory=str(tmp_path), grace_s=1)
    await backend.start()
    assert backend._helper is not None
    helper = psutil.Process(backend._helper.pid)
    resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, (limit, limit))
    wanted = batch(30)
    ids = await backend.submit(wanted)
    assert 0 < len(ids) < 30
    assert set(ids) == {job.id for job in await backend.jobs(key("mine"))}
    with pytest.raises(NoCapacity, match="Too many open files"):
        await backend.submit(batch(1))
    assert 1 + len(ids) == len(helper.children()), "its guard, and a worker a job"
    await backend.aclose()


@pytest.mark.parametrize(
    "arguments",
    [
        {"grace_s": -1},
        {"grace_s": float("nan")},
        {"log_bytes": 0},
        {"start": "spawn"},
        {"start": "fork", "python": "p"},
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Local(**arguments)


# --- who dies -----------------------------------------------------------------------------------------------------


async def test_a_killed_helper_takes_its_jobs_along_and_the_next_submit_starts_another(forked: World) -> None:
    (job_id,) = await forked.start(shape=Shape(workers=2))
    await forked.ask(lambda: subprocess.Popen(["sleep", "600"]).pid)
    helper = psutil.Process((await forked.ask(os.getppid))[0])
    assert len(marked(forked.mark)) > 4
    helper.kill()
    job = await forked.ended(job_id)
    assert "its helper process died" == job.reason
    await until(lambda: marked(forked.mark) == [])
    await forked.start()


async def test_a_helper_that_does_not_answer_leaves_the_submit_open(tmp_path: Path) -> None:
    backend = Local(start="exec", directory=str(tmp_path), grace_s=1)
    await backend.submit(batch(1))
    backend.timeout_s = 0.5
    helper = psutil.Process(backend._helper.pid if backend._helper else 0)
    helper.suspend()
    try:
        with pytest.raises(Ambiguous):
            await backend.submit(batch(1))
    finally:
        helper.resume()

    async def listed() -> bool:
        return len(await backend.jobs(key("mine"))) == 2

    await until(listed)
    await backend.aclose()


OWNER = """
    import asyncio, os, subprocess, sys, time
    from distributed import Client, Scheduler
    from dask_adaptive.backend.local import Local
    from dask_adaptive.model import Batch, Shape, Spec

    async def main(start, ending):
        scheduler = await Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
        backend = Local(start=start, grace_s=1)
        spec = Spec(scheduler.address, Shape(workers=2))
        await backend.submit(Batch("mine", "default", "aaaaaaaa", 2, spec))
        while len(scheduler.workers) < 4:
            await asyncio.sleep(0.02)
        async with Client(scheduler.address, asynchronous=True) as client:
            await client.run(lambda: subprocess.Popen(["sleep", "600"]).pid)
            pids = set((await client.run(os.getppid)).values())
        child = os.fork()
        if child == 0:  # none of ours, but it keeps every file of the owner open
            for output in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
            time.sleep(600)
            os._exit(0)
        print(child, *pids, backend.directory, flush=True)
        if ending == "exit":
            os._exit(0) if start == "exec" else sys.exit(0)
        await asyncio.sleep(600)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("start", "ending"),
    [("fork", "kill"), ("exec", "kill"), ("fork", "exit"), ("exec", "exit"), ("fork", "interrupt"), ("fork", "both")],
)
def test_nothing_is_left_when_the_owner_goes(tmp_path: Path, start: Literal["fork", "exec"], ending: str) -> None:
    mark = uuid.uuid4().hex
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER))
    owner = subprocess.Popen(
        [sys.executable, str(script), start, ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, MARK: mark, "TMPDIR": str(tmp_path)},
        text=True,
    )
    assert owner.stdout is not None
    child, helper, directory = owner.stdout.readline().split()
    try:
        assert len(marked(mark)) > 5
        if ending == "both":
            os.kill(int(helper), signal.SIGSTOP)  # so that it cannot do anything about what comes
        if ending != "exit":
            owner.send_signal(signal.SIGINT if ending == "interrupt" else signal.SIGKILL)
        if ending == "both":
            os.kill(int(helper), signal.SIGKILL)
        owner.communicate(timeout=120)
        asyncio.run(until(lambda: [found for found in marked(mark) if not found.startswith(f"{child} ")] == []))
    finally:
        os.kill(int(child), signal.SIGKILL)
    assert ending == "both" or not Path(directory).exists()


async def test_no_place_for_the_logs_is_an_error_of_the_backend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    backend = Local(directory=str(tmp_path / "file" / "logs"))
    with pytest.raises(NoCapacity, match="Not a directory"):
        await backend.submit(batch(1))
    await backend.aclose()


async def test_a_configuration_with_functions_in_it_does_no_harm(tmp_path: Path) -> None:
    backend = Local(start="exec", directory=str(tmp_path))
    with dask.config.set({"testing": {"function": print, "word": "kept"}}):
        await backend.submit(broken())
    await backend.aclose()


async def test_the_directory_is_private_and_removed_if_it_was_made_here() -> None:
    backend = Local(start="exec")
    await backend.start()
    assert backend.directory is not None
    assert 0o700 == backend.directory.stat().st_mode & 0o777
    await backend.submit(broken())
    await backend.aclose()
    assert not backend.directory.exists()
