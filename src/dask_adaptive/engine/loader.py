"""Makes an object of text, where nothing of ours can be imported: this file itself travels as text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any
from uuid import uuid4

__all__ = ["load"]


def load(sources: Mapping[str, str], kind: str, config: Mapping[str, Any]) -> Any:
    """An object of the class ``kind``, which the last of these modules has.

    ``sources`` are texts by name below a package (``inside.needs``), each after those that it imports, with its
    packages as empty ones. Nobody else can import the modules, and nothing is left of them but what the object holds.
    """
    root = f"adaptive_{uuid4().hex}"
    names = {name: f"{root}.{name}" for name in sources}
    packages = {root, *(full.rpartition(".")[0] for full in names.values())}
    module = ModuleType(root)
    try:
        for package in packages:
            sys.modules[package] = _module(package, package)
        for name, full in names.items():
            module = sys.modules[full] = _module(full, full.rpartition(".")[0])
            exec(compile(sources[name], f"<{name}>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  a scheduler runs what its clients send
        return getattr(module, kind)(**config)
    finally:
        for full in (*names.values(), *packages):
            sys.modules.pop(full, None)


def _module(name: str, package: str) -> ModuleType:
    made = ModuleType(name)
    made.__package__ = package
    if name == package:
        made.__path__ = []
    return made
