"""Presets of well-known providers: servers, kinds of credentials, published limits, and the trap that people meet.

``CONTRIBUTING.md`` lists what belongs to a new preset, and to a new token provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from prx_email_django.rules.references import reference
from prx_email_django.rules.text import shown_name
from prx_email_django.rules.words import words

_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
_SECRETS = ("password", "oauth_token", "oauth_refresh_token", "oauth_client_secret")
#: A region of Amazon Web Services, such as eu-central-1 or us-gov-west-1.
_AWS_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider: its server, how an account logs in there, what it publishes about limits, and its trap."""

    label: str
    host: str
    port: int
    #: The provider's page that says so.
    page: str
    trap: Promise | str
    oauth_provider: str = ""
    oauth_only: bool = False
    #: Region -> host, where the provider has servers for regions; ``host`` is that of no region.
    regions: Mapping[str, str] = field(default_factory=lambda: _NO_FIELDS)
    #: Other fields of the account: limits as published, and ``user`` where every account has the same.
    fields: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS)
    #: An account without user and secret needs no login there.
    login_optional: bool = False

    def initial(self) -> dict[str, Any]:
        """The fields that a form may show before anything is entered."""
        server = {"host": "" if "{" in self.host else self.host, "port": self.port}
        return {**server, **({"auth_method": "none"} if self.login_optional else {}), **self.fields}


PRESETS: Mapping[str, Preset] = {
    "local": Preset(
        "Mailpit, MailHog, make serve",
        "localhost",
        1025,
        "https://mailpit.axllent.org/docs/configuration/smtp/",
        _("In a container localhost is the container itself: give the host, and name it in CLEARTEXT_HOSTS."),
        fields={"security": "none"},
        login_optional=True,
    ),
    "gmail": Preset(
        "Gmail, Google Workspace",
        "smtp.gmail.com",
        465,
        "https://support.google.com/a/answer/166852",
        _("The password of the mailbox is refused: make an app password (needs two-step verification), or use OAuth."),
        oauth_provider="google",
        fields={"rate_limits": "2000/day, 3000 recipients/day"},
    ),
    "gmail-relay": Preset(
        "Google Workspace SMTP relay",
        "smtp-relay.gmail.com",
        587,
        "https://support.google.com/a/answer/2956491",
        _("An administrator must allow the addresses of your machines, or a login, in the Admin console."),
        fields={"rate_limits": "10000/day"},
        login_optional=True,
    ),
    "outlook": Preset(
        "Microsoft 365, Outlook.com",
        "smtp.office365.com",
        587,
        "https://learn.microsoft.com/office365/servicedescriptions/exchange-online-service-description/exchange-online-limits",
        _("SMTP AUTH is off for most mailboxes: an administrator switches it on. Use OAuth; passwords are ending."),
        oauth_provider="microsoft",
        oauth_only=True,
        fields={"max_connections": 3, "rate_limits": "30/minute, 10000 recipients/day"},
    ),
    "yahoo": Preset(
        "Yahoo Mail",
        "smtp.mail.yahoo.com",
        465,
        "https://help.yahoo.com/kb/SLN4075.html",
        _("The password of the mailbox is refused: make an app password."),
        fields={"max_messages_per_connection": 20, "rate_limits": "500 recipients/day"},
    ),
    "fastmail": Preset(
        "Fastmail",
        "smtp.fastmail.com",
        465,
        "https://www.fastmail.help/hc/en-us/articles/1500000278342",
        _("The password of the mailbox is refused: make an app password with access to SMTP."),
    ),
    "icloud": Preset(
        "iCloud Mail",
        "smtp.mail.me.com",
        587,
        "https://support.apple.com/en-us/102198",
        _("The Apple password is refused: make an app-specific password. The user is the whole @icloud.com address."),
        fields={"rate_limits": "1000/day, 1000 recipients/day"},
    ),
    "zoho": Preset(
        "Zoho Mail",
        "smtp.zoho.com",
        465,
        "https://www.zoho.com/mail/help/zoho-smtp.html",
        _(
            "Name the region of your account (eu, in, au, jp), and with two-factor login make an app password. Paid "
            "accounts of an organization use the host smtppro.zoho.com, or that of their region."
        ),
        regions={"eu": "smtp.zoho.eu", "in": "smtp.zoho.in", "au": "smtp.zoho.com.au", "jp": "smtp.zoho.jp"},
    ),
    "ses": Preset(
        "Amazon SES",
        "email-smtp.{region}.amazonaws.com",
        587,
        "https://docs.aws.amazon.com/ses/latest/dg/smtp-credentials.html",
        _(
            "User and password are SMTP credentials of the region, not AWS access keys. The user is no address: set a "
            "verified one as email. In the sandbox only verified recipients are allowed."
        ),
    ),
    "sendgrid": Preset(
        "SendGrid",
        "smtp.sendgrid.net",
        587,
        "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/integrating-with-the-smtp-api",
        _("The user is the word apikey, the password an API key. Set a verified sender as email."),
        regions={"eu": "smtp.eu.sendgrid.net"},
        fields={"user": "apikey"},
    ),
    "mailgun": Preset(
        "Mailgun",
        "smtp.mailgun.org",
        465,
        "https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-smtp",
        _("Credentials belong to one domain (postmaster@mg.example.com); a domain of the EU needs the region eu."),
        regions={"eu": "smtp.eu.mailgun.org"},
    ),
    "brevo": Preset(
        "Brevo",
        "smtp-relay.brevo.com",
        587,
        "https://developers.brevo.com/docs/smtp-integration",
        _("The password is an SMTP key, not an API key. The login (…@smtp-brevo.com) is no sender: set email."),
    ),
    "postmark": Preset(
        "Postmark",
        "smtp.postmarkapp.com",
        587,
        "https://postmarkapp.com/developer/user-guide/send-email-with-smtp",
        _(
            "The server's API token is user and password; an SMTP token has an access key for the user and a secret "
            "key for the password. Set a confirmed sender as email. Bulk mail goes to smtp-broadcasts.postmarkapp.com."
        ),
    ),
}


