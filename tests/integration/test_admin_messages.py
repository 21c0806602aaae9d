"""Message list and message page: what a person must see, in tables of any size."""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from prx_email_django import AttachmentInput
from prx_email_django.admin import columns
from prx_email_django.admin import search as searching
from prx_email_django.admin.base import CappedPaginator
from prx_email_django.admin.messages import OutboxMessageAdmin
from prx_email_django.admin.preview import POLICY, safe_document
from prx_email_django.models import Attachment, DeliveryAttempt, OutboxMessage
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def listed(client: Any, query: str = "") -> list[int]:
    response = client.get(f"{rows.MESSAGES}{query}")
    assert response.status_code == 200
    return sorted(row.pk for row in response.context["cl"].result_list)


def page_of(message: OutboxMessage, *permissions: str) -> str:
    client = rows.client_for(*(permissions or ("*",)))
    response = client.get(f"{rows.MESSAGES}{message.pk}/change/")
    assert response.status_code == 200
    content: str = response.content.decode()
    return content


def queries_of(client: Any, url: str) -> list[str]:
    client.get(url)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return [query["sql"] for query in captured.captured_queries]


def test_the_list_says_status_reason_account_recipients_and_tag() -> None:
    rows.at_rest(rows.make_account("billing"), to=["ann@example.org", "b@example.org", "c@example.org"], tag="dunning")
    content = unescape(rows.client_for("view_outboxmessage").get(rows.MESSAGES).content.decode())
    for part in ("failed, at rest", "refused by the server", "550 5.7.1 no thanks", "billing", "and 1 more", "dunning"):
        assert part in content


def test_the_list_says_when_a_waiting_message_is_tried() -> None:
    account = rows.make_account()
    rows.make_message(account)
    rows.make_message(account, send_at=timezone.now() + timedelta(days=400))
    content = rows.client_for("view_outboxmessage").get(rows.MESSAGES).content.decode()
    assert content.count(">due for ") == 1
    assert content.count(">in 399 d</time>") == 1


def test_a_page_says_nothing_of_what_is_not_there() -> None:
    page = page_of(rows.sent(rows.make_account()))
    assert not any(f"field-{name}" in page for name in ("cc_line", "reply_to_line", "reason", "idempotency_key"))
    assert "field-failures" in page


def test_failed_attempts_are_shown_with_unknown_outcomes() -> None:
    assert "1, of which 1 with unknown outcome" in page_of(rows.unknown(rows.make_account()))


def test_the_list_asks_as_many_queries_for_fifty_messages_as_for_two() -> None:
    account = rows.make_account()
    client = rows.client_for("*")
    for _ in range(2):
        rows.at_rest(account)
    few = queries_of(client, rows.MESSAGES)
    for number in range(48):
        rows.at_rest(rows.make_account(f"account {number}"))
    many = queries_of(client, rows.MESSAGES)
    assert len(many) == len(few)
    assert len(many) <= 8


def test_the_list_never_counts_the_whole_table_nor_reads_bodies() -> None:
    account = rows.make_account()
    for _ in range(3):
        rows.sent(account)
    for sql in queries_of(rows.client_for("*"), rows.MESSAGES):
        assert "COUNT(" not in sql or "LIMIT" in sql
        assert "body_text" not in sql


def test_a_list_longer_than_the_cap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CappedPaginator, "cap", 2)
    account = rows.make_account()
    for _ in range(3):
        rows.sent(account)
    response = rows.client_for("*").get(rows.MESSAGES)
    assert response.context["cl"].result_count == 2
    assert "are counted and shown" in response.content.decode()


