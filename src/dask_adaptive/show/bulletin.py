"""What a cluster tells its scheduler about itself: the page of the dashboard and the metrics are made of it. Pure.

A bulletin is one plain value (msgpack carries it) that is true by itself: one that is lost leaves nothing missing. It
is bounded: so many jobs, decisions and characters, however large the cluster is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import nsmallest
from typing import Any

from dask_adaptive.model import ALIVE, Life, Phase, Plan, PoolState, Record, Snapshot, Startup
from dask_adaptive.show.picture import BANDS, WORK
from dask_adaptive.show.timeline import Decision, decisions_of, work_of, workers_of

__all__ = ["Ledger", "spent"]

MOST_JOBS = 200
MOST_DECISIONS = 50
MOST_LOGS = 20
LONGEST_TEXT = 400
NOTHING = Plan()
SHOWN = (*ALIVE, Phase.FAILED)
SUMS = ("worker_s", "spend", "submitted", "failed", "more", "fewer")


class Ledger:
    """The sums of a cluster that only grow, and its latest decisions; told of every round, it writes bulletins.

    Parameters
    ----------
    cluster:
        The name of the cluster.
    logs:
        Whether bulletins hold the ends of the logs of failed jobs, and the addresses of workers. Without, neither is
        in them, nor in the reasons that they repeat.
    """

    def __init__(self, cluster: str, *, logs: bool = False) -> None:
        self.cluster, self.logs = cluster, logs
        self.decisions: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self.sums: dict[str, dict[str, float]] = {}
        self._record: Record | None = None
        self._workers: dict[str, int] = {}
        self._phases: Counter[tuple[str, Phase]] = Counter()
        self._rounds: Counter[str] = Counter()
        self._failed: set[str] = set()
        self._ends: set[str] = set()
        self._number = 0

    def take(self, record: Record) -> None:
        """Add one more round; costs next to nothing while no job changed."""
        before, self._record = self._record, record
        snapshot = record.snapshot
        self._rounds["rounds"] += 1
        self._rounds["errors"] += bool(record.error)
        for name, state in snapshot.pools.items():
            sums = self._of(name)
            if before is not None:
                worker_s = max(0.0, record.at_s - before.at_s) * self._workers.get(name, 0)
                sums["worker_s"] += worker_s
                sums["spend"] += worker_s * state.pool.price
        if before is None or snapshot.lives is not before.snapshot.lives:
            self._workers = workers_of(snapshot)
        for submit in record.plan.submits:
            self._of(submit.pool)["submitted"] += submit.count
        for decision in decisions_of([record]) if record.plan != NOTHING else ():
            self._number += 1
            reason = self._clean(snapshot)(decision.reason)
            self.decisions.append(replace(decision, number=self._number, at_s=record.at_s, reason=reason))
            self._of(decision.pool)["more" if decision.change > 0 else "fewer"] += 1

    def _clean(self, snapshot: Snapshot) -> _Clean:
        """What makes a text fit to be told. Why a pool is broken may outlive the job whose log it quotes."""
        if not self.logs:
            broken = [state.broken for state in snapshot.pools.values() if state.broken]
            quoted = {end for end in self._ends if any(end in text for text in broken)}
            self._ends = quoted.union(_ends(snapshot.lives.values()))
        return _Clean(self._ends)

    def _of(self, pool: str) -> dict[str, float]:
        return self.sums.setdefault(pool, dict.fromkeys(SUMS, 0))

    def _count(self, snapshot: Snapshot) -> None:
        """What takes a look at every job, and so is done once for a bulletin and not in every round."""
        self._phases = Counter((life.pool, life.phase) for life in snapshot.lives.values())
        failed = {name: life for name, life in snapshot.lives.items() if life.phase is Phase.FAILED}
        for name, life in failed.items():
            if name not in self._failed:
                self._of(life.pool)["failed"] += 1
        self._failed = set(failed)

    def bulletin(self, errors: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, Any]:
        """The cluster as of the last round; ``errors``: failed calls to the resource manager, by pool and call.

        Empty before the first round.
        """
        record = self._record
        if record is None:
            return {}
        snapshot, work = record.snapshot, work_of(record.snapshot)
        self._count(snapshot)
        clean = self._clean(snapshot)
        bulletin: dict[str, Any] = {
            "cluster": self.cluster,
            "at_s": record.at_s,
            "bands": [[word, colour, [phase.value for phase in phases]] for word, colour, phases in BANDS],
            "work": [list(each) for each in WORK],
            **self._rounds,
            "tasks": {"waiting": work.waiting, "ready": work.ready, "running": work.running},
            "pools": {
                name: self._pool(name, state, record, clean) | {"manager_errors": dict((errors or {}).get(name, {}))}
                for name, state in snapshot.pools.items()
            },
            "declined": [clean(text) for text in record.target.declined[:10]],
            "impossible": [clean(text) for text in record.target.impossible[:10]],
            "error": clean(record.error),
            "decisions": [
                [each.number, each.at_s, each.pool, each.before, each.after, each.reason]
                for each in reversed(self.decisions)
            ],
        }
        return bulletin | self._jobs(record, clean)

    def _pool(self, name: str, state: PoolState, record: Record, clean: _Clean) -> dict[str, Any]:
        want, limits, sums = record.target.pools.get(name), state.pool.limits, self._of(name)
        return {
            "phases": {phase.value: count for phase in SHOWN if (count := self._phases[name, phase])},
            "wanted": want.jobs if want else None,
            "minimum": limits.minimum,
            "maximum": limits.maximum,
            "price": state.pool.price,
            "workers": self._workers.get(name, 0),
            "startup": _startup(state.startup),
            "why": clean(want.reason if want else ""),
            "held": clean(record.plan.held.get(name, "")),
            "broken": clean(state.broken),
            "stale": clean(state.stale),
            **sums,
        }

    def _jobs(self, record: Record, clean: _Clean) -> dict[str, Any]:
        """The jobs, the living first; what is left out is counted."""
        lives = record.snapshot.lives
        first = nsmallest(
            MOST_JOBS, lives.values(), key=lambda life: (life.phase not in ALIVE, life.wanted_s, life.name)
        )
        rows = [
            [each.name, each.id or "", each.pool, each.phase.value, each.present, each.wanted_s, clean(each.reason)]
            for each in first
        ]
        found: dict[str, Any] = {"jobs": rows, "jobs_left_out": len(lives) - len(rows)}
        if self.logs:
            ends = [life for life in lives.values() if life.log_tail][-MOST_LOGS:]
            members = record.snapshot.load.members
            found["logs"] = {life.name: life.log_tail for life in ends}
            found["addresses"] = {life.name: [each.address for each in members.get(life.name, ())] for life in first}
        return found


class _Clean:
    """Shortens a text, and takes the ends of logs out of it that a reason quotes."""

    def __init__(self, ends: Iterable[str]) -> None:
        self._ends = tuple(ends)

    def __call__(self, text: str) -> str:
        for end in self._ends:
            text = text.replace(f" ({end})", "")
        return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 4]} ..."


def _ends(lives: Iterable[Life]) -> set[str]:
    """The last lines of the logs of these jobs, as reasons quote them."""
    tails = {life.log_tail for life in lives if life.log_tail.strip()}
    return {tail.strip().splitlines()[-1][:300] for tail in tails}


def _startup(startup: Startup) -> dict[str, list[float]]:
    """Median and 90 % of what was learned, in seconds; without the parts that nothing is known of."""
    parts = {"queue": Startup(start_s=startup.queue_s), "start": Startup(start_s=startup.start_s)}
    return {
        part: [known.quantile_s(0.5), known.quantile_s(0.9), len(known.start_s)]
        for part, known in parts.items()
        if known.start_s
    }


def spent(pool: Mapping[str, Any]) -> str:
    """What a pool of a bulletin took so far: ``120 worker-seconds``, with its price where it has one of its own."""
    words = f"{pool['worker_s']:,.0f} worker-seconds"
    return words if pool["price"] == 1 else f"{words} x {pool['price']:g} = {pool['spend']:,.2f}"
