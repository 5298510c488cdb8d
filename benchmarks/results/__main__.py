"""The result page: every policy against the bound and the rivals, on applications that nothing was tuned on.

    make results                                 docs/results.md, about an hour on two cores; can be interrupted
    make results ARGS="--quick"                  a few minutes, to build/results
    make results WORKFLOWS=FOLDER                WfFormat files besides the built-in shapes, to build/results
    make results ARGS="--seeds 5 --scales 1"     the built-in shapes as they are, and not eight times as long too

Every run is kept as a line of JSON in build/results/rows.jsonl, and not run again until the code that decides what
comes of it changes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.results.grid import (
    BACKENDS,
    CERTAIN,
    FULL,
    INSTANT,
    KNOBS,
    MAXIMUM,
    OURS,
    PRICED,
    QUICK,
    TIME_VALUES,
    Instance,
    Size,
    built_in,
    checksum,
    halves,
    in_folder,
    sessions,
)
from benchmarks.results.optimum import optimum, small
from benchmarks.results.page import Findings, page
from benchmarks.results.picture import draw
from benchmarks.results.runs import Case, Store, cases, code_of, run_all
from benchmarks.results.scores import best_knobs
from dask_adaptive.errors import ConfigError
from dask_adaptive.sim.bound import Start
from dask_adaptive.sim.site import SITES, Constant
from dask_adaptive.sim.trial import STATIC_BEST, trial
from dask_adaptive.sim.world import Setting

ROOT = Path(__file__).parents[2]

SMALL = 12
"""Graphs of which the optimum is looked for."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workflows", type=Path, metavar="FOLDER", help="WfFormat files besides the built-in shapes")
    parser.add_argument("--quick", action="store_true", help="one seed, no knobs, and the shapes as they are")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"repeat with so many seeds ({FULL.seeds})")
    parser.add_argument("--scales", type=scales, metavar="X,...", help="all times so many times as long (1,8)")
    parser.add_argument("--processes", type=int, default=2, help="run so many cases at the same time (2)")
    parser.add_argument("--rows", type=Path, default=ROOT / "build/results/rows.jsonl", help="where runs are kept")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="docs/results.md, or below build/results")
    parser.add_argument("--only-rows", action="store_true", help="run, and write no page")
    return parser.parse_args(argv)


def scales(text: str) -> tuple[float, ...]:
    """Numbers above 0, separated by commas."""
    numbers = tuple(float(part) for part in text.split(","))
    if not all(number > 0 for number in numbers):
        raise argparse.ArgumentTypeError("numbers above 0, as 1,8")
    return numbers


def size_of(options: argparse.Namespace) -> Size:
    size = QUICK if options.quick else FULL
    size = replace(size, seeds=options.seeds or size.seeds, scales=options.scales or size.scales)
    return size if size in (QUICK, FULL) else replace(size, name="own")


def page_of(options: argparse.Namespace) -> Path:
    """Without ``--page`` only work that is in the repository goes into the documentation."""
    if options.page:
        return options.page
    kept = options.workflows is None and not options.quick
    return ROOT / ("docs/results.md" if kept else "build/results/results.md")


def measured(options: argparse.Namespace, page_path: Path) -> Findings:
    """Run what is missing, and take it together."""
    size, begun_s = size_of(options), time.monotonic()
    codes = {policy: code_of(policy) for policy in (*PRICED, STATIC_BEST, *KNOBS)}
    store = Store(options.rows, codes)
    shapes = built_in(size.scales)
    files = [] if options.workflows is None else in_folder(options.workflows)
    first, second = halved(shapes, files)
    every = {rival: list(knobs)[1:] for rival, knobs in KNOBS.items()} if size.knobs else {}

    def run(label: str, wanted: list[Case]) -> list[Case]:
        run_all(wanted, store, codes, processes=options.processes, label=label)
        return wanted

    tuning = run("tuning half", list(cases(first, BACKENDS, size.seeds, knobs=every)))
    best: dict[tuple[str, str], list[str]] = {}
    for (backend, _, rival), knob in best_knobs(store.of(tuning)).items():
        best.setdefault((backend, rival), []).append(knob)

    def at_best(work: Sequence[Instance], label: str) -> list[Case]:
        chosen = [
            case
            for backend in BACKENDS
            for case in cases(
                work, (backend,), size.seeds, knobs={rival: best.get((backend, rival), []) for rival in KNOBS}
            )
        ]
        return run(label, chosen)

    held = at_best(second, "reported half")
    paused = at_best(sessions(), "sessions")
    instant = run("zero start-up", list(cases(second, (INSTANT,), size.seeds, PRICED)))
    print(f"all runs are there after {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    return Findings(
        tuning=store.of(tuning),
        reported=store.of(held),
        sessions=store.of(paused),
        instant=store.of(instant),
        small=[] if options.only_rows else small_graphs(),
        about=about(options, size, files, (first, second), codes),
        picture=picture_of(page_path).relative_to(page_path.parent).as_posix(),
    )


