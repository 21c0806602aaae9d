"""The columns of a rendered message that the admin shows and searches."""

from __future__ import annotations

from typing import Any

from django.core.mail import EmailMessage
from django.utils.encoding import force_str

from prx_email_django.django_mail.normalised import is_plain
from prx_email_django.django_mail.normalised import subject_of as given_subject
from prx_email_django.django_mail.parsed_text import body_of, parsed, subject_of
from prx_email_django.mime.addresses import MAX_MAILBOX
from prx_email_django.rules.text import NOT_TEXT


def shown_columns(message: EmailMessage, raw: bytes) -> dict[str, Any]:
    """Addresses, subject and bodies; where ``message()`` is overridden, subject and bodies are parsed from ``raw``."""
    bodies = _from_attributes(message) if is_plain(message) else _from_bytes(raw)
    return {
        **{name: [_text(address) for address in getattr(message, name)] for name in ("to", "cc", "bcc", "reply_to")},
        "from_email": _text(message.from_email)[:MAX_MAILBOX],
        **{name: _text(value) for name, value in bodies.items()},
    }


def _from_attributes(message: EmailMessage) -> dict[str, Any]:
    is_html = message.content_subtype == "html"
    html = message.body if is_html else _html_of(message)
    return {"subject": given_subject(message), "body_text": "" if is_html else message.body, "body_html": html}


def _html_of(message: EmailMessage) -> Any:
    alternatives = getattr(message, "alternatives", None) or ()
    return next((content for content, mimetype in alternatives if mimetype == "text/html"), "")


def _from_bytes(raw: bytes) -> dict[str, Any]:
    message = parsed(raw)
    return {
        "subject": subject_of(message),
        "body_text": body_of(message, "plain"),
        "body_html": body_of(message, "html"),
    }


def _text(value: object) -> str:
    return NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", force_str(value, errors="replace"))
