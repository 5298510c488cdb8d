"""Hosts as a user names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dask_adaptive.backend._places import Place
from dask_adaptive.backend.hosts import Host, hosts_of
from dask_adaptive.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "host", "label"),
    [
        ("fir", Host("fir"), "fir"),
        ("ann@fir", Host("fir", "ann"), "ann@fir"),
        ("ann@fir:2222*4", Host("fir", "ann", 2222, 4), "ann@fir:2222"),
        ("fir.example.org*2", Host("fir.example.org", slots=2), "fir.example.org"),
        ("192.0.2.7:22", Host("192.0.2.7", port=22), "192.0.2.7:22"),
        ("[2001:db8::7]:2222*3", Host("2001:db8::7", port=2222, slots=3), "[2001:db8::7]:2222"),
        ({"address": "fir", "slots": 2, "python": "/opt/python"}, Host("fir", None, None, 2, "/opt/python"), "fir"),
        (Host("fir", slots=1), Host("fir", slots=1), "fir"),
    ],
)
def test_a_host_is_read_and_named(word: object, host: Host, label: str) -> None:
    assert (host,) == hosts_of([word])
    assert label == host.label


def test_one_word_is_one_host() -> None:
    assert (Host("fir", "ann", slots=2),) == hosts_of("ann@fir*2")


def test_a_file_has_one_host_per_line(tmp_path: Path) -> None:
    file = tmp_path / "hosts.txt"
    file.write_text("# ours\nann@fir*2  # the fast one\n\noak:2222\n")
    assert (Host("fir", "ann", slots=2), Host("oak", port=2222)) == hosts_of(str(file)) == hosts_of(file)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["ann@"], "'user@host:port\\*slots', not 'ann@'"),
        (["fir*many"], "not 'fir\\*many'"),
        (["fir:99999"], "port of host fir must be from 1 to 65535"),
        (["fir*0"], "slots of host fir must be at least 1"),
        (["fir", "fir*2"], "'fir' is named twice"),
        ([{"address": "fir", "slot": 2}], "did you mean 'slots'"),
        ([{"slots": 2}], "a host needs an address"),
        ([7], "not 7"),
        ([{"address": 7}], "the address of a host must be text, not 7"),
        ([{"address": "fir", "user": ["ann"]}], "the user of a host must be text"),
        ([{"address": "fir", "python": " "}], "the python of a host must be text, not ' '"),
        (7, "a list, a file or"),
        ("/no/such/file", "cannot be read"),
        ({"fir": 2}, "hosts must be a list"),
    ],
)
def test_what_is_no_host_is_said_in_a_sentence(given: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        hosts_of(given)


def test_a_host_that_fails_is_set_aside_for_longer_each_time_however_often_it_fails() -> None:
    place, rests = Place(Host("fir")), []
    for _ in range(2000):
        place.fail("fir: no route", 100.0)
        rests.append(place.retry_s - 100.0)
    assert [1.0, 2.0, 4.0] == rests[:3]
    assert 300.0 == rests[-1]
