"""Choices of the account's fields."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from prx_email_django.conf.account_url import PORTS


class AccountSource(models.TextChoices):
    """Who says what an account is."""

    PERSON = "", _("a person")
    SETTINGS = "settings", _("the settings")


class Security(models.TextChoices):
    """Encryption of the connection."""

    TLS = "tls", _("implicit TLS")
    STARTTLS = "starttls", _("STARTTLS, demanded")
    NONE = "none", _("none (clear text)")

    @classmethod
    def for_port(cls, port: int | None) -> Security:
        """Implicit TLS on port 465 (RFC 8314 §3.3), STARTTLS on any other: what an account has that names neither."""
        return cls.TLS if port == PORTS["tls"] else cls.STARTTLS


class AuthMethod(models.TextChoices):
    """Authentication of the account."""

    PASSWORD = "password", _("password")
    XOAUTH2 = "xoauth2", _("OAuth token")
    NONE = "none", _("none (unauthenticated relay)")


class AuthMechanism(models.TextChoices):
    """Mechanism of AUTH (RFC 4954)."""

    AUTO = "auto", _("automatic")
    PLAIN = "plain", "PLAIN"
    LOGIN = "login", "LOGIN"
    CRAM_MD5 = "cram-md5", "CRAM-MD5"
    XOAUTH2 = "xoauth2", "XOAUTH2"
    OAUTHBEARER = "oauthbearer", "OAUTHBEARER"

    @classmethod
    def fitting(cls, auth_method: str) -> tuple[AuthMechanism, ...]:
        """The mechanisms that use the account's kind of credentials, besides ``auto``."""
        match auth_method:
            case AuthMethod.PASSWORD:
                return cls.PLAIN, cls.LOGIN, cls.CRAM_MD5
            case AuthMethod.XOAUTH2:
                return cls.XOAUTH2, cls.OAUTHBEARER
        return ()


class OAuthProvider(models.TextChoices):
    """Provider of access tokens."""

    NOBODY = "", _("nobody: a fixed token")
    GOOGLE = "google", _("Google")
    MICROSOFT = "microsoft", _("Microsoft")
    CUSTOM = "custom", _("custom")


class Pipelining(models.TextChoices):
    """How many commands may be written before the server has replied (RFC 2920)."""

    AUTO = "auto", _("automatic")
    CHUNKED = "chunked", _("whole messages, several unanswered at once")
    FULL = "full", _("full: the next envelope travels with a body")
    ENVELOPE = "envelope", _("envelope in one piece")
    OFF = "off", _("off: one command at a time")
