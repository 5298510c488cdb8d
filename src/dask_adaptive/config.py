"""What the user asked for, checked and resolved once, at the edge.

Every function here either returns a plain value or raises ``ConfigError`` in one sentence that names the key.
Defaults come from Dask's configuration: ``distributed.adaptive.*`` (documented by Dask) and ``adaptive.*`` (ours).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.model import Limits, Shape
from dask_adaptive.phrases import count
from dask_adaptive.registry import backends

__all__ = [
    "DEFAULTS",
    "Amount",
    "Bounds",
    "Scaling",
    "backend_settings",
    "bytes_of",
    "check_keys",
    "cores_here",
    "count_of",
    "duration_configured",
    "flag_of",
    "limits_of",
    "plain_keys",
    "positive_of",
    "profile",
    "scaling_of",
    "seconds_of",
    "setting",
    "size_of",
    "state_home",
]

Amount = int | float | str | None

_SHIPPED = "5s"
"""Dask's own target duration."""

LARGEST = 2**63
"""Whole numbers are smaller: larger ones are a slip, and no float holds them."""

DEFAULTS: Mapping[str, Any] = {
    "policy": "cost-aware",
    "time-value": 10,
    "history": True,
    "target-duration": "4s",
    "maximum-jobs": 10,
    "journal": None,
    "start-timeout": "120s",
    "lost-timeout": "30s",
    "drain-timeout": "600s",
    "end-timeout": "15s",
    "unknown-timeout": "120s",
    "first-worker-notice": "10s",
    "on-event": None,
    "page": True,
    "page-logs": False,
}
"""Our own configuration, under ``adaptive`` in Dask's configuration (``DASK_ADAPTIVE__POLICY`` in the environment)."""


def setting(key: str) -> Any:
    """The configured value of one of ``DEFAULTS``; an unknown configured key is refused by name."""
    _configured()
    return dask.config.get(f"adaptive.{key}", DEFAULTS[key])


def backend_settings(backend: str) -> dict[str, Any]:
    """What is configured for pools of a backend and for the backend itself, below ``adaptive.<backend>``."""
    return _options(f"adaptive.{backend}", plain_keys(_configured()).get(_plain(backend)))


def profile(name: str) -> dict[str, Any]:
    """The options below ``adaptive.profiles.<name>``. Raises ``ConfigError`` that lists the known profiles."""
    profiles = _options("adaptive.profiles", _configured().get("profiles"))
    check_keys("profile", [_plain(name)], profiles)
    return _options(f"adaptive.profiles.{name}", profiles[_plain(name)])


def plain_keys(said: Mapping[str, Any]) -> dict[str, Any]:
    """The same with underscores: ``death-timeout``, as Dask's YAML has it, is ``death_timeout``."""
    return {_plain(key): value for key, value in said.items()}


def _plain(key: object) -> str:
    return str(key).replace("-", "_")


def _configured() -> Mapping[str, Any]:
    configured = dask.config.get("adaptive", {}) or {}
    if not isinstance(configured, Mapping):
        raise ConfigError(f"configuration 'adaptive' must be a mapping of keys, not {configured!r}")
    unknown = [key for key in (str(key).replace("_", "-") for key in configured) if key not in DEFAULTS]
    if unknown:
        names = (name.replace("_", "-") for name in backends())
        check_keys("configuration key adaptive", unknown, (*DEFAULTS, "profiles", *names))
    return configured


def _options(key: str, found: Any) -> dict[str, Any]:
    if found is not None and not isinstance(found, Mapping):
        raise ConfigError(f"configuration {key!r} must be a mapping of options, not {found!r}")
    return plain_keys(found or {})


