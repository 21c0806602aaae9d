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
from tests.unit.test_layers import status_writes

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


def _defined_in(path: Path) -> set[str]:
    """The functions and classes of a module, and what it assigns."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _answers() -> dict[str, list[str]]:
    """Question -> the files and names of its answer."""
    (rows,) = [rows for rows in tables(f"{DESIGN}/architecture.md") if rows[0][0].endswith("?")]
    return {question: code_in(answer) for question, answer in rows}


def _is_in_room(room: str, name: str) -> bool:
    """Whether a room has a module, a folder or a name of that name."""
    folder = PACKAGE / room
    is_module = (folder / f"{name}.py").exists() or (folder / name).exists()
    return is_module or name in (folder / "__init__.py").read_text(encoding="utf-8")


def _writes_a_status(path: Path) -> bool:
    """Whether the module writes a status: by a call, by the columns of a row, or by SQL."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    keys = {ast.unparse(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if key}
    texts = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return any(status_writes(tree)) or "'status'" in keys or any(text.startswith("status = %s,") for text in texts)


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


@pytest.mark.parametrize("question", _answers())
def test_an_answer_names_what_its_files_define(question: str) -> None:
    found = _answers()[question]
    files = [PACKAGE / name for name in found if name.endswith(".py")]
    defined = {name for path in files for name in _defined_in(path)}
    others = {name.rpartition(".")[2] for name in found if not _PATH.fullmatch(name) and name not in question}
    assert files and others - defined == set()


def test_the_first_answer_names_every_file_that_writes_a_status() -> None:
    (answer,) = [found for question, found in _answers().items() if "status written" in question]
    writers = {
        path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "store").glob("*.py") if _writes_a_status(path)
    }
    assert len(writers) > 8
    assert writers - set(answer) == set()


def test_a_module_that_a_comment_names_exists() -> None:
    rooms = "|".join(room.name for room in PACKAGE.iterdir() if room.is_dir())
    named = {
        (path.relative_to(PACKAGE).as_posix(), *match)
        for path in PACKAGE.rglob("*.py")
        for match in re.findall(rf"``({rooms})\.(?!css\b)([a-z]\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert {(path, f"{room}.{name}") for path, room, name in named if not _is_in_room(room, name)} == set()


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
