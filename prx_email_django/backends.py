"""The email backend: what Django would send is queued instead, in the caller's transaction.

Django 5.2 and 6.0::

    EMAIL_BACKEND = "prx_email_django.backends.OutboxEmailBackend"
    PRX_EMAIL = {"DEFAULT_ACCOUNT": "main"}

Django 6.1 and later::

    MAILERS = {
        "default": {"BACKEND": "prx_email_django.backends.OutboxEmailBackend", "OPTIONS": {"account": "main"}},
        "bulk": {
            "BACKEND": "prx_email_django.backends.OutboxEmailBackend",
            "OPTIONS": {"account": "bulk", "priority": -5, "expires_after": "6h", "on_unknown": "hold"},
        },
    }

The account is the mailer's, else the one that ``PRX_EMAIL["ACCOUNT_ROUTER"]`` names, else the default one.

Three things to know.  A mail about an error goes into the database like any other: one about a dead database cannot,
and errors of delivery that are mailed so make more mail; give ``AdminEmailHandler`` a plain SMTP mailer (``using``; on
5.2 and 6.0 ``email_backend``).  What counts as sent is queued: ``sendtestemail`` succeeds although nothing has left
yet.  Django's test runner puts its own backend in the place of this one; ``prx_email_django.testing`` puts it back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from email.utils import parseaddr
from typing import Any

from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import Error as DatabaseError
from django.utils.module_loading import import_string

from prx_email_django import api
from prx_email_django.conf import outbox_settings
from prx_email_django.django_mail.backend_options import OPTION_NAMES, read_backend_options
from prx_email_django.django_mail.draft import draft_from_email
from prx_email_django.errors import OutboxError
from prx_email_django.models import Account
from prx_email_django.store.db import atomic, clock_for
from prx_email_django.store.insert import Draft

__all__ = ["OutboxEmailBackend", "by_from_address"]

logger = logging.getLogger("prx_email_django")


class OutboxEmailBackend(BaseEmailBackend):
    """Queues messages; a drain sends them.

    ``account``, ``priority``, ``expires_after`` (a duration) and ``on_unknown`` hold for every message that does not
    say otherwise (``snapshot.options``).  Wrong and misspelt ones raise ``ImproperlyConfigured`` (from Django 6.1 on
    its subclass ``InvalidMailer``), and are found by a system check before.
    """

    #: What OPTIONS may name; the system check reads it, so a subclass with options of its own adds them.
    outbox_options: frozenset[str] = frozenset(OPTION_NAMES)

    def __init__(  # noqa: PLR0913  (the options of a mailer)
        self,
        fail_silently: bool = False,
        *,
        account: str | None = None,
        priority: int = 0,
        expires_after: object = None,
        on_unknown: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._refuse_slips(kwargs)
        super().__init__(**kwargs)
        # After the base class, which from Django 6.1 on warns where this is read and not set.
        self.fail_silently = fail_silently
        try:
            self.options = read_backend_options(account, priority, expires_after, on_unknown)
        except ValueError as error:
            raise _misconfigured(str(error), getattr(self, "alias", None)) from error

    def _refuse_slips(self, options: Mapping[str, Any]) -> None:
        """``acount`` would choose another account without a word.  What is unlike ours is left to the base class.

        Django's code hands any backend the options of another (``get_connection(host=…)``), and Django ignores them.
        """
        for name in options:
            if name not in self.outbox_options and get_close_matches(name, self.outbox_options, cutoff=0.85):
                known = ", ".join(sorted(self.outbox_options))
                # The first sentence is Django's own.
                raise _misconfigured(f"Unknown options {name!r}. Known are {known}.", options.get("alias"))

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Queue the messages that have recipients and return how many; each gets its row's id as ``outbox_id``.

        All of them or, where one raises, none.  With ``fail_silently`` each one by itself: what the outbox refuses and
        what the database cannot take is logged and not counted; a message that cannot be rendered raises all the same,
        as with Django's SMTP backend.

        Raises:
            OutboxError: ``InvalidMessage``, ``AttachmentRejected``, ``AccountUnavailable``.
            ValueError: a bad header or address.
        """
        messages = [one for one in email_messages if one.recipients()]
        if self.fail_silently:
            return sum(self._queue_silently(one) for one in messages)
        return self._queue(messages)

    def _queue(self, messages: Sequence[EmailMessage]) -> int:
        """All of them or none."""
        if not messages:
            return 0
        accounts: dict[str | None, Account] = {}
        now = clock_for(None).now
        with atomic():
            rows = api.enqueue_drafts([self._draft(one, now, accounts) for one in messages], now=now)
        for message, row in zip(messages, rows, strict=True):
            message.outbox_id = row.pk  # type: ignore[attr-defined]
        return len(rows)

    def _queue_silently(self, message: EmailMessage) -> int:
        try:
            return self._queue([message])
        except (OutboxError, DatabaseError) as error:
            if isinstance(error, ValueError):
                raise
            logger.warning("a message was not queued (fail_silently): %s", getattr(error, "code", type(error).__name__))
            return 0

    def _draft(self, message: EmailMessage, now: datetime, accounts: dict[str | None, Account]) -> Draft:
        return draft_from_email(
            message,
            account=self._account(message, accounts),
            now=now,
            priority=self.options.priority,
            expires_after=self.options.expires_after,
            on_unknown=self.options.on_unknown or None,
        )

    def _account(self, message: EmailMessage, accounts: dict[str | None, Account]) -> Account:
        """The account of a message; each name is looked up once in one ``send_messages``."""
        router = outbox_settings().account_router
        name = self.options.account or (import_string(router)(message) if router else None) or None
        if isinstance(name, Account):
            return api.resolve_account(name)
        if name not in accounts:
            accounts[name] = api.resolve_account(name)
        return accounts[name]


def by_from_address(message: EmailMessage) -> str:
    """For ``ACCOUNT_ROUTER``: the account whose ``email`` is the From address, else one of its domain, or the default.

    So the visible sender and the account that authenticates agree, which DMARC asks for.  The From header decides,
    where ``headers`` overrides ``from_email``.  Case does not matter, and switched-off accounts do not count.  Of
    several accounts the default one is taken, else the first by name.  Returns its name; empty: the default account.
    """
    _, address = parseaddr(str(message.extra_headers.get("From", message.from_email)))
    address = address.lower()
    domain = address.rpartition("@")[2]
    if not domain:
        return ""
    active = Account.objects.filter(is_active=True, email__iendswith=f"@{domain}").order_by("name")
    found = list(active.values_list("name", "email"))
    exact = [name for name, email in found if email.lower() == address]
    names = exact or [name for name, _ in found]
    default = outbox_settings().default_account
    return default if default in names else next(iter(names), "")


def _misconfigured(text: str, alias: str | None) -> ImproperlyConfigured:
    invalid_mailer = getattr(mail, "InvalidMailer", None)
    return invalid_mailer(text, alias=alias) if invalid_mailer else ImproperlyConfigured(text)
