"""Rows and users for the tests of the admin."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from prx_email_django import enqueue
from prx_email_django.models import Account, OutboxMessage

ADMIN = "/admin/prx_email_django/"
MESSAGES = f"{ADMIN}outboxmessage/"
ACCOUNTS = f"{ADMIN}account/"


def make_account(name: str = "main", **fields: Any) -> Account:
    """An account that authenticates with a password."""
    values = {"host": "smtp.example.com", "port": 465, "user": "shop@example.com", "password": "pw-stored-1"}
    account: Account = Account.objects.create(name=name, email="shop@example.com", **{**values, **fields})
    return account


def make_message(account: Account, *, columns: dict[str, Any] | None = None, **fields: Any) -> OutboxMessage:
    """A queued message; ``columns`` are then written directly to the row."""
    values = {"to": "ann@example.org", "subject": "Your order", "body_text": "It is on its way."}
    message = enqueue(account=account, **{**values, **fields})
    if columns:
        OutboxMessage.objects.filter(pk=message.pk).update(**columns)
        message.refresh_from_db()
    return message


def sent(account: Account, **fields: Any) -> OutboxMessage:
    """A message that the server accepted."""
    columns = {"status": "sent", "sent_at": timezone.now(), "next_attempt_at": None}
    return make_message(account, columns=columns, **fields)


def at_rest(account: Account, **fields: Any) -> OutboxMessage:
    """A message that the server refused permanently."""
    columns = {
        "status": "failed",
        "next_attempt_at": None,
        "retries": 1,
        "attempts": 1,
        "last_error_code": "provider",
        "last_error": "550 5.7.1 no thanks",
    }
    return make_message(account, columns=columns, **fields)


def unknown(account: Account, **fields: Any) -> OutboxMessage:
    """A message at rest whose outcome is unknown."""
    columns = {
        "status": "failed",
        "next_attempt_at": None,
        "attempts": 1,
        "message_number": 0,
        "last_error_code": "unknown_outcome",
        "last_error": "lost before the final reply",
    }
    message = make_message(account, columns=columns, **fields)
    message.recipients.update(result="unknown")
    return message


def deferred(account: Account, **fields: Any) -> OutboxMessage:
    """A message that waits for its next attempt."""
    columns = {
        "status": "failed",
        "next_attempt_at": timezone.now() + timedelta(hours=1),
        "retries": 1,
        "attempts": 1,
        "last_error_code": "network",
        "last_error": "connection refused",
    }
    return make_message(account, columns=columns, **fields)


def sending(account: Account, **fields: Any) -> OutboxMessage:
    """A message that a worker has claimed."""
    lease = timezone.now() + timedelta(minutes=2)
    columns = {"status": "sending", "claim_token": uuid.uuid4(), "claim_expires_at": lease}
    return make_message(account, columns=columns, **fields)


def client_for(*permissions: str) -> Client:
    """A client logged in as staff with these permissions on the models of this app; ``*``: a superuser."""
    name = "-".join(permissions) or "nobody"
    user = User.objects.create_user(name[:150], password="pw", is_staff=True, is_superuser="*" in permissions)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="prx_email_django", codename__in=permissions)
    )
    client = Client()
    client.force_login(user)
    return client


def notices(response: Any) -> list[str]:
    """Return the notices at the top of the page."""
    return [str(notice) for notice in response.context["messages"]]
