"""A person signs in for an account, and its refresh token is stored: for the admin and for ``outbox_authorize``."""

from __future__ import annotations

from django.db import transaction
from django.views.decorators.debug import sensitive_variables

from prx_email_django.models import Account, AccountState
from prx_email_django.models.encrypted import is_set
from prx_email_django.models.managers import outbox_alias
from prx_email_django.oauth.servers import AuthorizationServer, authorization_server
from prx_email_django.oauth.sign_in import SignedIn, refused
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.rules.words import words as _

#: Fields that a sign-in changes.
_COLUMNS = ("oauth_refresh_token", "oauth_token", "oauth_token_expires_at", "is_active", "updated_at")


def sign_in_server(account: Account) -> AuthorizationServer:
    """Return the server at which a person signs in for this account.

    Raises:
        TokenRefused: there is none, or the account cannot keep a refresh token.
    """
    if account.is_from_settings:
        raise refused(_("the account is declared in the settings, which no sign-in can change"), "configuration")
    if account.auth_method != "xoauth2":
        raise refused(_("the account does not log in with a token"), "configuration")
    return authorization_server(account)


@sensitive_variables()
def store_sign_in(account: Account, found: SignedIn) -> Account:
    """Store the refresh token, and delete what workers know of the old one; return the account as it is now.

    An account that had no refresh token becomes active: the form saves it inactive until its person has signed in.

    Raises:
        TokenRefused: the account was deleted, or has another provider, client or user since the sign-in was judged.
    """
    with transaction.atomic(using=outbox_alias()):
        present: Account | None = Account.objects.select_for_update().filter(pk=account.pk).first()
        same = ("user", "auth_method", "oauth_provider", "oauth_client_id", "oauth_token_url", "oauth_tenant")
        if present is None or any(getattr(present, name) != getattr(account, name) for name in same):
            raise refused(_("the account was given another provider or client id during the sign-in"), "changed")
        if not is_set(present, "oauth_refresh_token"):
            present.is_active = True
        present.oauth_refresh_token = found.refresh_token
        present.oauth_token, present.oauth_token_expires_at = "", None
        present.save(update_fields=_COLUMNS)
        # Also where the provider issued the same refresh token again: a person has acted.
        AccountState.objects.forget_credentials(present.pk)
    return present


__all__ = ["SignedIn", "TokenRefused", "sign_in_server", "store_sign_in"]
