"""What a user may ask a batch system for, turned into a ``Request``."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dask_adaptive.config import Amount, bytes_of, count_of, seconds_of
from dask_adaptive.errors import ConfigError
from dask_adaptive.model import Request

__all__ = ["RequestOptions", "walltime_of"]

COMMAND = "{command}"
"""Where a template of the user's has the workers' command put in."""

_UNITS = {"min": "m", "mins": "m", "hrs": "h", "hr": "h"}
"""Units that people write and Dask does not read."""

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


@dataclass(frozen=True)
class RequestOptions:
    """What a job of a pool asks a batch system for, beyond what its workers need. The site decides what is not said.

    Parameters
    ----------
    queue:
        Queue or partition.
    account:
        Account or project that the time is booked on.
    walltime:
        How long a job may run: seconds, ``"4h"``, ``"1h 30m"``, ``"02:00:00"`` or ``"1-12:00:00"``. Workers are drained
        before its end. Default: none is asked for.
    job_cores:
        Processors of a job. Default: the threads of its workers.
    job_memory:
        Memory of a job. Default: that of its workers.
    nodes:
        Machines of a job; more than one needs a ``launcher``. Default: one.
    directives:
        Lines for the head of the job script, without its prefix, such as ``"--exclusive"``.
    directives_skip:
        Keys of directives to leave out, such as ``"--mem"``. One that is in ``directives`` replaces ours anyway.
    prologue:
        Lines of shell that run before the workers, such as ``"module load python"``.
    python:
        The interpreter of the workers. Default: this one's path.
    shebang:
        First line of the job script.
    launcher:
        What is put before the workers' command, such as ``"srun"``.
    template:
        A job script of your own, or its path, with ``{command}`` where the workers are to be started. Directives of
        ours are left out then.
    throttle:
        How many jobs of one array may run at the same time; 0: as many as the limits allow.
    """

    queue: str | None = None
    account: str | None = None
    walltime: Any = None
    job_cores: int | None = None
    job_memory: Amount = None
    nodes: int | None = None
    directives: Sequence[str] | Mapping[str, Any] = ()
    directives_skip: Sequence[str] = ()
    prologue: str | Sequence[str] = ()
    python: str | None = None
    shebang: str = "#!/bin/bash"
    launcher: str | Sequence[str] | None = None
    template: str | None = None
    throttle: int = 0

    def request(self) -> Request:
        """What the manager is asked for. Raises ``ConfigError`` naming the key that cannot be."""
        if not _line("shebang", self.shebang).startswith("#!"):
            raise ConfigError(f"shebang must begin with '#!', not {self.shebang!r}")
        launcher = self.launcher or ""
        return Request(
            queue=_line("queue", self.queue or ""),
            account=_line("account", self.account or ""),
            walltime_s=0.0 if self.walltime is None else walltime_of(self.walltime),
            cores=0 if self.job_cores is None else count_of("job_cores", self.job_cores, least=1),
            memory_bytes=0 if self.job_memory is None else bytes_of("job_memory", self.job_memory),
            nodes=0 if self.nodes is None else count_of("nodes", self.nodes, least=1),
            directives=_directives(self.directives),
            skip=_lines("directives_skip", self.directives_skip),
            prologue=_lines("prologue", _split(self.prologue)),
            python="" if self.python is None else _line("python", str(self.python)),
            shebang=_line("shebang", self.shebang),
            launcher=_line(
                "launcher", launcher if isinstance(launcher, str) else shlex.join(_lines("launcher", launcher))
            ),
            template=_template(self.template),
            throttle=count_of("throttle", self.throttle),
        )

    def asked(self) -> list[str]:
        """The keys that were said: a backend that is no batch system has no use for them."""
        return [each.name for each in fields(RequestOptions) if getattr(self, each.name) not in (None, each.default)]


def walltime_of(said: object) -> float:
    """A walltime in seconds: a number, Dask's durations, or the clock form ``[days-]hours:minutes:seconds``.

    Forms that managers read differently (``"30"``: minutes or seconds? ``"1:30"``: hours or minutes?) are refused.
    """
    if isinstance(said, datetime.timedelta):
        said = said.total_seconds()
    if not isinstance(said, str):
        return seconds_of("walltime", said, positive=True)
    text = said.strip()
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return seconds_of("walltime", ((days * 24 + hours) * 60 + minutes) * 60 + seconds, positive=True)
    if not text or ":" in text or text.replace(".", "").isdigit():
        raise ConfigError(f"walltime={said!r} can be read in several ways: say '90min', '1h30m' or '01:30:00'")
    return sum(seconds_of("walltime", part, positive=True) for part in _parts(text))


def _parts(text: str) -> list[str]:
    """``"1h 30m"`` and ``"1h30min"`` are two durations; anything else is one."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)", text)
    if re.sub(r"\s", "", text) != "".join(map("".join, parts)) or not parts:
        return [text]
    return [number + _UNITS.get(unit.lower(), unit) for number, unit in parts]


def _line(key: str, value: object) -> str:
    """One line of text: what would begin a new line in a job script is refused."""
    if not isinstance(value, str):
        raise ConfigError(f"{key} must be text, not {value!r}")
    if any(not character.isprintable() and character != "\t" for character in value):
        raise ConfigError(f"{key} must be one line without control characters, not {value!r}")
    return value


def _lines(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{key} must be a list of lines, not {value!r}")
    return tuple(_line(key, line) for line in value)


def _directives(value: object) -> tuple[str, ...]:
    """A list of lines, or for ``key = value`` languages such as HTCondor's a mapping."""
    if isinstance(value, Mapping):
        value = [f"{key} = {each}" for key, each in value.items()]
    return _lines("directives", value)


def _split(prologue: object) -> object:
    return prologue.splitlines() if isinstance(prologue, str) else prologue


def _template(said: str | None) -> str:
    if said is None:
        return ""
    text = str(said)
    if "\n" not in text:
        try:
            text = Path(text).expanduser().read_text()
        except (OSError, ValueError) as error:  # also what is no text, and no path at all
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"template={said!r} cannot be read: {why}") from error
    if COMMAND not in text:
        raise ConfigError(f"template must contain {COMMAND} on the line where the workers are to be started")
    return text
