"""What real servers say to wrong credentials and unknown authorities ends where a person can read it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.servers.messages import Server
from tests.servers.private_ca import PrivateCA
from tests.servers.tokens import token

pytestmark = pytest.mark.servers


def refusal(login: ConnectionSettings) -> ConnectError:
    """Why it cannot log in."""
    with pytest.raises(ConnectError) as caught:
        asyncio.run(SmtpTransport().open(login))
    return caught.value


@pytest.mark.parametrize("way", ["PLAIN after STARTTLS", "LOGIN in implicit TLS"])
def test_wrong_password_at_postfix_is_the_accounts_trouble(postfix_server: Server, way: str) -> None:
    error = refusal(replace(postfix_server.logins[way], password="wrong"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "wrong" not in str(error)


def test_expired_token_at_dovecot_is_told_with_the_servers_reason(postfix_server: Server) -> None:
    login = postfix_server.logins["XOAUTH2 after STARTTLS"]
    expired = token(login.user, seconds=-60)
    error = refusal(replace(login, token=expired))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "status" in str(error)
    assert expired not in str(error)


def test_token_signed_by_somebody_else_is_refused(postfix_server: Server) -> None:
    login = postfix_server.logins["XOAUTH2 after STARTTLS"]
    error = refusal(replace(login, token=token(login.user, key=b"another key")))
    assert (error.trouble, error.smtp_code) == (Trouble.AUTH, 535), error


def test_wrong_password_at_exim_is_the_accounts_trouble(exim_server: Server) -> None:
    error = refusal(replace(exim_server.logins["STARTTLS"], password="wrong"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error


@pytest.mark.npm
def test_refused_token_at_npm_smtp_server_is_told_with_the_servers_reason(npm_server: Server) -> None:
    login = npm_server.logins["XOAUTH2 after STARTTLS"]
    error = refusal(replace(login, token="stale"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "401" in str(error)
    assert "stale" not in str(error)


@pytest.mark.parametrize("way", ["PLAIN after STARTTLS", "LOGIN in implicit TLS"])
def test_nothing_is_said_to_a_server_whose_authority_is_unknown(
    postfix_server: Server, way: str, tmp_path: Path
) -> None:
    stranger = PrivateCA(tmp_path)
    error = refusal(replace(postfix_server.logins[way], tls_ca_file=str(stranger.file)))
    assert (error.phase, error.trouble) == (Phase.TLS, Trouble.TLS), error
