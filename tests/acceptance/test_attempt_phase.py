"""``DeliveryAttempt`` names the place of a failure: a person looks there first, so a wrong one costs hours."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, DeliveryAttempt
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.connection import Opened
from tests.support.factories import account, mail
from tests.support.fake_clock import Ahead
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Sending

pytestmark = pytest.mark.django_db(transaction=True)


def fails_late(sending: Sending, clock: Ahead) -> DeliveryAttempt:
    """The attempt, once SEND_DEADLINE has passed."""
    clock.seconds = 40
    assert sending.outcome().error_code == "timeout"
    return DeliveryAttempt.objects.get()


def heard(silent: socket.socket) -> socket.socket:
    """The connection of a client that has begun to speak."""
    silent.settimeout(60)
    connection, _ = silent.accept()
    connection.settimeout(60)
    assert connection.recv(1)
    return connection


def account_at(server: SmtpServer, security: str, **fields: Any) -> Account:
    login = {"auth_method": "password", "user": "ann", "password": "s3cret-pass"}
    return account(host="localhost", port=server.port, security=security, **login, **fields)


@pytest.mark.parametrize(
    ("stage", "phase"), [("greeting", "connect"), ("ehlo", "connect"), ("starttls", "tls"), ("auth", "auth")]
)
def test_deadline_does_not_blame_the_network_for_a_server_that_falls_silent_later(
    settings: Any, sends_clock: Ahead, stage: str, phase: str
) -> None:
    with SmtpServer(tls="starttls", users={"ann": "s3cret-pass"}) as server:
        settings.PRX_EMAIL = {"TLS_CA_FILE": server.ca_file}
        stalled = server.on(stage, stall=True)
        sending = Sending(**mail(account_at(server, "starttls")))
        assert stalled.reached.wait(60)
        attempt = fails_late(sending, sends_clock)
        peer = f"127.0.0.1:{server.port}" + (" TLSv1.3" if stage == "auth" else "")
        assert (attempt.phase, attempt.peer) == (phase, peer)
        server.release(stalled)


def test_deadline_tells_a_silent_handshake(sends_clock: Ahead) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sending = Sending(**mail(account(host="localhost", port=silent.getsockname()[1], security="tls")))
        with heard(silent):
            assert fails_late(sending, sends_clock).phase == "tls"


def test_deadline_does_not_blame_a_handshake_for_a_silent_greeting(settings: Any, sends_clock: Ahead) -> None:
    with SmtpServer(tls="implicit") as server:
        settings.PRX_EMAIL = {"TLS_CA_FILE": server.ca_file}
        stalled = server.on("greeting", stall=True)
        sending = Sending(**mail(account(host="localhost", port=server.port, security="tls")))
        assert stalled.reached.wait(60)
        assert fails_late(sending, sends_clock).phase == "connect"
        server.release(stalled)


def test_token_that_does_not_come_in_time_is_a_matter_of_authentication(sends_clock: Ahead) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        token = {"oauth_provider": "google", "oauth_client_id": "i", "oauth_client_secret": "s"}
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        owner = account(auth_method="xoauth2", user="ann", oauth_refresh_token="r", oauth_token_url=url, **token)
        sending = Sending(**mail(owner))
        with heard(silent):
            assert fails_late(sending, sends_clock).phase == "auth"


def test_hang_up_before_the_message_was_taken_has_a_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        owner = account(host=server.host, port=server.port)
        usual = AccountWorker._opened

        def opened_and_lost(self: AccountWorker, event: Opened) -> None:
            server.hang_up()
            self.network.start(lost(event.session)).result(10)
            usual(self, event)

        async def lost(session: Any) -> None:
            await session._protocol.ended

        monkeypatch.setattr(AccountWorker, "_opened", opened_and_lost)
        assert prx.send(**mail(owner)).error_code == "network"
        attempt = DeliveryAttempt.objects.get()
        assert (attempt.phase, attempt.peer) == ("mail", f"127.0.0.1:{server.port}")
