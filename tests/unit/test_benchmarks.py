"""The benchmarks count what they say they count."""

import asyncio
import itertools
import math
import random

import pytest
from benchmarks import simulator
from benchmarks.hindsight import best_response, hindsight_words
from benchmarks.live import Bill, Case, Cell, billed_s, measure, size_over_time, starting_s
from benchmarks.promises import live_promises
from benchmarks.report import rows
from benchmarks.rivals import MAXIMUM, RIVALS
from benchmarks.run import arguments
from benchmarks.shapes import SHAPES, Session, Workload, nap


async def run(shape, *, cool_down_s=0.1, limit_s=60.0):
    case = Case("tiny", "maximum", 0.05)
    workload = Workload("tiny", "", shape)
    return await measure(case, workload, RIVALS["maximum"], cool_down_s=cool_down_s, limit_s=limit_s)


async def test_a_run_counts_responses_workers_and_executions():
    async def shape(session: Session) -> None:
        await session.answer("first", 3 * [0.05])
        await session.answer("second", [0.05])

    cell = await run(shape)

    assert ("", MAXIMUM, 0) == (cell.failure, cell.starts, cell.repeated)
    assert cell.response_s >= 0.1
    assert cell.starting_s >= MAXIMUM * 0.05
    assert cell.worker_s >= cell.starting_s + MAXIMUM * 0.1
    assert MAXIMUM == cell.size[-1][1]


async def test_a_repeated_execution_is_counted():
    async def shape(session: Session) -> None:
        for _ in range(2):
            future = session.client.submit(nap, 0.01, key="same")
            await session.results([future])
            future.release()
            while await session.client.run_on_scheduler(knows, "same"):  # noqa: ASYNC110  the scheduler has no event for it
                await asyncio.sleep(0.01)

    assert 1 == (await run(shape)).repeated


def knows(key, dask_scheduler):
    return key in dask_scheduler.tasks


async def test_a_failure_is_a_row_and_not_the_end():
    async def shape(session: Session) -> None:
        await session.answer("wrong", ["no number"])

    assert "TypeError" in (await run(shape)).failure


async def test_a_hang_is_a_row_and_not_the_end():
    async def shape(session: Session) -> None:
        await session.answer("nowhere", [0.1], resources={"UNKNOWN": 1})

    assert "no result within 1 s" == (await run(shape, limit_s=1.0)).failure


def test_a_worker_is_billed_from_the_request_until_it_is_closed():
    bills = [Bill(10.0, 13.0, 20.0), Bill(12.0, 15.0, None), Bill(29.0, None, None)]

    assert 10.0 + 18.0 + 1.0 == billed_s(bills, 30.0)
    assert 3.0 + 3.0 + 1.0 == starting_s(bills, 30.0)
    assert ((0.0, 1), (2.0, 2), (10.0, 1), (19.0, 2)) == size_over_time(bills, 10.0)


def cell(rival, repeat=0, **values):
    return Cell(Case("burst", rival, 0.0, repeat), **{"response_s": 10.0, "worker_s": 100.0, "starts": 8, **values})


def test_ratios_are_paired_by_repeat():
    cells = [
        cell("dask", 0, response_s=10.0),
        cell("dask", 1, response_s=20.0),
        cell("ours", 0, response_s=5.0),
        cell("ours", 1, response_s=18.0),
    ]

    [_, ours] = rows(cells)

    assert (0.7, 0.5, 0.9) == pytest.approx((ours.response.median, ours.response.low, ours.response.high))


def missed(rival, **values):
    good = {"response_s": 6.0, "worker_s": 90.0, "starts": 7, "first_request_s": 0.05}
    tuned = cell("dask-tuned", response_s=6.0, worker_s=120.0)
    promises = list(live_promises(rows([cell("dask"), tuned, cell(rival, **{**good, **values})])))
    assert all(promise.text.startswith(f"`{rival}`: ") for promise in promises)
    return [promise.text.removeprefix(f"`{rival}`: ") for promise in promises if not promise.held]


