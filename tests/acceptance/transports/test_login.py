"""Mechanisms of AUTH: which are tried, in which order, and that no secret is shown."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from typing import Any

import pytest

from prx_email_django.rules.outcomes import Ending, Phase, Trouble
from prx_email_django.transports.base import ConnectError
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support import smtp_connection
from tests.support.outgoing_messages import outgoing, settings_for, transmit
from tests.support.smtp_connection import CRAM_CHALLENGE
from tests.support.smtp_server import SmtpServer

USERS = {"ann,=@example.org": "s3cret pass"}
TOKENS = {"ann,=@example.org": "t0ken-of-ann"}
ALL = ("CRAM-MD5", "OAUTHBEARER", "XOAUTH2", "LOGIN", "PLAIN")


def refused(server: SmtpServer, **options: Any) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        asyncio.run(SmtpTransport().open(settings_for(server, **options)))
    return caught.value


@pytest.mark.parametrize(
    ("wanted", "tried"), [("auto", "PLAIN"), ("plain", "PLAIN"), ("login", "LOGIN"), ("cram-md5", "CRAM-MD5")]
)
def test_password_logs_in_by_each_mechanism(wanted: str, tried: str) -> None:
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server:
        feed, _ = transmit(server, [outgoing()], auth_mechanism=wanted)
        assert (feed.outcomes[1].ending, server.auth_attempts) == (Ending.ACCEPTED, [tried])


@pytest.mark.parametrize(("wanted", "tried"), [("auto", "XOAUTH2"), ("oauthbearer", "OAUTHBEARER")])
def test_token_logs_in_by_each_mechanism(wanted: str, tried: str) -> None:
    with SmtpServer(tls="implicit", tokens=TOKENS, mechanisms=ALL) as server:
        feed, _ = transmit(server, [outgoing()], auth_mechanism=wanted)
        assert (feed.outcomes[1].ending, server.auth_attempts) == (Ending.ACCEPTED, [tried])


@pytest.mark.parametrize("only", ["LOGIN", "CRAM-MD5", "OAUTHBEARER"])
def test_the_only_mechanism_offered_is_used(only: str) -> None:
    credentials: dict[str, Any] = {"tokens": TOKENS} if only == "OAUTHBEARER" else {"users": USERS}
    with SmtpServer(tls="starttls", mechanisms=(only,), **credentials) as server:
        feed, _ = transmit(server, [outgoing()])
        assert (feed.outcomes[1].ending, server.auth_attempts) == (Ending.ACCEPTED, [only])


@pytest.mark.parametrize("reply", ["500 what", "501 no", "502 no", "503 no", "504 5.5.4 no", "534 5.7.9 too weak"])
def test_refused_mechanism_is_followed_by_the_next(reply: str) -> None:
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server:
        server.on("auth", reply=reply, nth=1)
        feed, _ = transmit(server, [outgoing()])
        assert (feed.outcomes[1].ending, server.auth_attempts) == (Ending.ACCEPTED, ["PLAIN", "LOGIN"])


def test_each_mechanism_is_tried_once_and_the_last_refusal_told() -> None:
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server:
        server.on("auth", reply="504 5.5.4 not this one")
        error = refused(server)
        assert server.auth_attempts == ["PLAIN", "LOGIN", "CRAM-MD5"]
        assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 504)


def test_refused_token_mechanism_is_followed_by_oauthbearer() -> None:
    with SmtpServer(tls="implicit", tokens=TOKENS, mechanisms=ALL) as server:
        server.on("auth", reply="504 5.5.4 not this one", nth=1)
        feed, _ = transmit(server, [outgoing()])
        assert (feed.outcomes[1].ending, server.auth_attempts) == (Ending.ACCEPTED, ["XOAUTH2", "OAUTHBEARER"])


@pytest.mark.parametrize("reply", ["535 5.7.8 wrong", "530 5.7.0 no", "454 4.7.0 later", "550 5.7.30 off"])
def test_refused_password_is_not_tried_again(reply: str) -> None:
    """A second failed login is a step towards a locked mailbox."""
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server:
        server.on("auth", reply=reply)
        assert refused(server).trouble is Trouble.AUTH
        assert server.auth_attempts == ["PLAIN"]


def test_mechanism_that_a_person_chose_is_never_replaced() -> None:
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server:
        server.on("auth", reply="504 5.5.4 not this one")
        assert refused(server, auth_mechanism="cram-md5").smtp_code == 504
        assert server.auth_attempts == ["CRAM-MD5"]


def test_mechanism_that_is_not_offered_is_named_and_no_secret_sent() -> None:
    with SmtpServer(tls="implicit", users=USERS, mechanisms=("PLAIN", "LOGIN")) as server:
        error = refused(server, auth_mechanism="cram-md5")
        assert (error.phase, error.trouble, error.error_code) == (Phase.AUTH, Trouble.AUTH, "auth")
        assert "offers PLAIN LOGIN" in str(error) and "CRAM-MD5" in str(error)
        assert server.auth_attempts == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "XOAUTH2", "OAUTHBEARER"])
def test_server_that_overlooks_the_initial_response_gets_it_again(
    mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks by an empty challenge, which Django's own backend answers."""
    auth = smtp_connection.Connection.auth

    def ask(connection: smtp_connection.Connection, rest: str) -> None:
        connection.out.append(b"334 \r\n")
        connection.dialogue = lambda line: auth(connection, f"{rest.partition(' ')[0]} {line.decode()}")

    monkeypatch.setitem(smtp_connection.COMMANDS, "AUTH", ask)
    credentials: dict[str, Any] = {"users": USERS} if mechanism == "PLAIN" else {"tokens": TOKENS}
    with SmtpServer(tls="implicit", mechanisms=(mechanism,), **credentials) as server:
        feed, _ = transmit(server, [outgoing()])
        assert (feed.outcomes[1].ending, server.auth_attempts) == (Ending.ACCEPTED, [mechanism])


