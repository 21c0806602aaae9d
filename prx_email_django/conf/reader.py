"""The settings of this app.  No other module reads ``django.conf.settings``.

``outbox_settings()`` returns a frozen, validated value, built at the first call and again after ``override_settings``.
``table.SETTINGS`` describes each setting.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django.conf
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.crypto import salted_hmac
from django.utils.module_loading import import_string

from prx_email_django.conf.declared import DJANGO_ACCOUNT, SMTP_OPTIONS, DeclaredAccount, from_smtp_options
from prx_email_django.conf.keys import OF_DJANGO, fernet_key, from_secret_key, read_keys
from prx_email_django.conf.kinds import OAuthServer, Retention, closest
from prx_email_django.conf.table import SETTINGS, Setting
from prx_email_django.rules.domains import ascii_domain

NAME = "PRX_EMAIL"
DJANGO_Q_WAKE = "prx_email_django.tasks.wake"
_REBUILD_ON = frozenset(
    {NAME, "SECRET_KEY", "SECRET_KEY_FALLBACKS", "INSTALLED_APPS", "MAILERS", "EMAIL_BACKEND", *SMTP_OPTIONS.values()}
)
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
        domain = self._message_id_function() if self._message_id_function else self.message_id_domain
        try:
            return ascii_domain(domain if isinstance(domain, str) else "")
        except ValueError:
            raise ImproperlyConfigured(
                f'{NAME}["MESSAGE_ID_DOMAIN"] must be a domain, or a function that returns a domain.'
            ) from None

    @functools.cached_property
    def _message_id_function(self) -> Callable[[], object] | None:
        return _function(prx_email().get("MESSAGE_ID_DOMAIN"))

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
    values, found = _read()
    found += _contradictions(values)
    if found:
        raise ImproperlyConfigured(f"{found[0].message} {found[0].hint}")
    if values["wake"] is None:
        values["wake"] = DJANGO_Q_WAKE if django_q_installed() else ""
    made = _accounts_of_django(values)
    if not values["default_account"] and made:
        values["default_account"] = next((name for name in (DJANGO_ACCOUNT, "default") if name in made), "")
    values["accounts"] = {**made, **values["accounts"]}
    return OutboxSettings(**values)


def problems() -> list[Problem]:
    """All problems with ``PRX_EMAIL``, for the system checks; they never hold an encryption key."""
    values, found = _read()
    return [
        *found,
        *_contradictions(values),
        *_risks(values),
        *_unimportable(values),
        *_lost_function(values),
        *_missing_files(values),
    ]


def _read() -> tuple[dict[str, Any], list[Problem]]:
    """The values that could be read, by attribute, and the problems with the others."""
    raw = getattr(settings, NAME, {})
    if not isinstance(raw, Mapping):
        return {}, [_problem("", "must be a dict.", 'Write PRX_EMAIL = {"INSTANCE": "production"}.', "E001")]
    values: dict[str, Any] = {}
    found = [_unknown(key, raw) for key in raw if key not in _NAMES]
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


def _unknown(key: object, raw: Mapping[Any, Any]) -> Problem:
    """Suggest only a setting that is not set yet and that could have this value."""
    fitting = (setting.name for setting in SETTINGS if setting.name not in raw and _reads(setting, raw[key]))
    meant = closest(str(key), fitting)
    hint = f'Did you mean "{meant}"?' if meant else f"Known are {', '.join(_NAMES)}."
    return _problem(str(key), "is not a setting of this app.", hint, "E002")


def _reads(setting: Setting, value: object) -> bool:
    try:
        setting.kind.read(value)
    except ValueError:
        return False
    return True


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
    return _function(path) is not None


def _function(path: object) -> Callable[..., object] | None:
    """What the dotted path names; None: nothing that can be imported and called."""
    try:
        found = import_string(path) if isinstance(path, str) and "." in path else None
    except ImportError:
        return None
    return found if callable(found) else None


def _lost_function(values: Mapping[str, Any]) -> Iterator[Problem]:
    """A domain that is spelt as a module of this project and something that the module does not have."""
    path = prx_email().get("MESSAGE_ID_DOMAIN") if "message_id_domain" in values else None
    if not isinstance(path, str) or _is_function(path):
        return
    module = path.rpartition(".")[0]
    if _is_domain(path) and not ("." in module and _is_module(module)):
        return
    hint = "Write a domain, or the dotted path of a function that returns it and can be imported."
    yield _problem("MESSAGE_ID_DOMAIN", f'names no function; "{path}" is none that can be imported.', hint, "E005")


def _is_domain(text: str) -> bool:
    try:
        return bool(ascii_domain(text))
    except ValueError:
        return False


def _is_module(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except (ImportError, ValueError):
        return False


def _missing_files(values: Mapping[str, Any]) -> Iterator[Problem]:
    store, authorities = values.get("attachment_store"), values.get("tls_ca_file")
    if store and not store.is_dir():
        yield _problem("ATTACHMENT_STORE", "is not a directory here.", "Create it, or write None.", "W004")
    if authorities and not authorities.is_file():
        yield _problem("TLS_CA_FILE", "is not a file here.", "Create it, or write None.", "W005")


def _fernet_keys(key: str) -> Iterator[bytes]:
    if key != OF_DJANGO:
        yield fernet_key(key)
        return
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
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


def django_q_installed() -> bool:
    """Whether django-q2 is among the installed apps."""
    return apps.is_installed("django_q")


def q_cluster() -> Mapping[str, Any]:
    """The project's settings of django-q2 (``Q_CLUSTER``); empty if there are none."""
    configured = getattr(settings, "Q_CLUSTER", None)
    return configured if isinstance(configured, Mapping) else {}


