"""Worlds in which everything goes wrong; `make sim` tries ten thousand. A seed that failed once is kept here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dask_adaptive.model import (
    Cancel,
    Life,
    Load,
    Member,
    Phase,
    Plan,
    Pool,
    PoolState,
    Record,
    Retire,
    Snapshot,
    Submit,
    Target,
    Want,
)
from dask_adaptive.policy.classic import TargetDuration
from dask_adaptive.sim import fuzz

WORLDS = 200
PART = 20

FAILED_ONCE = (302,)


@pytest.mark.parametrize("first", range(0, WORLDS, PART))
def test_in_every_world_all_holds(first: int) -> None:
    assert {} == {seed: found for seed in range(first, first + PART) if (found := fuzz.trouble(seed))}


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_what_failed_once_holds_now(seed: int) -> None:
    assert "" == fuzz.trouble(seed)


def test_the_worlds_are_different_and_each_is_the_same_again() -> None:
    cases = [fuzz.case(seed) for seed in range(100)]
    assert len({each.workload.name for each in cases}) > 4
    assert len({type(each.policy).__name__ for each in cases}) > 1
    for fault in ("lag_s", "missing", "mute", "failing", "hanging", "unsure", "partial"):
        assert 0 < sum(getattr(each.setting.site, fault) > 0 for each in cases) < 100, fault
    assert replace(fuzz.case(7), policy=cases[7].policy) == cases[7]


# --- what watches can see ------------------------------------------------------------------------------------------


def record(plan: Plan, *, stale: str = "", present: int = 1, firm: bool = False) -> Record:
    life = Life("aaaabbbb.0", "default", Phase.READY, 0.0, served=True, present=present)
    load = Load(0.0, members={life.name: (Member("tcp://a", "a"),)})
    snapshot = Snapshot(0.0, 1.0, load, {life.name: life}, {"default": PoolState(Pool("default"), stale=stale)})
    return Record(1, 0.0, "", snapshot, {}, Target({"default": Want(1, "why", firm)}), plan)


@pytest.mark.parametrize(
    ("plan", "stale", "firm", "wrong"),
    [
        (Plan(cancels=(Cancel("aaaabbbb.0", "x"),)), "", False, "cancelled with 1 registered workers"),
        (Plan(retires=(Retire("aaaabbbb.0", "x"),)), "", False, "which is not idle"),
        (Plan(retires=(Retire("aaaabbbb.0", "x", busy=True),)), "", False, "for a policy that may not"),
        (Plan(retires=(Retire("aaaabbbb.0", "x", busy=True),)), "old", True, "on a list that could not be read"),
        (Plan(submits=(Submit("default", 1, "x"),)), "old", False, "on a list that could not be read"),
    ],
)
def test_a_wrong_round_is_seen(plan: Plan, stale: str, firm: bool, wrong: str) -> None:
    (said,) = fuzz.wrong(record(plan, stale=stale, firm=firm))
    assert wrong in said


def test_a_right_round_is_not() -> None:
    assert [] == list(fuzz.wrong(record(Plan(retires=(Retire("aaaabbbb.0", "x", busy=True),)), firm=True)))


def test_a_wrong_end_is_seen() -> None:
    made = fuzz.case(0)
    setting = replace(made.setting, maximum=5, minimum=0, site=replace(made.setting.site, life_s=float("inf")))
    made = replace(made, policy=TargetDuration(), setting=setting)
    wanted = sum(len(graph.run_s) for graph in made.workload.graphs)
    assert [] == list(fuzz.afterwards(made, alive=0, most_alive=5, tasks=wanted, recomputed=0))
    said = list(fuzz.afterwards(made, alive=3, most_alive=6, tasks=wanted, recomputed=1))
    starts = ["6 jobs were alive", f"{wanted - 1} of {wanted}", "1 tasks were done twice", "3 jobs are still there"]
    assert starts == [sentence[: len(start)] for sentence, start in zip(said, starts, strict=True)]
