"""Accounts with OAuth: one worker fetches the token for all, stores it, renews it once, and never logs it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import Account, AccountState, ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.worker import token_keeper
from tests.acceptance.drainer import drainers
from tests.support.factories import account_on, backlog, mail
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

USER = "ann@example.org"


class TokenServer:
    """Issues ``token-1``, ``token-2``… and registers them at the SMTP server; each refresh token works once."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self.requests: list[dict[str, str]] = []
        self.refresh_token = "refresh-0"
        #: Answer with this OAuth error instead of a token.
        self.error = ""
        #: Issue tokens that the SMTP server does not know.
        self.worthless = False
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                status, answer = owner.answer({name: values[0] for name, values in form.items()})
                body = json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client has closed the connection

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/token"

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append(form)
            number = len(self.requests)
        self.reached.set()
        self.gate.wait(60)
        if self.error:
            return 400, {"error": self.error}
        if form.get("refresh_token") != self.refresh_token:
            return 400, {"error": "invalid_grant"}
        self.refresh_token = f"refresh-{number}"
        if not self.worthless:
            self.server.tokens[USER] = f"token-{number}"
        answer = {"access_token": f"token-{number}", "expires_in": 3600, "refresh_token": self.refresh_token}
        return 200, answer


@contextmanager
def outbox(**fields: Any) -> Iterator[tuple[SmtpServer, TokenServer, Account]]:
    with SmtpServer(tokens={USER: "unknown"}) as server:
        tokens = TokenServer(server)
        tokens.thread.start()
        values = {
            "name": "main",
            "email": USER,
            "user": USER,
            "host": server.host,
            "port": server.port,
            "security": "none",
            "oauth_provider": "custom",
            "oauth_client_id": "client",
            "oauth_client_secret": "client-secret",
            "oauth_refresh_token": "refresh-0",
            "oauth_token_url": tokens.url,
        }
        try:
            yield server, tokens, Account.objects.create(**{**values, **fields})
        finally:
            tokens.gate.set()
            tokens.http.shutdown()
            tokens.http.server_close()
            tokens.thread.join(60)


def test_an_expired_token_is_refreshed_before_connecting_by_one_of_many_workers() -> None:
    expired = timezone.now() - timedelta(minutes=1)
    with outbox(oauth_token="old", oauth_token_expires_at=expired, max_connections=4) as (server, tokens, account):
        backlog(account, 80)
        tokens.gate.clear()
        with drainers(3) as running:
            assert tokens.reached.wait(60)
            threading.Event().wait(1.0)  # time in which the others would request a token too
            tokens.gate.set()
            sent = sum(drainer.report()["sent"] for drainer in running)
        sent += prx.drain().sent
        assert sent == 80
        assert len(tokens.requests) == 1
        assert all(mechanism == "XOAUTH2" for mechanism in server.auth_attempts)
        state = AccountState.objects.get(account=account)
        assert (state.access_token, state.refresh_token, state.refresh_lease) == ("token-1", "refresh-1", None)
        assert Account.objects.get().oauth_refresh_token == "refresh-0", (
            "the account that a person configured is not written"
        )


