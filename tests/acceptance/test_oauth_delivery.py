"""Accounts with OAuth: one worker fetches the token for all, stores it, renews it once, and never logs it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import Account, AccountState, ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.signals import message_sent
from prx_email_django.worker import token_keeper
from tests.acceptance.drainer import drainers
from tests.support.factories import account_on, backlog, mail
from tests.support.patience import PATIENCE
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
        self.error: str = ""
        #: Issue tokens that the SMTP server does not know.
        self.worthless = False
        #: Seconds that a token lives, as the server says; None: it says nothing.
        self.expires_in: object = 3600
        #: Answer with this status and these headers instead of a token.
        self.status = 0
        self.headers: dict[str, str] = {}
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
                    for name, value in owner.headers.items():
                        self.send_header(name, value)
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
        self.gate.wait(PATIENCE)
        if self.status:
            return self.status, {"message": "the secret of the house"}
        if self.error:
            return 400, {"error": self.error}
        if form.get("refresh_token") != self.refresh_token:
            return 400, {"error": "invalid_grant"}
        self.refresh_token = f"refresh-{number}"
        if not self.worthless:
            self.server.tokens[USER] = f"token-{number}"
        answer = {"access_token": f"token-{number}", "refresh_token": self.refresh_token}
        return 200, answer if self.expires_in is None else {**answer, "expires_in": self.expires_in}


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
            tokens.thread.join(PATIENCE)


def test_an_expired_token_is_refreshed_before_connecting_by_one_of_many_workers() -> None:
    expired = timezone.now() - timedelta(minutes=1)
    with outbox(oauth_token="old", oauth_token_expires_at=expired, max_connections=4) as (server, tokens, account):
        backlog(account, 80)
        tokens.gate.clear()
        with drainers(3) as running:
            assert tokens.reached.wait(PATIENCE)
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
        assert account.pause_reason == "no access token: the token server refused: invalid_grant"
        state = AccountState.objects.get()
        assert (state.pause_code, state.refresh_lease) == ("token", None)


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
        thread.join(PATIENCE)


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
    stopped.wait(PATIENCE)
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
        assert AccountState.objects.get().refresh_lease is not None, "the old refresh token may be revoked any moment"
        tokens.gate.set()
        wait_for(lambda: AccountState.objects.get().refresh_lease is None)
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


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds that another thread does."""
    ends_at = monotonic() + 60
    while not condition():
        assert monotonic() < ends_at, "it did not happen within 60 seconds"
        threading.Event().wait(0.02)


def test_an_answer_that_comes_after_the_deadline_of_a_send_is_stored(settings: Any) -> None:
    """The provider has revoked the old refresh token: the next request with it would end the account."""
    settings.PRX_EMAIL = {"SEND_DEADLINE": 0.5}
    with outbox() as (_mail, tokens, account):
        tokens.gate.clear()
        assert prx.send(**mail(account)).error_code == "timeout"
        tokens.gate.set()
        wait_for(lambda: AccountState.objects.get().refresh_token == "refresh-1")
        settings.PRX_EMAIL = {}
        assert prx.send(**mail(account)).status == "sent"
        assert len(tokens.requests) == 1


def test_an_answer_that_comes_after_the_lease_is_stored_and_a_refusal_of_the_old_token_is_not_believed() -> None:
    with outbox() as (_mail, tokens, account):
        backlog(account, 3)  # a drain that finds the only one locked by the other one's look would end
        tokens.gate.clear()
        with drainers(2) as running:
            assert tokens.reached.wait(PATIENCE)
            AccountState.objects.update(refresh_lease_expires_at=timezone.now() - timedelta(seconds=1))
            wait_for(lambda: len(tokens.requests) == 2)
            tokens.gate.set()
            sent = sum(drainer.report()["sent"] for drainer in running)
        assert sent + prx.drain().sent == 3
        assert account.pause_reason == ""
        assert len(tokens.requests) == 2


@pytest.mark.parametrize("expires_in", [None, 0, -5, 1, 30, 60, "60", "soon", 31_536_000])
def test_a_fetched_token_is_used_whatever_its_expiry_says(expires_in: object) -> None:
    with outbox(max_connections=2) as (server, tokens, account):
        tokens.expires_in = expires_in
        backlog(account, 30)
        assert prx.drain().sent == 30
        assert 1 <= len(tokens.requests) <= 2
        assert account.pause_reason == ""


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(hours=-2)])
def test_a_token_is_judged_by_real_time_whatever_the_time_of_the_call_is(ahead: timedelta) -> None:
    with outbox() as (_mail, tokens, account):
        backlog(account, 3, send_at=timezone.now() - timedelta(hours=3))
        assert prx.drain(now=timezone.now() + ahead).sent == 3
        backlog(account, 3)
        assert prx.drain().sent == 3
        assert len(tokens.requests) == 1
        ends_at = AccountState.objects.get().access_token_expires_at
        assert ends_at is not None
        assert abs(ends_at - timezone.now() - timedelta(hours=1)) < timedelta(minutes=2)


def cached(_account: object) -> tuple[str, datetime]:
    calls.append(1)
    return "token-of-the-house", timezone.now() - timedelta(seconds=250)


