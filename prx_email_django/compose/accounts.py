"""The account that a call names, and its From address."""

from __future__ import annotations

from email.headerregistry import Address
from functools import lru_cache
from typing import Any, TypeAlias, cast

from django.db import DatabaseError, connections
from django.db.models import F, QuerySet

from prx_email_django.compose import known
from prx_email_django.compose.validation import as_text
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.reader import default_from_email
from prx_email_django.errors import AccountUnavailable, InvalidMessage
from prx_email_django.limits.slots import with_state_and_slots
from prx_email_django.models import Account
from prx_email_django.models.declared import declared_fields, settings_problem
from prx_email_django.models.foreign_text import fitted
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.text import CONTROL, shown_name
from prx_email_django.rules.words import Words
from prx_email_django.rules.words import words as _
from prx_email_django.store.db import is_refused_text
from prx_email_django.store.declared import keep_equal, make
from prx_email_django.store.insert_statement import can_insert

AccountRef: TypeAlias = Account | int | str


#: Where the default account is named.
DEFAULT_ACCOUNT = 'PRX_EMAIL["DEFAULT_ACCOUNT"]'
#: Names that an error lists.
_LISTED = 5


def resolve_account(account: AccountRef | None, *, active: bool = True, named_by: str = "") -> Account:
    """The account that ``account`` is, or whose primary key or name it is; without ``account``, the default account.

    ``named_by`` says for an error where the name comes from: a setting, a mailer, a router.

    Raises:
        AccountUnavailable: there is no such account, or (with ``active``) it is switched off.
    """
    account, named_by = _given_or_default(account, named_by)
    found = account if isinstance(account, Account) else _look_up(account, Account.objects.all(), named_by)
    return _checked(found, named_by) if active else found


def account_to_send(account: AccountRef | None, *, clock: Clock) -> Account:
    """As ``resolve_account``, but read now in any case, with what workers learned of the account and its slots.

    Raises:
        AccountUnavailable: there is none, or it is switched off.
    """
    account, named_by = _given_or_default(account, "")
    wanted = account.pk if isinstance(account, Account) else account
    return _checked(_look_up(wanted, with_state_and_slots(clock), named_by), named_by)


def account_and_largest(account: AccountRef | None) -> tuple[Account, int | None]:
    """As ``resolve_account``, and the SIZE that its server announced last, read with it; None: it was not read."""
    if isinstance(account, Account):
        return resolve_account(account), None
    wanted, named_by = _given_or_default(account, "")
    with_size = Account.objects.annotate(largest=F("runtime_state__size_limit"))
    found = _checked(_look_up(cast("int | str", wanted), with_size, named_by), named_by)
    return found, getattr(found, "largest", None) or 0


def account_to_queue(connection: Any, account: AccountRef | None, *, named_by: str = "") -> tuple[Account, str]:
    """As ``resolve_account``, and the version of the account's row, which the statement that queues compares.

    ``connection`` is that to the outbox's database.  An account that is named is kept for the process, and read again
    when the settings are read again or the statement finds another version of its row.  Empty version: the account is
    as the caller gave it, or was read now.
    """
    account, named_by = _given_or_default(account, named_by)
    if isinstance(account, Account):
        return resolve_account(account, named_by=named_by), ""
    if (found := known.get(connection, account)) is not None:
        return found
    if not can_insert(connection):
        return resolve_account(account, named_by=named_by), ""
    return known.keep(connection, account, _checked(_look_up(account, known.with_version(), named_by), named_by))


def _given_or_default(account: AccountRef | None, named_by: str) -> tuple[AccountRef, str]:
    if type(account) is str and account:
        return account, named_by  # nearly always
    account = as_text(account)
    if isinstance(account, bool) or not isinstance(account, Account | int | str | None):
        raise InvalidMessage("account must be an account, its primary key or its name", code="invalid_option")
    if isinstance(account, Account) and account.pk is None:
        raise AccountUnavailable(f"the account “{account.name}” has not been saved", code="account_not_found")
    if account is not None and account != "":
        return account, named_by
    default = outbox_settings().default_account
    if not default:
        raise AccountUnavailable(no_account_text(), code="no_default_account")
    return default, DEFAULT_ACCOUNT


