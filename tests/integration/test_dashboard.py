"""The operator's page: the verdict, its causes, the reasons and their buttons."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import HourlyCount, OutboxMessage, Worker
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

PAGE = f"{rows.ADMIN}outbox/"


def get(client: Any, url: str = PAGE) -> Any:
    response = client.get(url)
    assert response.status_code == 200
    return response


def live_worker(**fields: Any) -> Worker:
    now = timezone.now()
    values = {"name": "host:1", "kind": "loop", "started_at": now, "last_seen_at": now}
    made: Worker = Worker.objects.create(**{**values, **fields})
    return made


def test_an_empty_outbox_is_well() -> None:
    response = get(rows.client_for("view_outboxmessage"))
    assert response.context["verdict"].level == "green"
    assert response.context["causes"] == []


def test_late_mail_without_a_worker_is_said_in_one_sentence() -> None:
    account = rows.make_account("newsletter")
    long_ago = timezone.now() - timedelta(minutes=48)
    for _ in range(3):
        rows.make_message(account, columns={"next_attempt_at": long_ago})
    live_worker(last_seen_at=timezone.now() - timedelta(minutes=42))
    verdict = get(rows.client_for("view_outboxmessage")).context["verdict"]
    assert (verdict.level, verdict.text) == ("red", "Late: 3 due, the oldest for 48 min. No worker for 42 min.")


def test_a_pause_says_who_and_since_when_and_is_resumed_by_its_button() -> None:
    account = rows.make_account("newsletter")
    rows.make_message(account)
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    viewer = rows.client_for("view_outboxmessage")
    (shown,) = get(viewer).context["causes"]
    assert shown.cause.text.startswith("newsletter is paused by keiko since ")
    assert shown.cause.text.endswith(": wrong price; 1 waits")
    assert shown.resume_url == ""
    url = f"{PAGE}resume/{account.pk}/"
    assert viewer.post(url).status_code == 403
    client = rows.client_for("view_outboxmessage", "change_account")
    assert get(client).context["causes"][0].resume_url == url
    assert rows.notices(client.post(url, follow=True)) == ["newsletter is resumed: may send."]
    assert get(client).context["causes"] == []
    assert account.pause_records.get().ended_by == "view_outboxmessage-change_account"


def test_everything_paused_and_a_hung_worker_are_causes() -> None:
    prx.pause_outbox(None, reason="maintenance", by="keiko")
    live_worker(state="working", last_seen_at=timezone.now() - timedelta(minutes=5))
    response = get(rows.client_for("*"))
    texts = [shown.cause.text for shown in response.context["causes"]]
    assert texts[0].startswith("everything is paused by keiko since ")
    assert texts[1] == "The worker host:1 hangs or was killed: it worked, and has not been seen for 5 min."
    assert response.context["verdict"].level == "red"


def refused(account: Any, text: str, count: int, **columns: Any) -> list[OutboxMessage]:
    values = {"status": "failed", "next_attempt_at": None, "last_error_code": "provider", "last_error": text}
    return [rows.make_message(account, columns={**values, **columns}) for _ in range(count)]


def test_reasons_are_counted_without_numbers_and_addresses() -> None:
    account, other = rows.make_account("main"), rows.make_account("bulk")
    for number in range(3):
        refused(account, f"550 5.1.1 <u{number}@example.org> no such user (queue {number}4711)", 1)
    refused(account, "550 5.7.1 spam", 2)
    refused(other, "550 5.7.1 spam", 1)
    refused(account, "550 5.7.1 spam", 1, last_error_code="cancelled")
    reasons = [row["reason"] for row in get(rows.client_for("view_outboxmessage")).context["reasons"]]
    found = [(reason.account, reason.count, reason.enhanced_code) for reason in reasons]
    assert found == [("main", 3, "5.1.1"), ("main", 2, "5.7.1"), ("bulk", 1, "5.7.1")]


@pytest.mark.parametrize("operation", ["retry", "dismiss"])
def test_a_reason_is_acted_on_as_a_whole_after_a_page_that_says_how_many(operation: str) -> None:
    account = rows.make_account("main")
    mine = [refused(account, f"550 5.7.1 spam {number}1", 1)[0] for number in range(7)]
    doubtful = refused(account, "550 5.7.1 spam 91", 1, attempts=1)[0]
    others = refused(account, "550 5.1.1 no such user", 2)
    client = rows.client_for("view_outboxmessage", "change_outboxmessage")
    (row,) = [row for row in get(client).context["reasons"] if row["reason"].count == 8]
    fields = {"account": account.pk, "code": "provider", "folded": row["reason"].folded}
    url = f"{PAGE}reason/{operation}/"
    assert rows.client_for("view_outboxmessage").post(url, fields).status_code == 403
    asked = client.post(url, fields)
    assert (asked.context["summary"].count, asked.context["summary"].doubtful) == (8, 1)
    assert OutboxMessage.objects.filter(next_attempt_at__isnull=True, dismissed_at__isnull=True).count() == 10
    done = client.post(url, {**fields, "understood": "yes"}, follow=True)
    assert rows.notices(done)[0].startswith("8 messages are")
    for message in [*mine, doubtful, *others]:
        message.refresh_from_db()
    changed = [message.dismissed_at if operation == "dismiss" else message.next_attempt_at for message in mine]
    assert all([*changed, doubtful.dismissed_at or doubtful.next_attempt_at])
    assert not any(message.dismissed_at or message.next_attempt_at for message in others)


def test_the_list_of_a_reason_shows_its_messages() -> None:
    account = rows.make_account("main")
    mine = refused(account, "550 5.7.1 spam 11", 1) + refused(account, "550 5.7.1 spam 22", 1)
    refused(account, "550 5.1.1 no such user", 2)
    client = rows.client_for("view_outboxmessage")
    reasons = get(client).context["reasons"]
    (url,) = [row["url"] for row in reasons if row["reason"].enhanced_code == "5.7.1"]
    assert {message.pk for message in get(client, url).context["cl"].queryset} == {message.pk for message in mine}


def test_the_page_costs_a_fixed_number_of_statements() -> None:
    client = rows.client_for("*")
    for number in range(5):
        account = rows.make_account(f"account {number}", rate_limits="30/minute")
        rows.make_message(account)
        refused(account, f"550 reason {'abcde'[number]}", 3)
        prx.pause_outbox(account, reason="x")
        HourlyCount.objects.create(account=account, hour=timezone.now(), worker="w:1", sent=2)
    get(client)
    with CaptureQueriesContext(connection) as statements:
        get(client)
    assert len(statements) <= 25, [query["sql"] for query in statements.captured_queries]


def test_who_may_not_view_messages_does_not_see_the_page() -> None:
    assert rows.client_for("view_account").get(PAGE).status_code == 403
    index = rows.client_for("view_outboxmessage").get("/admin/")
    names = [model["object_name"] for app in index.context["app_list"] for model in app["models"]]
    assert names[0] == "Outbox"
    assert not {"ConnectionSlot", "RateWindow", "AccountState", "OutboxState", "Attachment"} & set(names)


def test_the_history_of_pauses_is_on_both_pages() -> None:
    account = rows.make_account("main")
    for whose in (account, None):
        prx.pause_outbox(whose, reason="wrong price", by="keiko")
        prx.resume_outbox(whose, by="bob")
    client = rows.client_for("*")
    for page in (f"{rows.ACCOUNTS}{account.pk}/change/", f"{rows.ADMIN}outboxstate/"):
        content = client.get(page).content.decode()
        assert "wrong price" in content
        assert content.index("keiko") < content.rindex("bob")
