"""From the account's page to a delivered message: a person signs in in Chromium, and mail is sent with that token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

import prx_email_django as prx
from prx_email_django.models import Account, OutboxMessage
from tests.acceptance.test_admin_browser import page  # noqa: F401  (a fixture)
from tests.integration import admin_rows as rows
from tests.support.authorization_server import AuthorizationServer
from tests.support.smtp_server import SmtpServer

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

USER = "shop@example.com"


def shot(page: Page, name: str) -> None:  # noqa: F811
    """Keep a picture where ``SCREENSHOTS`` names a directory, for a person to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_a_person_signs_in_and_mail_is_delivered(kind: str, page: Page, live_server: Any, settings: Any) -> None:  # noqa: F811
    callback = f"{live_server.url}{rows.ACCOUNTS}signed-in/"
    with AuthorizationServer(kind) as provider, SmtpServer(tokens={USER: "unknown"}) as mail_server:
        provider.issued = lambda token: mail_server.tokens.__setitem__(USER, token)
        settings.PRX_EMAIL = {"OAUTH_SERVERS": provider.settings}
        account = Account.objects.create(
            **provider.fields(name="main", host="127.0.0.1", port=mail_server.port, security="none", is_active=False)
        )
        page.goto(f"{rows.ACCOUNTS}{account.pk}/change/")
        expect(page.locator(".outbox-buttons")).to_contain_text(callback)
        shot(page, f"{kind}-1-account")
        # The address is not registered yet: the provider refuses, and the page of the account says what to register.
        page.get_by_role("button", name=f"Connect with {kind.capitalize()}").click()
        expect(page.locator("h1")).to_contain_text("redirect_uri_mismatch")
        provider.client.redirects = [callback]
        page.goto(f"{rows.ACCOUNTS}{account.pk}/change/")
        page.get_by_role("button", name=f"Connect with {kind.capitalize()}").click()
        expect(page.locator("h1")).to_contain_text(f"{USER} allows access")
        page.locator("#no").click()
        expect(page.locator(".outbox-why")).to_contain_text("consent was denied")
        shot(page, f"{kind}-2-denied")
        page.get_by_role("link", name="Back to the account").click()
        page.get_by_role("button", name=f"Connect with {kind.capitalize()}").click()
        page.locator("#yes").click()
        expect(page.locator(".messagelist")).to_contain_text(f"Connected: {USER} has signed in")
        assert page.url == f"{live_server.url}{rows.ACCOUNTS}{account.pk}/change/"
        shot(page, f"{kind}-3-connected")
        account.refresh_from_db()
        assert account.is_active
        assert User.objects.count() == 1
        message = prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="Hi Ann.")
        prx.drain()
        assert OutboxMessage.objects.get(pk=message.pk).status == "sent"
        assert mail_server.auth_attempts == ["XOAUTH2"]
        assert [form["grant_type"] for form in provider.forms] == ["authorization_code", "refresh_token"]