def test_a_cut_count_is_told_as_such_and_an_action_on_all_reaches_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django's own texts said "10000 outbox messages" and "Select all 10000" for any number beyond."""
    monkeypatch.setattr(CappedPaginator, "cap", 3)
    monkeypatch.setattr(OutboxMessageAdmin, "list_per_page", 2)
    account = rows.make_account()
    made = [rows.at_rest(account) for _ in range(3)]
    client = rows.client_for("*")
    page = client.get(rows.MESSAGES).content.decode()
    assert "more than" not in page.lower()
    assert "Select all 3 outbox messages" in " ".join(page.split())
    rows.at_rest(account)
    page = " ".join(client.get(rows.MESSAGES).content.decode().split())
    assert "Select all more than 3 outbox messages" in page
    assert "All more than 3 selected" in page
    assert "more than 3 outbox messages" in page
    assert "More than 3 messages match; only the newest" in page
    data = {"action": "dismiss_selected", "_selected_action": [made[0].pk], "select_across": "1"}
    assert "4 messages match." in client.post(rows.MESSAGES, data).content.decode()
    client.post(rows.MESSAGES, {**data, "understood": "yes"})
    assert not OutboxMessage.objects.filter(dismissed_at__isnull=True).exists()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?status=sent", ["sent"]),
        ("?status=failed", ["at_rest", "deferred", "doubtful"]),
        ("?status=at_rest", ["at_rest", "doubtful"]),
        ("?status=waiting", ["deferred"]),
        ("?status=pending", ["pending"]),
        ("?status=sending", ["sending"]),
        ("?doubt=yes", ["doubtful"]),
        ("?doubt=held", ["doubtful"]),
        ("?error=network", ["deferred"]),
        ("?error=recipients_refused", []),
        ("?priority=high", ["pending"]),
        ("?priority=normal", ["at_rest", "deferred", "doubtful", "sending", "sent"]),
        ("?priority=low", []),
        ("?status=nonsense", []),
        ("?priority=nonsense", []),
        ("?doubt=nonsense", []),
    ],
)
def test_filters_find_what_they_name(query: str, expected: list[str]) -> None:
    account = rows.make_account()
    made = {
        "sent": rows.sent(account),
        "at_rest": rows.at_rest(account),
        "deferred": rows.deferred(account),
        "doubtful": rows.unknown(account),
        "sending": rows.sending(account),
        "pending": rows.make_message(account, priority=3),
    }
    assert listed(rows.client_for("*"), query) == sorted(made[name].pk for name in expected)


def test_a_filter_by_account_finds_its_messages() -> None:
    main, other = rows.make_account("one"), rows.make_account("other")
    message = rows.sent(main)
    rows.sent(other)
    assert listed(rows.client_for("*"), f"?account__id__exact={main.pk}") == [message.pk]


def test_search_finds_by_address_number_message_id_subject_and_tag() -> None:
    account = rows.make_account()
    ann = rows.make_message(account, to="Ann@example.org", subject="Größe zählt", tag="order-7")
    ben = rows.make_message(account, to="cc@example.net", bcc="ben@example.com", subject="Other")
    OutboxMessage.objects.filter(pk=ben.pk).update(provider_message_id="<of-the-caller@example.com>")
    client = rows.client_for("*")

    def found(term: str, **extra: str) -> list[int]:
        response = client.get(rows.MESSAGES, {"q": term, **extra})
        return sorted(row.pk for row in response.context["cl"].result_list)

    assert found("Ann@example.org") == [ann.pk]
    assert found("Ann@") == [ann.pk]
    assert found("ben") == [ben.pk]
    assert found("@example.com") == [ben.pk]
    assert found(str(ann.pk)) == [ann.pk]
    assert found(f"<outbox-{ann.pk}-3@mail.example>") == [ann.pk]
    assert found("<of-the-caller@example.com>") == [ben.pk]
    # As they stand where a person copies them.
    for copied in ("<ann@example.org>", "Ann Ito <Ann@Example.org>", "mailto:ann@example.org", "ann@example.org,"):
        assert found(copied) == [ann.pk], copied
    for copied in (f"#{ann.pk}", f"Message-ID: <outbox-{ann.pk}-0@x.example>", f"OUTBOX-{ann.pk}-0@x.example"):
        assert found(copied) == [ann.pk], copied
    assert found("zählt") == [ann.pk]
    assert found("order-7") == [ann.pk]
    assert found("order-") == [ann.pk]
    assert found("order-", status="sent") == []
    assert found("nothing like it") == []
    assert found("100%_") == []


