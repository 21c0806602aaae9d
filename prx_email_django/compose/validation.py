"""What is refused at the door: bad addresses, header injection, empty fields, impossible options.

Every function raises ``errors.InvalidMessage`` with a stable code, before anything is written, and names the field.
Offending values are not repeated: they may be private, and they may hold control characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from types import UnionType
from typing import NoReturn

from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.addresses import Address, split_mailbox
from prx_email_django.mime.headers import MAX_HEADER
from prx_email_django.rules.text import CONTROL, NOT_TEXT

__all__ = [
    "Address",
    "check_header",
    "check_header_text",
    "check_headers",
    "check_options",
    "check_subject",
    "check_text_fields",
    "normalise_recipients",
    "parse_address",
    "parse_addresses",
]

MIN_PRIORITY, MAX_PRIORITY = -10, 10
MAX_TAG, MAX_KEY = 100, 255

_HEADER_NAME = re.compile(r"[!-9;-~]+")
#: Made by the app, or part of the envelope: a caller's own would contradict them.
_RESERVED = frozenset(
    {
        "message-id",
        "date",
        "from",
        "to",
        "cc",
        "bcc",
        "sender",
        "reply-to",
        "return-path",
        "mime-version",
        "received",
        "dkim-signature",
    }
)
_RESERVED_PREFIXES = ("resent-", "content-")
#: An escaped NUL in JSON text, but not an escaped backslash before ``u0000``.
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def parse_address(text: str, *, field: str = "address") -> Address:
    """Exactly one address: ``ann@x.org`` or ``Ann <ann@x.org>``; the domain in lower-case ASCII (IDNA).

    Raises:
        InvalidMessage: ``invalid_address``, or ``header_injection`` where a control character is in it.
    """
    _demand_text(field, text, "invalid_address")
    check_header_text(field, text)
    try:
        return split_mailbox(text)
    except ValueError as error:
        raise InvalidMessage(f"{field}: not a valid address: {error}", code="invalid_address") from error


def parse_addresses(addresses: Sequence[str], *, field: str) -> list[Address]:
    """Each as ``parse_address`` takes it; an error tells the place of the bad one among several.

    Raises:
        InvalidMessage: see ``parse_address``.
    """
    if len(addresses) == 1:
        return [parse_address(addresses[0], field=field)]
    return [
        parse_address(one, field=f"{field}, address {number} of {len(addresses)}")
        for number, one in enumerate(addresses, start=1)
    ]


def normalise_recipients(
    to: str | Iterable[str] | None, cc: str | Iterable[str] | None = (), bcc: str | Iterable[str] | None = ()
) -> list[tuple[str, str]]:
    """The envelope: (kind, addr-spec), each address once, under the first of to, cc, bcc that names it.

    Raises:
        InvalidMessage: ``empty_to``, ``invalid_address``, ``header_injection``.
    """
    envelope: dict[str, str] = {}
    for kind, given in (("to", to), ("cc", cc), ("bcc", bcc)):
        addresses = as_list(given, field=kind)
        if kind == "to" and not any(str(one).strip() for one in addresses):
            _refuse("empty_to", "to: name at least one recipient")
        for address in parse_addresses(addresses, field=kind):
            envelope.setdefault(address.addr_spec, kind)
    return [(kind, address) for address, kind in envelope.items()]


def as_list(addresses: str | Iterable[str] | None, *, field: str = "address") -> list[str]:
    """One address or several, as a list; an empty string and None are none.

    Raises:
        InvalidMessage: ``invalid_address``.
    """
    if addresses is None:
        return []
    if isinstance(addresses, str):
        return [addresses] if addresses.strip() else []
    _demand(Iterable, addresses, field, "one address or a list of them", "invalid_address")
    return list(addresses)


def check_header_text(field: str, value: str) -> None:
    """Refuse control characters (C0, DEL, C1), U+2028, U+2029 and lone surrogates in what goes into a header.

    Raises:
        InvalidMessage: ``header_injection``.
    """
    if CONTROL.search(value):
        _refuse("header_injection", f"{field}: line ends and other control characters are not allowed here")


def check_header(name: str, value: str) -> None:
    """A header of the caller's own: name of printable ASCII without a colon, not one that the app makes itself.

    Raises:
        InvalidMessage: ``header_injection``, ``invalid_header``.
    """
    _demand_text("headers: name", name, "invalid_header")
    _demand_text("headers: value", value, "invalid_header")
    check_header_text("headers: name", name)
    if not _HEADER_NAME.fullmatch(name) or len(name) > 76:
        _refuse("invalid_header", "headers: a name is made of printable ASCII without space or colon, at most 76 long")
    lower = name.lower()
    if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
        _refuse("invalid_header", f"headers: {name} is made from the message's fields and cannot be given")
    check_header_text(f"headers: {name}", value)
    if len(value) > MAX_HEADER:
        _refuse("invalid_header", f"headers: the value of {name} is longer than {MAX_HEADER} characters")


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Every pair by ``check_header``.

    Raises:
        InvalidMessage: ``header_injection``, ``invalid_header``.
    """
    for name, value in headers:
        check_header(name, value)