def small_graphs() -> list[tuple[str, float, float, float, float]]:
    found = []
    for backend in CERTAIN:
        start = SITES[backend].start
        assert isinstance(start, Constant)
        for value in TIME_VALUES:
            for seed in range(SMALL):
                work = small(seed, tasks=7)
                best, bound = optimum(work, Start(0.0, start.seconds), value)
                ran = trial(OURS, work, Setting(SITES[backend], maximum=MAXIMUM), time_value=value, seed=seed)
                found.append((backend, value, best, bound, ran.score * ran.bound))
    return found


def halved(*kinds: Sequence[Instance]) -> tuple[list[Instance], list[Instance]]:
    """What is tuned on and what is reported; each kind is halved by itself, so that more files move no shape."""
    tuned = [name for kind in kinds for name in halves(each.application for each in kind)[0]]
    every = [each for kind in kinds for each in kind]
    return [each for each in every if each.application in tuned], [
        each for each in every if each.application not in tuned
    ]


def about(
    options: argparse.Namespace,
    size: Size,
    files: Sequence[Instance],
    both: tuple[Sequence[Instance], Sequence[Instance]],
    codes: dict[str, str],
) -> list[str]:
    """How the page was made."""
    said = ["make results"]
    said += [f"WORKFLOWS={options.workflows.name}"] if files else []
    given = ["--quick"] if options.quick else []
    if size.name == "own":
        given += [f"--seeds {size.seeds}", f"--scales {','.join(f'{scale:g}' for scale in size.scales)}"]
    given += [f"--page {options.page}"] if options.page else []
    said += [f"ARGS={shlex.quote(' '.join(given))}"] if given else []
    tuned, reported = (", ".join(sorted({each.application for each in half})) for half in both)
    count = len(both[0]) + len(both[1])
    lines = [
        "# Results with workflows" if files else "# Results",
        "",
        "How far is each policy from what no policy can go below? This page is written by a command: numbers, tables,",
        "picture.",
        "",
        f"    {' '.join(said)}",
        "",
        f"The size of this run: {count} pieces of work, {size.seeds} seed{'s' * (size.seeds > 1)}, at most {MAXIMUM}",
        "workers. What is scored, and on which made-up resource managers, is told in [the simulator](simulator.md).",
        "Applications are halved by a rule: sorted by name, the first, third, fifth and so on are tuned on, and the",
        "others are reported.",
        "",
        f"* tuned on: {tuned}",
        f"* reported: {reported}",
    ]
    if len(size.scales) > 1:
        more = ", ".join(f"{scale:g}" for scale in size.scales)
        lines.append(f"* each shape with all its times multiplied by: {more}")
    lines += [
        "",
        "Intervals are 95 % of 1,000 bootstrap draws, of applications first and then of their runs. The code that",
        f"decided was `{codes[OURS]}` (ours) and `{codes['dask']}` (the rest), by the hash of its files.",
    ]
    if files:
        lines += [
            "",
            f"{len(files)} of the pieces are workflows that others recorded, WfFormat files as WfCommons",
            "(https://wfcommons.org/instances) collects them, reduced to what matters here. Their application is the",
            "beginning of the name, and they are halved by themselves. With the beginning of their SHA-256:",
            "",
            ", ".join(f"`{Path(each.source).name}` {checksum(Path(each.source))}" for each in files),
        ]
    return lines


def picture_of(page_path: Path) -> Path:
    return page_path.parent / "images" / f"{page_path.stem}.svg"


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    path = page_of(options)
    try:
        found = measured(options, path)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what is done is kept in {options.rows}", file=sys.stderr)
        return 1
    if options.only_rows:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found.reported, picture_of(path))
    path.write_text(page(found), encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
