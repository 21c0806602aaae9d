"""Kinds of settings: each reads the value that was written in the settings, and returns the value that the app uses.

Pure: no settings are read, no dotted path is imported and no file is opened here; ``reader`` does that.  A kind raises
``ValueError`` with words that follow the name of the setting ("must be …").  They do not repeat the value, which may be
a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prx_email_django.conf.declared import read_accounts
from prx_email_django.conf.durations import positive_duration, read_retention
from prx_email_django.conf.keys import read_keys
from prx_email_django.conf.oauth_servers import read_oauth_servers
from prx_email_django.rules.domains import ascii_domain, ascii_domain_pattern, with_ascii_domain
from prx_email_django.rules.hosts import account_host_entry, cleartext_entry
from prx_email_django.rules.words import words as _

T = TypeVar("T")

_ADDRESS = re.compile(r"[^@\s<>()\[\],;:\\\"]+@[^@\s<>()\[\],;:\\\"]+")
_CONTENT_TYPE = re.compile(r"[\w.+!#$&^-]+/[\w.+!#$&^-]+", re.ASCII)

#: Where clear text is always allowed.
LOOPBACK = ("localhost", "127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of setting: its ``name``, an ``example`` of what to write, and the function that reads a value."""

    name: str
    example: str
    read: Callable[[object], object]


