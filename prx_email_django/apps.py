"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OutboxConfig(AppConfig):
    """Registered as ``prx_email_django`` in INSTALLED_APPS."""

    name = "prx_email_django"
    label = "prx_email_django"
    verbose_name = _("Email outbox")
    default_auto_field = "django.db.models.BigAutoField"
