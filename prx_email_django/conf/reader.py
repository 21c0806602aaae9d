"""The settings of this app.  No other module reads ``django.conf.settings``.

``outbox_settings()`` returns a frozen, validated value, built at the first call and again after ``override_settings``.
``table.SETTINGS`` describes each setting.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import django.conf
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from prx_email_django.conf.keys import fernet_key, from_secret_key, read_keys
from prx_email_django.conf.kinds import OAuthServer, Retention, closest
from prx_email_django.conf.table import SETTINGS

NAME = "PRX_EMAIL"
DJANGO_Q_WAKE = "prx_email_django.tasks.wake"
_REBUILD_ON = frozenset({NAME, "SECRET_KEY", "SECRET_KEY_FALLBACKS", "INSTALLED_APPS"})
#: With a shorter lease, a single slow statement of the database can make a live worker lose its claims.
_SHORT_LEASE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with the setting ``key``: the message, what to write (``hint``), and the ``id`` of the system check."""

    key: str
    message: str
    hint: str
    id: str

    @property
    def level(self) -> int:
        """``checks.ERROR``, or ``checks.WARNING`` for a value that works but is risky."""
        return checks.WARNING if ".W" in self.id else checks.ERROR


@dataclass(frozen=True)
class OutboxSettings:
    """``PRX_EMAIL``, read and validated; each attribute is named as its key, in lower case."""

    instance: str
    default_account: str
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

    @functools.cached_property
    def credential_keys(self) -> tuple[bytes, ...]:
        """The Fernet keys: the first key encrypts, every key decrypts.

        They are read at the first use, since a key service may be slow or unavailable.

        Raises:
            ImproperlyConfigured: the function of CREDENTIAL_KEYS returned no keys.
        """
        if self.key_source is None:
            return tuple(from_secret_key(secret) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))
        source = _call_key_function(self.key_source) if isinstance(self.key_source, str) else self.key_source
        return tuple(fernet_key(key) for key in source)


@functools.lru_cache(maxsize=1)
def outbox_settings() -> OutboxSettings:
    """The settings in force.

    Raises:
        ImproperlyConfigured: a key is unknown or its value is invalid; the text names the key.  A mistyped REDIRECT_TO
            must not lead to mail for real recipients.
    """
    values, found = _read()
    found += _contradictions(values)
    if found:
        raise ImproperlyConfigured(f"{found[0].message} {found[0].hint}")
    if values["wake"] is None:
        values["wake"] = DJANGO_Q_WAKE if django_q_installed() else ""
    return OutboxSettings(**values)


def problems() -> list[Problem]:
    """All problems with ``PRX_EMAIL``, for the system checks; they never hold an encryption key."""
    values, found = _read()
    return [*found, *_contradictions(values), *_risks(values), *_unimportable(values), *_missing_files(values)]


def _read() -> tuple[dict[str, Any], list[Problem]]:
    """The values that could be read, by attribute, and the problems with the others."""
    raw = getattr(settings, NAME, {})
    if not isinstance(raw, Mapping):
        return {}, [_problem("", "must be a dict.", 'Write PRX_EMAIL = {"INSTANCE": "production"}.', "E001")]
    values: dict[str, Any] = {}
    found = [_unknown(key) for key in raw if key not in _NAMES]
    for setting in SETTINGS:
        try:
            values[_attribute(setting.name)] = setting.kind.read(raw.get(setting.name, setting.default))
        except ValueError as error:
            found.append(_problem(setting.name, f"{error}.", f"Write {setting.kind.example}.", "E003"))
    return values, found


_NAMES = tuple(setting.name for setting in SETTINGS)


def _attribute(name: str) -> str:
    return "key_source" if name == "CREDENTIAL_KEYS" else name.lower()


def _problem(key: str, message: str, hint: str, rule: str) -> Problem:
    name = f'{NAME}["{key}"]' if key else NAME
    return Problem(key=key or NAME, message=f"{name} {message}", hint=hint, id=f"prx_email_django.{rule}")


def _unknown(key: object) -> Problem:
    meant = closest(str(key), _NAMES)
    hint = f'Did you mean "{meant}"?' if meant else f"Known are {', '.join(_NAMES)}."
    return _problem(str(key), "is not a setting of this app.", hint, "E002")


def _contradictions(values: Mapping[str, Any]) -> Iterator[Problem]:
    base, longest = values.get("base_backoff"), values.get("max_backoff")
    if base and longest and base > longest:
        hint = f"Write {base.total_seconds():g} or more, or a smaller BASE_BACKOFF."
        yield _problem("MAX_BACKOFF", "must not be shorter than BASE_BACKOFF.", hint, "E004")


