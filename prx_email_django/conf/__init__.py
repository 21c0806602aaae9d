"""The settings of this app as one frozen, validated value.  Only ``reader`` reads ``django.conf.settings``."""

from prx_email_django.conf.durations import parse_duration
from prx_email_django.conf.settings import OutboxSettings, outbox_settings

__all__ = ["OutboxSettings", "outbox_settings", "parse_duration"]
