"""Rows for the tests of commands and tasks, and the output of a command."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management import call_command

from prx_email_django.models import Account, OutboxMessage

HOUR = timedelta(hours=1)


def run(*arguments: object, **options: Any) -> str:
    """Return the output of a command."""
    out = io.StringIO()
    call_command(*map(str, arguments), stdout=out, **options)
    return out.getvalue().strip()


def new_account(name: str = "main", **fields: Any) -> Account:
    values = {"host": "127.0.0.1", "port": 25, "security": "none", "auth_method": "none", **fields}
    account: Account = Account.objects.create(name=name, **values)
    return account


def message(account: Account, **fields: Any) -> OutboxMessage:
    """A message that is due in an hour."""
    now = datetime.now(UTC)
    values = {"next_attempt_at": now + HOUR, "due_since": now, **fields}
    return OutboxMessage.objects.create(account=account, to=["ann@example.org"], subject="s", **values)


def at_rest(account: Account, **fields: Any) -> OutboxMessage:
    """A message that the server refused permanently."""
    values = {"status": "failed", "next_attempt_at": None, "last_error_code": "provider", "retries": 1, "attempts": 1}
    return message(account, **{**values, **fields})
