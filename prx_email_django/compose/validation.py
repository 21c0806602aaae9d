"""Validation of a call's arguments: addresses, texts, options (headers: ``compose.headers``).

Every function raises ``errors.InvalidMessage`` with a stable code and the name of the argument, before anything is
written.  Its text does not repeat the value, which may be private or hold control characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from types import UnionType
from typing import Any, NoReturn

from django.utils.functional import LazyObject

from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.addresses import MAX_MAILBOX, Address, is_usual, split_mailbox
from prx_email_django.mime.headers import MAX_HEADER
from prx_email_django.rules.text import CONTROL, is_text
from prx_email_django.rules.words import words as _

MIN_PRIORITY, MAX_PRIORITY = -10, 10
MAX_TAG, MAX_KEY = 100, 255

#: A NUL as JSON text escapes it; an escaped backslash before ``u0000`` is none.
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


#: Levels of lists and dicts in JSON: MariaDB's columns take no more than 32.
MAX_JSON_DEPTH = 30


def addr_spec_of(text: str, *, field: str) -> str:
    """The ``addr-spec`` of ``parse_address``, at once where it is the text itself.

    Raises:
        InvalidMessage: see ``parse_address``.
    """
    if type(text) is str and is_usual(text):
        return text
    return parse_address(text, field=field).addr_spec


def parse_address(text: str, *, field: str = "address") -> Address:
    """Parse exactly one address, ``ann@x.org`` or ``Ann <ann@x.org>``; its domain becomes lower-case ASCII.

    Raises:
        InvalidMessage: ``invalid_address``, or ``header_injection`` where the text holds a control character.
    """
    demand_text(field, text, "invalid_address")
    check_header_text(field, text)
    if len(text) > MAX_MAILBOX:
        refuse("invalid_address", f"{field}: an address with its name must not be longer than {MAX_MAILBOX} characters")
    try:
        return split_mailbox(text)
    except ValueError as error:
        raise InvalidMessage(
            _("%(field)s: not a valid address: %(problem)s", field=field, problem=error), code="invalid_address"
        ) from error


def addr_specs_of(addresses: Sequence[str], *, field: str) -> list[str]:
    """The ``addr-spec`` of each address; the error names the position of the bad address.

    Raises:
        InvalidMessage: see ``parse_address``.
    """
    if len(addresses) == 1:
        return [addr_spec_of(addresses[0], field=field)]
    return [
        addr_spec_of(address, field=f"{field}, address {number} of {len(addresses)}")
        for number, address in enumerate(addresses, start=1)
    ]


def normalise_recipients(
    to: str | Iterable[str] | None, cc: str | Iterable[str] | None = (), bcc: str | Iterable[str] | None = ()
) -> list[tuple[str, str]]:
    """The envelope as (kind, addr-spec): each address once, under the first of to, cc and bcc that names it.

    Raises:
        InvalidMessage: ``empty_to``, ``invalid_address``, ``header_injection``.
    """
    return envelope_of(as_list(to, field="to"), as_list(cc, field="cc"), as_list(bcc, field="bcc"))


def envelope_of(to: list[str], cc: list[str], bcc: list[str]) -> list[tuple[str, str]]:
    """As ``normalise_recipients``, of what ``as_list`` has returned."""
    if len(to) == 1 and not cc and not bcc and type(to[0]) is str and is_usual(to[0]):
        return [("to", to[0])]  # nearly always
    if not any(str(address).strip() for address in to):
        refuse("empty_to", "to must name at least one recipient")
    envelope: dict[str, str] = {}
    for kind, addresses in (("to", to), ("cc", cc), ("bcc", bcc)):
        for address in addr_specs_of(addresses, field=kind) if addresses else ():
            envelope.setdefault(address, kind)
    return [(kind, address) for address, kind in envelope.items()]


def as_list(addresses: str | Iterable[str] | None, *, field: str = "address") -> list[str]:
    """The address or addresses as a list; an empty string and None are the empty list.

    Raises:
        InvalidMessage: ``invalid_address``.
    """
    if addresses is None or (type(addresses) is tuple and not addresses):
        return []
    given = as_text(addresses)
    if isinstance(given, str):
        return [given] if given.strip() else []
    if type(given) not in {list, tuple} and (
        not isinstance(given, Iterable) or isinstance(given, bytes | bytearray | memoryview)
    ):
        refuse("invalid_address", f"{field} must be an address or a list of addresses, not {type(given).__name__}")
    return [as_text(address) for address in given]


def as_text(value: Any) -> Any:
    """The text of a lazy translation (``gettext_lazy``) in the language that is active; any other value as it is.

    A ``SimpleLazyObject`` becomes the object that it stands for: a database driver, and ``int()``, take no other.
    """
    if type(value) is str:
        return value  # nearly always
    if issubclass(type(value), LazyObject):
        value = value.__reduce__()[1][0]
    is_string = issubclass(type(value), str) or not hasattr(value, "casefold")
    return value if is_string else str(value)


def as_json(value: object) -> object:
    """The value as JSON gives it back, its lazy texts evaluated: a copy, since callers reuse a dict for each message.

    Raises:
        InvalidMessage: ``invalid_option``: JSON, or a database, cannot hold it.
    """
    try:
        text = json.dumps(_with_plain_keys(value), allow_nan=False, ensure_ascii=False, default=_evaluated)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(
            "metadata must be what JSON can hold: dicts, lists, strings, finite numbers, booleans, None",
            code="invalid_option",
        ) from error
    if _JSON_NUL.search(text):  # PostgreSQL refuses it, as it does NaN and lone surrogates
        refuse("invalid_option", "metadata must not hold NUL characters")
    copied: object = json.loads(text)
    if not _is_flat(copied):
        refuse("invalid_option", f"metadata must not be nested deeper than {MAX_JSON_DEPTH} levels")
    return copied


def _is_flat(value: object) -> bool:
    """Whether a JSON value is nested no deeper than ``MAX_JSON_DEPTH`` levels."""
    level = [value]
    for _level in range(MAX_JSON_DEPTH + 1):
        nested = [outer for outer in level if isinstance(outer, dict | list)]
        if not nested:
            return True
        level = [inner for outer in nested for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return False


def _with_plain_keys(value: object) -> object:
    """The value with evaluated keys, which ``json`` refuses otherwise."""
    if isinstance(value, dict):
        return {as_text(key): _with_plain_keys(item) for key, item in value.items()}
    return [_with_plain_keys(item) for item in value] if isinstance(value, list | tuple) else value


def _evaluated(value: object) -> str:
    """The text of a lazy translation, for what JSON does not know."""
    text = as_text(value)
    if not isinstance(text, str):
        raise TypeError(type(value).__name__)
    return text


def check_header_text(field: str, value: str) -> None:
    """Refuse a text for a header that holds a character of ``rules.text.CONTROL``.

    Raises:
        InvalidMessage: ``header_injection``.
    """
    is_plain = value.isascii() and value.isprintable()  # nearly always, and much faster
    if not is_plain and CONTROL.search(value):
        refuse("header_injection", f"{field} must not hold line ends or other control characters")


def check_subject(subject: str) -> None:
    """Check that the subject is not empty, stays on one line and is not too long.

    Raises:
        InvalidMessage: ``empty_subject``, ``header_injection``, ``invalid_option``.
    """
    demand_text("subject", subject)
    check_header_text("subject", subject)
    if not subject.strip():
        refuse("empty_subject", "subject must not be empty")
    if len(subject) > MAX_HEADER:
        refuse("invalid_option", f"subject must not be longer than {MAX_HEADER} characters")


def check_text_fields(*, subject: str, body_text: str, body_html: str = "") -> None:
    """Check the subject and the bodies, of which at least one must not be empty.

    Raises:
        InvalidMessage: ``empty_subject``, ``empty_body``, ``header_injection``, ``invalid_option`` (not a string, or a
            body with NUL or a lone surrogate).
    """
    check_subject(subject)
    for field, text in (("body_text", body_text), ("body_html", body_html)):
        demand_text(field, text)
        if not is_text(text):
            refuse("invalid_option", f"{field} must not hold NUL or lone surrogates")
    if (not body_text or body_text.isspace()) and not body_html.strip():
        refuse("empty_body", "body_text or body_html must not be empty")


def check_options(  # noqa: PLR0913 - a message has that many options; keyword-only
    *,
    now: datetime | None = None,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int = 0,
    on_unknown: str | None = None,
    is_sensitive: bool = False,
    tag: str = "",
    metadata: object = None,
    idempotency_key: str | None = None,
) -> None:
    """Check the options of a message: what is not sent, but says when and how.

    Raises:
        InvalidMessage: ``invalid_option``; the text names the option and says what it must be.
    """
    for name, instant in (("now", now), ("send_at", send_at), ("expires_at", expires_at)):
        if instant is not None:
            check_instant(name, instant)
    if send_at is not None and expires_at is not None and expires_at < send_at:
        refuse("invalid_option", "expires_at must not be before send_at")
    _demand(int, priority, "priority", "an integer")
    if isinstance(priority, bool) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        refuse("invalid_option", f"priority must be an integer from {MIN_PRIORITY} to {MAX_PRIORITY}")
    if not isinstance(is_sensitive, bool):
        refuse("invalid_option", "is_sensitive must be True or False")
    if on_unknown not in (None, "retry", "hold"):
        refuse("invalid_option", 'on_unknown must be "retry", "hold" or None')
    _check_label("tag", tag, MAX_TAG)
    if idempotency_key is not None:
        _check_label("idempotency_key", idempotency_key, MAX_KEY)
        if not idempotency_key:
            refuse("invalid_option", "idempotency_key must not be empty; leave it out where there is no key")
    if metadata is not None:
        as_json(metadata)


def check_not_expired(expires_at: datetime | None, now: datetime | None, *, is_queued: Callable[[], bool]) -> None:
    """Refuse an ``expires_at`` that has passed: the message could never be sent.  ``now`` None: not known yet.

    Not where ``is_queued``: a caller that repeats a call, whose answer was lost, gets the message of its key.

    Raises:
        InvalidMessage: ``invalid_option``.
    """
    if expires_at is not None and now is not None and expires_at <= now and not is_queued():
        refuse("invalid_option", "expires_at must be in the future")


def check_instant(name: str, instant: datetime | None) -> None:
    """Check that the instant is an aware ``datetime``, or None.

    Raises:
        InvalidMessage: ``invalid_option``.
    """
    if instant is None:
        return
    _demand(datetime, instant, name, "an aware datetime")
    if instant.utcoffset() is None:
        refuse("invalid_option", f"{name} must be an aware datetime, such as django.utils.timezone.now()")


def check_reason(reason: str) -> None:
    """Check the reason for a pause: a text that is not empty.

    Raises:
        InvalidMessage: ``invalid_option``.
    """
    _demand(str, reason, "reason", "a string")
    if not reason.strip():
        refuse("invalid_option", "reason must not be empty")


def _check_label(name: str, value: str, limit: int) -> None:
    if value == "":
        return  # nearly always
    demand_text(name, value)
    if len(value) > limit:
        refuse("invalid_option", f"{name} must be a string of at most {limit} characters")
    if CONTROL.search(value):
        refuse("invalid_option", f"{name} must not hold control characters")


def demand_text(field: str, value: object, code: str = "invalid_option") -> None:
    """Check that the value is a string; lazy texts have been evaluated before.

    Raises:
        InvalidMessage: ``code``.
    """
    if not isinstance(value, str):
        refuse(code, f"{field} must be a string")


def _demand(kind: type | UnionType, value: object, field: str, what: str, code: str = "invalid_option") -> None:
    """Check the type: callers without a type checker must see the mistake here, not in a worker."""
    if not isinstance(value, kind):
        refuse(code, f"{field} must be {what}")


def refuse(code: str, text: str) -> NoReturn:
    """Raise ``InvalidMessage``."""
    raise InvalidMessage(text, code=code)
