"""AUTH (RFC 4954): tries the account's mechanisms, keeps the server's reason, and removes secrets from it."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import traceback
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from prx_email_django.rules.secrets import without_copies, without_secret
from prx_email_django.rules.text import clean
from prx_email_django.transports.base import ConnectionSettings

#: Logins with this password are over.  Exchange Online: basic authentication is switched off for the tenant or the
#: mailbox (5.7.30, 5.7.139).  RFC 4954 §6: a person must set a new password (4.7.12).
DISABLED = frozenset({"5.7.30", "5.7.139", "4.7.12"})

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")

#: Mechanisms for a password and for a token, in the order in which ``auto`` tries them.
PASSWORD_MECHANISMS = ("plain", "login", "cram-md5")
TOKEN_MECHANISMS = ("xoauth2", "oauthbearer")
#: Replies by which a server refuses the mechanism, not the credentials: the next mechanism is tried.
_MECHANISM_REFUSED = frozenset({500, 501, 502, 503, 504, 534})
#: Replies to AUTH by which a server slows down logins; further logins would prolong this.
_THROTTLED = frozenset({421, 432, 454})
_THROTTLED_WORDS = re.compile(r"too many .*(log|auth|attempt|fail)", re.IGNORECASE)
_BASE64 = re.compile("[A-Za-z0-9+/]*=*")
#: Members of an XOAUTH2 or OAUTHBEARER challenge (RFC 7628 §3.2.2) that are kept.
_CHALLENGE_MEMBERS = ("status", "schemes", "scope", "error", "error_description")


class _Response(Protocol):
    @property
    def code(self) -> int: ...

    @property
    def message(self) -> str: ...


class Command(Protocol):
    """Writes one command line and returns its reply: ``aiosmtplib.SMTP.execute_command``."""

    def __call__(self, *args: bytes) -> Awaitable[_Response]: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reply that refused the authentication, and the reason in the server's challenge before it."""

    code: int
    text: str
    challenge: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.challenge})" if self.challenge else self.text

    @property
    def is_of_mechanism(self) -> bool:
        """Whether the server refused the mechanism; another mechanism may be accepted with the same credentials."""
        return self.code in _MECHANISM_REFUSED


def is_throttled(code: int, text: str) -> bool:
    """Whether this reply to AUTH slows down logins: it says nothing about the credentials."""
    if enhanced(text) in DISABLED:
        return False
    return code in _THROTTLED or (400 <= code < 500 and _THROTTLED_WORDS.search(text) is not None)


def choose_mechanisms(settings: ConnectionSettings, offered: Sequence[str]) -> list[str]:
    """Return the mechanisms to try one after the other, of those offered (lower case); empty: none is usable."""
    known = TOKEN_MECHANISMS if settings.auth_method == "xoauth2" else PASSWORD_MECHANISMS
    wanted = known if settings.auth_mechanism == "auto" else (settings.auth_mechanism,)
    return [name for name in wanted if name in offered]


async def authenticate(command: Command, mechanism: str, settings: ConnectionSettings) -> Refusal | None:
    """Authenticate; None: the server accepted.  A refusal has no secrets: some servers echo the line that they refuse.

    An exception leaves without the variables of its frames: error reports show these variables, and here they are
    secrets, encoded or not.
    """
    try:
        refusal = await _exchange(command, mechanism, settings)
        return replace(refusal, text=without_secrets(refusal.text, settings)) if refusal else None
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


async def _exchange(command: Command, mechanism: str, settings: ConnectionSettings) -> Refusal | None:
    match mechanism:
        case "plain":
            return _refusal(await _respond(command, b"PLAIN", _plain_response(settings.user, settings.password)))
        case "login":
            return await _login(command, settings)
        case "cram-md5":
            return await _cram_md5(command, settings)
        case "oauthbearer":
            # RFC 7628 §3.2.3: a single %x01 ends a refused exchange.
            return await _bearer(command, b"OAUTHBEARER", _oauthbearer_response(settings), _base64("\x01"), settings)
    return await _bearer(command, b"XOAUTH2", _xoauth2_response(settings.user, settings.token), b"", settings)


