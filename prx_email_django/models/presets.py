"""``Account.objects``: accounts of well-known providers, and derived defaults in bulk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.models.choices import OAuthProvider
from prx_email_django.querysets import PRESETS, OutboxManager

if TYPE_CHECKING:
    from prx_email_django.models.account import Account


class AccountQuerySet(models.QuerySet["Account"]):
    """Fills the derived defaults for ``bulk_create`` too."""

    def bulk_create(self, objs: Iterable[Account], *args: Any, **kwargs: Any) -> list[Account]:
        """As Django's, with ``security`` and ``auth_method`` derived where they were left out."""
        accounts = list(objs)
        for account in accounts:
            account.fill_defaults()
        return super().bulk_create(accounts, *args, **kwargs)


class AccountManager(OutboxManager["Account"].from_queryset(AccountQuerySet)):  # type: ignore[misc]
    """``Account.objects``."""

    @sensitive_variables()
    def from_preset(self, preset: str, *, name: str, user: str, **fields: Any) -> Account:
        """Create an account for a well-known provider: ``gmail``, ``outlook``, ``yahoo`` or ``fastmail``.

        ``email`` defaults to ``user``; give ``password=…`` (an app password) or ``oauth_token=…``, or the fields of a
        token provider.

        Raises:
            ValueError: unknown preset.
            ValidationError: no way to log in, two of them, or one that the provider does not have.
        """
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
        values: dict[str, Any] = {"host": PRESETS[preset]["host"], "port": PRESETS[preset]["port"], "email": user}
        if fields.get("oauth_refresh_token") or fields.get("oauth_client_secret"):
            values["oauth_provider"] = PRESETS[preset].get("oauth_provider", "")
        values = {**values, **fields, "name": name, "user": user}
        _check_way_in(preset, values)
        self.model(**values).clean_secrets()
        account: Account = self.create(**values)
        return account


@sensitive_variables()
def _check_way_in(preset: str, values: dict[str, Any]) -> None:
    """Refuse what the database takes, and what yet says nothing, or two things, about how to log in."""
    given = [name for name in ("oauth_refresh_token", "oauth_client_secret") if values.get(name)]
    if not given or values.get("oauth_token"):
        return
    if values.get("password"):
        raise ValidationError({"password": _("Set either a password or the fields of a token provider, not both.")})
    if not values["oauth_provider"]:
        text = _("%(preset)s has no token provider of its own: set a password or a token, or name a provider.")
        raise ValidationError({given[0]: text % {"preset": preset}})
    if values["oauth_provider"] == OAuthProvider.GOOGLE and given == ["oauth_client_secret"]:
        raise ValidationError({"oauth_refresh_token": _("Google fetches tokens by a refresh token only: set one.")})
