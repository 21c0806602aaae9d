"""Access tokens: requested at one address, over verified TLS, within a time limit, and never shown in an error."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from django.test import override_settings

from prx_email_django.oauth.fetch import TokenFetch
from prx_email_django.oauth.token import Token, TokenRefused
from prx_email_django.oauth.token_request import Grant, TokenRequest, token_request
from prx_email_django.oauth.token_server import retry_after
from prx_email_django.rules.hosts import check_token_url
from prx_email_django.status.advice import advice
from tests.support.patience import PATIENCE

SECRETS = ("the-client-secret", "the-refresh-token", "ya29.the-access-token")
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class TokenServer:
    """A scripted token server on loopback; ``answer`` is called with the handler of each request."""

    url: str = ""
    forms: list[dict[str, list[str]]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], None] = field(default=lambda handler: None)
    stop: threading.Event = field(default_factory=threading.Event)

    def reply(self, code: int, body: object, **headers: str) -> None:
        """Answer with ``code`` and ``body`` (JSON unless bytes) from now on."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            handler.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)

        self.answer = answer


@contextmanager
def serving(authority: trustme.CA | None = None) -> Iterator[TokenServer]:
    scripted = TokenServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            scripted.paths.append(self.path)
            scripted.forms.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            scripted.answer(self)

        def do_GET(self) -> None:
            scripted.paths.append(self.path)
            scripted.answer(self)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """Ignore clients that close the connection: that is tested here."""

    server = Server(("127.0.0.1", 0), Handler)
    if authority:
        context = server_context(authority)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scripted.url = f"{'https' if authority else 'http'}://127.0.0.1:{server.server_port}/token"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield scripted
    finally:
        scripted.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with serving() as scripted:
        yield scripted


def request_to(url: str, **changes: Any) -> TokenRequest:
    values: dict[str, Any] = {
        "grant": Grant.REFRESH_TOKEN,
        "url": url,
        "client_id": "the-client",
        "client_secret": SECRETS[0],
        "refresh_token": SECRETS[1],
        "scope": "https://mail.google.com/",
    }
    return TokenRequest(**{**values, **changes})


def fetch(request: TokenRequest, timeout: float = 60) -> Token:
    return TokenFetch(request, timeout=timeout).result(wait=timeout)


def refused(request: TokenRequest, timeout: float = 60) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        fetch(request, timeout)
    shown = f"{caught.value!r} {caught.value}"
    assert not any(secret in shown for secret in SECRETS)
    assert 0 < len(str(caught.value)) <= 160
    return caught.value


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_refresh_token_gives_an_access_token(server: TokenServer) -> None:
    server.reply(200, {"access_token": SECRETS[2], "expires_in": 3599, "token_type": "Bearer"})
    token = fetch(request_to(server.url))
    assert token.access_token == SECRETS[2]
    assert (token.lifetime, token.expires_at) == (timedelta(seconds=3599), None)
    assert token.refresh_token is None
    assert server.forms == [
        {
            "grant_type": ["refresh_token"],
            "client_id": ["the-client"],
            "client_secret": [SECRETS[0]],
            "refresh_token": [SECRETS[1]],
            "scope": ["https://mail.google.com/"],
        }
    ]


def test_an_application_asks_without_a_persons_token(server: TokenServer) -> None:
    server.reply(200, {"access_token": SECRETS[2]})
    token = fetch(request_to(server.url, grant=Grant.CLIENT_CREDENTIALS))
    assert token.lifetime is None
    assert server.forms[0]["grant_type"] == ["client_credentials"]
    assert "refresh_token" not in server.forms[0]


def test_a_rotated_refresh_token_is_not_lost(server: TokenServer) -> None:
    server.reply(200, {"access_token": SECRETS[2], "refresh_token": "a newer one"})
    assert fetch(request_to(server.url)).refresh_token == "a newer one"
    server.reply(200, {"access_token": SECRETS[2], "refresh_token": SECRETS[1]})
    assert fetch(request_to(server.url)).refresh_token is None
    server.reply(200, {"access_token": SECRETS[2], "refresh_token": 5})
    assert fetch(request_to(server.url)).refresh_token is None


