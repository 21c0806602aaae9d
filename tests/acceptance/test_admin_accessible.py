"""Axe finds nothing serious on our pages, for a desktop and a phone, in light and dark colours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from django.utils import timezone
from playwright.sync_api import Page

import prx_email_django as prx
from prx_email_django.models import Account, DeliveryAttempt, HourlyCount, OutboxMessage, Worker
from tests.acceptance.test_admin_browser import page  # noqa: F401  (a fixture)
from tests.integration import admin_rows as rows

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

AXE = Path(axe_playwright_python.__path__[0], "axe.min.js").read_text(encoding="utf-8")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
#: Every rule is tried in the first look, and in the others those that depend on colours and sizes.
ALL_RULES = {"resultTypes": ["violations"], "iframes": False}
LOOK_RULES = {
    **ALL_RULES,
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block", "scrollable-region-focusable"]},
}

PAGES = (
    *("dashboard", "message", "account", "new account", "check", "messages", "bulk", "app index"),
    *("everything", "erase", "recipients"),
)


def fill() -> tuple[Account, OutboxMessage]:
    now = timezone.now()
    account = rows.make_account(host="127.0.0.1", port=9, rate_limits="5/hour")
    for message in (rows.at_rest(account), rows.deferred(account), rows.sent(account), rows.sending(account)):
        DeliveryAttempt.objects.create(
            message=message,
            number=1,
            header_message_id=f"<outbox-{message.pk}-1@example.com>",
            started_at=now,
            finished_at=now,
            outcome="failed",
            error_code="provider",
            error="550 5.7.1 no thanks",
            phase="rcpt",
            smtp_code=550,
            peer="192.0.2.25:465 TLSv1.3",
            worker="web1:4711",
        )
    shown = rows.unknown(account, body_html="<p>It is on its way.</p>", tag="orders")
    for columns in ({"state": "working"}, {"state": "idle"}):
        Worker.objects.create(name=f"web1:{columns['state']}", kind="loop", started_at=now, last_seen_at=now, **columns)
    HourlyCount.objects.create(account=account, hour=now.replace(minute=0, second=0, microsecond=0), sent=40, failed=3)
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    prx.pause_outbox(None, reason="moving house", by="keiko")
    return account, shown


def serious(shown: Page, options: dict[str, Any]) -> Iterator[str]:
    """Yield what axe finds serious or critical on the page as it is now, what Django's own templates do too."""
    for found in shown.evaluate("options => axe.run(options)", options)["violations"]:
        if found["impact"] in ("serious", "critical"):
            for node in found["nodes"]:
                yield f"{found['id']}: {node['target']} {node['failureSummary'][:300]}"


def opened(shown: Page, name: str, account: Account, message: OutboxMessage) -> None:
    urls = {
        "dashboard": f"{rows.ADMIN}outbox/",
        "message": f"{rows.MESSAGES}{message.pk}/change/",
        "account": f"{rows.ACCOUNTS}{account.pk}/change/",
        "new account": f"{rows.ACCOUNTS}add/",
        "check": f"{rows.ACCOUNTS}{account.pk}/change/",
        "messages": rows.MESSAGES,
        "bulk": rows.MESSAGES,
        "app index": rows.ADMIN,
        "everything": f"{rows.ADMIN}outboxstate/",
        "erase": f"{rows.MESSAGES}erase/",
        "recipients": f"{rows.ADMIN}recipient/",
    }
    shown.goto(urls[name])
    if name == "check":
        shown.get_by_role("button", name="Check this account").click()
        shown.wait_for_url("**/check/")
    elif name == "bulk":
        shown.locator("#action-toggle").check()
        shown.locator("select[name=action]").first.select_option("retry_selected")
        shown.locator("button[name=index]").first.click()
        shown.get_by_role("button", name="Yes, go on").wait_for()


def test_axe_finds_nothing_serious(page: Page) -> None:  # noqa: F811  (the fixture)
    account, message = fill()
    found = []
    for name in PAGES:
        page.set_viewport_size(DESKTOP)
        page.emulate_media(color_scheme="light")
        opened(page, name, account, message)
        # Colours that fade from one look to the next would be measured half way.
        page.add_style_tag(content="* { transition: none !important; }")
        page.evaluate(AXE)
        for number, (size, colours) in enumerate(product((DESKTOP, PHONE), ("light", "dark"))):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=colours)
            rules = LOOK_RULES if number else ALL_RULES
            found += [f"{name}, {size['width']} px, {colours}: {problem}" for problem in serious(page, rules)]
    assert found == [], "\n".join(found)
