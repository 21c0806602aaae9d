"""Accounts that the settings name and that cannot take a message: mail over them is lost when it is queued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext

from prx_email_django.compose.accounts import (
    DEFAULT_ACCOUNT,
    inactive_text,
    missing_text,
    no_account_text,
    withheld_text,
)
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.reader import email_backend, mailers
from prx_email_django.django_mail.backend_options import outbox_options
from prx_email_django.models import Account
from prx_email_django.models.declared import declared_fields
from prx_email_django.rules.words import in_words
from prx_email_django.rules.words import words as _

#: A subclass may choose the account itself.
_OWN_BACKEND = "prx_email_django.backends.OutboxEmailBackend"


@dataclass(frozen=True, slots=True)
class UnusableAccount:
    """An account that a setting names: where (``named_by``), its name (empty: none is named), and what is wrong."""

    named_by: str
    name: str
    problem: str


def unusable_accounts() -> list[UnusableAccount]:
    """Return what the settings name and cannot be used; a router names accounts by message, and is not asked.

    Raises:
        ImproperlyConfigured: the settings are invalid.
    """
    return [found for named_by, name in _named() for found in _judged(named_by, name)]


def _named() -> Iterator[tuple[str, str]]:
    """Where the settings name an account, and its name; empty where mail would find none."""
    settings = outbox_settings()
    if settings.default_account:
        yield DEFAULT_ACCOUNT, settings.default_account
    finds_none = not settings.default_account and not settings.account_router
    for alias, entry in (mailers() or {}).items():
        named_by, name = f"MAILERS[{alias!r}]", _mailer_account(entry)
        if name or (finds_none and isinstance(entry, Mapping) and entry.get("BACKEND") == _OWN_BACKEND):
            yield named_by, name
    if finds_none and email_backend() == _OWN_BACKEND:
        yield "EMAIL_BACKEND", ""


def _mailer_account(entry: object) -> str:
    options: Any = entry.get("OPTIONS") if isinstance(entry, Mapping) and outbox_options(entry.get("BACKEND")) else None
    name = options.get("account") if isinstance(options, Mapping) else None
    return name if isinstance(name, str) else ""


def _judged(named_by: str, name: str) -> Iterator[UnusableAccount]:
    if not name:
        yield UnusableAccount(
            named_by,
            name,
            in_words(_("%(named_by)s loses mail: %(problem)s", named_by=named_by, problem=no_account_text()), gettext),
        )
        return
    if (made := declared_fields(name)) is not None:
        if made.problems:
            yield UnusableAccount(named_by, name, in_words(withheld_text(name, made.problems[0].text), gettext))
            return
        if not Account.objects.filter(name=name).exists():
            return  # whoever uses it first makes it
    is_active = Account.objects.filter(name=name).values_list("is_active", flat=True).first()
    if is_active is None:
        yield UnusableAccount(named_by, name, in_words(missing_text(name, named_by), gettext))
    elif not is_active:
        yield UnusableAccount(named_by, name, in_words(inactive_text(name, named_by), gettext))
