"""The result page, written from rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.report import markdown_table
from benchmarks.results.grid import BACKENDS, CERTAIN, INSTANT, KNOBS, MAXIMUM, OURS, THINK_S, TIME_VALUES
from benchmarks.results.scores import Duel, best_knobs, by, duel, mean, means_by, pick, ratio
from dask_adaptive.sim.trial import STATIC_BEST

__all__ = ["Findings", "page"]

Row = Mapping[str, Any]

GOALS = {"local": 1.08, "pods": 1.12, "cloud": 1.15, "queue": 1.45}
"""Geometric mean of the score that is wanted on the reported half."""

TRIED = Path(__file__).with_name("tried.md")
"""What was tried, told by hand."""

SHOWN = 20
"""Longest lists."""

PARTS_WORDS = (
    "A bound that is too low: it takes a graph as a whole, as if the tasks of a wide part could fill the time of a "
    "narrow one. Some graphs are several, one after the other (map-reduce, fork-join). The last columns are against a "
    "bound that takes them part by part, and is no less valid."
)


@dataclass(frozen=True)
class Findings:
    """What the page is written from.

    ``tuning``, ``reported``: rows of either half; rivals at other knobs than the default are in both, in the reported
    half at the best one of the tuning half. ``sessions``: rows of sessions; ``instant``: ours with jobs that serve at
    once; ``small``: (manager, time value, optimum, bound, what ours cost), one for each small graph. ``about``: how it
    was made, in lines.
    """

    tuning: Sequence[Row]
    reported: Sequence[Row]
    sessions: Sequence[Row]
    instant: Sequence[Row]
    small: Sequence[tuple[str, float, float, float, float]]
    about: Sequence[str]
    picture: str

    @property
    def cells(self) -> list[tuple[str, float]]:
        """Manager and time value."""
        found = {(row["backend"], row["time_value"]) for row in self.reported}
        return [(backend, value) for backend in BACKENDS for value in TIME_VALUES if (backend, value) in found]

    def knob(self, backend: str, value: float, rival: str) -> str:
        """The best one on the tuning half; "" is the default."""
        return self._knobs.get((backend, value, rival), "")

    @property
    def turned(self) -> list[bool]:
        """Whether rivals are at their best knob of the tuning half: first not, then they are, if other knobs ran."""
        return [False, True] if any(row["knob"] for row in self.tuning) else [False]

    @cached_property
    def _knobs(self) -> dict[tuple[str, float, str], str]:
        return best_knobs(self.tuning)


def page(found: Findings) -> str:
    """The page, in Markdown."""
    parts = [
        "\n".join(found.about),
        f"## What was wanted\n\n{_wanted(found)}",
        f"## Scores\n\n{_scores(found)}",
        f"## Against rivals\n\n{_rivals(found)}",
        f"## Application by application\n\n{_applications(found)}",
        f"## Where we lose\n\n{_losses(found)}",
        f"## What the gap to the bound is made of\n\n{_gap(found)}",
        f"## What was tried\n\n{TRIED.read_text(encoding='utf-8').strip()}",
        f"## Sessions with pauses\n\n{_sessions(found)}",
        f"## Beside the score\n\n{_beside(found)}",
        f"## The knobs of the rivals\n\n{_knobs(found)}",
    ]
    return "\n\n".join(parts) + "\n"


# --- what was wanted -------------------------------------------------------------------------------------------


def _wanted(found: Findings) -> str:
    body = [*_wanted_means(found), *_wanted_duels(found), *_wanted_worst(found), _wanted_sessions(found)]
    again = sum(row["recomputed"] for row in pick((*found.reported, *found.tuning), policy=OURS))
    body.append(("tasks computed twice", "0", str(again), again == 0))
    failed = [row for row in (*found.reported, *found.tuning, *found.sessions) if row["failure"]]
    words = sorted({f"{row['policy']} on {row['backend']}: {row['instance']}" for row in failed if row["failure"]})
    body.append(("runs that did not end", "0", ", ".join(words[:5]) or "0", not words))
    rows = [(what, goal, measured, "yes" if held else "**no**") for what, goal, measured, held in body]
    return markdown_table(("on the reported half", "wanted", "measured", "holds"), rows)


def _wanted_means(found: Findings) -> Iterator[tuple[str, str, str, bool]]:
    for backend, goal in GOALS.items():
        score = mean(pick(found.reported, policy=OURS, backend=backend))
        if score is not None:
            yield f"mean score, {backend}", f"at most {goal:.2f}", str(score), score.value <= goal


def _wanted_duels(found: Findings) -> Iterator[tuple[str, str, str, bool]]:
    for tuned in found.turned:
        words = "rivals at the knob best on the tuning half" if tuned else "rivals with their defaults"
        lost = [
            f"{rival} on {backend} at {value:g}: {part:.3f}"
            for backend, value in found.cells
            for rival in KNOBS
            if (part := ratio(*_sides(found, backend, value, rival, tuned=tuned))) is not None and part < 1
        ]
        count = f"{len(found.cells) * len(KNOBS) - len(lost)} of {len(found.cells) * len(KNOBS)} duels won"
        yield f"cheaper than {words}", "all", "; ".join([count, *lost[:8]]), not lost


def _wanted_worst(found: Findings) -> Iterator[tuple[str, str, str, bool]]:
    for backend in CERTAIN:
        score = mean(pick(found.reported, policy="oracle", backend=backend))
        if score is not None:
            where = f"{score.worst:.2f} ({_where(score.worst_row)})"
            yield f"worst score with true run times, {backend}", "below 2", where, score.worst < 2


def _wanted_sessions(found: Findings) -> tuple[str, str, str, bool]:
    ratios = _session_ratios(found)
    lost = [f"{backend}, {think}: {part:.2f}" for (backend, think), part in ratios.items() if part > 1.02]
    measured = "; ".join([f"{len(ratios) - len(lost)} of {len(ratios)}", *lost])
    return "sessions best, or within 2 % of the best", "all", measured, bool(ratios) and not lost


def _sides(
    found: Findings, backend: str, value: float, rival: str, *, tuned: bool
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Our rows and theirs."""
    rows = pick(found.reported, backend=backend, time_value=value)
    knob = found.knob(backend, value, rival) if tuned else ""
    return pick(rows, policy=OURS), pick(rows, policy=rival, knob=knob)


