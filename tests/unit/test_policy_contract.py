"""What a policy may keep from round to round."""

from __future__ import annotations

import enum
from collections import OrderedDict

import pytest

from dask_adaptive.policy.contracts import not_plain


class Word(str, enum.Enum):
    A = "a"


@pytest.mark.parametrize("past", [{}, {"a": [1, 2.5, True, None, "x"], "b": {"c": (1, {"d": []})}}])
def test_plain_values_are_plain(past: object) -> None:
    assert not_plain(past) is None


@pytest.mark.parametrize("odd", [object(), Word.A, {1}, OrderedDict(), b"x", 1j])
def test_what_json_does_not_know_is_found_wherever_it_is(odd: object) -> None:
    for past in (odd, {"a": odd}, {"a": [1, {"b": (2, odd)}]}):
        assert not_plain(past) is odd


def test_keys_are_words() -> None:
    assert 1 == not_plain({"a": {1: 2}})
