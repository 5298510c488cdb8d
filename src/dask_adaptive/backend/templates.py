"""Commands as templates: words with ``{places}`` that are filled in. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from dask_adaptive.errors import ConfigError, nearest

__all__ = ["PLACE", "Template", "check_template", "filled", "words_of"]

Template = Sequence[str] | str
PLACE = re.compile(r"\{(\w+)\}")


def words_of(template: Template) -> tuple[str, ...]:
    """Its words; a text is split as a shell does it."""
    return tuple(shlex.split(template) if isinstance(template, str) else template)


def check_template(key: str, said: Template, known: Collection[str], *, needed: bool = True) -> None:
    """Refuse a template that is none, is empty although ``needed``, or has a place that is not ``known``."""
    try:
        words = words_of(said)
        unknown = [place for word in words for place in PLACE.findall(word) if place not in known]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} must be a list of words, not {said!r}") from error
    if not words and needed:
        raise ConfigError(f"{key} must be said: a list of words, without a shell")
    if unknown:
        raise ConfigError(f"{key} has no {{{unknown[0]}}}; {nearest(unknown[0], known)}")


def filled(template: Template, values: Mapping[str, object]) -> tuple[str, ...]:
    """Its words with these values; a place without a value stays."""
    return tuple(PLACE.sub(lambda place: str(values.get(place[1], place[0])), word) for word in words_of(template))
