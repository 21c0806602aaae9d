"""What a message says about itself: Message-IDs that are not repeated, and a From address that can be answered."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from prx_email_django.conf.problems import problems
from prx_email_django.models.managers import outbox_alias
from tests.support import factories
from tests.support.factories import MEMORY

pytestmark = pytest.mark.django_db

BACKEND = "prx_email_django.backends.OutboxEmailBackend"
TENANT = {"schema": "shop"}


def domain_of_tenant() -> str:
    return f"{TENANT['schema']}.mail.example.com"


def no_domain() -> str:
    return "not a domain"


def found() -> dict[str, str]:
    messages = checks.run_checks(tags=[checks.Tags.database], databases=[outbox_alias()])
    return {str(message.id).rpartition(".")[2]: message.msg for message in messages if message.id}


def test_the_domain_of_message_ids_is_asked_for_each_message(settings: Any, monkeypatch: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "MESSAGE_ID_DOMAIN": f"{__name__}.domain_of_tenant"}
    row = factories.message(factories.account())
    assert row.message_id == f"<outbox-{row.pk}-0@shop.mail.example.com>"
    assert "@shop.mail.example.com>" in str(row.as_email()["Message-ID"])
    monkeypatch.setitem(TENANT, "schema", "other")
    assert row.message_id.endswith("@other.mail.example.com>")
    assert problems() == []
    settings.PRX_EMAIL = {**MEMORY, "MESSAGE_ID_DOMAIN": f"{__name__}.no_domain"}
    with pytest.raises(ImproperlyConfigured, match='"MESSAGE_ID_DOMAIN"'):
        _ = row.message_id


@pytest.mark.parametrize(
    ("value", "is_wrong"),
    [
        ("mail.example.com", False),
        ("localhost", False),
        (f"{__name__}.domain_of_tenant", False),
        (f"{__name__}.mistyped", True),
        ("tests.integration.absent_module.f", True),
        ("tests.support.mistyped", True),
    ],
)
def test_a_function_that_is_not_there_is_not_taken_for_a_domain(value: str, is_wrong: bool, settings: Any) -> None:
    settings.PRX_EMAIL = {"MESSAGE_ID_DOMAIN": value}
    assert [problem.id.rpartition(".")[2] for problem in problems()] == ["E005"] * is_wrong


def test_ids_that_could_be_repeated_are_a_warning_once_mail_leaves_this_machine(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    factories.account("local")
    assert "W044" not in found()
    factories.account("far", host="smtp.example.com", security="tls")
    assert "W044" in found()
    settings.PRX_EMAIL = {**MEMORY, "MESSAGE_ID_DOMAIN": "mail.example.com"}
    assert "W044" not in found()


def test_a_from_address_of_this_machine_is_a_warning_where_it_would_be_used(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "MESSAGE_ID_DOMAIN": "mail.example.com"}
    settings.DEFAULT_FROM_EMAIL = "webmaster@localhost"
    factories.account("local", email="")
    factories.account("with", host="smtp.example.com", security="tls")
    assert "W045" not in found()
    factories.account("without", host="smtp.example.com", security="tls", email="")
    assert "“without”" in found()["W045"] and "“with”" not in found()["W045"]
    settings.MAILERS = {"default": {"BACKEND": BACKEND}}
    assert "“with”" in found()["W045"], "Django puts DEFAULT_FROM_EMAIL into every message of its own"
    settings.DEFAULT_FROM_EMAIL = "Shop <shop@example.com>"
    assert "W045" not in found()
