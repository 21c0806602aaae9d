"""``PRX_EMAIL`` as one frozen, validated value.

``outbox_settings()`` builds it at the first call, and again after ``override_settings``.  ``table.SETTINGS`` describes
each setting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from prx_email_django.conf.declared import DJANGO_ACCOUNT, SMTP_OPTIONS, DeclaredAccount
from prx_email_django.conf.django_accounts import accounts_of_django
from prx_email_django.conf.durations import Retention
from prx_email_django.conf.keys import OF_DJANGO, fernet_key, from_secret_key, read_keys
from prx_email_django.conf.oauth_servers import OAuthServer
from prx_email_django.conf.reader import NAME, django_q_installed, prx_email, secret_keys
from prx_email_django.conf.values import contradictions, function_named, read_values
from prx_email_django.rules.domains import ascii_domain

DJANGO_Q_WAKE = "prx_email_django.tasks.wake"
_REBUILD_ON = frozenset(
    {
        NAME,
        "SECRET_KEY",
        "SECRET_KEY_FALLBACKS",
        "INSTALLED_APPS",
        "MAILERS",
        "EMAIL_BACKEND",
        *SMTP_OPTIONS.values(),
    }
)


@dataclass(frozen=True)
class OutboxSettings:
    """``PRX_EMAIL``, read and validated; each attribute is named as its key, in lower case."""

    instance: str
    #: Where nothing names one: the account that Django's own mail settings make, if they make one.
    default_account: str
    #: Those of ACCOUNTS, and those that Django's own mail settings make.
    accounts: Mapping[str, DeclaredAccount] = field(repr=False)
    message_id_domain: str
    base_backoff: timedelta
    max_backoff: timedelta
    max_retries: int | None
    max_unknown_outcomes: int
    refusals_in_a_row: int
    give_up_after: timedelta
    lease: timedelta
    on_unknown: str
    attachment_max_size: int
    attachment_content_types: frozenset[str]
    attachment_store: Path | None
    account_hosts: tuple[str, ...] | None
    cleartext_hosts: tuple[str, ...]
    tls_ca_file: Path | None
    smtp_timeout: timedelta
    send_deadline: timedelta
    drain_time_budget: timedelta
    oauth_callables: tuple[str, ...]
    oauth_servers: Mapping[str, OAuthServer]
    transform_mime: str | None
    wake: str
    redirect_to: tuple[str, ...]
    redirect_except: tuple[str, ...]
    transport: str
    account_router: str | None
    auto_schedule: bool
    retention: Retention
    key_source: tuple[str, ...] | str | None = field(repr=False)

    def domain_of_message_ids(self) -> str:
        """The right side of a Message-ID now: MESSAGE_ID_DOMAIN, or what its function returns, asked each time.

        Raises:
            ImproperlyConfigured: it is no domain.
        """
        function = self._message_id_function
        return self._fixed_domain if function is None else self._domain(function())

    @functools.cached_property
    def _fixed_domain(self) -> str:
        return self._domain(self.message_id_domain)

    @staticmethod
    def _domain(domain: object) -> str:
        try:
            return ascii_domain(domain if isinstance(domain, str) else "")
        except ValueError:
            raise ImproperlyConfigured(
                f'{NAME}["MESSAGE_ID_DOMAIN"] must be a domain, or a function that returns a domain.'
            ) from None

    @functools.cached_property
    def calls_host(self) -> bool:
        """Whether rendering a message calls a function of the host project, which may use the database."""
        return bool(self.transform_mime) or self._message_id_function is not None

    @functools.cached_property
    def changes_messages(self) -> bool:
        """Whether a message is rendered otherwise than its row says; ``EMAIL_USE_LOCALTIME`` may do so, too."""
        return self.calls_host or bool(self.redirect_to)

    @functools.cached_property
    def _message_id_function(self) -> Callable[[], object] | None:
        return function_named(prx_email().get("MESSAGE_ID_DOMAIN"))

    @functools.cached_property
    def credential_keys(self) -> tuple[bytes, ...]:
        """The Fernet keys: the first key encrypts, every key decrypts.

        They are read at the first use, since a key service may be slow or unavailable.

        Raises:
            ImproperlyConfigured: the function of CREDENTIAL_KEYS returned no keys.
        """
        source = _call_key_function(self.key_source) if isinstance(self.key_source, str) else self.key_source
        return tuple(made for key in source or (OF_DJANGO,) for made in _fernet_keys(key))


@functools.lru_cache(maxsize=1)
def outbox_settings() -> OutboxSettings:
    """The settings in force.

    Raises:
        ImproperlyConfigured: a key is unknown or its value is invalid; the text names the key.  A mistyped REDIRECT_TO
            must not lead to mail for real recipients.
    """
    values, found = read_values()
    found += contradictions(values)
    if found:
        raise ImproperlyConfigured(f"{found[0].message} {found[0].hint}")
    if values["wake"] is None:
        values["wake"] = DJANGO_Q_WAKE if django_q_installed() else ""
    made = accounts_of_django(values)
    if not values["default_account"] and made:
        values["default_account"] = next((name for name in (DJANGO_ACCOUNT, "default") if name in made), "")
    values["accounts"] = {**made, **values["accounts"]}
    return OutboxSettings(**values)


def _fernet_keys(key: str) -> Iterator[bytes]:
    if key != OF_DJANGO:
        yield fernet_key(key)
        return
    for secret in secret_keys():
        yield from_secret_key(secret)


def _call_key_function(path: str) -> tuple[str, ...]:
    try:
        return read_keys(import_string(path)())
    except (ImportError, ValueError) as error:
        raise ImproperlyConfigured(f'{NAME}["CREDENTIAL_KEYS"]: "{path}" {error}.') from error


def _forget(*, setting: str, **_: object) -> None:
    if setting in _REBUILD_ON:
        outbox_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="prx_email_django.conf")
