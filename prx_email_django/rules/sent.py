"""What becoming sent means for a message: the columns of its row, whoever finds out that it is sent.

A worker records an acceptance, a recovery finds that every recipient was accepted meanwhile, a late result settles the
last recipient, a person confirms: all of them write these columns.  The SQL of ``store.sent_group`` is held to them by
a test.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol

from prx_email_django.rules.text import MAX_TEXT
from prx_email_django.states import ErrorCode, RecipientResult, Status

#: ``message_id_number`` in SQL; ``row`` is the alias of the message's row with a dot, or empty.
FIXED_NUMBER_SQL = "COALESCE({row}message_number, {row}retries)"


class AnsweredRecipient(Protocol):
    """A recipient's stored result, and the SMTP code and the text of the server's last answer."""

    @property
    def result(self) -> str: ...

    @property
    def code(self) -> int | None: ...

    @property
    def text(self) -> str: ...


def message_id_number(message_number: int | None, retries: int) -> int:
    """The number in the Message-ID of the next attempt, and of every copy that may exist by now.

    It is ``retries`` until the message may have been delivered; from then on it is the stored ``message_number``.
    """
    return retries if message_number is None else message_number


def refusal(recipients: Iterable[AnsweredRecipient]) -> tuple[str, str]:
    """``last_error_code`` and ``last_error`` of a sent message: the first refused recipient's, empty without one."""
    for recipient in recipients:
        if recipient.result == RecipientResult.REFUSED:
            return ErrorCode.RECIPIENTS_REFUSED, f"{recipient.code or ''} {recipient.text}".strip()[:MAX_TEXT]
    return "", ""


def sent_columns(
    recipients: Iterable[AnsweredRecipient], *, number: int, message_id: str, now: datetime
) -> dict[str, Any]:
    """The columns of a message that becomes sent at ``now``.

    An error of before is over, and with it the doubt whether the message has arrived; what stays is that recipients
    were refused.  ``message_id`` is the Message-ID of the first accepted copy, ``number`` the number in it.
    """
    error_code, error = refusal(recipients)
    return {
        "status": Status.SENT,
        "sent_at": now,
        "next_attempt_at": None,
        "claim_expires_at": None,
        "last_error_code": error_code,
        "last_error": error,
        "message_number": number,
        "provider_message_id": message_id,
        "updated_at": now,
    }
