"""What a document says of the pools of a cluster, checked key by key, so that an error names its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from dask_adaptive.config import plain_keys
from dask_adaptive.errors import ConfigError, nearest
from dask_adaptive.marked import At, dotted
from dask_adaptive.options import backends_of, pool_keys, pool_options, said_of_pool
from dask_adaptive.registry import load_backend, needed_keys
from dask_adaptive.request import RequestOptions

__all__ = ["Wrong", "attempt", "pool_said", "pools_said", "unknown"]


class Wrong(Exception):
    """Something in a document cannot be; ``at`` is where. Becomes a ``ConfigError`` once file and line are known."""

    def __init__(self, at: At, sentence: object) -> None:
        self.at = at
        key, said = at[-1].replace("-", "_") if at else "", str(sentence)
        rest = said[len(key) :] if key and said.startswith((f"{key} ", f"{key}:")) else f": {said}"
        super().__init__(f"{dotted(at)}{rest}" if at else said)


def attempt(check: Callable[[Any], object], said: Any, at: At) -> None:
    """Check what was said; a ``ConfigError`` becomes ``Wrong`` at this place."""
    try:
        check(said)
    except ConfigError as error:
        raise Wrong(at, error) from error


def unknown(at: At, known: Iterable[str]) -> Wrong:
    """The last word of this place is no key; the nearest of those that are known is named, else all of them."""
    if at[-1].replace("-", "_") in (each.name for each in fields(RequestOptions)):
        return Wrong(at, "only batch systems are asked for that; name one as backend")
    hint = nearest(at[-1], {key.replace("_", "-") for key in known})
    return Wrong(at, f"unknown key; {hint.partition('?')[0]}?" if "?" in hint else f"unknown key; {hint}")


def pools_said(
    pools: Any, shared: Mapping[str, Any], spelled: Mapping[str, str], others: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Every pool with all that was said of it, checked. Raises ``Wrong``.

    ``shared`` was said for all of them, under keys as ``spelled``; ``others`` are keys that could have stood there.
    """
    if pools is not None and (not isinstance(pools, Mapping) or not pools):
        raise Wrong(("pools",), f"must map the name of each pool to its options, not {pools!r}")
    found: dict[str, dict[str, Any]] = {}
    known: set[str] = set()
    for name, own in ({"default": {}} if pools is None else pools).items():
        if own is not None and not isinstance(own, Mapping):
            raise Wrong(("pools", str(name)), f"must be a mapping of options, not {own!r}")
        places: dict[str, At] = {key: (word,) for key, word in spelled.items()}
        places |= {str(key).replace("-", "_"): ("pools", str(name), str(key)) for key in own or ()}
        around = ("pools", str(name)) if pools is not None else ()
        keys, found[str(name)] = pool_said(own or {}, shared, places, around)
        known |= keys
    for key in shared:
        if key not in known:
            raise unknown((spelled[key],), [*known, *others])
    return found


def pool_said(
    own: Mapping[str, Any], shared: Mapping[str, Any], places: Mapping[str, At], around: At
) -> tuple[set[str], dict[str, Any]]:
    """The options that a pool may have, and those that it has, checked. Raises ``Wrong``.

    ``own`` was said of it, ``shared`` of all; ``places`` are where, and ``around`` is the place of the pool itself.
    """
    for key in ("profile", "backend"):
        if key in places:
            attempt(partial(_named, key), plain_keys(own).get(key, shared.get(key)), places[key])
    try:
        said = said_of_pool(own, shared)
        known = pool_keys(said["backend"])
    except ConfigError as error:
        raise Wrong(places.get("profile", around), error) from error
    for key in plain_keys(own):
        if key not in known:
            raise unknown(places[key], known)
    said = {key: value for key, value in said.items() if key in known or key not in shared}
    _check_pool(said, places, around)
    return set(known), said


def _named(key: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{key} must be a name, not {value!r}")
    if key == "backend":
        load_backend(value)


def _check_pool(said: Mapping[str, Any], places: Mapping[str, At], around: At) -> None:
    """Try the whole pool; where it cannot be, the key is to blame with which it stops to be possible."""
    try:
        _make_pool(said)
    except ConfigError as error:
        needed = ["backend", *needed_keys(said["backend"])]
        first = [key for key in needed if key in said]
        rest = [key for key in said if key not in needed]
        for count in range(len(rest) + 1):
            keys = [*first, *rest[:count]]
            attempt(_make_pool, {key: said[key] for key in keys}, places.get(keys[-1], around))
        raise Wrong(around, error) from error


def _make_pool(said: Mapping[str, Any]) -> None:
    backends_of(pool_options({"pool": said}, {}))
