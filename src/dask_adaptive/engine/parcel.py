"""Plug-ins on their way to a scheduler: as text, since it need not have our package, nor our version of Python."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib import resources
from typing import Any

__all__ = ["FILES", "parcel"]

INSIDE = ("names", "roster", "needs", "timing", "scatter", "pushes", "drain", "drains", "counts")

FILES: Mapping[str, tuple[str, ...]] = {
    "Inside": (*(f"inside.{name}" for name in INSIDE), "plugin"),
    "Page": ("page",),
    "Recorder": ("recorder",),
}
"""By the class of a plug-in: the modules that it consists of, each after those that it imports."""


class _Parcel:
    """Pickles to a call of the builtin ``eval``: the scheduler needs neither our package nor our version of Python."""

    BUILD = "[space := {'__name__': 'adaptive_loader'}, exec(loader, space), space['load'](sources, kind, config)][-1]"

    def __init__(self, kind: str, config: Mapping[str, Any]) -> None:
        sources = {name: source_of(name) for name in FILES[kind]}
        self.arguments = {"loader": source_of("loader"), "sources": sources, "kind": kind, "config": dict(config)}

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self.BUILD, self.arguments)


def source_of(name: str) -> str:
    """The text of a module of this package."""
    path = f"{name.replace('.', '/')}.py"
    return resources.files("dask_adaptive.engine").joinpath(path).read_text(encoding="utf-8")


def parcel(kind: str, config: Mapping[str, Any]) -> bytes:
    """A plug-in of the class ``kind``, ready to be sent to a scheduler."""
    return pickle.dumps(_Parcel(kind, config), protocol=4)
