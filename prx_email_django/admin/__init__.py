"""The admin: what people see of the outbox, and the buttons by which they act on it.

Rows are facts and cannot be edited; only the account form can.  A button is a POST that calls ``api``, needs the change
permission, and tells how many messages changed and how many were refused.  No page speaks SMTP, and no GET changes
anything.

To grow a page, derive from its mixin (``OutboxMessageAdminMixin``, ``AccountAdminMixin``), unregister ours and register
your own; the templates are blocks over Django's own, so that themes keep working.
"""

from prx_email_django.admin.accounts import AccountAdmin, AccountAdminMixin
from prx_email_django.admin.base import FactsAdminMixin
from prx_email_django.admin.messages import OutboxMessageAdmin, OutboxMessageAdminMixin
from prx_email_django.admin.outbox import OutboxStateAdmin
from prx_email_django.admin.records import (
    AccountStateAdmin,
    AttachmentAdmin,
    ConnectionSlotAdmin,
    DeliveryAttemptAdmin,
    InboundMessageAdmin,
    RateWindowAdmin,
    RecipientAdmin,
)

__all__ = [
    "AccountAdmin",
    "AccountAdminMixin",
    "AccountStateAdmin",
    "AttachmentAdmin",
    "ConnectionSlotAdmin",
    "DeliveryAttemptAdmin",
    "FactsAdminMixin",
    "InboundMessageAdmin",
    "OutboxMessageAdmin",
    "OutboxMessageAdminMixin",
    "OutboxStateAdmin",
    "RateWindowAdmin",
    "RecipientAdmin",
]