calls: list[int] = []


def test_a_function_whose_clock_is_behind_is_not_called_again_and_again(settings: Any) -> None:
    path = f"{__name__}.cached"
    settings.PRX_EMAIL = {"OAUTH_CALLABLES": [path]}
    calls.clear()
    with outbox(oauth_callable=path, oauth_token_url="", max_messages_per_connection=2) as (server, _tokens, account):
        server.tokens[USER] = "token-of-the-house"
        backlog(account, 20)
        assert prx.drain().sent == 20
        assert len(calls) == 1


def test_a_function_that_returns_the_refused_token_again_pauses(settings: Any) -> None:
    path = f"{__name__}.cached"
    settings.PRX_EMAIL = {"OAUTH_CALLABLES": [path]}
    calls.clear()
    with outbox(oauth_callable=path, oauth_token_url="") as (server, _tokens, account):
        backlog(account, 2)
        prx.drain()
        assert (len(calls), len(server.auth_attempts)) == (2, 1)
        assert "same token" in account.pause_reason
        assert AccountState.objects.get().pause_code == "token"


def test_a_pasted_token_does_not_come_back_when_the_fetched_one_ends() -> None:
    with outbox(oauth_token="pasted") as (server, tokens, account):
        server.tokens[USER] = "pasted"
        assert prx.send(**mail(account)).status == "sent"
        assert not tokens.requests
        server.tokens[USER] = "unknown"
        assert prx.send(**mail(account)).status == "sent"
        AccountState.objects.update(access_token_expires_at=timezone.now())
        assert prx.send(**mail(account)).status == "sent"
        assert len(tokens.requests) == 2
        assert len(server.auth_attempts) == 4, "only one login was refused"


def test_a_pasted_token_is_not_tried_again_where_no_other_could_be_fetched() -> None:
    with outbox(oauth_token="revoked") as (server, tokens, account):
        tokens.status = 503
        for _ in range(3):
            assert prx.send(**mail(account)).status in ("failed", "pending")
        assert len(server.auth_attempts) == 1
        account.oauth_token = "new"
        account.save()
        server.tokens[USER] = "new"
        assert prx.send(**mail(account)).status == "sent", "a person has pasted another one"


def test_the_second_death_of_a_token_in_a_drain_is_another_refusal() -> None:
    with outbox(max_connections=1, max_messages_per_connection=2) as (server, tokens, account):
        backlog(account, 8)

        def revoke(**_: object) -> None:
            if OutboxMessage.objects.filter(status="sent").count() in (2, 4, 6):
                server.tokens[USER] = "revoked"

        message_sent.connect(revoke)
        try:
            assert prx.drain().sent == 8
        finally:
            message_sent.disconnect(revoke)
        assert account.pause_reason == ""
        assert len(tokens.requests) >= 2


@pytest.mark.parametrize("reply", ["530 5.7.0 Authentication required", "535 5.7.3 Authentication unsuccessful"])
@pytest.mark.parametrize("way", ["drain", "send"])
def test_a_session_that_demands_another_login_gets_a_fresh_token(way: str, reply: str) -> None:
    with outbox(max_connections=1) as (server, tokens, account):
        server.on("mail", reply=reply, times=1)
        if way == "drain":
            backlog(account, 5)
            assert prx.drain().sent == 5
        else:
            assert prx.send(**mail(account)).status == "sent"
        assert len(tokens.requests) == 2
        assert account.pause_reason == ""
        assert not OutboxMessage.objects.exclude(attempts=0).exists()


def test_a_server_that_always_demands_another_login_pauses_after_one_fresh_token() -> None:
    with outbox(max_connections=3) as (server, tokens, account):
        server.on("mail", reply="530 5.7.0 Authentication required")
        backlog(account, 5)
        prx.drain()
        assert len(tokens.requests) == 2
        assert "530" in account.pause_reason


@pytest.mark.parametrize("status", [429, 503])
def test_a_token_server_that_asks_to_wait_is_left_alone(status: int) -> None:
    with outbox() as (server, tokens, account):
        tokens.status, tokens.headers = status, {"Retry-After": "600"}
        backlog(account, 1)
        prx.drain()
        prx.drain()
        assert len(tokens.requests) == 1
        assert server.connections == 0
        state = AccountState.objects.get()
        assert state.pause_code == "token"
        assert state.paused_until is not None
        assert state.paused_until > timezone.now() + timedelta(seconds=500)
        assert "house" not in state.pause_reason


def test_a_new_client_secret_does_not_bring_the_old_refresh_token_back() -> None:
    with outbox() as (_mail, tokens, account):
        assert prx.send(**mail(account)).status == "sent"
        account.oauth_client_secret = "another"
        account.save()
        assert prx.send(**mail(account)).status == "sent"
        assert [form["refresh_token"] for form in tokens.requests] == ["refresh-0", "refresh-1"]
        account.oauth_refresh_token = tokens.refresh_token = "typed"
        account.save()
        assert prx.send(**mail(account)).status == "sent"
        assert tokens.requests[-1]["refresh_token"] == "typed"
