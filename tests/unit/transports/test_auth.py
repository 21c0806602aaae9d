"""AUTH: which lines are written, what is kept of a refusal, and that no secret is kept."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.transports.base import ConnectionSettings
from prx_email_django.transports.smtp.auth import Refusal, authenticate, choose_mechanism, enhanced, without_secrets


@dataclass
class Response:
    code: int
    message: str


class Server:
    """Keeps the commands and answers them in order."""

    def __init__(self, *responses: tuple[int, str]) -> None:
        self._responses = [Response(*response) for response in responses]
        self.commands: list[bytes] = []

    async def __call__(self, *args: bytes) -> Response:
        self.commands.append(b" ".join(args))
        return self._responses.pop(0)


def settings(method: str = "password") -> ConnectionSettings:
    return ConnectionSettings("mail.example.org", 465, "tls", method, user="ann", password="geheim", token="t0ken")


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def try_mechanism(mechanism: str, *responses: tuple[int, str]) -> tuple[Refusal | None, list[bytes]]:
    server = Server(*responses)
    return asyncio.run(authenticate(server, mechanism, settings())), server.commands


@pytest.mark.parametrize(
    ("method", "offered", "chosen"),
    [
        ("password", ["cram-md5", "login", "plain"], "plain"),
        ("password", ["login", "xoauth2"], "login"),
        ("password", ["cram-md5"], None),
        ("xoauth2", ["plain", "xoauth2"], "xoauth2"),
        ("xoauth2", ["plain", "oauthbearer"], None),
        ("password", [], None),
    ],
)
def test_one_mechanism_is_chosen(method: str, offered: list[str], chosen: str | None) -> None:
    assert choose_mechanism(settings(method), offered) == chosen


def test_plain_is_one_line() -> None:
    assert try_mechanism("plain", (235, "ok")) == (None, [b"AUTH PLAIN " + b64("\0ann\0geheim")])


def test_login_is_three_lines() -> None:
    refusal, commands = try_mechanism("login", (334, "VXNlcm5hbWU6"), (334, "UGFzc3dvcmQ6"), (235, "ok"))
    assert (refusal, commands) == (None, [b"AUTH LOGIN", b64("ann"), b64("geheim")])


def test_login_refused_at_the_user_does_not_send_the_password() -> None:
    refusal, commands = try_mechanism("login", (334, "VXNlcm5hbWU6"), (535, "5.7.8 who?"))
    assert refusal == Refusal(535, "5.7.8 who?") and commands == [b"AUTH LOGIN", b64("ann")]


def test_challenge_is_answered_by_an_empty_line_and_its_reason_kept() -> None:
    challenge = base64.b64encode(json.dumps({"status": "401", "schemes": "bearer", "x": "y"}).encode()).decode()
    refusal, commands = try_mechanism("xoauth2", (334, challenge), (535, "5.7.8 no"))
    assert commands == [b"AUTH XOAUTH2 " + b64("user=ann\x01auth=Bearer t0ken\x01\x01"), b""]
    assert str(refusal) == "5.7.8 no (status 401, schemes bearer)"


def test_long_member_of_a_challenge_is_cut_and_leaves_room_for_the_others() -> None:
    members = {"status": "4" * 100, "scope": "https://mail.example.org/", "error_description": "x" * 5000}
    challenge = base64.b64encode(json.dumps(members).encode()).decode()
    refusal, _ = try_mechanism("xoauth2", (334, challenge), (535, "5.7.8 no"))
    shown = f"status {'4' * 60}, scope https://mail.example.org/, error_description {'x' * 60}"
    assert str(refusal) == f"5.7.8 no ({shown})"


@pytest.mark.parametrize(
    "challenge", ["", "!!!", "bm8=", "MTI=", "WzFd", "\xff", base64.b64encode(b"[" * 9000).decode()]
)
def test_malformed_challenge_is_ignored(challenge: str) -> None:
    refusal, _ = try_mechanism("xoauth2", (334, challenge), (535, "5.7.8 no"))
    assert str(refusal) == "5.7.8 no"


def test_unexpected_challenge_is_a_refusal() -> None:
    refusal, commands = try_mechanism("plain", (334, "more?"))
    assert refusal is not None and refusal.code == 334 and len(commands) == 1


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["password", "token", "plain", "bearer"]))
def test_no_form_of_a_secret_survives(before: str, after: str, form: str) -> None:
    forms = {
        "password": "geheim",
        "token": "t0ken",
        "plain": b64("\0ann\0geheim").decode(),
        "bearer": b64("user=ann\x01auth=Bearer t0ken\x01\x01").decode(),
    }
    assert forms[form] not in without_secrets(before + forms[form] + after, settings()).replace("***", "")


def test_text_without_secrets_is_unchanged() -> None:
    plain = ConnectionSettings("h", 25, "none", "none")
    assert without_secrets("535 5.7.8 no", plain) == "535 5.7.8 no"


def test_enhanced_code_of_a_text() -> None:
    assert (enhanced("5.7.8 no"), enhanced("no 5.7.8"), enhanced("")) == ("5.7.8", "", "")
