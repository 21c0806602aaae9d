"""Accounts that the settings declare: ``PRX_EMAIL["ACCOUNTS"]``, and Django's own mail settings.

Only their shape is read here; ``models.declared`` makes account fields of it and validates them.  A mistake in one
account is kept with that account, and every other account goes on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from prx_email_django.conf.account_url import PORTS, parse_account_url
from prx_email_django.rules.hosts import is_loopback
from prx_email_django.rules.words import words as _

#: The account that Django's ``EMAIL_HOST`` and its neighbours become.
DJANGO_ACCOUNT = "django"
#: OPTIONS of Django's SMTP backend -> the settings that Django 5.2 and 6.0 have for them.
SMTP_OPTIONS: Mapping[str, str] = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
    "ssl_certfile": "EMAIL_SSL_CERTFILE",
    "ssl_keyfile": "EMAIL_SSL_KEYFILE",
}
#: Field of an account -> the option that it comes from.
_OPTION_OF = {
    "host": "host",
    "port": "port",
    "security": "use_tls",
    "user": "username",
    "password": "password",
    "auth_method": "username",
    "tls_cert_file": "ssl_certfile",
    "tls_key_file": "ssl_keyfile",
}
_MAX_NAME = 100


@dataclass(frozen=True, eq=False)
class DeclaredAccount:
    """An account as the settings declare it."""

    name: str
    #: Where it is declared, as a person writes it.
    path: str
    #: Fields of the account as they were written, secrets and references among them; perhaps ``preset``.
    fields: Mapping[str, object] = field(repr=False, default_factory=dict)
    #: Seconds for a command, where it is not the setting ``SMTP_TIMEOUT``.
    timeout: float | None = None
    #: Written as a URL: any part of it may be a piece of a password, and is not shown.
    is_url: bool = False
    #: What is wrong with the declaration as a whole: a path and words; empty if nothing is.
    problem: tuple[str, str] | None = None
    #: The options of Django's SMTP backend that it was made of; empty for an account of ``ACCOUNTS``.
    options: Mapping[str, object] = field(repr=False, default_factory=dict)
    #: Option -> where it is written.
    option_paths: Mapping[str, str] = field(default_factory=dict)

    def path_of(self, name: str) -> str:
        """Where the field is written, as a person writes it."""
        if self.option_paths:
            return self.option_paths.get(_OPTION_OF.get(name, ""), self.path)
        return f'{self.path}["{name}"]'


def read_accounts(value: object) -> Mapping[str, DeclaredAccount]:
    """The accounts of ``PRX_EMAIL["ACCOUNTS"]``, by name.

    Raises:
        ValueError: it is no dict of names; the text holds no value.
    """
    if not isinstance(value, Mapping):
        raise ValueError(_("must be a dict: name of an account -> its fields or its URL"))
    for name in value:
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > _MAX_NAME:
            raise ValueError(_("must have names of 1 to %(most)d printable characters as its keys", most=_MAX_NAME))
        if "://" in name:
            raise ValueError(_("must have names as its keys; a URL is written behind the name, as its value"))
    found: dict[str, DeclaredAccount] = {}
    spelled: dict[str, str] = {}
    for name, entry in value.items():
        first = spelled.setdefault(as_mysql_compares(name), name)
        found[name] = _declared(name, entry) if first == name else _too_alike(name, first)
    return found


def as_mysql_compares(name: str) -> str:
    """The name as MariaDB and MySQL compare it by default: without case, accents and the blanks behind it."""
    plain = (char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    return "".join(plain).casefold().rstrip(" ")


def _too_alike(name: str, first: str) -> DeclaredAccount:
    path = f'PRX_EMAIL["ACCOUNTS"]["{name}"]'
    words = _(
        "and “%(first)s” are one name for MariaDB and MySQL, which ignore case, accents and blanks: rename one of them",
        first=first,
    )
    return DeclaredAccount(name, path, problem=(path, words))


def _declared(name: str, entry: object) -> DeclaredAccount:
    path = f'PRX_EMAIL["ACCOUNTS"]["{name}"]'
    if isinstance(entry, str):
        try:
            return DeclaredAccount(name, path, parse_account_url(entry), is_url=True)
        except ValueError as error:
            return DeclaredAccount(name, path, problem=(path, error.args[0]))
    if not isinstance(entry, Mapping):
        return DeclaredAccount(name, path, problem=(path, _("must be a dict of fields, or a URL")))
    return DeclaredAccount(name, path, dict(entry))


def from_smtp_options(
    name: str, options: Mapping[str, object], *, path: str, paths: Mapping[str, str]
) -> DeclaredAccount:
    """The account that sends as Django's SMTP backend does with these options; ``None`` means not given.

    Django logs in only where user and password are both given, and demands TLS where it is asked for.
    """
    given = {option: value for option, value in options.items() if value is not None and value != ""}
    problem = _contradiction(given, paths)
    secure = "tls" if given.get("use_ssl") else "starttls" if given.get("use_tls") else "none"
    fields: dict[str, object] = {
        "host": given.get("host", ""),
        "port": given.get("port") or PORTS[secure],
        "security": secure,
        "tls_cert_file": _file(given.get("ssl_certfile")),
        "tls_key_file": _file(given.get("ssl_keyfile")),
    }
    if given.get("username") and given.get("password"):
        fields.update(auth_method="password", user=given["username"], password=given["password"])
    else:
        fields["auth_method"] = "none"
    timeout = given.get("timeout")
    return DeclaredAccount(
        name,
        path,
        fields,
        timeout=float(timeout) if _is_timeout(timeout) and isinstance(timeout, int | float) else None,
        problem=problem,
        options=given,
        option_paths=paths,
    )


def _contradiction(given: Mapping[str, object], paths: Mapping[str, str]) -> tuple[str, str] | None:
    if given.get("use_tls") and given.get("use_ssl"):
        return paths["use_tls"], _("and %(other)s exclude each other: set one of them to True", other=paths["use_ssl"])
    if not given.get("host"):
        return paths["host"], _("names no server")
    has_login, is_clear = given.get("username") and given.get("password"), not given.get("use_tls")
    if has_login and is_clear and not given.get("use_ssl") and not is_loopback(str(given["host"])):
        return paths["use_tls"], _("is off, and a password goes in clear text to loopback only: set it to True")
    if "timeout" in given and not _is_timeout(given["timeout"]):
        return paths["timeout"], _("must be a number of seconds above 0, or None")
    return None


def _is_timeout(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _file(value: object) -> str:
    return "" if value is None else str(value)