def _where(row: Row) -> str:
    return f"{row['instance']} at {row['time_value']:g}, seed {row['seed']}"


# --- tables ----------------------------------------------------------------------------------------------------


def _scores(found: Findings) -> str:
    policies = [OURS, "oracle", STATIC_BEST, *KNOBS]
    head = ("manager, time value", *policies)
    body = []
    for backend, value in found.cells:
        rows = pick(found.reported, backend=backend, time_value=value, knob="")
        scores = {policy: mean(pick(rows, policy=policy)) for policy in policies}
        causal = [score.value for policy, score in scores.items() if score and policy in (OURS, *KNOBS)]
        body.append((f"{backend}, {value:g}", *(_score_cell(scores[policy], min(causal)) for policy in policies)))
    text = (
        "Geometric means of J / J_LB over the reported half, rivals with their defaults; 1 is the bound. The best "
        f"policy that does not know the future is bold. `{STATIC_BEST}` and `oracle` know what nobody can know: the "
        "first the best fixed size for the very run, the second the true mean run times."
    )
    body_ours = []
    for backend, value in found.cells:
        score = mean(pick(found.reported, backend=backend, time_value=value, policy=OURS))
        if score:
            body_ours.append((f"{backend}, {value:g}", str(score), f"{score.worst:.2f}", _where(score.worst_row)))
    worst = markdown_table(("manager, time value", "mean (95 %)", "worst", "in"), body_ours)
    picture = f"![Scores by resource manager and time value]({found.picture})"
    return f"{text}\n\n{markdown_table(head, body)}\n\n{picture}\n\n`{OURS}` with its worst cases:\n\n{worst}"


def _score_cell(score: Any, best: float) -> str:
    if score is None:
        return ""
    return f"**{score.value:.2f}**" if score.value == best else f"{score.value:.2f}"


def _rivals(found: Findings) -> str:
    text = (
        f"What a rival costs in parts of what `{OURS}` costs, in pairs (same work, manager, seed); the geometric mean "
        "over the reported half, with its interval of 95 %. Above 1 ours is cheaper; below 1, in bold, the rival is."
    )
    parts = [text]
    for tuned in found.turned:
        words = "At the knob that is best on the tuning half" if tuned else "With their defaults"
        body = [
            (
                f"{backend}, {value:g}",
                *(_duel_cell(duel(*_sides(found, backend, value, rival, tuned=tuned))) for rival in KNOBS),
            )
            for backend, value in found.cells
        ]
        parts.append(f"{words}:\n\n{markdown_table(('manager, time value', *KNOBS), body)}")
    return "\n\n".join(parts)


