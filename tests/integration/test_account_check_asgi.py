"""The check's page under ASGI: each step arrives as soon as it is done, and a browser that leaves ends the check."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.test import Client

from prx_email_django.models import Account, ConnectionSlot
from tests.integration import admin_rows as rows
from tests.support.factories import MEMORY, account_on
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def settings_for_smtp(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "TRANSPORT": "smtp"}


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second for one answer of the server."""
    monkeypatch.setattr("prx_email_django.api.account_check.ONE_ANSWER", 1.0)


class Browser:
    """One POST request over ASGI; ``page`` is what has arrived of its answer."""

    def __init__(self, account: Account, *, language: str = "en", accepts: str = "identity") -> None:
        client = Client(enforce_csrf_checks=False)
        client.force_login(User.objects.create_superuser(f"boss-{account.pk}-{language}-{accepts}"))
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
        token = "a" * 32
        self.body = f"csrfmiddlewaretoken={token}".encode()
        headers = {
            "host": "testserver",
            "cookie": f"{cookies}; csrftoken={token}",
            "accept-language": language,
            "accept-encoding": accepts,
            "content-type": "application/x-www-form-urlencoded",
            "content-length": str(len(self.body)),
        }
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"{rows.ACCOUNTS}{account.pk}/check/",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.page = ""
        self.raw: list[bytes] = []

    async def start(self) -> None:
        self.server = ApplicationCommunicator(get_asgi_application(), self.scope)
        await self.server.send_input({"type": "http.request", "body": self.body})
        begun = await self.server.receive_output(PATIENCE)
        assert begun["status"] == 200, begun

    async def read_until(self, text: str) -> None:
        while text not in self.page:
            piece = await self.server.receive_output(PATIENCE)
            self.raw.append(piece.get("body", b""))
            self.page += self.raw[-1].decode()
            assert piece.get("more_body") or text in self.page, self.page

    async def leave(self) -> None:
        await self.server.send_input({"type": "http.disconnect"})
        await self.server.wait(PATIENCE)


@asynccontextmanager
async def visiting(browser: Browser) -> AsyncIterator[Browser]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await browser.start()
        yield browser


def test_a_step_is_on_the_page_while_the_server_still_keeps_the_next_one_waiting() -> None:
    """The test lets the server go on only after it has read the step before: a page in one piece would never come."""
    with SmtpServer() as server:
        greeting, ehlo = server.on("greeting", stall=True), server.on("ehlo", stall=True)
        browser = Browser(account_on(server))

        async def visit() -> None:
            async with visiting(browser):
                await browser.read_until(">connect<")
                assert ">greeting<" not in browser.page
                server.release(greeting)
                await browser.read_until(">greeting<")
                assert ">extensions<" not in browser.page
                server.release(ehlo)
                await browser.read_until("</html>")
                await browser.server.wait(PATIENCE)

        asyncio.run(visit())
    assert "All is well." in browser.page


@pytest.mark.usefixtures("short_waits")
def test_a_browser_that_leaves_ends_the_check_and_gives_the_connection_back() -> None:
    with SmtpServer() as server:
        server.on("greeting", stall=True)
        browser = Browser(account_on(server))

        async def visit() -> None:
            async with visiting(browser):
                await browser.read_until(">connect<")
                await browser.leave()

        asyncio.run(visit())
        assert server.wait_closed()
    assert not ConnectionSlot.objects.exclude(token=None).exists()


def test_the_steps_speak_the_language_of_the_page(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    with SmtpServer() as server:
        browser = Browser(account_on(server), language="ja")

        async def visit() -> None:
            async with visiting(browser):
                await browser.read_until("</html>")
                await browser.server.wait(PATIENCE)

        asyncio.run(visit())
    assert "すべて正常です。" in browser.page


@pytest.mark.usefixtures("short_waits")
def test_a_page_that_is_compressed_comes_in_pieces_too(settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    with SmtpServer() as server:
        server.on("greeting", stall=True)
        browser = Browser(account_on(server), accepts="gzip")

        async def visit() -> None:
            async with visiting(browser):
                piece = await browser.server.receive_output(PATIENCE)
                assert piece["more_body"]
                assert piece["body"].startswith(b"\x1f\x8b")
                await browser.leave()

        asyncio.run(visit())
        assert server.wait_closed()
