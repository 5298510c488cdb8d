"""The engine for batch systems, with a runner and a dialect that do what a test wants."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from dask_adaptive.backend import batch as engine
from dask_adaptive.backend import calls, known
from dask_adaptive.backend.batch import BatchSystem
from dask_adaptive.backend.dialect import Answer, Call, Dialect, Directive
from dask_adaptive.backend.runner import Here
from dask_adaptive.errors import Ambiguous, BackendError, ConfigError, Garbled, NoCapacity, Rejected, Unavailable
from dask_adaptive.model import Batch, Job, JobId, JobState, Shape, Spec

QUEUED, RUNNING, ENDED = JobState.QUEUED, JobState.RUNNING, JobState.ENDED
SPEC = Spec("tcp://h:1", Shape())


@dataclass
class Manager:
    """What is true, and how the commands of the day behave. ``asked`` has the words of every command."""

    jobs: dict[str, Job] = field(default_factory=dict)
    ended: dict[str, Job] = field(default_factory=dict)
    room: int = 10**6
    numbers: int = 0
    asked: list[tuple[str, ...]] = field(default_factory=list)
    errors: dict[str, BackendError] = field(default_factory=dict)
    after: dict[str, BackendError] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    most: int = 0
    running: int = 0

    def count(self, word: str) -> int:
        return Counter(words[0] for words in self.asked)[word]

    def set(self, state: JobState, name: str = "") -> None:
        self.jobs = {each: replace(job, state=state) if name in job.name else job for each, job in self.jobs.items()}

    def forget(self, name: str = "") -> None:
        self.jobs = {each: job for each, job in self.jobs.items() if name not in job.name}


class Scripted(Here):
    """Runs nothing: a manager in memory answers."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    async def user(self) -> str:
        return "me"

    async def run(self, call: Call, timeout_s: float) -> Answer:
        word = call.argv[0]
        if word == "sh":
            return await super().run(call, timeout_s)
        manager = self.manager
        manager.asked.append(call.argv)
        manager.running += 1
        manager.most = max(manager.most, manager.running)
        try:
            if word in manager.gates:
                await manager.gates[word].wait()
            if word in manager.errors:
                raise manager.errors[word]
            answer = self._answer(call)
            if word in manager.after:
                raise manager.after.pop(word)
            return answer
        finally:
            manager.running -= 1

    def _answer(self, call: Call) -> Answer:
        manager = self.manager
        word, *rest = call.argv
        if word == "submit":
            tag, count = rest[0], int(rest[1])
            if count > manager.room:
                return Answer(call.argv, 1, "", "too many")
            manager.numbers += 1
            ids = [f"{manager.numbers}.{i}" for i in range(count)]
            manager.jobs |= {each: Job(JobId(each), f"{tag}.{i}", QUEUED) for i, each in enumerate(ids)}
            return Answer(call.argv, 0, " ".join(ids))
        if word == "cancel":
            for each in rest:
                manager.jobs.pop(each, None)
        return Answer(call.argv, 0, "" if word != "mutter" else "?")


@dataclass(frozen=True)
class Plain:
    """A dialect that looks into the manager instead of understanding words."""

    manager: Manager
    options: ClassVar[tuple[str, ...]] = ()
    name: str = "plain"
    prefix: str = "#P"
    index: str = "${N:-0}"
    first: int = 0
    attempt: str = "0"
    lag_s: float = 0.0
    poll_s: float = 0.01
    largest: int = 1000

    def probe(self) -> Sequence[Call]:
        return [Call(("probe",))]

    def probed(self, answers: Sequence[Answer]) -> Dialect:
        return self

    def directives(self, spec: Spec, log: str) -> Sequence[Directive]:
        return []

    def submit(self, tag: str, count: int, script: str, spec: Spec) -> Call:
        return Call(("submit", tag, str(count)), stdin=script)

    def submitted(self, answer: Answer, count: int) -> Sequence[JobId]:
        if answer.exit_code:
            raise NoCapacity(answer.said)
        return [JobId(each) for each in answer.stdout.split()]

    def query(self, user: str) -> Sequence[Call]:
        return [Call(("list", user))]

    def queried(self, answers: Sequence[Answer]) -> Sequence[Job]:
        return list(self.manager.jobs.values())

    def recall(self, ids: Sequence[JobId]) -> Sequence[Call]:
        return [Call(("recall", *ids))]

    def recalled(self, answers: Sequence[Answer]) -> Sequence[Job]:
        return [job for answer in answers for each in answer.argv[1:] if (job := self.manager.ended.get(each))]

    def cancel(self, ids: Collection[JobId]) -> Sequence[Call]:
        return [Call(("cancel", *ids))]

    def cancelled(self, answers: Sequence[Answer]) -> None: ...

    def log(self, id: JobId, log: str) -> str:
        return log.replace("%", id.partition(".")[2])


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
async def system(manager: Manager, tmp_path: Path) -> AsyncIterator[BatchSystem]:
    made = BatchSystem(Plain(manager), log_directory=str(tmp_path / "logs"), runner=Scripted(manager), poll_s=0.01)
    yield made
    await made.aclose()


