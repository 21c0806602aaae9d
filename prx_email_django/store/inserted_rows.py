"""Instances of rows that a statement has written: nothing is read back from the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db.models import NOT_PROVIDED
from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init

from prx_email_django.models import OutboxMessage
from prx_email_django.store.draft import Draft

#: Attributes that ``instance_maker`` sets in any case.
_SET = frozenset(
    {"id", "account_id", "raw_id", "next_attempt_at", "due_since", "created_at", "updated_at", "claim_rank"}
)


def instance_maker(
    moment: datetime, *, alias: str
) -> Callable[[Draft, Mapping[str, Any], int, int | None], OutboxMessage]:
    """A function that makes the instance of a row (``draft.row_of``) that was written at ``moment``.

    By ``from_db`` only where the host listens to instances.  An account by which the draft was made is read again when
    it is used.
    """
    names, _, defaults = attributes()
    template, account = _template()
    is_listened_to = bool(pre_init.receivers or post_init.receivers) and (
        pre_init.has_listeners(OutboxMessage) or post_init.has_listeners(OutboxMessage)
    )

    def make(draft: Draft, given: Mapping[str, Any], pk: int, raw_id: int | None) -> OutboxMessage:
        due = draft.due_at or moment
        values = template.copy()
        values.update(given)
        values["created_at"] = values["updated_at"] = moment
        values["next_attempt_at"] = values["due_since"] = due
        values["id"], values["account_id"], values["raw_id"] = pk, draft.account.id, raw_id
        values["claim_rank"] = -values["priority"]
        for name, make_default in defaults:
            if name not in given:
                values[name] = make_default()
        if is_listened_to:
            message = OutboxMessage.from_db(alias, names, [values[name] for name in names])
        else:
            message = OutboxMessage.__new__(OutboxMessage)
            state = values["_state"] = ModelState()
            state.adding, state.db = False, alias
            message.__dict__ = values
        if not draft.version:
            account.set_cached_value(message, draft.account)  # the descriptor asks the routers, for each message
        return message

    return make


#: What a message of a long list is known by; the rest of its columns is read when it is used.
_SHORT = ("id", "account_id", "status", "next_attempt_at", "created_at", "priority")


def without_content(message: OutboxMessage) -> OutboxMessage:
    """The same row, with few of its columns in memory."""
    short = OutboxMessage.from_db(message._state.db, _SHORT, [getattr(message, name) for name in _SHORT])
    if "account" in message._state.fields_cache:
        short.account = message.account
    return short


@lru_cache(maxsize=1)
def attributes() -> tuple[list[str], dict[str, Any], list[tuple[str, Callable[[], Any]]]]:
    """Names of the model's attributes, their defaults that never change, and what makes the other defaults."""
    fields = OutboxMessage._meta.concrete_fields
    constants = {
        field.attname: field.get_default()
        for field in fields
        if (field.default is NOT_PROVIDED or not callable(field.default))
        and isinstance(field.get_default(), str | int | None)
    }
    known = {*constants, *_SET}
    others = [
        (field.attname, field.default if callable(field.default) else field.get_default)
        for field in fields
        if field.name not in known and field.attname not in known
    ]
    return [field.attname for field in fields], constants, others


@lru_cache(maxsize=1)
def _template() -> tuple[dict[str, Any], Any]:
    """All attributes with the defaults that never change (a copy is faster made than filled), the account's field."""
    names, constants, _ = attributes()
    return dict.fromkeys(names) | constants, OutboxMessage._meta.get_field("account")
