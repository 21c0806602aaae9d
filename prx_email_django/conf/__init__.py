"""The settings of this app as one frozen, validated value.  Only ``reader`` reads ``django.conf.settings``."""

from prx_email_django.conf.kinds import Retention, parse_duration
from prx_email_django.conf.reader import (
    DJANGO_Q_WAKE,
    NAME,
    OutboxSettings,
    Problem,
    admins,
    configures_mail_by_email_settings,
    default_from_email,
    django_q_installed,
    email_backend,
    mailers,
    outbox_settings,
    problems,
    prx_email,
    q_cluster,
    use_tz,
)
from prx_email_django.conf.table import SETTINGS, Setting

__all__ = [
    "DJANGO_Q_WAKE",
    "NAME",
    "OutboxSettings",
    "Problem",
    "Retention",
    "SETTINGS",
    "Setting",
    "admins",
    "configures_mail_by_email_settings",
    "default_from_email",
    "django_q_installed",
    "email_backend",
    "mailers",
    "outbox_settings",
    "parse_duration",
    "problems",
    "prx_email",
    "q_cluster",
    "use_tz",
]
