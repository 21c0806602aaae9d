"""The admin of the outbox: lists, one page per message, the account form, and buttons.

Only accounts can be edited; every other row is read-only.  A button is a POST request that calls ``api``, needs the
change permission, and shows how many messages changed and how many were refused.  No page speaks SMTP, and a GET
request changes nothing.

To extend a page, derive from its mixin (``OutboxMessageAdminMixin``, ``AccountAdminMixin``), unregister the class of
this package and register your own.  The templates override blocks of Django's templates, so themes keep working.
"""

from prx_email_django.admin import outbox, records
from prx_email_django.admin.accounts import AccountAdmin, AccountAdminMixin
from prx_email_django.admin.base import FactsAdminMixin
from prx_email_django.admin.dashboard import OutboxAdmin, OutboxAdminMixin
from prx_email_django.admin.messages import OutboxMessageAdmin, OutboxMessageAdminMixin

__all__ = [
    "AccountAdmin",
    "AccountAdminMixin",
    "FactsAdminMixin",
    "OutboxAdmin",
    "OutboxAdminMixin",
    "OutboxMessageAdmin",
    "OutboxMessageAdminMixin",
    "outbox",
    "records",
]
