"""Accounts that Django's own mail settings declare, for a project that has only changed the backend's path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.module_loading import import_string

from prx_email_django.conf.declared import DJANGO_ACCOUNT, SMTP_OPTIONS, DeclaredAccount, from_smtp_options
from prx_email_django.conf.reader import email_backend, email_settings, mailers


def accounts_of_django(values: Mapping[str, Any]) -> dict[str, DeclaredAccount]:
    """The accounts by name; ``values`` are those of ``PRX_EMAIL``.

    With MAILERS (Django 6.1) each entry of this app's backend that has OPTIONS of Django's SMTP backend makes one,
    named as its alias.  Without MAILERS ``EMAIL_HOST`` and its neighbours make the account ``django``, unless
    DEFAULT_ACCOUNT or ACCOUNTS is set.
    """
    configured = mailers()
    if configured is not None:
        return {
            alias: _account_of_mailer(alias, entry["OPTIONS"])
            for alias, entry in configured.items()
            if _has_smtp_options(entry) and is_outbox_backend(entry.get("BACKEND"))
        }
    if values["default_account"] or values["accounts"] or not is_outbox_backend(email_backend()):
        return {}
    options = dict(zip(SMTP_OPTIONS, email_settings(SMTP_OPTIONS.values()), strict=True))
    return {DJANGO_ACCOUNT: from_smtp_options(DJANGO_ACCOUNT, options, path="EMAIL_HOST", paths=SMTP_OPTIONS)}


def _has_smtp_options(entry: object) -> bool:
    options = entry.get("OPTIONS") if isinstance(entry, Mapping) else None
    return isinstance(options, Mapping) and not SMTP_OPTIONS.keys().isdisjoint(options)


def _account_of_mailer(alias: str, options: Mapping[str, object]) -> DeclaredAccount:
    path = f"MAILERS[{alias!r}]"
    paths = {option: f'{path}["OPTIONS"]["{option}"]' for option in SMTP_OPTIONS}
    given = {option: options.get(option) for option in SMTP_OPTIONS}
    return from_smtp_options(alias, given, path=path, paths=paths)


def is_outbox_backend(path: object) -> bool:
    """Whether the path names the email backend of this app, or one that is derived from it."""
    if not isinstance(path, str) or path.startswith("django."):
        return False
    try:
        return isinstance(getattr(import_string(path), "outbox_options", None), frozenset)
    except ImportError:
        return False
