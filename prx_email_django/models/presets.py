"""Presets of well-known providers: their servers and kinds of credentials.

Add a preset to ``PRESETS``.  A token provider is also an ``OAuthProvider`` (``models.choices``), and has its token
address and scope in ``oauth.token_request``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider: its server, its token provider if there is one, and whether it accepts OAuth only."""

    host: str
    port: int
    oauth_provider: str = ""
    oauth_only: bool = False


PRESETS = {
    "gmail": Preset("smtp.gmail.com", 465, oauth_provider="google"),
    "outlook": Preset("smtp.office365.com", 587, oauth_provider="microsoft", oauth_only=True),
    "yahoo": Preset("smtp.mail.yahoo.com", 465),
    "fastmail": Preset("smtp.fastmail.com", 465),
}


@sensitive_variables()
def preset_fields(preset: str, *, name: str, user: str, **fields: Any) -> dict[str, Any]:
    """The fields of an account at a well-known provider; ``fields`` win over the preset.

    Raises:
        ValueError: unknown preset.
        ValidationError: credentials of two kinds, or of a kind that the provider does not have.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    known = PRESETS[preset]
    values: dict[str, Any] = {"host": known.host, "port": known.port, "email": user if "@" in user else ""}
    if fields.get("oauth_refresh_token") or fields.get("oauth_client_secret"):
        values["oauth_provider"] = known.oauth_provider
    values = {**values, **fields, "name": name, "user": user}
    _check_credentials(preset, values)
    return values


@sensitive_variables()
def _check_credentials(preset: str, values: dict[str, Any]) -> None:
    """Refuse credentials that the constraints accept, but that are incomplete or of two kinds."""
    given = [name for name in ("oauth_refresh_token", "oauth_client_secret") if values.get(name)]
    if not given or values.get("oauth_token"):
        return
    if values.get("password"):
        raise ValidationError({"password": _("Set either a password or the fields of a token provider, not both.")})
    if not values["oauth_provider"]:
        text = _("%(preset)s has no token provider of its own: set a password or a token, or name a provider.")
        raise ValidationError({given[0]: text % {"preset": preset}})
