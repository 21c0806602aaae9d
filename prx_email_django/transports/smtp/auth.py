"""AUTH (RFC 4954): one mechanism, tried once, with the server's reason kept and our secrets kept out of it."""

from __future__ import annotations

import base64
import binascii
import json
import re
import traceback
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Protocol

from prx_email_django.rules.text import clean
from prx_email_django.transports.base import ConnectionSettings

#: Exchange Online: basic authentication is switched off for the tenant or the mailbox, whatever the password.
DISABLED = frozenset({"5.7.30", "5.7.139"})

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
#: Characters by which the beginning of a secret is known.
_TELLING = 8
#: Members of an XOAUTH2 or OAUTHBEARER challenge (RFC 7628 §3.2.2) that are worth keeping.
_TOLD = ("status", "schemes", "scope", "error", "error_description")


class _Response(Protocol):
    @property
    def code(self) -> int: ...

    @property
    def message(self) -> str: ...


class Command(Protocol):
    """Writes one command line and gives its reply: ``aiosmtplib.SMTP.execute_command``."""

    def __call__(self, *args: bytes) -> Awaitable[_Response]: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reply that refused, and what the server said in its challenge before."""

    code: int
    text: str
    challenge: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.challenge})" if self.challenge else self.text


def choose(settings: ConnectionSettings, offered: Sequence[str]) -> str | None:
    """The one mechanism to try, of those offered (lower case); None: none of them will do."""
    wanted = ("xoauth2",) if settings.auth_method == "xoauth2" else ("plain", "login")
    return next((name for name in wanted if name in offered), None)


async def authenticate(command: Command, mechanism: str, settings: ConnectionSettings) -> Refusal | None:
    """Authenticate; None: welcome.

    What goes wrong inside leaves without the variables of its frames: error reports show those, and here they are
    secrets, encoded or not.
    """
    try:
        return await _exchange(command, mechanism, settings)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


async def _exchange(command: Command, mechanism: str, settings: ConnectionSettings) -> Refusal | None:
    if mechanism == "plain":
        return _verdict(await command(b"AUTH", b"PLAIN", _base64(_plain_response(settings.user, settings.password))))
    if mechanism == "login":
        return await _login(command, settings)
    return await _xoauth2(command, settings)


async def _login(command: Command, settings: ConnectionSettings) -> Refusal | None:
    response = await command(b"AUTH", b"LOGIN")
    for secret in (settings.user, settings.password):
        if response.code != 334:
            return _verdict(response)
        response = await command(_base64(secret))
    return _verdict(response)


async def _xoauth2(command: Command, settings: ConnectionSettings) -> Refusal | None:
    """A refusal comes as a challenge with the reason in JSON, which an empty line answers; then the 535 follows."""
    response = await command(b"AUTH", b"XOAUTH2", _base64(_xoauth2_response(settings.user, settings.token)))
    if response.code != 334:
        return _verdict(response)
    challenge = _reason(response.message, settings)
    return _verdict(await command(b""), challenge)


def _verdict(response: _Response, challenge: str = "") -> Refusal | None:
    if 200 <= response.code < 300:
        return None
    return Refusal(response.code, response.message, challenge)


def _reason(challenge: str, settings: ConnectionSettings) -> str:
    try:
        told = json.loads(base64.b64decode(challenge, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    return ", ".join(f"{key} {clean(without_secrets(str(told[key]), settings)[:60])}" for key in _TOLD if key in told)


def enhanced(text: str) -> str:
    """The enhanced code at the start of a reply's text, or ``""``."""
    match = _ENHANCED.match(text)
    return match[1] if match else ""


def without_secrets(text: str, settings: ConnectionSettings) -> str:
    """The text with password and token, plain and in base64, struck out: servers have been seen to echo commands."""
    for secret in (settings.password, settings.token):
        if not secret:
            continue
        forms = (secret, *_encoded(settings, secret))
        for form in forms:
            text = _struck(text, form)
    return text


def _struck(text: str, form: str) -> str:
    """Without this form, nor as much of its beginning as a server that cuts lines may echo."""
    beginning, at = form[:_TELLING], 0
    while (at := text.find(beginning, at)) >= 0:
        text = text[:at] + "***" + text[at + len(commonprefix([text[at:], form])) :]
        at += 3
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
