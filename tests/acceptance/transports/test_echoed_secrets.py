"""A server that echoes a secret, cut or without its padding, does not get it into our texts."""

from __future__ import annotations

import asyncio
import base64

import pytest

from prx_email_django.rules.outcomes import Phase
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp.auth import without_secrets
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support import smtp_connection
from tests.support.outgoing_messages import login_to
from tests.support.smtp_server import SmtpServer

TOKEN = "ya29." + "".join(f"{number:03d}x" for number in range(50))


def test_token_that_the_challenge_echoes_does_not_reach_the_error_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    challenge = {"status": "401", "error_description": f"expired token {TOKEN}"}
    monkeypatch.setattr(smtp_connection, "CHALLENGE", challenge)
    with SmtpServer(tls="implicit", tokens={"ann": "another"}) as server:
        with pytest.raises(ConnectError) as failed:
            asyncio.run(SmtpTransport().open(login_to(server, token=TOKEN)))
        assert failed.value.phase is Phase.AUTH and "status 401" in str(failed.value)
        assert TOKEN[:16] not in str(failed.value)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_command_that_a_server_echoes_cut_short_does_not_give_the_password_away(cut: int) -> None:
    password = "correct-horse-battery"
    settings = ConnectionSettings("mail.example.org", 465, "tls", "password", user="ann", password=password)
    line = base64.b64encode(f"\0ann\0{password}".encode()).decode()
    text = without_secrets(f"500 5.5.2 unrecognized: AUTH PLAIN {line[:-cut]}...", settings)
    assert line[:24] not in text
