"""``DeliveryAttempt`` names the place of a failure: a person looks there first, so a wrong one costs hours."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.delivery import single
from prx_email_django.models import Account, DeliveryAttempt
from tests.support.factories import account, letter
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

LATE = {"SEND_DEADLINE": 0.5, "SMTP_TIMEOUT": 60}


def account_at(server: SmtpServer, security: str, **fields: Any) -> Account:
    login = {"auth_method": "password", "user": "ann", "password": "s3cret-pass"}
    return account(host="localhost", port=server.port, security=security, **login, **fields)


@pytest.mark.parametrize(
    ("stage", "phase"), [("greeting", "connect"), ("ehlo", "connect"), ("starttls", "tls"), ("auth", "auth")]
)
def test_deadline_does_not_blame_the_network_for_a_server_that_falls_silent_later(
    settings: Any, stage: str, phase: str
) -> None:
    with SmtpServer(tls="starttls", users={"ann": "s3cret-pass"}) as server:
        settings.PRX_EMAIL = {**LATE, "TLS_CA_FILE": server.ca_file}
        stalled = server.on(stage, stall=True)
        assert prx.send(**letter(account_at(server, "starttls"))).error_code == "timeout"
        attempt = DeliveryAttempt.objects.get()
        peer = f"127.0.0.1:{server.port}" + (" TLSv1.3" if stage == "auth" else "")
        assert (attempt.phase, attempt.peer) == (phase, peer)
        server.release(stalled)


@pytest.mark.parametrize("stage", ["handshake", "greeting"])
def test_deadline_tells_a_silent_handshake_from_a_silent_greeting(settings: Any, stage: str) -> None:
    with SmtpServer(tls="implicit") as server, socket.create_server(("127.0.0.1", 0)) as silent:
        settings.PRX_EMAIL = {**LATE, "TLS_CA_FILE": server.ca_file}
        stalled = server.on("greeting", stall=True)
        port = silent.getsockname()[1] if stage == "handshake" else server.port
        owner = account(host="localhost", port=port, security="tls")
        assert prx.send(**letter(owner)).error_code == "timeout"
        assert DeliveryAttempt.objects.get().phase == ("tls" if stage == "handshake" else "connect")
        server.release(stalled)


def test_token_that_does_not_come_in_time_is_a_matter_of_authentication(settings: Any) -> None:
    settings.PRX_EMAIL = LATE
    with socket.create_server(("127.0.0.1", 0)) as silent:
        token = {"oauth_provider": "google", "oauth_client_id": "i", "oauth_client_secret": "s"}
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        owner = account(auth_method="xoauth2", user="ann", oauth_refresh_token="r", oauth_token_url=url, **token)
        assert prx.send(**letter(owner)).error_code == "timeout"
        assert DeliveryAttempt.objects.get().phase == "auth"


def test_hang_up_before_the_message_was_taken_has_a_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        owner = account(host=server.host, port=server.port)
        usual = single.SingleRun.opened

        def opened_and_lost(self: Any, lane: Any, session: Any) -> None:
            server.hang_up()
            self.network.start(lost(session)).result(10)
            usual(self, lane, session)

        async def lost(session: Any) -> None:
            await session._wire.ended

        monkeypatch.setattr(single.SingleRun, "opened", opened_and_lost)
        assert prx.send(**letter(owner)).error_code == "network"
        attempt = DeliveryAttempt.objects.get()
        assert (attempt.phase, attempt.peer) == ("mail", f"127.0.0.1:{server.port}")