def check_keys(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first unknown key, naming the nearest known one."""
    known = set(known)
    for key in given:
        if key not in known:
            joint = "." if kind.startswith("configuration") else " "
            raise ConfigError(f"unknown {kind}{joint}{key}: {nearest(key, known)}")


def count_of(key: str, value: object, *, least: int = 0) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ConfigError(f"{key} must be a whole number, not {value!r}")
    if not abs(value) < LARGEST or value != int(value):
        raise ConfigError(f"{key} must be a whole number, not {value!r}")
    if value < least:
        raise ConfigError(f"{key} must be at least {least}, not {value!r}")
    return int(value)


def bytes_of(key: str, value: object) -> int:
    """A number of bytes: a number, or text such as ``"4 GB"`` or ``"512 MiB"``."""
    try:
        if isinstance(value, str) and not any(character.isdigit() for character in value):
            raise ValueError(value)  # Dask takes "GB" for 1 GB
        amount = parse_bytes(value) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ConfigError(f"{key} must be a size such as '4 GB' or a number of bytes, not {value!r}") from None
    if not amount >= 0 or math.isinf(amount):
        raise ConfigError(f"{key} must be a finite size of at least 0 bytes, not {value!r}")
    return int(amount)


def positive_of(key: str, value: object) -> float:
    """A finite number above 0."""
    try:
        amount = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        amount = math.nan
    if not 0 < amount < math.inf:
        raise ConfigError(f"{key} must be a number above 0, not {value!r}")
    return amount


def flag_of(key: str, value: object) -> bool:
    """True or false, and nothing else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {value!r}")
    return value


def seconds_of(key: str, value: object, *, positive: bool = False) -> float:
    """A number of seconds: a number, or text such as ``"500 ms"`` or ``"2h"``."""
    try:
        amount = float(parse_timedelta(value, default="s"))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        raise ConfigError(f"{key} must be a duration such as '5s' or a number of seconds, not {value!r}") from None
    if not amount >= 0 or math.isinf(amount) or (positive and not amount):
        raise ConfigError(f"{key} must be a finite duration above 0, not {value!r}")
    return amount


@dataclass(frozen=True)
class Bounds:
    """How large a pool may be, as a user says it: in workers, jobs, cores (threads) or memory; None: not said."""

    minimum: Amount = None
    maximum: Amount = None
    minimum_jobs: Amount = None
    maximum_jobs: Amount = None
    minimum_cores: Amount = None
    maximum_cores: Amount = None
    minimum_memory: Amount = None
    maximum_memory: Amount = None


def limits_of(bounds: Bounds, shape: Shape, default_maximum: int | None) -> Limits:
    """The bounds in jobs of this shape: minima are rounded up to whole jobs, maxima down.

    ``default_maximum`` (jobs) holds where no maximum is said. Raises ``ConfigError`` for a maximum below one job, a
    minimum above the maximum, or a memory bound on workers without a memory limit.
    """
    low = _jobs(bounds, "minimum", shape, math.ceil)
    high = _jobs(bounds, "maximum", shape, math.floor)
    minimum = max(low.values(), default=0)
    if high:
        key, maximum = min(high.items(), key=lambda item: item[1])
        if maximum < 1 and getattr(bounds, key) != 0:
            job = f"{shape.workers} workers of {shape.threads} threads"
            raise ConfigError(f"{key}={getattr(bounds, key)!r} is less than one job ({job}); nothing could ever start")
    else:
        key, maximum = "maximum", math.inf if default_maximum is None else max(default_maximum, minimum)
    if minimum > maximum:
        least = max(low, key=lambda each: low[each])
        below = f"{least}={getattr(bounds, least)!r} ({count(int(minimum), 'job')})"
        raise ConfigError(f"{below} is above {key}={getattr(bounds, key)!r} ({count(int(maximum), 'job')})")
    return Limits(int(minimum), None if math.isinf(maximum) else int(maximum))


def size_of(shape: Shape, **said: Amount) -> int:
    """Whole jobs of this shape for one of n (workers), jobs, cores and memory; refused under the name that was said."""
    given = {key: value for key, value in said.items() if value is not None}
    if len(given) != 1:
        raise ConfigError("scale needs exactly one of n, jobs=, cores=, memory=")
    [(key, value)] = given.items()
    amount = bytes_of(key, value) if key == "memory" else count_of(key, value)
    bound = "minimum" if key == "n" else f"minimum_{key}"
    return limits_of(Bounds(**{bound: amount}), shape, None).minimum


def _jobs(bounds: Bounds, side: str, shape: Shape, whole: Any) -> dict[str, float]:
    """Every bound of one side that was said, in jobs."""
    found: dict[str, float] = {}
    units = {"": shape.workers, "_jobs": 1, "_cores": shape.job_threads, "_memory": shape.workers * shape.memory_bytes}
    for unit, per_job in units.items():
        key = side + unit
        value = getattr(bounds, key)
        if value is None:
            continue
        if value == math.inf and side == "maximum":
            found[key] = math.inf
            continue
        if not per_job:
            raise ConfigError(f"{key} needs workers with a memory limit; give memory= as well")
        amount = bytes_of(key, value) if unit == "_memory" else count_of(key, value)
        found[key] = whole(amount / per_job)
    return found


@dataclass(frozen=True)
class Scaling:
    """The resolved options of ``adapt``; ``wait_s`` = wait_count x interval."""

    interval_s: float
    wait_s: float
    target_duration_s: float


def scaling_of(interval: object = None, wait_count: object = None, target_duration: object = None) -> Scaling:
    """These options, each where not given as configured in ``distributed.adaptive``.

    The target duration has a default of its own, ``adaptive.target-duration`` (4 s): it counts where none is given and
    ``distributed.adaptive.target-duration`` is as Dask ships it (5 s), so that nobody chose it.
    """
    default = dask.config.get
    interval = default("distributed.adaptive.interval", "1s") if interval is None else interval
    wait_count = default("distributed.adaptive.wait-count", 3) if wait_count is None else wait_count
    duration = default("distributed.adaptive.target-duration", _SHIPPED) if target_duration is None else target_duration
    if target_duration is None and duration == _SHIPPED:
        duration = setting("target-duration")
    interval_s = seconds_of("interval", interval, positive=True)
    return Scaling(
        interval_s=interval_s,
        wait_s=count_of("wait_count", wait_count) * interval_s,
        target_duration_s=seconds_of("target_duration", duration, positive=True),
    )


def duration_configured() -> bool:
    """Whether somebody configured a target duration and no policy: then it is the policy."""
    if dask.config.get("adaptive.policy", None) is not None:
        return False
    own = dask.config.get("adaptive.target-duration", None) is not None
    return own or dask.config.get("distributed.adaptive.target-duration", _SHIPPED) != _SHIPPED


def state_home() -> Path:
    """The state directory of the user; a relative ``XDG_STATE_HOME`` is ignored, as its specification says."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith(os.sep) else Path.home() / ".local" / "state"
    return base / "dask-adaptive"


def cores_here() -> int:
    """The processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
