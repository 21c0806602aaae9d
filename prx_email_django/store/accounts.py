"""Makes an account that a person describes, or changes it so that it is as described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.models import Account
from prx_email_django.models.account_validation import SECRET_FIELDS
from prx_email_django.models.choices import Security
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.store.db import atomic, retried_after_conflict

#: Which login fields end when others are given: an account has one way to log in.
_TOKEN_FIELDS = ("oauth_token", "oauth_refresh_token", "oauth_client_secret", "oauth_provider")


@dataclass(frozen=True, slots=True)
class AccountChange:
    """What was done: whether the row was made, and the fields that changed with their values before and after."""

    created: bool
    changed: Mapping[str, tuple[Any, Any]] = field(repr=False)


@retried_after_conflict
@sensitive_variables()
def put_account(name: str, fields: Mapping[str, Any], *, dry_run: bool = False) -> AccountChange:
    """Make the account, or give it these fields; every other field of an existing account keeps its value.

    Any number of processes may do the same at once.  Nothing is written where nothing differs.

    Raises:
        ValidationError: the account could not work so.
    """
    account = Account.objects.filter(name=name).first()
    if account is None:
        account = Account(name=name, **fields)
        account.full_clean(validate_unique=False)
        if dry_run or _insert(account):
            return AccountChange(created=True, changed={item: ("", getattr(account, item)) for item in fields})
        account = Account.objects.get(name=name)  # another process has made it since
    if account.name != name:
        text = _("This database takes it for the name of the account “%(name)s”.")
        raise ValidationError({"name": text % {"name": account.name}})
    before = {column.name: _value(account, column.name) for column in Account._meta.concrete_fields}
    for item, value in _with_what_follows(account, fields).items():
        setattr(account, item, value)
    account.full_clean(validate_unique=False)
    after = {item: _value(account, item) for item in before}
    changed = {item: (before[item], after[item]) for item in before if before[item] != after[item]}
    if changed and not dry_run:
        account.save(update_fields=[*changed, "updated_at"])
    return AccountChange(created=False, changed=changed)


@sensitive_variables()
def _insert(account: Account) -> bool:
    """Insert the row; False: another process has inserted one of this name."""
    try:
        with atomic():
            account.save(force_insert=True)
    except IntegrityError:
        if not Account.objects.filter(name=account.name).exists():
            raise
        return False
    return True


@sensitive_variables()
def _value(account: Account, name: str) -> Any:
    """The value of a field; None where the secret cannot be decrypted."""
    try:
        return getattr(account, name)
    except DecryptionFailed:
        return None


@sensitive_variables()
def _with_what_follows(account: Account, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, and the empty value for fields of the row that followed from older values of these fields."""
    follows: dict[str, Any] = {}
    if "port" in fields and account.security == Security.for_port(account.port):
        follows["security"] = ""
    if "user" in fields and account.email == account.user:
        follows["email"] = ""
    given = {item for item in (*SECRET_FIELDS, "oauth_provider") if fields.get(item)}
    if given or "user" in fields or "auth_method" in fields:
        follows["auth_method"] = ""
    if "password" in given:
        follows |= dict.fromkeys(_TOKEN_FIELDS, "")
    elif given:
        follows["password"] = ""
    if fields.get("auth_method") == "none":
        follows |= dict.fromkeys(("user", "password", *_TOKEN_FIELDS), "")
    return follows | dict(fields)
