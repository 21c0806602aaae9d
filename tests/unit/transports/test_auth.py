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
from prx_email_django.transports.smtp.auth import (
    Refusal,
    authenticate,
    choose_mechanisms,
    enhanced,
    is_throttled,
    without_secrets,
)


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


def settings(method: str = "password", mechanism: str = "auto", **options: str) -> ConnectionSettings:
    values = {"user": "ann", "password": "geheim", "token": "t0ken", **options}
    return ConnectionSettings("mail.example.org", 465, "tls", method, auth_mechanism=mechanism, **values)  # type: ignore[arg-type]


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def try_mechanism(mechanism: str, *responses: tuple[int, str], **options: str) -> tuple[Refusal | None, list[bytes]]:
    server = Server(*responses)
    return asyncio.run(authenticate(server, mechanism, settings(**options))), server.commands


@pytest.mark.parametrize(
    ("method", "mechanism", "offered", "chosen"),
    [
        ("password", "auto", ["cram-md5", "login", "plain"], ["plain", "login", "cram-md5"]),
        ("password", "auto", ["login", "xoauth2"], ["login"]),
        ("password", "auto", ["cram-md5"], ["cram-md5"]),
        ("password", "cram-md5", ["plain", "cram-md5"], ["cram-md5"]),
        ("password", "login", ["plain"], []),
        ("xoauth2", "auto", ["plain", "oauthbearer", "xoauth2"], ["xoauth2", "oauthbearer"]),
        ("xoauth2", "auto", ["plain", "oauthbearer"], ["oauthbearer"]),
        ("xoauth2", "oauthbearer", ["xoauth2", "oauthbearer"], ["oauthbearer"]),
        ("xoauth2", "auto", ["plain"], []),
        ("password", "auto", [], []),
    ],
)
def test_mechanisms_are_those_offered_in_our_order(
    method: str, mechanism: str, offered: list[str], chosen: list[str]
) -> None:
    assert choose_mechanisms(settings(method, mechanism), offered) == chosen


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 534])
def test_refusal_of_the_mechanism_is_not_one_of_the_credentials(code: int) -> None:
    assert Refusal(code, "no").is_of_mechanism


@pytest.mark.parametrize("code", [334, 421, 432, 454, 530, 535, 538, 550])
def test_refusal_of_the_credentials_asks_for_no_other_mechanism(code: int) -> None:
    assert not Refusal(code, "no").is_of_mechanism


@pytest.mark.parametrize(
    ("code", "text", "throttled"),
    [
        (421, "4.7.0 slow down", True),
        (432, "4.3.2 Concurrent connections limit exceeded", True),
        (454, "4.7.0 Temporary authentication failure", True),
        (450, "4.7.1 Too many failed login attempts", True),
        (451, "4.7.0 too many authentication failures", True),
        (451, "4.3.0 internal error", False),
        (535, "5.7.8 too many login attempts", False),
    ],
)
def test_throttled_login_is_recognised(code: int, text: str, *, throttled: bool) -> None:
    assert is_throttled(code, text) is throttled


def test_cram_md5_answers_the_example_of_rfc_2195() -> None:
    challenge = b64("<1896.697170952@postoffice.reston.mci.net>").decode()
    refusal, commands = try_mechanism(
        "cram-md5", (334, challenge), (235, "ok"), user="tim", password="tanstaaftanstaaf"
    )
    assert refusal is None
    assert commands == [b"AUTH CRAM-MD5", b64("tim b913a602c7eda7a495b4e6e7334d3890")]


@pytest.mark.parametrize("challenge", ["not base64!", "abc", "\xff"])
def test_cram_md5_cancels_a_challenge_that_it_cannot_read(challenge: str) -> None:
    refusal, commands = try_mechanism("cram-md5", (334, challenge), (501, "5.7.0 cancelled"))
    assert refusal == Refusal(501, "5.7.0 cancelled") and commands == [b"AUTH CRAM-MD5", b"*"]


def test_cram_md5_digest_that_a_server_echoes_is_not_shown() -> None:
    digest = "b913a602c7eda7a495b4e6e7334d3890"
    answer = b64(f"tim {digest}").decode()
    challenge = b64("<1896.697170952@postoffice.reston.mci.net>").decode()
    refusal, _ = try_mechanism(
        "cram-md5", (334, challenge), (535, f"no {answer} or {digest}"), user="tim", password="tanstaaftanstaaf"
    )
    assert str(refusal) == "no *** or ***"


def test_oauthbearer_is_one_line_with_the_user_escaped() -> None:
    refusal, commands = try_mechanism("oauthbearer", (235, "ok"), user="a,b=c@example.org")
    line = "n,a=a=2Cb=3Dc@example.org,\x01host=mail.example.org\x01port=465\x01auth=Bearer t0ken\x01\x01"
    assert (refusal, commands) == (None, [b"AUTH OAUTHBEARER " + b64(line)])


def test_oauthbearer_ends_a_refused_exchange_as_rfc_7628_says() -> None:
    challenge = b64(json.dumps({"status": "invalid_token"})).decode()
    refusal, commands = try_mechanism("oauthbearer", (334, challenge), (535, "5.7.8 no"))
    assert commands[1:] == [b"AQ=="]
    assert str(refusal) == "5.7.8 no (status invalid_token)"


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


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["password", "token", "plain", "bearer", "rfc7628"]))
def test_no_form_of_a_secret_survives(before: str, after: str, form: str) -> None:
    forms = {
        "password": "geheim",
        "token": "t0ken",
        "plain": b64("\0ann\0geheim").decode(),
        "rfc7628": b64("n,a=ann,\x01host=mail.example.org\x01port=465\x01auth=Bearer t0ken\x01\x01").decode(),
        "bearer": b64("user=ann\x01auth=Bearer t0ken\x01\x01").decode(),
    }
    assert forms[form] not in without_secrets(before + forms[form] + after, settings()).replace("***", "")


def test_text_without_secrets_is_unchanged() -> None:
    plain = ConnectionSettings("h", 25, "none", "none")
    assert without_secrets("535 5.7.8 no", plain) == "535 5.7.8 no"


def test_enhanced_code_of_a_text() -> None:
    assert (enhanced("5.7.8 no"), enhanced("no 5.7.8"), enhanced("")) == ("5.7.8", "", "")
