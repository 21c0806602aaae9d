"""``DeliveryAttempt.phase`` names the place of a failure: a wrong name misleads the person who looks for the cause."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import DeliveryAttempt
from prx_email_django.worker.connection import Opened
from prx_email_django.worker.connection_events import ConnectionEvents
from tests.support.factories import account, account_on, mail
from tests.support.fake_clock import MovableClock
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Sending

pytestmark = pytest.mark.django_db(transaction=True)


def attempt_after_deadline(sending: Sending, clock: MovableClock) -> DeliveryAttempt:
    """Let SEND_DEADLINE pass; return the attempt."""
    clock.seconds = 40
    assert sending.outcome().error_code == "timeout"
    return DeliveryAttempt.objects.get()


def accept(silent: socket.socket) -> socket.socket:
    """Accept a connection, and wait for the first byte of the client."""
    silent.settimeout(PATIENCE)
    connection, _ = silent.accept()
    connection.settimeout(PATIENCE)
    assert connection.recv(1)
    return connection


@pytest.mark.parametrize(
    ("stage", "phase"), [("greeting", "connect"), ("ehlo", "connect"), ("starttls", "tls"), ("auth", "auth")]
)
def test_deadline_does_not_blame_the_network_for_a_server_that_falls_silent_later(
    settings: Any, sends_clock: MovableClock, stage: str, phase: str
) -> None:
    with SmtpServer(tls="starttls", users={"ann": "s3cret-pass"}) as server:
        settings.PRX_EMAIL = {"TLS_CA_FILE": server.ca_file}
        stalled = server.on(stage, stall=True)
        sending = Sending(**mail(account_on(server, auth_method="password", user="ann", password="s3cret-pass")))
        assert stalled.reached.wait(PATIENCE)
        attempt = attempt_after_deadline(sending, sends_clock)
        peer = f"127.0.0.1:{server.port}" + (" TLSv1.3" if stage == "auth" else "")
        assert (attempt.phase, attempt.peer) == (phase, peer)
        server.release(stalled)


def test_deadline_does_not_blame_the_connection_for_a_silent_handshake(sends_clock: MovableClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sending = Sending(**mail(account(host="localhost", port=silent.getsockname()[1], security="tls")))
        with accept(silent):
            assert attempt_after_deadline(sending, sends_clock).phase == "tls"


def test_deadline_does_not_blame_a_handshake_for_a_silent_greeting(settings: Any, sends_clock: MovableClock) -> None:
    with SmtpServer(tls="implicit") as server:
        settings.PRX_EMAIL = {"TLS_CA_FILE": server.ca_file}
        stalled = server.on("greeting", stall=True)
        sending = Sending(**mail(account_on(server)))
        assert stalled.reached.wait(PATIENCE)
        assert attempt_after_deadline(sending, sends_clock).phase == "connect"
        server.release(stalled)


def test_deadline_does_not_blame_the_connection_for_a_late_token(sends_clock: MovableClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        token = {"oauth_provider": "google", "oauth_client_id": "i", "oauth_client_secret": "s"}
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        owner = account(auth_method="xoauth2", user="ann", oauth_refresh_token="r", oauth_token_url=url, **token)
        sending = Sending(**mail(owner))
        with accept(silent):
            assert attempt_after_deadline(sending, sends_clock).phase == "auth"


def test_hang_up_before_the_message_is_taken_has_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        owner = account_on(server)
        real = ConnectionEvents._opened

        def opened_and_lost(self: ConnectionEvents, event: Opened) -> None:
            server.hang_up()
            self.connections.network.start(lost(event.session)).result(PATIENCE)
            real(self, event)

        async def lost(session: Any) -> None:
            await session._protocol.ended

        monkeypatch.setattr(ConnectionEvents, "_opened", opened_and_lost)
        assert prx.send(**mail(owner)).error_code == "network"
        attempt = DeliveryAttempt.objects.get()
        assert (attempt.phase, attempt.peer) == ("mail", f"127.0.0.1:{server.port}")
