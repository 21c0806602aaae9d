"""In a theme every page opens, and what is pressed looks like a button and reaches its form."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Page, sync_playwright

import prx_email_django as prx
from tests.acceptance.test_admin_accessible import AXE
from tests.acceptance.test_admin_browser import ARGUMENTS, wait_for_request_threads
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db(transaction=True)

#: Our buttons that have no background of their own, or belong to no form.
BARE = """[...document.querySelectorAll('.outbox-buttons input[type=submit], .outbox-dashboard .button, .outbox-save,'
    + '.outbox-dashboard input[type=submit], .outbox-bulk input[type=submit]')].filter(one => one.checkVisibility() && (
    getComputedStyle(one).backgroundColor === 'rgba(0, 0, 0, 0)' || one.tagName === 'INPUT' && !one.form
)).map(one => one.outerHTML)"""
OURS = ".outbox-why, .outbox-buttons, .outbox-block"
BUTTONS = "document.querySelectorAll('.outbox-buttons input, .outbox-dashboard .button, .outbox-save').length"


@pytest.fixture
def page(live_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        context = browser.new_context(base_url=live_server.url)
        session = client.cookies["sessionid"].value
        context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
        yield context.new_page()
        browser.close()
    wait_for_request_threads()


def test_buttons_look_like_buttons_and_reach_their_form(page: Page) -> None:
    account = rows.make_account()
    message = rows.at_rest(account)
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    pages = (f"{rows.ADMIN}outbox/", f"{rows.MESSAGES}{message.pk}/change/", f"{rows.ACCOUNTS}{account.pk}/change/")
    for url in pages:
        answer = page.goto(url)
        assert answer is not None
        assert answer.status == 200
        assert page.evaluate(BUTTONS) > 0, url
        assert page.evaluate(BARE) == [], url


def test_what_is_ours_can_be_read_in_dark_colours(page: Page) -> None:
    account = rows.make_account()
    message = rows.at_rest(account)
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    page.emulate_media(color_scheme="dark")
    for url, ours in ((f"{rows.ADMIN}outbox/", ".outbox-dashboard"), (f"{rows.MESSAGES}{message.pk}/change/", OURS)):
        page.goto(url)
        page.add_style_tag(content="* { transition: none !important; }")
        page.evaluate(AXE)
        found = page.evaluate("ours => axe.run(ours, {runOnly: ['color-contrast']})", ours)["violations"]
        assert [node["failureSummary"] for violation in found for node in violation["nodes"]] == [], url


def test_every_page_opens(page: Page) -> None:
    account = rows.make_account()
    message = rows.at_rest(account)
    names = ("outboxstate", "recipient", "deliveryattempt", "inboundmessage", "pauserecord", "account", "outboxmessage")
    urls = [f"{rows.ADMIN}{name}/" for name in names]
    urls += ["/admin/", f"{rows.ACCOUNTS}add/", f"{rows.MESSAGES}{message.pk}/source/"]
    for url in urls:
        answer = page.goto(url)
        assert answer is not None
        assert answer.status == 200, url