def preset_of(host: str) -> Preset | None:
    """The preset that has this server, in whatever region; None for an unknown server, and for this machine."""
    for preset in PRESETS.values():
        pattern = re.escape(preset.host).replace(r"\{region\}", _AWS_REGION.pattern)
        is_server = re.fullmatch(pattern, host, re.IGNORECASE) or host.lower() in preset.regions.values()
        if is_server and not (preset.login_optional and preset.fields.get("security") == "none"):
            return preset
    return None


@sensitive_variables()
def preset_fields(preset: str, *, region: str | None = None, **fields: Any) -> dict[str, Any]:
    """The fields of an account at a well-known provider; ``fields`` win over the preset.

    ``region``: for ``ses`` (needed), and for ``mailgun``, ``sendgrid`` and ``zoho``.

    Raises:
        ValueError: unknown preset.
        ValidationError: a region that the provider does not have; credentials that are missing, of two kinds, or of a
            kind that the provider does not have; a sender that the provider needs.
    """
    if preset not in PRESETS:
        raise ValueError(
            words(
                gettext_noop("unknown preset %(preset)s; choose one of %(names)s"),
                preset=repr(shown_name(preset)),
                names=", ".join(PRESETS),
            )
        )
    known = PRESETS[preset]
    given = {name: value for name, value in fields.items() if name != "user" or value}
    host = given.get("host") or _host(preset, known, region)
    values: dict[str, Any] = {"host": host, "port": known.port, **known.fields}
    by_client = given.get("oauth_client_id") and not given.get("password")
    if by_client or given.get("oauth_refresh_token") or given.get("oauth_client_secret"):
        values["oauth_provider"] = known.oauth_provider
    values |= given | {"host": host}
    if known.login_optional and not any(values.get(name) for name in ("user", "oauth_provider", *_SECRETS)):
        values.setdefault("auth_method", "none")
    if preset == "postmark":
        _use_token_twice(values)
    _check_credentials(preset, values)
    _check_sender(preset, values)
    return values


def _host(preset: str, known: Preset, region: str | None) -> str:
    region = str(region or "").strip().lower()
    if preset == "ses":
        if _AWS_REGION.fullmatch(region):
            return known.host.format(region=region)
        raise ValidationError({"region": _("Amazon SES has a server for each region: name one, such as eu-central-1.")})
    if not region:
        return known.host
    if region in known.regions:
        return known.regions[region]
    if not known.regions:
        raise ValidationError({"region": _("%(preset)s has no regions.") % {"preset": preset}})
    text = _("%(preset)s has no such region; choose one of %(regions)s, or none.")
    raise ValidationError({"region": text % {"preset": preset, "regions": ", ".join(known.regions)}})


@sensitive_variables()
def _use_token_twice(values: dict[str, Any]) -> None:
    """The token that is given as the user is the password too.

    A token that is given as the password is not copied: it would be readable in the column of the user.
    """
    if values.get("user"):
        if not values.get("password") and reference(str(values["user"])) is None:
            values["password"] = values["user"]
        return
    text = _(
        "Give the access key of an SMTP token as the user, and its secret key as the password. A server’s API token is "
        "given as both; as the user it is stored readably."
    )
    raise ValidationError({"user": text})


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


def _check_sender(preset: str, values: dict[str, Any]) -> None:
    """Refuse an account whose messages would have a From address that the provider is known to refuse."""
    if values.get("email"):
        return
    user = str(values.get("user") or "")
    if preset == "ses" and "@" not in user:
        raise ValidationError({"email": _("At Amazon SES the user is no address: set a verified address as email.")})
    if preset == "brevo" and user.endswith("@smtp-brevo.com"):
        raise ValidationError({"email": _("At Brevo the login is no sender: set a verified address as email.")})
