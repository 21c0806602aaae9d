"""What ``outbox_status ID`` prints: columns, recipients and attempts of one message."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from prx_email_django.management._common import padded
from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules.recipients import effective_result
from prx_email_django.status.stored_words import shown

#: Most recipients and attempts that are printed: a newsletter may have hundreds, a dead server causes thousands.
MAX_LINES = 20


def message_lines(message: OutboxMessage) -> Iterator[str]:
    """Yield everything but the body; control characters, which could control the terminal, are replaced."""
    for name, value in _facts(message):
        if value:
            yield f"{padded(name)}{_printable(value)}"
    recipients = message.recipients.order_by("pk")
    yield from _shortened(
        _("recipients"), [_recipient(recipient, message) for recipient in recipients[:MAX_LINES]], recipients.count()
    )
    attempts = message.delivery_attempts.order_by("-number")
    lines = [_attempt(attempt) for attempt in attempts[:MAX_LINES]]
    yield from _shortened(_("attempts"), lines[::-1], attempts.count())


def message_facts(message: OutboxMessage) -> dict[str, Any]:
    """Return the columns that ``outbox_status ID --json`` prints."""
    due = message.next_attempt_at
    facts = {"id": message.pk, "account": message.account.name, "status": message.status}
    facts["next_attempt_at"] = due.isoformat() if due else None
    return {
        **facts,
        **{name: getattr(message, name) for name in ("retries", "attempts", "last_error_code", "last_error")},
    }


def _facts(message: OutboxMessage) -> Iterator[tuple[str, str]]:
    yield _("account"), message.account.name
    yield _("from"), message.from_email
    yield _("subject"), message.subject
    yield _("tag"), message.tag
    yield _("queued at"), at(message.created_at)
    yield _("next attempt at"), at(message.next_attempt_at)
    yield _("expires at"), at(message.expires_at)
    yield _("sent at"), at(message.sent_at)
    yield "Message-ID", message.provider_message_id or ""
    yield _("server reply"), message.provider_response


def _recipient(recipient: Recipient, message: OutboxMessage) -> str:
    reply = f": {shown(recipient.text)}" if recipient.text else ""
    return f"{recipient.kind:<4}{recipient.address}  {_result(recipient, message)}{reply}"


def _result(recipient: Recipient, message: OutboxMessage) -> str:
    """Return the result; an empty result means accepted if the message is sent, else open."""
    return effective_result(recipient.result, message.status) or _("open")


def _attempt(attempt: DeliveryAttempt) -> str:
    phase = f" ({attempt.phase})" if attempt.phase else ""
    error = f": {shown(attempt.error)}" if attempt.error else ""
    code = f" {attempt.error_code}" if attempt.error_code else ""
    return f"{attempt.number:<4}{at(attempt.finished_at)}  {attempt.outcome}{code}{phase}{error}"


def _shortened(name: str, lines: list[str], count: int) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{padded('' if number else name)}{_printable(line)}"
    if count > len(lines):
        yield " " * 16 + _("and %(count)d more") % {"count": count - len(lines)}


def at(moment: datetime | None) -> str:
    """Return date, time and zone in the active time zone; empty for None."""
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}" if moment else ""


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
