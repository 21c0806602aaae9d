"""From an empty outbox to a delivered message: a person adds the account and signs in in Chromium; no code does it."""

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


def add_account(page: Page, kind: str, provider: AuthorizationServer, *, port: int) -> None:  # noqa: F811
    """Fill in the form from the preset, with the servers of this test for those of the provider; save and connect."""
    preset = {"google": "gmail", "microsoft": "outlook"}[kind]
    page.goto(f"{rows.ACCOUNTS}add/?preset={preset}&oauth_provider={kind}")
    page.locator("[name=auth_method][value=xoauth2]").check()
    assert page.locator(f"[name=oauth_provider][value={kind}]").is_checked()
    typed = {"name": "main", "user": USER, "host": "127.0.0.1", "port": str(port)}
    for name, text in {**typed, "oauth_client_id": provider.client.client_id}.items():
        page.locator(f"[name={name}]").fill(text)
    page.locator("[name=oauth_client_secret]").fill(provider.client.secret)
    page.locator("[name=security]").select_option("none")
    token_address = page.locator("[name=oauth_token_url]")
    if kind == "microsoft":
        token_address.fill(provider.token_url)
    else:  # Google has one address, and the form does not ask for it
        expect(token_address).to_be_hidden()
        token_address.evaluate("(field, text) => { field.value = text }", provider.token_url)
    page.get_by_role("button", name="Save and connect").click()


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_a_person_signs_in_and_mail_is_delivered(kind: str, page: Page, live_server: Any, settings: Any) -> None:  # noqa: F811
    callback = f"{live_server.url}{rows.ACCOUNTS}signed-in/"
    with AuthorizationServer(kind) as provider, SmtpServer(tokens={USER: "unknown"}) as mail_server:
        provider.issued = lambda token: mail_server.tokens.__setitem__(USER, token)
        settings.PRX_EMAIL = {"OAUTH_SERVERS": provider.settings}
        add_account(page, kind, provider, port=mail_server.port)
        # The address is not registered yet: the provider refuses, and the page of the account says what to register.
        expect(page.locator("h1")).to_contain_text("redirect_uri_mismatch")
        account = Account.objects.get()
        assert not account.is_active
        page.goto(f"{rows.ACCOUNTS}{account.pk}/change/")
        expect(page.locator(".outbox-buttons")).to_contain_text(callback)
        shot(page, f"{kind}-1-account")
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
