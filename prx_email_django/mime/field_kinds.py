"""Names of header fields by what they hold, in lower case."""

from __future__ import annotations

#: Fields that are never sent.
HIDDEN_FIELDS = frozenset({"bcc", "resent-bcc"})
#: Fields whose value is a list of addresses.
ADDRESS_FIELDS = frozenset(
    {"from", "to", "cc", "bcc", "sender", "reply-to"}
    | {f"resent-{name}" for name in ("from", "to", "cc", "bcc", "sender", "reply-to")}
)
#: Fields of addresses that this app does not make (RFC 8098 §2.1 and customs of senders).
OTHER_ADDRESS_FIELDS = frozenset(
    {"disposition-notification-to", "errors-to", "mail-followup-to", "mail-reply-to", "return-receipt-to"}
)
#: Fields whose value is a list of Message-IDs.
ID_FIELDS = frozenset({"message-id", "in-reply-to", "references", "resent-message-id", "content-id"})
#: Fields that describe the body, and are made with it.
BODY_FIELDS = frozenset({"mime-version", "content-type", "content-transfer-encoding"})
#: Fields that a message has at most once (RFC 5322 §3.6): some servers refuse a message with a second one.
SINGLE_FIELDS = frozenset(
    {"from", "to", "cc", "sender", "reply-to", "subject", "date", "message-id", "in-reply-to", "references"}
    | BODY_FIELDS
)
#: Fields of URIs in angle brackets, separated by commas (RFC 2369, RFC 8058): no encoded word is allowed in them.
URI_FIELDS = frozenset(f"list-{name}" for name in ("archive", "help", "owner", "post", "subscribe", "unsubscribe"))

#: Fields with a grammar in which encoded words have no place (RFC 2047 §5 (3)); ``Content-…`` and the like beside them.
_STRUCTURED = frozenset(
    {
        "auto-submitted",
        "authentication-results",
        "autocrypt",
        "bimi-selector",
        "date",
        "delivered-to",
        "dkim-signature",
        "domainkey-signature",
        "in-reply-to",
        "message-id",
        "mime-version",
        "received",
        "received-spf",
        "references",
        "resent-date",
        "resent-message-id",
        "return-path",
    }
)
_STRUCTURED_PREFIXES = ("arc-", "content-", "list-")


def is_structured(name: str) -> bool:
    """Whether encoded words have no place in the field, or only in its comments and phrases; ``name`` in lower case."""
    return name in _STRUCTURED or (name.startswith(_STRUCTURED_PREFIXES) and name != "content-description")
