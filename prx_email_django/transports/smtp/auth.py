"""AUTH (RFC 4954): tries one mechanism once, keeps the server's reason, and removes secrets from it."""

from __future__ import annotations

import base64
import binascii
import json
import re
import traceback
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prx_email_django.rules.secrets import without_copies, without_secret
from prx_email_django.rules.text import clean
from prx_email_django.transports.base import ConnectionSettings

#: Exchange Online: basic authentication is switched off for the tenant or the mailbox, whatever the password.
DISABLED = frozenset({"5.7.30", "5.7.139"})

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
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


def choose_mechanism(settings: ConnectionSettings, offered: Sequence[str]) -> str | None:
    """Return the mechanism to try, of those offered (lower case); None: none of them is usable."""
    wanted = ("xoauth2",) if settings.auth_method == "xoauth2" else ("plain", "login")
    return next((name for name in wanted if name in offered), None)


async def authenticate(command: Command, mechanism: str, settings: ConnectionSettings) -> Refusal | None:
    """Authenticate; None: the server accepted.

    An exception leaves without the variables of its frames: error reports show these variables, and here they are
    secrets, encoded or not.
    """
    try:
        return await _exchange(command, mechanism, settings)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


async def _exchange(command: Command, mechanism: str, settings: ConnectionSettings) -> Refusal | None:
    if mechanism == "plain":
        return _refusal(await command(b"AUTH", b"PLAIN", _base64(_plain_response(settings.user, settings.password))))
    if mechanism == "login":
        return await _login(command, settings)
    return await _xoauth2(command, settings)


async def _login(command: Command, settings: ConnectionSettings) -> Refusal | None:
    response = await command(b"AUTH", b"LOGIN")
    for secret in (settings.user, settings.password):
        if response.code != 334:
            return _refusal(response)
        response = await command(_base64(secret))
    return _refusal(response)


async def _xoauth2(command: Command, settings: ConnectionSettings) -> Refusal | None:
    """A server refuses by a challenge with the reason in JSON; after an empty line from the client the 535 follows."""
    response = await command(b"AUTH", b"XOAUTH2", _base64(_xoauth2_response(settings.user, settings.token)))
    if response.code != 334:
        return _refusal(response)
    challenge = _challenge_reason(response.message, settings)
    return _refusal(await command(b""), challenge)


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
            text = without_copies(text, form)
        text = without_secret(text, secret)
    return text


def _encoded(settings: ConnectionSettings, secret: str) -> tuple[str, ...]:
    responses = (secret, _plain_response(settings.user, secret), _xoauth2_response(settings.user, secret))
    return tuple(_base64(response).decode("ascii") for response in responses)


def _plain_response(user: str, password: str) -> str:
    return f"\0{user}\0{password}"


def _xoauth2_response(user: str, token: str) -> str:
    return f"user={user}\x01auth=Bearer {token}\x01\x01"


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())
