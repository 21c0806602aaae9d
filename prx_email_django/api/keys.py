"""Messages that a call names: by primary key, as rows, or lazily (``SimpleLazyObject``, ``lazy``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, cast

from django.db.models import QuerySet
from django.utils.functional import Promise

from prx_email_django.compose.validation import as_text
from prx_email_django.models import OutboxMessage
from prx_email_django.store.operations import Rows

MessageRef: TypeAlias = int | OutboxMessage
MessageRefs: TypeAlias = MessageRef | Iterable[MessageRef] | QuerySet[OutboxMessage]


def message_key(given: MessageRef) -> Any:
    """The primary key of a message that is given as its key or as the row."""
    found: Any = as_text(given)
    if isinstance(found, OutboxMessage):
        return found.pk
    return int(cast(Any, found)) if isinstance(found, Promise) else found


def message_rows(given: MessageRefs) -> Rows:
    """A queryset as it is; else the keys of the messages, of which one alone is a list of one."""
    found: Any = as_text(given)
    if isinstance(found, QuerySet):
        return found
    # A string is iterable too: "18" is one key, not 1 and 8.
    is_one = isinstance(found, int | str | bytes | OutboxMessage | Promise)
    return [int(message_key(row)) for row in ([found] if is_one else found)]
