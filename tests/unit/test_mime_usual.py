"""The short path of a usual message gives the bytes of the long one, and is taken."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.mime.rendering import MailContent, boundary_text, render
from prx_email_django.mime.transfer import CONTROLS
from prx_email_django.mime.usual import usual_message
from tests.unit.mime_contents import bodies, header_texts, mail, mailboxes

ID = "<outbox-7-0@mail.example.com>"
BOUNDARY = boundary_text("a", ID)
LONGEST = "x" * 998
DATE = datetime(2026, 11, 24, 12, 30, 5, 999999, tzinfo=UTC)


def by_short_path(of: MailContent) -> bytes | None:
    return usual_message(of.from_email, of.to, of.subject, of.message_id, of.date, of.body_text, of.body_html)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"body_text": "", "body_html": "<p>Hello\n</p>"},
        {"body_html": "<p>Hello</p>"},
        {"body_html": "<p>Hello</p>\n\n", "body_text": "Hello\n\n\tBob"},
        {"body_text": "a\r\nb\nc\r\n", "body_html": "d\r\n"},
        {"body_text": "a\r", "body_html": "b\r"},
        {"body_text": ".\n..\n.", "body_html": ".\n"},
        {"body_text": "--\n-- \n", "body_html": "=_a_\n"},
        {"body_text": f"{LONGEST}\n{LONGEST}", "body_html": f"{LONGEST}\r\n{LONGEST}\r\n"},
        {"body_text": "Thank you.\n" * 2000},
        {"subject": ""},
        {"subject": "  Hello   Bob  "},
        {"subject": "=?utf-8?q?Hello?= world" + "x" * 41},
        {"to": ()},
        {"to": ("bob@example.org", "ann.smith+x@mail.example.org", "Cy <cy@example.org>")},
        {"to": ("Bob <bob@Example.org>",)},
        {"to": ("Bö <bob@bücher.example>",)},
        {"to": tuple(f"customer{number}@example.org" for number in range(40))},
        {"from_email": "Bücher <shop@bücher.example>"},
        {"date": DATE + timedelta(hours=12)},
        {"message_id": f"<{'x' * 62}>"},
    ],
)
def test_a_usual_message_does_not_take_the_long_way_and_has_the_same_bytes(values: dict[str, Any]) -> None:
    of = mail(**{"date": DATE, **values})
    assert by_short_path(of) == render(of)


@pytest.mark.parametrize(
    "values",
    [
        {"body_text": ""},
        {"body_text": "Grüße"},
        {"body_html": "Grüße"},
        {"body_text": "x" * 999},
        {"body_html": f"a\n{'x' * 999}\nb\n"},
        {"body_html": f"{LONGEST}\n{'x' * 999}"},
        {"body_text": "a\rb"},
        {"body_html": "a\r\r\nb"},
        *({"body_html": f"a{chr(control)}b"} for control in CONTROLS),
        {"body_text": BOUNDARY, "body_html": "x"},
        {"body_html": f"--{BOUNDARY}--"},
        {"subject": "Grüße"},
        {"subject": "a\tb"},
        {"subject": "long " * 30},
        {"message_id": f"<{'x' * 90}>"},
        {"from_email": "grüße@example.com"},
        {"to": ("grüße@example.com",)},
    ],
)
def test_what_must_be_encoded_folded_or_changed_is_left_to_the_long_way(values: dict[str, Any]) -> None:
    of = mail(**values)
    assert by_short_path(of) is None
    assert render(of)


@pytest.mark.parametrize(
    "values",
    [
        {"date": datetime(2026, 11, 24)},  # noqa: DTZ001
        {"from_email": ""},
        {"from_email": "Ann"},
        {"to": ("bob",)},
        {"to": ("bob@example.org, ann@example.org",)},
        {"date": datetime(2026, 11, 24), "to": ("bob",)},  # noqa: DTZ001
        {"from_email": "Ann", "to": ("bob",)},
    ],
)
def test_what_cannot_be_rendered_fails_with_the_same_words(values: dict[str, Any]) -> None:
    of = mail(**values)
    with pytest.raises(ValueError, match=".") as long:
        render(of)
    with pytest.raises(ValueError, match=re.escape(str(long.value))):
        by_short_path(of)


@given(
    st.builds(
        mail,
        from_email=mailboxes(),
        to=st.lists(st.one_of(mailboxes(), st.sampled_from(["bob@example.org", "ann.x@a-b.example"])), max_size=3),
        subject=st.one_of(st.text(" aé=?_\t\x7f\x00", max_size=80), header_texts),
        message_id=st.text("abc.@", min_size=1, max_size=70).map(lambda text: f"<{text}>"),
        date=st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        body_text=st.one_of(bodies, st.text("ab .\r\n", max_size=2500)),
        body_html=st.one_of(bodies, st.text("<p> .\r\n", max_size=2500), st.just(f"{LONGEST}\n{LONGEST}")),
    )
)
def test_the_short_path_never_gives_other_bytes(of: MailContent) -> None:
    try:
        expected = render(of)
    except ValueError as error:
        try:
            assert by_short_path(of) is None
        except ValueError as found:
            assert str(found) == str(error)
    else:
        assert by_short_path(of) in {None, expected}
