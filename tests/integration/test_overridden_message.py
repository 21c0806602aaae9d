"""What an overridden ``message()`` writes is sent: its values are not replaced by those of the attributes."""

from __future__ import annotations

import email
import re
from collections.abc import Mapping
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from tests.support import wire
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


catcher, server = wire.catcher, wire.server


def sent(message: EmailMessage, server: SmtpServer) -> bytes:
    return wire.sent(message, server).data


class Replaced(EmailMultiAlternatives):
    """An overridden ``message()`` that writes other values than those of the attributes and ``headers``."""

    replaced: Mapping[str, str]

    def message(self, **kwargs: Any) -> Any:
        """Django's message with the fields of ``replaced``."""
        made = super().message(**kwargs)
        for name, value in self.replaced.items():
            del made[name]
            made[name] = value
        return made


WORD = "=?utf-8?q?Ann=2C?= <ann@example.org>"


@pytest.mark.parametrize(
    "hidden", ["b..c@docomo.ne.jp", "ann@straße.example", WORD, f'"{"Doe, " * 20}" <ann@example.org>']
)
@pytest.mark.parametrize("field", ["to", "cc", "reply_to", "headers"])
def test_recipients_that_a_message_hides_stay_hidden(hidden: str, field: str, server: SmtpServer) -> None:
    header = {"reply_to": "Reply-To", "headers": "To"}.get(field, field.title())
    message = Replaced("Hello", "Hi.", "app@example.com", ["bo@example.org"])
    message.replaced = {header: "list@example.com"}
    if field == "headers":
        message.extra_headers["To"] = hidden
    else:
        setattr(message, field, [hidden])
    assert re.findall(rb"(?m)^" + header.encode() + rb":(.*)\r$", sent(message, server)) == [b" list@example.com"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("List-Unsubscribe", f"<https://example.com/{'b' * 100}>"),
        ("References", "<" + "b" * 100 + "@example.com>"),
        ("Errors-To", "bounces@example.com"),
        ("X-Note", "b " * 60),
    ],
)
def test_a_header_that_a_message_replaces_is_the_new_one(name: str, value: str, server: SmtpServer) -> None:
    old = {"Errors-To": "Größe <old@example.com>"}.get(name, f"<{'a' * 100}@example.com>")
    message = Replaced("Hello", "Hi.", "app@example.com", ["ann@example.org"], headers={name: old})
    message.replaced = {name: value}
    found = email.message_from_bytes(sent(message, server))
    assert [" ".join(text.split()) for text in found.get_all(name, [])] == [value.strip()]