def batch(count: int = 1, tag: str = "mineaaaa", spec: Spec = SPEC) -> Batch:
    return Batch("mine", "default", tag, count, spec)


async def told(system: BatchSystem) -> dict[str, tuple[JobState, str, int | None]]:
    return {job.name: (job.state, job.reason, job.exit_code) for job in await system.jobs("mine")}


# --- submits ------------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_command(system: BatchSystem, manager: Manager) -> None:
    assert [f"1.{i}" for i in range(500)] == await system.submit(batch(500))
    assert 1 == manager.count("submit")


async def test_as_many_as_the_system_takes_now(system: BatchSystem, manager: Manager) -> None:
    manager.room = 60
    assert 50 == len(await system.submit(batch(800)))
    assert ["800", "200", "50"] == [words[2] for words in manager.asked if words[0] == "submit"]


async def test_a_full_system_is_asked_four_times_at_most(system: BatchSystem, manager: Manager) -> None:
    manager.room = 0
    with pytest.raises(NoCapacity, match="too many"):
        await system.submit(batch(1000))
    assert ["1000", "250", "62", "15"] == [words[2] for words in manager.asked if words[0] == "submit"]


async def test_no_more_than_may_wait_in_the_queue(manager: Manager, tmp_path: Path) -> None:
    system = BatchSystem(Plain(manager), log_directory=str(tmp_path), runner=Scripted(manager), max_pending=3)
    assert 3 == len(await system.submit(batch(5)))
    with pytest.raises(NoCapacity, match="3 jobs wait in the queue, and max_pending is 3"):
        await system.submit(batch(1, "mineaaab"))
    manager.set(RUNNING)
    await system.jobs("mine")
    assert 2 == len(await system.submit(batch(2, "mineaaac")))


async def test_submits_keep_their_distance(manager: Manager, tmp_path: Path) -> None:
    system = BatchSystem(Plain(manager), log_directory=str(tmp_path), runner=Scripted(manager), submit_gap_s=0.3)
    await system.submit(batch())
    before_s = time.monotonic()
    await system.submit(batch(1, "mineaaab"))
    assert time.monotonic() - before_s > 0.25


async def test_the_unknown_is_not_said_to_be_nothing(system: BatchSystem, manager: Manager) -> None:
    manager.after["submit"] = Ambiguous("no answer")
    with pytest.raises(Ambiguous):
        await system.submit(batch(2))
    assert {"mineaaaa.0", "mineaaaa.1"} == set(await told(system)), "they show in the list"


async def test_what_was_submitted_without_an_answer_is_ended_at_the_end(system: BatchSystem, manager: Manager) -> None:
    await system.submit(batch(1, "mineaaab"))
    manager.after["submit"] = Ambiguous("no answer")
    with pytest.raises(Ambiguous):
        await system.submit(batch(2))
    await system.aclose()
    assert ["mineaaab.0"] == [job.name for job in manager.jobs.values()], "others are ended by who asked for them"


@pytest.mark.parametrize("path", ["a%b", "%"])
def test_a_path_that_systems_would_change_is_refused(manager: Manager, path: str) -> None:
    with pytest.raises(ConfigError, match="log_directory"):
        BatchSystem(Plain(manager), log_directory=path)


async def test_credentials_that_cannot_be_read_start_nothing(system: BatchSystem, manager: Manager) -> None:
    with pytest.raises(Rejected, match="/no/such/file"):
        await system.submit(batch(spec=replace(SPEC, tls={"tls_key": "/no/such/file"})))
    assert 0 == manager.count("submit")


