"""The speeds that the README and the how-to pages name are those that ``make bench`` has written into the documents."""

from __future__ import annotations

import re

import pytest

from tests.support.documents import prose, tables


def measured(candidate: str) -> dict[str, list[str]]:
    """The measured table that has this candidate: name of a candidate -> its cells, the first is messages a second."""
    for rows in tables("docs/explanation/performance.md"):
        if candidate in (found := {name: cells for name, *cells in rows}):
            return found
    raise AssertionError(f"no table has {candidate}")


def numbers(text: str) -> list[float]:
    """The numbers in a text, with or without a space between the thousands, but not those of a setting."""
    text = re.sub(r"`[^`]*`|(?<=\d) (?=\d{3})", "", text)
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize(
    ("row", "near", "far"),
    [
        ("this app", "prx_email_django", ["defaults", "max_in_flight=16"]),
        ("plain aiosmtplib, without queue or database", "aiosmtplib, bare", ["aiosmtplib, bare"]),
        ("django-post_office, default settings", "post_office, as it comes", []),
        ("django-post_office, two processes", "post_office, 2 processes", []),
        ("django-mailer", "django-mailer, as it comes", []),
    ],
)
def test_the_readme_shows_what_was_measured(row: str, near: str, far: list[str]) -> None:
    shown = next(rows for rows in tables("README.md") if rows[0][0] == "this app")
    cells = next(cells for name, *cells in shown if name == row)
    assert numbers(cells[0]) == pytest.approx([float(measured("prx_email_django")[near][0])], abs=0.51)
    rows = [measured("defaults")[name] for name in far]
    speeds, factors = numbers(cells[1])[::2], numbers(cells[1])[1::2]
    assert speeds == pytest.approx([float(speed) for speed, *_ in rows], abs=0.51)
    assert factors == pytest.approx([float(of_bare) for _speed, _spread, of_bare, *_ in rows], abs=0.051)


def test_the_page_on_workers_shows_what_was_measured() -> None:
    sentence = re.search(
        r"([\d.]+) messages a second over 5 connections with 50 ms, ([\d.]+)\s", prose("docs/how-to/size-workers.md")
    )
    assert sentence is not None
    speeds = [float(measured("defaults")[name][0]) for name in ("defaults", "max_in_flight=16")]
    assert list(map(float, sentence.groups())) == pytest.approx(speeds, abs=0.51)


def test_the_readme_shows_what_was_measured_where_the_server_offers_chunking() -> None:
    sentence = re.search(r"offers CHUNKING, .*? sends ([\d.]+) times\s+what plain aiosmtplib sends", prose("README.md"))
    assert sentence is not None
    (rows,) = [
        rows
        for rows in tables("docs/explanation/performance.md")
        if len(rows) == 2 and rows[0][0] == "prx_email_django"
    ]
    assert float(sentence[1]) == pytest.approx(float(rows[0][3]), abs=0.051)
