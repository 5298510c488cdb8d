"""What has to end although no policy asked for it: jobs that do not serve, or do not go. Pure."""

from __future__ import annotations

from dask_adaptive.model import Cancel, Life, Phase, Plan, Retire, Snapshot, Timeouts

__all__ = ["overdue"]

_WATCHED = (Phase.STARTING, Phase.ENDING)


def overdue(snapshot: Snapshot) -> Plan:
    """Every job whose time ran out, with the reason in words and numbers.

    A job that lost a part of its workers for good is retired: what the others do and hold is not cut off. Nothing is
    overdue while the job list of its pool cannot be trusted: then we do not know.
    """
    cancels: list[Cancel] = []
    retires: list[Retire] = []
    ready = Phase.READY
    for life in snapshot.lives.values():
        if life.phase is ready:  # nearly all of them: this line is what ten thousand jobs cost
            if not life.lost_s:
                continue
        elif life.phase not in _WATCHED:
            continue
        state = snapshot.pools[life.pool]
        reason = "" if state.stale else _why(life, state.timeouts, snapshot.at_s)
        if reason and life.phase in (ready, Phase.STARTING) and life.present:
            retires.append(Retire(life.name, reason, busy=True))
        elif reason:
            cancels.append(Cancel(life.name, reason))
    return Plan(retires=tuple(retires), cancels=tuple(cancels))


def _why(life: Life, timeouts: Timeouts, now_s: float) -> str:
    if life.phase is Phase.STARTING and now_s - life.running_s > timeouts.start_s:
        came = f"only {life.present} of its workers registered" if life.present else "its workers did not register"
        return f"{came} within {timeouts.start_s:g} s of its start"
    if life.phase is Phase.READY and now_s - life.lost_s > timeouts.lost_s:
        if not life.present:
            return f"its workers left the scheduler {now_s - life.lost_s:.0f} s ago"
        if now_s - life.since_s > timeouts.lost_s:  # else it refused to be drained a moment ago
            return f"only {life.present} of its workers are left since {now_s - life.lost_s:.0f} s"
    if life.phase is Phase.ENDING and now_s >= life.deadline_s:
        return life.reason or f"it did not end within {timeouts.end_s:g} s"
    return ""