async def test_private_files_are_placed_once_and_removed(system: BatchSystem, tmp_path: Path) -> None:
    secret = tmp_path / "key.pem"
    secret.write_text("hush")
    for tag in ("mineaaaa", "mineaaab"):
        await system.submit(batch(1, tag, replace(SPEC, tls={"tls_key": str(secret)})))
    (private,) = (tmp_path / "logs").glob(".mine-*")
    assert 0o700 == private.stat().st_mode & 0o777
    assert ["hush"] == [path.read_text() for path in private.glob("*.pem")]
    assert {0o600} == {path.stat().st_mode & 0o777 for path in private.iterdir()}
    await system.cancel([JobId("1.0"), JobId("2.0")])
    await system.aclose()
    assert not private.exists()


async def test_jobs_that_go_on_keep_their_private_files(system: BatchSystem, tmp_path: Path) -> None:
    await system.submit(batch())
    await system.aclose()
    assert 1 == len(list((tmp_path / "logs").glob(".mine-*")))


# --- the list -----------------------------------------------------------------------------------------------------


async def test_one_question_for_all(system: BatchSystem, manager: Manager) -> None:
    await system.submit(batch(50))
    before = len(manager.asked)
    assert 50 == len(await system.jobs("mine"))
    assert [("list", "me")] == manager.asked[before:]


async def test_what_was_only_submitted_is_not_in_the_list(system: BatchSystem, manager: Manager) -> None:
    await system.submit(batch())
    manager.jobs.clear()
    assert {} == await told(system)


async def test_a_job_that_left_the_list_is_looked_up(system: BatchSystem, manager: Manager) -> None:
    await system.submit(batch(2))
    manager.ended["1.0"] = Job(JobId("1.0"), "whatever", ENDED, "", 3)
    manager.forget("aaaa.0")
    assert {"mineaaaa.0": (ENDED, "exit code 3", 3), "mineaaaa.1": (QUEUED, "", None)} == await told(system)
    assert {"mineaaaa.0", "mineaaaa.1"} == set(await told(system)), "it is remembered"
    assert 1 == manager.count("recall")


async def test_what_cannot_be_looked_up_is_missing_and_no_error(system: BatchSystem, manager: Manager) -> None:
    manager.errors["recall"] = Unavailable("accounting is down")
    await system.submit(batch())
    manager.set(RUNNING)
    await system.jobs("mine")
    manager.forget()
    assert {} == await told(system)
    manager.ended["1.0"] = Job(JobId("1.0"), "whatever", ENDED, "out of memory")
    del manager.errors["recall"]
    assert {"mineaaaa.0": (ENDED, "out of memory", None)} == await told(system), "it is written down late"


async def test_a_cancelled_job_that_left_the_list_has_ended(system: BatchSystem, manager: Manager) -> None:
    (one,) = await system.submit(batch())
    await system.cancel([one])
    assert {"mineaaaa.0": (ENDED, "cancelled", None)} == await told(system)


async def test_a_list_that_lags_does_not_prove_that_a_cancelled_job_ended(manager: Manager, tmp_path: Path) -> None:
    late = replace(Plain(manager), lag_s=60.0)
    system = BatchSystem(late, log_directory=str(tmp_path), runner=Scripted(manager), poll_s=0.01)
    (one,) = await system.submit(batch())
    await system.jobs("mine")
    await system.cancel([one])
    assert {} == await told(system)


async def test_a_job_that_is_started_again_lives(system: BatchSystem, manager: Manager) -> None:
    await system.submit(batch())
    manager.set(ENDED)
    assert ENDED is (await told(system))["mineaaaa.0"][0]
    manager.set(QUEUED)
    assert {"mineaaaa.0": (QUEUED, "", None)} == await told(system)


async def test_no_list_is_an_error(system: BatchSystem, manager: Manager) -> None:
    await system.submit(batch())
    manager.errors["list"] = Ambiguous("it hangs")
    with pytest.raises(Unavailable, match="it hangs"):
        await system.jobs("mine")
    del manager.errors["list"]
    assert ["mineaaaa.0"] == list(await told(system))


