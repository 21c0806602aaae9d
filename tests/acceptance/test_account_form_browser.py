"""The account form in a browser without scripts: the method comes first, and only its fields are shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from prx_email_django.models import Account
from tests.acceptance.test_admin_browser import page
from tests.integration import admin_rows as rows
from tests.support.patience import PATIENCE

__all__ = ["page"]

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FIELDS = {
    "user",
    "password",
    "oauth_provider",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_refresh_token",
    "oauth_token",
    "oauth_token_expires_at",
    "oauth_tenant",
    "oauth_scope",
    "oauth_token_url",
    "oauth_callable",
}
CLIENT = {"user", "oauth_provider", "oauth_client_id", "oauth_client_secret", "oauth_refresh_token", "oauth_scope"}
SHOWN = {
    ("password", None): {"user", "password"},
    ("none", None): set(),
    ("xoauth2", ""): {"user", "oauth_provider", "oauth_token", "oauth_token_expires_at"},
    ("xoauth2", "google"): CLIENT,
    ("xoauth2", "microsoft"): {*CLIENT, "oauth_tenant", "oauth_token_url"},  # national clouds have their own
    ("xoauth2", "custom"): {*CLIENT, "oauth_token_url", "oauth_callable"},
}


@pytest.fixture
def scriptless(page: Page) -> Page:
    """A page of the same session in a browser without JavaScript."""
    browser = page.context.browser
    assert browser is not None
    base: dict[str, Any] = {"storage_state": page.context.storage_state(), "java_script_enabled": False}
    origin = page.url.partition("/admin/")[0]
    other = browser.new_context(base_url=origin, **base).new_page()
    other.set_default_timeout(1000 * PATIENCE)
    return other


def shown(page: Page) -> set[str]:
    return {name for name in FIELDS if page.locator(f".form-row.field-{name}").first.is_visible()}


def choose(page: Page, method: str, provider: str | None) -> None:
    page.locator(f"input[name=auth_method][value={method}]").check()
    if provider is not None:
        page.locator(f'input[name=oauth_provider][value="{provider}"]').check()


def picture(page: Page, name: str) -> None:
    """Keep a picture where SCREENSHOTS names a directory, for a person to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_only_the_fields_of_the_method_are_shown_without_a_script(scriptless: Page) -> None:
    scriptless.goto(f"{rows.ACCOUNTS}add/")
    assert shown(scriptless) == SHOWN["password", None]
    for (method, provider), names in SHOWN.items():
        choose(scriptless, method, provider)
        assert shown(scriptless) == names, (method, provider)
        connect = scriptless.get_by_role("button", name="Save and connect")
        assert connect.is_visible() == bool(provider), (method, provider)
        picture(scriptless, f"form-{method}-{provider or 'nobody'}")


def test_a_field_with_an_error_or_a_stored_value_is_never_hidden(scriptless: Page) -> None:
    account = rows.make_account(
        password="",
        auth_method="xoauth2",
        oauth_provider="google",
        oauth_client_id="client",
        oauth_refresh_token="rt-stored",
        oauth_token="token-stored",
        oauth_token_url="https://oauth2.example.com/token",
    )
    scriptless.goto(f"{rows.ACCOUNTS}{account.pk}/change/")
    assert shown(scriptless) == {*CLIENT, "oauth_token_url", "oauth_token", "oauth_token_expires_at"}
    choose(scriptless, "password", None)
    scriptless.get_by_role("button", name="Save", exact=True).click()
    expect(scriptless.locator(".field-password .errorlist")).to_contain_text("Set the password")
    expect(scriptless.locator(".outbox-why")).not_to_contain_text("cannot work")
    picture(scriptless, "form-error")


def test_the_method_comes_before_everything_else(scriptless: Page) -> None:
    scriptless.goto(f"{rows.ACCOUNTS}add/")
    first = scriptless.locator("#account_form fieldset .form-row").first
    expect(first.locator("input[name=auth_method]").first).to_be_visible()


def test_one_click_saves_and_checks(scriptless: Page) -> None:
    scriptless.goto(f"{rows.ACCOUNTS}add/")
    for name, value in {"name": "main", "host": "127.0.0.1", "port": "1", "user": "u", "password": "pw"}.items():
        scriptless.fill(f"#id_{name}", value)
    scriptless.get_by_role("button", name="Save and check").click()
    expect(scriptless.locator("#content")).to_contain_text("Connection refused")
    assert Account.objects.get().name == "main"
    picture(scriptless, "check-refused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_form_fits_the_screen(page: Page, scheme: Any, width: int) -> None:
    account = rows.make_account(oauth_refresh_token="rt-stored")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    for name, url in {"add": "add/", "change": f"{account.pk}/change/"}.items():
        page.goto(f"{rows.ACCOUNTS}{url}")  # returns after the load event: styles and scripts are there
        picture(page, f"{name}-{width}-{scheme}")
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, name
