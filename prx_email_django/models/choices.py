"""Choices of the account's fields."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Security(models.TextChoices):
    """Encryption of the connection."""

    TLS = "tls", _("implicit TLS")
    STARTTLS = "starttls", _("STARTTLS, demanded")
    NONE = "none", _("none (clear text)")

    @classmethod
    def for_port(cls, port: int | None) -> Security:
        """Implicit TLS on port 465 (RFC 8314 §3.3), STARTTLS on any other: what an account has that names neither."""
        return cls.TLS if port == 465 else cls.STARTTLS


class AuthMethod(models.TextChoices):
    """Authentication of the account."""

    PASSWORD = "password", _("password (AUTH PLAIN or LOGIN)")
    XOAUTH2 = "xoauth2", _("OAuth token (XOAUTH2)")
    NONE = "none", _("none (unauthenticated relay)")


class OAuthProvider(models.TextChoices):
    """Provider of access tokens."""

    NOBODY = "", _("nobody: a fixed token")
    GOOGLE = "google", _("Google")
    MICROSOFT = "microsoft", _("Microsoft")
    CUSTOM = "custom", _("custom")


class Pipelining(models.TextChoices):
    """How many commands may be written before the server has replied (RFC 2920)."""

    AUTO = "auto", _("automatic")
    FULL = "full", _("full: the next envelope travels with a body")
    ENVELOPE = "envelope", _("envelope in one piece")
    OFF = "off", _("off: one command at a time")