@pytest.mark.parametrize("method", ["queried", "probed"])
async def test_a_dialect_that_stumbles_has_not_understood(
    system: BatchSystem, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(*_: object) -> None:
        raise KeyError("JOBID")

    monkeypatch.setattr(Plain, method, stumbles)
    with pytest.raises(Garbled, match="JOBID"):
        await system.jobs("mine")


async def test_the_log_is_the_jobs_own(system: BatchSystem, tmp_path: Path) -> None:
    await system.submit(batch(2))
    (tmp_path / "logs" / "mineaaaa.1.log").write_text("x" * 200_000 + "the end")
    text = await system.log(JobId("1.1"))
    assert (100_000, True) == (len(text), text.endswith("the end"))
    assert "" == await system.log(JobId("1.0"))


# --- being gentle -------------------------------------------------------------------------------------------------


async def test_the_newest_logs_stay_and_those_of_the_living_and_of_others(manager: Manager, tmp_path: Path) -> None:
    logs = tmp_path / "logs of mine"
    system = BatchSystem(Plain(manager), log_directory=str(logs), runner=Scripted(manager), poll_s=0.01, logs_kept=2)
    others = {"mineother.0.log", "notes", "mineaaaa.txt"}
    for number, tag in enumerate(("mineaaaa", "mineaaab", "mineaaac")):
        ids = await system.submit(batch(2, tag))
        assert [f"{number + 1}.0", f"{number + 1}.1"] == ids
        for name in (f"{tag}.0.log", f"{tag}.1.log", *others):
            (logs / name).write_text(tag)
    manager.set(ENDED)
    manager.set(RUNNING, "mineaaaa.0")
    await system.jobs("mine")
    living, newest = {"mineaaaa.0.log"}, {"mineaaac.0.log", "mineaaac.1.log"}
    assert others | living | newest == {path.name for path in logs.iterdir() if path.is_file()}
    await system.submit(batch(1, "mineaaad"))
    (logs / "mineaaad.0.log").touch()
    manager.set(ENDED)
    await system.jobs("mine")
    assert others | living | newest | {"mineaaad.0.log"} == {path.name for path in logs.iterdir() if path.is_file()}
    await system.aclose()
    assert others | {"mineaaac.1.log", "mineaaad.0.log"} == {path.name for path in logs.iterdir() if path.is_file()}


async def test_a_number_of_logs_that_cannot_be(manager: Manager) -> None:
    with pytest.raises(ConfigError, match="logs_kept must not be negative"):
        BatchSystem(Plain(manager), logs_kept=-1)


async def test_only_a_few_commands_at_a_time(system: BatchSystem, manager: Manager) -> None:
    ids = await system.submit(batch(20))
    manager.gates["cancel"] = asyncio.Event()
    cancels = [asyncio.ensure_future(system.cancel([each])) for each in ids]
    await _until(lambda: manager.running == calls.IN_FLIGHT)
    manager.gates["cancel"].set()
    await asyncio.gather(*cancels)
    assert calls.IN_FLIGHT == manager.most


async def test_the_list_is_asked_for_less_often_while_nothing_moves(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LEAST_GAP", 0.0)
    system = BatchSystem(Plain(manager), log_directory=str(tmp_path), runner=Scripted(manager), poll_s=9.0)
    await system.submit(batch())
    await system.jobs("mine")
    assert 9.0 == system.poll_s
    for _ in range(12):
        await system.jobs("mine")
    assert 54.0 == system.poll_s
    manager.set(RUNNING)
    await system.jobs("mine")
    assert 9.0 == system.poll_s


async def test_a_slow_system_is_asked_less_often(system: BatchSystem, manager: Manager) -> None:
    manager.gates["list"] = asyncio.Event()
    listing = asyncio.ensure_future(system.jobs("mine"))
    await asyncio.sleep(0.3)
    manager.errors["list"] = Unavailable("no answer")
    manager.gates["list"].set()
    with pytest.raises(Unavailable):
        await listing
    assert system.poll_s > 1


async def test_who_keeps_us_waiting_is_named(
    system: BatchSystem, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SLOW_S", 0.2)
    manager.gates["list"] = asyncio.Event()
    listing = asyncio.ensure_future(system.jobs("mine"))
    assert "" == system.trouble
    await _until(lambda: system.trouble.startswith("list has not answered for"))
    manager.gates["list"].set()
    await listing
    assert "" == system.trouble


async def test_a_system_that_hangs_does_not_keep_a_cluster_from_starting(
    system: BatchSystem, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE_S", 0.1)
    manager.gates["probe"] = asyncio.Event()
    await system.start()
    manager.gates["probe"].set()
    await system.submit(batch())
    assert 2 == manager.count("probe")


async def test_a_system_whose_commands_are_missing_does(system: BatchSystem, manager: Manager) -> None:
    manager.errors["probe"] = Rejected("there is no 'probe' on this machine")
    with pytest.raises(Rejected, match="no 'probe'"):
        await system.start()


async def test_what_ended_is_forgotten_in_the_end(
    system: BatchSystem, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "KEEP", 3)
    await system.submit(batch(5))
    manager.set(ENDED)
    await system.jobs("mine")
    manager.forget()
    assert 3 == len(await told(system))


async def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
