"""The admin in a real browser: from the list to the retry, and a preview in which no content of the message runs."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect, sync_playwright

import prx_email_django as prx
from prx_email_django.models import OutboxMessage, Worker
from tests.integration import admin_rows as rows
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: All known ways in which a message makes a program load a URL or run code.
ATTACK = """<!doctype html><html><head>
<meta http-equiv="refresh" content="0; url={url}/refresh">
<link rel="stylesheet" href="{url}/sheet.css"><link rel="preconnect" href="{url}">
<link rel="prefetch" href="{url}/ahead">
<link rel="icon" href="{url}/icon.png"><li<link>nk rel="preconnect" href="{url}">
<base href="{url}/base/"><style>@import "{url}/import.css"; body {{ background: url({url}/background.png) }}
@font-face {{ font-family: x; src: url({url}/font.woff) }} p {{ font-family: x }}</style>
<script src="{url}/script.js"></script><script>document.title = "acted"; top.document.title = "acted"</script>
</head><body onload="document.body.append('acted')" background="{url}/body.png">
<p id="told">You may read this.</p><img src="{url}/pixel.gif" srcset="{url}/pixel2.gif 2x"
onerror="document.body.append('acted')">
<picture><source srcset="{url}/picture.webp"><img src="relative.png"></picture><svg><image href="{url}/svg.png"/></svg>
<iframe src="{url}/frame"></iframe><object data="{url}/object"></object><embed src="{url}/embed">
<video src="{url}/video" poster="{url}/poster.png" autoplay></video><audio src="{url}/audio" autoplay></audio>
<form id="form" action="{url}/form"><input type="submit" value="Send" autofocus></form>
<a id="link" href="{url}/link" target="_self" ping="{url}/ping">Click here</a>
<a id="top" href="{url}/top" target="_top">And here</a>
<link rel="preload" as="image" href="{url}/preload.png"><link rel="modulepreload" href="{url}/module.js">
<link rel="manifest" href="{url}/manifest.json"><link rel="dns-prefetch" href="{url}/dns">
<link rel="alternate stylesheet" href="{url}/other.css"><link rel="apple-touch-icon" href="{url}/touch.png">
<style>@font-face {{ font-family: y; src: local("no"), url({url}/font2.ttf) }}
ul {{ list-style-image: url({url}/li.png) }}
div {{ border-image: url({url}/border.png) 1; content: url({url}/content.png); cursor: url({url}/cursor.cur), auto;
mask: url({url}/mask.svg#m); filter: url({url}/filter.svg#f); shape-outside: url({url}/shape.png);
background-image: image-set(url({url}/set.png) 1x), -webkit-image-set(url({url}/webkit.png) 1x) }}
div::before {{ content: url({url}/before.png) }} p {{ font-family: y }}</style>
<div style="background: url({url}/inline.png)">.</div><ul><li>.</li></ul><table background="{url}/table.png"><tr>
<td background="{url}/cell.png">.</td></tr></table><input type="image" src="{url}/input.png" alt="">
<button form="form" formaction="{url}/formaction">.</button><img src="x" onerror="fetch('{url}/onerror')">
<details open ontoggle="fetch('{url}/toggle')"><summary>.</summary></details><svg onload="fetch('{url}/svgload')">
<use href="{url}/use.svg#u"/><script>fetch("{url}/svgscript")</script><style>@import "{url}/svg.css";</style>
<foreignObject><iframe src="{url}/foreign"></iframe></foreignObject><animate onbegin="fetch('{url}/begin')"/></svg>
<video><source src="{url}/source.mp4"><track default src="{url}/track.vtt"></video><iframe srcdoc="
<img src='{url}/srcdoc.png'><script>top.document.title = 'acted'</script>"></iframe>
<iframe src="data:text/html,<img src='{url}/dataframe.png'>"></iframe>
<iframe src="javascript:fetch('{url}/js')"></iframe>
<script>navigator.sendBeacon("{url}/beacon"); new WebSocket("{url}/socket".replace("http", "ws"));
new EventSource("{url}/events"); new Image().src = "{url}/new.png"; window.open("{url}/open");
import("{url}/import.js"); location = "{url}/location"; new Worker("{url}/worker.js");
document.forms[0].submit()</script>
<map name="m"><area shape="default" href="{url}/area" alt=""></map><link rel="prerender" href="{url}/prerender">
<script type="speculationrules">{{"prefetch": [{{"urls": ["{url}/speculation"]}}]}}</script>
<div><template shadowrootmode="open"><style>@import "{url}/shadow.css";</style><img src="{url}/shadow.png">
<link rel="stylesheet" href="{url}/shadowlink.css"><slot></slot></template>.</div>
<svg><filter id="f"><feImage href="{url}/feimage.png"/></filter><rect width="9" height="9" filter="url(#f)"/>
<a href="{url}/svglink" target="_top"><text y="9">.</text></a><set attributeName="href" to="{url}/set"/></svg>
<math><mtext><table><mglyph><style><!--</style><img src="{url}/mathml" onerror="fetch('{url}/mglyph')">--></style>
</mglyph></table></mtext></math><style>@import url("{url}/layer.css") layer(a) supports(display: grid);
section {{ background: cross-fade(url({url}/fade.png), url({url}/fade2.png), 50%) }}</style><section>.</section>
<meta http-equiv="Link" content="<{url}/metalink>; rel=preconnect"><img attributionsrc="{url}/attribution" src="data:,">
<LINK/rel=preconnect/href={url}/slashes><noscript><link rel="stylesheet" href="{url}/noscript.css">
<img src="{url}/noscript.png"></noscript><plaintext></body></html>"""


class Canary:
    """A port of this machine that no test may connect to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        #: The request line of each connection; ``(connected)`` until it has arrived.
        self.requests: list[str] = []
        self._seen = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._seen:
                self.requests.append("(connected)")
                number = len(self.requests) - 1
            threading.Thread(target=self._answer, args=(connection, number), daemon=True).start()

    def _answer(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            line = connection.recv(1000).decode("latin-1").partition("\r\n")[0]
            with self._seen:
                self.requests[number] = line or "(connected)"
                self._seen.notify_all()
            connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    def wait_for(self, path: str) -> bool:
        """Wait for a request for this path; return whether it arrived."""
        with self._seen:
            return self._seen.wait_for(lambda: any(path in line for line in self.requests), timeout=PATIENCE)


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as bird:
        yield bird


@pytest.fixture
def page(live_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A browser in which a superuser is logged in; Playwright's loop runs in the thread that also reads rows."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    User.objects.create_superuser("ada", password="ada")
    Worker.objects.create(name="host:1", kind="loop", started_at=timezone.now(), last_seen_at=timezone.now())
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_context(base_url=live_server.url).new_page()
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        page.goto("/admin/login/")
        page.fill("#id_username", "ada")
        page.fill("#id_password", "ada")
        page.press("#id_password", "Enter")
        page.wait_for_url("**/admin/")
        yield page
        browser.close()
        # Django opens separate connections where an event loop runs.
        connections.close_all()
    wait_for_request_threads()


def wait_for_request_threads() -> None:
    """Wait for the server's threads, which close their database connections when the browser has ended."""
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(PATIENCE)


def test_from_the_list_to_the_message_to_the_retry(page: Page) -> None:
    message = rows.at_rest(rows.make_account(), subject="Rechnung für Größe")
    page.goto(rows.MESSAGES)
    expect(page.locator("#result_list")).to_contain_text("550 5.7.1 no thanks")
    page.get_by_role("link", name="Rechnung für Größe").click()
    page.get_by_role("button", name="Retry now").click()
    expect(page.locator(".messagelist")).to_contain_text("Retry requested. Due, waiting for a worker.")
    message.refresh_from_db()
    assert message.next_attempt_at is not None
    assert message.next_attempt_at <= timezone.now()


def test_the_buttons_of_a_message_are_reached_by_keyboard_within_five_tab_stops(page: Page) -> None:
    message = rows.at_rest(rows.make_account())
    page.goto(f"{rows.MESSAGES}{message.pk}/change/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # "Skip to main content"
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.value"))
    assert {"Retry now", "Dismiss", "Resend as a new message"} <= set(reached)


@pytest.mark.parametrize("rests", [True, False])
def test_the_buttons_of_a_doubtful_message_are_reached_within_five_tab_stops(page: Page, rests: bool) -> None:
    User.objects.update(email="ada@example.com")
    message = rows.unknown(rows.make_account())
    if not rests:
        OutboxMessage.objects.filter(pk=message.pk).update(next_attempt_at=timezone.now(), due_since=timezone.now())
    page.goto(f"{rows.MESSAGES}{message.pk}/change/")
    reached = []
    for number in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.value"))
        if not number:
            page.keyboard.press("Enter")  # "Skip to main content"
    assert {"Retry now", "Confirm: it arrived", "Dismiss" if rests else "Cancel", "Send a copy to me"} <= set(reached)


def test_a_message_of_unknown_outcome_is_retried_only_after_consent(page: Page) -> None:
    message = rows.unknown(rows.make_account())
    page.goto(f"{rows.MESSAGES}{message.pk}/change/")
    page.get_by_role("button", name="Retry now").click()
    expect(page.locator(".outbox-warning")).to_contain_text("may receive a second copy")
    assert OutboxMessage.objects.get().is_at_rest
    page.get_by_role("button", name="Yes, go on").click()
    expect(page.locator(".messagelist")).to_contain_text("Retry requested. Due")
    assert not OutboxMessage.objects.get().is_at_rest


def test_a_bulk_retry_asks_and_continues_with_the_same_selection(page: Page) -> None:
    account = rows.make_account()
    made = [rows.unknown(account), rows.at_rest(account), rows.at_rest(account)]
    page.goto(rows.MESSAGES)
    for message in made[:2]:
        page.locator(f"input[name=_selected_action][value='{message.pk}']").check()
    page.locator("select[name=action]").first.select_option("retry_selected")
    page.locator("button[name=index]").first.click()
    page.get_by_role("button", name="Yes, go on").click()
    expect(page.locator(".messagelist")).to_contain_text("2 messages are due now")
    assert OutboxMessage.objects.get(pk=made[2].pk).is_at_rest


def test_all_messages_of_one_reason_are_retried_with_three_clicks_from_the_index(page: Page) -> None:
    account = rows.make_account()
    for _ in range(3):
        rows.at_rest(account)
    page.goto("/admin/")
    page.get_by_role("link", name="Dashboard", exact=True).first.click()
    expect(page.locator(".outbox-verdict")).to_contain_text("3 messages need a person")
    page.get_by_role("button", name="Retry all 3").click()
    page.get_by_role("button", name="Yes, go on").click()
    expect(page.locator(".messagelist")).to_contain_text("3 messages are due now")
    assert not OutboxMessage.objects.filter(next_attempt_at=None).exists()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_each_question_of_a_night_is_answered_within_three_clicks(page: Page, size: tuple[int, int]) -> None:
    """From the dashboard: what the page says without a click is asserted first."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    account, other = rows.make_account("news"), rows.make_account("orders", port=1)
    rows.at_rest(account)
    doubtful = rows.unknown(other, to="bob@example.org")
    waiting = rows.make_message(account)
    Worker.objects.create(name="web1:7", kind="loop", started_at=timezone.now(), last_seen_at=timezone.now())
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    home = f"{rows.ADMIN}outbox/"

    def answer(*steps: Locator) -> None:
        assert len(steps) <= 3
        for step in steps:
            step.click()

    def search(term: str) -> Locator:
        page.goto(home)
        page.locator("#outbox-q").fill(term)
        return page.get_by_role("button", name="Search")

    page.goto(home)
    expect(page.locator(".outbox-verdict")).to_contain_text("1 due, the oldest for")
    expect(page.locator(".outbox-causes")).to_contain_text("news is paused by keiko")
    expect(page.locator(".outbox-dashboard")).to_contain_text("web1:7")
    first = page.locator("#result_list .field-number a").first
    answer(search(str(waiting.pk)), first)
    expect(page.locator(".outbox-why")).to_contain_text("wrong price")
    answer(search("bob@example.org"), first)
    expect(page.locator(".outbox-timeline")).to_be_visible()
    assert f"/{doubtful.pk}/" in page.url
    page.goto(home)
    answer(page.get_by_role("button", name="Resume"))
    assert account.pause_reason == ""
    go_on = page.get_by_role("button", name="Yes, go on")
    answer(page.locator(".outbox-causes").get_by_role("button", name="Confirm all 1"), go_on)
    doubtful.refresh_from_db()
    assert doubtful.status == "sent"
    answer(page.locator(".outbox-reasons").get_by_role("button", name="Retry all 1"), go_on)
    assert not OutboxMessage.objects.filter(status="failed", next_attempt_at=None).exists()
    answer(page.get_by_role("link", name="orders").first, page.get_by_role("button", name="Check this account"))
    expect(page.locator("#content")).to_contain_text("Check of the account orders")


#: Elements with a text or a button whose right or left side is out of the window.
CUT_OFF = """[...document.querySelectorAll('#content *')].filter(one => {
    const place = one.getBoundingClientRect();
    return place.width > 1 && (place.right > innerWidth + 1 || place.left < -1);
}).map(one => one.outerHTML.slice(0, 80))"""


def test_a_phone_shows_the_dashboard_and_the_lists_whole(page: Page) -> None:
    """Also the buttons at the end of a row, the box that selects all rows, and the names of columns without header."""
    rows.at_rest(rows.make_account())
    page.set_viewport_size({"width": 390, "height": 844})
    for url in (f"{rows.ADMIN}outbox/", rows.MESSAGES, rows.ACCOUNTS, f"{rows.ADMIN}recipient/"):
        page.goto(url)
        assert page.evaluate(CUT_OFF) == []
    expect(page.locator("#result_list .field-kind")).to_have_attribute("data-label", "Kind")
    page.goto(rows.MESSAGES)
    page.locator("#action-toggle").check()
    expect(page.locator("input[name=_selected_action]")).to_be_checked()


def test_an_account_is_paused_and_resumed(page: Page) -> None:
    account = rows.make_account()
    page.goto(f"{rows.ACCOUNTS}{account.pk}/change/")
    page.locator(".outbox-button input[name=reason]").fill("moving house")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".outbox-why")).to_contain_text("moving house")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".messagelist")).to_contain_text("1 account is resumed")
    assert account.pause_reason == ""


def test_the_canary_sees_a_browser_that_does_fetch(page: Page, canary: Canary) -> None:
    page.set_content(f'<link rel="preconnect" href="{canary.url}"><img src="{canary.url}/pixel.gif">')
    assert canary.wait_for("/pixel.gif")


def test_the_attack_has_as_many_ways_as_were_tried_by_hand() -> None:
    assert len(set(re.findall(r"\{url\}/[\w.]+", ATTACK))) >= 60


def test_nothing_in_a_preview_acts_or_calls_home(page: Page, canary: Canary) -> None:
    message = rows.make_message(rows.make_account(), body_html=ATTACK.format(url=canary.url))
    page.goto(f"{rows.MESSAGES}{message.pk}/change/")
    page.locator("iframe.outbox-preview").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe.outbox-preview")
    expect(frame.locator("#told")).to_have_text("You may read this.")
    expect(frame.locator("body")).not_to_contain_text("acted", use_inner_text=True)
    for what in ("#form input", "#top", "#link"):
        click(page, frame.locator(what))
    # What a click began has drawn, and gone through the browser's own process, before this page is fetched once more.
    page.evaluate("async () => { await new Promise(requestAnimationFrame); await fetch(location.href); }")
    # Every request of the message is older than this request, so it would have been recorded before.
    page.evaluate("url => fetch(url, {mode: 'no-cors'})", f"{canary.url}/last")
    assert canary.wait_for("/last")
    assert [line for line in canary.requests if "/last" not in line] == []
    assert "acted" not in page.title()
    assert page.url.endswith(f"{message.pk}/change/")


def click(page: Page, target: Locator) -> None:
    """Click where it is; Playwright's own click waits for frames, which a sandboxed document does not draw for it."""
    box = target.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
