"""Names to classes, by entry points: backends, dialects and policies, ours and others'; and what a backend takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dask_adaptive.errors import ConfigError, nearest

__all__ = [
    "backend_keys",
    "backends",
    "example_arguments",
    "load_backend",
    "load_policy",
    "made_backend",
    "needed_keys",
    "policies",
    "takes_requests",
]


def backends() -> Mapping[str, EntryPoint]:
    """Every installed backend by its name: entry-point groups ``dask_adaptive.backends`` and, for batch systems,
    ``dask_adaptive.dialects``.
    """
    found = (*_installed("dask_adaptive.dialects"), *_installed("dask_adaptive.backends"))
    return {point.name: point for point in found}


def policies() -> Mapping[str, EntryPoint]:
    """Every installed policy by its name (entry-point group ``dask_adaptive.policies``)."""
    return {point.name: point for point in _installed("dask_adaptive.policies")}


def load_backend(name: str) -> Any:
    """What makes a backend of this name: its class, or the batch engine with its dialect.

    Raises ``ConfigError`` that lists the known ones.
    """
    known = backends()
    made = _load("backend", name, known)
    if known[name].group != "dask_adaptive.dialects":
        return made
    engine = import_module("dask_adaptive.backend.batch")  # only who uses a batch system loads its engine
    return engine.speaking(made)


def load_policy(name: str) -> Any:
    """The policy class of this name. Raises ``ConfigError`` that lists the known ones."""
    return _load("policy", name, policies())


# --- what a backend takes ------------------------------------------------------------------------------------------


def made_backend(name: str, options: Mapping[str, Any]) -> Any:
    """A backend of this registered name. Raises ``ConfigError`` for arguments that cannot be."""
    kind = load_backend(name)
    missing = [key for key in needed_keys(name) if key not in options]
    if missing:
        raise ConfigError(f"backend {name!r} needs {' and '.join(missing)}")
    try:
        return kind(**options)
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"backend {name!r} cannot be made: {error}") from error


def takes_requests(backend: Any) -> bool:
    """Whether jobs of this backend, a name or an object, ask for what ``RequestOptions`` has."""
    kind = load_backend(backend) if isinstance(backend, str) else backend
    return bool(getattr(kind, "takes_requests", False))


def backend_keys(backend: Any) -> list[str]:
    """The arguments of a registered backend, by its constructor; none of an object, which has had them already."""
    return [each.name for each in _parameters(backend)]


def needed_keys(backend: Any) -> list[str]:
    """Those of them that must be given."""
    return [each.name for each in _parameters(backend) if each.default is each.empty]


def example_arguments(backend: str) -> dict[str, Any]:
    """What to say to a backend that cannot do without, to see it work: ``example`` of its class or its ``parts``."""
    kind = load_backend(backend)
    return {
        key: value for part in getattr(kind, "parts", (kind,)) for key, value in getattr(part, "example", {}).items()
    }


def _parameters(backend: Any) -> list[inspect.Parameter]:
    if not isinstance(backend, str):
        return []
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [each for each in inspect.signature(load_backend(backend)).parameters.values() if each.kind not in variable]


# --- entry points --------------------------------------------------------------------------------------------------


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    """To ask takes hundredths of a second, and a cluster asks often."""
    return tuple(entry_points(group=group))


def _load(kind: str, name: str, known: Mapping[str, EntryPoint]) -> Any:
    if name not in known:
        raise ConfigError(f"there is no {kind} {name!r}; {nearest(name, known)}")
    try:
        return known[name].load()
    except ImportError as error:
        hint = (
            f"pip install 'dask-adaptive[{name}]'" if known[name].value.startswith("dask_adaptive.") else "install it"
        )
        raise ConfigError(f"{kind} {name!r} needs a package that is missing ({error}): {hint}") from error
