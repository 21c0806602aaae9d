"""One mailbox: taken apart strictly, put together for a header (RFC 5322 §3.4, RFC 6531, IDNA)."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from prx_email_django.mime.encoded_words import decode_words, encode_words

#: Octets of an address as SMTP can carry it (RFC 5321 §4.5.3.1.3, without the angle brackets).
MAX_ADDRESS = 254
#: What no header-bound text may hold: C0, DEL, C1, line and paragraph separator, lone surrogates.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-]"
_DOT_ATOM = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_MAILBOX = re.compile(rf'((?:{_QUOTED}|[^"<>,;:@\\])*)<(.*)>', re.DOTALL)
_SPEC = re.compile(rf"({_DOT_ATOM.pattern}|{_QUOTED})@(.+)", re.DOTALL)
_LIST_ITEM = re.compile(rf'(?:{_QUOTED}|[^",])+')
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
#: Where IDNA 2003 (Python's codec) maps a name to another name, and IDNA 2008 (today's registries) does not.
_DEVIATIONS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")


@dataclass(frozen=True, slots=True)
class Address:
    """A display name ("" where there is none) and an ``addr-spec`` with its domain in lower-case ASCII."""

    display: str
    addr_spec: str


@lru_cache(maxsize=4096)
def split_mailbox(text: str) -> Address:
    """Take ``ann@x.org`` or ``Ann <ann@x.org>`` apart; the domain becomes ASCII, the local part is kept.

    Raises:
        ValueError: it is not exactly one address; the text says why, without repeating the address.
    """
    if CONTROL.search(text):
        raise ValueError("it holds a control character")
    match = _MAILBOX.fullmatch(text.strip())
    if match is None:
        return Address("", _addr_spec(text.strip()))
    display = re.sub(_QUOTED, lambda quoted: _unescape(quoted[1]), match[1]).strip()
    display = decode_words(display)
    if CONTROL.search(display):
        raise ValueError("its display name hides a control character")
    return Address(display, _addr_spec(match[3].strip()))


def split_list(text: str) -> list[str]:
    """The items of an address list, split at commas outside quotes."""
    return [item for match in _LIST_ITEM.finditer(text) if (item := match[0].strip())]


@lru_cache(maxsize=4096)
def ascii_domain(domain: str) -> str:
    """The domain in lower-case ASCII (IDNA); an address literal (``[192.0.2.1]``) is kept.

    Raises:
        ValueError: it is no host name and no address literal.
    """
    if domain.startswith("["):
        return _literal(domain)
    if len(domain) > MAX_ADDRESS:
        raise ValueError("its domain is too long")
    ascii_form = domain.lower() if domain.isascii() else ".".join(map(_ascii_label, _DOTS.split(domain)))
    if not all(map(_LABEL.fullmatch, ascii_form.split("."))):
        raise ValueError("its domain is not a host name")
    return ascii_form


@lru_cache(maxsize=4096)
def format_mailbox(text: str) -> str:
    """The mailbox as it stands in a header: ASCII but for a non-ASCII local part; can be folded at its spaces.

    Raises:
        ValueError: it is not exactly one address.
    """
    address = split_mailbox(text)
    if not address.display:
        return address.addr_spec
    return f"{_phrase(address.display)} <{address.addr_spec}>"


def _phrase(display: str) -> str:
    if not display.isascii() or "=?" in display or max(map(len, display.split())) > 200:
        # One word where one can hold it: some readers (Python's is one) put spaces between the words of a name.
        return " ".join(encode_words(display))
    if _PHRASE.fullmatch(display):
        return display
    return '"' + display.replace("\\", r"\\").replace('"', r"\"") + '"'


def _addr_spec(text: str) -> str:
    match = _SPEC.fullmatch(text)
    if match is None or not text.isprintable():
        raise ValueError("write one address, as ann@example.com or Ann <ann@example.com>")
    local = match[1]
    if match[2] is not None and _DOT_ATOM.fullmatch(plain := _unescape(match[2])):
        local = plain  # needlessly quoted: one spelling for one mailbox
    spec = f"{local}@{ascii_domain(match[3])}"
    if len(spec.encode()) > MAX_ADDRESS:
        raise ValueError(f"it is longer than {MAX_ADDRESS} octets")
    return spec


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _ascii_label(label: str) -> str:
    if _DEVIATIONS.search(label):
        return "xn--" + unicodedata.normalize("NFC", label.lower()).encode("punycode").decode()
    try:
        return label.encode("idna").decode().lower()
    except UnicodeError as error:
        raise ValueError("its domain is not a host name") from error


def _literal(domain: str) -> str:
    inner = domain.removeprefix("[").removesuffix("]")
    tagged = inner[:5].lower() == "ipv6:"
    if not domain.endswith("]"):
        raise ValueError("its domain is not a host name")
    address = ipaddress.ip_address(inner[5:] if tagged else inner)
    if (address.version == 6) is not tagged:
        raise ValueError("an IPv6 address literal is written [IPv6:…]")
    return f"[IPv6:{address}]" if tagged else f"[{address}]"
