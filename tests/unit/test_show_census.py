from __future__ import annotations

import io
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from dask_adaptive.show import census
from dask_adaptive.show.census import Facts

SOURCE = b'''\
import os


class Reader:
    def read_only(self, path, maxLines):
        """Nested functions count for themselves."""
        def keep(line):
            return line if line and not line.isspace() else None

        try:
            for line in open(path):
                if line or maxLines and keep(line):
                    yield line
                elif os.sep in line:
                    continue
        except (OSError, ValueError):
            pass

    async def other(self):
        return [x async for x in self if x if not x.y]


plain = lambda: 0 if plain else 1'''


def by_tokens(text: bytes) -> tuple[int, int, int]:
    """Functions, classes and branches as the tokens of the text tell: an oracle that parses nothing.

    It looks into no f-string (a string to the tokenizer before Python 3.12) and knows no ``case``.
    """
    words = Counter(
        token.string for token in tokenize.tokenize(io.BytesIO(text).readline) if token.type == tokenize.NAME
    )
    branches = ("if", "elif", "for", "while", "except", "and", "or")
    return words["def"], words["class"], sum(words[word] for word in branches)


def test_facts_of_a_file_that_was_counted_by_hand():
    # read_only: 1, except, for, if, or, and, elif; keep: 1, if, and; other: 1, for, if, if; module: if
    expected = Facts(
        files=1, lines=23, functions=3, classes=1, branches=12, complexity=7 + 3 + 4, worst=(7, "reader:read_only")
    )
    assert expected == census.facts_of(SOURCE, "reader")


@pytest.mark.parametrize("module", ["argparse", "asyncio.tasks", "heapq", "tarfile", "textwrap"])
def test_facts_of_real_files_agree_with_their_tokens(module):
    text = Path(__import__(module, fromlist=["x"]).__file__).read_bytes()
    facts = census.facts_of(text, module)
    assert by_tokens(text) == (facts.functions, facts.classes, facts.branches)
    assert facts.lines == len(text.decode().split("\n")) - 1
    assert facts.skipped == 0


@pytest.mark.parametrize("text", [b"def", b"\xff\xfe", b"print 'x'", b"a\0b"])
def test_what_is_not_python_is_skipped_and_said(text):
    assert Facts(files=1, lines=1, skipped=1) == census.facts_of(text, "bad")
    assert census.prints_of(text, "p", "bad") == []


def test_an_empty_file_has_no_lines():
    assert Facts(files=1) == census.facts_of(b"", "empty")


def test_adding_keeps_the_most_complex_function():
    added = Facts(files=1, functions=2, complexity=5, worst=(4, "a")) + Facts(files=2, functions=2, worst=(9, "b"))
    assert (3, 4, (9, "b"), 1.25) == (added.files, added.functions, added.worst, added.mean_complexity)


def test_words_are_parts_of_names_not_of_strings_and_comments():
    text = b"readOnly = read_only(HTTPError)  # comment\ndef lines(): return 'string'\n"
    assert Counter({"read": 2, "only": 2, "http": 1, "error": 1, "lines": 1}) == census.words_of(text)


def test_typical_words_are_frequent_here_and_rare_elsewhere():
    words = {
        "net": Counter(self=90, socket=5, port=2),
        "text": Counter(self=80, line=9, port=1),
        "math": Counter(self=70),
    }
    assert {"net": ("socket", "port"), "text": ("line", "port"), "math": ()} == census.typical_words(words)


BODY = "\n".join(f"    if {{a}} > {i}: {{b}}.append({i} * {{a}} + {i})" for i in range(8))


def test_twins_differ_in_names_and_constants_only():
    one = f"def first(x, out):\n{BODY.format(a='x', b='out')}\n".encode()
    two = f"import os\ndef second(y, to):\n{BODY.format(a='y', b='to')}\n".encode()
    other = f"def third(y, to):\n{BODY.format(a='y', b='to')}\n    return to\n".encode()
    (twin,) = census.twins_among(
        census.prints_of(text, package, f"{package}.mod") for package, text in (("a", one), ("b", two), ("c", other))
    )
    assert (("a.mod:first", "b.mod:second"), ("a", "b")) == (twin.where, twin.packages)


def test_twins_within_one_package_are_its_own_affair():
    text = f"def first(x, out):\n{BODY.format(a='x', b='out')}\n".encode()
    assert census.twins_among([census.prints_of(text, "a", "m"), census.prints_of(text, "a", "n")]) == []


def test_small_functions_are_alike_by_chance():
    assert census.prints_of(b"def get(self): return self.x\n", "a", "m") == []
