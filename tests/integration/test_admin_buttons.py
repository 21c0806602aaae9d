"""Buttons and bulk actions: they need the permission, and no GET request changes anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.admin import OutboxMessageAdmin
from prx_email_django.admin import bulk as bulk_pages
from prx_email_django.limits.rate_windows import take_permits
from prx_email_django.models import Account, OutboxMessage, Worker
from prx_email_django.states import Status
from prx_email_django.store.db import clock_for
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

VERBS = ["retry", "send-now", "cancel", "confirm", "dismiss", "resend", "copy"]
MAKERS = [rows.sent, rows.at_rest, rows.unknown, rows.deferred, rows.sending, rows.make_message]


def everything() -> list[dict[str, Any]]:
    return list(OutboxMessage.objects.order_by("pk").values())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("who", ["superuser", "view only", "anonymous"])
def test_a_get_changes_nothing(verb: str, who: str) -> None:
    account = rows.make_account()
    made = [maker(account) for maker in MAKERS]
    before = everything()
    client = {
        "superuser": lambda: rows.client_for("*"),
        "view only": lambda: rows.client_for("view_outboxmessage"),
        "anonymous": Client,
    }[who]()
    for message in made:
        response = client.get(f"{rows.MESSAGES}{message.pk}/{verb}/")
        assert response.status_code == (302 if who == "anonymous" else 405)
    assert everything() == before


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("who", ["view only", "anonymous"])
def test_a_post_without_the_permission_changes_nothing(verb: str, who: str) -> None:
    account = rows.make_account()
    made = [maker(account) for maker in MAKERS]
    before = everything()
    client = Client() if who == "anonymous" else rows.client_for("view_outboxmessage")
    for message in made:
        response = client.post(f"{rows.MESSAGES}{message.pk}/{verb}/", {"understood": "yes"})
        assert response.status_code == (302 if who == "anonymous" else 403)
    assert everything() == before


@pytest.mark.parametrize("verb", VERBS)
def test_another_site_cannot_press_a_button(verb: str) -> None:
    message = rows.at_rest(rows.make_account())
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    assert client.post(f"{rows.MESSAGES}{message.pk}/{verb}/").status_code == 403


def test_the_view_only_see_no_buttons_and_no_actions() -> None:
    message = rows.at_rest(rows.make_account())
    client = rows.client_for("view_outboxmessage")
    page = client.get(f"{rows.MESSAGES}{message.pk}/change/").content.decode()
    assert "outbox-button" not in page
    listing = client.get(rows.MESSAGES).content.decode()
    assert "retry_selected" not in listing
    client.post(rows.MESSAGES, {"action": "retry_selected", "_selected_action": [message.pk]})
    message.refresh_from_db()
    assert message.is_at_rest


def test_retry_makes_a_refused_message_due() -> None:
    message = rows.at_rest(rows.make_account())
    client = rows.client_for("change_outboxmessage")
    response = client.post(f"{rows.MESSAGES}{message.pk}/retry/", follow=True)
    message.refresh_from_db()
    assert message.status == Status.FAILED
    assert message.next_attempt_at is not None
    assert message.next_attempt_at <= timezone.now()
    assert rows.notices(response) == ["Retry requested. Due, waiting for a worker.", "No worker has ever been seen."]
    assert LogEntry.objects.get().change_message == "Retry requested."


def test_a_second_copy_needs_the_consent_of_a_person() -> None:
    message = rows.unknown(rows.make_account())
    client = rows.client_for("change_outboxmessage")
    url = f"{rows.MESSAGES}{message.pk}/retry/"
    asked = client.post(url, follow=True).content.decode()
    assert "The recipients may receive a second copy." in asked
    assert 'value="Yes, go on: Make it due"' in asked
    message.refresh_from_db()
    assert message.is_at_rest
    client.post(url, {"understood": "yes"})
    message.refresh_from_db()
    assert not message.is_at_rest


def test_a_confirmed_message_is_sent() -> None:
    message = rows.unknown(rows.make_account())
    rows.client_for("change_outboxmessage").post(f"{rows.MESSAGES}{message.pk}/confirm/")
    message.refresh_from_db()
    assert message.status == Status.SENT


def test_cancel_and_send_now_act_on_a_message_that_waits() -> None:
    later = timezone.now() + timedelta(days=1)
    account = rows.make_account()
    message, other = rows.make_message(account, send_at=later), rows.make_message(account, send_at=later)
    client = rows.client_for("change_outboxmessage")
    client.post(f"{rows.MESSAGES}{message.pk}/send-now/")
    client.post(f"{rows.MESSAGES}{other.pk}/cancel/")
    message.refresh_from_db()
    other.refresh_from_db()
    assert message.status == Status.PENDING
    assert message.next_attempt_at is not None
    assert message.next_attempt_at <= timezone.now()
    assert other.last_error_code == "cancelled"


def test_a_refusal_is_shown_with_its_reason() -> None:
    message = rows.sent(rows.make_account())
    client = rows.client_for("change_outboxmessage")
    response = client.post(f"{rows.MESSAGES}{message.pk}/cancel/", follow=True)
    assert rows.notices(response) == ["1 refused: 1 already sent."]
    assert not LogEntry.objects.exists()


def test_a_button_of_a_missing_message_is_not_found() -> None:
    assert rows.client_for("*").post(f"{rows.MESSAGES}4711/retry/").status_code == 404


def test_what_a_button_did_is_said_from_the_state_afterwards() -> None:
    account = rows.make_account()
    message = rows.at_rest(account)
    prx.pause_outbox(account, reason="wrong price")
    client = rows.client_for("change_outboxmessage")
    response = client.post(f"{rows.MESSAGES}{message.pk}/retry/", follow=True)
    said = "Retry requested. Its account is paused until a person resumes it: wrong price."
    assert rows.notices(response)[0] == said


def test_a_button_is_called_what_it_does() -> None:
    """Where no worker runs, or the account may not send, “Retry now” would promise what does not happen."""
    account = rows.make_account()
    message, later = rows.at_rest(account), rows.make_message(account, send_at=timezone.now() + timedelta(days=1))
    client = rows.client_for("*")

    def button(shown: OutboxMessage) -> tuple[str, str]:
        first = client.get(f"{rows.MESSAGES}{shown.pk}/change/").context["buttons"][0]
        return str(first["label"]), str(first["help"])

    assert button(message) == ("Make it due", "It will be due, and it waits. No worker has ever been seen.")
    Worker.objects.create(name="host:1", kind="loop", started_at=timezone.now(), last_seen_at=timezone.now())
    assert button(message) == ("Retry now", "Due now: a running worker sends it.")
    assert button(later)[0] == "Send now"
    prx.pause_outbox(account, reason="wrong price")
    why = "It will be due, and it waits. Paused until a person resumes it: wrong price."
    assert button(message) == button(later) == ("Make it due", why)


def test_the_page_that_asks_says_that_nothing_will_be_sent_now() -> None:
    message = rows.at_rest(rows.make_account())
    prx.pause_outbox(None, reason="holidays")
    data = {"action": "retry_selected", "_selected_action": [message.pk]}
    client = rows.client_for("*")
    asked = client.post(rows.MESSAGES, data).content.decode()
    assert "Everything is paused." in asked
    assert "No worker has ever been seen." in asked
    done = client.post(rows.MESSAGES, {**data, "understood": "yes"}, follow=True)
    assert "Everything is paused." in rows.notices(done)


def bulk(client: Client, action: str, messages: list[OutboxMessage], **extra: Any) -> Any:
    """Choose messages and an action in the list, and go on after the page that asks."""
    data = {"action": action, "_selected_action": [message.pk for message in messages], "understood": "yes", **extra}
    return client.post(rows.MESSAGES, data, follow=True)


def test_bulk_actions_show_how_many_changed_and_why_others_did_not() -> None:
    account = rows.make_account()
    made = [rows.sent(account), rows.at_rest(account), rows.sending(account), rows.make_message(account)]
    client = rows.client_for("change_outboxmessage")
    assert rows.notices(bulk(client, "retry_selected", made)) == [
        "1 message is due now.",
        "3 refused: 1 claimed by a worker, 1 already sent, 1 waiting for an attempt.",
        "No worker has ever been seen.",
    ]
    assert rows.notices(bulk(client, "cancel_selected", made)) == [
        "2 messages are cancelled and will not be sent.",
        "2 refused: 1 claimed by a worker, 1 already sent.",
    ]
    assert rows.notices(bulk(client, "confirm_selected", made))[0].startswith("4 refused:")


def test_a_confirmation_says_who_has_not_received_the_message_yet() -> None:
    account = rows.make_account()
    whole, partly = rows.unknown(account), rows.unknown(account, to=["ann@example.org", "bo@example.org"])
    partly.recipients.filter(address="bo@example.org").update(result="")
    assert rows.notices(bulk(rows.client_for("*"), "confirm_selected", [whole, partly])) == [
        "2 messages are confirmed to have arrived.",
        "1 of them has not reached all its recipients: it is due for the others.",
    ]


@pytest.mark.parametrize("action", ["retry", "cancel", "confirm", "dismiss"])
def test_every_bulk_action_asks_first_and_says_what_it_would_change(action: str) -> None:
    account, other = rows.make_account(), rows.make_account("paused")
    prx.pause_outbox(other, reason="x")
    made = [rows.unknown(account), rows.at_rest(account), rows.make_message(account), rows.at_rest(other)]
    prx.cancel_outbox(made[2])
    before = everything()
    data = {"action": f"{action}_selected", "_selected_action": [message.pk for message in made]}
    asked = rows.client_for("change_outboxmessage").post(rows.MESSAGES, data)
    summary = asked.context["summary"]
    assert (summary.count, summary.doubtful, summary.set_aside, summary.paused) == (4, 1, 1, {"paused": 1})
    assert everything() == before


def used_up(name: str, rate_limits: str = "2/day") -> Account:
    account = rows.make_account(name, rate_limits=rate_limits)
    assert take_permits(account, int(rate_limits.split("/")[0]), clock=clock_for(None)).count
    return account


def test_retrying_many_says_before_and_after_what_keeps_them_from_being_sent() -> None:
    """Of an account whose limit was reached or that was switched off, a running worker was promised to send them."""
    Worker.objects.create(name="web1:1", kind="loop", started_at=timezone.now(), last_seen_at=timezone.now())
    limited, off = used_up("limited"), rows.make_account("off")
    made = [rows.at_rest(limited), rows.at_rest(limited), rows.at_rest(off)]
    Account.objects.filter(pk=off.pk).update(is_active=False)
    client = rows.client_for("*")
    data = {"action": "retry_selected", "_selected_action": [message.pk for message in made]}
    asked = client.post(rows.MESSAGES, data)
    page = " ".join(asked.content.decode().split())
    assert "2 of them belong to the account limited: limit 2/day reached, sending continues at " in page
    assert "1 of them belongs to the account off: the account is inactive, until a person activates it." in page
    assert "Make it due" in page
    assert "a running worker sends it" not in page
    notices = rows.notices(bulk(client, "retry_selected", made))
    assert notices[0] == "3 messages are due now."
    assert notices[1].startswith("limited: limit 2/day reached, sending continues at ")
    assert notices[2:] == ["off: the account is inactive, until a person activates it."]
    assert "belong to" not in client.post(rows.MESSAGES, {**data, "action": "dismiss_selected"}).content.decode()


def test_a_limit_per_second_is_no_reason_to_promise_less() -> None:
    account = used_up("busy", "2/second")
    message = rows.at_rest(account)
    Worker.objects.create(name="web1:1", kind="loop", started_at=timezone.now(), last_seen_at=timezone.now())
    client = rows.client_for("*")
    for _round in range(3):  # it is free again within a second
        take_permits(account, 2, clock=clock_for(None))
        page = client.get(f"{rows.MESSAGES}{message.pk}/change/").content.decode()
        assert "Due now: a running worker sends it." in page


def test_resume_says_what_else_is_in_the_way() -> None:
    account = used_up("limited")
    prx.pause_outbox(account, reason="x")
    page = rows.client_for("*").get(f"{rows.ACCOUNTS}{account.pk}/change/").content.decode()
    assert "Ends the pause. Then: limit 2/day reached, sending continues at " in page
    assert "a running worker tries again" not in page


@pytest.mark.parametrize("revives", [False, True])
def test_what_was_set_aside_is_revived_only_by_a_tick_of_its_own(revives: bool) -> None:
    account = rows.make_account()
    made = [rows.at_rest(account), rows.make_message(account), rows.at_rest(account)]
    prx.cancel_outbox(made[1])
    OutboxMessage.objects.filter(pk=made[2].pk).update(last_error_code="expired")
    extra = {"revive": "yes"} if revives else {}
    notices = rows.notices(bulk(rows.client_for("change_outboxmessage"), "retry_selected", made, **extra))
    assert notices[0] == ("3 messages are due now." if revives else "1 message is due now.")
    assert ("2 refused: 2 cancelled, adopted or expired." in notices) == (not revives)


def test_an_action_on_all_that_match_goes_on_over_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_pages, "BATCH", 2)
    monkeypatch.setattr(bulk_pages, "BUDGET", 0.0)
    account = rows.make_account()
    made = [rows.at_rest(account) for _ in range(5)]
    client = rows.client_for("change_outboxmessage")
    data = {"action": "dismiss_selected", "_selected_action": [made[0].pk], "select_across": "1", "understood": "yes"}
    response = client.post(rows.MESSAGES, data)
    assert (response.context["changed"], response.context["left"]) == (0, 5)
    monkeypatch.setattr(bulk_pages, "monotonic", iter([0.0, -1.0, -1.0, 1.0]).__next__)
    fields: dict[str, Any] = {}
    for name, value in response.context["fields"]:
        fields.setdefault(name, []).append(value)
    response = client.post(rows.MESSAGES, fields)
    assert (response.context["changed"], response.context["left"]) == (4, 1)
    monkeypatch.undo()
    fields = dict(response.context["fields"])
    client.post(rows.MESSAGES, fields)
    assert not OutboxMessage.objects.filter(dismissed_at__isnull=True).exists()


@pytest.fixture
def denies_account_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def has(self: Any, request: HttpRequest, obj: OutboxMessage | None = None) -> bool:
        return obj is None or obj.account.name != "two"

    return lambda: monkeypatch.setattr(OutboxMessageAdmin, "has_operate_permission", has)


def test_a_permission_on_one_object_holds_for_buttons_and_bulk_actions(denies_account_two: Callable[[], None]) -> None:
    first, two = rows.at_rest(rows.make_account()), rows.at_rest(rows.make_account("two"))
    denies_account_two()
    client = rows.client_for("*")
    assert client.post(f"{rows.MESSAGES}{two.pk}/retry/").status_code == 403
    response = bulk(client, "retry_selected", [first, two])
    assert rows.notices(response)[1] == "1 refused: 1 not permitted."
    two.refresh_from_db()
    assert two.is_at_rest


def test_the_buttons_are_those_that_make_sense() -> None:
    account = rows.make_account()
    page = OutboxMessageAdmin(OutboxMessage, admin.site)
    request = RequestFactory().get("/")
    request.user = User.objects.create_superuser("root")

    def names(message: OutboxMessage) -> list[str]:
        return [button["operation"].name for button in page.buttons_for(request, message)]

    later = timezone.now() + timedelta(days=1)
    assert names(rows.sent(account)) == []
    assert names(rows.sending(account)) == []
    assert names(rows.at_rest(account)) == ["retry", "dismiss"]
    assert names(rows.deferred(account)) == ["retry", "cancel"]
    assert names(rows.unknown(account)) == ["retry", "confirm", "dismiss"]
    assert names(rows.make_message(account)) == ["cancel"]
    assert names(rows.make_message(account, send_at=later)) == ["send-now", "cancel"]


def test_a_message_that_a_person_confirmed_is_not_said_to_be_accepted_by_the_server() -> None:
    client = rows.client_for("*")
    message = rows.unknown(rows.make_account())
    page = client.post(f"{rows.MESSAGES}{message.pk}/confirm/", {"understood": "yes"}, follow=True)
    assert "Confirmed by a person at" in rows.notices(page)[0]
    assert "ccepted by the server" not in rows.notices(page)[0] + page.context["why"]
    assert [event.label for event in page.context["timeline"] if event.state == "sent"] == ["confirmed by a person"]


def test_a_due_message_says_that_no_worker_runs() -> None:
    client = rows.client_for("*")
    message = rows.make_message(rows.make_account())
    seen = timezone.now() - timedelta(minutes=42)
    Worker.objects.create(name="web1:1", kind="loop", started_at=seen, last_seen_at=seen)
    page = client.get(f"{rows.MESSAGES}{message.pk}/change/").content.decode()
    assert "Due, waiting for a worker. No worker for 42 min." in page


@pytest.mark.parametrize("ask", ["bulk", "one", "pause", "erase"])
def test_a_page_that_asks_leads_back_to_the_list(ask: str) -> None:
    message = rows.unknown(rows.make_account())
    client = rows.client_for("*")
    selected = {"_selected_action": [message.pk]}
    page = {
        "bulk": lambda: client.post(rows.MESSAGES, {"action": "retry_selected", **selected}),
        "one": lambda: client.post(f"{rows.MESSAGES}{message.pk}/retry/"),
        "pause": lambda: client.post(
            rows.ACCOUNTS, {"action": "pause_selected", "_selected_action": [message.account_id]}
        ),
        "erase": lambda: client.get(f"{rows.MESSAGES}erase/"),
    }[ask]()
    (crumbs,) = re.findall(r'<div class="breadcrumbs">.*?</div>', page.content.decode(), re.DOTALL)
    parent = rows.ACCOUNTS if ask == "pause" else rows.MESSAGES
    assert re.findall(r'href="([^"]*)"', crumbs) == ["/admin/", rows.ADMIN, parent]
