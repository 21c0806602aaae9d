"""Options of a message: attributes of the ``EmailMessage``, or header fields that are removed before it is sent.

==========================  =============================  ============================================
attribute                   header field                   meaning
==========================  =============================  ============================================
``outbox_tag``              ``X-Outbox-Tag``               a label to search for, at most 100 characters
``outbox_metadata``         ``X-Outbox-Metadata``          what JSON can hold; in the header: JSON
``outbox_idempotency_key``  ``X-Outbox-Idempotency-Key``   a second message with it is not queued
``outbox_send_at``          ``X-Outbox-Send-At``           not before this; in the header: ISO 8601
``outbox_priority``         ``X-Outbox-Priority``          −10 to 10, higher goes first
==========================  =============================  ============================================

Attributes win over headers, both over the backend's options.  Another header field with this prefix is refused: it was
meant for the outbox, so it must neither be ignored nor be sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.mail import EmailMessage

from prx_email_django.compose.validation import check_options
from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.encoded_words import decode_words


@dataclass(frozen=True, slots=True)
class MailOptions:
    """Options of a message, see the table of this module."""

    tag: str = ""
    metadata: Any = field(default_factory=dict)
    idempotency_key: str | None = None
    send_at: datetime | None = None
    priority: int = 0


_READERS: Mapping[str, Callable[[str], Any]] = {
    "tag": str,
    "metadata": json.loads,
    "idempotency_key": str,
    "send_at": datetime.fromisoformat,
    "priority": int,
}


def read_options(message: EmailMessage, outbox_fields: Mapping[str, str], *, priority: int = 0) -> MailOptions:
    """The options of a message; ``outbox_fields``: its ``X-Outbox-…`` fields, named without prefix in lower case.

    Raises:
        InvalidMessage: ``invalid_option``, or ``invalid_header`` for an unknown ``X-Outbox-…`` field.
    """
    values: dict[str, Any] = {"priority": priority}
    for name, value in outbox_fields.items():
        values[name.replace("-", "_")] = _read(name.replace("-", "_"), decode_words(value))
    for name in _READERS:
        given = getattr(message, f"outbox_{name}", None)
        if given is not None:
            values[name] = given
    check_options(**values)
    return MailOptions(**values)


def _read(name: str, value: str) -> Any:
    if name not in _READERS:
        known = ", ".join(f"X-Outbox-{reader.replace('_', '-').title()}" for reader in _READERS)
        raise InvalidMessage(f"headers: an X-Outbox field must be one of {known}", code="invalid_header")
    try:
        return _READERS[name](value)
    except ValueError as error:
        raise InvalidMessage(f"headers: X-Outbox {name} must be a value of its type", code="invalid_option") from error
