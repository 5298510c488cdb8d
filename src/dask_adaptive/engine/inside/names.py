"""Every name of ``distributed`` that is not public API and that the plug-in uses."""

from __future__ import annotations

from typing import Any

from distributed.active_memory_manager import ActiveMemoryManagerExtension
from distributed.scheduler import TaskGroup, TaskPrefix, TaskState, WorkerState

__all__ = ["NAMES", "missing_names"]

NAMES = (
    ("scheduler", "workers", "registered workers by address"),
    ("scheduler", "running", "those that take tasks"),
    ("scheduler", "tasks", "tasks by key, read for restrictions when a graph arrives"),
    ("scheduler", "task_groups", "counts per group"),
    ("scheduler", "queued", "tasks that wait for a thread"),
    ("scheduler", "unrunnable", "tasks that no worker may run"),
    ("scheduler", "replicated_tasks", "results with more than one copy"),
    ("scheduler", "transition_counter", "did anything happen?"),
    ("scheduler", "total_nthreads", "threads of all workers"),
    ("scheduler", "_task_prefix_count_global", "tasks on workers, without the seceded ones"),
    ("scheduler", "_replica_lock", "keeps replicate and rebalance out while a worker is removed"),
    ("scheduler", "plugins", "who else is there; the running shuffles"),
    ("scheduler", "extensions", "work stealing"),
    ("scheduler", "handlers", "our calls, and the scatter call that we wrap"),
    ("scheduler", "stream_comms", "messages to workers"),
    ("scheduler", "valid_workers", "which workers may run a task"),
    ("scheduler", "handle_worker_status_change", "stop giving tasks to a worker"),
    ("scheduler", "remove_worker", "end a drained worker"),
    ("worker", "processing", "is it busy?"),
    ("worker", "long_running", "seceded tasks"),
    ("worker", "executing", "what runs since when, from heartbeats"),
    ("worker", "actors", "actors cannot move"),
    ("worker", "has_what", "results held"),
    ("worker", "nbytes", "bytes of them"),
    ("worker", "metrics", "memory of the process, from heartbeats"),
    ("worker", "memory_limit", "room for results"),
    ("worker", "status", "paused or closing"),
    ("task", "who_has", "copies of a result"),
    ("task", "who_wants", "clients that want a result"),
    ("task", "processing_on", "where a task is"),
    ("task", "group", "group of a task"),
    ("task", "resource_restrictions", "resources that a task takes"),
    ("task", "worker_restrictions", "workers that a task is pinned to"),
    ("task", "host_restrictions", "hosts that a task is pinned to"),
    ("task", "loose_restrictions", "whether others may run it too"),
    ("group", "states", "tasks per state"),
    ("group", "dependencies", "groups that it waits for"),
    ("group", "nbytes_total", "bytes that it produced"),
    ("prefix", "state_counts", "how often a task reached memory"),
    ("prefix", "all_durations", "seconds spent computing"),
    ("prefix", "duration_average", "first guess of a run time"),
    ("stealing", "in_flight", "tasks on the move between workers"),
    ("stealing", "move_task_request", "move a waiting task"),
    ("scheduler", "periodic_callbacks", "whether work stealing goes on"),
    ("stealing", "balance", "give waiting tasks to workers that just came"),
    ("amm", "add_policy", "move results off a worker"),
    ("amm", "run_once", "the same, at once"),
)
"""Every name of ``distributed`` that its documentation does not promise: owner, name, what for. Probed at start."""


def missing_names(scheduler: Any) -> list[str]:
    """Those of ``NAMES`` that this scheduler does not have, with what they are for."""
    owners = {
        "scheduler": scheduler,
        "worker": WorkerState,
        "task": TaskState,
        "group": TaskGroup,
        "prefix": TaskPrefix,
        "stealing": scheduler.extensions.get("stealing") if hasattr(scheduler, "extensions") else None,
        "amm": ActiveMemoryManagerExtension,
    }
    return [
        f"{owner}.{name} ({why})"
        for owner, name, why in NAMES
        if owners[owner] is not None and not hasattr(owners[owner], name)
    ]
