"""Columns of an account that follow from other columns, or from the clock, where nobody has set them.

The value is derived when the attribute is read.  Every way of writing a row reads it: ``save``, ``bulk_create`` and
``update_or_create``, also with the historical models of a migration, and the raw save of ``loaddata``, which calls
neither ``Model.save`` nor ``Field.pre_save``.  Only ``QuerySet.update`` and SQL read no instance.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.query_utils import DeferredAttribute
from django.utils import timezone

from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.models.choices import AuthMethod, Security
from prx_email_django.models.encrypted import is_set

if TYPE_CHECKING:
    CharFieldBase = models.CharField[Any, str]
    DateTimeFieldBase = models.DateTimeField[Any, datetime]
else:
    CharFieldBase = models.CharField
    DateTimeFieldBase = models.DateTimeField


class _DerivedAttribute(DeferredAttribute):
    """Returns the derived value while the stored one is empty."""

    field: DerivedField

    def __get__(self, instance: models.Model | None, cls: type[models.Model] | None = None) -> Any:
        if instance is not None and (value := instance.__dict__.get(self.field.attname)):
            return value  # nearly always, and each message reads one
        value = super().__get__(instance, cls)
        return value if instance is None or value else self.field.derive(instance)

    def __set__(self, instance: models.Model, value: object) -> None:
        instance.__dict__[self.field.attname] = value


class SavedAtField(DateTimeFieldBase):
    """``auto_now`` and ``auto_now_add`` in a raw save too: a fixture need not name these columns."""

    def get_default(self) -> Any:
        """The value of a new instance."""
        return timezone.now()


class DerivedField(CharFieldBase):
    """A column with a value that is derived from other columns while it is empty."""

    descriptor_class = _DerivedAttribute

    def derive(self, account: Any) -> str:
        """The value that follows from the other columns; empty if nothing follows."""
        raise NotImplementedError


class SecurityField(DerivedField):
    """``security``: implicit TLS on port 465 (RFC 8314 §3.3), STARTTLS on any other."""

    def derive(self, account: Any) -> str:
        """Derive it from the port."""
        return Security.for_port(account.port).value


class AuthMethodField(DerivedField):
    """``auth_method``: by token where only a token or a provider of tokens is given, else by password."""

    def derive(self, account: Any) -> str:
        """Derive it from the secrets that are set; none of them is decrypted."""
        has_token = is_set(account, "oauth_token") or bool(account.oauth_provider)
        by_token = has_token and not is_set(account, "password")
        return (AuthMethod.XOAUTH2 if by_token else AuthMethod.PASSWORD).value


class SenderField(DerivedField):
    """``email``: the user, where that is an address; else it stays empty, and DEFAULT_FROM_EMAIL is the From."""

    def derive(self, account: Any) -> str:
        """Derive it from the user."""
        return str(account.user) if is_bare_address(account.user) else ""


def is_bare_address(text: object) -> bool:
    """Whether it is the text of one address, without a name and angle brackets."""
    if not isinstance(text, str) or not text:
        return False
    try:
        return not split_mailbox(text).display and "<" not in text
    except ValueError:
        return False
