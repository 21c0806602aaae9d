"""Checks of what a message says about itself: its Message-ID and its From address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.utils.translation import gettext as _

from prx_email_django.checks.accounts import has_accounts
from prx_email_django.checks.project import settings_in_force
from prx_email_django.conf.django_accounts import is_outbox_backend
from prx_email_django.conf.reader import NAME, default_from_email, email_backend, mailers
from prx_email_django.conf.table import DEFAULT_MESSAGE_ID_DOMAIN
from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.models import Account
from prx_email_django.rules.hosts import is_loopback


@checks.register(checks.Tags.database)
def check_repeated_ids(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W044: with the default domain, another database (or this one, made anew) gives the same Message-IDs.

    Only where an account reaches other people's mailboxes, which drop a repeated Message-ID as a copy.
    """
    settings = settings_in_force()
    if settings is None or settings.message_id_domain != DEFAULT_MESSAGE_ID_DOMAIN or not _remote(databases):
        return []
    return [
        checks.Warning(
            _(
                'PRX_EMAIL["MESSAGE_ID_DOMAIN"] is the default: another database, or this one when it is made '
                "anew, gives other messages the same Message-IDs, and mailboxes drop them as copies."
            ),
            hint=_('Set a domain of this installation: "mail.example.com", or "dev.ann.example.com" for a trial.'),
            obj=NAME,
            id="prx_email_django.W044",
        )
    ]


@checks.register(checks.Tags.database)
def check_default_from(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W045: mail would go out with a From address that nobody can answer, such as Django's webmaster@localhost."""
    address = default_from_email()
    if settings_in_force() is None or not _is_local(address):
        return []
    from_django = is_outbox_backend(email_backend()) or any(
        is_outbox_backend(entry.get("BACKEND")) for entry in (mailers() or {}).values() if isinstance(entry, dict)
    )
    names = [
        f"“{account.name}”"
        for account in _remote(databases)
        if from_django or not (account.email or "@" in account.user)
    ]
    if not names:
        return []
    return [
        checks.Warning(
            _(
                "DEFAULT_FROM_EMAIL is %(address)s: mail that names no From address has this one, and providers "
                "refuse it. It concerns: %(names)s."
            )
            % {"address": address, "names": ", ".join(names)},
            hint=_(
                "Set DEFAULT_FROM_EMAIL to an address of your domain that these accounts may send from; "
                "Account.email takes its place for send() and enqueue(), but not for Django's own messages."
            ),
            obj="DEFAULT_FROM_EMAIL",
            id="prx_email_django.W045",
        )
    ]


def _remote(databases: Sequence[str] | None) -> list[Account]:
    """Active accounts whose server is not this machine."""
    if not has_accounts(databases):
        return []
    return [
        account for account in Account.objects.order_by("name") if account.is_active and not is_loopback(account.host)
    ]


def _is_local(address: str) -> bool:
    try:
        domain = split_mailbox(address).addr_spec.rpartition("@")[2]
    except ValueError:
        return False
    return "." not in domain
