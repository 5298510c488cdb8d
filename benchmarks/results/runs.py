"""Runs every case once and keeps its rows, one JSON object a line; what is there already is not run again."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask_adaptive
from benchmarks.results.grid import CERTAIN, KNOBS, MAXIMUM, PRICED, TIME_VALUES, Instance, policy_named
from dask_adaptive.errors import AdaptiveError
from dask_adaptive.sim.bound import objective
from dask_adaptive.sim.hindsight import Hindsight
from dask_adaptive.sim.series import taken_apart
from dask_adaptive.sim.trial import STATIC_BEST, earlier_starts, equipped, scored, site_named
from dask_adaptive.sim.workload import Workload
from dask_adaptive.sim.world import Outcome, Setting, simulate

__all__ = ["Case", "Row", "Store", "cases", "code_of", "run_all"]

Row = Mapping[str, Any]
"""A run at a time value: the fields of ``Trial``, and ``application``, ``knob``, ``code``, ``failure``,
``cost``, and ``parts_bound``: the bound of the graphs taken apart."""

KEY = ("instance", "backend", "policy", "knob", "seed", "time_value")
"""Fields of a row that tell it from all others."""

WORLD = (
    *("sim", "controller.py", "jobs.py", "plan.py", "model.py", "life.py", "upkeep.py", "health.py", "backoff.py"),
    *("operations.py", "walltime.py"),
    *(f"policy/{name}.py" for name in ("classic", "combine", "contracts", "demand", "floors", "victims")),
)
"""Files and folders of the package that every run depends on."""


@dataclass(frozen=True)
class Case:
    """One run, or a search for the best size.

    ``time_value`` is None for a policy that does the same at all of them: then one run is scored at each.
    ``seeds``: the same comes of so many seeds, from ``seed`` on.
    """

    instance: Instance
    backend: str
    policy: str
    knob: str
    seed: int
    time_value: float | None = None
    seeds: int = 1

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """Of the rows that it makes."""
        seeds = range(self.seed, self.seed + self.seeds)
        return [
            (self.instance.name, self.backend, self.policy, self.knob, seed, value)
            for seed, value in itertools.product(seeds, self._values)
        ]

    @property
    def _values(self) -> tuple[float, ...]:
        return TIME_VALUES if self.time_value is None else (self.time_value,)

    def rows(self, code: str) -> list[Row]:
        """Run it. One that cannot be is rows that say why."""
        try:
            found = list(self._run())
        except AdaptiveError as error:
            found = [{"failure": str(error), "score": None}] * len(self._values)
        return [
            {
                "application": self.instance.application,
                "code": code,
                "failure": "",
                **row,
                **dict(zip(KEY, key, strict=True)),
            }
            for key, row in zip(self.keys, self.seeds * found, strict=True)
        ]

    def _run(self) -> Iterator[Row]:
        workload, site = self.instance.workload(self.seed), site_named(self.backend)
        setting = Setting(site, maximum=MAXIMUM, startup=earlier_starts(site))
        setting = replace(setting, shape=equipped(setting.shape, workload))
        in_parts = taken_apart(workload)
        for time_value, outcome in self._outcomes(workload, setting):
            made = scored(self.policy, workload, setting, outcome, time_value=time_value, seed=self.seed)
            yield {
                **made.plain(),
                "cost": objective(outcome.waited_s, outcome.billed_s, time_value=time_value),
                "parts_bound": scored(
                    self.policy, in_parts, setting, outcome, time_value=time_value, seed=self.seed
                ).bound,
            }

    def _outcomes(self, workload: Workload, setting: Setting) -> Iterator[tuple[float, Outcome]]:
        if self.policy == STATIC_BEST:
            hindsight = Hindsight(workload, setting, self.seed)
            yield from ((value, hindsight.best(value)[1]) for value in TIME_VALUES)
            return
        value = TIME_VALUES[0] if self.time_value is None else self.time_value
        policy = policy_named(self.policy, self.knob, value, workload)
        outcome = simulate(workload, policy, setting, seed=self.seed)
        yield from ((value, outcome) for value in self._values)


def cases(
    instances: Iterable[Instance],
    backends: Sequence[str],
    seeds: int,
    policies: Iterable[str] = (*PRICED, STATIC_BEST, *KNOBS),
    knobs: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Case]:
    """Every case, those that belong together beside each other. ``knobs``: other ones than the default, by policy."""
    policies = list(policies)
    for instance, backend in itertools.product(instances, backends):
        # a file stays as it is, and where starts always take the same time nothing else is left to chance
        alike = seeds if backend in CERTAIN and not instance.drawn else 1
        for seed, policy in itertools.product(range(0, seeds, alike), policies):
            if policy in PRICED:
                yield from (Case(instance, backend, policy, "", seed, value, alike) for value in TIME_VALUES)
                continue
            more = dict.fromkeys(("", *(knobs or {}).get(policy, ())))
            yield from (Case(instance, backend, policy, knob, seed, seeds=alike) for knob in more)


def code_of(policy: str) -> str:
    """A word that changes when the files change that decide what comes of a run under this policy."""
    root = Path(dask_adaptive.__file__).parent
    rooms = (*WORLD, "policy") if policy in PRICED else WORLD
    paths = [root / room for room in rooms]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


# --- keeping ---------------------------------------------------------------------------------------------------


class Store:
    """The rows of a file, to which more are appended.

    A line that was torn by an interruption is passed over, and so are rows that were made by other code.

    Parameters
    ----------
    path:
        The file; it need not exist.
    codes:
        By policy, what ``code_of`` says now; None: rows are taken whatever they were made by.
    """

    def __init__(self, path: Path, codes: Mapping[str, str] | None = None) -> None:
        self.path, self._codes = path, codes
        self.rows: dict[tuple[Any, ...], Row] = {}
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            self._take(text.splitlines())
            if text and not text.endswith("\n"):  # torn by an interruption: what follows begins a line of its own
                path.write_text(f"{text}\n", encoding="utf-8")

    def _take(self, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                row = json.loads(line)
                key = tuple(row[name] for name in KEY)
            except (ValueError, KeyError, TypeError):
                continue
            if self._codes is None or row["code"] == self._codes.get(row["policy"]):
                self.rows[key] = row

    def missing(self, wanted: Iterable[Case]) -> list[Case]:
        """Those of which a row is missing, each once."""
        return [case for case in dict.fromkeys(wanted) if not all(key in self.rows for key in case.keys)]

    def of(self, wanted: Iterable[Case]) -> list[Row]:
        """The rows of these cases."""
        return [self.rows[key] for case in dict.fromkeys(wanted) for key in case.keys]

    def add(self, rows: Sequence[Row]) -> None:
        """Keep these, now."""
        lines = [json.dumps(row) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._take(lines)


# --- running ---------------------------------------------------------------------------------------------------


def run_all(wanted: Iterable[Case], store: Store, codes: Mapping[str, str], *, processes: int, label: str) -> None:
    """Run what is missing, in so many processes. ctrl-C keeps what is done."""
    missing = store.missing(wanted)
    if not missing:
        return
    jobs = [(case, codes[case.policy]) for case in missing]
    begun_s, shown_s = time.monotonic(), 0.0
    with multiprocessing.Pool(processes, initializer=_quiet) as pool:
        for done, rows in enumerate(pool.imap_unordered(_run, jobs, chunksize=4), start=1):
            store.add(rows)
            now_s = time.monotonic()
            if now_s - shown_s > 5 or done == len(jobs):
                shown_s, left_s = now_s, (now_s - begun_s) / done * (len(jobs) - done)
                print(f"{label}: {done} of {len(jobs)} cases, {left_s:.0f} s left", file=sys.stderr, flush=True)


def _run(job: tuple[Case, str]) -> list[Row]:
    case, code = job
    return case.rows(code)


def _quiet() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
