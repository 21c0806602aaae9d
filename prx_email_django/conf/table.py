"""The table of settings: the keys of ``PRX_EMAIL``, with which tests compare the documentation and the checks."""

from __future__ import annotations

from dataclasses import dataclass

from prx_email_django.conf import kinds
from prx_email_django.conf.durations import RETENTION_DEFAULT
from prx_email_django.conf.kinds import Kind

#: Two installations that keep it may use the same Message-IDs.
DEFAULT_MESSAGE_ID_DOMAIN = "prx-email.local"


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of ``PRX_EMAIL``, its default and its kind; ``docs/reference/settings.md`` says what it does."""

    name: str
    default: object
    kind: Kind


SETTINGS: tuple[Setting, ...] = (
    Setting("INSTANCE", "", kinds.TEXT),
    Setting("DEFAULT_ACCOUNT", None, kinds.ACCOUNT_NAME),
    Setting("ACCOUNTS", {}, kinds.ACCOUNTS),
    Setting("MESSAGE_ID_DOMAIN", DEFAULT_MESSAGE_ID_DOMAIN, kinds.DOMAIN),
    Setting("BASE_BACKOFF", 5, kinds.DURATION),
    Setting("MAX_BACKOFF", 21_600, kinds.DURATION),
    Setting("MAX_RETRIES", None, kinds.OPTIONAL_COUNT),
    Setting("MAX_UNKNOWN_OUTCOMES", 6, kinds.COUNT),
    Setting("REFUSALS_IN_A_ROW", 10, kinds.COUNT_OR_OFF),
    Setting("GIVE_UP_AFTER", "5d", kinds.DURATION),
    Setting("LEASE", 180, kinds.DURATION),
    Setting("ON_UNKNOWN", "retry", kinds.choice("retry", "hold")),
    Setting("ATTACHMENT_MAX_SIZE", 26_214_400, kinds.SIZE),
    Setting(
        "ATTACHMENT_CONTENT_TYPES",
        ("application/pdf", "image/jpeg", "image/png", "text/plain", "application/zip"),
        kinds.CONTENT_TYPES,
    ),
    Setting("ATTACHMENT_STORE", None, kinds.PATH),
    Setting("CREDENTIAL_KEYS", None, kinds.KEYS),
    Setting("ACCOUNT_HOSTS", None, kinds.ACCOUNT_HOSTS),
    Setting("CLEARTEXT_HOSTS", kinds.LOOPBACK, kinds.HOSTS),
    Setting("TLS_CA_FILE", None, kinds.PATH),
    Setting("SMTP_TIMEOUT", 60, kinds.DURATION),
    Setting("SEND_DEADLINE", 30, kinds.DURATION),
    Setting("DRAIN_TIME_BUDGET", 40, kinds.DURATION),
    Setting("OAUTH_CALLABLES", (), kinds.DOTTED_LIST),
    Setting("OAUTH_SERVERS", {}, kinds.OAUTH_SERVERS),
    Setting("TRANSFORM_MIME", None, kinds.DOTTED),
    Setting("WAKE", None, kinds.WAKE),
    Setting("REDIRECT_TO", None, kinds.ADDRESSES),
    Setting("REDIRECT_EXCEPT", (), kinds.PATTERNS),
    Setting("TRANSPORT", "smtp", kinds.choice("smtp", "console", "memory")),
    Setting("ACCOUNT_ROUTER", None, kinds.DOTTED),
    Setting("AUTO_SCHEDULE", True, kinds.BOOLEAN),
    Setting("RETENTION", dict(RETENTION_DEFAULT), kinds.RETENTION),
)