@pytest.mark.parametrize("rival", ["target-duration", "ours"])
def test_a_missed_promise_is_said(rival):
    assert [] == missed(rival)
    assert ["no task executed twice"] == missed(rival, repeated=1)
    assert ["first worker asked for within 200 ms of the first graph"] == missed(rival, first_request_s=0.3)
    assert ["no shape slower than 1.1 times `dask`"] == missed(rival, response_s=11.5)[:1]
    assert ["every shape ends with its results"] == missed(rival, failure="no result within 90 s")[:1]


def test_what_the_rule_of_dask_without_its_faults_has_to_hold():
    assert ["no shape dearer in worker-seconds than 1.1 times `dask`"] == missed("target-duration", worker_s=111.0)
    assert ["geometric mean of response at most 0.8 times `dask`"] == missed("target-duration", response_s=8.5)
    fewer = [f"fewer starts than `dask` in {what}" for what in ("all", "the geometric mean")]
    assert fewer == missed("target-duration", starts=8)


def test_what_the_default_policy_has_to_hold_against_dask_and_against_dask_tuned_by_hand():
    slow = [("dask", 0.66), ("dask-tuned", 1.05)]
    assert [f"geometric mean of response at most {most} times `{name}`" for name, most in slow] == missed(
        "ours", response_s=7.0
    )
    dear = [("dask", 0.95), ("dask-tuned", 0.8)]
    assert [f"geometric mean of worker-seconds at most {most} times `{name}`" for name, most in dear] == missed(
        "ours", worker_s=100.0
    )
    assert 4 == len(missed("ours", starts=8))


def test_the_range_of_a_mean_is_that_of_the_repeats():
    mine, theirs = (6.0, 5.0, 5.5), (10.0, 10.0, 10.0)
    cells = [cell("dask", each, response_s=took_s) for each, took_s in enumerate(theirs)]
    cells += [cell("ours", each, response_s=took_s, first_request_s=0.1) for each, took_s in enumerate(mine)]

    [mean] = [promise for promise in live_promises(rows(cells)) if "response" in promise.text]

    assert "0.550 (0.500 to 0.600)" == mean.measured


def test_the_best_choice_in_hindsight_is_that_of_trying_all():
    rng = random.Random(1)
    shapes, rivals = ("a", "b", "c", "d"), ("dask", "x", "y")
    cells = {
        (shape, rival): Cell(
            Case(shape, rival, 0.0), response_s=rng.uniform(1, 9), worker_s=1.0, starts=rng.randint(1, 9)
        )
        for shape in shapes
        for rival in rivals
    }
    choices = [list(zip(shapes, picked, strict=True)) for picked in itertools.product(rivals, repeat=len(shapes))]
    theirs = sum(cells[shape, "dask"].starts for shape in shapes)
    fewer = [chosen for chosen in choices if sum(cells[pair].starts for pair in chosen) < theirs]
    means = [
        math.prod(cells[pair].response_s / cells[pair[0], "dask"].response_s for pair in chosen) ** (1 / len(shapes))
        for chosen in fewer
    ]
    assert 0 < len(fewer) < len(choices)
    table = rows(cells.values())
    assert pytest.approx(min(means)) == best_response(table)
    assert f"a response of {min(means):.3f}" in hindsight_words(table)


def test_there_is_no_choice_where_nobody_has_fewer_starts():
    assert best_response(rows([cell("dask"), cell("ours", response_s=1.0, starts=8)])) is None
    assert "" == hindsight_words(rows([cell("dask", starts=8)]))


def test_unknown_names_are_refused_and_the_known_ones_listed(capsys):
    with pytest.raises(SystemExit):
        arguments(["--shapes", "brust"])

    said = capsys.readouterr().err
    assert all(name in said for name in SHAPES)


def test_the_benchmark_of_the_simulator_runs_every_task():
    took_s, outcome = simulator.measure(200, 5)

    assert 200 + 10 + 1 == outcome.tasks
    assert 5 == outcome.most_threads
    assert took_s > 0
