"""Who is told when something is wrong, and that telling holds nothing up."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.waiting import LIMIT_S, soon

from dask_adaptive import ConfigError, alerts
from dask_adaptive.alerts import KINDS, OVER, Alerts, Command, Event, hooks_of, news, troubles_of
from dask_adaptive.health import BROKEN_AFTER
from dask_adaptive.model import Load, Plan, Pool, PoolState, Record, Snapshot, Target

EVENT = Event("pool-broken", "mine", "gpu", "pool gpu is broken: out of luck", 12.5)
heard: list[Event] = []


def hear(event: Event) -> None:
    heard.append(event)


def record(failures: int = 0, broken: str = "", spent: dict[str, str] | None = None, error: str = "") -> Record:
    pools = {"cpu": PoolState(Pool("cpu")), "gpu": PoolState(Pool("gpu"), broken=broken, failures=failures)}
    snapshot = Snapshot(0.0, 1.0, Load(0.0), {}, pools)
    return Record(1, 7.0, "", snapshot, {}, Target({}, spent=spent or {}), Plan(), (), error)


# --- what is wrong -------------------------------------------------------------------------------------------------


def test_every_kind_is_told_of_and_documented() -> None:
    documented = [line.split()[0] for line in (alerts.__doc__ or "").splitlines() if line.startswith("    ")]
    assert list(KINDS) == documented
    page = (Path(__file__).parent.parent.parent / "docs" / "alerts.md").read_text(encoding="utf-8")
    assert set() == {kind for kind in KINDS if f"| `{kind}` |" not in page}
    assert {kind for kind, _ in OVER.values()} | set(OVER) <= set(KINDS)


def test_a_pool_is_broken_after_several_failures_and_mended_when_a_job_serves() -> None:
    once = troubles_of(record(failures=1, broken="1 failure in a row; the last: no"), lost=False)
    often = troubles_of(record(failures=BROKEN_AFTER, broken="3 failures in a row; the last: no"), lost=False)
    trying = troubles_of(record(failures=BROKEN_AFTER), lost=False)
    assert {} == once
    (began,) = news(once, often, "mine", 7.0)
    sentence = "pool gpu is broken: 3 failures in a row; the last: no"
    assert Event("pool-broken", "mine", "gpu", sentence, 7.0) == began
    assert () == news(often, trying, "mine", 8.0)
    assert (Event("pool-mended", "mine", "gpu", "pool gpu serves again", 9.0),) == news(trying, {}, "mine", 9.0)


def test_who_follows_a_cluster_is_told_what_begins_and_what_ends() -> None:
    heard.clear()
    teller = Alerts([hear])
    lost = troubles_of(record(error="no answer"), lost=True)
    for at_s, troubles in enumerate(({}, lost, lost, {})):
        teller.follow(troubles, "mine", float(at_s))
    teller.close()
    assert [("scheduler-lost", 1.0), ("scheduler-back", 3.0)] == [(event.kind, event.at_s) for event in heard]


def test_a_budget_is_reached_once() -> None:
    first = troubles_of(record(spent={"": "3 of 3 worker-hours spent"}), lost=False)
    later = troubles_of(record(spent={"": "3.1 of 3 worker-hours spent"}), lost=False)
    (event,) = news({}, first, "mine", 7.0)
    assert ("budget-reached", "") == (event.kind, event.pool)
    assert "the budget of the cluster is reached: 3 of 3 worker-hours spent" == event.sentence
    assert () == news(first, later, "mine", 8.0)
    (event,) = news({}, troubles_of(record(spent={"gpu": "1 of 1 worker-hours spent"}), lost=False), "mine", 7.0)
    assert ("gpu", "the budget of pool gpu is reached: 1 of 1 worker-hours spent") == (event.pool, event.sentence)


def test_a_scheduler_is_lost_and_back() -> None:
    lost = troubles_of(record(error="the scheduler cannot be asked: no answer"), lost=True)
    began, ended = news({}, lost, "mine", 7.0), news(lost, {}, "mine", 9.0)
    assert [("scheduler-lost", "the scheduler cannot be asked: no answer")] == [(e.kind, e.sentence) for e in began]
    assert [("scheduler-back", "the scheduler answers again")] == [(e.kind, e.sentence) for e in ended]


# --- who is told ---------------------------------------------------------------------------------------------------


def test_functions_names_commands_and_lists_of_them() -> None:
    assert () == hooks_of(None) == hooks_of([])
    assert (hear,) == hooks_of(hear)
    assert ("getcwd",) == tuple(hook.__name__ for hook in hooks_of("os:getcwd"))
    assert ["getcwd", "getpid"] == [hook.__name__ for hook in hooks_of(["os:getcwd", "os:getpid"])]
    (command,) = hooks_of(["true", "os:getpid"])
    assert "true os:getpid" == repr(command), "words of a command may have a colon"
    several: Any = hooks_of([hear, ["true", "x"], "os:getcwd"])
    assert [hear, ("true", "x")] == [several[0], several[1].argv]
    assert 3 == len(several)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "on_event must be a function, 'module:function' or a command as a list, not 3"),
        ("mail me", "on_event must be 'module:function' or a command as a list of words, not 'mail me'"),
        ("os:no_such", "on_event: there is no 'os:no_such'"),
        ("no_such_module:x", "on_event: there is no 'no_such_module:x'"),
        ("os:sep", "on_event: 'os:sep' is no function"),
        (["no-such-program"], "on_event: there is no program 'no-such-program'"),
        ([3], "on_event must be a function"),
    ],
)
def test_hooks_that_cannot_be_are_refused(given: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hooks_of(given)
    assert str(caught.value).startswith(words)


def test_a_command_gets_the_event_as_json_and_no_shell(tmp_path: Path) -> None:
    script = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    odd = tmp_path / "$(touch oops); odd"
    Command([sys.executable, "-c", script, str(odd)])(EVENT)
    told = {"kind": "pool-broken", "cluster": "mine", "pool": "gpu", "at_s": 12.5}
    assert told | {"sentence": EVENT.sentence} == json.loads(odd.read_text(encoding="utf-8"))
    assert [odd] == list(tmp_path.iterdir())


# --- that telling holds nothing up ---------------------------------------------------------------------------------


def test_events_come_in_order_to_plain_and_async_functions() -> None:
    plain: list[float] = []
    later: list[float] = []

    async def wait_and_hear(event: Event) -> None:
        later.append(event.at_s)

    telling = Alerts([lambda event: plain.append(event.at_s), wait_and_hear])
    telling.tell(replace(EVENT, at_s=float(number)) for number in range(20))
    telling.close()
    assert list(range(20)) == plain == later


def test_a_hook_that_hangs_holds_up_neither_the_teller_nor_the_others() -> None:
    gate = threading.Event()
    told: list[Event] = []
    telling = Alerts([lambda _: gate.wait(LIMIT_S), told.append])
    try:
        telling.tell([EVENT] * 3)
        soon(lambda: len(told) == 3)
        telling.close(timeout_s=0.01)
    finally:
        gate.set()


@pytest.mark.parametrize(
    "hook", [lambda _: 1 / 0, Command([sys.executable, "-c", "raise SystemExit('no mail today')"])]
)
def test_a_hook_that_fails_is_blamed_once(hook: Callable[[Event], object]) -> None:
    said: list[str] = []
    told: list[Event] = []
    telling = Alerts([hook, told.append], said.append)
    telling.tell([EVENT, EVENT])
    telling.close(LIMIT_S)
    (sentence,) = said
    assert "failed, said once" in sentence
    assert "division by zero" in sentence or "exit code 1; no mail today" in sentence
    assert 2 == len(told)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """At the end of the cluster; and by itself after a minute."""
    pids = tmp_path / "pids"
    script = f"echo $$ >> {pids}; sleep 300 & echo $! >> {pids}; wait"
    telling = Alerts([Command(["sh", "-c", script])], lambda _: None)
    telling.tell([EVENT, EVENT])
    soon(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    telling.close(timeout_s=0.01)
    soon(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))
    assert 2 == len(pids.read_text().split()), "the second event was told after the end"


def test_a_command_that_takes_too_long_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "COMMAND_S", 0.05)
    with pytest.raises(ChildProcessError, match="it was ended after 0 s"):
        Command(["sleep", "300"])(EVENT)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nobody_to_tell_costs_no_thread() -> None:
    before = threading.active_count()
    for telling in (Alerts([]), Alerts([hear])):
        telling.close()
    assert before == threading.active_count()