@pytest.mark.parametrize(
    "term", ["Änn@example.org", "Än", "ben@bücher.example", "ben@BÜCHER.example", "@bücher.example"]
)
def test_an_address_beyond_ascii_is_found_as_a_person_writes_it(term: str) -> None:
    """Tried: SQLite's lower case of ``Ä`` is ``Ä``, Python's is ``ä``; and a domain is stored in ASCII."""
    account = rows.make_account()
    ann = rows.make_message(account, to="Änn@example.org")
    ben = rows.make_message(account, to="ben@bücher.example")
    assert listed(rows.client_for("*"), f"?q={term}") == [ann.pk if term.startswith("Ä") else ben.pk]


def test_words_of_a_subject_are_looked_for_only_among_recent_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    account = rows.make_account()
    rows.make_message(account, subject="old treasure")
    new = rows.make_message(account, subject="new treasure")
    monkeypatch.setattr(searching, "RECENT", 1)
    assert listed(rows.client_for("*"), "?q=treasure") == [new.pk]


def test_the_page_shows_each_recipient_with_its_result() -> None:
    message = rows.sent(rows.make_account(), to=["ann@example.org", "gone@example.com"])
    message.recipients.filter(address="gone@example.com").update(result="refused", code=550, text="5.1.1 <unknown>")
    page = page_of(message)
    assert "gone@example.com" in page
    assert "550" in page
    assert "5.1.1 &lt;unknown&gt;" in page
    assert "outbox-accepted" in page
    assert "outbox-refused" in page


def test_the_page_shows_attempts_in_a_fixed_number_of_queries() -> None:
    account = rows.make_account()
    message = rows.deferred(account, to=["a@example.org"])
    client = rows.client_for("*")
    url = f"{rows.MESSAGES}{message.pk}/change/"
    few = queries_of(client, url)
    for number in range(1, 31):
        DeliveryAttempt.objects.create(
            message=message,
            number=number,
            header_message_id="<x@example.com>",
            started_at=timezone.now(),
            finished_at=timezone.now(),
            outcome="failed",
            error_code="network",
            error=f"refused for the {number}th time",
        )
    assert "refused for the 17th time" in client.get(url).content.decode()
    assert len(queries_of(client, url)) == len(few)


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        ({"outcome": "sent", "smtp_code": 250, "enhanced_code": "2.6.0"}, "250 2.6.0"),
        (
            {"outcome": "sent", "smtp_code": 250, "enhanced_code": "2.6.0", "error": "550 5.1.1 nobody"},
            "250 2.6.0, but not for every recipient: 550 5.1.1 nobody",
        ),
        (
            {"outcome": "failed", "smtp_code": 450, "enhanced_code": "4.2.1", "error": "450 4.2.1 busy"},
            "450 4.2.1 busy",
        ),
        (
            {"outcome": "failed", "smtp_code": 535, "enhanced_code": "5.7.8", "error": "refused (535 5.7.8 no)"},
            "refused (535 5.7.8 no)",
        ),
        ({"outcome": "failed", "smtp_code": 554, "enhanced_code": "5.0.0", "error": "no"}, "554 5.0.0 no"),
        ({"outcome": "unknown", "error": "the server closed the connection"}, "the server closed the connection"),
    ],
)
def test_an_attempt_shows_each_code_once_and_whose_refusal_it_was(attempt: dict[str, Any], told: str) -> None:
    """Users read "250 2.6.0 550 5.1.1 nobody" as a message that was accepted and refused at the same time."""
    assert columns.answer(DeliveryAttempt(**attempt)) == told