def test_a_token_that_another_worker_stored_a_moment_ago_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old refresh token has been replaced: a request with it would be refused and pause the account."""
    take = token_keeper.take_refresh_lease

    def take_after_another(account: Account, **options: Any) -> Any:
        AccountState.objects.filter(account=account).update(
            access_token="token-9",
            access_token_expires_at=timezone.now() + timedelta(hours=1),
            refresh_token="refresh-9",
        )
        return take(account, **options)

    monkeypatch.setattr(token_keeper, "take_refresh_lease", take_after_another)
    with outbox() as (server, tokens, account):
        server.tokens[USER] = "token-9"
        tokens.refresh_token = "refresh-9"
        assert prx.send(**mail(account)).status == "sent"
        assert not tokens.requests
        assert AccountState.objects.get().refresh_lease is None


def test_a_rotated_refresh_token_is_the_one_that_is_used_next() -> None:
    with outbox() as (_mail, tokens, account):
        assert prx.send(**mail(account)).status == "sent"
        for _ in range(2):
            AccountState.objects.update(access_token_expires_at=timezone.now())
            assert prx.send(**mail(account)).status == "sent"
        assert [form["refresh_token"] for form in tokens.requests] == ["refresh-0", "refresh-1", "refresh-2"]


def test_a_refused_token_is_refreshed_once_and_tried_again() -> None:
    with outbox(oauth_token="revoked") as (server, tokens, account):
        backlog(account, 5)
        assert prx.drain().sent == 5
        assert len(tokens.requests) == 1
        assert server.auth_attempts[:2] == ["XOAUTH2", "XOAUTH2"]
        assert account.pause_reason == ""


@pytest.mark.parametrize("way", ["drain", "send"])
def test_a_token_that_stays_refused_pauses_after_one_refresh(way: str) -> None:
    with outbox(oauth_token="revoked") as (server, tokens, account):
        tokens.worthless = True
        if way == "drain":
            (row,) = backlog(account, 1)
            prx.drain()
            row.refresh_from_db()
            assert (row.status, row.attempts) == ("pending", 0)
        else:
            result = prx.send(**mail(account))
            assert (result.status, result.error_code, result.retries) == ("failed", "auth", 1), result
        assert (len(tokens.requests), len(server.auth_attempts)) == (1, 2)
        assert "authentication refused" in account.pause_reason
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_server_without_a_token_mechanism_does_not_cause_a_token_refresh() -> None:
    """The token was not refused: a new token would not help, and providers limit how many tokens are fetched."""
    with outbox() as (server, tokens, account):
        server.mechanisms = ("PLAIN",)
        backlog(account, 1)
        prx.drain()
        assert len(tokens.requests) == 1
        assert "no usable authentication mechanism" in account.pause_reason
        assert server.wait_closed()


def test_a_dead_refresh_token_pauses_without_connecting() -> None:
    with outbox(oauth_refresh_token="dead") as (server, tokens, account):
        (row,) = backlog(account, 1)
        prx.drain()
        row.refresh_from_db()
        assert (row.status, row.attempts) == ("pending", 0)
        assert server.connections == 0
        assert len(tokens.requests) == 1
        assert "invalid_grant" in account.pause_reason
        assert AccountState.objects.get().refresh_lease is None


def test_a_token_server_that_hangs_does_not_delay_another_account() -> None:
    with outbox() as (_mail, tokens, account), SmtpServer() as other:
        backlog(account, 1)
        healthy = account_on(other, "healthy")
        backlog(healthy, 100)
        tokens.gate.clear()
        thread = threading.Thread(target=lambda: (other.wait_for(100), tokens.gate.set()), daemon=True)
        thread.start()
        report = prx.drain()
        assert report.sent == 101
        thread.join(60)


def test_a_token_that_comes_after_the_drain_was_stopped_is_kept() -> None:
    """The provider has revoked the old refresh token: without the answer the account could never send again."""
    with outbox() as (_mail, tokens, account):
        backlog(account, 1)
        tokens.gate.clear()
        stopped = threading.Event()

        def stop() -> bool:
            """Stop the drain as soon as the token is being fetched."""
            if tokens.reached.is_set():
                stopped.set()
            return stopped.is_set()

        threading.Thread(target=open_later, args=(tokens, stopped), daemon=True).start()
        report = prx.drain(stop=stop)
        assert report.sent == 0
        state = AccountState.objects.get()
        assert (state.access_token, state.refresh_token, state.refresh_lease) == ("token-1", "refresh-1", None)
        assert prx.drain().sent == 1
        assert len(tokens.requests) == 1


def open_later(tokens: TokenServer, stopped: threading.Event) -> None:
    stopped.wait(60)
    threading.Event().wait(1.0)
    tokens.gate.set()


def test_a_send_does_not_wait_for_a_token_beyond_its_deadline(settings: Any) -> None:
    settings.PRX_EMAIL = {"SEND_DEADLINE": 0.5}
    with outbox() as (server, tokens, account):
        tokens.gate.clear()
        begun = monotonic()
        result = prx.send(**mail(account))
        assert monotonic() - begun < 15, "send waited for the token"
        assert (result.status, result.error_code) == ("failed", "timeout"), result
        assert server.connections == 0
        assert AccountState.objects.get().refresh_lease is None, "another worker may fetch the token"
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_secrets_are_in_no_log_line_and_no_row(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with outbox(oauth_token="revoked-token-value") as (_mail, tokens, account):
        tokens.worthless = True
        prx.send(**mail(account))
        backlog(account, 1)
        prx.resume_outbox(account)
        prx.drain()
        written = caplog.text + repr(list(OutboxMessage.objects.values())) + account.pause_reason
        written += repr(list(DeliveryAttempt.objects.values()))
        for secret in ("revoked-token-value", "token-1", "refresh-0", "refresh-1", "client-secret"):
            assert secret not in written, secret
