"""Reads ``django.conf.settings``; no other module does.  The names are those of Django and of other packages.

``conf.settings`` makes one validated value of ``PRX_EMAIL``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import django.conf
from django.apps import apps
from django.conf import settings
from django.utils import timezone
from django.utils.crypto import salted_hmac

NAME = "PRX_EMAIL"


def prx_email() -> Mapping[str, Any]:
    """``PRX_EMAIL`` as it was written; a value that is no dict is returned unchanged."""
    return getattr(settings, NAME, {})


def secret_keys() -> tuple[str | bytes, ...]:
    """``SECRET_KEY`` and its fallbacks."""
    return (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)


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


def uses_local_time() -> bool:
    """``EMAIL_USE_LOCALTIME``."""
    return bool(settings.EMAIL_USE_LOCALTIME)


def in_date_zone(instant: datetime) -> datetime:
    """The instant in the time zone of the header Date: TIME_ZONE where ``EMAIL_USE_LOCALTIME`` is set."""
    return timezone.localtime(instant, timezone.get_default_timezone()) if uses_local_time() else instant


def default_charset() -> str:
    """``DEFAULT_CHARSET``."""
    return settings.DEFAULT_CHARSET


def secret_fingerprints(text: str) -> tuple[str, ...]:
    """Keyed hashes by which a change of a secret is noticed that only the settings hold: the first is written.

    The keys are SECRET_KEY and its fallbacks.  Nobody can test a guess without them.
    """
    label = f"{NAME} secret in settings"
    made = (salted_hmac(label, text, secret=secret, algorithm="sha256") for secret in secret_keys())
    return tuple(mac.hexdigest()[:32] for mac in made)


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


def email_settings(names: Iterable[str]) -> list[Any]:
    """The values of these ``EMAIL_…`` settings; Django 6.1 warns where the project defines them, which is enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [getattr(settings, name) for name in names]


def email_backend() -> str:
    """``EMAIL_BACKEND``, for system checks only; empty with MAILERS, where it must not be read."""
    if mailers() is not None:
        return ""
    return str(email_settings(["EMAIL_BACKEND"])[0])


def admins() -> Sequence[Any]:
    """The setting ``ADMINS``."""
    return settings.ADMINS


def debug() -> bool:
    """``DEBUG``: past the proxy, since each statement asks; the proxy keeps what it has read as its own attribute."""
    try:
        return bool(object.__getattribute__(settings, "DEBUG"))
    except AttributeError:  # nobody has read it yet
        return settings.DEBUG


def use_tz() -> bool:
    """The setting ``USE_TZ``."""
    return bool(settings.USE_TZ)
