"""Options of a message: attributes of the ``EmailMessage``, or header fields that are removed before it is sent.

==========================  =============================  ============================================
attribute                   header field                   meaning
==========================  =============================  ============================================
``outbox_tag``              ``X-Outbox-Tag``               a label to search for, at most 100 characters
``outbox_metadata``         ``X-Outbox-Metadata``          what JSON can hold; in the header: JSON
``outbox_idempotency_key``  ``X-Outbox-Idempotency-Key``   a second message with it is not queued
``outbox_send_at``          ``X-Outbox-Send-At``           not before this; in the header: ISO 8601
``outbox_expires_at``       ``X-Outbox-Expires-At``        not after this; in the header: ISO 8601
``outbox_on_unknown``       ``X-Outbox-On-Unknown``        ``retry`` or ``hold``
``outbox_priority``         ``X-Outbox-Priority``          −10 to 10, higher goes first
``outbox_is_sensitive``     ``X-Outbox-Is-Sensitive``      content is removed when sent; in the header: true
``outbox_account``          none                           an account, its primary key or its name
==========================  =============================  ============================================

Attributes win over headers, both over the backend's options.  Another attribute or header field with this prefix is
refused: it was meant for the outbox, so it must neither be ignored nor be sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.mail import EmailMessage

from prx_email_django.compose.accounts import AccountRef
from prx_email_django.compose.validation import as_json, as_text, check_options
from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.models import Account

_PREFIX = "outbox_"


@dataclass(slots=True)
class MailOptions:
    """Options of a message, see the table of this module.  Nobody changes them."""

    tag: str = ""
    metadata: Any = field(default_factory=dict)
    idempotency_key: str | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    on_unknown: str | None = None
    priority: int = 0
    is_sensitive: bool = False


_READERS: Mapping[str, Callable[[str], Any]] = {
    "tag": str,
    "metadata": lambda text: {} if (value := json.loads(text)) is None else value,  # null: none, as for ``enqueue``
    "idempotency_key": str,
    "send_at": datetime.fromisoformat,
    "expires_at": datetime.fromisoformat,
    "on_unknown": str,
    "priority": int,
    "is_sensitive": lambda text: {"true": True, "false": False}.get(text.strip().lower(), text),
}
_ATTRIBUTE_OF = {name: _PREFIX + name for name in _READERS}
#: Attributes that a message may have.  The backend writes ``outbox_id`` itself.
_ATTRIBUTES = frozenset({"outbox_id", "outbox_account", *_ATTRIBUTE_OF.values()})


def account_of(message: EmailMessage) -> AccountRef | None:
    """The account that the message's ``outbox_account`` names; None where it names none.

    Raises:
        InvalidMessage: ``invalid_option``.
    """
    account = as_text(getattr(message, "outbox_account", None))
    if isinstance(account, bool) or not isinstance(account, Account | int | str | None):
        raise InvalidMessage("outbox_account must be an account, its primary key or its name", code="invalid_option")
    return None if account == "" else account


def read_options(
    message: EmailMessage,
    outbox_fields: Mapping[str, str],
    *,
    priority: int = 0,
    on_unknown: str | None = None,
) -> MailOptions:
    """The options of a message; ``outbox_fields``: its ``X-Outbox-…`` fields, named without prefix in lower case.

    ``priority`` and ``on_unknown`` are those of a message without its own.

    Raises:
        InvalidMessage: ``invalid_option``, or ``invalid_header`` for an unknown ``X-Outbox-…`` field.
    """
    _refuse_misspelt(message)
    values: dict[str, Any] = {"priority": priority, "on_unknown": on_unknown}
    for name, value in outbox_fields.items():
        values[name.replace("-", "_")] = _read(name.replace("-", "_"), decode_words(value))
    for name, attribute in _ATTRIBUTE_OF.items():
        given = getattr(message, attribute, None)
        if given is not None:
            values[name] = as_json(given) if name == "metadata" else as_text(given)
    check_options(**values)
    return MailOptions(**values)


def _refuse_misspelt(message: EmailMessage) -> None:
    """Refuse an attribute that no option has; methods of a subclass may have any name."""
    is_djangos = type(message).__module__.startswith("django.")  # its methods have no such names
    for name in vars(message) if is_djangos else dir(message):
        if name.startswith(_PREFIX) and name not in _ATTRIBUTES and not callable(getattr(message, name, None)):
            known = ", ".join(sorted(_ATTRIBUTES - {"outbox_id"}))
            raise InvalidMessage(
                f"the message must not have the attribute {name!r}; known are {known}", code="invalid_option"
            )


def _read(name: str, value: str) -> Any:
    if name not in _READERS:
        known = ", ".join(f"X-Outbox-{reader.replace('_', '-').title()}" for reader in _READERS)
        raise InvalidMessage(f"headers: an X-Outbox field must be one of {known}", code="invalid_header")
    try:
        return _READERS[name](value)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"headers: X-Outbox {name} must be a value of its type", code="invalid_option") from error
