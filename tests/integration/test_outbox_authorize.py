"""``outbox_authorize``: a loopback redirect or a code for another device; the refresh token is stored, else nothing."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

import pytest
from django.core.management import CommandError, call_command

from prx_email_django.models import Account
from prx_email_django.oauth import device
from prx_email_django.oauth.loopback import LoopbackReceiver
from prx_email_django.oauth.token import TokenRefused
from tests.support.authorization_server import AuthorizationServer
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["google", "microsoft"])
def server(request: Any, settings: Any) -> Iterator[AuthorizationServer]:
    with AuthorizationServer(request.param) as running:
        settings.PRX_EMAIL = {"OAUTH_SERVERS": running.settings}
        yield running


def make_account(server: AuthorizationServer, **fields: Any) -> Account:
    values = {"name": "main", "host": "127.0.0.1", "port": 9, "security": "none"}
    account: Account = Account.objects.create(**{**values, **server.fields(**fields)})
    return account


class Terminal(io.StringIO):
    """What the command prints; ``opened`` is called with the address to open, in a thread of its own."""

    def __init__(self, opened: Any) -> None:
        super().__init__()
        self._opened: Any = opened
        self.thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        found = re.search(r"http\S+/authorize\?\S+", text)
        if found and self.thread is None:
            self.thread = threading.Thread(target=self._opened, args=(found[0],))
            self.thread.start()
        return super().write(text)


def authorize(*arguments: str, opened: Any = lambda address: None) -> str:
    terminal = Terminal(opened)
    call_command("outbox_authorize", "main", *arguments, stdout=terminal)
    if terminal.thread:
        terminal.thread.join(PATIENCE)
    return terminal.getvalue()


def test_a_person_signs_in_in_a_browser_of_this_machine(server: AuthorizationServer) -> None:
    account = make_account(server, oauth_token="pasted")
    shown = authorize("--no-browser", opened=server.follow)
    account.refresh_from_db()
    assert account.oauth_refresh_token in server.refresh_tokens
    assert account.oauth_token == ""
    assert "outbox_check main" in shown
    assert server.client.secret not in shown
    assert account.oauth_refresh_token not in shown
    redirect = urlsplit(server.authorizations[0]["redirect_uri"])
    assert redirect.hostname == ("127.0.0.1" if server.kind == "google" else "localhost")


def test_another_answer_at_the_port_changes_nothing(server: AuthorizationServer) -> None:
    make_account(server)
    statuses: list[int] = []

    def ask(url: str, **headers: str) -> None:
        try:
            with urlopen(Request(url, headers=headers), timeout=PATIENCE) as response:
                statuses.append(response.status)
        except HTTPError as error:
            statuses.append(error.code)
            error.close()

    def opened(address: str) -> None:
        answer = server.approve(address)
        base = answer.partition("?")[0]
        state = dict(parse_qsl(urlsplit(answer).query))["state"]
        ask(f"{base}/?code=x&state=guessed")
        ask(f"{base}/favicon.ico")
        ask(f"{base}/?code=x&code=y&state={state}")
        ask(answer, Host="attacker.example")
        ask(answer)

    authorize("--no-browser", opened=opened)
    assert statuses == [400, 400, 400, 400, 200]


def test_another_person_is_refused(server: AuthorizationServer) -> None:
    account = make_account(server)
    server.person = "eve@example.com"
    with pytest.raises(CommandError, match=r"eve@example\.com, but the account is for shop@example\.com"):
        authorize("--no-browser", opened=server.follow)
    account.refresh_from_db()
    assert account.oauth_refresh_token == ""


def test_a_port_in_use_is_named(server: AuthorizationServer) -> None:
    make_account(server)
    with LoopbackReceiver(host="127.0.0.1") as other, pytest.raises(CommandError, match=f"Port {other.port}"):
        authorize("--no-browser", "--port", str(other.port))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"oauth_client_id": ""}, "client id"),
        ({"oauth_provider": "", "oauth_token": "token"}, "Google or Microsoft"),
        ({"auth_method": "password", "password": "pw"}, "token as the authentication"),
    ],
)
def test_an_account_that_cannot_sign_in_says_why(
    server: AuthorizationServer, fields: dict[str, Any], words: str
) -> None:
    make_account(server, **fields)
    with pytest.raises(CommandError, match=words):
        authorize()


def test_a_code_is_entered_at_another_device(server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch) -> None:
    account = make_account(server)
    waits: list[float] = []
    monkeypatch.setattr(device, "sleep", waits.append)
    server.device_errors = ["authorization_pending", "slow_down", "authorization_pending"]
    shown = authorize("--device")
    assert "WDJB-MJHT" in shown
    assert f"{server.url}/device" in shown
    assert waits == [1, 1, 6, 6]
    account.refresh_from_db()
    assert account.oauth_refresh_token in server.refresh_tokens


@pytest.mark.parametrize("error", ["expired_token", "access_denied", "authorization_declined"])
def test_a_device_that_is_refused_ends_the_command(
    server: AuthorizationServer, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_account(server)
    monkeypatch.setattr(device, "sleep", lambda seconds: None)
    server.device_errors = ["authorization_pending", error]
    with pytest.raises(CommandError, match="expired" if error == "expired_token" else "consent was denied"):
        authorize("--device")
    assert len(server.forms) == 2


def test_a_code_for_a_device_ends_although_the_server_never_says_so(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "sleep", lambda seconds: None)
    account = make_account(server)
    server.device_errors = ["authorization_pending"] * 10
    code = replace(device.begin(account), lifetime=5.0)
    with pytest.raises(TokenRefused, match="expired"):
        device.finish(account, code)
    assert len(server.forms) == 5


def test_google_gives_no_mail_scope_to_a_device(settings: Any) -> None:
    with AuthorizationServer("google") as server:
        settings.PRX_EMAIL = {"OAUTH_SERVERS": server.settings}
        make_account(server)
        server.error = {"error": "invalid_scope"}
        with pytest.raises(CommandError, match="leave out --device"):
            authorize("--device")


def test_an_address_is_pasted_where_the_browser_is_on_another_machine(server: AuthorizationServer) -> None:
    """In a terminal of its own: ``ssh`` into a container, without a forwarded port."""
    import pty

    make_account(server)
    settings = f"PRX_EMAIL = {{'OAUTH_SERVERS': {server.settings!r}}}"
    code = (
        "import sys; from tests import settings; "
        f"settings.{settings}; from django.core.management import execute_from_command_line; "
        "execute_from_command_line(['manage.py', 'outbox_authorize', 'main', '--no-browser'])"
    )
    mine, theirs = pty.openpty()
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line.decode()
        found = re.search(r"http\S+/authorize\?\S+", line.decode())
        if found:
            os.write(mine, f"https://example.com/\n{server.approve(found[0])}\n".encode())
    assert process.wait(PATIENCE) == 0, printed
    os.close(mine)
    os.close(theirs)
    process.stdout.close()
    assert "not the address of this sign-in" in printed
    assert Account.objects.get().oauth_refresh_token in server.refresh_tokens
