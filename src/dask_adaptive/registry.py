"""Names to classes, by entry points: backends, dialects and policies, ours and those of other packages alike."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dask_adaptive.errors import ConfigError, nearest

__all__ = ["backends", "load_backend", "load_policy", "policies"]


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
