"""A YAML file, with the line on which each thing is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dask_adaptive.errors import ConfigError

__all__ = ["At", "Marked", "dotted", "read_marked"]

At = tuple[str, ...]
"""Where in a document: ``("pools", "gpu", "memory")``; the number of a list's entry is a word, too."""


@dataclass(frozen=True, slots=True)
class Marked:
    """What a file says (a mapping), and on which line."""

    path: Path
    value: Mapping[str, Any]
    lines: Mapping[At, int] = field(default_factory=dict)

    def where(self, at: At) -> str:
        """``site.yaml, line 7``: the line of this place, or of the nearest one around it."""
        while at and at not in self.lines:
            at = at[:-1]
        return f"{self.path}, line {self.lines[at]}" if at else str(self.path)


def dotted(at: At) -> str:
    """The place as a person writes it: ``pools.gpu.memory``."""
    return ".".join(at)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: ``12:00:00`` is a text, not the number 43200, and so is ``2026-11-20``."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        return "tag:yaml.org,2002:str" if tag in numbers and ":" in value else tag


def read_marked(path: str | Path) -> Marked:
    """What a YAML file says; an empty one says nothing.

    Raises
    ------
    ConfigError
        With file and line, if the file cannot be read, is no YAML, says something twice, or is not a mapping.
    """
    path = Path(path)
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return Marked(path, {})
        lines = dict(_lines(path, node, (), ()))
        value = loader.construct_document(node)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8") from error
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}, line 1: a mapping of keys is expected, such as 'name: mine'")
    return Marked(path, value, lines)


def _not_yaml(path: Path, error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
    return ConfigError(f"{where}: not YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}")


def _lines(path: Path, node: yaml.Node, at: At, around: tuple[int, ...]) -> Iterator[tuple[At, int]]:
    """Every place of a document with its line."""
    if id(node) in around:
        raise ConfigError(f"{path}, line {node.start_mark.line + 1}: {dotted(at)} contains itself")
    around = (*around, id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            yield (*at, str(number)), entry.start_mark.line + 1
            yield from _lines(path, entry, (*at, str(number)), around)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{path}, line {line}: a key must be one word")
        if key.value == "<<":
            continue
        place = (*at, key.value)
        if key.value in seen:
            raise ConfigError(f"{path}, line {line}: {dotted(place)} was said on line {seen[key.value]} already")
        seen[key.value] = line
        yield place, line
        yield from _lines(path, value, place, around)