def test_server_that_hangs_up_after_refusing_the_mechanism_refused_it() -> None:
    """The loss would count as a failed connection, and the refusal be forgotten."""
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server:
        server.on("auth", raw=b"504 5.5.4 not this one\r\n", drop=True)
        error = refused(server)
        assert (error.trouble, error.smtp_code, server.auth_attempts) == (Trouble.AUTH, 504, ["PLAIN"])


def _written(mechanism: str) -> str:
    """The last line that the client writes in this mechanism, without base64; the host is the scripted server's."""
    match mechanism:
        case "plain":
            return "\0ann\0s3cret pass"
        case "login":
            return "s3cret pass"
        case "cram-md5":
            return "ann " + hmac.new(b"s3cret pass", CRAM_CHALLENGE, "md5").hexdigest()
        case "oauthbearer":
            return "n,a=ann,\x01host=localhost\x01port={port}\x01auth=Bearer t0ken-of-ann\x01\x01"
    return "user=ann\x01auth=Bearer t0ken-of-ann\x01\x01"


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram-md5", "xoauth2", "oauthbearer"])
def test_no_mechanism_shows_a_secret_that_the_server_echoes(mechanism: str, caplog: pytest.LogCaptureFixture) -> None:
    is_token = mechanism in ("xoauth2", "oauthbearer")
    secret = {"token": "t0ken-of-ann"} if is_token else {"password": "s3cret pass"}
    with SmtpServer(tls="implicit", users=USERS, mechanisms=ALL) as server, caplog.at_level(logging.DEBUG):
        echo = base64.b64encode(_written(mechanism).format(port=server.port).encode()).decode()
        server.on("auth", reply=f"535 5.7.8 no: {echo}")
        options = {"auth_method": "xoauth2" if is_token else "password", "auth_mechanism": mechanism, "user": "ann"}
        error = refused(server, **options, **secret)
        shown = f"{error!r} {error} {caplog.text}"
        frame = error.__traceback__
        while frame is not None:
            if "/prx_email_django/transports/" in frame.tb_frame.f_code.co_filename:
                shown += repr(frame.tb_frame.f_locals)
            frame = frame.tb_next
        assert str(error).startswith(f"localhost:{server.port}: login: 535 5.7.8 no: ***")
        assert not any(form in shown for form in (echo, "s3cret", "t0ken"))
