"""The arguments of ``send`` and ``enqueue``, and the validated ``Draft`` that is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, TypeAlias

from prx_email_django.compose.accounts import AccountRef, account_default_from
from prx_email_django.compose.attachments import AttachmentPolicy, Attachments, OneAttachment, as_attachments, load
from prx_email_django.compose.headers import check_head_size, check_headers
from prx_email_django.compose.validation import (
    addr_spec_of,
    addr_specs_of,
    as_json,
    as_list,
    as_text,
    check_not_expired,
    check_options,
    check_text_fields,
    envelope_of,
    refuse,
)
from prx_email_django.conf import outbox_settings
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import Account, AccountState
from prx_email_django.rules.rates import recipients_ceiling
from prx_email_django.store.draft import Draft, DraftPart, is_queued
from prx_email_django.worker.outgoing import NULL_SENDER

#: Arguments that may be lazy.
_TEXTS = (
    "account",
    "priority",
    "send_at",
    "expires_at",
    "is_sensitive",
    "subject",
    "body_text",
    "body_html",
    "from_email",
    "envelope_from",
    "idempotency_key",
    "on_unknown",
    "tag",
)

_PLAIN = frozenset({str, int, bool, type(None)})
_texts_of = attrgetter(*_TEXTS)

Addresses: TypeAlias = str | Iterable[str] | None


@dataclass(slots=True, kw_only=True)
class MessageArguments:
    """The arguments that describe a message: the parameters of ``send`` and, with a few more, of its relatives.

    Not frozen, as ``Draft``: a frozen dataclass sets each field by a call, a tenth of the CPU of a message of many.
    """

    account: AccountRef | None = None
    to: Addresses
    subject: str
    body_text: str
    body_html: str = ""
    cc: Addresses = ()
    bcc: Addresses = ()
    reply_to: Addresses = ()
    headers: Mapping[str, str] | None = None
    attachment: OneAttachment | None = None
    attachments: Attachments = ()
    from_email: str | None = None
    envelope_from: str | None = None
    idempotency_key: str | None = None
    priority: int = 0
    expires_at: datetime | None = None
    on_unknown: str | None = None
    tag: str = ""
    metadata: Any = None
    is_sensitive: bool = False
    # A subclass makes parameters of those that its function takes.
    send_at: datetime | None = field(init=False, default=None)
    in_reply_to: str = field(init=False, default="")
    references: str = field(init=False, default="")
    now: datetime | None = None

    def __post_init__(self) -> None:
        """Evaluate lazy translations."""
        if _PLAIN.issuperset(map(type, _texts_of(self))):
            return  # nearly always
        for name, value in zip(_TEXTS, _texts_of(self), strict=True):
            if type(value) not in _PLAIN:
                setattr(self, name, as_text(value))


def compose(
    message: MessageArguments, *, account: Account, now: datetime | None, largest: int | None = None, version: str = ""
) -> Draft:
    """Validate the arguments and load the attachments.

    ``largest`` is ``largest_size(account)`` where the caller knows it: a query less for each of many messages.
    ``now`` None: the statement that writes the draft has the clock, and compares ``expires_at`` with it.

    Raises:
        InvalidMessage: with one of its codes.
        AttachmentRejected: with one of its codes.
    """
    check_options(
        now=message.now,
        send_at=message.send_at,
        expires_at=message.expires_at,
        priority=message.priority,
        on_unknown=message.on_unknown,
        tag=message.tag,
        metadata=message.metadata,
        idempotency_key=message.idempotency_key,
        is_sensitive=message.is_sensitive,
    )
    if message.expires_at is not None:
        check_not_expired(message.expires_at, now, is_queued=partial(is_queued, account, message.idempotency_key))
    fields, recipients = _fields_and_recipients(message, account)
    draft = Draft(
        account=account,
        due_at=message.send_at or now,
        fields=fields,
        recipients=recipients,
        parts=_load(message),
        idempotency_key=message.idempotency_key,
        version=version,
    )
    check_limits(draft, largest=largest_size(account) if largest is None else largest)
    return draft


def _fields_and_recipients(message: MessageArguments, account: Account) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The columns that the caller gives, and the recipients of the envelope, all validated."""
    to, cc = as_list(message.to, field="to"), as_list(message.cc, field="cc")
    bcc, reply_to = as_list(message.bcc, field="bcc"), as_list(message.reply_to, field="reply_to")
    check_head_size(to, cc, reply_to, message.subject, message.headers, message.references)
    recipients = envelope_of(to, cc, bcc)
    texts: tuple[str | None, ...] = (message.subject, message.body_text, message.body_html)
    subject, body_text, body_html = ["" if text is None else text for text in texts]
    check_text_fields(subject=subject, body_text=body_text, body_html=body_html)
    headers = _headers(message.headers)
    if reply_to:
        addr_specs_of(reply_to, field="reply_to")
    from_email = message.from_email or account_default_from(account)
    sender = addr_spec_of(from_email, field="from_email")
    fields = {
        "to": to,
        "cc": cc,
        "bcc": bcc,
        "reply_to": reply_to,
        "from_email": from_email,
        "envelope_from": _envelope_from(message.envelope_from, sender),
        "subject": subject,
        "body_text": body_text,
        "body_html": body_html,
        "headers": headers,
        "in_reply_to_message_id": message.in_reply_to,
        "references": message.references,
        "priority": message.priority,
        "expires_at": message.expires_at,
        "on_unknown": message.on_unknown or "",
        "tag": message.tag,
        "metadata": {} if message.metadata is None else as_json(message.metadata),
        "is_sensitive": message.is_sensitive,
    }
    return fields, recipients


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    if given is None:
        return {}
    try:
        pairs = dict(given or {}).items()
    except (TypeError, ValueError):
        refuse("invalid_header", "headers must be a dict of names and values")
    headers = {as_text(name): as_text(value) for name, value in pairs}
    check_headers(headers.items())
    return headers


def largest_size(account: Account) -> int:
    """The SIZE that the account's server announced last, in bytes; 0: no limit."""
    return AccountState.objects.filter(account_id=account.pk).values_list("size_limit", flat=True).first() or 0


def check_limits(draft: Draft, *, largest: int) -> None:
    """Refuse what the account can never send: too many recipients for a limit, too many bytes for its server.

    Raises:
        InvalidMessage: ``invalid_option``, ``message_too_large``.
    """
    ceiling = recipients_ceiling(draft.account.rate_limits)
    if ceiling is not None and len(draft.recipients) > ceiling:
        raise InvalidMessage(
            f"the message must have at most {ceiling} recipients, not {len(draft.recipients)}: "
            "a rate limit of the account allows no more",
            code="invalid_option",
        )
    if largest and draft.least_size > largest:
        raise InvalidMessage(
            f"the message must not be larger than {largest} bytes, the limit of the account's server",
            code="message_too_large",
        )


def attachment_policy() -> AttachmentPolicy:
    """The policy of ``send`` and ``enqueue``, from the settings."""
    settings = outbox_settings()
    return AttachmentPolicy(
        max_size=settings.attachment_max_size,
        content_types=settings.attachment_content_types,
        store=settings.attachment_store,
    )


def _load(message: MessageArguments) -> Sequence[DraftPart]:
    if message.attachment is None and message.attachments == ():
        return ()
    given = [*as_attachments(message.attachment), *as_attachments(message.attachments)]
    policy = attachment_policy() if given else None
    return [load(attachment, policy) for attachment in given] if policy else []


def _envelope_from(given: str | None, sender: str) -> str:
    if given is None or given == "":
        return sender
    return given if given == NULL_SENDER else addr_spec_of(given, field="envelope_from")