def test_an_accepted_recipient_is_not_shown_with_a_refusal_as_its_answer() -> None:
    message = rows.sent(rows.make_account())
    message.recipients.update(code=450, text="4.2.1 mailbox busy")
    assert "before it was accepted: 450 4.2.1 mailbox busy" in page_of(message)


def test_the_page_says_why_a_message_waits() -> None:
    page = unescape(page_of(rows.at_rest(rows.make_account())))
    assert "At rest: refused by the server (550 5.7.1 no thanks), until a person retries it." in page


def test_nothing_on_the_page_can_be_edited_or_deleted() -> None:
    message = rows.at_rest(rows.make_account())
    client = rows.client_for("*")
    before = OutboxMessage.objects.values().get()
    assert client.post(f"{rows.MESSAGES}{message.pk}/change/", {"subject": "other"}).status_code == 403
    assert client.post(f"{rows.MESSAGES}{message.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{rows.MESSAGES}add/", {}).status_code == 403
    assert OutboxMessage.objects.values().get() == before


def test_what_a_message_says_is_never_markup_of_the_page() -> None:
    attack = "<script>alert(1)</script>"
    message = rows.make_message(
        rows.make_account(),
        subject=attack,
        body_text=attack,
        body_html=f'"><img src=x onerror=alert(1)>{attack}',
        tag=attack,
        metadata={"a": attack},
    )
    OutboxMessage.objects.filter(pk=message.pk).update(last_error=attack, provider_response=attack)
    message.recipients.update(text=attack)
    client = rows.client_for("*")
    pages = [rows.MESSAGES, f"{rows.MESSAGES}{message.pk}/change/", f"{rows.MESSAGES}{message.pk}/source/"]
    for url in pages:
        content = client.get(url).content.decode()
        assert attack not in content
        assert "<img src=x" not in content


def test_html_is_previewed_in_a_frame_that_allows_nothing() -> None:
    page = page_of(rows.make_message(rows.make_account(), body_html="<p>Hello</p>"))
    frame = page[page.index("<iframe") : page.index("</iframe>")]
    assert 'sandbox=""' in frame
    assert "&lt;p&gt;Hello&lt;/p&gt;" in frame
    assert unescape(frame).index(POLICY) < unescape(frame).index("<p>Hello</p>")


def test_no_element_can_make_the_browser_connect_ahead() -> None:
    document = safe_document("<LINK rel=preconnect href=//evil><li<link>nk rel=preconnect href=//evil>", {})
    assert "<link" not in document.lower()
    assert "<iframe" not in safe_document("<IFrame/src=//evil>", {}).lower()


def test_inline_images_are_shown_and_an_altered_one_is_left_out() -> None:
    logo = AttachmentInput(filename="logo.png", content_type="image/png", content=PNG, inline_id="logo")
    message = rows.make_message(rows.make_account(), body_html='<img src="cid:logo">', attachments=[logo])
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in unescape(page_of(message))
    Attachment.objects.update(sha256="0" * 64)
    page = rows.client_for("view_outboxmessage", "view_recipient").get(f"{rows.MESSAGES}{message.pk}/change/")
    assert "data:image/png" not in page.content.decode()


def test_the_source_is_what_goes_over_the_wire() -> None:
    message = rows.make_message(rows.make_account(), subject="Größe")
    client = rows.client_for("view_outboxmessage", "view_message_content")
    shown = unescape(client.get(f"{rows.MESSAGES}{message.pk}/source/").content.decode())
    assert message.message_id in shown
    download = client.get(f"{rows.MESSAGES}{message.pk}/source.eml")
    assert b"It is on its way." in download.content
    assert download["Content-Type"] == "application/octet-stream"
    assert download["X-Content-Type-Options"] == "nosniff"
    assert download["Content-Disposition"].startswith("attachment")


