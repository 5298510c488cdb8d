"""How fast the simulator is: simulated tasks per second of one core, the real controller and policy included.

    python -m benchmarks.simulator                  # 100,000 tasks on 1,000 workers
    python -m benchmarks.simulator --large          # and a million tasks on 10,000 workers

Nothing is compared with stored numbers: it says what this machine does now.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from dask_adaptive.policy.classic import TargetDuration
from dask_adaptive.policy.combine import standard
from dask_adaptive.sim.shapes import map_reduce
from dask_adaptive.sim.site import SITES
from dask_adaptive.sim.world import Outcome, Setting, simulate

__all__ = ["main", "measure"]

SIZES = ((10_000, 100), (100_000, 1_000))
LARGE = ((1_000_000, 10_000),)


def measure(tasks: int, workers: int) -> tuple[float, Outcome]:
    """Seconds of the processor for one run, and what came of it."""
    workload = map_reduce(tasks=tasks, reducers=10, mean_s=5.0, nbytes=10**4)
    began_s = time.process_time()
    outcome = simulate(workload, standard(TargetDuration(), 3.0), Setting(SITES["local"], maximum=workers))
    return time.process_time() - began_s, outcome


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="a million tasks on 10,000 workers too")
    print(f"{'tasks':>9} {'workers':>8} {'rounds':>7} {'virtual s':>10} {'cpu s':>7} {'tasks / s':>10}")
    for tasks, workers in SIZES + (LARGE if parser.parse_args(arguments).large else ()):
        took_s, outcome = measure(tasks, workers)
        row = f"{outcome.tasks:9} {outcome.most_threads:8} {outcome.rounds:7} {outcome.makespan_s:10.0f}"
        print(f"{row} {took_s:7.2f} {outcome.tasks / took_s:10.0f}")


if __name__ == "__main__":
    main()
