"""A Django ``EmailMessage``, as it stands at this moment, becomes a draft of the outbox."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.core.mail import EmailMessage

from prx_email_django.django_mail.columns import shown_columns
from prx_email_django.django_mail.envelope import envelope_address, envelope_recipients
from prx_email_django.django_mail.options import read_options
from prx_email_django.django_mail.source import check_attachment_sizes, rendered
from prx_email_django.models import Account
from prx_email_django.store.insert import Draft


def draft_from_email(  # noqa: PLR0913  (what a mailer's OPTIONS can say)
    message: EmailMessage,
    *,
    account: Account,
    now: datetime,
    priority: int = 0,
    expires_after: timedelta | None = None,
    on_unknown: str | None = None,
) -> Draft:
    """The draft of a message that Django's SMTP backend would send; nothing is written.

    The octets are those that ``message.message()`` makes now, so whatever a subclass does there is kept, and later
    changes to the message or its attachments change nothing.  The envelope is the message's own ``from_email`` and
    ``recipients()``: ``headers={"From": …, "To": …}`` change the header only.  Message-ID and Date are left to the
    outbox unless the caller chose them.  ``tag``, ``metadata`` and the like are read from the message's attributes and
    ``X-Outbox-…`` headers (see ``snapshot.options``), which win over ``priority``; ``expires_after`` counts from the
    time at which the message becomes due.

    Raises:
        InvalidEmail: an address that no envelope can hold, or no recipient at all (a ``ValueError`` too, as Django's).
        InvalidMessage: an option that cannot be.
        AttachmentRejected: ``attachment_too_large``; the list of content types binds only ``send`` and ``enqueue``.
        ValueError: what ``message.message()`` raises, for a line end in a header for example.
    """
    mail = rendered(message)
    options = read_options(message, mail.own_fields, priority=priority)
    recipients = envelope_recipients(message)
    check_attachment_sizes(mail.raw)
    due_at = options.send_at or now
    return Draft(
        account=account,
        due_at=due_at,
        recipients=recipients,
        raw=mail.raw,
        idempotency_key=options.idempotency_key,
        fields={
            **shown_columns(message, mail.raw),
            "envelope_from": envelope_address("from_email", message.from_email),
            "fixed_message_id": mail.message_id,
            "priority": options.priority,
            "expires_at": None if expires_after is None else due_at + expires_after,
            "on_unknown": on_unknown or "",
            "tag": options.tag,
            "metadata": options.metadata,
        },
    )