@pytest.mark.parametrize(
    ("lifetime", "known"),
    [
        ("3600", True),
        (0.5, True),
        (31_536_000, True),
        (0, False),
        (None, False),
        ("-5", False),
        ("nan", False),
        (-1, False),
        ("soon", False),
        (True, False),
        (1e300, False),
        (10**400, False),
        ([], False),
    ],
)
def test_an_invalid_lifetime_neither_crashes_nor_lasts_for_ever(
    server: TokenServer, lifetime: object, known: bool
) -> None:
    server.reply(200, {"access_token": SECRETS[2], "expires_in": lifetime})
    assert (fetch(request_to(server.url)).lifetime is not None) is known


def test_no_secret_is_in_a_repr(server: TokenServer) -> None:
    server.reply(200, {"access_token": SECRETS[2], "refresh_token": "a newer one"})
    request = request_to(server.url)
    shown = repr(request) + repr(fetch(request))
    assert not any(secret in shown for secret in (*SECRETS, "a newer one"))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "invalid_grant",
        "invalid_client",
        "unauthorized_client",
        "interaction_required",
        "invalid_scope",
        "invalid_request",
    ],
)
@pytest.mark.parametrize("code", [400, 401, 403])
def test_an_invalid_grant_is_not_requested_again_and_again(server: TokenServer, code: int, name: str) -> None:
    server.reply(code, {"error": name, "error_description": f"AADSTS700082: {SECRETS[1]} has expired"})
    error = refused(request_to(server.url))
    assert (error.permanent, error.code) == (True, name)
    assert "AADSTS700082" in str(error)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (429, {"error": "invalid_request"}),
        (408, {"error": "invalid_request"}),
        (500, {"error": "invalid_grant"}),
        (503, b"<html>try again"),
        (400, {"error": "temporarily_unavailable"}),
        (400, b"answer of a proxy"),
        (403, ["no", "object"]),
        (404, {"error": {"message": "none"}}),
        (400, {"error": f"{SECRETS[0]}"}),
        (400, b'{"error": ' + b"[" * 50_000),
    ],
)
def test_a_temporary_error_does_not_stop_an_account_permanently(server: TokenServer, code: int, body: object) -> None:
    server.reply(code, body)
    assert refused(request_to(server.url)).permanent is False


@pytest.mark.parametrize(
    "body",
    [
        {},
        b"",
        b"\xff",
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": "a\x01auth=b"},
        {"access_token": "a b"},
    ],
)
def test_an_answer_without_a_usable_token_is_refused(server: TokenServer, body: object) -> None:
    server.reply(200, body)
    error = refused(request_to(server.url))
    assert (error.permanent, error.code) == (False, "answer")


def test_a_redirect_does_not_send_the_secret_elsewhere(server: TokenServer) -> None:
    with serving() as stranger:
        stranger.reply(200, {"access_token": SECRETS[2]})
        for code in (301, 302, 303, 307, 308):
            server.reply(code, b"", Location=stranger.url)
            error = refused(request_to(server.url))
            assert (error.permanent, error.code) == (True, "http")
        assert stranger.paths == []


def test_an_endless_answer_does_not_fill_the_memory(server: TokenServer) -> None:
    server.reply(200, b'{"access_token": "' + b"a" * 70_000 + b'"}')
    assert refused(request_to(server.url)).code == "answer"


def test_a_silent_server_costs_no_more_than_the_timeout(server: TokenServer) -> None:
    server.answer = lambda handler: server.stop.wait(PATIENCE) and None
    started = time.monotonic()
    error = refused(request_to(server.url), timeout=0.2)
    assert (error.permanent, error.code) == (False, "timeout")
    assert time.monotonic() - started < 50


def test_a_server_that_sends_slowly_cannot_exceed_the_deadline(server: TokenServer) -> None:
    client_left = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not server.stop.wait(0.01):
                handler.wfile.write(b" ")
        except OSError:
            client_left.set()

    server.answer = drip
    assert refused(request_to(server.url), timeout=0.2).code == "timeout"
    assert client_left.wait(PATIENCE), "the thread reads on after its deadline"


