"""Real systems: a test marked ``system("slurm")`` runs where Slurm is installed, and says why it does not elsewhere.

``--system slurm`` makes a missing one a failure; ``DASK_ADAPTIVE_REQUIRE_SYSTEMS=1`` (as in ``.ci/run``) all of them.
A new system is one line in ``PROGRAMS``.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping

import pytest

os.environ["DASK_ADAPTIVE__HISTORY"] = "False"  # what tests teach is not for who runs them; before Dask is imported
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state-")  # nor what they leave when they kill an owner
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
# What a shell starts behind itself ignores ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "sge": ("sge_qmaster", "sge_execd", "qsub", "unshare", "nsenter"),
    "slurm": ("slurmctld", "slurmd", "sbatch", "munged", "setpriv"),
    "chromium": ("chromium",),
    "ssh": ("sshd", "ssh-keygen"),
}
"""By the name of a system: the programs that have to be on PATH."""

AS_ROOT = ("sge", "slurm")
"""Systems whose daemons only root can start."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--system", action="append", default=[], metavar="NAME", help="fail if this system is missing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("system"):
        name = str(mark.args[0])
        missing = _missing(name)
        if not missing:
            continue
        reason = f"system {name!r} is not installed: {missing}"
        if os.environ.get("DASK_ADAPTIVE_REQUIRE_SYSTEMS") == "1" or name in item.config.getoption("--system"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _missing(name: str) -> str:
    if name not in PROGRAMS:
        return "tests/conftest.py does not know it"
    absent = [program for program in PROGRAMS[name] if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)} on PATH"
    return "only root can start it" if name in AS_ROOT and os.geteuid() else ""