async def _respond(command: Command, name: bytes, initial: str) -> _Response:
    """Send AUTH with the initial response; a server that overlooks it and asks by an empty challenge gets it again."""
    response = await command(b"AUTH", name, _base64(initial))
    if response.code == 334 and not response.message.strip():
        response = await command(_base64(initial))
    return response


async def _login(command: Command, settings: ConnectionSettings) -> Refusal | None:
    response = await command(b"AUTH", b"LOGIN")
    for secret in (settings.user, settings.password):
        if response.code != 334:
            return _refusal(response)
        response = await command(_base64(secret))
    return _refusal(response)


async def _cram_md5(command: Command, settings: ConnectionSettings) -> Refusal | None:
    """RFC 2195.  A challenge that cannot be read is cancelled (RFC 4954 §4): the server answers 501."""
    response = await command(b"AUTH", b"CRAM-MD5")
    if response.code != 334:
        return _refusal(response)
    try:
        challenge = base64.b64decode(response.message, validate=True)
    except (binascii.Error, ValueError):
        return _refusal(await command(b"*"))
    digest = hmac.new(settings.password.encode(), challenge, "md5").hexdigest()
    answer = f"{settings.user} {digest}"
    response = await command(_base64(answer))
    refusal = _refusal(response)
    if refusal is None:
        return None
    # With the challenge, the digest allows to guess passwords: an echo of it is not shown.
    text = without_copies(without_copies(refusal.text, _base64(answer).decode("ascii")), digest)
    return Refusal(refusal.code, text)


async def _bearer(
    command: Command, name: bytes, initial: str, end: bytes, settings: ConnectionSettings
) -> Refusal | None:
    """A server refuses by a challenge with the reason in JSON; after the client's ``end`` the 535 follows."""
    response = await _respond(command, name, initial)
    if response.code != 334:
        return _refusal(response)
    challenge = _challenge_reason(response.message, settings)
    return _refusal(await command(end), challenge)


def _refusal(response: _Response, challenge: str = "") -> Refusal | None:
    if 200 <= response.code < 300:
        return None
    return Refusal(response.code, response.message, challenge)


def _challenge_reason(challenge: str, settings: ConnectionSettings) -> str:
    try:
        members = json.loads(base64.b64decode(challenge, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return ""
    if not isinstance(members, dict):
        return ""
    kept = ((name, str(members[name])) for name in _CHALLENGE_MEMBERS if name in members)
    return ", ".join(f"{name} {clean(without_secrets(text, settings)[:60])}" for name, text in kept)


def enhanced(text: str) -> str:
    """Return the enhanced code at the start of a reply's text, or ``""``."""
    match = _ENHANCED.match(text)
    return match[1] if match else ""


def without_secrets(text: str, settings: ConnectionSettings) -> str:
    """Return the text with ``***`` for password and token, plain and in base64: some servers echo commands."""
    for secret in (settings.password, settings.token):
        if not secret:
            continue
        for form in _encoded(settings, secret):
            text = without_copies(text, form, rest=_BASE64)
        text = without_secret(text, secret)
    return text


def _encoded(settings: ConnectionSettings, secret: str) -> tuple[str, ...]:
    responses = (
        secret,
        _plain_response(settings.user, secret),
        _xoauth2_response(settings.user, secret),
        _oauthbearer_response(replace(settings, token=secret)),
    )
    return tuple(_base64(response).decode("ascii") for response in responses)


def _plain_response(user: str, password: str) -> str:
    return f"\0{user}\0{password}"


def _xoauth2_response(user: str, token: str) -> str:
    return f"user={user}\x01auth=Bearer {token}\x01\x01"


def _oauthbearer_response(settings: ConnectionSettings) -> str:
    """RFC 7628 §3.1; in the user, "," and "=" are escaped (RFC 5801 §4)."""
    user = settings.user.replace("=", "=3D").replace(",", "=2C")
    server = f"host={settings.host}\x01port={settings.port}"
    return f"n,a={user},\x01{server}\x01auth=Bearer {settings.token}\x01\x01"


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())
