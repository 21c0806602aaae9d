"""``make serve`` as a visitor uses it: a browser at the shop, the operator's page and the failing provider."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

import prx_email_django as prx
from example_project.catcher.authority import make_authority
from example_project.catcher.inbox import Inbox
from example_project.catcher.mode import Mode, ModeFile
from example_project.catcher.process import Catcher
from prx_email_django.models import OutboxMessage
from tests.acceptance.test_admin_browser import ARGUMENTS
from tests.acceptance.test_demo import serving
from tests.support.factories import account, backlog
from tests.support.patience import PATIENCE


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        yield page
        browser.close()


def shot(page: Page, name: str) -> None:
    """Keep a picture where ``SCREENSHOTS`` names a directory, for a person to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"shop-{name}.png"), full_page=True)


def set_provider(page: Page, label: str) -> None:
    page.get_by_role("link", name="Operator").click()
    page.get_by_role("button", name=label, exact=True).click()
    expect(page.get_by_role("button", name=label, exact=True)).to_have_attribute("aria-pressed", "true")


def order(page: Page, book: str, *, name: str, email: str, fail: bool = False) -> None:
    page.get_by_role("link", name="Shop").click()
    page.get_by_role("article").filter(has_text=book).get_by_role("link", name="Order").click()
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your email address").fill(email)
    if fail:
        page.get_by_label("let the payment fail").check()
    page.get_by_role("button", name="Order and pay").click()


def is_alive(leader: int) -> bool:
    """Return whether a process is left in the process group of ``leader``."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.browser
def test_a_refused_receipt_is_seen_by_the_operator_and_delivered_when_the_provider_is_well(
    page: Page, tmp_path: Path
) -> None:
    with serving(tmp_path) as (process, output):
        address = re.search(r"shop +(http://127\.0\.0\.1:\d+/)", output)
        pids = [int(pid) for pid in re.findall(r"(?:web|catcher|loop) (\d+)", output)]
        assert address and len(pids) == 3, output
        page.goto(address[1])
        shot(page, "1-books")

        order(page, "A Garden of Salt", name="Ann", email="ann@example.org", fail=True)
        expect(page.get_by_role("status")).to_contain_text("neither an order nor a receipt exists")

        set_provider(page, "Refuse")
        order(page, "The Lighthouse", name="Zoë", email="zoe@example.org")
        expect(page.get_by_role("main")).to_contain_text("We could not deliver your receipt to zoe@example.org")
        shot(page, "2-refused-customer")
        page.get_by_role("link", name="See it as the operator does").click()
        expect(page.get_by_role("main")).to_contain_text("550 5.1.1 no such mailbox here")
        expect(page.locator("tbody tr")).to_have_count(1)
        shot(page, "3-refused-operator")
        assert Inbox(tmp_path / "inbox").names() == []

        set_provider(page, "All well")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("tbody tr").filter(has_text="zoe@example.org")).to_contain_text("sent")
        shot(page, "4-well-again")
        page.get_by_role("link", name="Inbox").click()
        page.get_by_role("link", name="Your order 1: The Lighthouse").click()
        expect(page.get_by_role("main")).to_contain_text("we have reserved The Lighthouse for you")
        shot(page, "5-delivered")
        assert len(Inbox(tmp_path / "inbox").names()) == 1

        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert not [pid for pid in pids if is_alive(pid)]


#: Button -> what the operator's page says of an order that is placed then.  The first two delay a message only.
ANSWERS = {
    "Throttle": "accepted by the server",
    "Go slow": "accepted by the server",
    "Defer": "450 4.2.1 mailbox busy",
    "Refuse": "at rest: recipients refused (550 5.1.1 no such mailbox here)",
    "Drop": "it may have been delivered",
}


@pytest.mark.browser
def test_the_operators_page_says_what_each_button_does_and_each_receipt_arrives_once(
    page: Page, tmp_path: Path
) -> None:
    with serving(tmp_path) as (_process, output):
        address = re.search(r"shop +(http://127\.0\.0\.1:\d+/)", output)
        assert address, output
        page.goto(address[1])
        ordered = {button: f"{button.replace(' ', '-').lower()}@example.org" for button in ANSWERS}
        for button, answer in ANSWERS.items():
            set_provider(page, button)
            order(page, "The Lighthouse", name="Zoë", email=ordered[button])
            page.get_by_role("link", name="See it as the operator does").click()
            expect(page.locator("tbody tr").filter(has_text=ordered[button])).to_contain_text(answer)
            shot(page, f"button-{button}")

        set_provider(page, "All well")
        if (resume := page.get_by_role("button", name="Resume")).count():
            resume.click()
        for email in ordered.values():
            row = page.locator("tbody tr").filter(has_text=email)
            # The deferred order is tried again on its own; on a slow machine that is while the provider refuses.
            expect(row).to_contain_text(re.compile("accepted by the server|Try again"))
            if (again := row.get_by_role("button", name="Try again")).count():
                again.click()
            expect(page.locator("tbody tr").filter(has_text=email)).to_contain_text("accepted by the server")
        inbox = Inbox(tmp_path / "inbox")
        assert sorted(inbox.read(name)["To"] for name in inbox.names()) == sorted(
            f"Zoë <{email}>" for email in ordered.values()
        )

        # During a pause no button of the provider shows anything, so the page says what to press.
        set_provider(page, "Drop")
        page.get_by_role("button", name="customers order at once").click()
        expect(page.get_by_text("press Resume")).to_be_visible()


@pytest.mark.django_db(transaction=True)
def test_each_mode_of_the_provider_does_what_its_button_says(tmp_path: Path, settings: Any) -> None:
    settings.PRX_EMAIL = {"TRANSPORT": "smtp", "WAKE": "", "BASE_BACKOFF": "1s"}
    make_authority(tmp_path)
    with Catcher(tmp_path, clear=0) as catcher:
        owner = account(port=catcher.ports["clear"])
        mode = ModeFile(tmp_path)

        def sent_in(wanted: Mode, count: int = 1) -> list[OutboxMessage]:
            mode.write(wanted)
            queued = [row.pk for row in backlog(owner, count)]
            prx.drain(wait=count > 1, time_budget=30)
            return list(OutboxMessage.objects.filter(pk__in=queued))

        (refused,) = sent_in(Mode.REFUSE)
        assert (refused.status, refused.next_attempt_at) == ("failed", None)
        (deferred,) = sent_in(Mode.DEFER)
        assert deferred.next_attempt_at is not None
        (dropped,) = sent_in(Mode.DROP)
        assert dropped.may_have_been_delivered
        begun = monotonic()
        (slow,) = sent_in(Mode.SLOW)
        assert (slow.status, monotonic() - begun > 3) == ("sent", True)
        throttled = sent_in(Mode.THROTTLE, 3)
        assert [(row.status, row.retries) for row in throttled] == [("sent", 0)] * 3
        mode.write(Mode.WELL)
        prx.requeue_outbox([refused.pk, deferred.pk, dropped.pk], force=True)
        prx.drain(wait=True, time_budget=30)
        assert OutboxMessage.objects.exclude(status="sent").count() == 0
        assert len(Inbox(tmp_path / "inbox").names()) == OutboxMessage.objects.count() == 7
