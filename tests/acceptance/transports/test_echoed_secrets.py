"""A secret that a server echoes, truncated or without its padding, does not reach our texts."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator

import pytest

from prx_email_django.rules.outcomes import Phase
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp.auth import without_secrets
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support import smtp_connection
from tests.support.outgoing_messages import outgoing, settings_for, transmit
from tests.support.smtp_server import SmtpServer

TOKEN = "ya29." + "".join(f"{number:03d}x" for number in range(50))


def test_token_that_the_challenge_echoes_does_not_reach_the_error_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    challenge = {"status": "401", "error_description": f"expired token {TOKEN}"}
    monkeypatch.setattr(smtp_connection, "CHALLENGE", challenge)
    with SmtpServer(tls="implicit", tokens={"ann": "another"}) as server:
        with pytest.raises(ConnectError) as failed:
            asyncio.run(SmtpTransport().open(settings_for(server, token=TOKEN)))
        assert failed.value.phase is Phase.AUTH and "status 401" in str(failed.value)
        assert TOKEN[:16] not in str(failed.value)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_truncated_echo_of_a_command_does_not_reveal_the_password(cut: int) -> None:
    password = "correct-horse-battery"
    settings = ConnectionSettings("mail.example.org", 465, "tls", "password", user="ann", password=password)
    line = base64.b64encode(f"\0ann\0{password}".encode()).decode()
    text = without_secrets(f"500 5.5.2 unrecognized: AUTH PLAIN {line[:-cut]}...", settings)
    assert line[:24] not in text


def shown_by_error_reports(error: BaseException) -> Iterator[str]:
    """Everything that an error report shows of an exception: arguments and variables, also of its causes."""
    yield repr(error.args)
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename != __file__:
            yield repr(traceback.tb_frame.f_locals)
        traceback = traceback.tb_next
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield from shown_by_error_reports(other)


PASSWORD = "correct-horse-battery"
ECHO = base64.b64encode(f"\0ann\0{PASSWORD}".encode())


@pytest.mark.parametrize(
    "said",
    [
        b"500 5.5.2 unrecognized: AUTH PLAIN " + ECHO + b"\r\n",
        b"535 5.7.8 " + PASSWORD.encode() + b" is wrong\r\n",
        b"AUTH PLAIN " + ECHO + b"\r\n",
        b"999 " + PASSWORD.encode() + b"\r\n",
    ],
)
def test_an_error_report_shows_no_secret_that_the_server_echoed(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with SmtpServer(tls="implicit", users={"ann": "another"}) as server:
        server.on("auth", raw=said)
        with caplog.at_level(logging.DEBUG), pytest.raises(ConnectError) as failed:
            asyncio.run(
                SmtpTransport().open(settings_for(server, user="ann", password=PASSWORD, auth_method="password"))
            )
    shown = "".join([*shown_by_error_reports(failed.value), caplog.text])
    assert PASSWORD not in shown and ECHO.decode() not in shown


@pytest.mark.parametrize(
    ("password", "said", "shown"),
    [
        ("a", "535 5.7.8 bad username or a password", "535 5.7.8 bad username or a password"),
        ("5.", "535 5.7.8 no", "535 5.7.8 no"),
        ("abc", "535 abc is wrong, abcd is not", "535 *** is wrong, abcd is not"),
        ("mail", "535 gmail.com knows no 'mail'", "535 gmail.com knows no '***'"),
        ("geheim", "535 geheimgeheim", "535 ******"),
        ("a", "500 AUTH PLAIN AGFubgBh", "500 AUTH PLAIN ***"),
    ],
)
def test_a_short_password_does_not_make_a_text_unreadable(password: str, said: str, shown: str) -> None:
    settings = ConnectionSettings("mail.example.org", 465, "tls", "password", user="ann", password=password)
    assert without_secrets(said, settings) == shown


@pytest.mark.parametrize("password", ["login", "server", "throttles", "mechanism", "localhost"])
@pytest.mark.parametrize("said", ["535 5.7.8 no", "454 4.7.0 later", "334 more"])
def test_a_password_that_is_a_word_of_ours_is_not_given_away_by_a_gap(password: str, said: str) -> None:
    with SmtpServer(tls="implicit", users={"ann": "another"}, mechanisms=("PLAIN",)) as server:
        server.on("auth", reply=said)
        with pytest.raises(ConnectError) as failed:
            asyncio.run(
                SmtpTransport().open(settings_for(server, user="ann", password=password, auth_method="password"))
            )
    assert said in str(failed.value) and "***" not in str(failed.value)


ANSWERS = [
    (b"HTTP/1.1 400 token=s3cr3t\r\nServer: x\r\n\r\n", "HTTP"),
    (b"<!DOCTYPE html><p>token=s3cr3t</p>\r\n", "HTTP"),
    (b"SSH-2.0-OpenSSH_9.2 token=s3cr3t\r\n", "SSH"),
    (b"\x15\x03\x01\x00\x02token=s3cr3t\r\n", "TLS"),
    (b"* OK IMAP token=s3cr3t\r\n", "IMAP"),
    (b"-ERR token=s3cr3t\r\n", "POP3"),
    (b"token=s3cr3t\r\n", "another protocol"),
    (b"999 token=s3cr3t\r\n", "another protocol"),
    (b"12 token=s3cr3t\r\n", "another protocol"),
]
#: Codes that SMTP has for other commands, NNTP and others for a greeting.
NO_REFUSALS = [b"200 token=s3cr3t\r\n", b"354 token=s3cr3t\r\n", b"201\ttoken=s3cr3t\r\n"]


@pytest.mark.parametrize(("said", "kind"), ANSWERS)
@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail"])
def test_what_an_internal_service_says_is_on_no_page(
    stage: str, said: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may choose an account's host would read the services of the network with it."""
    with SmtpServer() as server, caplog.at_level(logging.WARNING, "prx_email_django"):
        server.on(stage, raw=said)
        if stage == "mail":
            text = transmit(server, [outgoing()])[0].outcomes[1].error
        else:
            with pytest.raises(ConnectError) as failed:
                asyncio.run(SmtpTransport().open(settings_for(server)))
            text = str(failed.value)
    assert "s3cr3t" not in text and "token" not in text
    assert f"not an SMTP reply: the server answered with {kind}" in text
    assert "s3cr3t" in caplog.text, "the operator reads it in the log"


@pytest.mark.parametrize("said", NO_REFUSALS)
@pytest.mark.parametrize("stage", ["greeting", "ehlo", "starttls"])
def test_a_positive_code_that_is_no_reply_to_the_step_is_not_smtp(
    stage: str, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with SmtpServer(tls="starttls") as server, caplog.at_level(logging.WARNING, "prx_email_django"):
        server.on(stage, raw=said)
        with pytest.raises(ConnectError) as failed:
            asyncio.run(SmtpTransport().open(settings_for(server)))
    assert "not an SMTP reply: the server answered with another protocol" in str(failed.value)
    assert "s3cr3t" not in str(failed.value) and "s3cr3t" in caplog.text
    assert failed.value.smtp_code == 0
