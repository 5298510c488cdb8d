"""Clusters in words: files, flags, configuration; what is wrong is named by file, line and key."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import asdict, fields
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import dask
import pytest
from click.testing import CliRunner

from dask_adaptive import ConfigError, registry
from dask_adaptive.config import Bounds
from dask_adaptive.description import Description, Head, described, flagged, read
from dask_adaptive.model import Limits, Shape
from dask_adaptive.options import backends_of, pool_keys, pool_options
from dask_adaptive.registry import example_arguments
from dask_adaptive.show.check import meaning_of, sentences
from dask_adaptive.show.cli import adaptive
from dask_adaptive.show.init import meanings_of

SITE = """\
name: site
maximum: 20
memory: 1 GB

pools:
  base:
    minimum: 1
    maximum: 1
  large:
    workers-per-job: 2
    threads: 4
    memory: 16 GB     # more than the others
    grace-s: 9
    price: 4

policy: {name: doubling, factor: 3}
interval: 500 ms
scheduler: {dashboard: false}
idle-timeout: 1h
"""


class Abacus:
    """Counts jobs.

    Parameters
    ----------
    beads:
        How many jobs it holds.
    rods, rails:
        How they are held.
    """

    name = "abacus"
    lag_s = 0.0
    timeout_s = 1.0
    example: ClassVar = {"beads": 10}

    def __init__(self, beads: int, rods: int = 3, rails: tuple[str, ...] = ("top",), environment: Any = None) -> None:
        if beads < 1:
            raise ConfigError(f"beads must be at least 1, not {beads!r}")
        self.beads, self.rods, self.environment = beads, rods, environment

    async def submit(self, batch: Any) -> Any: ...
    async def jobs(self, cluster: str) -> Any: ...
    async def cancel(self, ids: Any) -> Any: ...
    async def log(self, id: Any) -> Any: ...
    async def aclose(self) -> Any: ...


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package's backend."""
    found = {**registry.backends(), "abacus": EntryPoint("abacus", f"{__name__}:Abacus", "dask_adaptive.backends")}
    monkeypatch.setattr(EntryPoint, "load", _load, raising=True)
    monkeypatch.setattr(registry, "backends", lambda: found)
    monkeypatch.setattr("dask_adaptive.config.backends", lambda: found)


def _load(point: EntryPoint, original: Any = EntryPoint.load) -> Any:
    return Abacus if point.name == "abacus" else original(point)