def _optional(read: Callable[[object], T], absent: T | None = None) -> Callable[[object], T | None]:
    """The reader of a value that may be None, for which the app uses ``absent``."""
    return lambda value: absent if value is None else read(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 100:
        raise ValueError(_("must be text on one line, at most 100 characters"))
    return value


def _account_name(value: object) -> str:
    if "://" in _text(value):
        raise ValueError(_("must be the name of an account; its URL is written in ACCOUNTS"))
    return _text(value)


def _domain(value: object) -> str:
    try:
        return ascii_domain(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(_("must be a domain name")) from None


def _domain_or_function(value: object) -> str:
    """A domain in ASCII, or a dotted path that is none; ``reader`` finds out which path names a function."""
    try:
        return _domain(value)
    except ValueError:
        try:
            return _dotted(value)
        except ValueError:
            raise ValueError(_("must be a domain name, or the dotted path of a function that returns it")) from None


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(_("must be True or False"))
    return value


def _number(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(_("must be a whole number, %(least)d or more", least=least))
        return value

    return read


def choice(*choices: str) -> Kind:
    """The kind of a setting that must be one of ``choices``."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(_("must be one of %(choices)s", choices=", ".join(map(repr, choices))))
        return str(value)

    return Kind("choice", _("one of %(choices)s", choices=", ".join(f'"{value}"' for value in choices)), read)


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(_("must be a list or tuple of strings, even for a single string"))
    items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    if not all(isinstance(item, str) for item in items):
        raise ValueError(_("must hold strings only"))
    return tuple(items)


def _each(value: object, wanted: re.Pattern[str], problem: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in _strings(value))
    if not all(wanted.fullmatch(item) for item in items):
        raise ValueError(problem)
    return items


def _addresses(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    addresses = _each([value] if isinstance(value, str) else value, _ADDRESS, _("must hold bare addresses only"))
    try:
        return tuple(map(with_ascii_domain, addresses))
    except ValueError as error:
        raise ValueError(
            _("must hold bare addresses only; the domain of an address is %(problem)s", problem=error)
        ) from None


def _patterns(value: object) -> tuple[str, ...]:
    patterns = tuple(pattern.strip().lower() for pattern in _strings(value))
    if not all("@" in pattern for pattern in patterns):
        raise ValueError(
            _('must hold patterns of whole addresses ("*@example.com"): a pattern without "@" matches nothing')
        )
    return tuple(map(_pattern, patterns))


def _pattern(pattern: str) -> str:
    """The pattern with its domain in ASCII, as addresses are stored."""
    local, _at, domain = pattern.rpartition("@")
    try:
        return f"{local}@{ascii_domain_pattern(domain)}"
    except ValueError:
        raise ValueError(_("must hold patterns of domains; a label beyond ASCII must not hold a wildcard")) from None


def _content_types(value: object) -> frozenset[str]:
    return frozenset(
        item.lower()
        for item in _each(value, _CONTENT_TYPE, _("must hold types like text/plain only, without parameters"))
    )


def _hosts(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*LOOPBACK, *map(_host, _strings(value)))))


def _host(value: str) -> str:
    try:
        return cleartext_entry(value)
    except ValueError:
        raise ValueError(_("must hold host names and networks (10.1.2.0/24, without host bits) only")) from None


def _account_hosts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    try:
        return tuple(dict.fromkeys(map(account_host_entry, _strings(value))))
    except ValueError as error:
        if str(error).startswith("must"):
            raise
        raise ValueError(
            _("must hold names, patterns of names and networks (10.1.2.0/24, without host bits)")
        ) from None


def _dotted(value: object) -> str:
    parts = value.split(".") if isinstance(value, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(_("must be the dotted path of a function"))
    return ".".join(parts)


def _wake(value: object) -> str | None:
    return "" if value == "" else _optional(_dotted)(value)


def _dotted_list(value: object) -> tuple[str, ...]:
    return tuple(_dotted(item) for item in _strings(value))


def _path(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(_("must be a path or None"))
    path = Path(os.fsdecode(value))
    if not path.is_absolute():
        raise ValueError(_("must be an absolute path: workers may start in different directories"))
    return path


def _credential_keys(value: object) -> tuple[str, ...] | str | None:
    """None (keys from SECRET_KEY), the dotted path of a function that returns a list of keys, or the list."""
    if value is None:
        return None
    return _dotted(value) if isinstance(value, str) else read_keys(value)


ACCOUNTS = Kind("accounts", '{"main": "smtps://user:password@smtp.example.com"}', read_accounts)
TEXT = Kind("text", _("text on one line"), _text)
ACCOUNT_NAME = Kind("text", _("text on one line, or None"), _optional(_account_name, ""))
DOMAIN = Kind("domain", _('"mail.example.com", or "project.mail.domain" for a function'), _domain_or_function)
DURATION = Kind("duration", _('seconds, a timedelta, or text like "30s", "10m", "6h" or "5d"'), positive_duration)
BOOLEAN = Kind("boolean", _("True or False"), _boolean)
SIZE = Kind("bytes", _("a whole number of bytes"), _number(0))
COUNT = Kind("number", _("a whole number, 1 or more"), _number(1))
COUNT_OR_OFF = Kind("number", _("a whole number; 0 is off"), _number(0))
OPTIONAL_COUNT = Kind("number", _("a whole number, 1 or more, or None"), _optional(_number(1)))
ADDRESSES = Kind("addresses", _('"me@example.com", a list of such addresses, or None'), _addresses)
PATTERNS = Kind("patterns", '["*@example.com"]', _patterns)
CONTENT_TYPES = Kind("content types", '["application/pdf", "text/plain"]', _content_types)
HOSTS = Kind("hosts", '["relay.internal", "10.1.2.0/24"]', _hosts)
ACCOUNT_HOSTS = Kind("hosts", _('["*.example.com", "10.1.2.0/24"], or None'), _account_hosts)
DOTTED = Kind("dotted path", _('"project.mail.function", or None'), _optional(_dotted))
WAKE = Kind("dotted path", _('"project.mail.wake", None for django-q2\'s, or "" for none'), _wake)
DOTTED_LIST = Kind("dotted paths", '["project.mail.token"]', _dotted_list)
PATH = Kind("path", _("an absolute path, or None"), _path)
KEYS = Kind(
    "keys", _("a list of Fernet keys, the dotted path of a function that returns it, or None"), _credential_keys
)
RETENTION = Kind("retention", '{"sent": "90d", "failed": "365d", "inbound": None, "content": "30d"}', read_retention)
OAUTH_SERVERS = Kind(
    "addresses",
    '{"https://sso.example.com/token": {"authorization": "https://sso.example.com/auth", '
    '"issuer": "https://sso.example.com"}}',
    read_oauth_servers,
)
