"""Messages received, and replies to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from email.message import Message as EmailMessage
from typing import Any

from prx_email_django.api.guards import check_may_send
from prx_email_django.api.sending import SendArguments, send_message
from prx_email_django.compose.accounts import AccountRef, resolve_account
from prx_email_django.compose.attachments import Attachments, OneAttachment
from prx_email_django.compose.validation import as_text
from prx_email_django.errors import InvalidMessage, ReplyRejected
from prx_email_django.mime.identity import reply_references, reply_subject
from prx_email_django.mime.received import Inbound, parse_inbound
from prx_email_django.models import Account, InboundMessage
from prx_email_django.results import FailureMode, SendResult
from prx_email_django.store.db import clock_for, retried


def record_inbound(account: AccountRef, message: bytes | EmailMessage) -> InboundMessage:
    """Keep what a reply will need of a message that was received; the same Message-ID again returns the first record.

    Whatever a stranger wrote is recorded.  What can't be read of it, such as an item of Reply-To that is no address, is
    left out and named in ``left_out``; without a Message-ID, ``message_id`` is empty, and nothing can reply to it.

    Raises:
        InvalidMessage: ``invalid_option`` where the argument is no message.
        AccountUnavailable: no such account.
    """
    found = resolve_account(account, active=False)
    return _record(found, _parsed(message))


@dataclass(slots=True, kw_only=True)
class AnswerArguments(SendArguments):
    """The arguments of ``send`` for an answer, with the fields that name its thread."""

    in_reply_to: str = ""
    references: str = ""


def reply(
    *,
    account: AccountRef | None = None,
    in_reply_to_message_id: str,
    body_text: str,
    body_html: str = "",
    attachment: OneAttachment | None = None,
    attachments: Attachments = (),
    now: datetime | None = None,
    failure_mode: FailureMode | str | None = None,
) -> SendResult:
    """Answer a recorded message: to its Reply-To or sender, in its thread (RFC 5322 §3.6.4), subject ``Re: …``.

    Raises:
        ReplyRejected: ``parent_not_found``.
        otherwise as ``send``.
    """
    check_may_send("reply")
    found = resolve_account(account)
    parent = _parent(found, in_reply_to_message_id)
    answer = AnswerArguments(
        account=found,
        to=parent.reply_to or parent.sender,
        subject=reply_subject(parent.subject),
        body_text=body_text,
        body_html=body_html,
        attachment=attachment,
        attachments=attachments,
        in_reply_to=parent.message_id,
        references=reply_references(parent.references, parent.in_reply_to, parent.message_id),
        now=now,
        failure_mode=failure_mode,
    )
    return send_message(answer)


@retried
def _record(account: Account, inbound: Inbound) -> InboundMessage:
    record, _ = InboundMessage.objects.get_or_create(
        account=account,
        message_id_hash=_hash(inbound.message_id or inbound.fingerprint),
        defaults={
            "message_id": inbound.message_id,
            "in_reply_to": inbound.in_reply_to,
            "sender": inbound.sender,
            "reply_to": list(inbound.reply_to),
            "subject": inbound.subject,
            "references": inbound.references,
            "left_out": "; ".join(inbound.left_out),
            "received_at": clock_for(None).now,
        },
    )
    return record


def _parsed(message: bytes | EmailMessage) -> Inbound:
    given: Any = message
    if not isinstance(given, bytes | bytearray | memoryview | EmailMessage):
        raise InvalidMessage(
            f"message: give bytes or an email.message.Message, not {type(given).__name__}", code="invalid_option"
        )
    return parse_inbound(given if isinstance(given, EmailMessage) else bytes(given))


def _parent(account: Account, message_id: str) -> InboundMessage:
    wanted = str(as_text(message_id)).strip()
    bare = wanted if wanted.startswith("<") else f"<{wanted}>"
    hashes = {_hash(wanted), _hash(bare)}
    parent = InboundMessage.objects.filter(account=account, message_id_hash__in=hashes).first()
    if parent is None:
        raise ReplyRejected(
            f"no message {bare[:100]} was recorded for the account “{account.name}”", code="parent_not_found"
        )
    return parent


def _hash(message_id: str) -> str:
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()
