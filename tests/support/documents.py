"""The documents as data, so that tests can compare them with the code.

The info string of a fenced block says what the tests do with it:

``python``             run, in the order of the page; one page has one namespace
``python compile``     only compiled: it needs a server or a project that the tests do not have
``python settings``    put at the end of a settings module that must pass ``check``; ``deploy`` adds ``check --deploy``
``python file=a/b.py`` written to that file of the project before anything runs
``html file=a/b.html`` the same for a template
``python pytest``      a test module of the project, run by pytest
``sh``                 each command is run and must succeed
``sh host``            only its syntax is checked: it changes the machine or the repository
``text output``        what the block before it prints; ``…`` matches any text
``django>=6.1``        used with that Django and later (``django<6.1``: with earlier ones)
"""

from __future__ import annotations

import os.path
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parents[2]
_DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASING.md", *_DOCS)

#: Address of the repository: a link of the README and of the index leads there.
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]
LINK = re.compile(r"\]\(([^)\s]+)\)")

#: Also in an item of a list, where it is indented.
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_VERSION = re.compile(r"django(>=|<)(\d+)\.(\d+)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """What the tests do with the block: the info string without versions and file names."""
        marks = (mark.partition("=")[0] for mark in self.marks if not _VERSION.fullmatch(mark))
        return " ".join((self.language, *marks))

    @property
    def path(self) -> str:
        """The file that the block is written to; empty if it is not a file."""
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), "")

    @property
    def versions(self) -> tuple[str, ...]:
        """The marks that name versions of Django."""
        return tuple(mark for mark in self.marks if _VERSION.fullmatch(mark))

    @property
    def is_for_this_django(self) -> bool:
        """Whether the block is meant for the installed Django."""
        for mark in self.marks:
            if version := _VERSION.fullmatch(mark):
                at_least = django.VERSION[:2] >= (int(version[2]), int(version[3]))
                return at_least == (version[1] == ">=")
        return True


def text_of(page: str) -> str:
    """The text of a page of the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = text_of(page)
    for match in _FENCE.finditer(text):
        language, *marks = match["info"].split() or [""]
        yield Block(
            page, text.count("\n", 0, match.start()) + 1, language, tuple(marks), textwrap.dedent(match["text"])
        )


def all_blocks() -> list[Block]:
    """The fenced blocks of every page."""
    return [block for page in PAGES for block in blocks(page)]


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def links(page: str) -> list[str]:
    """The targets of the links and pictures of a page."""
    return LINK.findall(prose(page))


def local_target(page: str, target: str) -> tuple[str, str] | None:
    """The file of the repository that a link leads to, and the anchor in it; None for another site."""
    path, _, anchor = target.partition("#")
    if path == REPOSITORY:
        return "README.md", anchor
    for prefix in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/raw/main/"):
        if path.startswith(prefix):
            return path.removeprefix(prefix), anchor
    if re.match(r"https?://", target):
        return None
    return (os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page), anchor


def tables(page: str) -> Iterator[list[list[str]]]:
    """The tables of a page: rows of cells, without the header."""
    rows: list[list[str]] = []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            yield rows[2:]
            rows = []


def code_in(text: str) -> list[str]:
    """The texts in backticks."""
    return re.findall(r"`([^`\n]+)`", text)
