"""The one rule about accounts that can work: for the form, ``full_clean``, ``from_preset`` and each new connection.

An account that the rule refuses could never send.  The constraints of the database check a part of it too.  No name is
resolved and no server is contacted.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.models.choices import AccountSource, AuthMechanism, AuthMethod, OAuthProvider, Security
from prx_email_django.models.derived import is_bare_address
from prx_email_django.rules.hosts import (
    check_token_url,
    cleartext_allowed,
    cleartext_refusal,
    host_allowed,
    is_host,
    is_loopback,
)
from prx_email_django.rules.rates import parse_rate_limits
from prx_email_django.rules.references import reference
from prx_email_django.rules.text import CONTROL, NOT_TEXT
from prx_email_django.rules.words import in_words

MECHANISM_FITS_NOT = _(
    "PLAIN, LOGIN and CRAM-MD5 need a password; XOAUTH2 and OAUTHBEARER need a token; without authentication there is "
    "no mechanism."
)
PASSWORD_OR_TOKEN = _("Set either a password or a token, not both.")
NO_USER = _("The user is empty.")
NO_LOGIN = _("A relay without authentication has no user, password or token.")
NOT_TEXT_VALUE = _("This must be text.")
WITHOUT_ZONE = _("This time needs a time zone, as in 2026-12-31T12:00:00Z.")
KEY_WITHOUT_CERTIFICATE = _("The client key needs a client certificate.")

#: The fields that hold a secret, or a reference to a secret.
SECRET_FIELDS = ("password", "oauth_token", "oauth_client_secret", "oauth_refresh_token")
#: Fields of text in which a control character can only be a mistake: servers, headers and log lines refuse it.
_PLAIN_TEXT = ("name", "display_name", "user", "oauth_client_id", "oauth_tenant", "oauth_scope")
#: Problems that a connection judges itself, by the address that it has reached, or that harm no login.
_NOT_AT_CONNECTION = frozenset({"email", "name", "display_name", "security"})
#: An access token (RFC 6750 §2.1); a control character or a blank would end its field in the SASL response.
_TOKEN = re.compile(r"[\x21-\x7e]+")


def account_errors(account: Any) -> dict[str, Any]:
    """All problems with the account: field -> message.

    Raises:
        DecryptionFailed: a secret cannot be decrypted with the keys in force.
    """
    errors: dict[str, Any] = _of_another_type(account)
    if errors:
        return errors
    try:
        parse_rate_limits(account.rate_limits)
    except ValueError as error:
        errors["rate_limits"] = in_words(error, gettext)
    _clean_addresses(account, errors)
    _clean_secrets(account, errors)
    _clean_references(account, errors)
    _clean_oauth(account, errors)
    _clean_text(account, errors)
    _clean_tls_files(account, errors)
    known = {account.auth_method, account.auth_mechanism} <= {*AuthMethod.values, *AuthMechanism.values}
    if known and account.auth_mechanism not in ("auto", *AuthMechanism.fitting(account.auth_method)):
        errors["auth_mechanism"] = MECHANISM_FITS_NOT
    return errors


def _of_another_type(account: Any) -> dict[str, Any]:
    """Columns of text that hold None or something else, and a time without a zone: code can assign anything.

    A variable that is not set is a common case: ``os.environ.get("MAIL_USER")`` is None.
    """
    errors: dict[str, Any] = {}
    for column in account._meta.concrete_fields:
        if isinstance(column, models.CharField | models.TextField):
            value = getattr(account, column.attname)
            if not isinstance(value, str):
                errors[column.name] = column.error_messages["null"] if value is None else NOT_TEXT_VALUE
    if isinstance(account.oauth_token_expires_at, datetime) and timezone.is_naive(account.oauth_token_expires_at):
        errors["oauth_token_expires_at"] = WITHOUT_ZONE
    return errors


def connection_problem(account: Any) -> str:
    """What keeps the account from ever connecting, with the field's name; empty if nothing does.

    Validation was not asked when the row was written by ``bulk_create``, ``update`` or SQL.

    Raises:
        DecryptionFailed: a secret cannot be decrypted with the keys in force.
    """
    problems = {name: text for name, text in account_errors(account).items() if name not in _NOT_AT_CONNECTION}
    return next((f"{name}: {text}" for name, text in problems.items()), "")


def _clean_tls_files(account: Any, errors: dict[str, Any]) -> None:
    """Only what holds on every machine: whether the files exist is found out where a worker connects."""
    for name in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        if CONTROL.search(getattr(account, name)):
            errors[name] = _("This must be a path.")
    if account.tls_key_file and not account.tls_cert_file:
        errors["tls_cert_file"] = KEY_WITHOUT_CERTIFICATE


def _clean_addresses(account: Any, errors: dict[str, Any]) -> None:
    """The From address, the host and clear text, by the rules that hold when a message is sent."""
    settings = outbox_settings()
    if account.email and not is_bare_address(account.email):
        errors["email"] = _("This must be one address, such as ann@example.com; the name has a field of its own.")
    if account.host and not is_host(account.host):
        errors["host"] = _(
            "This must be the host’s name or address alone, without brackets; the port has a field of its own."
        )
    elif account.host and not host_allowed(account.host, settings.account_hosts):
        errors["host"] = _("ACCOUNT_HOSTS does not allow this host.")
    if account.security != Security.NONE:
        return
    if not cleartext_allowed(account.host, settings.cleartext_hosts):
        errors["security"] = in_words(cleartext_refusal(account.host), gettext)
    elif account.auth_method != AuthMethod.NONE and not is_loopback(account.host):
        errors["security"] = _("A password or token goes in clear text to loopback only.")


@sensitive_variables()
def _clean_secrets(account: Any, errors: dict[str, Any]) -> None:
    password, token = account.password, account.oauth_token
    if account.auth_method not in AuthMethod.values:
        return  # the field's own choices say so
    if account.auth_method == AuthMethod.NONE:
        if account.user or password or token:
            errors["auth_method"] = NO_LOGIN
        return
    _clean_user(account, errors)
    by_password = account.auth_method == AuthMethod.PASSWORD
    if by_password and not password:
        errors["password"] = _("Set the password (or a token, for OAuth).")
    elif NOT_TEXT.search(password):
        errors["password"] = _("A password must not contain a NUL character or half a surrogate pair.")
    if not by_password and not token and not account.oauth_provider:
        errors["oauth_token"] = _("Set a token, or a provider that fetches one.")
    elif token and reference(token) is None and not _TOKEN.fullmatch(token):
        errors["oauth_token"] = _("A token has only printable ASCII characters, and no blank.")
    if by_password and token:
        errors["oauth_token"] = PASSWORD_OR_TOKEN
    if not by_password and password:
        errors["password"] = PASSWORD_OR_TOKEN


def _clean_user(account: Any, errors: dict[str, Any]) -> None:
    if not account.user.strip():
        errors["user"] = NO_USER
    elif reference(account.user) is not None:
        errors["user"] = _("Only secrets may be references; write the user itself.")


@sensitive_variables()
def _clean_references(account: Any, errors: dict[str, Any]) -> None:
    """Only what holds on every machine: whether the variable or the file exists is found out by a worker."""
    for name in SECRET_FIELDS:
        named = reference(getattr(account, name))
        if named is not None and named.problem:
            text = _("The reference %(problem)s. A secret that begins like this is written with a backslash before it.")
            errors.setdefault(name, text % {"problem": in_words(named.problem, gettext)})


@sensitive_variables()
def _clean_oauth(account: Any, errors: dict[str, Any]) -> None:
    settings = outbox_settings()
    if account.oauth_token_url:
        try:
            check_token_url(account.oauth_token_url)
        except ValueError as error:
            errors["oauth_token_url"] = in_words(error, gettext)
        else:
            if not host_allowed(urlsplit(account.oauth_token_url).hostname or "", settings.account_hosts):
                errors["oauth_token_url"] = _("ACCOUNT_HOSTS does not allow this host.")
    if account.auth_method != AuthMethod.XOAUTH2:
        return
    if account.oauth_provider == OAuthProvider.CUSTOM and account.oauth_callable:
        if account.oauth_callable not in settings.oauth_callables:
            errors["oauth_callable"] = _("OAUTH_CALLABLES does not list it.")
    elif account.oauth_provider and (not account.oauth_token or _is_over(account.oauth_token_expires_at)):
        _clean_provider(account, errors)


def _is_over(expires_at: datetime | None) -> bool:
    """Whether a token of the account's own has ended, so that the provider must be able to fetch the next one."""
    return isinstance(expires_at, datetime) and expires_at <= timezone.now()


