"""Signals and log lines, from this one place, after the change has been committed."""

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
from prx_email_django.store.results import RecordedAttempt

logger = logging.getLogger("prx_email_django")


def announce(recorded: Iterable[RecordedAttempt], *, names: dict[int, str] | None = None) -> None:
    """One log line and the signals of each recorded result."""
    for one in recorded:
        _log(one, (names or {}).get(one.message.account_id, ""))
        if one.refused:
            _send(signals.recipients_refused, message=one.message, recipients=one.refused)
        if one.status is Status.SENT:
            _send(signals.message_sent, message=one.message)
        elif one.status is Status.FAILED and one.next_attempt_at is None and not one.late:
            _send(signals.message_failed, message=one.message, error_code=one.error_code)
        elif one.status is Status.FAILED and not one.late and not one.progress:
            _send(signals.message_deferred, message=one.message, next_attempt_at=one.next_attempt_at)


def announce_pause(account: Account, *, reason: str, until: datetime) -> None:
    """A worker has paused an account."""
    logger.error(
        "account %s paused until %s: %s",
        account.name,
        until.isoformat(timespec="seconds"),
        redact(reason),
        extra={"account": account.name, "outcome": "paused"},
    )
    _send(signals.account_paused, account=account, reason=reason, until=until)


def _send(signal: Signal, **values: Any) -> None:
    """``send_robust``: Django logs a receiver that raises, and delivery goes on."""
    sender: type[Any] = OutboxMessage if "message" in values else Account
    if signal.has_listeners(sender):
        signal.send_robust(sender=sender, **values)


def _log(one: RecordedAttempt, account: str) -> None:
    level, word = _severity(one)
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "message %s attempt %s: %s%s",
        one.message.pk,
        one.attempt,
        word,
        f" ({one.error_code}: {redact(one.error)})" if one.error_code else "",
        extra={
            "outbox_id": one.message.pk,
            "account": account,
            "attempt": one.attempt,
            "outcome": word,
            "error_code": one.error_code,
            "smtp_code": one.outcome.smtp_code,
            "duration_ms": round(one.duration * 1000),
        },
    )


def _severity(one: RecordedAttempt) -> tuple[int, str]:
    if one.late:
        return logging.WARNING, "late result"
    if one.status is Status.SENT:
        return logging.INFO, "sent"
    if one.outcome.ending is Ending.UNKNOWN:
        return logging.ERROR, "outcome unknown"
    if one.next_attempt_at is None:
        return logging.WARNING, "at rest"
    return logging.INFO, "deferred"
