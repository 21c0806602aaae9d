"""Email addresses: parsed strictly, and formatted for a header (RFC 5322 §3.4, RFC 6531)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from prx_email_django.mime.encoded_words import decode_words, encode_words
from prx_email_django.rules.domains import ascii_domain
from prx_email_django.rules.text import CONTROL

#: Bytes of an address as SMTP can carry it (RFC 5321 §4.5.3.1.3, without the angle brackets).
MAX_ADDRESS = 254
#: Characters of an address with its display name, where a caller gives it: the length of a line (RFC 5322 §2.1.1).
MAX_MAILBOX = 998

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-]"
_DOT_ATOM = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_MAILBOX = re.compile(rf'((?:{_QUOTED}|[^"<>,;:@\\])*)<(.*)>', re.DOTALL)
_SPEC = re.compile(rf"({_DOT_ATOM.pattern}|{_QUOTED})@(.+)", re.DOTALL)
_QUOTED_STRING = re.compile(_QUOTED, re.DOTALL)
_LIST_ITEM = re.compile(rf'(?:{_QUOTED}|[^",])+')
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


@dataclass(frozen=True, slots=True)
class Address:
    """A display name ("" where there is none) and an ``addr-spec`` with its domain in lower-case ASCII."""

    display: str
    addr_spec: str


@lru_cache(maxsize=4096)
def split_mailbox(text: str) -> Address:
    """Parse ``ann@x.org`` or ``Ann <ann@x.org>``; the domain becomes ASCII, the local part is kept.

    Raises:
        ValueError: the text is not exactly one address; the error says why, without repeating the address.
    """
    if CONTROL.search(text):
        raise ValueError("it must not hold a control character")
    match = _MAILBOX.fullmatch(text.strip())
    if match is None:
        return Address("", _addr_spec(text.strip()))
    display = re.sub(_QUOTED, lambda quoted: _unescape(quoted[1]), match[1]).strip()
    display = decode_words(display)
    if CONTROL.search(display):
        raise ValueError("its display name must not hold a control character")
    return Address(display, _addr_spec(match[3].strip()))


def split_list(text: str) -> list[str]:
    """The addresses of a list, split at commas outside quotes; a quote that is never closed splits too."""
    at = _unclosed_quote(text)
    # All later quotes are unclosed too: none is searched again, since a search from each would take quadratic time.
    text = text[:at] + text[at:].replace('"', ",")
    return [item for match in _LIST_ITEM.finditer(text) if (item := match[0].strip())]


def _unclosed_quote(text: str) -> int:
    """Index of the first quote that is not closed, or the length of the text."""
    at = 0
    while (at := text.find('"', at)) >= 0:
        quoted = _QUOTED_STRING.match(text, at)
        if quoted is None:
            return at
        at = quoted.end()
    return len(text)


@lru_cache(maxsize=4096)
def format_mailbox(text: str) -> str:
    """The address as a header has it: ASCII except for a non-ASCII local part; a header may be folded at its spaces.

    Raises:
        ValueError: the text is not exactly one address.
    """
    address = split_mailbox(text)
    if not address.display:
        return address.addr_spec
    return f"{_phrase(address.display)} <{address.addr_spec}>"


def _phrase(display: str) -> str:
    if not display.isascii() or "=?" in display or max(map(len, display.split())) > 200:
        # A single encoded word where possible: some readers, Python's too, put spaces between the words of a name.
        return " ".join(encode_words(display))
    if _PHRASE.fullmatch(display):
        return display
    return '"' + display.replace("\\", r"\\").replace('"', r"\"") + '"'


def _addr_spec(text: str) -> str:
    match = _SPEC.fullmatch(text)
    if match is None or not text.isprintable():
        raise ValueError("it must be one address, as ann@example.com or Ann <ann@example.com>")
    local = match[1]
    if match[2] is not None and _DOT_ATOM.fullmatch(plain := _unescape(match[2])):
        local = plain  # quoted without need: one address has one spelling
    spec = f"{local}@{_domain(match[3])}"
    if len(spec.encode()) > MAX_ADDRESS:
        raise ValueError(f"it must not be longer than {MAX_ADDRESS} bytes")
    return spec


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _domain(text: str) -> str:
    """The domain in lower-case ASCII, or an address literal (``[192.0.2.1]``, RFC 5321 §4.1.3)."""
    if text.startswith("["):
        return _literal(text)
    try:
        return ascii_domain(text)
    except ValueError as error:
        raise ValueError(f"its domain is {error}") from error


def _literal(domain: str) -> str:
    inner = domain.removeprefix("[").removesuffix("]")
    tagged = inner[:5].lower() == "ipv6:"
    if not domain.endswith("]"):
        raise ValueError("its domain is not a host name")
    address = ipaddress.ip_address(inner[5:] if tagged else inner)
    if (address.version == 6) is not tagged:
        raise ValueError("an IPv6 address literal must be [IPv6:…]")
    return f"[IPv6:{address}]" if tagged else f"[{address}]"
