"""The URL of an account: ``smtps://user:password@host:port?email=shop@example.com``.

``smtps`` is implicit TLS, ``smtp`` demands STARTTLS, and ``smtp+clear`` is clear text.  User and password are
percent-encoded; the query names other fields of the account.  Errors hold no part of the URL: even the name of a field
is a piece of a password that has a ``?`` or ``&`` and is not percent-encoded.
"""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.views.decorators.debug import sensitive_variables

from prx_email_django.rules.words import words as _

#: Scheme -> the security and the port of the account.
SCHEMES = {"smtps": ("tls", 465), "smtp": ("starttls", 587), "smtp+clear": ("none", 25)}
#: The port of each security, where none is named (RFC 8314 §3.3, RFC 6409 §3.1, RFC 5321 §4.5.4.2).
PORTS = dict(SCHEMES.values())
_EXAMPLE = "smtps://user:password@smtp.example.com"


@sensitive_variables()
def parse_account_url(url: str) -> dict[str, str | int]:
    """The fields that the URL names; without a user ``auth_method`` is ``none``.

    Raises:
        ValueError: it is no such URL; the text says what is wrong and holds no secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            _(
                "must be a URL like %(example)s; a user or password with one of /?#[]@: is percent-encoded",
                example=_EXAMPLE,
            )
        ) from None
    if parts.scheme not in SCHEMES:
        raise ValueError(_("must begin with one of %(schemes)s", schemes=", ".join(f"{name}://" for name in SCHEMES)))
    if port == 0:
        raise ValueError(_("must have a port from 1 to 65535"))
    if not parts.hostname:
        raise ValueError(_("must name a host: %(example)s", example=_EXAMPLE))
    if parts.fragment or parts.path not in ("", "/"):
        raise ValueError(_("must have nothing but a query after the host; a user or password is percent-encoded"))
    security, default_port = SCHEMES[parts.scheme]
    # RFC 6874: the zone of an IPv6 address is written after %25; DNS names have no percent sign.
    host = parts.hostname.replace("%25", "%", 1) if ":" in parts.hostname else parts.hostname
    fields: dict[str, str | int] = {"host": host, "port": port or default_port, "security": security}
    fields |= _credentials(parts)
    return fields | _query(parts, taken=set(fields))


@sensitive_variables()
def _credentials(parts: SplitResult) -> dict[str, str | int]:
    if parts.username is None:
        return {"auth_method": "none"}
    fields: dict[str, str | int] = {"user": _decoded(parts.username)}
    if parts.password:
        fields["password"] = _decoded(parts.password)
    return fields


@sensitive_variables()
def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(_("must percent-encode user and password as UTF-8")) from None


@sensitive_variables()
def _query(parts: SplitResult, *, taken: set[str]) -> dict[str, str | int]:
    try:
        # A plus sign stands for itself: addresses have them, and nobody writes a form's blank here.
        query = parts.query.replace("+", "%2B")
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise ValueError(_("must have a query like ?email=shop%40example.com&rate_limits=30/minute")) from None
    fields: dict[str, str | int] = {}
    for name, value in pairs:
        if name in taken and name != "auth_method":
            raise ValueError(_("must name %(field)s once", field=name))
        if name in fields:
            raise ValueError(_("must name a field once"))
        fields[name] = value
    return fields
