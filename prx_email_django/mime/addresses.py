"""Email addresses: parsed, and formatted for a header (RFC 5322 §3.4, RFC 6531).

``split_mailbox`` takes exactly one address.  ``read_list`` takes a field that a stranger wrote, with groups, and says
what in it is no address.  Both know comments and the dots that some carriers allow in a local part.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from prx_email_django.mime.address_tokens import Token, elements, tokens
from prx_email_django.mime.encoded_words import decode_words, encode_words
from prx_email_django.rules.domains import ascii_domain
from prx_email_django.rules.text import CONTROL
from prx_email_django.rules.words import words as _

#: Bytes of an address as SMTP can carry it (RFC 5321 §4.5.3.1.3, without the angle brackets).
MAX_ADDRESS = 254
#: Characters of an address with its display name, where a caller gives it: the length of a line (RFC 5322 §2.1.1).
MAX_MAILBOX = 998
#: Characters of any text that is parsed as one address: no header holds more.
_MAX_TEXT = 16_384

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-]"
_DOT_ATOM = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
#: An unquoted local part, also with dots at its ends or side by side, as docomo.ne.jp and others gave them out.
_UNQUOTED = re.compile(rf"\.*{_ATEXT}(?:{_ATEXT}|\.)*")
_SPEC = re.compile(rf'({_UNQUOTED.pattern}|"((?:[^"\\]|\\.)*)")@(.+)', re.DOTALL)
#: An address that is nothing but an ``addr-spec`` of the usual characters.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+")
#: An address as nearly all are written: its one spelling is the text itself.
_USUAL_LOCAL = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*")
_USUAL_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
#: Its greatest length: so none of its labels is longer than the DNS allows.
_MAX_USUAL = 63
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
#: What strangers write in front of an address in angle brackets: a route (RFC 5322 §4.4), or a link's scheme.
_ROUTE = re.compile(r"\A[ \t]*(?:@[^:]*|mailto):", re.IGNORECASE)
_OPENED, _CLOSED = Token("mark", "<"), Token("mark", ">")
_NOT_ONE = _("it must be one address, as ann@example.com or Ann <ann@example.com>")


@dataclass(frozen=True, slots=True)
class Address:
    """A display name ("" where there is none) and an ``addr-spec`` with its domain in lower-case ASCII."""

    display: str
    addr_spec: str


@dataclass(frozen=True, slots=True)
class AddressList:
    """The addresses of a field, those in groups too, and its items that are no address, as they were written."""

    addresses: list[Address]
    unreadable: list[str]


def is_usual(text: str) -> bool:
    """Whether the text is an ``addr-spec`` in the form that the parser would give it."""
    if len(text) > _MAX_USUAL:
        return False
    local, _at, domain = text.partition("@")
    if not _is_usual_domain(domain):
        return False
    return (local.isalnum() and local.isascii()) or _USUAL_LOCAL.fullmatch(local) is not None


@lru_cache(maxsize=1024)  # many addresses share few domains
def _is_usual_domain(domain: str) -> bool:
    return _USUAL_DOMAIN.fullmatch(domain) is not None


@lru_cache(maxsize=4096)
def split_mailbox(text: str) -> Address:
    """Parse ``ann@x.org`` or ``Ann <ann@x.org>``; the domain becomes ASCII, the local part has one spelling.

    A comment behind the address is its display name where there is no other (RFC 5322 §3.4).

    Raises:
        ValueError: the text is not exactly one address; the error says why, without repeating the address.
    """
    if is_usual(text):
        return Address("", text)
    if len(text) > _MAX_TEXT:
        raise ValueError(_("it is too long"))
    if _PLAIN.fullmatch(text):
        return Address("", _addr_spec(text))
    text = text.replace("\t", " ")  # white space in a header (RFC 5322 §3.2.2)
    if CONTROL.search(text):
        raise ValueError(_("it must not hold a control character"))
    address = _address(tokens(text.strip()))
    if CONTROL.search(address.display):  # of an encoded word
        raise ValueError(_("its display name must not hold a control character"))
    return address


def _is_one(found: list[Token]) -> bool:
    """Whether the tokens are one address, with nothing that another reader could take for a second one."""
    marks = "".join(token.written for token in found if token.kind == "mark")
    if marks != "<>":
        return not marks
    opened, closed = (found.index(mark) for mark in (_OPENED, _CLOSED))
    unquoted = [token.written for token in found[:opened] if token.kind == "text"]
    if any("@" in text or "\\" in text for text in unquoted):
        return False
    return all(token.kind == "comment" or token.written.isspace() for token in found[closed + 1 :])


@lru_cache(maxsize=4096)
def format_mailbox(text: str) -> str:
    """The address as a header has it: ASCII except for a non-ASCII local part; a header may be folded at its spaces.

    Raises:
        ValueError: the text is not exactly one address.
    """
    return format_address(split_mailbox(text))


def format_address(address: Address) -> str:
    """The address as it stands in a header field: a display name, and the address behind it in angle brackets."""
    if not address.display:
        return address.addr_spec
    return f"{_phrase(address.display)} <{address.addr_spec}>"


def read_list(text: str) -> AddressList:
    """The addresses of a field's value that anybody may have written: never raises, and takes linear time."""
    found = AddressList([], [])
    for kind, item in elements(text):
        if kind != "mailbox":
            continue
        try:
            found.addresses.append(_address(item, lenient=True))
        except ValueError:
            found.unreadable.append("".join(token.written for token in item).strip())
    return found