def _checked(account: Account, named_by: str) -> Account:
    if not account.is_active:
        raise AccountUnavailable(inactive_text(account.name, named_by), code="account_inactive")
    if problem := settings_problem(account):
        raise AccountUnavailable(withheld_text(account.name, problem), code="account_inactive")
    return account


def _look_up(account: int | str, accounts: QuerySet[Account], named_by: str) -> Account:
    by = {"name": account} if isinstance(account, str) else {"pk": account}
    try:
        # A name that the database cannot hold is no account's; PostgreSQL would end the caller's transaction.
        can_be = fitted(account, connections[outbox_alias()]) == account
        found = accounts.filter(**by).first() if can_be else None
        if found is not None and isinstance(account, str) and found.name != account:
            found = None  # MariaDB takes “Shop” for “shop”, which may be another account of the settings
    except (DatabaseError, UnicodeEncodeError) as error:
        if not is_refused_text(error):
            raise
        found = None
    if found is None and isinstance(account, str) and (made := make(account)):
        found = accounts.filter(pk=made.pk).first() or made  # a repeatable read does not show what was made beside it
    if found is None:
        raise AccountUnavailable(_not_found(account, named_by), code="account_not_found")
    keep_equal(found)
    return found


def _not_found(account: int | str, named_by: str) -> str:
    made = declared_fields(account) if isinstance(account, str) else None
    if made is not None and made.problems:
        return withheld_text(made.declared.name, made.problems[0].text)
    return missing_text(account, named_by)


def missing_text(account: int | str, named_by: str) -> Words:
    """Say that the account does not exist, where its name comes from, and what to do."""
    account = shown_name(account) if isinstance(account, str) else account
    if not named_by:
        return _("there is no account “%(name)s”; %(known)s", name=account, known=_known_accounts())
    return _(
        "there is no account “%(name)s”, which %(named_by)s names; %(known)s",
        name=account,
        named_by=named_by,
        known=_known_accounts(),
    )


def inactive_text(name: str, named_by: str) -> Words:
    """Say that the account is switched off, where its name comes from, and what to do."""
    if not named_by:
        return _("the account “%(name)s” is switched off; activate it in the admin, or name another account", name=name)
    return _(
        "the account “%(name)s”, which %(named_by)s names, is switched off; activate it in the admin, or name another "
        "account",
        name=name,
        named_by=named_by,
    )


def withheld_text(name: str, problem: str) -> Words:
    """Say why an account that the settings declare, or declared, must not send."""
    return _("the account “%(name)s” sends nothing: %(problem)s", name=name, problem=problem)


def no_account_text() -> Words:
    """Say that nothing names an account, and what to do."""
    return _("no account is named, and PRX_EMAIL has no DEFAULT_ACCOUNT; %(known)s", known=_known_accounts())


def _known_accounts() -> Words:
    names = list(Account.objects.order_by("name").values_list("name", flat=True)[: _LISTED + 1])
    known = ", ".join(f"“{name}”" for name in names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    make = _('declare an account in PRX_EMAIL["ACCOUNTS"], add it in the admin, or use Account.objects.from_preset()')
    if names:
        return _("there are %(names)s; %(advice)s", names=known, advice=make)
    return _("there is no account yet: %(advice)s", advice=make)


def account_default_from(account: Account) -> str:
    """The From header of messages without one: the account's address with its display name."""
    email = account.email  # may be derived
    return _with_name(email, account.display_name) if email else default_from_email()


@lru_cache(maxsize=64)
def _with_name(address: str, display_name: str) -> str:
    # Validation refuses control characters in the name; a row that was written past it must not lose every message.
    display_name = CONTROL.sub(" ", display_name).strip()
    if not display_name:
        return address
    try:
        return str(Address(display_name=display_name, addr_spec=address))
    except ValueError:  # headerregistry refuses a non-ASCII local part
        return address
