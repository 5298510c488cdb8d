"""What a user may ask a batch system for."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Request
from dask_adaptive.request import RequestOptions, walltime_of


def test_nothing_said_is_nothing_asked() -> None:
    assert Request() == RequestOptions().request()
    assert [] == RequestOptions().asked()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (90, 90.0),
        ("4h", 14400.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("90 min", 5400.0),
        ("02:00:00", 7200.0),
        ("1-12:00:00", 129600.0),
        ("100:00:00", 360000.0),
        (datetime.timedelta(minutes=2), 120.0),
    ],
)
def test_walltimes(said: object, seconds: float) -> None:
    assert seconds == walltime_of(said)


@pytest.mark.parametrize("said", ["30", "1:30", "00:30", "12.5", "1-12", "1:2:3:4"])
def test_a_walltime_that_managers_read_differently_is_refused(said: str) -> None:
    with pytest.raises(ConfigError, match="walltime"):
        walltime_of(said)


@pytest.mark.parametrize("said", ["soon", "", "-1h", "0s", 0, -5, float("nan"), float("inf"), "01:99:00", True, None])
def test_a_walltime_that_is_none_is_refused(said: object) -> None:
    with pytest.raises(ConfigError, match="walltime"):
        walltime_of(said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("queue", "normal\n#SBATCH --wrap=evil"),
        ("account", "a\rb"),
        ("directives", ["--exclusive\n--other"]),
        ("directives", "--exclusive"),
        ("directives_skip", "--mem"),
        ("prologue", ["module load a\nrm b"]),
        ("python", "py\x00thon"),
        ("launcher", "srun\nrm"),
        ("shebang", "bash"),
        ("nodes", 0),
        ("job_cores", 1.5),
        ("job_memory", "32 gigs"),
        ("throttle", -1),
        ("queue", 7),
        ("template", "/no/such/file"),
        ("template", "#!/bin/sh\nsleep 1\n"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        RequestOptions(**{key: value}).request()  # type: ignore[arg-type]


def test_everything_said_is_asked(tmp_path: Path) -> None:
    template = tmp_path / "job.sh"
    template.write_text("#!/bin/sh\n{command}\n")
    options = RequestOptions(
        queue="gpu",
        account="physics",
        walltime="2h",
        job_cores=8,
        job_memory="32 GB",
        nodes=2,
        directives=("--exclusive",),
        directives_skip=("--mem",),
        prologue="module load python\nexport A=1\n",
        python="/opt/python",
        shebang="#!/bin/sh",
        launcher=["srun", "-n", "a b"],
        template=str(template),
        throttle=5,
    )
    assert (
        Request(
            queue="gpu",
            account="physics",
            walltime_s=7200.0,
            cores=8,
            memory_bytes=32_000_000_000,
            nodes=2,
            directives=("--exclusive",),
            skip=("--mem",),
            prologue=("module load python", "export A=1"),
            python="/opt/python",
            shebang="#!/bin/sh",
            launcher="srun -n 'a b'",
            template="#!/bin/sh\n{command}\n",
            throttle=5,
        )
        == options.request()
    )
    assert 14 == len(options.asked())


def test_directives_may_be_a_mapping() -> None:
    options = RequestOptions(directives={"+AccountingGroup": '"physics"', "request_disk": "1GB"})
    assert ('+AccountingGroup = "physics"', "request_disk = 1GB") == options.request().directives
