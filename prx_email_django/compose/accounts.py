"""The account that a call names, and its From address."""

from __future__ import annotations

from email.headerregistry import Address
from typing import TypeAlias

from django.db.models import QuerySet

from prx_email_django.conf import default_from_email, outbox_settings
from prx_email_django.errors import AccountUnavailable
from prx_email_django.limits.pauses import with_state
from prx_email_django.models import Account
from prx_email_django.rules.text import CONTROL

AccountRef: TypeAlias = Account | int | str


def resolve_account(account: AccountRef | None, *, active: bool = True) -> Account:
    """The account that ``account`` is, or whose primary key or name it is; without ``account``, the default account.

    Raises:
        AccountUnavailable: there is no such account, or (with ``active``) it is switched off.
    """
    account = _default_if_none(account)
    found = account if isinstance(account, Account) else _look_up(account, Account.objects.all())
    if found.pk is None:
        raise AccountUnavailable(f"the account “{found.name}” has not been saved", code="account_not_found")
    return _checked(found) if active else found


def account_to_send(account: AccountRef | None) -> Account:
    """As ``resolve_account``, but read now in any case, together with what workers learned of the account.

    Raises:
        AccountUnavailable: there is none, or it is switched off.
    """
    account = _default_if_none(account)
    if isinstance(account, Account):
        if account.pk is None:
            raise AccountUnavailable(f"the account “{account.name}” has not been saved", code="account_not_found")
        account = account.pk
    return _checked(_look_up(account, with_state()))


def _default_if_none(account: AccountRef | None) -> AccountRef:
    if account is None or account == "":
        account = outbox_settings().default_account
    if not account:
        raise AccountUnavailable(
            "account must be given where PRX_EMAIL has no DEFAULT_ACCOUNT", code="no_default_account"
        )
    return account


def _checked(account: Account) -> Account:
    if not account.is_active:
        raise AccountUnavailable(f"the account “{account.name}” is switched off", code="account_inactive")
    return account


def _look_up(account: int | str, accounts: QuerySet[Account]) -> Account:
    by = {"name": account} if isinstance(account, str) else {"pk": account}
    found = accounts.filter(**by).first()
    if found is None:
        raise AccountUnavailable(f"there is no account “{account}”", code="account_not_found")
    return found


def account_default_from(account: Account) -> str:
    """The From header of messages without one: the account's address with its display name."""
    address = account.email or (account.user if "@" in account.user else default_from_email())
    # Validation refuses control characters in the name; a row that was written past it must not lose every message.
    display_name = CONTROL.sub(" ", account.display_name).strip()
    if not display_name or not account.email:
        return address
    try:
        return str(Address(display_name=display_name, addr_spec=address))
    except ValueError:  # headerregistry refuses a non-ASCII local part
        return address
