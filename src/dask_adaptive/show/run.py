"""Puts a cluster around an unmodified script, and says at the end what it took."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from dask_adaptive import journal
from dask_adaptive.cluster import Cluster
from dask_adaptive.config import Bounds, bytes_of, limits_of, scaling_of
from dask_adaptive.controller import clock
from dask_adaptive.errors import ConfigError
from dask_adaptive.local_cluster import LocalCluster
from dask_adaptive.model import Plan, Record, Shape
from dask_adaptive.registry import load_backend, load_policy
from dask_adaptive.security import credential_files
from dask_adaptive.show.live import LiveView
from dask_adaptive.show.report import check_report, summary, write_report
from dask_adaptive.show.timeline import timeline_of, work_of

__all__ = ["Setup", "check_setup", "environment_of", "rounds_of", "run", "start_cluster"]

_FOLDER, _LOCK = "dask-adaptive-run-", "lock"
"""Where a journal is kept that nobody asked for, and the file that is locked while it is needed."""

_RUNNER = Path(__file__).with_name("run_script.py")


@dataclass(frozen=True, slots=True)
class Setup:
    """The cluster that is put around a script: limits in workers, threads and memory per worker."""

    minimum: int = 0
    maximum: int | None = None
    policy: str | None = None
    target_duration: str | None = None
    threads: int = 1
    memory: str | None = None
    backend: str = "local"


def run(
    command: Sequence[str],
    setup: Setup,
    *,
    journal_path: Path | None = None,
    report_path: Path | None = None,
    quiet: bool = False,
) -> int:
    """Run a script inside a cluster that grows and shrinks with its work.

    Parameters
    ----------
    command:
        The script and its arguments, or ``-m``, a module and its arguments.
    setup:
        The cluster.
    journal_path, report_path:
        Where the journal and the picture are left; None for nowhere.
    quiet:
        Say nothing but what the script says.

    Returns
    -------
    int
        The exit code of the script; 128 and the number of the signal that ended it.

    Raises
    ------
    ConfigError
        Before anything is started.
    """
    check_setup(setup)
    if report_path is not None:
        check_report(report_path)
    started_s = clock()
    with _Signals() as signals, _journal_file(journal_path) as path, ExitStack() as until_over:
        _import_as(command)
        _check_command(command)
        with start_cluster(setup, path) as cluster, nullcontext() if quiet else LiveView(cluster, redraw=False):
            environment = environment_of(cluster, until_over)
            code = signals.call([sys.executable, str(_RUNNER), *command], environment)
            ended_s = clock()
        with _said():
            records = rounds_of(path, started_s, ended_s)
            drawn = False
            with _said():
                if report_path is not None and records:
                    write_report(records, report_path, title=" ".join(command))
                    drawn = True
            if not quiet:
                _say(records, report_path if drawn else None)
    return code


@contextmanager
def _said() -> Iterator[None]:
    """What fails after the script is said; its exit code is what counts."""
    try:
        yield
    except ConfigError as error:
        sys.stderr.write(f"dask adaptive run: {error}\n")


def _check_command(command: Sequence[str]) -> None:
    """Refuse a module that Python could not run, before a cluster is started."""
    if command[0] != "-m":
        return
    try:  # of a.b only a: to find b would run the code of a here
        found = importlib.util.find_spec(command[1].partition(".")[0])
    except ValueError:  # no name, or a module that does not say where it comes from
        found = None
    if found is None:
        raise ConfigError(f"there is no module {command[1]!r}")


def _import_as(command: Sequence[str]) -> None:
    """Import here what the script can import: the scheduler unpacks its graphs, and workers take our path over."""
    folder = Path.cwd() if command[0] == "-m" else Path(command[0]).resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@contextmanager
def start_cluster(setup: Setup, journal_path: Path) -> Iterator[Any]:
    """A cluster that adapts, for as long as the ``with`` block runs."""
    check_setup(setup)
    options: dict[str, Any] = {"n_workers": 0, "journal": str(journal_path)}
    if setup.backend == "local":
        make: Callable[..., Any] = partial(LocalCluster, threads_per_worker=setup.threads, dashboard_address=":0")
        memory = {} if setup.memory is None else {"memory_limit": setup.memory}
    else:
        make = partial(Cluster, setup.backend, threads=setup.threads)
        memory = {} if setup.memory is None else {"memory": setup.memory}
    chosen = {name: getattr(setup, name) for name in ("maximum", "policy", "target_duration")}
    with make(**memory, **options) as cluster:
        cluster.adapt(minimum=setup.minimum, **{name: value for name, value in chosen.items() if value is not None})
        yield cluster


def check_setup(setup: Setup) -> None:
    """Raise ``ConfigError`` for what cannot be, before anything is started."""
    load_backend(setup.backend)
    if setup.policy is not None:
        load_policy(setup.policy)
    limits_of(Bounds(minimum=setup.minimum, maximum=setup.maximum), Shape(threads=setup.threads), None)
    scaling_of(target_duration=setup.target_duration)
    if setup.memory is not None:
        bytes_of("memory", setup.memory)


def environment_of(cluster: Any, until_over: ExitStack) -> Mapping[str, str]:
    """Our environment, with what makes a bare ``Client()`` find the cluster, and its credentials where it has some."""
    tls = credential_files(cluster.security, "client", until_over)
    names = {"tls_ca_file": "CA_FILE", "tls_cert": "CLIENT__CERT", "tls_key": "CLIENT__KEY"}
    found = {f"DASK_DISTRIBUTED__COMM__TLS__{names[key]}": path for key, path in tls.items()}
    return {**os.environ, **found, "DASK_SCHEDULER_ADDRESS": cluster.scheduler_address}


def rounds_of(path: Path, started_s: float, ended_s: float) -> list[Record]:
    """The rounds since ``started_s`` in a journal, and one more for the end of the run.

    A journal leaves out rounds in which nothing changed: what stood in the last one stood until the end.
    """
    records = [record for record in journal.read_all(path) if record.at_s >= started_s]
    if records and records[-1].at_s < ended_s:
        records.append(replace(records[-1], at_s=ended_s, woken="end", plan=Plan(), events=()))
    return records


@contextmanager
def _journal_file(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as folder, (Path(folder) / _LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of whoever takes us for killed until now; the journal makes its folder again
        yield Path(folder) / "journal.jsonl"


def _remove_left() -> None:
    """Remove the journals that killed runs of this user left: their locks went with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                with (folder / _LOCK).open("r+b") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)


def _say(records: Sequence[Record], report_path: Path | None) -> None:
    lines = [summary(timeline_of(records).totals)]
    if not any(work_of(record.snapshot).pending for record in records):
        lines.append("no task of the script reached the cluster")
    if report_path is not None:
        lines.append(f"picture in {report_path}")
    sys.stderr.write(f"dask adaptive run: {'; '.join(lines)}\n")


class _Signals:
    """Gives the signals that ask us to end to the script instead; the cluster closes when the script has ended.

    Ctrl-C on a terminal reaches the script without us, because it is sent to the whole foreground group.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}
        self._over = False

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run the command with our input and output until it ends."""
        self._child = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's own script
        code = self._child.wait()
        self._over = True
        return 128 - code if code < 0 else code

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._child is None:
            raise SystemExit(128 + number)
        if not self._over and not (number == signal.SIGINT and _in_foreground()):
            self._child.send_signal(number)


def _in_foreground() -> bool:
    """Whether we belong to the foreground group of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