def _duel_cell(fight: Duel | None) -> str:
    if fight is None:
        return ""
    ratio = f"{fight.ratio:.2f}" if fight.ratio >= 1 else f"**{fight.ratio:.3f}**"
    return f"{ratio} ({fight.low:.2f} to {fight.high:.2f})"


def _applications(found: Findings) -> str:
    backends = list(dict.fromkeys(backend for backend, _ in found.cells))
    parts = [f"Geometric mean of the score of `{OURS}` over time values and seeds, and of the best rival of each cell."]
    for words, rows in (("Reported", found.reported), ("Tuned on", found.tuning)):
        scores = means_by(pick(rows, knob=""), "application", "backend", "policy")
        names = sorted({application for application, _, _ in scores})
        body = [(name, *(_application_cell(scores, name, backend) for backend in backends)) for name in names]
        parts.append(markdown_table((words, *backends), body))
    return "\n\n".join(parts)


def _application_cell(scores: Mapping[tuple[Any, ...], float], name: str, backend: str) -> str:
    rivals = {rival: scores[name, backend, rival] for rival in KNOBS if (name, backend, rival) in scores}
    if (name, backend, OURS) not in scores or not rivals:
        return ""
    best = min(rivals, key=lambda rival: rivals[rival])
    mine = scores[name, backend, OURS]
    return (
        f"{mine:.2f}; {best} {rivals[best]:.2f}"
        if mine <= rivals[best]
        else f"**{mine:.2f}**; {best} {rivals[best]:.2f}"
    )


def _losses(found: Findings) -> str:
    lost: list[tuple[float, tuple[str, ...]]] = []
    for (application, backend, value), rows in by(found.reported, "application", "backend", "time_value").items():
        for rival in KNOBS:
            for knob in dict.fromkeys(("", found.knob(backend, value, rival))):
                part = ratio(pick(rows, policy=OURS), pick(rows, policy=rival, knob=knob))
                if part is not None and part < 0.98:
                    place = (application, f"{backend}, {value:g}", f"{rival} {f'({knob})' if knob else ''}".strip())
                    lost.append((part, place))
    lost.sort()
    if not lost:
        return "Nowhere by more than 2 %, on the reported half."
    where = len({place[:2] for _, place in lost})
    all_cells = len(by(pick(found.reported, policy=OURS), "application", "backend", "time_value"))
    text = (
        f"On {where} of {all_cells} combinations of application, manager and time value of the reported half some "
        "rival, with its defaults or tuned, is cheaper by more than 2 %. "
        f"The {min(SHOWN, len(lost))} largest of {len(lost)} losses:"
    )
    body = [(*place, f"{part:.2f}") for part, place in lost[:SHOWN]]
    return f"{text}\n\n{markdown_table(('application', 'manager, time value', 'rival', 'its cost / ours'), body)}"


# --- what the gap is made of -----------------------------------------------------------------------------------


def _gap(found: Findings) -> str:
    body = []
    for backend in dict.fromkeys(backend for backend, _ in found.cells):
        rows = pick(found.reported, backend=backend, knob="")
        scores = [mean(pick(rows, policy=policy)) for policy in (OURS, "oracle", STATIC_BEST)]
        in_parts = [{**row, "score": row["cost"] / row["parts_bound"]} for row in rows if not row["failure"]]
        scores += [mean(pick(in_parts, policy=policy)) for policy in (OURS, "oracle")]
        body.append((backend, *("" if score is None else f"{score.value:.3f}" for score in scores)))
    instant = mean(pick(found.instant, backend=INSTANT, policy=OURS))
    told = mean(pick(found.instant, backend=INSTANT, policy="oracle"))
    parts = [
        f"Estimation: `oracle` is the same policy with true mean run times. `{STATIC_BEST}` knows the best fixed size.",
        PARTS_WORDS,
        markdown_table(("manager", OURS, "oracle", STATIC_BEST, f"{OURS}, part by part", "oracle, so too"), body),
    ]
    if instant and told:
        parts.append(
            f"Latency: with jobs that serve at once the mean score of `{OURS}` on the reported half is "
            f"{instant.value:.3f}, with true run times {told.value:.3f}."
        )
    if found.small:
        parts.append(_looseness(found))
    return "\n\n".join(parts)


