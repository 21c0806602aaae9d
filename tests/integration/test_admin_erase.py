"""The page that erases a person's mail: it counts first, asks, needs a permission, and keeps nothing of the address."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.utils.translation import override

from prx_email_django.models import OutboxMessage
from tests.integration import admin_rows as rows
from tests.integration.test_erase import places_with

pytestmark = pytest.mark.django_db

PAGE = f"{rows.MESSAGES}erase/"
ANN = "ann@example.org"


def page(response: Any) -> str:
    return str(response.content.decode())


def test_the_person_sees_numbers_and_what_stays_before_anything_is_erased() -> None:
    account = rows.make_account()
    rows.make_message(account)
    rows.sent(account, to=[ANN, "bo@example.org"])
    client = rows.client_for("view_outboxmessage", "delete_outboxmessage")
    assert PAGE in page(client.get(rows.MESSAGES))
    assert "What stays" in page(client.get(PAGE))
    asked = page(client.post(PAGE, {"address": "Ann@Example.org"}))
    assert "messages only to this address, deleted: <strong>1</strong>" in asked
    assert "messages to others too, emptied: <strong>1</strong>" in asked
    assert "What stays" in asked
    assert OutboxMessage.objects.count() == 2
    done = client.post(PAGE, {"address": "Ann@Example.org", "understood": "yes"}, follow=True)
    assert rows.notices(done)[0].startswith(
        "messages only to this address, deleted: 1, messages to others too, emptied: 1"
    )
    assert places_with(ANN) == []
    assert LogEntry.objects.get().change_message.startswith("messages only to this address, deleted: 1")
    assert "Erase a person" in page(client.get("/admin/"))


@pytest.mark.parametrize("who", ["change only", "anonymous"])
def test_without_the_permission_nothing_is_erased(who: str) -> None:
    rows.make_message(rows.make_account())
    client = Client() if who == "anonymous" else rows.client_for("view_outboxmessage", "change_outboxmessage")
    for response in (client.get(PAGE), client.post(PAGE, {"address": ANN, "understood": "yes"})):
        assert response.status_code == (302 if who == "anonymous" else 403)
    assert PAGE not in page(client.get(rows.MESSAGES))
    assert OutboxMessage.objects.count() == 1


def test_another_site_cannot_erase() -> None:
    rows.make_message(rows.make_account())
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    assert client.post(PAGE, {"address": ANN, "understood": "yes"}).status_code == 403
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize(("address", "words"), [("no address", "cannot be read"), ("shop@example.com", "account")])
def test_an_address_that_cannot_be_erased_is_refused_in_words(address: str, words: str) -> None:
    rows.make_message(rows.make_account())
    refused = page(rows.client_for("*").post(PAGE, {"address": address, "understood": "yes"}))
    assert words in refused
    assert OutboxMessage.objects.count() == 1


def test_a_message_that_must_wait_is_named() -> None:
    rows.sending(rows.make_account())
    client = rows.client_for("*")
    asked = page(client.post(PAGE, {"address": ANN}))
    assert "1 message that is not sent yet still holds the address" in asked
    done = page(client.post(PAGE, {"address": ANN, "understood": "yes"}, follow=True))
    assert "1 message that is not sent yet still holds the address" in done


def test_the_page_speaks_japanese() -> None:
    client = rows.client_for("*")
    with override("ja"):
        shown = page(client.get(PAGE, headers={"accept-language": "ja"}))
    assert "残るもの" in shown
