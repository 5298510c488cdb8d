"""The end of a head whose entry is gone: whether its word is taken, and what is kept to try it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dask_adaptive.errors import AdaptiveError, Unavailable
from dask_adaptive.head import end
from dask_adaptive.head.orphans import end_jobs
from dask_adaptive.head.state import Entry, Process, Running, Setup, Standing, claim, entries, entry_of, this_process
from dask_adaptive.model import Job, JobId, JobState
from dask_adaptive.owners import Owner, write

ELSEWHERE = Process("another-machine", 1, 1.0)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Manager:
    """Shows these lists, one after the other, then cannot be asked."""

    name = "slurm"
    poll_s = 0.0

    def __init__(self, *lists: Sequence[Job]) -> None:
        self.lists = list(lists)

    async def jobs(self, key: str) -> Sequence[Job]:
        if not self.lists:
            raise Unavailable(f"nobody answers for {key}")
        return self.lists.pop(0)

    async def cancel(self, jobs: object) -> None:
        """Nothing changes."""

    async def aclose(self) -> None:
        """Nothing is held."""


ALIVE = [Job(JobId("1"), "abcd.0", JobState.RUNNING)]


@pytest.mark.parametrize(
    ("lists", "vouched", "notes"),
    [
        ([], True, ["slurm could not be asked; the head had no job left"]),
        ([], False, None),
        ([ALIVE], True, None),
        ([ALIVE, []], True, ["jobs of slurm that had to be cancelled: 1"]),
    ],
)
async def test_who_ended_in_order_is_believed_until_a_job_is_seen(
    lists: list[Sequence[Job]], vouched: bool, notes: list[str] | None
) -> None:
    manager: Any = Manager(*lists)
    if notes is not None:
        assert notes == await end_jobs(manager, ["abcd"], vouched=vouched)
        return
    with pytest.raises(AdaptiveError, match="slurm may still have jobs of this cluster: nobody answers for abcd"):
        await end_jobs(manager, ["abcd"], vouched=vouched)


@pytest.mark.parametrize("owned", [False, True])
async def test_a_head_whose_jobs_may_be_left_has_its_entry_again(monkeypatch: pytest.MonkeyPatch, owned: bool) -> None:
    """It removed the entry, and its managers show jobs that cannot be ended."""
    setup = Setup(this_process(), {}, key="head")
    running = Running("work", ELSEWHERE, 1.0, "0", key="abcd")
    entry = claim("work")
    entry.write(setup)
    entry.write(running)
    if owned:
        write(Owner("work", "abcd", ELSEWHERE, []))
    asked: list[tuple[Sequence[str], bool]] = []

    async def gone(entry: Entry, *_: object) -> bool:
        entry.remove()
        return True

    async def shown(_: object, keys: Sequence[str], *, patience_s: float = 0.0, vouched: bool = False) -> list[str]:
        asked.append((keys, vouched))
        raise AdaptiveError("slurm may still have jobs")

    monkeypatch.setattr(end, "clean", shown)
    with monkeypatch.context() as patch:
        patch.setattr(end, "_gone", gone)
        with pytest.raises(AdaptiveError, match="slurm may still have jobs"):
            await end.down(entry, say=print)
    assert (setup, "slurm may still have jobs") == (entry_of("work").setup(), entry_of("work").running().failed)
    assert Standing.LOST is entry_of("work").standing()

    with pytest.raises(AdaptiveError, match="slurm may still have jobs"):  # tried again at once: nothing is waited for
        await end.down(entry_of("work"), say=print)
    assert [(["head", "abcd"], not owned), (["head", "abcd"], False)] == asked
    assert ["work"] == [each.name for each in entries()]
