"""The email backend: queues messages in the caller's transaction instead of sending them.

Django 5.2 and 6.0::

    EMAIL_BACKEND = "prx_email_django.backends.OutboxEmailBackend"
    PRX_EMAIL = {"DEFAULT_ACCOUNT": "main"}

A project that has only changed the path of its backend keeps Django's ``EMAIL_HOST`` and its neighbours (in MAILERS the
OPTIONS of Django's SMTP backend): they become an account.

Django 6.1 and later::

    MAILERS = {
        "default": {"BACKEND": "prx_email_django.backends.OutboxEmailBackend", "OPTIONS": {"account": "main"}},
        "bulk": {
            "BACKEND": "prx_email_django.backends.OutboxEmailBackend",
            "OPTIONS": {"account": "bulk", "priority": -5, "expires_after": "6h", "on_unknown": "hold"},
        },
    }

The account is that of the message (``outbox_account``), else that of the mailer, else that of
``PRX_EMAIL["ACCOUNT_ROUTER"]``, else the default account.

Three limits:

- An error report is queued in the database like every message.  It is lost if the database is unavailable, and a
  report about a failed delivery causes more mail.  Give ``AdminEmailHandler`` a plain SMTP mailer (``using``; on
  Django 5.2 and 6.0 ``email_backend``).
- A return value of 1 means queued: ``sendtestemail`` succeeds before the message is sent.
- Django's test runner replaces this backend by its own; ``prx_email_django.testing`` restores it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from email.utils import parseaddr
from functools import partial
from typing import Any

from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import Error as DatabaseError
from django.db.models import Q
from django.utils.module_loading import import_string

from prx_email_django import api
from prx_email_django.compose.accounts import AccountRef
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.declared import SMTP_OPTIONS
from prx_email_django.django_mail.backend_options import OPTION_NAMES, account_of_smtp_options, read_backend_options
from prx_email_django.django_mail.draft import draft_from_email
from prx_email_django.django_mail.options import account_of
from prx_email_django.errors import AccountUnavailable, OutboxError
from prx_email_django.models import Account
from prx_email_django.models.managers import outbox_connection
from prx_email_django.rules.domains import folded_address, shown_domain
from prx_email_django.store.db import atomic, clock_for, in_transaction
from prx_email_django.store.draft import Draft

__all__ = ["OutboxEmailBackend", "by_from_address"]

logger = logging.getLogger("prx_email_django")


class OutboxEmailBackend(BaseEmailBackend):
    """Queues messages; a drain sends them.

    ``account``, ``priority``, ``expires_after`` (a duration) and ``on_unknown`` apply to every message of the mailer
    (``django_mail.backend_options``).  An invalid or misspelt option raises ``ImproperlyConfigured`` (from Django 6.1
    on its subclass ``InvalidMailer``); a system check reports it earlier.
    """

    #: Names that OPTIONS may contain.  The system check reads them; a subclass with its own options adds their names.
    outbox_options: frozenset[str] = frozenset(OPTION_NAMES)

    def __init__(  # noqa: PLR0913  (each option of a mailer is an argument)
        self,
        fail_silently: bool = False,
        *,
        account: str | None = None,
        priority: int = 0,
        expires_after: object = None,
        on_unknown: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._refuse_misspelt(kwargs)
        smtp = {name: kwargs.pop(name) for name in SMTP_OPTIONS if name in kwargs}
        super().__init__(**kwargs)
        # Set after super().__init__(): from Django 6.1 on the base class warns if it is read before it is set.
        self.fail_silently = fail_silently
        alias = getattr(self, "alias", None)
        try:
            of_smtp = account_of_smtp_options(smtp, alias=alias, account=account)
            self.options = read_backend_options(account or of_smtp or None, priority, expires_after, on_unknown)
        except ValueError as error:
            raise _misconfigured(str(error), alias) from error

    def _refuse_misspelt(self, options: Mapping[str, Any]) -> None:
        """Raise for a misspelt option: ``acount`` would silently select the default account.

        Other names are passed to the base class, which ignores them before Django 6.1.
        """
        for name in options:
            if name not in self.outbox_options and get_close_matches(name, self.outbox_options, cutoff=0.85):
                known = ", ".join(sorted(self.outbox_options))
                # The first sentence is Django's.
                raise _misconfigured(f"Unknown options {name!r}. Known options: {known}.", options.get("alias"))

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Queue the messages that have recipients and return their number; set ``outbox_id`` on each.

        Queues all messages, or none if one of them raises.  With ``fail_silently`` each message is queued separately:
        a message that the outbox or the database refuses is logged and not counted.  A message that cannot be rendered
        raises also with ``fail_silently``, as in Django's SMTP backend.

        Raises:
            OutboxError: ``InvalidMessage``, ``AttachmentRejected``, ``AccountUnavailable``.
            ValueError: an invalid header or address.
        """
        messages = [message for message in email_messages if message.recipients()]
        if self.fail_silently:
            return sum(self._queue_silently(message) for message in messages)
        return self._queue(messages)

    def _queue(self, messages: Sequence[EmailMessage]) -> int:
        """Queue all messages or none."""
        if not messages:
            return 0
        # Counted from the instant of the call, which the messages of one call share.
        now = clock_for(None).now if self.options.expires_after is not None else None
        known: dict[AccountRef | None, tuple[Account, str]] = {}
        connection = outbox_connection()
        find = partial(api.account_to_queue, connection)
        drafts = [self._draft(message, now, *self._account(message, known, find)) for message in messages]
        try:
            rows = api.enqueue_drafts(drafts, now=now, connection=connection)
        except (api.Unfit, OutboxError):
            if not any(draft.version for draft in drafts):
                raise
            rows = api.enqueue_drafts(self._with_accounts_of_now(messages, drafts), now=now)
        for message, row in zip(messages, rows, strict=True):
            message.outbox_id = row.pk  # type: ignore[attr-defined]
        return len(rows)

    def drafts(self, messages: Sequence[EmailMessage]) -> list[Draft]:
        """The messages as ``send_messages`` would queue them now, unwritten; raises as ``send_messages``."""
        now = clock_for(None).now
        read: dict[AccountRef | None, tuple[Account, str]] = {}
        return [self._draft(message, now, *self._account(message, read, _read_now)) for message in messages]

    def _with_accounts_of_now(self, messages: Sequence[EmailMessage], drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts with accounts that are read now: one that this process knew has changed."""
        read: dict[AccountRef | None, tuple[Account, str]] = {}
        return [
            replace(draft, account=self._account(message, read, _read_now)[0], version="")
            for message, draft in zip(messages, drafts, strict=True)
        ]

    def _queue_silently(self, message: EmailMessage) -> int:
        try:
            with atomic() if in_transaction() else nullcontext():  # the caller's transaction goes on after an error
                return self._queue([message])
        except (OutboxError, DatabaseError) as error:
            if isinstance(error, ValueError):
                raise
            reason = (
                str(error) if isinstance(error, AccountUnavailable) else getattr(error, "code", type(error).__name__)
            )
            logger.warning("a message was not queued (fail_silently): %s", reason)
            return 0

    def _draft(self, message: EmailMessage, now: datetime | None, account: Account, version: str) -> Draft:
        return draft_from_email(
            message,
            account=account,
            version=version,
            now=now,
            priority=self.options.priority,
            expires_after=self.options.expires_after,
            on_unknown=self.options.on_unknown or None,
        )

    def _account(
        self,
        message: EmailMessage,
        accounts: dict[AccountRef | None, tuple[Account, str]],
        find: Callable[..., tuple[Account, str]],
    ) -> tuple[Account, str]:
        """Return the account of a message; each name is looked up once per ``send_messages``."""
        router, alias = outbox_settings().account_router, getattr(self, "alias", None)
        name, named_by = account_of(message), "outbox_account"
        if name is None:
            named_by = f"MAILERS[{alias!r}]" if alias else "the option “account” of the email backend"
            name = self.options.account or None
        if name is None and router:
            name, named_by = import_string(router)(message) or None, f'PRX_EMAIL["ACCOUNT_ROUTER"] ({router})'
        if isinstance(name, Account):
            return find(name, named_by=named_by)
        if name not in accounts:
            accounts[name] = find(name, named_by=named_by)
        return accounts[name]


def _read_now(account: AccountRef | None, *, named_by: str) -> tuple[Account, str]:
    return api.resolve_account(account, named_by=named_by), ""


def by_from_address(message: EmailMessage) -> str:
    """For ``ACCOUNT_ROUTER``: name the account whose ``email`` is the From address, else an account of its domain.

    Then the visible sender and the authenticated account agree, as DMARC requires.  A From header in ``headers``
    overrides ``from_email``.  Case is ignored, and so are inactive accounts.  If several accounts match, the default
    account is used, else the first by name.  Returns a name; empty for the default account.
    """
    _, given = parseaddr(str(message.extra_headers.get("From", message.from_email)))
    address = folded_address(given)
    domain = address.rpartition("@")[2]
    if not domain:
        return ""
    # An account's address is stored as a person wrote it, perhaps with the letters of a language in its domain.
    spelled = Q(email__iendswith=f"@{domain}") | Q(email__iendswith=f"@{shown_domain(domain)}")
    found = list(Account.objects.filter(spelled, is_active=True).order_by("name").values_list("name", "email"))
    exact = [name for name, email in found if folded_address(email) == address]
    names = exact or [name for name, _ in found]
    default = outbox_settings().default_account
    return default if default in names else next(iter(names), "")


def _misconfigured(text: str, alias: str | None) -> ImproperlyConfigured:
    invalid_mailer = getattr(mail, "InvalidMailer", None)
    return invalid_mailer(text, alias=alias) if invalid_mailer else ImproperlyConfigured(text)