def _looseness(found: Findings) -> str:
    keys = list(dict.fromkeys((backend, value) for backend, value, *_ in found.small))
    body = []
    for key in keys:
        mine = [(best, bound, cost) for backend, value, best, bound, cost in found.small if (backend, value) == key]
        loose = [best / bound for best, bound, _ in mine]
        scores, regrets = [cost / bound for _, bound, cost in mine], [cost / best for best, _, cost in mine]
        numbers = (_mean(loose), max(loose), _mean(scores), _mean(regrets))
        body.append((f"{key[0]}, {key[1]:g}", *(f"{number:.3f}" for number in numbers)))
    text = (
        f"Looseness of the bound: on {len(found.small) // max(1, len(keys))} small graphs of 7 tasks of 1 to 4 s the "
        "optimum itself can be found. On large graphs it cannot; that the bound is tight here says little about them."
    )
    head = ("manager, time value", "optimum / bound", "largest", f"{OURS} / bound", f"{OURS} / optimum")
    return f"{text}\n\n{markdown_table(head, body)}"


def _mean(values: Iterable[float]) -> float:
    return statistics.geometric_mean(values)


# --- sessions and the rest -------------------------------------------------------------------------------------


def _session_ratios(found: Findings) -> dict[tuple[str, str], float]:
    """Ours in parts of the best policy that does not know the future."""
    scores = means_by(pick(found.sessions), "backend", "instance", "policy", "knob")
    ratios = {}
    for backend in BACKENDS:
        for think_s in THINK_S:
            name = f"session-{think_s:g}"
            causal = [
                score
                for (where, what, policy, _), score in scores.items()
                if (where, what) == (backend, name) and policy in (OURS, *KNOBS)
            ]
            if (backend, name, OURS, "") in scores:
                ratios[backend, name] = scores[backend, name, OURS, ""] / min(causal)
    return ratios


def _sessions(found: Findings) -> str:
    ratios = _session_ratios(found)
    scores = means_by(pick(found.sessions, knob=""), "backend", "instance", "policy")
    policies = [OURS, STATIC_BEST, *KNOBS]
    body = [
        (f"{backend}, {name.removeprefix('session-')} s", f"{part:.2f}", *_cells(scores, backend, name, policies))
        for (backend, name), part in ratios.items()
    ]
    text = (
        "Eight graphs, and somebody who thinks between them for as long as the first column says. Geometric means of "
        "the score over time values and seeds, rivals with their defaults; *ours / best* is against the best of all "
        "that do not know the future, also at the knobs that are best on the tuning half."
    )
    return f"{text}\n\n{markdown_table(('manager, pause', 'ours / best', *policies), body)}"


def _cells(scores: Mapping[tuple[Any, ...], float], backend: str, name: str, policies: Sequence[str]) -> list[str]:
    found = [scores.get((backend, name, policy)) for policy in policies]
    return ["" if score is None else f"{score:.2f}" for score in found]


def _beside(found: Findings) -> str:
    body = []
    for backend in dict.fromkeys(backend for backend, _ in found.cells):
        for policy in (OURS, "oracle", STATIC_BEST, *KNOBS):
            rows = pick(found.reported, backend=backend, policy=policy, knob="")
            if not rows:
                continue
            names = ("waited_s", "billed_worker_seconds", "starts", "cancelled", "rounds")
            means = [statistics.fmean(row[name] for row in rows) for name in names]
            again = sum(row["recomputed"] for row in rows)
            body.append((f"{backend}, {policy}", *(f"{number:.0f}" for number in means), str(again)))
    head = ("manager, policy", "waited s", "billed worker-s", "starts", "cancelled", "rounds", "computed twice")
    return f"Means over the reported half, rivals with their defaults.\n\n{markdown_table(head, body)}"


def _knobs(found: Findings) -> str:
    if True not in found.turned:
        return f"At most {MAXIMUM} workers for everybody. Rivals ran with their defaults only."
    first = {rival: next(iter(knobs)) or "none" for rival, knobs in KNOBS.items()}
    body = [
        (f"{backend}, {value:g}", *(found.knob(backend, value, rival) or first[rival] for rival in KNOBS))
        for backend, value in found.cells
    ]
    text = (
        f"At most {MAXIMUM} workers for everybody. For each manager and time value, the knob with the best mean on the "
        "tuning half, out of: "
    )
    tried = "; ".join(f"`{rival}`: {', '.join(knobs) or 'none'}" for rival, knobs in KNOBS.items() if len(knobs) > 1)
    return f"{text}{tried}.\n\n{markdown_table(('manager, time value', *KNOBS), body)}"
