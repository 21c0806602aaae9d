"""The envelope that Django's SMTP backend would use for a message."""

from __future__ import annotations

import re
from email._header_value_parser import get_mailbox
from email.errors import HeaderParseError
from email.headerregistry import Address, AddressHeader
from typing import Any

import django
from django.core.mail import EmailMessage

from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.addresses import MAX_MAILBOX, read_list, split_mailbox
from prx_email_django.rules.domains import ascii_domain
from prx_email_django.rules.text import CONTROL

#: Length of the columns for an address, in characters.
ADDRESS_COLUMN = 320
#: The parser's defect for a mailbox of this machine, such as ``webmaster``, which Django accepts.
_NO_DOMAIN = "addr-spec local part with no domain"
#: Such a mailbox.
_PLAIN = re.compile(r"[^\s\"<>@]+")
#: What no header can hold as it is: a line end, and NUL, at which some servers end the line.
_NEVER = re.compile(r"[\0\r\n]")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#: A domain that is no host name, or a literal: a server may know it all the same (RFC 5322 §3.4.1).
_DOMAIN = re.compile(rf"{_ATOM}(?:\.{_ATOM})*|\[[!-Z^-~]*\]")


class InvalidEmail(InvalidMessage, ValueError):
    """An invalid address or recipient list; a ``ValueError`` too, since Django's SMTP backend raises that."""


class InvalidHeader(InvalidMessage, ValueError):
    """An invalid header; a ``ValueError`` too, since Django raises its subclass ``BadHeaderError`` for line ends."""


def envelope_recipients(message: EmailMessage) -> list[tuple[str, str]]:
    """The addresses of ``message.recipients()`` as (kind, addr-spec), each once.

    An address that a subclass adds in ``recipients()`` is in no header, so its kind is ``bcc``.

    Raises:
        InvalidEmail: ``invalid_address``, or ``empty_to`` where there is no recipient.
    """
    kinds: dict[str, str] = {}
    for kind in ("to", "cc", "bcc"):
        for given in getattr(message, kind):
            kinds.setdefault(str(given), kind)
    envelope: dict[str, str] = {}
    for given in message.recipients():
        kind = kinds.get(str(given), "bcc")
        envelope.setdefault(envelope_address(kind, given), kind)
    if not envelope:
        raise InvalidEmail("the message must have a recipient", code="empty_to")
    return [(kind, address) for address, kind in envelope.items()]


def envelope_address(field: str, given: object) -> str:
    """The addr-spec of one address, its domain in ASCII.

    The address is parsed strictly first, then as Django parses it: without a domain, or with underscores in the domain.

    Raises:
        InvalidEmail: ``invalid_address``.
    """
    text = str(given)
    try:
        return split_mailbox(text).addr_spec
    except ValueError as error:
        address = _leniently_read(text)
        if not address or len(address) > ADDRESS_COLUMN:
            raise InvalidEmail(f"{field}: Invalid address: {error}", code="invalid_address") from error
        return address


def _leniently_read(text: str) -> str:
    """The addr-spec as the installed Django reads it; empty where Django raises, or where no server can be told it."""
    text = text.replace("\t", " ").strip()
    if _NEVER.search(text) or len(text) > MAX_MAILBOX:  # the parser accepts some of them, and takes quadratic time
        return ""
    try:
        found = _mailbox_of_5_2(text) if django.VERSION < (6, 0) else _mailbox(text)
        local, domain = found.local_part, found.domain or ""
        if not domain and not _PLAIN.fullmatch(local):
            # On Django 5.2: an address behind a quote that is never closed.
            return split_mailbox(local).addr_spec if "<" not in local else ""
        address = Address(username=local, domain=domain and _domain(domain)).addr_spec
        # A display name may hold them: Django encodes it.
        return "" if CONTROL.search(address) else address
    # The parser also fails with errors of its own, and follows comments in comments.
    except (HeaderParseError, AttributeError, IndexError, TypeError, ValueError, RecursionError):
        return ""


def _domain(text: str) -> str:
    try:
        return ascii_domain(text, lenient=True)
    except ValueError:
        if not _DOMAIN.fullmatch(text):
            raise
        return text.lower()


def _mailbox(text: str) -> Any:
    parsed = AddressHeader.value_parser(text)
    (found,) = parsed.all_mailboxes
    if {str(defect) for defect in parsed.all_defects} - {_NO_DOMAIN}:
        raise ValueError("a defect")
    return found


def _mailbox_of_5_2(text: str) -> Any:
    """Django 5.2 takes an address with any defect: blanks in the local part, an angle bracket that is never closed."""
    found, rest = get_mailbox(text)
    if rest:
        raise ValueError("more than an address")
    return found


def is_misread_by_django(text: str) -> bool:
    """Whether Django writes another address into the header than the envelope has.

    Django makes encoded words of a non-ASCII local part, and another domain of some non-ASCII domains (IDNA 2003).  It
    does not quote a local part that only a quoted string may hold, such as ``b..c``.
    """
    try:
        addr_spec = split_mailbox(text).addr_spec
    except ValueError:  # also for the display name alone
        found = read_list(text).addresses
        if len(found) != 1:
            return False
        addr_spec = found[0].addr_spec
    return not addr_spec.isascii() or addr_spec.lower() not in text.lower()
