"""Sphinx extension: what people look for, in the table of ``index.md``, becomes the index of the site.

The search of the site puts an entry of the index before every page that only contains the words.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tests read the table without Sphinx
    from sphinx.application import Sphinx

_ROW = re.compile(r"^\| (?P<words>[^|]+) \| (?P<pages>\[[^|]+) \|$", re.MULTILINE)
_PAGE = re.compile(r"\]\((?P<page>[a-z-]+/[a-z0-9-]+)\.md\)")
_TITLE = re.compile(r"^# .+\n", re.MULTILINE)


def words_of_pages(index: str) -> dict[str, list[str]]:
    """Each page, without its suffix -> the words of the rows that lead to it."""
    found: dict[str, list[str]] = {}
    for row in _ROW.finditer(index):
        words = [word.strip().strip("`“”") for word in row["words"].split(",")]
        for page in _PAGE.findall(row["pages"]):
            found.setdefault(page, []).extend(words)
    return found


def _add_entries(app: Sphinx, docname: str, source: list[str]) -> None:
    index = Path(app.srcdir) / "index.md"
    app.env.note_dependency(str(index))  # every page is built again when the table changes
    if words := words_of_pages(index.read_text(encoding="utf-8")).get(docname):
        entries = ", ".join(f"! {word}" for word in words)
        source[0] = _TITLE.sub(lambda title: f"{title[0]}\n```{{index}} {entries}\n```\n", source[0], count=1)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the handler; Sphinx calls this."""
    app.connect("source-read", _add_entries)
    return {"parallel_read_safe": True}
