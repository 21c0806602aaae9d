"""Every page of the admin opens, edits nothing, and shows no secret."""

from __future__ import annotations

import uuid

import pytest
from django.contrib import admin
from django.db.models import DateTimeField, Model
from django.test import Client
from django.utils import timezone

from prx_email_django.models import (
    Account,
    AccountState,
    Attachment,
    ConnectionSlot,
    DeliveryAttempt,
    InboundMessage,
    OutboxMessage,
    OutboxState,
    RateWindow,
    Recipient,
)
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

PLANTED = ("pw-stored-1", "at-learned", "rt-learned")
FACTS = [
    AccountState,
    Attachment,
    ConnectionSlot,
    DeliveryAttempt,
    InboundMessage,
    OutboxMessage,
    OutboxState,
    RateWindow,
    Recipient,
]


@pytest.fixture(autouse=True)
def one_of_each() -> None:
    now = timezone.now()
    account = rows.make_account()
    message = rows.unknown(account)
    AccountState.objects.create(account=account, access_token="at-learned", refresh_token="rt-learned")
    Attachment.objects.create(
        message=message, filename="a.pdf", content_type="application/pdf", size=1, sha256="0" * 64
    )
    ConnectionSlot.objects.create(account=account, number=1, token=uuid.uuid4(), expires_at=now, holder="web1:1")
    DeliveryAttempt.objects.create(
        message=message, number=1, header_message_id="<a@b>", started_at=now, finished_at=now, outcome="lost"
    )
    InboundMessage.objects.create(
        account=account, message_id="<in@example.com>", message_id_hash="0" * 64, sender="a@b.example", received_at=now
    )
    OutboxState.objects.get_or_create(pk=1)
    RateWindow.objects.create(account=account, limit_key="messages/60", counts=[3, 4])


def urls(model: type[Model]) -> tuple[str, str]:
    name = model._meta.model_name
    return f"{rows.ADMIN}{name}/", f"{rows.ADMIN}{name}/{model.objects.get().pk}/change/"  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", [Account, *FACTS], ids=lambda model: model.__name__)
@pytest.mark.parametrize("permission", ["view", "change"])
def test_every_page_opens_and_shows_no_secret(model: type[Model], permission: str) -> None:
    client = rows.client_for(f"{permission}_{model._meta.model_name}", "view_message_content")
    for url in urls(model):
        response = client.get(url)
        assert response.status_code == 200, url
        assert not [secret for secret in (*PLANTED, "v1:") if secret in response.content.decode()]


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model.__name__)
def test_facts_cannot_be_written(model: type[Model]) -> None:
    client = rows.client_for("*")
    listing, page = urls(model)
    before = list(model.objects.values())  # type: ignore[attr-defined]
    assert client.post(page, {"_save": "1"}).status_code == 403
    assert client.post(f"{listing}add/", {"_save": "1"}).status_code == 403
    assert client.post(page.replace("/change/", "/delete/"), {"post": "yes"}).status_code == 403
    assert list(model.objects.values()) == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", [Account, *FACTS], ids=lambda model: model.__name__)
def test_strangers_see_nothing(model: type[Model]) -> None:
    other = rows.client_for("delete_outboxstate" if model is not OutboxState else "delete_account")
    for url in urls(model):
        assert Client().get(url).status_code == 302
        assert other.get(url).status_code == 403


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model.__name__)
def test_no_list_counts_its_table_or_sorts_without_an_index(model: type[Model]) -> None:
    page = admin.site.get_model_admin(model)
    assert page.show_full_result_count is False
    assert page.date_hierarchy is None
    assert page.show_facets is admin.ShowFacets.NEVER


def test_recipients_are_found_by_the_beginning_of_an_address() -> None:
    client = rows.client_for("*")
    found = client.get(f"{rows.ADMIN}recipient/", {"q": "ann@"})
    assert [recipient.address for recipient in found.context["cl"].result_list] == ["ann@example.org"]
    assert not client.get(f"{rows.ADMIN}recipient/", {"q": "example"}).context["cl"].result_list


@pytest.mark.parametrize("model", [DeliveryAttempt, InboundMessage, OutboxMessage, ConnectionSlot])
def test_times_are_relative_with_the_exact_one_and_its_zone_beside(model: type[Model]) -> None:
    names = [field.name for field in model._meta.concrete_fields if isinstance(field, DateTimeField)]
    (row,) = model._default_manager.all()
    moments = [timezone.localtime(getattr(row, name)) for name in names if getattr(row, name) is not None]
    shown = [f"{moment:%Y-%m-%d %H:%M:%S} {moment.tzname()}" for moment in moments]
    client = rows.client_for("*")
    url = f"{rows.ADMIN}{model._meta.model_name}/"
    page = client.get(f"{url}{row.pk}/change/").content.decode()
    for exact in shown:
        assert f'title="{exact}"' in page
        assert f'<span class="outbox-reason">{exact}</span>' in page
    listed = client.get(url).content.decode()
    assert any(f'title="{exact}"' in listed for exact in shown)
