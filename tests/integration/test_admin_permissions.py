"""Every page and button of the admin, found by its URL, against persons who may not use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

import prx_email_django as prx
from prx_email_django.models import Account, DeliveryAttempt, OutboxMessage
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

MODELS = list(apps.get_app_config("prx_email_django").get_models())
#: What every form of ours asks for, so that only the permission is missing.
FIELDS = {"understood": "yes", "reason": "x", "address": "ann@example.org", "send_to": "x@example.org", "post": "yes"}
#: The address to which a provider sends a person back: it refuses whoever has begun no sign-in in this session.
CALLBACK = f"get {rows.ACCOUNTS}signed-in/"


def fill() -> tuple[Account, OutboxMessage]:
    account = rows.make_account(host="127.0.0.1", port=9)
    message = rows.unknown(account, body_text="the secret body", body_html="<p>the secret body</p>")
    now = message.created_at
    DeliveryAttempt.objects.create(message=message, number=1, started_at=now, finished_at=now, outcome="unknown")
    rows.make_message(account)
    prx.pause_outbox(account, reason="wrong price", by="keiko")
    prx.pause_outbox(None, reason="moving house", by="keiko")
    return account, message


def urls(account: Account, message: OutboxMessage) -> Iterator[str]:
    """Yield the URL of each page of our models, Django's own and ours."""
    for model, model_admin in admin.site._registry.items():
        if model not in MODELS:
            continue
        known = {Account: account.pk, OutboxMessage: message.pk}.get(model)
        row = known or (model._default_manager.values_list("pk", flat=True).first() if model._meta.managed else 1) or 1
        for pattern in model_admin.get_urls():
            if pattern.name:
                values = {name: row if name in ("pk", "object_id") else 1 for name in pattern.pattern.converters}
                fixed = set(pattern.default_args or {})
                given = {name: value for name, value in values.items() if name not in fixed}
                yield reverse(f"admin:{pattern.name}", kwargs=given)


def everything() -> dict[str, list[Any]]:
    return {
        model.__name__: list(model._default_manager.order_by("pk").values()) for model in MODELS if model._meta.managed
    }


def person(who: str) -> Client:
    client = Client()
    ours = Permission.objects.filter(content_type__app_label="prx_email_django")
    user = User.objects.create_user(who, is_staff=who != "no staff")
    if who == "no staff":
        user.user_permissions.set(ours)
    elif who == "looks only":
        user.user_permissions.set(ours.filter(codename__startswith="view_"))
    elif who == "reads content only":
        user.user_permissions.set(ours.filter(codename="view_message_content"))
    if who != "anonymous":
        client.force_login(user)
    return client


@pytest.mark.parametrize("who", ["anonymous", "no staff", "staff without permission", "reads content only"])
def test_who_has_no_permission_sees_and_changes_nothing(who: str) -> None:
    found = list(urls(*fill()))
    assert len(found) > 60
    client, before = person(who), everything()
    answers = {f"{verb} {url}": getattr(client, verb)(url, FIELDS) for url in found for verb in ("get", "post")}
    outside = who in ("anonymous", "no staff")
    wanted = {"/admin/login/"} if outside else {"/admin/", 403, 404, 405}  # Django's answer to a row that is not there
    ends = {url: answer.get("Location", "").partition("?")[0] or answer.status_code for url, answer in answers.items()}
    assert {url: end for url, end in ends.items() if end not in wanted} == ({} if outside else {CALLBACK: 400})
    assert not any(b"secret body" in answer.getvalue() for answer in answers.values())
    assert everything() == before


def test_who_may_only_look_changes_nothing() -> None:
    found = list(urls(*fill()))
    client, before = person("looks only"), everything()
    for url in found:
        client.post(url, FIELDS)
        assert everything() == before, url
