"""The pages about the design name rooms, modules, terms and tests that exist."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.documents import PAGES, ROOT, code_in, tables, text_of

PACKAGE = ROOT / "prx_email_django"
DESIGN = "docs/design"
DESIGN_PAGES = [page for page in PAGES if page.startswith(DESIGN)]
#: A path in backticks: a folder with its slash, or a file.
_PATH = re.compile(r"(?:[\w.]+/)*(?:[\w.]+/|\w+\.(?:py|toml|md))")
#: A rule: what holds in bold, then the case that proved it, then its tests.
_RULE = re.compile(r"\*\*.+?\*\*.*?\n\n- Case: .+?\n- Held by: (?P<tests>.+)", re.DOTALL)


def _floors() -> list[set[str]]:
    """The floors that import-linter enforces, from top to bottom."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    return [set(re.findall(r"\w+", floor)) for floor in contract["layers"]]


@functools.cache
def _functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _rules() -> list[str]:
    """The rules of the page: a paragraph that begins in bold, with the list that follows it."""
    blocks = text_of(f"{DESIGN}/rules.md").split("\n\n")
    return [
        f"{block}\n\n{following}" for block, following in zip(blocks, blocks[1:], strict=False) if block[:2] == "**"
    ]


def _named_tests() -> list[str]:
    return sorted({code for page in DESIGN_PAGES for code in code_in(text_of(page)) if "::" in code})


def _named_paths() -> Iterator[tuple[str, str]]:
    for page in DESIGN_PAGES:
        yield from ((page, code) for code in code_in(text_of(page)) if _PATH.fullmatch(code))


@functools.cache
def _words_elsewhere() -> str:
    """Code and documents without the glossary, in lower case."""
    pages = [text_of(page) for page in PAGES if not page.endswith("glossary.md")]
    return "\n".join([*pages, *(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))]).lower()


def _terms() -> list[str]:
    return [row[0] for rows in tables(f"{DESIGN}/glossary.md") for row in rows]


def test_the_rooms_on_the_page_are_those_that_import_linter_enforces() -> None:
    (rows,) = [rows for rows in tables(f"{DESIGN}/architecture.md") if rows[0][0] == "1"]
    assert [set(code_in(row[1])) for row in rows] == _floors()


def test_the_picture_is_well_formed_and_shows_every_room() -> None:
    drawing = ElementTree.parse(ROOT / DESIGN / "architecture.svg").getroot()
    words = " ".join(text for text in drawing.itertext() if text)
    rooms = set().union(*_floors())
    assert {room for room in rooms if not re.search(rf"\b{room}\b", words)} == set()
    assert "prefers-color-scheme: dark" in words


def test_a_path_that_a_page_names_exists() -> None:
    roots = (PACKAGE, ROOT)
    assert [(page, path) for page, path in _named_paths() if not any((root / path).exists() for root in roots)] == []


@pytest.mark.parametrize("name", _named_tests())
def test_a_rule_is_held_by_a_test_that_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert function in _functions_of(ROOT / path)


def test_no_rule_is_without_its_case_and_its_tests() -> None:
    rules = _rules()
    assert len(rules) > 50
    matches = [(rule, _RULE.fullmatch(rule)) for rule in rules]
    assert [rule for rule, match in matches if match is None or "::" not in match["tests"]] == []


@pytest.mark.parametrize("term", _terms())
def test_a_term_is_used_outside_the_glossary(term: str) -> None:
    pattern = r"[\s_-]*".join(map(re.escape, term.lower().split()))
    assert re.search(rf"(?<![a-z]){pattern}", _words_elsewhere())


def test_a_term_is_explained_once_and_has_an_owner() -> None:
    terms = _terms()
    assert len(terms) == len(set(terms))
    rows = [row for rows in tables(f"{DESIGN}/glossary.md") for row in rows]
    assert [row[0] for row in rows if len(row) != 3 or not row[1].endswith(".") or "](" not in row[2]] == []
