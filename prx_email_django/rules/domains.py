"""Domain names in ASCII: the one form in which they are stored, compared, resolved and verified."""

from __future__ import annotations

import re
from functools import lru_cache

import idna

from prx_email_django.rules.words import words as _

#: Characters of a domain name in ASCII (RFC 1035 §2.3.4, without the length bytes and the root).
MAX_DOMAIN = 253

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_UNDERSCORE_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LENIENT_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
#: The full stop and the ideographic ones that may stand for it (UTS 46).
_DOTS = re.compile("[.\u3002\uff0e\uff61]")


@lru_cache(maxsize=4096)
def ascii_domain(domain: str, *, lenient: bool = False, underscores: bool = False) -> str:
    """The domain in lower-case ASCII: UTS 46 mapping, then IDNA 2008, non-transitional, as registries and browsers do.

    Python's own codec is IDNA 2003, which makes ``strasse.example`` of ``straße.example``: another domain, with
    another owner.  A label that IDNA 2008 refuses (emoji, for example) was registered by IDNA 2003: it is accepted
    where both standards give the same name.  The ASCII form ``xn--…`` of any label is accepted.
    ``underscores``: also labels with underscores, which no host name may have, but addresses that people use.
    ``lenient``: also with hyphens at their ends, which the DNS has, and private networks.

    Raises:
        ValueError: it is no host name; the text goes on after "the domain is".
    """
    if len(domain) > MAX_DOMAIN:
        raise ValueError(_("too long"))
    wanted = _LENIENT_LABEL if lenient else _UNDERSCORE_LABEL if underscores else _LABEL
    labels = _ascii_labels(domain)
    if not all(map(wanted.fullmatch, labels)):
        raise ValueError(_("not a host name"))
    name = ".".join(labels)
    if len(name) > MAX_DOMAIN:
        raise ValueError(_("too long"))
    return name


def with_ascii_domain(address: str) -> str:
    """The address with its domain in ASCII (``ascii_domain``, lenient); its local part is unchanged.

    Raises:
        ValueError: see ``ascii_domain``.
    """
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{ascii_domain(domain, lenient=True)}"


def folded_address(address: str) -> str:
    """The address as it is compared with another one: in one case, and with its domain in ASCII where it has one."""
    address = address.strip()
    try:
        return with_ascii_domain(address).casefold()
    except ValueError:
        return address.casefold()


def shown_domain(domain: str) -> str:
    """The domain in the letters of its language; as it is where it has no such form."""
    try:
        return idna.decode(domain)
    except idna.IDNAError:
        return domain


def ascii_domain_pattern(pattern: str) -> str:
    """A pattern for domains (``fnmatch``) in lower-case ASCII; wildcards stand in labels of ASCII only.

    Raises:
        ValueError: a label beyond ASCII is no label of a host name, or has a wildcard in it.
    """
    labels = _DOTS.split(pattern)
    return ".".join(label.lower() if label.isascii() else ascii_domain(label) for label in labels)


def _ascii_labels(domain: str) -> list[str]:
    if domain.isascii():
        return domain.lower().split(".")
    try:
        labels = idna.uts46_remap(domain, std3_rules=False, transitional=False).split(".")
        # ASCII labels are judged by the caller: IDNA has no underscore.
        return [label if label.isascii() else _ascii_label(label, domain) for label in labels]
    except UnicodeError as error:  # idna.IDNAError is one
        raise ValueError(_("not a host name")) from error


def _ascii_label(label: str, domain: str) -> str:
    """The label of a domain, mapped by UTS 46, in ASCII.

    Raises:
        UnicodeError: IDNA 2008 refuses it, and IDNA 2003 has another name for it.
    """
    try:
        return idna.alabel(label).decode("ascii")
    except idna.IDNAError:
        name = b"xn--" + label.encode("punycode")
        if name not in (written.encode("idna") for written in _DOTS.split(domain)):  # Python's codec: IDNA 2003
            raise
        return name.decode("ascii")
