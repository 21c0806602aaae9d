"""Bytes of a mail transaction: MAIL and RCPT with their parameters, and the body for DATA or BDAT.  Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from prx_email_django.mime.recode import needs_smtputf8, recipients_in_ascii, to_seven_bits
from prx_email_django.mime.transfer import with_crlf
from prx_email_django.rules.domains import with_ascii_domain
from prx_email_django.rules.outcomes import Answer, RecipientOutcome
from prx_email_django.rules.text import CONTROL
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import OutgoingMessage

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"(?=@|$)')
_UNQUOTED = re.compile("[ <>]")
#: An address that goes as it is.
_USUAL = re.compile(r"[A-Za-z0-9._+=-]+@[A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Extensions:
    """Service extensions that the server announced in its reply to EHLO."""

    pipelining: bool = False
    #: BDAT (RFC 3030).
    chunking: bool = False
    #: SIZE (RFC 1870), and its limit in bytes; 0: no limit was named.
    size: bool = False
    size_limit: int = 0
    eight_bit: bool = False
    utf8: bool = False


class UnsupportedMessage(Exception):
    """This server cannot take this message as it is; nothing was written.  ``str()`` is shown to people."""

    def __init__(self, text: str, *, error_code: str, smtp_code: int = 0, enhanced: str = "") -> None:
        super().__init__(text)
        self.error_code = error_code
        self.smtp_code = smtp_code
        self.enhanced = enhanced


#: Result of a recipient whose address needs SMTPUTF8 where the server lacks it (RFC 6531 §3.7.4.2).
_NEEDS_UTF8 = RecipientOutcome(
    Answer.REFUSED,
    code=553,
    enhanced="5.6.7",
    text="the address has characters beyond ASCII, and the server does not offer SMTPUTF8",
)


def unnameable_recipients(outgoing: OutgoingMessage, extensions: Extensions) -> dict[str, RecipientOutcome]:
    """The recipients whose addresses only SMTPUTF8 can name, each refused, where the server lacks it."""
    if extensions.utf8 or "".join(outgoing.recipients).isascii():
        return {}
    return {address: _NEEDS_UTF8 for address in outgoing.recipients if not path(address).isascii()}


def adapt(outgoing: OutgoingMessage, extensions: Extensions) -> None:
    """Bring header and body to what the server takes, with CRLF as their only line end.

    A lone CR or LF becomes CRLF: a server that ends a message at a lone LF would read the rest as commands.
    Without SMTPUTF8, To and Cc are written without characters beyond ASCII (RFC 6857).  Without 8BITMIME, the body is
    encoded in seven bits (RFC 6152 §3); what no encoding keeps true (signed parts) goes as it is.
    """
    takes_all = extensions.utf8 and extensions.eight_bit
    if not (takes_all or outgoing.is_ascii or outgoing.body.isascii()):
        if not extensions.utf8:
            outgoing.body = recipients_in_ascii(outgoing.body)
        if not extensions.eight_bit:
            outgoing.body = to_seven_bits(outgoing.body)
        outgoing.eight_bit, outgoing.utf8 = not outgoing.body.isascii(), needs_smtputf8(outgoing.body)
        outgoing.has_crlf = False
    if not outgoing.has_crlf:
        outgoing.body = with_crlf(outgoing.body)


def envelope(outgoing: OutgoingMessage, extensions: Extensions, recipients: Sequence[str] | None = None) -> list[bytes]:
    """Return MAIL, one RCPT for each recipient, and DATA: one item each, with its CRLF.

    ``recipients``: those of the message that are addressed; None: all.

    Raises:
        UnsupportedMessage: the message is too large (552 5.3.4) or needs an extension that the server lacks, or an
            address is invalid.
    """
    addressed = outgoing.recipients if recipients is None else recipients
    if not addressed:
        raise UnsupportedMessage("the message has no recipient", error_code=ErrorCode.CONTENT)
    size = len(outgoing.body)  # as SIZE counts: CRLF line ends, not dot-stuffed (RFC 1870 §3)
    if extensions.size_limit and size > extensions.size_limit:
        text = f"message of {size} bytes exceeds the server's limit of {extensions.size_limit}"
        raise UnsupportedMessage(text, error_code=ErrorCode.PROVIDER, smtp_code=552, enhanced="5.3.4")
    sender = _path_of_sender(outgoing.sender)
    rcpt: list[bytes] = []
    for address in addressed:
        rcpt.append(f"RCPT TO:<{path(address)}>\r\n".encode())
    options = f" SIZE={size}" if extensions.size else ""
    if outgoing.eight_bit and extensions.eight_bit:
        options += " BODY=8BITMIME"
    if outgoing.utf8 or not (sender.isascii() and b"".join(rcpt).isascii()):
        if not extensions.utf8:
            raise UnsupportedMessage(
                "a non-ASCII address or header, and the server lacks SMTPUTF8", error_code=ErrorCode.CONTENT
            )
        options += " SMTPUTF8"
    return [f"MAIL FROM:<{sender}>{options}\r\n".encode(), *rcpt, b"DATA\r\n"]


def path(address: str) -> str:
    """Return the address as MAIL and RCPT need it: its domain in ASCII (IDNA 2008), its local part unchanged.

    Raises:
        UnsupportedMessage: the address has control characters, blanks or brackets outside quotes, or an invalid domain.
    """
    if _USUAL.fullmatch(address):
        return address
    written = _named(address)
    # Checked in the form that is written: IDNA turns a full-width bracket into a bracket.
    quoted = _QUOTED.match(written)
    if CONTROL.search(written) or _UNQUOTED.search(written, quoted.end() if quoted else 0):
        raise UnsupportedMessage("an address has characters that no envelope can carry", error_code=ErrorCode.CONTENT)
    return written


_path_of_sender = lru_cache(maxsize=64)(path)  # many messages share few senders


def _named(address: str) -> str:
    _, at, domain = address.rpartition("@")
    if not at or domain.isascii():
        return address
    try:
        return with_ascii_domain(address)
    except ValueError as error:
        raise UnsupportedMessage(f"the domain of an address is {error}", error_code=ErrorCode.CONTENT) from error


def dot_stuffed(body: bytes) -> bytes:
    """Return the body, in the form of ``adapt``, dot-stuffed (RFC 5321 §4.5.2), without the final dot."""
    body = body.replace(b"\r\n.", b"\r\n..")
    return b"." + body if body[:1] == b"." else body
