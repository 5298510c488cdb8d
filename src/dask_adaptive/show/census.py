"""What Python source says about itself: sizes, branches, words, functions that occur twice. Pure but for ``read``."""

from __future__ import annotations

import ast
import hashlib
import io
import keyword
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

__all__ = [
    "Facts",
    "Print",
    "Source",
    "Twin",
    "facts_in",
    "facts_of",
    "joined",
    "prints_in",
    "prints_of",
    "total",
    "twins_among",
    "typical_words",
    "words_in",
    "words_of",
]

TWIN_NODES = 60
"""Functions with fewer nodes in their syntax tree are alike by chance."""

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Branch = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a package."""

    package: str
    path: str

    def read(self) -> bytes:
        """What is in it."""
        return Path(self.path).read_bytes()


@dataclass(frozen=True, slots=True)
class Facts:
    """Sizes of some source; facts of several files can be added.

    ``complexity`` is summed over the functions; that of a function is 1 and its branches (T. J. McCabe, "A Complexity
    Measure", 1976, where each operand of ``and`` and ``or`` counts too), nested functions counted for themselves.
    ``worst`` is the most complex function. ``skipped`` files are not Python of this version.
    """

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    branches: int = 0
    complexity: int = 0
    worst: tuple[int, str] = (0, "")
    skipped: int = 0

    def __add__(self, other: Facts) -> Facts:
        return Facts(
            files=self.files + other.files,
            lines=self.lines + other.lines,
            functions=self.functions + other.functions,
            classes=self.classes + other.classes,
            branches=self.branches + other.branches,
            complexity=self.complexity + other.complexity,
            worst=max(self.worst, other.worst),
            skipped=self.skipped + other.skipped,
        )

    @property
    def mean_complexity(self) -> float:
        """Of a function; 0 where there is none."""
        return self.complexity / self.functions if self.functions else 0.0


@dataclass(frozen=True, slots=True)
class Print:
    """The shape of a function without its names and constants; ``nodes`` is the size of its syntax tree."""

    digest: str
    nodes: int
    package: str
    where: str


@dataclass(frozen=True, slots=True)
class Twin:
    """Functions in different packages that differ in names and constants only."""

    nodes: int
    where: tuple[str, ...]
    packages: tuple[str, ...]


# --- sizes -----------------------------------------------------------------------------------------------------


def facts_of(text: bytes, name: str) -> Facts:
    """The facts of one file; ``name`` goes before the names of its functions."""
    lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
    tree = _tree(text)
    if tree is None:
        return Facts(files=1, lines=lines, skipped=1)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, _Function)]
    ranks = [(1 + sum(map(_branches, _own(function))), f"{name}:{function.name}") for function in functions]
    return Facts(
        files=1,
        lines=lines,
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        branches=sum(map(_branches, nodes)),
        complexity=sum(complexity for complexity, _ in ranks),
        worst=max(ranks, default=(0, "")),
    )


def facts_in(sources: Iterable[Source]) -> Facts:
    """The facts of these files, added."""
    return total(facts_of(source.read(), Path(source.path).stem) for source in sources)


def total(facts: Iterable[Facts]) -> Facts:
    """All added."""
    return sum(facts, Facts())


def _tree(text: bytes) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the compiler thinks of somebody's escapes is not our subject
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions in it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, _Function):
            yield from _own(child)


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, _Branch))


# --- words -----------------------------------------------------------------------------------------------------

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words_of(text: bytes) -> Counter[str]:
    """How often each word of four letters or more occurs in names: ``read_only`` and ``readOnly`` are two words."""
    names: Counter[str] = Counter()
    try:
        for token in tokenize.tokenize(io.BytesIO(text).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                names[token.string] += 1
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return Counter()
    words: Counter[str] = Counter()
    for name, count in names.items():
        for part in _PART.findall(name):
            if len(part) >= 4:
                words[part.lower()] += count
    return words


def words_in(sources: Iterable[Source]) -> Counter[str]:
    """The words of these files, added."""
    words: Counter[str] = Counter()
    for source in sources:
        words += words_of(source.read())
    return words


def typical_words(words: Mapping[str, Counter[str]], count: int = 3) -> dict[str, tuple[str, ...]]:
    """For each package the words that set it apart: frequent there, in few other packages (tf-idf)."""
    packages_with = Counter(word for counter in words.values() for word in counter)

    def typical(counter: Counter[str]) -> tuple[str, ...]:
        weight = {word: times * log(len(words) / packages_with[word]) for word, times in counter.items()}
        return tuple(sorted((word for word in weight if weight[word] > 0), key=lambda w: (-weight[w], w))[:count])

    return {package: typical(counter) for package, counter in words.items()}


# --- twins -----------------------------------------------------------------------------------------------------


def prints_of(text: bytes, package: str, name: str) -> list[Print]:
    """A print of every function that is large enough."""
    tree = _tree(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function)] if tree else []
    shapes = ((function.name, [_shape(node) for node in ast.walk(function)]) for function in functions)
    return [
        Print(hashlib.sha256("".join(shape).encode()).hexdigest()[:24], len(shape), package, f"{name}:{function}")
        for function, shape in shapes
        if len(shape) >= TWIN_NODES
    ]


def prints_in(sources: Iterable[Source]) -> list[Print]:
    """The prints of these files."""
    return joined(prints_of(source.read(), source.package, _place(source)) for source in sources)


def joined(parts: Iterable[Sequence[Print]]) -> list[Print]:
    """All in one list."""
    return [print_ for part in parts for print_ in part]


def twins_among(prints: Iterable[Sequence[Print]]) -> list[Twin]:
    """The functions that occur in several packages, the largest first."""
    alike: dict[str, list[Print]] = {}
    for print_ in joined(prints):
        alike.setdefault(print_.digest, []).append(print_)
    twins = [
        Twin(same[0].nodes, tuple(sorted(print_.where for print_ in same)), tuple(sorted(packages)))
        for same in alike.values()
        if len(packages := {print_.package for print_ in same}) > 1
    ]
    return sorted(twins, key=lambda twin: (-twin.nodes, twin.where))


def _shape(node: ast.AST) -> str:
    """Kind and number of children: in the order of ``ast.walk`` these make up the whole tree."""
    return f"{type(node).__name__}{sum(1 for _ in ast.iter_child_nodes(node))};"


def _place(source: Source) -> str:
    stem = Path(source.path).stem
    return stem if stem == source.package else f"{source.package}.{stem}"