def test_a_server_that_closes_or_cannot_be_reached_is_a_temporary_error(server: TokenServer) -> None:
    server.answer = lambda handler: handler.connection.close()
    error = refused(request_to(server.url))
    assert (error.permanent, error.code) == (False, "network")
    with serving() as stopped:
        pass
    error = refused(request_to(stopped.url))
    assert (error.permanent, error.code) == (False, "network")


def test_a_slow_server_blocks_nobody(server: TokenServer) -> None:
    asked, done = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        server.stop.wait(PATIENCE)

    server.answer = slow
    request = TokenFetch(request_to(server.url), timeout=60, done=done.set)
    assert asked.wait(PATIENCE)
    assert not request.is_over
    server.stop.set()
    assert done.wait(PATIENCE)
    assert request.is_answered


@pytest.mark.parametrize("code", [429, 503])
def test_the_server_says_when_to_ask_again(server: TokenServer, code: int) -> None:
    def wait_after(body: object = b"<html>secret of the house</html>", **headers: str) -> timedelta | None:
        server.reply(code, body, **headers)
        error = refused(request_to(server.url))
        assert error.permanent is False
        assert "house" not in str(error)
        return error.retry_after

    assert wait_after() is None
    assert wait_after({"error": "slow_down"}, **{"Retry-After": "7"}) == timedelta(seconds=7)
    assert wait_after(**{"Retry-After": "0"}) is None
    assert wait_after(**{"Retry-After": "-5"}) is None
    assert wait_after(**{"Retry-After": "soon"}) is None
    assert wait_after(**{"Retry-After": "9" * 30}) is None
    assert wait_after(**{"Retry-After": "9" * 18}) == timedelta(days=1)
    assert wait_after(**{"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}) is None
    in_an_hour = wait_after(**{"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)})
    assert in_an_hour is not None
    assert timedelta(minutes=58) < in_an_hour <= timedelta(hours=1)


def test_a_date_to_ask_again_is_counted_from_the_servers_own_clock() -> None:
    headers = Message()
    headers["Date"], headers["Retry-After"] = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:37 GMT"
    assert retry_after(headers) == timedelta(minutes=1)


def test_an_error_in_a_good_answer_is_the_error(server: TokenServer) -> None:
    server.reply(200, {"error": "invalid_grant"})
    error = refused(request_to(server.url))
    assert (error.permanent, error.code) == (True, "invalid_grant")


@pytest.mark.parametrize("issued", ["", "a\x00b", "\ud800", "a" * 20_000, "a\nb"])
def test_a_refresh_token_that_cannot_be_stored_or_sent_is_not_taken(server: TokenServer, issued: str) -> None:
    server.reply(200, {"access_token": SECRETS[2], "refresh_token": issued})
    assert fetch(request_to(server.url)).refresh_token is None


def test_a_proxy_of_the_environment_sees_no_secret_meant_for_loopback(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        server.reply(200, {"access_token": SECRETS[2]})
        fetch(request_to(server.url))
        assert proxy.paths == []


# --- TLS and addresses ----------------------------------------------------------------------------------------------


def test_an_untrusted_certificate_gets_no_secret() -> None:
    with serving(trustme.CA()) as server:
        server.reply(200, {"access_token": SECRETS[2]})
        error = refused(request_to(server.url))
        assert (error.permanent, error.code) == (False, "tls")
        assert server.forms == []


def test_the_authorities_of_the_settings_are_trusted(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(authority) as server, override_settings(PRX_EMAIL={"TLS_CA_FILE": tmp_path / "ca.pem"}):
        server.reply(200, {"access_token": SECRETS[2]})
        assert fetch(request_to(server.url)).access_token == SECRETS[2]


@pytest.mark.parametrize("content", [None, b"", b"no certificate", "folder", "fifo"])
def test_a_file_of_authorities_that_cannot_be_used_is_no_trouble_of_the_token_server(
    content: bytes | str | None, tmp_path: Path, server: TokenServer
) -> None:
    """Words about the network send people to look for a firewall; and a FIFO would hold the request."""
    path = tmp_path / "ca.pem"
    if content == "folder":
        path.mkdir()
    elif content == "fifo":
        os.mkfifo(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with override_settings(PRX_EMAIL={"TLS_CA_FILE": path}):
        error = refused(request_to(server.url))
    assert str(error).startswith("TLS_CA_FILE cannot be used: ")
    assert (error.permanent, error.code, server.forms) == (True, "configuration", [])


GOOD = [
    "https://login.example.com/token",
    "https://x.example:8443/t?a=b",
    "http://localhost:1/t",
    "http://[::1]/",
    "http://127.0.0.9/",
]
BAD = [
    "",
    "http://login.example.com/token",
    "http://localhost.example.com/",
    "http://127.0.0.1@evil.example/",
    "https://user:password@x.example/",
    "https://x.example/#fragment",
    "https://x.example/a b",
    "https://x.example/\r\nHost: y",
    "https://",
    "https://x.example:0/",
    "https://x.example:port/",
    "https://[::1/",
    "file:///etc/passwd",
    "ftp://localhost/",
    "https://bücher.example/",
    "login.example.com/token",
]


@pytest.mark.parametrize("url", GOOD)
def test_safe_token_addresses_are_accepted(url: str) -> None:
    check_token_url(url)


@pytest.mark.parametrize("url", BAD)
def test_a_secret_goes_to_no_address_without_verified_tls(url: str) -> None:
    with pytest.raises(ValueError, match="token address"):
        check_token_url(url)
    error = refused(request_to(url))
    assert (error.permanent, error.code) == (True, "configuration")


# --- accounts -------------------------------------------------------------------------------------------------------


def account(provider: str, **values: str) -> SimpleNamespace:
    names = ("client_id", "client_secret", "refresh_token", "tenant", "scope", "token_url", "callable")
    return SimpleNamespace(oauth_provider=provider, **{f"oauth_{name}": values.get(name, "") for name in names})


PERSON = {"client_id": "the-client", "client_secret": SECRETS[0], "refresh_token": SECRETS[1]}
APPLICATION = {"client_id": "the-client", "client_secret": SECRETS[0]}
MICROSOFT = "https://login.microsoftonline.com/{}/oauth2/v2.0/token"


@pytest.mark.parametrize(
    ("provider", "values", "grant", "url", "scope"),
    [
        ("google", PERSON, "refresh_token", "https://oauth2.googleapis.com/token", "https://mail.google.com/"),
        (
            "microsoft",
            PERSON,
            "refresh_token",
            MICROSOFT.format("common"),
            "https://outlook.office.com/SMTP.Send offline_access",
        ),
        (
            "microsoft",
            {**APPLICATION, "tenant": "contoso.example"},
            "client_credentials",
            MICROSOFT.format("contoso.example"),
            "https://outlook.office365.com/.default",
        ),
        ("microsoft", {**PERSON, "tenant": "a/../b?"}, "refresh_token", MICROSOFT.format("a%2F..%2Fb%3F"), None),
        ("custom", {**PERSON, "token_url": "https://x.example/t"}, "refresh_token", "https://x.example/t", ""),
        (
            "custom",
            {**APPLICATION, "token_url": "https://x.example/t", "scope": "smtp"},
            "client_credentials",
            None,
            "smtp",
        ),
        (
            "google",
            {**PERSON, "token_url": "http://127.0.0.1:9/t", "scope": "s"},
            "refresh_token",
            "http://127.0.0.1:9/t",
            "s",
        ),
    ],
)
def test_each_provider_gets_the_request_that_it_needs(
    provider: str, values: dict[str, str], grant: str, url: str | None, scope: str | None
) -> None:
    request = token_request(account(provider, **values))
    assert request.grant == grant
    assert url is None or request.url == url
    assert scope is None or request.scope == scope
    assert (request.client_id, request.client_secret) == ("the-client", SECRETS[0])


def test_a_rotated_refresh_token_replaces_the_one_of_the_account() -> None:
    assert token_request(account("google", **PERSON), refresh_token="newer").refresh_token == "newer"


def test_a_public_client_needs_no_secret() -> None:
    request = token_request(account("microsoft", client_id="the-client", refresh_token=SECRETS[1]))
    assert request.client_secret == ""


@pytest.mark.parametrize(
    ("provider", "values"),
    [
        ("", PERSON),
        ("google", APPLICATION),
        ("google", {**PERSON, "client_id": ""}),
        ("microsoft", APPLICATION),
        ("microsoft", {"client_id": "the-client"}),
        ("custom", PERSON),
    ],
)
def test_an_incomplete_account_is_refused_before_any_request(provider: str, values: dict[str, str]) -> None:
    with pytest.raises(TokenRefused, match="lacks") as caught:
        token_request(account(provider, **values))
    assert (caught.value.permanent, caught.value.code) == (True, "configuration")


# --- functions of the host ------------------------------------------------------------------------------------------

seen: list[tuple[object, str]] = []


def sync_function(given: object) -> tuple[str, datetime]:
    seen.append((given, threading.current_thread().name))
    return SECRETS[2], EXPIRES


async def async_function(given: object) -> tuple[str, None]:
    await asyncio.sleep(0)
    return SECRETS[2], None


def failing(given: object) -> tuple[str, None]:
    raise RuntimeError(f"could not use {SECRETS[1]}")


def refusing(given: object) -> tuple[str, None]:
    raise TokenRefused("the vault is sealed", permanent=True, code="vault")


def leaving(given: object) -> tuple[str, None]:
    raise SystemExit(f"could not use {SECRETS[1]}")


async def cancelled(given: object) -> tuple[str, None]:
    raise asyncio.CancelledError


def decorated(given: object) -> Any:
    return async_function(given)


release_hanging = threading.Event()


def hanging_sync(given: object) -> tuple[str, None]:
    release_hanging.wait(PATIENCE)
    return SECRETS[2], None


async def hanging_async(given: object) -> tuple[str, None]:
    await asyncio.sleep(100)
    return SECRETS[2], None


def naive(given: object) -> tuple[str, datetime]:
    return SECRETS[2], EXPIRES.replace(tzinfo=None)


def without_expiry(given: object) -> str:
    return SECRETS[2]


def with_control_characters(given: object) -> tuple[str, None]:
    return "token\x01\x01", None


not_a_function = 5


def calling(name: str, listed: bool = True) -> tuple[TokenRequest, override_settings]:
    path = f"tests.unit.test_oauth.{name}"
    request = token_request(account("custom", callable=path))
    return request, override_settings(PRX_EMAIL={"OAUTH_CALLABLES": [path] if listed else []})


def test_a_sync_function_is_called_with_the_account_in_a_thread() -> None:
    request, listed = calling("sync_function")
    with listed:
        token = fetch(request)
    assert (token.access_token, token.expires_at) == (SECRETS[2], EXPIRES)
    assert seen.pop() == (request.account, "prx-email-token")


@pytest.mark.parametrize("name", ["async_function", "decorated"])
def test_an_async_function_is_awaited(name: str) -> None:
    request, listed = calling(name)
    with listed:
        assert fetch(request) == Token(access_token=SECRETS[2])


def test_a_function_that_the_settings_do_not_list_is_not_called() -> None:
    request, unlisted = calling("sync_function", listed=False)
    with unlisted:
        error = refused(request)
    assert (error.permanent, error.code) == (True, "configuration")
    assert not seen


@pytest.mark.parametrize(
    ("name", "permanent", "code"),
    [
        ("failing", False, "callable"),
        ("leaving", False, "callable"),
        ("cancelled", False, "callable"),
        ("refusing", True, "vault"),
        ("naive", True, "answer"),
        ("without_expiry", True, "answer"),
        ("with_control_characters", True, "answer"),
        ("not_a_function", True, "configuration"),
        ("absent", True, "configuration"),
    ],
)
def test_a_failing_function_is_reported_without_its_text(name: str, permanent: bool, code: str) -> None:
    request, listed = calling(name)
    with listed:
        error = refused(request)
    assert (error.permanent, error.code) == (permanent, code)


def test_an_exception_of_a_function_is_reported_by_class_and_line() -> None:
    request, listed = calling("failing")
    with listed:
        error = refused(request)
    assert "RuntimeError in failing, line " in str(error)
    assert error.__suppress_context__


def test_a_module_that_ends_the_program_while_it_is_imported_ends_no_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_module.py").write_text("raise SystemExit('no key')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = "leaving_module.token"
    with override_settings(PRX_EMAIL={"OAUTH_CALLABLES": [path]}):
        error = refused(TokenRequest(grant=Grant.CALLABLE, callable=path))
    assert (error.permanent, error.code) == (True, "configuration")
    assert "leaving_module.token raised SystemExit" in str(error)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "prx_email_django.contrib.microsoft.certificate_token"
    monkeypatch.delitem(sys.modules, "prx_email_django.contrib.microsoft", raising=False)
    monkeypatch.setitem(sys.modules, "msal", None)
    with override_settings(PRX_EMAIL={"OAUTH_CALLABLES": [path]}):
        error = refused(TokenRequest(grant=Grant.CALLABLE, callable=path))
    assert error.permanent
    assert "there is no module msal" in str(error)
    assert "prx_email_django[google], or [microsoft]" in advice(str(error))


@pytest.mark.parametrize("name", ["hanging_sync", "hanging_async"])
def test_a_function_that_hangs_blocks_nothing(name: str) -> None:
    request, listed = calling(name)
    release_hanging.clear()
    try:
        with listed:
            assert refused(request, timeout=0.05).code == "timeout"
    finally:
        release_hanging.set()


# --- ACCOUNT_HOSTS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [["127.0.0.0/8"], ["127.0.0.1"], ["localhost"]])
def test_a_token_address_that_the_operator_allows_is_asked(server: TokenServer, entries: list[str]) -> None:
    server.reply(200, {"access_token": SECRETS[2]})
    url = server.url.replace("127.0.0.1", "localhost") if entries == ["localhost"] else server.url
    with override_settings(PRX_EMAIL={"ACCOUNT_HOSTS": entries}):
        assert fetch(request_to(url)).access_token == SECRETS[2]


@pytest.mark.parametrize("entries", [[], ["*.example.com"], ["10.0.0.0/8"]])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_connection_goes_to_a_token_address_that_the_operator_does_not_allow(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch, entries: list[str], host: str
) -> None:
    """``localhost`` stands for a name whose address lies outside of the networks: only the dialled address shows it."""
    dialled: list[object] = []
    monkeypatch.setattr("socket.create_connection", lambda address, *_: dialled.append(address))
    with override_settings(PRX_EMAIL={"ACCOUNT_HOSTS": entries}):
        error = refused(request_to(server.url.replace("127.0.0.1", host)))
    assert (error.permanent, error.code) == (True, "configuration") and "ACCOUNT_HOSTS" in str(error)
    assert dialled == [] == server.paths


def test_an_allowed_token_server_is_verified_by_its_name(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    allowed = {"ACCOUNT_HOSTS": ["127.0.0.0/8"], "TLS_CA_FILE": str(tmp_path / "ca.pem")}
    with serving(authority) as server, override_settings(PRX_EMAIL=allowed):
        server.reply(200, {"access_token": SECRETS[2]})
        assert fetch(request_to(server.url)).access_token == SECRETS[2]
        assert refused(request_to(server.url.replace("127.0.0.1", "localhost"))).code == "tls"


def test_a_name_that_a_proxy_resolves_is_judged_as_a_name(monkeypatch: pytest.MonkeyPatch, server: TokenServer) -> None:
    proxy = server.url.removesuffix("/token")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with override_settings(PRX_EMAIL={"ACCOUNT_HOSTS": ["10.0.0.0/8"]}):
        assert "ACCOUNT_HOSTS" in str(refused(request_to("https://token.example.com/token")))
    assert server.paths == []
    with override_settings(PRX_EMAIL={"ACCOUNT_HOSTS": ["*.example.com"]}):
        assert refused(request_to("https://token.example.com/token")).code == "network", "it asked the proxy"
