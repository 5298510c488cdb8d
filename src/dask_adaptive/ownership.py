"""Writes down, when a cluster starts, whose jobs its jobs are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import msgspec

from dask_adaptive.backend.contracts import Backend, Keeping
from dask_adaptive.errors import BackendError
from dask_adaptive.options import PoolOptions
from dask_adaptive.owners import Owner, Source, owner_of, this_process, write

__all__ = ["ownership"]

logger = logging.getLogger(__name__)


async def ownership(
    name: str, key: str, options: Mapping[str, PoolOptions], backends: Mapping[str, Backend], scheduler: str = ""
) -> Owner | None:
    """Write that this process owns the jobs with this key, and take over what an earlier owner of them left.

    Jobs that end with their owner need none. Those of backends that were given as objects, or have objects among their
    arguments, nobody could find later. That it cannot be written is no reason not to start.

    Returns
    -------
    Owner | None
        What was written; None if there was nothing to write.
    """
    earlier = await asyncio.to_thread(owner_of, key) if scheduler else None
    sources: list[Source] = []
    for backend in {id(each): each for each in backends.values()}.values():
        said = next(options[pool] for pool, each in backends.items() if each is backend)
        if _tells(said) and isinstance(said.backend, str) and not getattr(backend, "ends_with_owner", False):
            left = _left(earlier, said.backend) if not any(each.backend == said.backend for each in sources) else ()
            sources.append(await _source(backend, Source(said.backend, said.backend_options, left), key))
    if not sources:
        return None
    owner = Owner(name, key, this_process(), sources, scheduler)
    try:
        await asyncio.to_thread(write, owner)
    except OSError as error:
        logger.warning("should this process be killed, `dask adaptive reap` will not find its jobs: %s", error)
    return owner


def _tells(said: PoolOptions) -> bool:
    """Whether the arguments of the backend can be written down."""
    with suppress(TypeError, ValueError, msgspec.MsgspecError):
        msgspec.json.encode(said.backend_options)
        return True
    return False


def _left(earlier: Owner | None, backend: str) -> tuple[str, ...]:
    """The folders that an earlier owner left with this backend."""
    sources = earlier.sources if earlier is not None else ()
    return tuple(folder for source in sources if source.backend == backend for folder in source.folders)


async def _source(backend: Backend, source: Source, key: str) -> Source:
    if not isinstance(backend, Keeping):
        return source
    backend.take_over(source.folders)
    try:
        return replace(source, folders=tuple(await backend.folders(key)))
    except BackendError:  # the first submit will say so
        return source
