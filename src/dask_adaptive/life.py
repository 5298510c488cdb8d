"""The life of a job: what each piece of news does to it. Pure; the controller's actuator brings the news.

    WANTED ──> SUBMITTED ──> QUEUED ──> STARTING ──> READY ──> DRAINING ──> ENDING ──> GONE
       │            │           │           │          │ ↑          │          ↑
       │            └───────────┴───────────┴──────────┼─┼──────────┼──────────┤  told to end
       │            │           │           │          │ └──────────┘          │  drain refused
       ├────────────┴───────────┴───────────┴──────────┴──> FAILED (ended before serving, or with an error)
       └──> UNKNOWN ──> any that the manager shows; FAILED at its deadline

* QUEUED and beyond come from the resource manager (or from workers that registered), never from our own submit.
* Phases only move forward, whatever an older list says. The four ways back are facts of their own: a drain that was
  refused (DRAINING to READY), a cancel without effect (ENDING to READY, when the workers of a job that never served
  register), a requeued job (STARTING, READY or ENDING to QUEUED, once none of its workers is registered, and if nobody
  told it to end), and a job that reappears after it was believed gone (GONE to what the manager shows).
* A job of which only a part of the workers registered in time is drained, never cut off (STARTING to DRAINING); if that
  is refused it serves with what it has (READY).
* A job is GONE only when the manager says that it ended, or when complete lists have not shown it for as long as those
  lists may lag, and none of its workers is registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dask_adaptive.model import Job, JobId, JobState, Life, Phase

__all__ = [
    "ALLOWED",
    "accepted",
    "cancelled",
    "drained",
    "draining",
    "expired",
    "kept",
    "listed",
    "refused",
    "registered",
    "unlisted",
    "unsure",
    "wanted",
]

W, S, Q, T, R = Phase.WANTED, Phase.SUBMITTED, Phase.QUEUED, Phase.STARTING, Phase.READY
D, E, G, F, U = Phase.DRAINING, Phase.ENDING, Phase.GONE, Phase.FAILED, Phase.UNKNOWN

ALLOWED: Mapping[Phase, frozenset[Phase]] = {
    W: frozenset({S, Q, T, R, F, U}),
    S: frozenset({Q, T, R, E, G, F}),
    Q: frozenset({T, R, E, G, F}),
    T: frozenset({Q, R, D, E, G, F}),
    R: frozenset({Q, D, E, G, F}),
    D: frozenset({R, E, G}),
    E: frozenset({Q, R, G}),
    G: frozenset({Q, T, R, E}),
    F: frozenset({Q, T, R, E}),
    U: frozenset({Q, T, R, E, G, F}),
}
"""Every transition that there is."""

_OVER = (G, F)

MOVED_S = 60.0
"""What the manager says of the end of a job is taken again if it differs by more than this."""


def _move(life: Life, phase: Phase, now_s: float, **news: Any) -> Life:
    if phase is life.phase:
        return replace(life, **news) if any(getattr(life, k) != v for k, v in news.items()) else life
    if phase not in ALLOWED[life.phase]:
        raise ValueError(f"job {life.name}: no way from {life.phase.value} to {phase.value}")
    return replace(life, phase=phase, since_s=now_s, **news)


def wanted(name: str, pool: str, now_s: float) -> Life:
    """A job that the plan asks for; its submit is in flight."""
    return Life(name=name, pool=pool, phase=W, since_s=now_s, wanted_s=now_s)


def accepted(life: Life, id: JobId, now_s: float) -> Life:
    """The manager took the submit and gave this id."""
    if life.phase is W:
        return _move(life, S, now_s, id=id, submitted_s=now_s)
    return replace(life, id=id, submitted_s=life.submitted_s or now_s) if life.id is None else life


def refused(life: Life, reason: str, now_s: float) -> Life:
    """The submit surely started nothing."""
    return _move(life, F, now_s, reason=reason) if life.phase in (W, U) else life


def unsure(life: Life, reason: str, deadline_s: float, now_s: float) -> Life:
    """The submit may have started something: the job keeps its place until it is listed, or until the deadline."""
    return _move(life, U, now_s, reason=reason, deadline_s=deadline_s) if life.phase is W else life


def registered(life: Life, present: int, workers: int, now_s: float) -> Life:
    """``present`` of its ``workers`` Dask workers are registered with the scheduler now."""
    late = life.phase is E and not life.served  # the cancel failed: now it may have work, and is not to be cut off
    arrives = present >= workers and (late or life.phase in (W, S, Q, T, U, *_OVER))
    whole = life.phase is R and not life.served and present >= workers  # the rest may have come during a drain
    if present == life.present and not (arrives or whole):
        return life
    serves = life.served or life.phase is R  # a part of them may be all that ever came
    lost = serves and present < workers
    news: dict[str, Any] = {"present": present, "lost_s": life.lost_s or now_s if lost else 0.0}
    news["served"] = life.served or whole
    if arrives:
        news |= {"served": True, "ready_s": now_s, "running_s": life.running_s or now_s, "missing_s": 0.0, "reason": ""}
        return _move(life, R, now_s, **news, told=life.told and not late)
    return replace(life, **news)


def listed(life: Life, job: Job, now_s: float, deadline_s: float = 0.0) -> Life:
    """The manager shows the job. ``deadline_s``: when an ending job is told to end again."""
    life = _seen(life, job, now_s)
    if job.state is JobState.ENDED:
        return _ended(life, job, now_s)
    if job.state is JobState.ENDING:
        if life.phase in (S, Q, T, R, D, U, *_OVER):
            return _move(life, E, now_s, reason=job.reason, deadline_s=deadline_s)
        return life
    if job.state is JobState.QUEUED:
        return _queued(life, job, now_s)
    return _running(life, job, now_s)


def _seen(life: Life, job: Job, now_s: float) -> Life:
    news: dict[str, Any] = {"listed": True, "missing_s": 0.0, "id": job.id}
    if job.exit_code is not None:
        news["exit_code"] = job.exit_code
    if job.left_s is not None and job.state is JobState.RUNNING:
        ends_s = now_s + job.left_s
        if not life.ends_s or abs(ends_s - life.ends_s) > MOVED_S:  # a limit that was changed, a machine that slept
            news["ends_s"] = ends_s
    return replace(life, **news) if any(getattr(life, k) != v for k, v in news.items()) else life


def _back(life: Life, now_s: float) -> Life:
    """A job that we told to end and believed gone shows again: it has to be told again, at once."""
    return _move(life, E, now_s, deadline_s=now_s)


def _queued(life: Life, job: Job, now_s: float) -> Life:
    if life.told and life.phase in _OVER:
        return _back(life, now_s)
    requeued = (life.phase in (T, R, *_OVER) or (life.phase is E and not life.told)) and life.present == 0
    if life.phase in (W, S, U) or requeued:
        fresh = {"running_s": 0.0, "ready_s": 0.0, "ends_s": 0.0, "submitted_s": life.submitted_s or now_s}
        return _move(life, Q, now_s, reason=job.reason, **fresh)
    return _reasoned(life, job.reason) if life.phase is Q else life


def _running(life: Life, job: Job, now_s: float) -> Life:
    if life.told and life.phase in _OVER:
        return _back(life, now_s)
    if life.phase in (W, S, Q, U, *_OVER):
        news = {"reason": job.reason, "running_s": now_s, "submitted_s": life.submitted_s or now_s}
        return _move(life, T, now_s, **news)
    return _reasoned(life, job.reason) if life.phase is T else life


def _reasoned(life: Life, reason: str) -> Life:
    return life if reason == life.reason else replace(life, reason=reason)


def _ended(life: Life, job: Job, now_s: float) -> Life:
    if life.phase in _OVER:
        return life
    asked = life.phase in (D, E)
    if asked or (life.served and not job.exit_code):
        why = life.reason or job.reason if life.told else job.reason or life.reason
        return _move(life, G, now_s, reason=why or "ended", present=0)
    why = job.reason or (
        f"ended with exit code {job.exit_code}" if life.served else "ended before its workers registered"
    )
    return _move(life, F, now_s, reason=why, present=0)


def unlisted(life: Life, lag_s: float, now_s: float) -> Life:
    """A complete list, asked for after the last news, does not show the job."""
    if life.phase in (W, *_OVER) or life.present:
        return life
    if life.phase is U:
        return life
    if not life.missing_s:
        life = replace(life, missing_s=now_s)
    recent = max(life.missing_s, life.submitted_s, life.since_s if life.phase is E else 0.0)
    if now_s - recent < lag_s:
        return life
    if life.phase in (D, E) or life.served:
        return _move(life, G, now_s, reason=life.reason or "no longer listed")
    return _move(life, F, now_s, reason="vanished from the manager's list before its workers registered")


def expired(life: Life, now_s: float) -> Life:
    """The deadline of an unknown submit: nothing was ever listed, so it did not happen."""
    if life.phase is U and now_s >= life.deadline_s:
        return _move(life, F, now_s, reason=f"{life.reason}; never listed")
    return life


def draining(life: Life, reason: str, now_s: float) -> Life:
    """Dask is asked to take its workers out of service."""
    partly = life.phase is T and life.present
    return _move(life, D, now_s, reason=reason) if life.phase is R or partly else life


def kept(life: Life, reason: str, now_s: float) -> Life:
    """The drain was refused; the job serves on, perhaps with a part of its workers."""
    if life.phase is not D:
        return life
    return _move(life, R, now_s, reason=reason, lost_s=life.lost_s if life.served else now_s)


def drained(life: Life, deadline_s: float, now_s: float) -> Life:
    """Its workers were closed; the job ends by itself, or is cancelled at the deadline."""
    return _move(life, E, now_s, deadline_s=deadline_s, told=True) if life.phase is D else life


def cancelled(life: Life, reason: str, deadline_s: float, now_s: float) -> Life:
    """The manager is told to end it; told again at the deadline if it still shows then."""
    if life.phase in (W, *_OVER):
        return life
    return _move(life, E, now_s, reason=reason, deadline_s=deadline_s, told=True)