def check_subject(subject: str) -> None:
    """A subject that is not empty and stays on one line.

    Raises:
        InvalidMessage: ``empty_subject``, ``header_injection``, ``invalid_option``.
    """
    _demand_text("subject", subject)
    check_header_text("subject", subject)
    if not subject.strip():
        _refuse("empty_subject", "subject: write one")
    if len(subject) > MAX_HEADER:
        _refuse("invalid_option", f"subject: at most {MAX_HEADER} characters")


def check_text_fields(*, subject: str, body_text: str, body_html: str = "") -> None:
    """Subject and bodies: an empty subject is refused, and a message without any body.

    Raises:
        InvalidMessage: ``empty_subject``, ``empty_body``, ``header_injection``, ``invalid_option`` (NUL or a lone
            surrogate in a body, or no string).
    """
    check_subject(subject)
    for field, text in (("body_text", body_text), ("body_html", body_html)):
        _demand_text(field, text)
        if NOT_TEXT.search(text):
            _refuse("invalid_option", f"{field}: NUL and lone surrogates are not text; remove them")
    if not body_text.strip() and not body_html.strip():
        _refuse("empty_body", "body_text: write something")


def check_options(  # noqa: PLR0913 - the options of a message, keyword-only
    *,
    now: datetime | None = None,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int = 0,
    on_unknown: str | None = None,
    tag: str = "",
    metadata: object = None,
    idempotency_key: str | None = None,
) -> None:
    """Everything about a message that is not sent.

    Raises:
        InvalidMessage: ``invalid_option``; the text names the option and says what to write.
    """
    for name, instant in (("now", now), ("send_at", send_at), ("expires_at", expires_at)):
        check_instant(name, instant)
    if send_at is not None and expires_at is not None and expires_at < send_at:
        _refuse("invalid_option", "expires_at: must not be before send_at")
    _demand(int, priority, "priority", "an integer")
    if isinstance(priority, bool) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        _refuse("invalid_option", f"priority: write an integer from {MIN_PRIORITY} to {MAX_PRIORITY}")
    if on_unknown not in {None, "retry", "hold"}:
        _refuse("invalid_option", 'on_unknown: write "retry", "hold" or None')
    _check_label("tag", tag, MAX_TAG)
    if idempotency_key is not None:
        _check_label("idempotency_key", idempotency_key, MAX_KEY)
        if not idempotency_key:
            _refuse("invalid_option", "idempotency_key: must not be empty; leave it out where there is none")
    _check_metadata(metadata)


def check_instant(name: str, instant: datetime | None) -> None:
    """An aware ``datetime``, or None.

    Raises:
        InvalidMessage: ``invalid_option``.
    """
    _demand(datetime | None, instant, name, "an aware datetime")
    if instant is not None and instant.utcoffset() is None:
        _refuse("invalid_option", f"{name}: write an aware datetime, such as django.utils.timezone.now()")


def check_reason(reason: str) -> None:
    """Why somebody pauses: a few words.

    Raises:
        InvalidMessage: ``invalid_option``.
    """
    _demand(str, reason, "reason", "why, somebody will ask")
    if not reason.strip():
        _refuse("invalid_option", "reason: write why, somebody will ask")


def _check_label(name: str, value: str, limit: int) -> None:
    _demand_text(name, value)
    if len(value) > limit:
        _refuse("invalid_option", f"{name}: write a string of at most {limit} characters")
    if CONTROL.search(value):
        _refuse("invalid_option", f"{name}: control characters are not allowed")


def _check_metadata(metadata: object) -> None:
    """JSON that every database can hold: PostgreSQL refuses NUL, NaN and lone surrogates in it."""
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(
            "metadata: write what JSON can hold: dicts, lists, strings, finite numbers, booleans, None",
            code="invalid_option",
        ) from error
    if _JSON_NUL.search(text):
        _refuse("invalid_option", "metadata: NUL characters are not allowed; remove them")


def _demand_text(field: str, value: object, code: str = "invalid_option") -> None:
    _demand(str, value, field, "a string", code)


def _demand(kind: type | UnionType, value: object, field: str, what: str, code: str = "invalid_option") -> None:
    """Types are promised by the annotations; untyped callers learn of a slip here, not from a worker."""
    if not isinstance(value, kind):
        _refuse(code, f"{field}: write {what}")


def _refuse(code: str, text: str) -> NoReturn:
    raise InvalidMessage(text, code=code)
