"""Message-IDs and threads."""

from __future__ import annotations

import pytest

from prx_email_django.mime.identity import message_id, reply_references, reply_subject


def test_the_message_id_is_the_documented_one() -> None:
    assert message_id(12, 3, "prx-email.local") == "<outbox-12-3@prx-email.local>"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("Hello", "Re: Hello"),
        ("Re: Hello", "Re: Hello"),
        ("RE: Hello", "RE: Hello"),
        ("re:Hello", "re:Hello"),
        ("Regarding", "Re: Regarding"),
        ("Fwd: Re: x", "Re: Fwd: Re: x"),
        ("", "Re: "),
    ],
)
def test_re_is_never_stacked(subject: str, expected: str) -> None:
    assert reply_subject(subject) == expected


@pytest.mark.parametrize(
    ("references", "in_reply_to", "parent", "expected"),
    [
        ("", "", "<p>", "<p>"),
        ("<a> <b>", "<b>", "<p>", "<a> <b> <p>"),
        ("", "<b>", "<p>", "<b> <p>"),
        ("", "<a> <b>", "<p>", "<p>"),
        ("<a>\r\n\t<b>(comment)<a>", "", "<p>", "<a> <b> <p>"),
        ("<a> <p> <b>", "", "<p>", "<a> <b> <p>"),
        ("junk", "junk", "<p>", "<p>"),
        ("<a>", "", "", "<a>"),
    ],
)
def test_a_reply_is_tied_to_its_parent(references: str, in_reply_to: str, parent: str, expected: str) -> None:
    assert reply_references(references, in_reply_to, parent) == expected


def test_an_endless_thread_keeps_its_root_and_its_end() -> None:
    chain = " ".join(f"<{number}>" for number in range(500))
    found = reply_references(chain, "", "<p>").split()
    assert len(found) == 100
    assert (found[0], found[1], found[-2], found[-1]) == ("<0>", "<402>", "<499>", "<p>")
