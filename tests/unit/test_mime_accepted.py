"""What a call has accepted can be rendered: nothing comes to rest as ``content`` for what could have been refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import prx_email_django as prx
from prx_email_django.compose.message import MessageArguments, compose
from prx_email_django.errors import OutboxError
from prx_email_django.mime.bodies import MailPart
from prx_email_django.mime.rendering import MailContent, render
from prx_email_django.models import Account

TYPES = ["text/plain", "application/pdf", "message/rfc822", "message/partial"]
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["a" * 1200, "ö" * 600, "a b" * 500, "\x85", "\u2028x", "\t", "\ud800", "\x80", f"<{'r' * 1000}@x>"]
    ),
)
ADDRESSES = st.one_of(
    TEXTS,
    st.sampled_from(
        [
            "Ann <a@b.org>",
            "ö@b.org",
            f'"{"x" * 900}" <a@b.org>',
            "a@[1.2.3.4]",
            "ö" * 300 + " <a@b.org>",
            "a (c) <a@b.org>",
        ]
    ),
)
NAMES = ["X-A", "References", "Comments", "DKIM-Signature", "Resent-To", "Resent-Message-ID", "X-" + "n" * 990]
FILES = st.builds(
    prx.AttachmentInput,
    TEXTS,
    st.one_of(TEXTS, st.sampled_from([*TYPES, "text/plain; name=ö", f'text/plain; name="{"n" * 230}"'])),
    content=st.binary(max_size=50),
    inline_id=st.one_of(st.just(""), TEXTS),
)
CHANGES = st.one_of(
    *(st.fixed_dictionaries({name: TEXTS}) for name in ("subject", "body_text", "body_html")),
    st.fixed_dictionaries({"from_email": ADDRESSES}),
    *(st.fixed_dictionaries({name: st.lists(ADDRESSES, min_size=1, max_size=2)}) for name in ("to", "cc", "reply_to")),
    st.fixed_dictionaries({"headers": st.dictionaries(st.sampled_from(NAMES), TEXTS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"attachments": st.lists(FILES, min_size=1, max_size=2)}),
)


@given(CHANGES)
@settings(max_examples=400, deadline=None)
def _check(changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"to": "a@b.org", "subject": "s", "body_text": "b", **changes}
    now = datetime(2026, 11, 24, tzinfo=UTC)
    account = Account(name="main", email="app@example.com")
    try:
        draft = compose(MessageArguments(**arguments), account=account, now=now, largest=10**9)
    except OutboxError:
        return
    fields = draft.fields
    content = MailContent(
        **{name: fields[name] for name in ("from_email", "subject", "body_text", "body_html")},
        **{name: tuple(fields[name]) for name in ("to", "cc", "reply_to")},
        message_id="<outbox-1-0@example.com>",
        date=now,
        headers=tuple(fields["headers"].items()),
        parts=tuple(
            MailPart(part.kind, part.filename, part.content_type, part.content, part.inline_id) for part in draft.parts
        ),
    )
    assert render(content).endswith(b"\r\n")


def test_what_a_call_has_accepted_can_be_rendered(settings: Any) -> None:
    settings.PRX_EMAIL = {"ATTACHMENT_CONTENT_TYPES": TYPES}
    _check()