@sensitive_variables()
def _clean_provider(account: Any, errors: dict[str, Any]) -> None:
    """What a provider needs for its first token; an account with a token of its own can send until that ends."""
    provider = account.oauth_provider
    if provider == OAuthProvider.CUSTOM and not account.oauth_token_url:
        errors.setdefault("oauth_callable", _("Name a function that OAUTH_CALLABLES lists, or a token address."))
        return
    if not account.oauth_client_id:
        errors["oauth_client_id"] = _("A token provider needs the client id of your application.")
    if account.oauth_refresh_token or not account.is_active:
        return  # an inactive account may wait for its person to sign in, which activates it
    is_application = provider != OAuthProvider.GOOGLE and account.oauth_client_secret
    if account.source == AccountSource.SETTINGS and not is_application:
        errors["oauth_refresh_token"] = _(
            "An account of the settings cannot sign in: set a refresh token, as env:NAME or file:/path. Or make the "
            "account by outbox_account, and sign in by outbox_authorize."
        )
    elif provider == OAuthProvider.GOOGLE:
        errors["oauth_refresh_token"] = _(
            "Google fetches tokens by a refresh token only. To get one, save the account inactive (“active” off), "
            "then connect it with Google: signing in stores the token and activates the account."
        )
    elif not account.oauth_client_secret:
        errors["oauth_refresh_token"] = _(
            "Set a refresh token, or the client secret of an application. To get a refresh token, save the account "
            "inactive (“active” off), then connect it: signing in stores the token and activates the account."
        )
    elif provider == OAuthProvider.MICROSOFT and not account.oauth_tenant and not account.oauth_token_url:
        errors["oauth_tenant"] = _("An application signs in to one tenant: name it, or set a refresh token.")


def _clean_text(account: Any, errors: dict[str, Any]) -> None:
    for name in _PLAIN_TEXT:
        if CONTROL.search(getattr(account, name)):
            errors[name] = _("This must not contain a control character.")
    if "://" in account.name:
        errors["name"] = _("This is a URL, not a name.")
