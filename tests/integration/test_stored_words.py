"""What workers have stored in English is Japanese on the pages and in the commands of a Japanese reader."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone
from django.utils.translation import override

from prx_email_django import drain
from prx_email_django.models import Account, AccountState, DeliveryAttempt, OutboxMessage, PauseRecord
from prx_email_django.status.advice import advice
from prx_email_django.status.stored_words import shown
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

SILENT = "no greeting from mail.example.com:465 in 60 s; that port may begin with TLS"
PAUSE = f"connection failed ({SILENT})"
ENGLISH = ("no greeting", "connection failed", "may begin", "the connection was lost")


@pytest.fixture
def message() -> OutboxMessage:
    account = rows.make_account()
    now = timezone.now()
    until = now + timedelta(hours=1)
    AccountState.objects.update_or_create(
        account=account,
        defaults={
            "pause_reason": PAUSE,
            "paused_by": "worker",
            "pause_code": "connection",
            "paused_at": now,
            "paused_until": until,
        },
    )
    PauseRecord.objects.create(account=account, code="connection", reason=PAUSE, by="worker", begun_at=now, until=until)
    message = rows.at_rest(account)
    OutboxMessage.objects.filter(pk=message.pk).update(last_error="the connection was lost", last_error_code="network")
    DeliveryAttempt.objects.create(
        message=message,
        number=7,
        started_at=now,
        finished_at=now,
        outcome="failed",
        error_code="network",
        error=SILENT,
        claim_token=None,
    )
    return message


def test_every_page_is_japanese(message: OutboxMessage) -> None:
    client = rows.client_for("*")
    attempt = DeliveryAttempt.objects.get(number=7)
    record = PauseRecord.objects.get()
    state = AccountState.objects.get()
    pages = (
        f"{rows.ADMIN}outbox/",
        rows.MESSAGES,
        f"{rows.MESSAGES}{message.pk}/change/",
        f"{rows.ACCOUNTS}{message.account_id}/change/",
        rows.ACCOUNTS,
        f"{rows.ADMIN}deliveryattempt/",
        f"{rows.ADMIN}deliveryattempt/{attempt.pk}/change/",
        f"{rows.ADMIN}pauserecord/",
        f"{rows.ADMIN}pauserecord/{record.pk}/change/",
        f"{rows.ADMIN}accountstate/{state.pk}/change/",
    )
    for url in pages:
        with override("ja"):
            page = client.get(url).content.decode()
        # The fields of a form hold texts as they are stored.
        assert [word for word in ENGLISH if word in re.sub(r"<[^>]*>", " ", page)] == [], url
    with override("ja"):
        page = client.get(pages[3]).content.decode()
    assert "最初の応答が 60 秒以内にありませんでした" in page
    assert "465" in page


def test_the_advice_is_the_same_in_each_language(message: OutboxMessage) -> None:
    client = rows.client_for("*")
    for url in (f"{rows.ADMIN}outbox/", f"{rows.ACCOUNTS}{message.account_id}/change/"):
        with override("en"):
            english, hint = client.get(url).content.decode(), advice(PAUSE)
        with override("ja"):
            japanese, translated = client.get(url).content.decode(), advice(PAUSE)
        assert hint in html.unescape(english), url
        assert translated in html.unescape(japanese), url
        assert translated != hint


@pytest.mark.parametrize("named", [[], ["--account", "main"], None])
def test_the_command_is_japanese(message: OutboxMessage, named: list[str] | None) -> None:
    out = StringIO()
    with override("ja"):
        call_command("outbox_status", *([str(message.pk)] if named is None else named), stdout=out)
    assert [word for word in ENGLISH if word in out.getvalue()] == []


def test_what_is_stored_stays_as_it_is(message: OutboxMessage) -> None:
    out = StringIO()
    with override("ja"):
        call_command("outbox_status", "--json", stdout=out)
    assert f'"pause_reason": "{PAUSE}"' in out.getvalue()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("columns", "told", "shown_as"),
    [
        # MariaDB takes a blank for an empty text, which its constraint refuses.
        ({"user": "\u2003"}, "user: The user is empty.", "user: "),
        ({"host": "[::1]"}, "host: This must be the host’s name", "host: "),
        ({"user": "env:X"}, "user: Only secrets may be references", "user: "),
        (
            {"rate_limits": "30 a minute"},
            "rate_limits: “30 a minute” must be a rate limit",
            "rate_limits: 「30 a minute」",
        ),
        ({"rate_limits": "5/day, 6/day"}, "rate_limits: “6/day”: only one limit of", "rate_limits: 「6/day」"),
        ({"password": "env:A=B"}, "password: The reference is not the name of a variable", "password: 参照"),
        ({"password": "file:x"}, "password: The reference must name an absolute path", "password: 参照"),
    ],
)
def test_a_worker_stores_what_is_wrong_with_an_account_in_english_whatever_its_language(
    columns: dict[str, str], told: str, shown_as: str
) -> None:
    account = rows.make_account()
    message = rows.make_message(account)
    Account.objects.filter(pk=account.pk).update(**columns)
    with override("ja"):
        drain()
        pause_reason = AccountState.objects.get().pause_reason
        assert f"this account cannot work ({told}" in pause_reason
        assert told in PauseRecord.objects.get().reason
        page = rows.client_for("*").get(f"{rows.MESSAGES}{message.pk}/change/")
        assert told not in html.unescape(page.content.decode())
        assert shown_as in shown(pause_reason)
        assert told not in shown(pause_reason)


def test_the_titles_of_the_pages_of_rows_are_japanese(message: OutboxMessage) -> None:
    client = rows.client_for("*")
    pages = {
        f"pauserecord/{PauseRecord.objects.get().pk}/change/": "pause of",
        f"deliveryattempt/{DeliveryAttempt.objects.get(number=7).pk}/change/": "of message",
        f"recipient/{message.recipients.get().pk}/change/": "Address lower",
        f"account/{message.account_id}/delete/": "of account",
        "outboxstate/": "state of the outbox",
    }
    with override("ja"):
        for page, english in pages.items():
            shown_page = client.get(f"{rows.ADMIN}{page}")
            assert shown_page.status_code == 200
            assert english not in shown_page.content.decode(), page
