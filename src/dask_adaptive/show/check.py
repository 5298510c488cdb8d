"""What a description of a cluster means, in plain words and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dask.utils import format_bytes

from dask_adaptive.description import Description
from dask_adaptive.model import Limits, Shape
from dask_adaptive.options import PoolOptions
from dask_adaptive.phrases import count, duration
from dask_adaptive.registry import load_policy

__all__ = ["Meaning", "PoolMeaning", "meaning_of", "sentences"]

_SHOWN_APART = ("backend", "backend_options", "workers_per_job", "threads", "memory", "resources", "gpus", "price")
"""Options of a pool that have their own words."""


@dataclass(frozen=True, slots=True)
class PoolMeaning:
    """A pool: what one job of it is, between how many jobs it moves (None: without limit), and what else was said."""

    name: str
    backend: str
    workers_per_job: int
    threads: int
    memory_bytes: int
    resources: Mapping[str, float]
    price: float
    minimum_jobs: int
    maximum_jobs: int | None
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Meaning:
    """A cluster: its pools, how its size is chosen, and everything else that was said.

    ``wait_s`` is for how long a smaller size must have been right; None: the policy decides that itself.
    """

    name: str | None
    pools: tuple[PoolMeaning, ...]
    policy: str
    policy_options: Mapping[str, Any]
    interval_s: float
    wait_s: float | None
    target_duration_s: float
    budget: float | Mapping[str, float] | None
    idle_timeout_s: float | None
    encrypted: bool
    journal: str | None
    on_event: Any
    scheduler: Mapping[str, Any]
    head: Mapping[str, Any]


def meaning_of(description: Description) -> Meaning:
    """What a description means, with all that is configured and all defaults."""
    sizes, scaling, chosen = description.sizes, description.scaling, description.policy
    pools = (_pool(name, options, sizes[name], description) for name, options in description.options.items())
    return Meaning(
        name=description.name,
        pools=tuple(pools),
        policy=description.policy_name,
        policy_options={key: chosen[key] for key in chosen if key != "name"} if isinstance(chosen, Mapping) else {},
        interval_s=scaling.interval_s,
        wait_s=None if description.patient else scaling.wait_s,
        target_duration_s=scaling.target_duration_s,
        budget=description.budget,
        idle_timeout_s=description.idle_timeout_s,
        encrypted=description.encrypted,
        journal=description.journal,
        on_event=description.on_event,
        scheduler=description.scheduler,
        head=asdict(description.headed),
    )


def _pool(name: str, options: PoolOptions, limits: Limits, description: Description) -> PoolMeaning:
    shape = options.shape()
    said = {key: value for key, value in description.pools[name].items() if key not in _SHOWN_APART}
    return PoolMeaning(
        name=name,
        backend=str(options.backend),
        workers_per_job=shape.workers,
        threads=shape.threads,
        memory_bytes=shape.memory_bytes,
        resources=shape.resources,
        price=options.price,
        minimum_jobs=limits.minimum,
        maximum_jobs=limits.maximum,
        options={key: value for key, value in {**said, **options.backend_options}.items() if value is not None},
    )


# --- in words ------------------------------------------------------------------------------------------------------


def sentences(meaning: Meaning) -> Iterator[str]:
    """The same for people, line by line."""
    yield f"{f'Cluster {meaning.name}' if meaning.name else 'A cluster'} with {count(len(meaning.pools), 'pool')}."
    for pool in meaning.pools:
        yield from ("", *_about_pool(pool))
    if len(meaning.pools) > 1:
        yield from ("", f"In all: {_in_all(meaning.pools)}.")
    yield from ("", *_about_sizing(meaning))
    yield from _about_the_rest(meaning)


def _about_pool(pool: PoolMeaning) -> Iterator[str]:
    shape = Shape(pool.workers_per_job, pool.threads, pool.memory_bytes, pool.resources)
    yield f"Pool {pool.name}, by backend {pool.backend}:"
    resources = "".join(f", {amount:g} {name}" for name, amount in pool.resources.items())
    memory = f", {_memory(pool.memory_bytes)}" if pool.memory_bytes else ", no memory limit"
    worker = f"{count(pool.threads, 'thread')}{memory}{resources}"
    yield f"  a job is {count(pool.workers_per_job, 'worker')} of {worker}"
    limits = Limits(pool.minimum_jobs, pool.maximum_jobs)
    if limits.minimum == limits.maximum:
        yield f"  always {_amount(limits.minimum, shape)}"
    elif limits.maximum is None:
        yield f"  from {count(limits.minimum, 'job')} on, without limit"
    else:
        yield f"  {limits.minimum:,} to {_amount(limits.maximum, shape)}"
    if pool.price != 1.0:
        yield f"  price {pool.price:g} per worker and second"
    for key, value in pool.options.items():
        if key not in ("minimum", "maximum") and value not in ("", 0, [], {}):
            yield f"  {key.replace('_', '-')}: {_plain(value)}"


def _amount(jobs: int, shape: Shape) -> str:
    """``10 jobs (10 workers, 40 threads, 160 GB)``."""
    workers = jobs * shape.workers
    memory = [_memory(workers * shape.memory_bytes)] if shape.memory_bytes else []
    parts = [count(workers, "worker"), count(workers * shape.threads, "thread"), *memory]
    return f"{count(jobs, 'job')} ({', '.join(parts)})"


def _in_all(pools: tuple[PoolMeaning, ...]) -> str:
    least = sum(pool.minimum_jobs * pool.workers_per_job for pool in pools)
    tops = [None if pool.maximum_jobs is None else pool.maximum_jobs * pool.workers_per_job for pool in pools]
    if None in tops:
        return f"from {count(least, 'worker')} on, without limit"
    threads = sum(pool.threads * (top or 0) for pool, top in zip(pools, tops, strict=True))
    return f"{least:,} to {count(sum(top or 0 for top in tops), 'worker')}, {count(threads, 'thread')}"


def _about_sizing(meaning: Meaning) -> Iterator[str]:
    if all(pool.minimum_jobs == pool.maximum_jobs for pool in meaning.pools):
        yield "Its size is fixed: every minimum is the maximum."
    else:
        yield from _about_policy(meaning)
    if meaning.budget is not None:
        each = meaning.budget if isinstance(meaning.budget, Mapping) else {"all pools together": meaning.budget}
        for name, hours in each.items():
            yield f"  At most {hours:g} worker-hours are spent by {name}; then what is there is drained."


def _about_policy(meaning: Meaning) -> Iterator[str]:
    options = "".join(f", {key.replace('_', '-')}: {_plain(value)}" for key, value in meaning.policy_options.items())
    about = (load_policy(meaning.policy).__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    yield f"Its size follows its work by the policy {meaning.policy}{options}."
    yield f"  {' '.join(about.split())}"
    yield f"  A new graph counts at once, everything else within {duration(meaning.interval_s)}."
    if meaning.wait_s is None:
        yield "  It decides itself how long idle jobs are kept."
    else:
        yield f"  Nothing is given up that was needed within the last {duration(meaning.wait_s)}."
    if len(meaning.pools) > 1:
        yield "  Work goes to the cheapest pool that can run it; of equal ones to the first."


def _about_the_rest(meaning: Meaning) -> Iterator[str]:
    if meaning.encrypted:
        yield "Connections are encrypted."
    if meaning.scheduler:
        yield f"Scheduler: {_plain(meaning.scheduler)}."
    if meaning.journal is not None:
        yield f"Every round in which something changes is written to {meaning.journal}."
    if meaning.idle_timeout_s is not None:
        yield f"It ends after {duration(meaning.idle_timeout_s)} without work and without results that somebody holds."
    if meaning.on_event:
        yield f"Troubles are told to: {_plain(meaning.on_event)}."
    if meaning.head["where"] == "job":
        yield f"Its head is a job of pool {meaning.head['pool'] or meaning.pools[0].name}."


def _memory(amount: int) -> str:
    """In the units that it was said in: 4 GB, or 4.00 GiB."""
    return format_bytes(amount) if amount % 2**20 == 0 else f"{amount / 1e9:.4g} GB"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return str(value)