def test_a_source_that_cannot_be_rendered_is_an_answer_not_an_error() -> None:
    file = AttachmentInput(filename="a.pdf", content_type="application/pdf", content=b"%PDF")
    message = rows.make_message(rows.make_account(), attachment=file)
    Attachment.objects.update(sha256="0" * 64)
    client = rows.client_for("*")
    assert "missing or altered" in client.get(f"{rows.MESSAGES}{message.pk}/source/").content.decode()
    assert client.get(f"{rows.MESSAGES}{message.pk}/source.eml").status_code == 404
    file_url = f"{rows.MESSAGES}{message.pk}/files/{Attachment.objects.get().pk}/"
    assert client.get(file_url).status_code == 404


def test_an_attachment_is_only_ever_saved_and_only_from_its_own_message() -> None:
    account = rows.make_account()
    upload = SimpleUploadedFile("page.html", b"<script>alert(1)</script>")
    file = AttachmentInput(filename="grüße.txt", content_type="text/plain", content=upload.read())
    message, other = rows.make_message(account, attachment=file), rows.make_message(account)
    pk = Attachment.objects.get().pk
    client = rows.client_for("view_outboxmessage", "view_message_content")
    response = client.get(f"{rows.MESSAGES}{message.pk}/files/{pk}/")
    assert response.content == b"<script>alert(1)</script>"
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Disposition"].startswith("attachment;")
    assert client.get(f"{rows.MESSAGES}{other.pk}/files/{pk}/").status_code == 404
    assert client.get(f"{rows.MESSAGES}4711/source/").status_code in (302, 404)


@pytest.mark.parametrize("part", ["change/", "source/", "source.eml", "files/1/"])
def test_mail_is_read_only_by_who_may(part: str) -> None:
    message = rows.make_message(rows.make_account())
    client = rows.client_for("view_recipient")
    assert client.get(f"{rows.MESSAGES}{message.pk}/{part}").status_code == 403


def test_content_is_shown_only_to_who_may_read_it() -> None:
    file = AttachmentInput(filename="ticket.txt", content_type="text/plain", content=b"seat 12")
    planted = {"body_text": "reset-4711", "body_html": "<p>reset-4712</p>", "headers": {"X-Link": "reset-4713"}}
    message = rows.make_message(rows.make_account(), attachment=file, **planted)
    page = f"{rows.MESSAGES}{message.pk}/change/"
    duty = rows.client_for("view_outboxmessage", "change_outboxmessage", "view_attachment")
    shown = unescape(duty.get(page).content.decode())
    assert "ann@example.org" in shown
    assert not [secret for secret in ("reset-4711", "reset-4712", "reset-4713", "ticket.txt") if secret in shown]
    for part in ("source/", "source.eml", f"files/{Attachment.objects.get().pk}/"):
        assert duty.get(f"{rows.MESSAGES}{message.pk}/{part}").status_code == 403
    assert duty.get(f"{rows.ADMIN}attachment/").status_code == 403
    reader = rows.client_for("view_outboxmessage", "view_message_content")
    shown = unescape(reader.get(page).content.decode())
    assert [secret for secret in ("reset-4711", "reset-4712", "reset-4713", "ticket.txt") if secret not in shown] == []


def test_the_page_of_a_sent_sensitive_message_says_that_its_content_is_gone() -> None:
    message = rows.sent(rows.make_account(), is_sensitive=True)
    assert "removed when the message was sent" in page_of(message)


def test_the_list_is_sorted_by_when_a_message_was_queued() -> None:
    account = rows.make_account()
    first, second = rows.make_message(account), rows.make_message(account)
    client = rows.client_for("view_outboxmessage")

    def numbers(query: str) -> list[int]:
        return [row.pk for row in client.get(f"{rows.MESSAGES}{query}").context["cl"].result_list]

    assert numbers("") == [second.pk, first.pk]
    column = client.get(rows.MESSAGES).context["cl"].list_display.index("queued")
    assert re.search(rf'href="\?o=-?{column}[."]', client.get(rows.MESSAGES).content.decode())
    assert numbers(f"?o={column}") == [first.pk, second.pk]