def mailer_retry_limit() -> int | None:
    """django-mailer's ``MAILER_EMAIL_MAX_RETRIES``; None: no limit."""
    return getattr(settings, "MAILER_EMAIL_MAX_RETRIES", None)


def mailer_uses_lock_file() -> bool:
    """django-mailer's ``MAILER_USE_FILE_LOCK``."""
    return bool(getattr(settings, "MAILER_USE_FILE_LOCK", True))


def default_from_email() -> str:
    """``DEFAULT_FROM_EMAIL``."""
    return settings.DEFAULT_FROM_EMAIL


def default_charset() -> str:
    """``DEFAULT_CHARSET``."""
    return settings.DEFAULT_CHARSET


def secret_fingerprints(text: str) -> tuple[str, ...]:
    """Keyed hashes by which a change of a secret is noticed that only the settings hold: the first is written.

    The keys are SECRET_KEY and its fallbacks.  Nobody can test a guess without them.
    """
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    made = (salted_hmac(f"{NAME} secret in settings", text, secret=secret, algorithm="sha256") for secret in secrets)
    return tuple(mac.hexdigest()[:32] for mac in made)


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


def _accounts_of_django(values: Mapping[str, Any]) -> dict[str, DeclaredAccount]:
    """The accounts that Django's own mail settings make, for a project that has only changed the backend's path.

    With MAILERS (Django 6.1) each entry of this app's backend that has OPTIONS of Django's SMTP backend makes one,
    named as its alias.  Without MAILERS ``EMAIL_HOST`` and its neighbours make the account ``django``, unless
    DEFAULT_ACCOUNT or ACCOUNTS is set.
    """
    configured = mailers()
    if configured is not None:
        return {
            alias: _account_of_mailer(alias, entry["OPTIONS"])
            for alias, entry in configured.items()
            if _has_smtp_options(entry) and is_outbox_backend(entry.get("BACKEND"))
        }
    if values["default_account"] or values["accounts"] or not is_outbox_backend(email_backend()):
        return {}
    with warnings.catch_warnings():  # Django 6.1 warns where the project defines them, which is enough
        warnings.simplefilter("ignore")
        options = {option: getattr(settings, name) for option, name in SMTP_OPTIONS.items()}
    return {DJANGO_ACCOUNT: from_smtp_options(DJANGO_ACCOUNT, options, path="EMAIL_HOST", paths=SMTP_OPTIONS)}


def _has_smtp_options(entry: object) -> bool:
    options = entry.get("OPTIONS") if isinstance(entry, Mapping) else None
    return isinstance(options, Mapping) and not SMTP_OPTIONS.keys().isdisjoint(options)


def _account_of_mailer(alias: str, options: Mapping[str, object]) -> DeclaredAccount:
    path = f"MAILERS[{alias!r}]"
    paths = {option: f'{path}["OPTIONS"]["{option}"]' for option in SMTP_OPTIONS}
    given = {option: options.get(option) for option in SMTP_OPTIONS}
    return from_smtp_options(alias, given, path=path, paths=paths)


def is_outbox_backend(path: object) -> bool:
    """Whether the path names the email backend of this app, or one that is derived from it."""
    if not isinstance(path, str) or path.startswith("django."):
        return False
    try:
        return isinstance(getattr(import_string(path), "outbox_options", None), frozenset)
    except ImportError:
        return False


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
