"""All benchmarks in one run: live clusters, the cost of a decision, the start of a worker.

    make bench                                        everything, about 20 minutes
    make bench ARGS="--only live --shapes burst,periodic --delays 0"
    make bench ARGS="--only live --repeats 5"         medians and intervals
    make bench ARGS="--only decision"                 four minutes
    make bench ARGS="--require"                       exit code 1 if something that must hold does not

Writes results.json, results.md and live.png to --output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.hindsight import hindsight_words
from benchmarks.live import Case, Cell, cell_from, run_case
from benchmarks.promises import Promise, live_promises, promises_markdown
from benchmarks.report import draw, live_markdown, markdown_table, rows
from benchmarks.rivals import RIVALS
from benchmarks.shapes import SHAPES

PARTS = ("startup", "decision", "live")


def chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A reader of comma-separated names, all of them known."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return read


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder for the results")
    parser.add_argument("--only", type=chosen(PARTS), default=list(PARTS), metavar="PART,...", help=", ".join(PARTS))
    parser.add_argument("--shapes", type=chosen(list(SHAPES)), default=list(SHAPES), metavar="SHAPE,...")
    parser.add_argument("--rivals", type=chosen(list(RIVALS)), default=list(RIVALS), metavar="RIVAL,...")
    parser.add_argument("--delays", default="0,3", metavar="S,...", help="start-up of a worker in seconds (0,3)")
    parser.add_argument("--repeats", type=int, default=1, help="how often each cell is measured (1)")
    parser.add_argument("--parallel", type=int, default=4, help="live cells at the same time (4)")
    parser.add_argument("--add", type=Path, metavar="JSON", help="take the live cells of this earlier run in, too")
    parser.add_argument("--require", action="store_true", help="exit code 1 if something that must hold does not")
    return parser.parse_args(argv)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def run_live(options: argparse.Namespace) -> list[Cell]:
    """Every cell once per repeat; the rivals of one shape next to each other, so that they meet the same weather."""
    cases = [
        Case(shape, rival, float(delay), repeat)
        for repeat in range(options.repeats)
        for delay in options.delays.split(",")
        for shape in options.shapes
        for rival in options.rivals
    ]
    free, done, start = asyncio.Semaphore(options.parallel), 0, time.monotonic()

    async def run(case: Case) -> Cell:
        nonlocal done
        async with free:
            cell = await run_case(case)
        done += 1
        outcome = cell.failure or f"{cell.response_s:.1f} s, {cell.worker_s:.0f} worker-s, {cell.starts} starts"
        say(f"[live {done}/{len(cases)}, {time.monotonic() - start:.0f} s] {case}: {outcome}")
        return cell

    together = [case for case in cases if not SHAPES[case.shape].alone]
    cells = list(await asyncio.gather(*(run(case) for case in together)))
    return cells + [await run(case) for case in cases if SHAPES[case.shape].alone]


def live(options: argparse.Namespace) -> tuple[str, list[Promise], Any]:
    cells = [cell_from(values) for values in json.loads(options.add.read_text())["live"]] if options.add else []
    cells += asyncio.run(run_live(options))
    table = rows(cells)
    options.output.mkdir(parents=True, exist_ok=True)
    draw(table, options.output / "live.png")
    about = "\n".join(f"- `{name}`: {RIVALS[name].about}" for name in options.rivals)
    parts = ["Ratios against Dask's defaults, whose own columns are absolute.", about, live_markdown(table)]
    text = "\n\n".join([*parts, hindsight_words(table)]).rstrip()
    return text, list(live_promises(table)), [asdict(cell) for cell in cells]


def decision(options: argparse.Namespace) -> tuple[str, list[Promise], Any]:
    from benchmarks import decision as part

    del options
    costs = part.measure(say)
    return part.markdown(costs), list(part.promises(costs)), [asdict(cost) for cost in costs]


def startup(options: argparse.Namespace) -> tuple[str, list[Promise], Any]:
    from benchmarks import startup as part

    say("[startup] ours and LocalCluster in turns")
    found = part.measure(repeats=max(3, options.repeats))
    median_s, ratios = found["median_s"], found["ratio"]
    body = [
        [str(n), f"{median_s['ours'][n]:.3f} s", f"{median_s['dask'][n]:.3f} s", f"{ratio:.1f}"]
        for n, ratio in ratios.items()
    ]
    worst = min(ratios.values())
    promise = Promise("a worker starts no slower than LocalCluster's", f"{worst:.1f} times as fast", worst >= 1)
    return markdown_table(["workers", "ours", "LocalCluster", "times faster"], body), [promise], found


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    texts, promises, results = [], [], {}
    for name in options.only:
        text, kept, values = {"live": live, "decision": decision, "startup": startup}[name](options)
        texts.append(f"## {name.capitalize()}\n\n{text}")
        promises += kept
        results[name] = values
    options.output.mkdir(parents=True, exist_ok=True)
    document = "\n\n".join(["# Benchmarks", promises_markdown(promises), *texts]) + "\n"
    (options.output / "results.md").write_text(document)
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    print(document)
    say(f"written to {options.output}")
    return 1 if options.require and not all(promise.held for promise in promises) else 0


if __name__ == "__main__":
    sys.exit(main())
