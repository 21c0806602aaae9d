"""The table of settings: the keys of ``PRX_EMAIL``, with which tests compare the documentation and the checks."""

from __future__ import annotations

from dataclasses import dataclass

from prx_email_django.conf import kinds
from prx_email_django.conf.kinds import Kind


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of ``PRX_EMAIL``: its default, its kind, and what it does."""

    name: str
    default: object
    kind: Kind
    help: str


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "INSTANCE",
        "",
        kinds.TEXT,
        "Name of this database; a copy under another name sends nothing until it is adopted.",
    ),
    Setting("DEFAULT_ACCOUNT", None, kinds.OPTIONAL_TEXT, "Name of the account of messages that name no account."),
    Setting("MESSAGE_ID_DOMAIN", "prx-email.local", kinds.DOMAIN, "Right side of every Message-ID."),
    Setting("BASE_BACKOFF", 5, kinds.DURATION, "Wait after a failure, doubled with every attempt."),
    Setting("MAX_BACKOFF", 21_600, kinds.DURATION, "Longest wait between two attempts."),
    Setting(
        "MAX_RETRIES", None, kinds.OPTIONAL_COUNT, "Known failures after which a message is at rest; None: no limit."
    ),
    Setting("MAX_UNKNOWN_OUTCOMES", 6, kinds.COUNT, "Attempts of unknown outcome after which a message is at rest."),
    Setting(
        "REFUSALS_IN_A_ROW",
        10,
        kinds.COUNT_OR_OFF,
        "Messages refused in the same words, one after another, that make an account suspected; 0: off.",
    ),
    Setting("GIVE_UP_AFTER", "5d", kinds.DURATION, "A message that has been due for longer than this expires."),
    Setting("LEASE", 180, kinds.DURATION, "How long a claim holds without renewal."),
    Setting("ON_UNKNOWN", "retry", kinds.choice("retry", "hold"), "What happens after an attempt of unknown outcome."),
    Setting("ATTACHMENT_MAX_SIZE", 26_214_400, kinds.SIZE, "Largest attachment, in bytes."),
    Setting(
        "ATTACHMENT_CONTENT_TYPES",
        ("application/pdf", "image/jpeg", "image/png", "text/plain", "application/zip"),
        kinds.CONTENT_TYPES,
        "Content types that send and enqueue accept.",
    ),
    Setting("ATTACHMENT_STORE", None, kinds.PATH, "Directory of attachments that are given as a path."),
    Setting(
        "CREDENTIAL_KEYS", None, kinds.KEYS, "Keys that encrypt credentials, the newest first; None: from SECRET_KEY."
    ),
    Setting(
        "CLEARTEXT_HOSTS",
        kinds.LOOPBACK,
        kinds.HOSTS,
        "Hosts and networks to which clear text is allowed, besides loopback.",
    ),
    Setting("TLS_CA_FILE", None, kinds.PATH, "Trusted certificate authorities; None: the system's."),
    Setting("SMTP_TIMEOUT", 60, kinds.DURATION, "Longest wait for the reply to one command."),
    Setting("SEND_DEADLINE", 30, kinds.DURATION, "Longest time of a send before the body is written."),
    Setting("DRAIN_TIME_BUDGET", 40, kinds.DURATION, "Time after which the scheduled drain starts nothing new."),
    Setting("OAUTH_CALLABLES", (), kinds.DOTTED_LIST, "Functions that accounts may name as the source of tokens."),
    Setting("TRANSFORM_MIME", None, kinds.DOTTED, "f(bytes, message) -> bytes, called last for every message."),
    Setting("WAKE", None, kinds.WAKE, "f(), called when a message becomes due; None: django-q2's, if installed."),
    Setting("REDIRECT_TO", None, kinds.ADDRESSES, "Replaces every recipient, for staging."),
    Setting("REDIRECT_EXCEPT", (), kinds.PATTERNS, "Patterns of addresses that are not redirected."),
    Setting("TRANSPORT", "smtp", kinds.choice("smtp", "console", "memory"), "How messages are sent."),
    Setting("ACCOUNT_ROUTER", None, kinds.DOTTED, "f(message) -> account name, for the email backend."),
    Setting("AUTO_SCHEDULE", True, kinds.BOOLEAN, "migrate registers the schedule of django-q2, if installed."),
    Setting("RETENTION", dict(kinds.RETENTION_DEFAULT), kinds.RETENTION, "How long sent and resting rows are kept."),
)
