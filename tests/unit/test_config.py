"""What cannot be is refused in one sentence that names the key, before anything is started."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest

from dask_adaptive import Cluster, ConfigError, LocalCluster
from dask_adaptive.config import Bounds, bytes_of, count_of, limits_of, scaling_of, seconds_of, setting
from dask_adaptive.model import Limits, Shape
from dask_adaptive.options import pool_options, timeouts

NAN = float("nan")
INF = float("inf")
TWO = Shape(workers=2, threads=3, memory_bytes=10**9)


def refusal(ask: Callable[[], Any]) -> str:
    """The one sentence of the refusal."""
    with pytest.raises(ConfigError) as caught:
        ask()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence
    return sentence


# --- plain values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 1.5, NAN, INF, -INF, True, "3", None, [], 2.0000001])
def test_a_count_is_a_whole_number_from_nought_on(value: object) -> None:
    assert "n_workers must be" in refusal(lambda: count_of("n_workers", value))


def test_counts_that_can_be() -> None:
    assert [0, 3, 7] == [count_of("n", value) for value in (0, 3.0, 7)]
    assert "at least 1" in refusal(lambda: count_of("threads", 0, least=1))


@pytest.mark.parametrize("value", ["32 gigs", "GB", "", "-1 GB", -1, NAN, INF, "nan", "inf", None, [1], "1 GB 2"])
def test_a_size_is_a_finite_number_of_bytes(value: object) -> None:
    assert "memory must be" in refusal(lambda: bytes_of("memory", value))


def test_sizes_that_can_be() -> None:
    assert [0, 5, 4_000_000_000, 2**29] == [bytes_of("memory", value) for value in (0, 5, "4 GB", "512 MiB")]


@pytest.mark.parametrize("value", ["soon", -1, "-1s", NAN, INF, "5 parsecs", None, [1]])
def test_a_duration_is_a_finite_number_of_seconds(value: object) -> None:
    assert "interval must be" in refusal(lambda: seconds_of("interval", value))


def test_durations_that_can_be() -> None:
    assert [0.5, 7200.0, 3.0] == [seconds_of("interval", value) for value in ("500 ms", "2h", 3)]
    assert "above 0" in refusal(lambda: seconds_of("interval", 0, positive=True))


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "minimum", "maximum"),
    [
        ({"minimum": 3, "maximum": 5}, 2, 2),
        ({"minimum": 0, "maximum": 2}, 0, 1),
        ({"minimum_jobs": 3, "maximum_jobs": 5}, 3, 5),
        ({"minimum_cores": 7, "maximum_cores": 17}, 2, 2),
        ({"minimum_memory": "3 GB", "maximum_memory": "5 GB"}, 2, 2),
        ({"minimum": 1, "minimum_cores": 13, "maximum": 20, "maximum_jobs": 7}, 3, 7),
        ({"maximum": INF}, 0, None),
        ({"maximum": 0}, 0, 0),
        ({}, 0, 10),
        ({"minimum": 50}, 25, 25),
    ],
)
def test_minima_are_rounded_up_to_jobs_and_maxima_down(said: dict[str, Any], minimum: int, maximum: int | None) -> None:
    assert Limits(minimum, maximum) == limits_of(Bounds(**said), TWO, 10)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"minimum": 5, "maximum": 2}, "minimum=5 (3 jobs) is above maximum=2 (1 job)"),
        ({"minimum": 3, "maximum": 3}, "minimum=3 (2 jobs) is above maximum=3 (1 job)"),
        ({"maximum": 1}, "maximum=1 is less than one job"),
        ({"maximum_cores": 5}, "maximum_cores=5 is less than one job"),
        ({"maximum_memory": "1 GB"}, "maximum_memory='1 GB' is less than one job"),
        ({"minimum": INF}, "minimum"),
        ({"minimum": NAN}, "minimum"),
        ({"maximum": NAN}, "maximum"),
        ({"maximum": -1}, "maximum must be at least 0"),
        ({"maximum": -INF}, "maximum"),
        ({"minimum_memory": "32 gigs"}, "minimum_memory must be a size"),
        ({"maximum": "many"}, "maximum must be a whole number"),
    ],
)
def test_limits_that_cannot_be(said: dict[str, Any], words: str) -> None:
    assert words in refusal(lambda: limits_of(Bounds(**said), TWO, 10))


def test_limits_in_memory_need_workers_with_a_limit() -> None:
    sentence = refusal(lambda: limits_of(Bounds(maximum_memory="4 GB"), Shape(), None))
    assert "maximum_memory needs workers with a memory limit" in sentence


# --- options of adapt and of the configuration --------------------------------------------------------------------


def test_options_come_from_dasks_configuration() -> None:
    with dask.config.set(
        {
            "distributed.adaptive.interval": "200 ms",
            "distributed.adaptive.wait-count": 15,
            "distributed.adaptive.target-duration": "1s",
        }
    ):
        scaling = scaling_of()
        assert (0.2, 1.0) == (scaling.interval_s, scaling.target_duration_s)
        assert math.isclose(3.0, scaling.wait_s)
        assert (2.0, 30.0) == (scaling_of(interval=2).interval_s, scaling_of(interval=2).wait_s)


@pytest.mark.parametrize(
    "wrong", [{"interval": 0}, {"interval": -1}, {"wait_count": 1.5}, {"wait_count": -1}, {"target_duration": "soon"}]
)
def test_options_of_adapt_that_cannot_be(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    assert key in refusal(lambda: scaling_of(**wrong))


def test_an_unknown_configuration_key_is_named_with_the_nearest_known_one() -> None:
    with dask.config.set({"adaptive.start-timout": "1s"}):
        sentence = refusal(lambda: setting("policy"))
    assert "adaptive.start-timout" in sentence
    assert "did you mean 'start-timeout'?" in sentence


@pytest.mark.parametrize("value", [3, "policy", ["policy"]])
def test_our_configuration_is_a_mapping(value: object) -> None:
    with dask.config.set({"adaptive": value}):
        assert "must be a mapping" in refusal(lambda: setting("policy"))


def test_a_configured_value_that_cannot_be_is_named_by_its_key() -> None:
    with dask.config.set({"adaptive.start-timeout": "soon"}):
        assert "adaptive.start-timeout must be a duration" in refusal(timeouts)
    with dask.config.set({"adaptive.end_timeout": "7s"}):
        assert 7.0 == timeouts().end_s


# --- pools --------------------------------------------------------------------------------------------------------


def test_what_is_said_for_a_pool_overrides_what_is_said_for_all() -> None:
    found = pool_options({"cpu": {}, "gpu": {"gpus": 2, "threads": 1, "maximum": 4}}, {"threads": 8})
    assert Shape(threads=8) == found["cpu"].shape()
    assert Shape(threads=1, resources={"GPU": 2.0}) == found["gpu"].shape()
    assert Limits(0, 4) == found["gpu"].pool("gpu").limits


@pytest.mark.parametrize(
    ("pools", "given", "words"),
    [
        (None, {"thread": 1}, "did you mean 'threads'?"),
        ({"gpu": {"gpu": 1}}, {}, "did you mean 'gpus'?"),
        ({}, {}, "at least one pool"),
        (["cpu", "gpu"], {}, "must map a name"),
        ({"gpu": 3}, {}, "gpu"),
        (None, {"threads": 0}, "threads must be at least 1"),
        (None, {"workers_per_job": 0}, "workers_per_job must be at least 1"),
        (None, {"memory": "32 gigs"}, "memory must be a size"),
        (None, {"gpus": -1}, "gpus must be at least 0"),
        (None, {"price": -1}, "price must be a finite number"),
        (None, {"resources": {"A": NAN}}, "resources['A'] must be a finite number"),
        (None, {"resources": 3}, "resources must map"),
        (None, {"environment": "A=1"}, "environment must map"),
        (None, {"maximum": 1, "workers_per_job": 2}, "less than one job"),
        (None, {"minimum": 4, "maximum": 2}, "above maximum=2"),
        (None, {"resources": {"a b": 1}}, "without spaces, commas or '='"),
        (None, {"local_directory": 7}, "local_directory must be a path"),
        (None, {"preload": 7}, "preload must be a list of words"),
        (None, {"worker_arguments": "--lifetime 5s"}, "worker_arguments must be a list of words"),
        (None, {"death_timeout": "soon"}, "death_timeout must be a duration"),
        (None, {"death_timeout": 0}, "death_timeout must be a finite duration above 0"),
    ],
)
def test_pools_that_cannot_be(pools: Any, given: dict[str, Any], words: str) -> None:
    assert words in refusal(lambda: pool_options(pools, given))


# --- nothing is started -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Cluster("slrum"), "there is no backend 'slrum'"),
        (lambda: Cluster("slrum"), "known: "),
        (lambda: Cluster(backend=7), "backend must be a name or an object"),
        (lambda: Cluster(thread=2), "did you mean 'threads'?"),
        (lambda: Cluster(n_workers=-1), "n_workers must be at least 0"),
        (lambda: Cluster(n_workers=5, maximum=2), "5 jobs are more than the maximum of pool 'default', 2"),
        (lambda: Cluster(scheduler=7), "scheduler must be an address"),
        (lambda: Cluster(security=7), "security must be"),
        (lambda: LocalCluster(n_worker=2), "did you mean 'n_workers'?"),
        (lambda: LocalCluster(n_workers=1.5), "n_workers must be a whole number"),
        (lambda: LocalCluster(threads_per_worker=0), "threads_per_worker must be at least 1"),
        (lambda: LocalCluster(memory_limit="32 gigs"), "memory_limit must be a size"),
        (lambda: LocalCluster(memory_limit=NAN), "memory_limit must be a finite size"),
        (lambda: LocalCluster(resources={"GPU": -1}), "resources['GPU'] must be a finite number"),
    ],
)
def test_a_cluster_that_cannot_be_is_never_started(
    ask: Callable[[], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("it was started")

    monkeypatch.setattr(Cluster, "_start", started)
    assert words in refusal(ask)


def test_a_journal_that_cannot_be_written_stops_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("it was started")

    monkeypatch.setattr(Cluster, "_connect", started)
    assert "cannot be written" in refusal(lambda: LocalCluster(journal=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minimum": 5, "maximum": 2}, "above maximum=2"),
        ({"minimum": -1}, "minimum must be at least 0"),
        ({"maximum": NAN}, "maximum must be a whole number"),
        ({"maximum_memory": "32 gigs"}, "maximum_memory must be a size"),
        ({"maximun": 3}, "did you mean 'maximum'?"),
        ({"policy": "target"}, "known: "),
        ({"policy": "doublin"}, "did you mean 'doubling'?"),
        ({"policy": 7}, "policy must be a name or an object"),
        ({"policy": "fixed"}, "is what scale does"),
        ({"pools": {"gpu": {"maximum": 1}}}, "unknown pool gpu"),
        ({"pools": {"default": {"maxima": 1}}}, "did you mean 'maximum'?"),
        ({"interval": "soon"}, "interval must be a duration"),
        ({"maximum": 1}, "less than one job"),
    ],
)
async def test_an_adapt_that_cannot_be_changes_nothing(options: dict[str, Any], words: str) -> None:
    cluster = LocalCluster(n_workers=0, asynchronous=True, workers_per_job=2)
    assert words in refusal(lambda: cluster.adapt(**options))
    assert cluster._adaptive is None
    cluster.close()


async def test_without_limit_only_where_it_is_said() -> None:
    cluster = Cluster(asynchronous=True)
    assert 10 == cluster.adapt().maximum
    assert cluster.adapt(maximum=INF).maximum is None
    with dask.config.set({"adaptive.maximum-jobs": 3}):
        assert 3 == cluster.adapt().maximum
    cluster.close()


GPU = {"cpu": {"maximum": 3}, "gpu": {"maximum": 1}}


@pytest.mark.parametrize(
    ("pools", "options", "words"),
    [
        ({"default": {"maximum": 1}}, {"maximum": 5}, ["a maximum of 5 jobs is above that of pool 'default'", "1 job"]),
        ({"default": {"maximum": 1}}, {"maximum_jobs": 5}, ["5 jobs", "1 job is the most"]),
        (GPU, {"maximum": 5}, ["5 jobs is above that of pool 'cpu', so that 3 jobs", "'gpu', so that 1 job"]),
        (GPU, {"maximum": 5, "pools": {"gpu": {"maximum": 2}}}, ["5 jobs", "'cpu'", "2 jobs", "'gpu'"]),
        (GPU, {"maximum": 2, "pools": {"gpu": {"maximum": 2}}}, ["a maximum of 2 jobs is above that of pool 'gpu'"]),
        (GPU, {"maximum": 2}, []),
        (GPU, {"maximum": 2, "pools": {"gpu": {"minimum": 1}}}, []),
        ({"default": {"maximum": 1}}, {"maximum": 1}, []),
        ({"default": {"maximum": 1}}, {"maximum": INF}, []),
        ({"default": {"maximum": 1}}, {}, []),
        ({"default": {}}, {"maximum": 5}, []),
    ],
)
async def test_a_maximum_that_the_pool_cuts_is_told_once(
    pools: dict[str, Any], options: dict[str, Any], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(pools=pools, asynchronous=True)
    cluster.adapt(**options)
    told = [each.getMessage() for each in caplog.records if each.name == "dask_adaptive.adaptive"]
    assert bool(words) == len(told)
    assert all(word in told[0] for word in words)
    cluster.close()
