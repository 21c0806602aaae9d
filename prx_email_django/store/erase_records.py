"""erase, beside the messages: received mail, words of servers, pauses, and what the admin wrote down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.db import models

from prx_email_django.models import (
    Account,
    AccountState,
    DeliveryAttempt,
    InboundMessage,
    OutboxMessage,
    OutboxState,
    PauseRecord,
    Recipient,
)
from prx_email_django.rules.erasure import ErasedAddress
from prx_email_django.store.db import retried
from prx_email_django.store.erase_search import having

#: Columns of texts that stay, without the address: what servers and people wrote about a delivery or a pause.
TEXTS: tuple[tuple[type[models.Model], tuple[str, ...]], ...] = (
    (OutboxMessage, ("last_error", "provider_response", "provider_message_id")),
    (Recipient, ("text",)),
    (DeliveryAttempt, ("error", "peer", "header_message_id")),
    (PauseRecord, ("reason", "by", "ended_by")),
    (AccountState, ("pause_reason", "last_trouble")),
    (OutboxState, ("pause_reason",)),
)
_INBOUND = ("message_id", "in_reply_to", "sender", "subject", "references", "left_out")


def accounts_with(address: ErasedAddress) -> list[str]:
    """Names of the accounts that send as this address, or log in with it."""
    columns = ("name", "email", "user", "display_name")
    accounts = Account.objects.order_by("name")
    return [account.name for account in accounts if any(address.is_in(getattr(account, name)) for name in columns)]


def erase_inbound(address: ErasedAddress, *, dry_run: bool = False) -> list[int]:
    """Delete the records of received messages that hold the address; return their ids."""
    erased: list[int] = []
    for rows in having(InboundMessage.objects.all(), address, texts=_INBOUND, jsons=("reply_to",)):
        ids = [row.pk for row in rows]
        if not dry_run:
            _delete_inbound(ids)
        erased += ids
    return erased


@retried
def _delete_inbound(ids: Sequence[int]) -> None:
    InboundMessage.objects.filter(pk__in=ids).delete()


def redact_texts(address: ErasedAddress, *, dry_run: bool = False) -> int:
    """Replace the address in ``TEXTS``; return the number of rows."""
    return sum(_redact(model, columns, address, dry_run=dry_run) for model, columns in TEXTS)


def _redact(
    model: type[models.Model], columns: Sequence[str], address: ErasedAddress, *, dry_run: bool, **conditions: Any
) -> int:
    count = 0
    for rows in having(model._default_manager.filter(**conditions), address, texts=columns):
        count += len(rows)
        for row in () if dry_run else rows:
            _replace(row, columns, address)
    return count


@retried
def _replace(row: models.Model, columns: Sequence[str], address: ErasedAddress) -> None:
    values = {}
    for name in columns:
        if address.is_in(text := getattr(row, name) or ""):
            values[name] = address.redacted(text, length=getattr(row._meta.get_field(name), "max_length", None))
    type(row)._default_manager.filter(pk=row.pk).update(**values)


def erase_admin_log(address: ErasedAddress, *, messages: Iterable[int], inbound: Iterable[int], dry_run: bool) -> int:
    """Take erased subjects, and the address, out of the admin's own log; return the number of entries with it.

    Nothing where the admin is not installed.
    """
    if not apps.is_installed("django.contrib.admin"):
        return 0
    entries = apps.get_model("admin", "LogEntry")
    ours = {"content_type__app_label": "prx_email_django"}
    for model, ids in (("outboxmessage", messages), ("inboundmessage", inbound)):
        for pk in () if dry_run else ids:
            entries._default_manager.filter(content_type__model=model, object_id=str(pk), **ours).update(
                object_repr=str(pk)
            )
    return _redact(entries, ("object_repr", "change_message"), address, dry_run=dry_run, **ours)
