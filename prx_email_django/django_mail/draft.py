"""The ``Draft`` of a Django ``EmailMessage``, as the message is at this moment."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.core.mail import EmailMessage

from prx_email_django.compose.headers import check_head_size
from prx_email_django.compose.validation import check_not_expired
from prx_email_django.django_mail.columns import shown_columns
from prx_email_django.django_mail.envelope import envelope_address, envelope_recipients
from prx_email_django.django_mail.options import MailOptions, read_options
from prx_email_django.django_mail.plain import plain_columns
from prx_email_django.django_mail.source import Rendered, check_attachment_sizes, render_email
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import Account
from prx_email_django.store.draft import Draft, is_queued


def draft_from_email(  # noqa: PLR0913  (the OPTIONS of a mailer, keyword-only)
    message: EmailMessage,
    *,
    account: Account,
    now: datetime | None,
    priority: int = 0,
    expires_after: timedelta | None = None,
    on_unknown: str | None = None,
    version: str = "",
) -> Draft:
    """The draft of a message that Django's SMTP backend would send; nothing is written.

    ``message.message()`` renders the message now: what a subclass does there is kept, and later changes to the
    message or its attachments have no effect.  A message that needs no rendering (``plain``) is kept as its texts.
    The envelope is made of ``from_email`` and ``recipients()``; ``headers={"From": …, "To": …}`` changes the header
    only.  The outbox makes Message-ID and Date unless the caller chose them.  Options (``tag``, ``metadata`` and so
    on) are read from the message's attributes and ``X-Outbox-…`` headers, see ``options``; they win over
    ``priority``.  ``expires_after`` counts from the instant at which the message becomes due.  ``now`` None (not
    with ``expires_after``): see ``compose.message.compose``.

    Raises:
        InvalidEmail: an address that no envelope can hold, or no recipient (a ``ValueError`` too, as in Django).
        InvalidMessage: an invalid option, or a message that no server takes.
        AttachmentRejected: ``attachment_too_large``; the list of content types does not apply here.
        ValueError: raised by ``message.message()``, for example for a line end in a header.
    """
    check_head_size(
        message.to, message.cc, message.reply_to, message.from_email, message.subject, message.extra_headers
    )
    columns, raw, message_id, fields = plain_columns(message), None, "", {}
    if columns is None:
        rendered = _rendered(message)
        raw, message_id, fields = rendered.raw, rendered.message_id, rendered.outbox_fields
    options = read_options(message, fields, priority=priority, on_unknown=on_unknown)
    check_not_expired(options.expires_at, now, is_queued=partial(is_queued, account, options.idempotency_key))
    recipients = envelope_recipients(message)
    if raw is not None:
        check_attachment_sizes(raw)
        columns = shown_columns(message, raw)
    due_at = options.send_at or now
    ends_at = due_at + expires_after if due_at and expires_after is not None else None
    return Draft(
        account=account,
        due_at=due_at,
        recipients=recipients,
        raw=raw,
        idempotency_key=options.idempotency_key,
        version=version,
        fields={
            **(columns or {}),
            "envelope_from": envelope_address("from_email", message.from_email),
            **({"fixed_message_id": message_id} if message_id else {}),
            **_option_columns(options, ends_at=ends_at),
        },
    )


def _option_columns(options: MailOptions, *, ends_at: datetime | None) -> dict[str, Any]:
    """The columns of the options that differ from their defaults; ``ends_at`` where the message names none."""
    columns = {
        "priority": options.priority,
        "expires_at": options.expires_at or ends_at,
        "on_unknown": options.on_unknown,
        "is_sensitive": options.is_sensitive,
        "tag": options.tag,
    }
    given = {name: value for name, value in columns.items() if value}
    return given if options.metadata == {} else {**given, "metadata": options.metadata}


def _rendered(message: EmailMessage) -> Rendered:
    """Render the message; the standard library reads comments in comments, and parts in parts, by recursion."""
    try:
        return render_email(message)
    except RecursionError as error:
        raise InvalidMessage(
            "the message must not have a header with so many comments in comments, or so many parts in parts",
            code="invalid_header",
        ) from error
