"""A named cluster of many workers whose creator is killed: does it stay, and does ``down`` leave nothing?

    python -m benchmarks.head --workers 50

Prints how long each part took. Exit code 1 if something was lost or left.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress

import psutil
from distributed import Client

from dask_adaptive import AdaptiveError, connect

MARK = "DASK_ADAPTIVE_BENCHMARK_MARK"
PROGRAM = [sys.executable, "-m", "dask", "adaptive"]


def left(word: str) -> int:
    """Processes that carry the mark, apart from this one."""
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            living = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            count += living and process.environ().get(MARK) == word
    return count


def run(workers: int) -> bool:
    """Start, kill the starter, use, end; whether all was as promised."""
    started = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {words}", flush=True)

    size = ["--minimum", str(workers), "--maximum", str(workers)]
    shell = subprocess.Popen(
        ["sh", "-c", '"$@"; sleep 3600', "sh", *PROGRAM, "up", "bench", *size], start_new_session=True
    )
    cluster = None
    while cluster is None:
        time.sleep(0.2)
        with suppress(AdaptiveError):
            cluster = connect("bench")
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    say("its creator was killed")
    with cluster, Client(cluster) as client:
        client.wait_for_workers(workers, timeout=600)
        say(f"{workers} workers serve")
        right = sum(range(10 * workers)) == sum(client.gather(client.map(lambda x: x, range(10 * workers))))
        say(f"{10 * workers} results are {'right' if right else 'WRONG'}")
    ended = subprocess.run([*PROGRAM, "down", "bench"], check=False).returncode == 0
    count = left(os.environ[MARK])
    say(f"ended; {count} processes are left")
    return right and ended and not count


def main() -> None:
    """Run it in a state directory of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({"XDG_STATE_HOME": folder, MARK: uuid.uuid4().hex})
        sys.exit(0 if run(arguments.workers) else 1)


if __name__ == "__main__":
    main()