def refusal(path: Path, text: str) -> str:
    """Why a file with this text is refused; without the folder."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(adaptive, [str(argument) for argument in arguments])


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_says_what_python_would(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, encoding="utf-8")
    found = read(path)
    assert "site" == found.name
    assert {"base", "large"} == set(found.options)
    assert Shape(1, 1, 10**9) == found.options["base"].shape()
    assert Shape(2, 4, 16 * 10**9) == found.options["large"].shape()
    assert {"grace_s": 9} == found.options["large"].backend_options
    assert 4 == found.options["large"].price
    assert {"base": Limits(1, 1), "large": Limits(0, 10)} == found.sizes
    assert Bounds(maximum=20) == found.limits
    assert 3600.0 == found.idle_timeout_s
    assert {"dashboard": False} == found.scheduler
    adapting = found.adapting()
    assert ("500 ms", 20, 3) == (adapting["interval"], adapting["maximum"], adapting["policy"].factor)


def test_a_description_can_be_written_down_and_read_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, encoding="utf-8")
    found = read(path)
    assert found == Description(**json.loads(json.dumps(asdict(found))))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("    memory: 16", "    memry: 16", "line 12: pools.large.memry: unknown key; did you mean 'memory'?"),
        ("16 GB", "much", "line 12: pools.large.memory must be a size such as '4 GB' or a number of bytes, not 'much'"),
        ("1 GB", "much", "line 3: memory must be a size such as '4 GB' or a number of bytes, not 'much'"),
        ("threads: 4", "threads: 0", "line 11: pools.large.threads must be at least 1, not 0"),
        (
            "grace-s: 9",
            "grace-s: -9",
            "line 13: pools.large.grace-s must not be negative; log_bytes and timeout_s",
        ),
        ("grace-s: 9", "grace-s: long", "line 13: pools.large.grace-s: backend 'local' cannot be made: "),
        (
            "price: 4",
            "backend: locl",
            "line 14: pools.large.backend: there is no backend 'locl'; did you mean 'local'?",
        ),
        ("price: 4", "backend: [local]", "line 14: pools.large.backend must be a name, not ['local']"),
        ("price: 4", "profile: huge", "line 14: pools.large.profile: unknown profile huge: known: none"),
        ("price: 4", "walltime: 12:00:00", "line 14: pools.large.walltime: only batch systems are asked for that"),
        ("maximum: 1\n", "maximum: 0.5\n", "line 8: pools.base.maximum must be a whole number, not 0.5"),
        ("minimum: 1", "minimum: 2", "line 8: pools.base.maximum: minimum=2 (2 jobs) is above maximum=1 (1 job)"),
        ("maximum: 20", "maximum: few", "line 2: maximum must be a whole number, not 'few'"),
        ("maximum: 20", "maximum: 1", "line 2: maximum: maximum=1 is less than one job (2 workers of 4 threads)"),
        ("maximum: 20", "minimum: 3", "line 2: minimum of 3 jobs is above the maximum of pool 'base', 1 jobs"),
        ("name: site", "nam: site", "line 1: nam: unknown key; did you mean 'name'?"),
        ("name: site", "alerts: 3", "line 1: alerts: unknown key; known: "),
        ("name: site", "name: a site", "line 1: name must be letters, digits, '.', '_' and '-', at most 63, not"),
        ("doubling", "dobling", "line 16: policy: there is no policy 'dobling'; did you mean 'doubling'?"),
        ("factor: 3", "facto: 3", "line 16: policy: unknown argument of the policy: facto: did you mean 'factor'?"),
        ("factor: 3", "factor: 0", "line 16: policy: factor is a number above 1, not 0"),
        ("name: doubling", "name: fixed", "line 16: policy: unknown argument of the policy: factor: "),
        ("{name: doubling, factor: 3}", "fixed", "line 16: policy must say jobs as well as its name: {name: fixed, "),
        ("{name: doubling, factor: 3}", "{factor: 3}", "line 16: policy must have a name among its keys"),
        ("500 ms", "soon", "line 17: interval must be a duration such as '5s' or a number of seconds, not 'soon'"),
        ("{dashboard", "{dashbord", "line 18: scheduler.dashbord: unknown key; did you mean 'dashboard'?"),
        ("idle-timeout: 1h", "idle-timeout: 0", "line 19: idle-timeout must be a finite duration above 0, not 0"),
        (
            "idle-timeout: 1h",
            "budget: {huge: 1}",
            "line 19: budget: unknown pool in the budget: huge: known: base, ",
        ),
        ("idle-timeout: 1h", "budget: -1", "line 19: budget must be a number of worker-hours, not -1"),
        ("idle-timeout: 1h", "on-event: [no-such-program]", "line 19: on-event: there is no program 'no-such-program'"),
        ("idle-timeout: 1h", "on-event: mail", "line 19: on-event must be 'module:function' or a command as a list"),
        ("idle-timeout: 1h", "security: perhaps", "line 19: security must be true, false, or Dask's TLS options, not"),
        ("idle-timeout: 1h", "journal: [a]", "line 19: journal must be a path, not ['a']"),
        ("idle-timeout: 1h", "head: {wher: job}", "line 19: head.wher: unknown key; did you mean 'where'?"),
        ("idle-timeout: 1h", "head: {where: there}", "line 19: head.where: must be here or job, not 'there'"),
        ("idle-timeout: 1h", "head: {pool: bse}", "line 19: head.pool: there is no pool 'bse'; did you mean 'base'?"),
        ("idle-timeout: 1h", "head: {options: {thread: 2}}", "line 19: head.options.thread: unknown key; did you mean"),
        ("idle-timeout: 1h", "name: again", "line 19: name was said on line 1 already"),
        ("  base:", "  base: 3\n  b:", "line 6: pools.base: must be a mapping of options, not 3"),
        ("  base:", "  base: {a: [}", "line 6: not YAML: "),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_key(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    assert before in SITE
    assert refusal(tmp_path / "site.yaml", SITE.replace(before, after, 1)).startswith(f"site.yaml, {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1", "site.yaml, line 1: a mapping of keys is expected"),
        ("pools: {}", "site.yaml, line 1: pools: must map the name of each pool to its options"),
        ("pools: &a\n  x: *a", "site.yaml, line 1: pools.x contains itself"),
        ("? [a, b]\n: 1", "site.yaml, line 1: a key must be one word"),
        ("a:\n\tb: 2", "site.yaml, line 2: not YAML: "),
        (
            "backend-options: {grac-s: 1}",
            "site.yaml, line 1: backend-options: unknown option of backend 'local': grac_s",
        ),
    ],
)
def test_files_that_are_no_description(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(tmp_path / "site.yaml", text).startswith(sentence)


ODD: list[Any] = [None, "", "x", -1, 0, 1.5, [], {}, [1], {"a": 1}, True, "1 GB", float("nan"), float("inf"), [None]]
ODD += [{"name": 3}, [["x"]], 10**30, 10**400, {1: 2}, "a\0b"]


def meant_or_refused(document: dict[str, Any]) -> None:
    try:
        said = "\n".join(sentences(meaning_of(described(document))))
    except ConfigError as error:
        said = str(error)
        assert "\n" not in said
    assert said


@pytest.mark.parametrize("key", [each.name for each in fields(Description)])
def test_whatever_is_said_is_meant_or_refused_in_one_sentence(key: str) -> None:
    for value in ODD:
        meant_or_refused({key: value})


@pytest.mark.parametrize("backend", sorted(registry.backends()))
def test_whatever_is_said_of_a_pool_is_meant_or_refused_in_one_sentence(backend: str) -> None:
    for key in pool_keys(backend):
        for value in ODD:
            meant_or_refused({"pools": {"p": {"backend": backend, **example_arguments(backend), key: value}}})


@pytest.mark.parametrize("key", [each.name for each in fields(Head)])
def test_whatever_is_said_of_a_head_is_meant_or_refused_in_one_sentence(key: str) -> None:
    for value in ODD:
        meant_or_refused({"head": {key: value}})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read: No such file"):
        read(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: müde".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml is not text in UTF-8"):
        read(tmp_path / "latin.yaml")


def test_yaml_as_people_mean_it(tmp_path: Path) -> None:
    """Clock times are no numbers in base 60, dates are text, anchors and merges work, and nothing said is nothing."""
    path = tmp_path / "site.yaml"
    path.write_text(
        "pools:\n"
        "  a: &a {backend: local, environment: {WALL: 12:30:00, DAY: 2026-11-20, N: 7}}\n"
        "  b:\n    <<: *a\n    threads: 2\n"
        "  c:\n",
        encoding="utf-8",
    )
    found = read(path).options
    assert {"WALL": "12:30:00", "DAY": "2026-11-20", "N": 7} == found["a"].environment == found["b"].environment
    assert [1, 2, 1] == [each.threads for each in found.values()]
    path.write_text("", encoding="utf-8")
    assert Description() == read(path)


def test_flags_win_over_the_file_and_are_blamed_without_it(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, encoding="utf-8")
    assert (5, "1h") == (read(path, maximum=5, name=None).maximum, read(path, maximum=5).idle_timeout)
    assert 60.0 == read(path, idle_timeout="60s").idle_timeout_s
    with pytest.raises(ConfigError) as caught:
        read(path, idle_timeout="soon")
    assert str(caught.value).startswith("idle_timeout must be a duration")


def test_flags_describe_a_cluster_of_one_pool() -> None:
    found = flagged(backend="local", cores=8, processes=2, memory=None, maximum=10)
    assert Shape(2, 4) == found.options["default"].shape()
    assert {"default": Limits(0, 5)} == found.sizes
    for flags, words in (
        ({"cores": 8, "processes": 3}, "8 cores cannot be shared by 3 workers per job"),
        ({"memry": 1}, "memry: unknown key; did you mean 'memory'?"),
        ({"foo": 1}, "foo: unknown key; known: backend, "),
        ({"backend": "slrm"}, "backend: there is no backend 'slrm'"),
    ):
        with pytest.raises(ConfigError) as caught:
            flagged(**flags)
        assert str(caught.value).startswith(words)


def test_a_pool_that_says_its_maximum_has_it() -> None:
    """The default maximum is for those who said none."""
    assert {"default": Limits(0, 30)} == described({"pools": {"default": {"maximum": 30}}}).sizes
    assert {"default": Limits(0, 10)} == described({}).sizes


# --- backends of other packages ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("abacus")
def test_a_third_partys_backend_is_checked_by_its_constructor(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    found = described({"pools": {"a": {"backend": "abacus", "beads": 4, "threads": 2}}}).options["a"]
    assert ({"beads": 4}, 2) == (found.backend_options, found.threads)
    for text, sentence in (
        ("backend: abacus", "site.yaml, line 1: backend 'abacus' needs beads"),
        ("backend: abacus\nbeads: 0", "site.yaml, line 2: beads must be at least 1, not 0"),
        ("backend: abacus\nbeads: 1\nrod: 2", "site.yaml, line 3: rod: unknown key; did you mean 'rods'?"),
        ("pools:\n  a: {backend: abacus}", "site.yaml, line 2: pools.a.backend 'abacus' needs beads"),
        ("beads: 3", "site.yaml, line 1: beads: unknown key"),
    ):
        assert refusal(path, text).startswith(sentence)


@pytest.mark.usefixtures("abacus")
def test_pools_of_several_backends_each_get_their_own() -> None:
    """What is said for all goes to those that know it; pools that describe the same backend share it."""
    pools = {"a": {"backend": "abacus"}, "b": {"backend": "abacus", "threads": 9}, "c": {}, "d": {"grace_s": 1}}
    found = pool_options(pools, {"beads": 4, "rods": 1})
    made: dict[str, Any] = {**backends_of(found)}
    assert made["a"] is made["b"]
    assert (4, 1) == (made["a"].beads, made["a"].rods)
    assert made["c"] is not made["d"]
    assert (5.0, 1) == (made["c"].grace_s, made["d"].grace_s)


@pytest.mark.usefixtures("abacus")
def test_an_argument_that_is_called_like_an_option_of_the_pool_is_said_apart() -> None:
    pool = {"backend": "abacus", "environment": {"A": "1"}, "backend_options": {"beads": 1, "environment": "wood"}}
    found = pool_options({"a": pool}, {})
    assert {"A": "1"} == found["a"].environment
    assert "wood" == vars(backends_of(found)["a"])["environment"]


# --- configuration -------------------------------------------------------------------------------------------------


def test_what_is_configured_for_a_backend_holds_where_nothing_else_is_said() -> None:
    with dask.config.set({"adaptive.local": {"grace-s": 7, "threads": 3, "memory": "2 GB"}}):
        pools = pool_options({"a": {}, "b": {"threads": 1}}, {"memory": "3 GB"})
        assert [Shape(1, 3, 3 * 10**9), Shape(1, 1, 3 * 10**9)] == [each.shape() for each in pools.values()]
        assert {7} == {vars(backend)["grace_s"] for backend in backends_of(pools).values()}
    with dask.config.set({"adaptive.local": {"grac-s": 7}}), pytest.raises(ConfigError, match="did you mean 'grace_s'"):
        pool_options(None, {})
    with (
        dask.config.set({"adaptive.local": 3}),
        pytest.raises(ConfigError, match=r"'adaptive\.local' must be a mapping"),
    ):
        pool_options(None, {})


def test_a_profile_is_a_set_of_options_with_a_name() -> None:
    profiles = {"bigmem": {"memory": "64 GB", "threads": 2, "grace-s": 1}, "two-of-them": {"workers-per-job": 2}}
    with dask.config.set({"adaptive.profiles": profiles}):
        (big,) = pool_options(None, {"profile": "bigmem", "threads": 5}).values()
        assert Shape(1, 5, 64 * 10**9) == big.shape()
        assert {"grace_s": 1} == big.backend_options
        assert 2 == pool_options({"a": {"profile": "two-of-them"}}, {})["a"].workers_per_job
        assert 2 == described({"pools": {"a": {"profile": "two_of_them"}}}).options["a"].workers_per_job
        with pytest.raises(ConfigError, match="unknown profile bigmen: did you mean 'bigmem'"):
            pool_options(None, {"profile": "bigmen"})


def test_the_environment_configures_in_dasks_way() -> None:
    said = {
        "DASK_ADAPTIVE__LOCAL__GRACE_S": "8",
        "DASK_ADAPTIVE__PROFILES__SMALL__MEMORY": "100 MB",
        "DASK_ADAPTIVE__POLICY": "doubling",
    }
    with dask.config.set(dask.config.collect(paths=[], env=said)):
        found = described({"profile": "small"})
        assert ("doubling", 10**8) == (found.policy_name, found.options["default"].shape().memory_bytes)
        assert {"grace_s": 8} == found.options["default"].backend_options


# --- check and init ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "init"])
def test_help_has_examples(command: str) -> None:
    assert f"Examples:\n    dask adaptive {command}" in call(command, "--help").output


def test_check_says_what_a_file_means(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE + "budget: 100\n", encoding="utf-8")
    said = call("check", path)
    assert 0 == said.exit_code
    for words in (
        "Cluster site with 2 pools.",
        "a job is 2 workers of 4 threads, 16 GB",
        "always 1 job (1 worker, 1 thread, 1 GB)",
        "0 to 10 jobs (20 workers, 80 threads, 320 GB)",
        "grace-s: 9",
        "In all: 1 to 21 workers, 81 threads.",
        "by the policy doubling, factor: 3.",
        "At most 100 worker-hours are spent by all pools together",
        "It ends after 1 h 0 min without work and without results that somebody holds.",
    ):
        assert words in said.output
    told = json.loads(call("check", path, "--json").output)
    assert [("base", 1, 1), ("large", 0, 10)] == [
        (p["name"], p["minimum_jobs"], p["maximum_jobs"]) for p in told["pools"]
    ]
    assert ("doubling", {"factor": 3}, 0.5, 100) == tuple(
        told[key] for key in ("policy", "policy_options", "interval_s", "budget")
    )


def test_check_of_a_wrong_file_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE.replace("price", "prise"), encoding="utf-8")
    for options in ((), ("--json",)):
        said = call("check", path, *options)
        assert 2 == said.exit_code
        assert f"Error: {path}, line 14: pools.large.prise: unknown key; did you mean 'price'?\n" == said.output


def uncommented(text: str) -> str:
    """The file with everything said that was only shown."""
    return re.sub(r"^( *)#([a-z-]+:)", r"\1\2", text, flags=re.MULTILINE)


@pytest.mark.parametrize("backend", sorted(registry.backends()))
def test_every_file_that_init_writes_passes_check(tmp_path: Path, backend: str) -> None:
    """As it is, and with every default said aloud."""
    path = tmp_path / "site.yaml"
    assert 0 == call("init", backend, "--output", path).exit_code
    said = call("check", path)
    assert 0 == said.exit_code, said.output
    assert f"Pool main, by backend {backend}:" in said.output
    text = path.read_text(encoding="utf-8")
    shown = set(re.findall(r"^ *#?([a-z-]+):", text, re.MULTILINE))
    assert {"name", "maximum", "pools", "backend", "on-event", "memory", "workers-per-job", "idle-timeout"} <= shown
    path.write_text(uncommented(text), encoding="utf-8")
    aloud = call("check", path)
    assert 0 == aloud.exit_code, aloud.output
    assert len(uncommented(text)) < len(text)


@pytest.mark.usefixtures("abacus")
def test_init_knows_the_backends_of_others(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    assert 0 == call("init", "abacus", "-o", path).exit_code
    text = path.read_text(encoding="utf-8")
    assert "    backend: abacus\n    beads: 10\n" in text
    assert "    # How they are held.\n    #rods: 3\n    #rails: [top]\n" in text
    assert 0 == call("check", path).exit_code


def test_init_overwrites_nothing_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "written: local.yaml" in call("init", "local").output
    Path("local.yaml").write_text("mine", encoding="utf-8")
    said = call("init", "local")
    assert (2, "Error: there is a file 'local.yaml' already; --force overwrites it\n") == (said.exit_code, said.output)
    assert "mine" == Path("local.yaml").read_text(encoding="utf-8")
    assert 0 == call("init", "local", "--force").exit_code
    assert "mine" != Path("local.yaml").read_text(encoding="utf-8")
    assert call("init", "local", "-o", "-").output.startswith("# A cluster on local.")
    said = call("init", "locl")
    assert 2 == said.exit_code
    assert "did you mean 'local'?" in said.output
    assert 2 == call("init", "local", "-o", "no/such/folder.yaml").exit_code


@pytest.mark.parametrize("backend", sorted(registry.backends()))
def test_every_key_that_init_writes_has_a_meaning(backend: str) -> None:
    kind = registry.load_backend(backend)
    assert [] == [key for key in inspect.signature(kind).parameters if not meanings_of(kind).get(key)]


def test_every_key_of_a_description_has_a_meaning() -> None:
    assert {each.name for each in fields(Description)} == set(meanings_of(Description))