def split_list(text: str) -> list[str]:
    """The mailboxes of a list, those in groups too, as they were written; not checked."""
    items = ("".join(token.written for token in item).strip() for kind, item in elements(text) if kind == "mailbox")
    return [item for item in items if item]


def format_list(text: str, *, utf8: bool = True) -> str:
    """A field's value formatted again, its groups kept; ``utf8=False``: without the addresses that ASCII cannot name.

    Such an address becomes a group without members, whose name shows it (RFC 6857 §3.1.6).

    Raises:
        ValueError: the value holds more than addresses and groups.
    """
    outer: list[str] = []
    written = outer
    group = ""
    for kind, item in elements(text):
        if kind == "group":
            if written is not outer:
                raise ValueError(_("a group must not hold a group"))
            group, written = _phrase(decode_words(_name(item))), []
        elif kind == "group end":
            outer.append(f"{group}:{' ' * bool(written)}{', '.join(written)};")
            written = outer
        elif utf8 or (address := _address(item)).addr_spec.isascii():
            written.append(format_address(_address(item)))
        elif written is outer:
            shown = f"{address.display} {address.addr_spec}".strip()
            written.append(f"{' '.join(encode_words(shown))}:;")
    return ", ".join(outer)


def _phrase(display: str) -> str:
    if (
        not (display.isascii() and display.isprintable())
        or "=?" in display
        or max(map(len, display.split()), default=0) > 200
    ):
        # A single encoded word where possible: some readers, Python's too, put spaces between the words of a name.
        return " ".join(encode_words(display))
    if _PHRASE.fullmatch(display):
        return display
    return quoted(display)


def quoted(text: str) -> str:
    """The text as a quoted string (RFC 5322 §3.2.4)."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _address(item: list[Token], *, lenient: bool = False) -> Address:
    """The address that the tokens of one item are; ``lenient``: as a stranger may write it."""
    if not lenient and not _is_one(item):
        raise ValueError(_NOT_ONE)
    if len(item) == 1 and item[0].kind == "quoted":  # the address as a whole, which the standard library reads too
        return Address("", _addr_spec(item[0].text.strip()))
    begin = max((at for at, token in enumerate(item) if token == _OPENED), default=-1)
    end = next((at for at, token in enumerate(item) if at > begin >= 0 and token == _CLOSED), len(item))
    comment = next((token.text for token in reversed(item[begin + 1 :]) if token.kind == "comment"), "")
    display = decode_words(_name(item[: max(begin, 0)]) or comment.strip())
    if lenient:
        display = " ".join(CONTROL.sub(" ", display).split())
    spec = "".join(" " if token.kind == "comment" else token.written for token in item[begin + 1 : end])
    if lenient:
        spec = _ROUTE.sub("", spec)
    if lenient or comment:
        spec = "@".join(part.strip(" \t") for part in spec.split("@"))
    return Address(display, _addr_spec(spec.strip()))


def _name(item: list[Token]) -> str:
    """The display name as it was written, without its quotes."""
    return "".join(token.text if token.kind == "quoted" else token.written for token in item).strip()


def _addr_spec(text: str) -> str:
    match = _SPEC.fullmatch(text)
    if match is None or not text.isprintable():
        raise ValueError(_NOT_ONE)
    plain = match[1] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
    # Quoted only where it must be (RFC 5321 §4.1.2): one address has one spelling.
    local = plain if _DOT_ATOM.fullmatch(plain) else quoted(plain)
    spec = f"{local}@{_domain(match[3])}"
    if len(spec.encode()) > MAX_ADDRESS:
        raise ValueError(_("it must not be longer than %(most)d bytes", most=MAX_ADDRESS))
    return spec


def _domain(text: str) -> str:
    """The domain in lower-case ASCII, or an address literal (``[192.0.2.1]``, RFC 5321 §4.1.3)."""
    if text.startswith("["):
        return _literal(text)
    try:
        return ascii_domain(text, underscores=True)
    except ValueError as error:
        raise ValueError(_("its domain is %(problem)s", problem=error)) from error


def _literal(domain: str) -> str:
    inner = domain.removeprefix("[").removesuffix("]")
    tagged = inner[:5].lower() == "ipv6:"
    if not domain.endswith("]"):
        raise ValueError(_("its domain is not a host name"))
    address = ipaddress.ip_address(inner[5:] if tagged else inner)
    if (address.version == 6) is not tagged:
        raise ValueError(_("an IPv6 address literal must be [IPv6:…]"))
    return f"[IPv6:{address}]" if tagged else f"[{address}]"
