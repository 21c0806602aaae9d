"""A secret that a server echoes, truncated or without its padding, does not reach our texts."""

from __future__ import annotations

import asyncio
import base64

import pytest

from prx_email_django.rules.outcomes import Phase
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp.auth import without_secrets
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support import smtp_connection
from tests.support.outgoing_messages import settings_for
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
