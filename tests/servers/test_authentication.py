"""What real servers answer to wrong credentials, and to an unknown certificate authority, is shown to a person."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.transports.base import ConnectError, ConnectionSettings, TlsFiles
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.servers.messages import Server
from tests.servers.private_ca import PrivateCA
from tests.servers.tokens import token

pytestmark = pytest.mark.servers


def refusal(settings: ConnectionSettings) -> ConnectError:
    """The error of opening a session with these settings."""
    with pytest.raises(ConnectError) as caught:
        asyncio.run(SmtpTransport().open(settings))
    return caught.value


@pytest.mark.parametrize("name", ["PLAIN after STARTTLS", "LOGIN in implicit TLS"])
def test_wrong_password_at_postfix_is_trouble_of_the_account(postfix_server: Server, name: str) -> None:
    error = refusal(replace(postfix_server.settings[name], password="wrong"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "wrong" not in str(error)


def test_refusal_of_an_expired_token_by_dovecot_keeps_the_reason(postfix_server: Server) -> None:
    settings = postfix_server.settings["XOAUTH2 after STARTTLS"]
    expired = token(settings.user, seconds=-60)
    error = refusal(replace(settings, token=expired))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "status" in str(error)
    assert expired not in str(error)


@pytest.mark.parametrize("name", ["CRAM-MD5 after STARTTLS", "OAUTHBEARER after STARTTLS"])
def test_postfix_with_dovecot_accepts_each_mechanism(postfix_server: Server, name: str) -> None:
    async def main() -> None:
        session = await SmtpTransport().open(postfix_server.settings[name])
        session.abort()

    asyncio.run(main())


def test_wrong_password_in_cram_md5_is_trouble_of_the_account(postfix_server: Server) -> None:
    error = refusal(replace(postfix_server.settings["CRAM-MD5 after STARTTLS"], password="wrong"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error


def test_refusal_of_an_expired_token_by_oauthbearer_keeps_the_reason(postfix_server: Server) -> None:
    settings = postfix_server.settings["OAUTHBEARER after STARTTLS"]
    expired = token(settings.user, seconds=-60)
    error = refusal(replace(settings, token=expired))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "status" in str(error) and expired not in str(error)


def test_token_with_a_wrong_signature_is_refused(postfix_server: Server) -> None:
    settings = postfix_server.settings["XOAUTH2 after STARTTLS"]
    error = refusal(replace(settings, token=token(settings.user, key=b"another key")))
    assert (error.trouble, error.smtp_code) == (Trouble.AUTH, 535), error


def test_wrong_password_at_exim_is_trouble_of_the_account(exim_server: Server) -> None:
    error = refusal(replace(exim_server.settings["STARTTLS"], password="wrong"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error


@pytest.mark.npm
def test_refusal_of_a_token_by_npm_smtp_server_keeps_the_reason(npm_server: Server) -> None:
    settings = npm_server.settings["XOAUTH2 after STARTTLS"]
    error = refusal(replace(settings, token="stale"))
    assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, Trouble.AUTH, 535), error
    assert "401" in str(error)
    assert "stale" not in str(error)


@pytest.mark.parametrize("name", ["PLAIN after STARTTLS", "LOGIN in implicit TLS"])
def test_no_session_with_a_server_whose_authority_is_unknown(postfix_server: Server, name: str, tmp_path: Path) -> None:
    stranger = PrivateCA(tmp_path)
    error = refusal(replace(postfix_server.settings[name], tls_files=TlsFiles(ca_file=str(stranger.file))))
    assert (error.phase, error.trouble) == (Phase.TLS, Trouble.TLS), error
