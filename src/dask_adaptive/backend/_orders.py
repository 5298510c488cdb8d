"""What a host is told to start jobs, and what it tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.config

from dask_adaptive.backend._link import Message
from dask_adaptive.backend.command import (
    MODULE,
    terminate_bytes,
    worker_arguments,
    worker_config,
    worker_environment,
)
from dask_adaptive.errors import Rejected
from dask_adaptive.model import Batch, Job, JobId, JobState, Spec

__all__ = ["listed_by", "message_of", "order_of"]


async def message_of(batch: Batch, environment: Mapping[str, str]) -> Message:
    """What is the same for all jobs of a batch."""
    config = worker_config(batch.spec)
    bare = replace(batch.spec, environment={})
    high = {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(config), "PYTHONUNBUFFERED": "1"}
    try:
        secrets = {key: await asyncio.to_thread(Path(path).read_text) for key, path in batch.spec.tls.items()}
    except OSError as error:
        raise Rejected(f"the TLS files of the job cannot be read: {error}") from error
    return {
        "op": "start",
        "low": worker_environment({}, config, bare),
        "high": {**high, **environment, **batch.spec.environment},
        "secrets": secrets,
        "limit_bytes": terminate_bytes(config, batch.spec),
        "memory_bytes": batch.spec.shape.memory_bytes,
        "gpus": 0 if batch.spec.command else batch.spec.gpus,
    }


def order_of(batch: Batch, name: str, id: JobId, place: str) -> Message:
    """One job of a start message; ``place`` is where the host keeps the folders of jobs."""
    spec = batch.spec
    workers = [list(spec.command)] if spec.command else _workers(spec, name, f"{place}/{name}")
    return {"name": name, "id": id, "cluster": batch.cluster, "workers": workers}


def _workers(spec: Spec, job: str, folder: str) -> list[list[str | None]]:
    spec = replace(spec, tls={key: f"{folder}/{key}" for key in spec.tls})
    return [[None, "-m", MODULE, *worker_arguments(spec, job, i)] for i in range(spec.shape.workers)]


def listed_by(said: Mapping[str, Any], label: str) -> Job:
    """A job as the agent of a host tells of it."""
    state = JobState(said["state"])
    reason = said["reason"] or (f"on {label}" if state is JobState.RUNNING else "")
    return Job(JobId(said["id"]), said["name"], state, reason, said["exit_code"])
