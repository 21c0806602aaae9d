"""A message of Django's own classes is rendered by the worker; whatever is unusual is rendered when it is queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import connection

from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import Content, OutboxMessage
from tests.integration.backend_messages import make_email
from tests.support.factories import account

pytestmark = [pytest.mark.django_db]


def queued(message: EmailMessage) -> OutboxMessage:
    OutboxEmailBackend(account="main").send_messages([message])
    return OutboxMessage.objects.get(pk=message.outbox_id)  # type: ignore[attr-defined]


def with_html(**fields: Any) -> EmailMultiAlternatives:
    message = make_email(**fields)
    message.attach_alternative("<p>Hi.</p>\n", "text/html")
    return message


def changed(name: str, value: object) -> EmailMultiAlternatives:
    message = with_html()
    setattr(message, name, value)
    return message


class _Own(EmailMultiAlternatives):
    """A host's class."""


def test_a_message_without_headers_and_files_is_kept_as_its_texts() -> None:
    account()
    row = queued(with_html(to=["Ann B <ann@example.org>"], cc=["cy@example.org"], bcc=["dee@example.org"]))
    assert row.raw_id is None
    assert not Content.objects.exists()
    made = row.as_email()
    assert (made["To"], made["Cc"], made["Bcc"], made["Subject"]) == (
        "Ann B <ann@example.org>",
        "cy@example.org",
        None,
        "Hello",
    )
    assert [part.get_content_type() for part in made.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert [part.get_content() for part in made.iter_parts()] == ["Hi.\r\n", "<p>Hi.</p>\r\n"]
    html = make_email(body="<p>Grüße</p>\n" if connection.vendor != "mysql" else "<p>Hi</p>\n")
    html.content_subtype = "html"
    row = queued(html)
    assert (row.raw_id, row.body_text, row.as_email().get_content_type()) == (None, "", "text/html")
    assert row.as_email().get_content() == str(html.body).replace("\n", "\r\n")


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_html(headers={"X-A": "b"}),
        lambda: with_html(attachments=[("a.txt", "a", "text/plain")]),
        lambda: with_html(body=""),
        lambda: with_html(body="Hi.\r\n"),
        lambda: with_html(subject="=?utf-8?q?a?="),
        lambda: with_html(to=['"Ünal, O" <ann@example.org>']),
        lambda: with_html(to=["ann@Example.org"]),
        lambda: changed("encoding", "iso-8859-1"),
        # Django 6.0 has no such attribute any more
        *([lambda: changed("alternative_subtype", "related")] if django.VERSION < (6, 0) else []),
        lambda: changed("content_subtype", "markdown"),
        lambda: changed("message", lambda: EmailMessage("Other", "Hi.", "app@example.com", ["a@x.org"]).message()),
        lambda: _Own("Hello", "Hi.\n", "app@example.com", ["ann@example.org"]),
    ],
)
def test_what_is_unusual_is_rendered_by_django(make: Callable[[], EmailMessage]) -> None:
    account()
    assert queued(make()).raw_id is not None


def test_a_replaced_method_of_django_renders_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that sign mail replace ``EmailMessage.message`` for every message."""
    account()
    djangos = EmailMessage.message

    def signed(self: EmailMessage, **options: Any) -> Any:
        made = djangos(self, **options)
        made["X-Signed"] = "yes"
        return made

    monkeypatch.setattr(EmailMessage, "message", signed)
    assert queued(with_html()).as_email()["X-Signed"] == "yes"