def test_a_search_with_very_many_matches_finds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prx_email_django.admin.search.LIMIT", 3)
    account = rows.make_account()
    for number in range(7):
        rows.make_message(account, to=f"bob{number}@example.org", tag="bob" if number == 6 else "")
    rows.make_message(account)
    listed = rows.client_for("view_outboxmessage").get(rows.MESSAGES, {"q": "bob"}).context["cl"]
    assert listed.queryset.count() == listed.result_count == 7


@pytest.mark.parametrize("term", ["bob.case@example.com", "BOB.CASE@EXAMPLE.COM", "Bob.Ca", "bob.case@"])
def test_an_address_is_found_in_any_case_by_an_index(term: str) -> None:
    account = rows.make_account()
    wanted = rows.make_message(account, to="Bob.Case@Example.COM")
    rows.make_message(account, to="bobby@example.com")
    client = rows.client_for("view_outboxmessage", "view_recipient")
    assert list(client.get(rows.MESSAGES, {"q": term}).context["cl"].queryset) == [wanted]
    with CaptureQueriesContext(connection) as queries:
        listed = client.get(f"{rows.ADMIN}recipient/", {"q": term}).context["cl"].queryset
        assert [recipient.message_id for recipient in listed] == [wanted.pk]
    if connection.vendor == "sqlite":  # the others may read a table of two rows: see test_admin_plans.py
        assert "prx_recipient_lower" in plans_of(queries)


def plans_of(queries: CaptureQueriesContext) -> str:
    """SQLite's plans of all captured SELECTs."""
    plans: list[str] = []
    with connection.cursor() as cursor:
        for query in [query["sql"] for query in queries.captured_queries if query["sql"].startswith("SELECT")]:
            cursor.execute(f"EXPLAIN QUERY PLAN {query}")
            plans += [row[3] for row in cursor.fetchall()]
    return "\n".join(plans)


@pytest.mark.parametrize("term", ["<own.4711@shop.example>", "own.4711@shop.example", "4F11A22B", "queued as 4F11A22B"])
def test_a_message_is_found_by_the_ids_that_others_know(term: str) -> None:
    account = rows.make_account()
    known = {"provider_message_id": "<own.4711@shop.example>", "provider_response": "250 Ok: queued as 4F11A22B"}
    wanted = rows.make_message(account, columns=known)
    rows.make_message(account)
    listed = rows.client_for("view_outboxmessage").get(rows.MESSAGES, {"q": term}).context["cl"].queryset
    assert list(listed) == [wanted]


def test_a_search_with_very_many_matches_says_that_only_the_newest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "LIMIT", 2)
    monkeypatch.setattr(searching, "RECENT", 3)
    account = rows.make_account()
    old = [rows.at_rest(account, to="info@example.org") for _ in range(3)]
    new = [rows.at_rest(account, to="info@example.org") for _ in range(3)]
    client = rows.client_for("view_outboxmessage", "change_outboxmessage")
    page = client.get(f"{rows.MESSAGES}?q=info@example.org")
    assert {row.pk for row in page.context["cl"].result_list} == {row.pk for row in new}
    assert "only those among the newest 100 000 messages are shown" in rows.notices(page)[0]
    selected = {
        "action": "dismiss_selected",
        "select_across": "1",
        "_selected_action": [new[0].pk],
        "understood": "yes",
    }
    client.post(f"{rows.MESSAGES}?q=info@example.org", selected)
    assert OutboxMessage.objects.filter(dismissed_at__isnull=False).count() == len(old) + len(new)


def test_a_number_is_found_however_many_addresses_begin_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "LIMIT", 2)
    monkeypatch.setattr(searching, "RECENT", 1)
    account = rows.make_account()
    first = rows.make_message(account)
    for _ in range(4):
        rows.make_message(account, to=f"{first.pk}@example.org")
    page = rows.client_for("view_outboxmessage").get(f"{rows.MESSAGES}?q={first.pk}")
    assert first.pk in {row.pk for row in page.context["cl"].result_list}
