"""What managers print, damaged at random: it is understood, or it is an error of ours, and never anything else."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.recorded import answer, cases

from dask_adaptive.backend.dialect import Answer, Dialect
from dask_adaptive.backend.htcondor import HTCondor
from dask_adaptive.backend.lsf import Lsf
from dask_adaptive.backend.pbs import Pbs
from dask_adaptive.backend.sge import Sge
from dask_adaptive.backend.slurm import Slurm
from dask_adaptive.backend.torque import Torque
from dask_adaptive.errors import BackendError

TAG = "abcd1234"
SPOKEN: dict[str, tuple[Dialect, str]] = {
    "openpbs": (Pbs(history=True), "STDIN"),
    "torque": (Torque(), "STDIN"),
    "htcondor": (HTCondor(), "dask-worker"),
    "lsf": (Lsf(), "STDIN"),
    "sge": (Sge(), "STDIN"),
    "slurm": (Slurm(), "wrap"),
}
ODD = ("", " ", "\n", "\t", "\0", " = ", "-", "7", "٣", "[", "{", "<", "null", '"')


def damaged(text: str, rng: random.Random) -> str:
    """The same with a piece cut off, cut out, put in twice, or replaced by something odd."""
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice((1, 5, 30, 200)))
    return rng.choice(
        (
            text[:start],
            text[:start] + text[end:],
            text[:end] + text[start:],
            text[:start] + rng.choice(ODD) + text[end:],
        )
    )


def understood(dialect: Dialect, said: Answer) -> None:
    ways: tuple[Callable[[], object], ...] = (
        lambda: dialect.submitted(said, 3),
        lambda: dialect.queried([said] * len(dialect.query("tester"))),
        lambda: dialect.recalled([said]),
        lambda: dialect.cancelled([said]),
        lambda: dialect.probed([said] * len(dialect.probe())),
    )
    for way in ways:
        with suppress(BackendError):
            way()


@pytest.mark.parametrize("manager", sorted(SPOKEN))
def test_whatever_is_printed_is_understood_or_an_error_of_ours(manager: str) -> None:
    dialect, word = SPOKEN[manager]
    for case in cases(manager):
        try:
            recorded = answer(manager, case)
        except (KeyError, TypeError):  # a note, and no answer of a command
            continue
        rng = random.Random(f"{manager} {case}")
        text = recorded.stdout.replace(word, TAG)
        for _ in range(30):
            understood(
                dialect,
                replace(recorded, exit_code=rng.choice((0, recorded.exit_code or 0)), stdout=damaged(text, rng)),
            )