def _risks(values: Mapping[str, Any]) -> Iterator[Problem]:
    lease, deadline = values.get("lease"), values.get("send_deadline")
    if lease and lease < _SHORT_LEASE:
        message = "is so short that workers lose their claims when the database is slow."
        yield _problem("LEASE", message, "Write 30 or more; 180 is the default.", "W001")
    if lease and deadline and deadline > lease:
        hint = f"Write {lease.total_seconds():g} or less, or a longer LEASE."
        yield _problem("SEND_DEADLINE", "is longer than LEASE.", hint, "W002")
    longest, end = values.get("max_backoff"), values.get("give_up_after")
    if longest and end and longest > end:
        hint = f"Write {longest.total_seconds():g} or more, or a smaller MAX_BACKOFF."
        yield _problem(
            "GIVE_UP_AFTER", "is shorter than MAX_BACKOFF: a message may expire without another attempt.", hint, "W003"
        )


def _unimportable(values: Mapping[str, Any]) -> Iterator[Problem]:
    for key in ("TRANSFORM_MIME", "WAKE", "ACCOUNT_ROUTER", "OAUTH_CALLABLES", "CREDENTIAL_KEYS"):
        value = values.get(_attribute(key))
        paths = value if key == "OAUTH_CALLABLES" else (value,)
        for path in paths or ():
            if isinstance(path, str) and path and not _is_function(path):
                hint = (
                    "Write the dotted path of a function that can be imported; those of contrib need their extra (pip)."
                )
                yield _problem(key, f'must name a function; "{path}" is none that can be imported.', hint, "E005")


def _is_function(path: str) -> bool:
    try:
        return callable(import_string(path))
    except ImportError:
        return False


def _missing_files(values: Mapping[str, Any]) -> Iterator[Problem]:
    store, authorities = values.get("attachment_store"), values.get("tls_ca_file")
    if store and not store.is_dir():
        yield _problem("ATTACHMENT_STORE", "is not a directory here.", "Create it, or write None.", "W004")
    if authorities and not authorities.is_file():
        yield _problem("TLS_CA_FILE", "is not a file here.", "Create it, or write None.", "W005")


def _call_key_function(path: str) -> tuple[str, ...]:
    try:
        return read_keys(import_string(path)())
    except (ImportError, ValueError) as error:
        raise ImproperlyConfigured(f'{NAME}["CREDENTIAL_KEYS"]: "{path}" {error}.') from error


def _forget(*, setting: str, **_: object) -> None:
    if setting in _REBUILD_ON:
        outbox_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="prx_email_django.conf")


def django_q_installed() -> bool:
    """Whether django-q2 is among the installed apps."""
    return apps.is_installed("django_q")


def q_cluster() -> Mapping[str, Any]:
    """The project's settings of django-q2 (``Q_CLUSTER``); empty if there are none."""
    configured = getattr(settings, "Q_CLUSTER", None)
    return configured if isinstance(configured, Mapping) else {}


def default_from_email() -> str:
    """``DEFAULT_FROM_EMAIL``.  No ``EMAIL_*`` setting is read for sending: Django 6.1 forbids them with MAILERS."""
    return settings.DEFAULT_FROM_EMAIL


def prx_email() -> Mapping[str, Any]:
    """``PRX_EMAIL`` as it was written, for the testing kit, which changes some keys and keeps the others."""
    return getattr(settings, NAME, {})


def mailers() -> Mapping[str, Any] | None:
    """``MAILERS`` (Django 6.1 and later); None if it is not defined."""
    configured = getattr(settings, "MAILERS", None)
    return configured if isinstance(configured, Mapping) else None


def configures_mail_by_email_settings() -> bool:
    """Whether the project uses ``EMAIL_…`` settings (always before Django 6.1) and not MAILERS."""
    deprecated = getattr(django.conf, "DEPRECATED_EMAIL_SETTINGS", None)
    if deprecated is None:
        return True
    return mailers() is None and any(settings.is_overridden(name) for name in deprecated)  # type: ignore[misc]


def email_backend() -> str:
    """``EMAIL_BACKEND``, for system checks only; empty with MAILERS, where it must not be read.

    Django 6.1 warns when a project defines this setting; the warning is not repeated here.
    """
    if mailers() is not None:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return settings.EMAIL_BACKEND


def admins() -> Sequence[Any]:
    """The setting ``ADMINS``."""
    return settings.ADMINS


def use_tz() -> bool:
    """The setting ``USE_TZ``."""
    return bool(settings.USE_TZ)
