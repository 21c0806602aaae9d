"""The pages in other admin sites: one with a name of its own, and sites from which the host took a model away."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import path
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import (
    Account,
    AccountState,
    Attachment,
    ConnectionSlot,
    DeliveryAttempt,
    InboundMessage,
    OutboxMessage,
    OutboxState,
    PauseRecord,
    RateWindow,
    Recipient,
)
from prx_email_django.status.failures import failure_groups
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

OURS: dict[type[Model], Any] = {
    model: type(page) for model, page in admin.site._registry.items() if model._meta.app_label == "prx_email_django"
}


def site_of(name: str, *, without: type[Model] | None = None) -> admin.AdminSite:
    site = admin.AdminSite(name=name)
    for model, page in OURS.items():
        if model is not without:
            site.register(model, page)
    return site


def name_without(model: type[Model]) -> str:
    return f"without-{model._meta.model_name}"


#: No site is named ``admin``: an address of Django's own site would be found nowhere.
urlpatterns = [
    path("desk/", site_of("desk").urls),
    *(path(f"{name_without(model)}/", site_of(name_without(model), without=model).urls) for model in OURS),
]


@pytest.fixture
def pages() -> dict[str, list[str]]:
    """Object name of a model -> its pages, below the site; there is a row of each."""
    now = timezone.now()
    account = rows.make_account(host="127.0.0.1", port=9, rate_limits="5/hour")
    rows.at_rest(account)
    rows.make_message(account)
    message = rows.unknown(account)
    parts = {
        Recipient: message.recipients.first(),
        Attachment: Attachment.objects.create(
            message=message, filename="a.pdf", content_type="application/pdf", size=1, sha256="0" * 64
        ),
        ConnectionSlot: ConnectionSlot.objects.create(account=account, number=1, token=uuid.uuid4(), expires_at=now),
        DeliveryAttempt: DeliveryAttempt.objects.create(
            message=message, number=1, header_message_id="<a@b>", started_at=now, finished_at=now, outcome="lost"
        ),
        InboundMessage: InboundMessage.objects.create(
            account=account, message_id="<in@x>", message_id_hash="0" * 64, sender="a@b.example", received_at=now
        ),
        RateWindow: RateWindow.objects.create(account=account, limit_key="messages/60", counts=[3, 4]),
    }
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    prx.pause_outbox(None, reason="moving house", by="keiko")
    parts |= {OutboxMessage: message, Account: account, AccountState: AccountState.objects.get()}
    parts |= {OutboxState: OutboxState.objects.get(), PauseRecord: PauseRecord.objects.first()}
    found = {}
    for model in OURS:
        folder = f"prx_email_django/{model._meta.model_name}/"
        row = parts.get(model)
        found[model.__name__] = [folder] if row is None else [folder, f"{folder}{row.pk}/change/"]
    found["OutboxMessage"].append(f"prx_email_django/outboxmessage/{message.pk}/source/")
    return found


def opened(client: Client, url: str, **fields: Any) -> str:
    response = client.post(url, fields) if fields else client.get(url)
    assert response.status_code == 200, url
    return response.getvalue().decode()


@pytest.mark.urls(__name__)
def test_a_site_of_another_name_never_leads_out_of_it(pages: dict[str, list[str]]) -> None:
    """Its links and buttons, also those of pages that Django's admin does not have, lead to the same site."""
    client = rows.client_for("*")
    account, message = Account.objects.get(), OutboxMessage.objects.last()
    assert message is not None
    folder = "/desk/prx_email_django"
    texts = {url: opened(client, f"/desk/{url}") for urls in pages.values() for url in urls}
    texts["check"] = opened(client, f"{folder}/account/{account.pk}/check/", send_to="")
    reason = failure_groups(limit=1)[0][0]
    which = {"account": account.pk, "code": reason.code, "folded": reason.folded}
    texts["reason"] = opened(client, f"{folder}/outbox/reason/retry/", **which)
    for action in ("retry_selected", "cancel_selected"):
        selected = {"action": action, "_selected_action": [message.pk]}
        texts[action] = opened(client, f"{folder}/outboxmessage/", **selected)
    texts["pause"] = opened(client, f"{folder}/account/", action="pause_selected", _selected_action=[account.pk])
    for page, text in texts.items():
        addresses = re.findall(r'(?:href|action|formaction)="(/[^"]*)"', text)
        assert any(address.startswith("/desk/prx_email_django/") for address in addresses), page
        assert [address for address in addresses if not address.startswith(("/desk/", "/static/"))] == [
            "/"
        ] * text.count('"/"')
    for button in (f"account/{account.pk}/resume/", "outboxstate/resume/", f"outboxmessage/{message.pk}/dismiss/"):
        assert client.post(f"{folder}/{button}")["Location"].startswith(f"{folder}/{button.partition('/')[0]}/")
    assert client.post(f"{folder}/outbox/resume/{account.pk}/")["Location"] == f"{folder}/outbox/"


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("gone", OURS, ids=lambda model: model.__name__)
def test_pages_survive_a_host_that_unregistered(gone: type[Model], pages: dict[str, list[str]]) -> None:
    """What would have been a link to the model's page is plain text."""
    client, site = rows.client_for("*"), f"/{name_without(gone)}/"
    dead = f'"{site}prx_email_django/{gone._meta.model_name}/'
    shown = ("Outbox", "OutboxMessage", "Account", "OutboxState", "Recipient", "DeliveryAttempt")
    for name in shown:
        if name == gone.__name__:
            continue
        for url in pages[name]:
            assert dead not in opened(client, f"{site}{url}"), url
