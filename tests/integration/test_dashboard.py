"""The operator's page: the verdict, its causes, the reasons and their buttons."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.limits.rate_windows import take_permits
from prx_email_django.models import Account, AccountState, HourlyCount, OutboxMessage, OutboxState, Worker
from prx_email_django.store.db import clock_for
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
    said = ["newsletter is resumed: may send.", "No worker has ever been seen."]
    assert rows.notices(client.post(url, follow=True)) == said
    assert get(client).context["causes"] == []
    assert account.pause_records.get().ended_by == "view_outboxmessage-change_account"


def test_everything_paused_and_a_hung_worker_are_causes() -> None:
    prx.pause_outbox(None, reason="maintenance", by="keiko")
    live_worker(state="working", last_seen_at=timezone.now() - timedelta(minutes=5))
    response = get(rows.client_for("*"))
    texts = [shown.cause.text for shown in response.context["causes"]]
    assert texts[0].startswith("everything is paused by keiko since ")
    assert texts[1] == "The worker host:1 hangs or was killed: it did not end, and has not been seen for 5 min."
    assert response.context["verdict"].level == "red"


def states(response: Any) -> list[tuple[str, str]]:
    """Return the colour and the label of each account."""
    return [(account["state"], account["label"]) for account in response.context["accounts"]]


def test_no_account_looks_well_while_everything_is_paused() -> None:
    rows.make_message(rows.make_account())
    live_worker()
    assert states(get(rows.client_for("*"))) == [("sent", "ready")]
    prx.pause_outbox(None, reason="maintenance", by="keiko")
    response = get(rows.client_for("view_outboxmessage"))
    assert states(response) == [("failed", "paused")]
    assert response.context["verdict"].text.startswith("Everything is paused. 1 due")


def test_in_a_copied_database_every_page_says_that_nothing_is_sent(settings: Any) -> None:
    message = rows.make_message(rows.make_account())
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": "production"})
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "INSTANCE": "staging"}
    client = rows.client_for("*")
    response = get(client)
    assert response.context["verdict"].text.startswith("This database belongs to another instance: nothing is sent")
    (shown,) = response.context["causes"]
    assert "“production”" in shown.cause.text
    assert "outbox_adopt" in shown.hint
    assert states(response) == [("failed", "stopped")]
    page = get(client, f"{rows.MESSAGES}{message.pk}/change/").content.decode()
    assert "The database belongs to another instance: nothing is sent until it is adopted." in page


@pytest.mark.django_db(transaction=True)
def test_a_copy_is_adopted_after_a_page_that_says_what_happens(settings: Any) -> None:
    message = rows.make_message(rows.make_account())
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": "production"})
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "INSTANCE": "staging"}
    client = rows.client_for("*")
    assert 'value="Adopt this database"' in client.get(PAGE).content.decode()
    asked = client.post(f"{PAGE}adopt/").content.decode()
    assert "belongs to the instance “production”, which may have sent 1 unsent message" in asked
    assert "Then the database belongs to the instance “staging”." in asked
    assert OutboxMessage.objects.get().status == "pending"
    done = client.post(f"{PAGE}adopt/", {"understood": "yes"}, follow=True)
    assert rows.notices(done)[0] == (
        "The database is adopted. 1 message was put at rest: retry it if it must be sent from here."
    )
    message.refresh_from_db()
    assert (message.last_error_code, message.next_attempt_at) == ("adopted", None)
    assert OutboxState.objects.get().instance == "staging"
    assert LogEntry.objects.get().change_message.startswith("The database is adopted.")
    again = client.post(f"{PAGE}adopt/", {"understood": "yes"}, follow=True)
    assert rows.notices(again)[0].startswith("Nothing was adopted")


@pytest.mark.parametrize("permission", ["change_outboxmessage", "change_outboxstate"])
def test_who_may_change_only_a_part_adopts_nothing(settings: Any, permission: str) -> None:
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": "production"})
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "INSTANCE": "staging"}
    client = rows.client_for("view_outboxmessage", permission)
    assert "Adopt this database" not in client.get(PAGE).content.decode()
    assert client.post(f"{PAGE}adopt/", {"understood": "yes"}).status_code == 403
    assert OutboxState.objects.get().instance == "production"


def test_late_mail_of_a_used_up_limit_has_its_cause() -> None:
    account = rows.make_account("bulk", rate_limits="2/day")
    now = timezone.now()
    rows.make_message(account, columns={"next_attempt_at": now - timedelta(hours=3)})
    assert take_permits(account, 2, clock=clock_for(None)).count == 2
    live_worker()
    response = get(rows.client_for("*"))
    (shown,) = response.context["causes"]
    assert (shown.cause.level, states(response)) == ("red", [("deferred", "limited")])
    assert shown.cause.text.startswith("bulk: limit 2/day reached, sending continues at ")
    assert shown.cause.text.endswith("; 1 waits")


def test_a_problem_of_an_account_ends_with_one_full_stop() -> None:
    account = rows.make_account("bad")
    rows.make_message(account)
    Account.objects.filter(pk=account.pk).update(host="[::1]")
    (cause,) = [shown.cause for shown in get(rows.client_for("*")).context["causes"]]
    assert cause.text.endswith("the port has a field of its own; 1 waits")


def test_refusals_in_a_row_are_a_cause_also_where_nothing_is_done_about_them(settings: Any) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "REFUSALS_IN_A_ROW": 0}
    account = rows.make_account("bulk")
    AccountState.objects.update_or_create(account=account, defaults={"refused_in_a_row": 12})
    (shown,) = get(rows.client_for("*")).context["causes"]
    assert shown.cause.text == "bulk: the last 12 messages were refused"


def test_a_worker_that_waits_for_a_minute_is_not_missed_but_two_are() -> None:
    """A schedule begins a drain once a minute, and the next one may be a second late."""
    rows.make_message(rows.make_account())
    worker = live_worker(last_seen_at=timezone.now() - timedelta(seconds=70))
    client = rows.client_for("*")
    assert "No worker" not in get(client).context["verdict"].text
    Worker.objects.filter(pk=worker.pk).update(last_seen_at=timezone.now() - timedelta(minutes=3))
    response = get(client)
    assert response.context["verdict"].text.endswith("No worker for 3 min.")
    assert states(response) == [("unknown", "no worker")]


def test_lost_workers_are_one_cause_and_forgotten_when_another_works() -> None:
    for number in range(7):
        live_worker(
            name=f"host:{number}", state="working", last_seen_at=timezone.now() - timedelta(minutes=61 + number)
        )
    client = rows.client_for("*")
    (shown,) = get(client).context["causes"]
    assert shown.cause.text.startswith(
        "7 workers hang or were killed: the last, host:0, has not been seen for 1 h 1 min"
    )
    assert shown.open_url == "#outbox-workers"
    live_worker(name="host:new")
    assert get(client).context["causes"] == []
    assert get(client).context["verdict"].level == "green"


def test_causes_that_are_not_shown_are_counted() -> None:
    for number in range(8):
        prx.pause_outbox(rows.make_account(f"account {number}"), reason="moving", by="keiko")
    response = get(rows.client_for("*"))
    assert (len(response.context["causes"]), response.context["verdict"].more) == (5, 3)
    assert "3 more causes are not shown" in response.content.decode()


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


@pytest.mark.parametrize("operation", ["confirm", "retry"])
def test_all_doubtful_messages_are_settled_with_two_clicks(operation: str) -> None:
    account = rows.make_account("main")
    doubtful = [rows.unknown(account) for _ in range(3)]
    others = [rows.at_rest(account), rows.unknown(account), rows.unknown(account)]
    prx.dismiss_outbox(others[1].pk)
    OutboxMessage.objects.filter(pk=others[2].pk).update(last_error_code="cancelled")
    client = rows.client_for("view_outboxmessage", "change_outboxmessage")
    (shown,) = get(client).context["causes"]
    assert shown.cause.text == "3 failed messages may have been delivered."
    assert {message.pk for message in get(client, shown.open_url).context["cl"].queryset} == {m.pk for m in doubtful}
    urls = dict(shown.buttons)
    assert list(urls) == ["Confirm all 3", "Retry all 3"]
    url = urls[f"{operation.capitalize()} all 3"]
    assert rows.client_for("view_outboxmessage").post(url).status_code == 403
    assert client.post(url).context["summary"].doubtful == 3
    client.post(url, {"understood": "yes"})
    for message in (*doubtful, *others):
        message.refresh_from_db()
    done = [message.status == "sent" or message.next_attempt_at is not None for message in (*doubtful, *others)]
    assert done == [True] * 3 + [False] * 3


def test_what_was_dismissed_is_no_trouble_any_more() -> None:
    message = rows.unknown(rows.make_account())
    client = rows.client_for("*")
    assert get(client).context["verdict"].level == "amber"
    client.post(f"{rows.MESSAGES}{message.pk}/dismiss/")
    response = get(client)
    assert (response.context["verdict"].level, response.context["causes"]) == ("green", [])


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
