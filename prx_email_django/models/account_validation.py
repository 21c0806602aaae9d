"""Validation of an account, for the form, ``full_clean`` and ``from_preset``: messages by field.

The constraints of the database check most of this too.  No name is resolved and no server is contacted.
"""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from prx_email_django.conf import outbox_settings
from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.models.choices import AuthMechanism, AuthMethod, OAuthProvider, Security
from prx_email_django.rules.hosts import check_token_url, cleartext_allowed, is_host, is_loopback
from prx_email_django.rules.rates import parse_rate_limits
from prx_email_django.rules.text import CONTROL

MECHANISM_FITS_NOT = _(
    "PLAIN, LOGIN and CRAM-MD5 need a password; XOAUTH2 and OAUTHBEARER need a token; without authentication there is "
    "no mechanism."
)
KEY_WITHOUT_CERTIFICATE = _("The client key needs a client certificate.")


def account_errors(account: Any) -> dict[str, Any]:
    """All problems with the account: field -> message."""
    errors: dict[str, Any] = {}
    try:
        parse_rate_limits(account.rate_limits)
    except ValueError as error:
        errors["rate_limits"] = str(error)
    _clean_addresses(account, errors)
    _clean_tls_files(account, errors)
    return errors | credential_errors(account)


def credential_errors(account: Any) -> dict[str, Any]:
    """The problems with the credentials, which would make every login fail: field -> message."""
    errors: dict[str, Any] = {}
    _clean_secrets(account, errors)
    _clean_oauth(account, errors)
    if account.auth_mechanism not in ("auto", *AuthMechanism.fitting(account.auth_method)):
        errors["auth_mechanism"] = MECHANISM_FITS_NOT
    return errors


def _clean_tls_files(account: Any, errors: dict[str, Any]) -> None:
    """Only what holds on every machine: whether the files exist is found out where a worker connects."""
    for name in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        if CONTROL.search(getattr(account, name)):
            errors[name] = _("This must be a path.")
    if account.tls_key_file and not account.tls_cert_file:
        errors["tls_cert_file"] = KEY_WITHOUT_CERTIFICATE


def _clean_addresses(account: Any, errors: dict[str, Any]) -> None:
    """The From address, the host and clear text, by the rules that hold when a message is sent."""
    if account.email:
        try:
            is_bare = not split_mailbox(account.email).display and "<" not in account.email
        except ValueError:
            is_bare = False
        if not is_bare:
            errors["email"] = _("This must be one address, such as ann@example.com; the name has a field of its own.")
    if account.host and not is_host(account.host):
        errors["host"] = _("This must be the host’s name or address alone; the port has a field of its own.")
    if account.security != Security.NONE:
        return
    if not cleartext_allowed(account.host, outbox_settings().cleartext_hosts):
        errors["security"] = _("Clear text is allowed only to hosts that CLEARTEXT_HOSTS names.")
    elif account.auth_method != AuthMethod.NONE and not is_loopback(account.host):
        errors["security"] = _("A password or token goes in clear text to loopback only.")


def _clean_secrets(account: Any, errors: dict[str, Any]) -> None:
    if account.auth_method == AuthMethod.NONE:
        if account.user or account.password or account.oauth_token:
            errors["auth_method"] = _("A relay without authentication has no user, password or token.")
        return
    if not account.user:
        errors["user"] = _("The user is empty.")
    if account.auth_method == AuthMethod.PASSWORD:
        if not account.password:
            errors["password"] = _("Set the password (or a token, for OAuth).")
        if account.oauth_token:
            errors["oauth_token"] = _("Set either a password or a token, not both.")
        return
    if account.password:
        errors["password"] = _("Set either a password or a token, not both.")
    if not account.oauth_token and not account.oauth_provider:
        errors["oauth_token"] = _("Set a token, or a provider that fetches one.")


def _clean_oauth(account: Any, errors: dict[str, Any]) -> None:
    if account.oauth_token_url:
        try:
            check_token_url(account.oauth_token_url)
        except ValueError as error:
            errors["oauth_token_url"] = str(error)
    if account.oauth_provider != OAuthProvider.CUSTOM:
        return
    if account.oauth_callable:
        if account.oauth_callable not in outbox_settings().oauth_callables:
            errors["oauth_callable"] = _("OAUTH_CALLABLES does not list it.")
    elif account.auth_method == AuthMethod.XOAUTH2 and not (account.oauth_token or account.oauth_token_url):
        errors["oauth_callable"] = _("Name a function that OAUTH_CALLABLES lists, or a token address.")
