"""The documents as data, so that tests can hold them against the code.

The info string of a fenced block says what is done with it:

``python``             run, in the order of the page, in one namespace a page
``python compile``     compiled only: it needs a server or a project that is not there
``python settings``    a settings module ends with it, and ``check`` passes; ``deploy`` adds ``check --deploy``
``python file=a/b.py`` written to that file of the project before anything runs
``python pytest``      a test module of the project, run by pytest
``sh``                 each command is run and must succeed
``sh host``            its syntax is checked: it changes the machine
``text output``        what the block before it prints; ``…`` stands for anything
``django>=6.1``        the block is used from that Django on (``django<6.1``: before it)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parents[2]
_DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES = ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", *_DOCS)

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
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
        """What is done with it, without the version."""
        return " ".join((self.language, *(one.partition("=")[0] for one in self.marks if not _VERSION.fullmatch(one))))

    @property
    def path(self) -> str:
        """The file that it is, empty for none."""
        return next((one.removeprefix("file=") for one in self.marks if one.startswith("file=")), "")

    @property
    def is_for_this_django(self) -> bool:
        """Whether the Django that is installed is one that the block is for."""
        for mark in self.marks:
            if found := _VERSION.fullmatch(mark):
                newer = django.VERSION[:2] >= (int(found[2]), int(found[3]))
                return newer if found[1] == ">=" else not newer
        return True


def text_of(page: str) -> str:
    """The page as it stands in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = text_of(page)
    for match in _FENCE.finditer(text):
        language, *marks = match["info"].split() or [""]
        yield Block(page, text.count("\n", 0, match.start()) + 1, language, tuple(marks), match["text"])


def all_blocks() -> list[Block]:
    """The fenced blocks of every page."""
    return [block for page in PAGES for block in blocks(page)]


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def tables(page: str) -> Iterator[list[list[str]]]:
    """The tables of a page: rows of cells, without header and rule."""
    rows: list[list[str]] = []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            yield rows[2:]
            rows = []


def code_in(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", text)
