from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from dask_adaptive import registry
from dask_adaptive.errors import ConfigError


def test_an_unknown_name_is_refused_with_the_nearest_and_all_that_are_known():
    with pytest.raises(ConfigError, match=r"no backend 'locl'; did you mean 'local'\? known: .*local"):
        registry.load_backend("locl")
    with pytest.raises(ConfigError, match=r"known: .*doubling.*fixed.*target-duration"):
        registry.load_policy("nothing like it")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("dask_adaptive.not_there:Thing", r"pip install 'dask-adaptive\[odd\]'"),
        ("somebody_elses.package:Thing", "install it"),
    ],
)
def test_a_missing_package_is_named_with_what_to_do(value: str, hint: str, monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("odd", value, "dask_adaptive.backends")
    monkeypatch.setattr(registry, "backends", lambda: {"odd": point})
    with pytest.raises(ConfigError, match=f"needs a package that is missing .*{hint}"):
        registry.load_backend("odd")


def test_what_another_package_registers_is_found(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("theirs", "collections:OrderedDict", "dask_adaptive.policies")
    monkeypatch.setattr(registry, "_installed", lambda group: [point] if group == point.group else [])
    assert {"theirs"} == set(registry.policies())
    assert "OrderedDict" == registry.load_policy("theirs").__name__
