"""Numbers in sentences."""

from __future__ import annotations

import pytest

from dask_adaptive.phrases import bytes_text, count, duration, number


def test_things_are_counted() -> None:
    assert ["0 jobs", "1 job", "2 jobs", "12,000 jobs"] == [count(each, "job") for each in (0, 1, 2, 12_000)]


def test_bytes_are_said_in_the_unit_that_fits() -> None:
    assert ["0.5 MB", "512 MB", "3.5 GB"] == [bytes_text(each) for each in (5e5, 512e6, 3.5e9)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (59.4, "59.4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (59.97, "1 min 0 s")],
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert words == duration(seconds)


@pytest.mark.parametrize(("value", "text"), [(0.002, "0.002"), (5.0, "5"), (12.345, "12.3"), (123456.7, "123457")])
def test_numbers_in_a_sentence(value, text):
    assert text == number(value)
