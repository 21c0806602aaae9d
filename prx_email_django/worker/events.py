"""Signals and log lines: the only place that makes them, after the change has been committed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.dispatch import Signal

from prx_email_django import signals
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.rules.outcomes import Ending
from prx_email_django.rules.text import redact
from prx_email_django.states import Status
from prx_email_django.store.attempts import RecordedAttempt

logger = logging.getLogger("prx_email_django")

_ABOUT_MESSAGES = (
    signals.message_sent,
    signals.message_deferred,
    signals.message_failed,
    signals.recipients_refused,
)


def tells_sent() -> bool:
    """Whether anybody is to learn of a message that was simply sent."""
    return logger.isEnabledFor(logging.INFO) or signals.message_sent.has_listeners(OutboxMessage)


def gives_messages() -> bool:
    """Whether a receiver gets messages, and may read any part of them."""
    return any(signal.has_listeners(OutboxMessage) for signal in _ABOUT_MESSAGES)


def announce(recorded: Iterable[RecordedAttempt], *, names: dict[int, str] | None = None) -> None:
    """Write one log line and send the signals of each recorded attempt."""
    # Asked once: nearly all attempts are those of messages that were sent, and often nobody listens.
    tells = tells_sent()
    for attempt in recorded:
        if attempt.status is Status.SENT and not (tells or attempt.late or attempt.refused):
            continue
        _log(attempt, (names or {}).get(attempt.message.account_id, ""))
        if attempt.refused:
            _send(signals.recipients_refused, message=attempt.message, recipients=attempt.refused)
        if attempt.status is Status.SENT:
            _send(signals.message_sent, message=attempt.message)
        elif attempt.comes_to_rest:
            _send(signals.message_failed, message=attempt.message, error_code=attempt.error_code)
        elif attempt.status is Status.FAILED and not attempt.late and not attempt.progress:
            _send(signals.message_deferred, message=attempt.message, next_attempt_at=attempt.next_attempt_at)


def announce_reinstated(messages: Iterable[OutboxMessage]) -> None:
    """Log and signal that messages are due again: ``message_failed`` was sent for each of them."""
    for message in messages:
        logger.info(
            "message %s is due again: its account was refused, not the message",
            message.pk,
            extra={"outbox_id": message.pk, "outcome": "reinstated", "error_code": message.last_error_code},
        )
        _send(signals.message_deferred, message=message, next_attempt_at=message.next_attempt_at)


def announce_pause(account: Account, *, reason: str, until: datetime) -> None:
    """Log and signal that a worker has paused an account."""
    logger.error(
        "account %s paused until %s: %s",
        account.name,
        until.isoformat(timespec="seconds"),
        redact(reason),
        extra={"account": account.name, "outcome": "paused"},
    )
    _send(signals.account_paused, account=account, reason=reason, until=until)


def _send(signal: Signal, **values: Any) -> None:
    """Send with ``send_robust``: Django logs an exception of a receiver, and delivery goes on."""
    message: OutboxMessage | None = values.get("message")
    sender: type[Any] = Account if message is None else OutboxMessage
    if not signal.has_listeners(sender):
        return
    pk = None if message is None else message.pk
    signal.send_robust(sender=sender, **values)
    if message is not None:
        message.pk = pk  # ``message.delete()`` of a receiver takes it away, and the worker knows its message by it


def _log(attempt: RecordedAttempt, account: str) -> None:
    level, word = _severity(attempt)
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "message %s attempt %s: %s%s",
        attempt.message.pk,
        attempt.attempt,
        word,
        f" ({attempt.error_code}: {redact(attempt.error)})" if attempt.error_code else "",
        extra={
            "outbox_id": attempt.message.pk,
            "account": account,
            "attempt": attempt.attempt,
            "outcome": word,
            "error_code": attempt.error_code,
            "smtp_code": attempt.outcome.smtp_code,
            "duration_ms": round(attempt.duration * 1000),
        },
    )


def _severity(attempt: RecordedAttempt) -> tuple[int, str]:
    if attempt.late:
        return logging.WARNING, "late result"
    if attempt.status is Status.SENT:
        return logging.INFO, "sent"
    if attempt.outcome.ending is Ending.UNKNOWN:
        return logging.ERROR, "outcome unknown"
    if attempt.next_attempt_at is None:
        return logging.WARNING, "at rest"
    return logging.INFO, "deferred"
