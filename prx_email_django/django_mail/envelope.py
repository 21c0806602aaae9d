"""The envelope that Django's SMTP backend would use for a message."""

from __future__ import annotations

from email.errors import HeaderParseError
from email.headerregistry import Address, AddressHeader

from django.core.mail import EmailMessage

from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.addresses import MAX_MAILBOX, split_mailbox
from prx_email_django.rules.domains import ascii_domain
from prx_email_django.rules.text import CONTROL

#: Length of the columns for an address, in characters.
ADDRESS_COLUMN = 320
#: The parser's defect for a mailbox of this machine, such as ``webmaster``, which Django accepts.
_NO_DOMAIN = "addr-spec local part with no domain"


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
    """The addr-spec by the standard library's parser; empty unless the text is exactly one address without a defect."""
    if CONTROL.search(text) or len(text) > MAX_MAILBOX:  # the parser accepts some of them, and takes quadratic time
        return ""
    try:
        parsed = AddressHeader.value_parser(text)
        mailboxes = parsed.all_mailboxes
        if len(mailboxes) != 1 or {str(defect) for defect in parsed.all_defects} - {_NO_DOMAIN}:
            return ""
        domain = mailboxes[0].domain or ""
        domain = domain and ascii_domain(domain, lenient=True)
        return Address(username=mailboxes[0].local_part, domain=domain).addr_spec
    except (HeaderParseError, IndexError, ValueError, RecursionError):  # comments in comments
        return ""


def is_misread_by_django(text: str) -> bool:
    """Whether Django writes another address into the header than the envelope has.

    Django makes encoded words of a non-ASCII local part, and another domain of some non-ASCII domains (IDNA 2003).  It
    does not quote a local part that only a quoted string may hold, such as ``b..c``.
    """
    try:
        addr_spec = split_mailbox(text).addr_spec
    except ValueError:
        return False
    return not addr_spec.isascii() or addr_spec.lower() not in text.lower()
