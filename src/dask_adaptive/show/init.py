"""Writes a configuration file to copy and edit: every key with its meaning and its default.

The keys come from where they are checked: the fields of ``Description`` and ``PoolOptions``, and the constructor of the
backend. What they mean is in the docstrings of these.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from dask_adaptive.description import Description
from dask_adaptive.errors import ConfigError
from dask_adaptive.options import PoolOptions, pool_keys
from dask_adaptive.registry import example_arguments, load_backend, needed_keys

__all__ = ["example_of", "meanings_of", "write_example"]

_WIDTH = 100


def write_example(backend: str, path: Path, *, force: bool = False) -> None:
    """Write the file of ``example_of``. Raises ``ConfigError`` if there is one already and ``force`` is not given."""
    text = example_of(backend, path.name)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"there is a file {str(path)!r} already; --force overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def example_of(backend: str, file: str = "cluster.yaml") -> str:
    """The text of a configuration file for this backend. Raises ``ConfigError`` for an unknown one.

    What a backend needs and has no default for comes from the mapping ``example`` of its class, if it has one.
    """
    said = dict.fromkeys(needed_keys(backend)) | example_arguments(backend)
    lines = [
        f"# A cluster on {backend}. To see what it means: dask adaptive check {file}",
        "# Lines that begin with '#' and a key show what holds by default: take the '#' away to say something else.",
        "",
        f"name: {backend}",
        "",
        "# Never more workers than this in each pool.",
        "maximum: 10",
        *_keys(_described(Description), ("name", "maximum", "pools"), ""),
        "",
        "# Kinds of jobs. One that says nothing of a key has what is said of it above, beside the name.",
        "pools:",
        "  main:",
        f"    backend: {backend}",
        *(f"    {_key(key)}: {_value(value)}" for key, value in said.items()),
        *_keys(_described_pool(backend), ("backend", *said), "    "),
    ]
    return "\n".join(lines) + "\n"


def _keys(described: Mapping[str, tuple[Any, str]], left_out: tuple[str, ...], indent: str) -> Iterator[str]:
    """Every key with its meaning before it; keys that mean the same stand together."""
    told = ""
    for key, (default, about) in described.items():
        if key in left_out:
            continue
        if about != told:
            told = about
            yield ""
            yield from textwrap.wrap(about, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        yield f"{indent}#{_key(key)}: {_value(default)}"


def _key(name: str) -> str:
    return name.replace("_", "-")


def _value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _described(kind: Any) -> dict[str, tuple[Any, str]]:
    """The fields of a dataclass with their defaults and meanings, in the order of the class."""
    found, meanings = {}, meanings_of(kind)
    for each in fields(kind):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        found[each.name] = (default, meanings.get(each.name, ""))
    return found


def _described_pool(backend: str) -> dict[str, tuple[Any, str]]:
    """The options of a pool with this backend, its own and those of the backend."""
    known, own = pool_keys(backend), _described(PoolOptions)
    kind = load_backend(backend)
    meanings = meanings_of(kind)
    arguments = inspect.signature(kind).parameters
    others = {
        key: (arguments[key].default, meanings.get(key, "")) for key in known if key not in own and key in arguments
    }
    return {key: own[key] for key in own if key in known} | others


def meanings_of(kind: Callable[..., Any]) -> dict[str, str]:
    """What a docstring, and those of the base classes, say of each parameter, in one paragraph.

    A function that makes something of several classes names these as its ``parts``.
    """
    found: dict[str, str] = {}
    for each in getattr(kind, "parts", reversed(getattr(kind, "__mro__", (kind,)))):
        found |= _parameters(inspect.cleandoc(each.__doc__ or ""))
    return found


def _parameters(text: str) -> dict[str, str]:
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^(\w[\w, ]*):.*\n((?:[ \t]+.*\n?|\n)*)", section.group(1) if section else "", re.MULTILINE)
    return {name.strip(): _plain(about) for names, about in entries for name in names.split(",")}


def _plain(about: str) -> str:
    """A meaning as YAML has it."""
    return " ".join(about.split()).replace("``", "").replace("None", "null")
