"""Accounts that settings name: a missing one is found before mail is lost, and the error says where it was named."""

from __future__ import annotations

from typing import Any

import django
import pytest
from django.core import checks

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import AccountUnavailable
from prx_email_django.models import Account
from prx_email_django.models.managers import outbox_alias
from prx_email_django.status.figures import Health, judge, outbox_status
from tests.integration.backend_messages import make_email
from tests.integration.face_rows import run
from tests.support import factories
from tests.support.factories import MEMORY, SECOND

pytestmark = pytest.mark.django_db

BACKEND = "prx_email_django.backends.OutboxEmailBackend"
MAILER: dict[str, Any] = {"MAILERS": {"bulk": {"BACKEND": BACKEND, "OPTIONS": {"account": "news"}}}}
DEFAULT: dict[str, Any] = {"PRX_EMAIL": {**MEMORY, "DEFAULT_ACCOUNT": "news"}}


class OwnChoice(OutboxEmailBackend):
    """A backend that chooses the account itself."""


def router(message: object) -> str:
    """An ``ACCOUNT_ROUTER`` whose account does not exist."""
    return "by-router"


def configure(settings: Any, **values: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    for name, value in values.items():
        setattr(settings, name, value)


def warned() -> list[checks.CheckMessage]:
    found = checks.run_checks(tags=[checks.Tags.database], databases=[outbox_alias()])
    return [message for message in found if str(message.id) in ("prx_email_django.W040", "prx_email_django.W041")]


@pytest.mark.parametrize(
    ("configured", "named_by", "rule"),
    [(DEFAULT, 'PRX_EMAIL["DEFAULT_ACCOUNT"]', "W040"), (MAILER, "MAILERS['bulk']", "W041")],
)
def test_an_account_that_settings_name_is_missed_before_mail_is_lost(
    configured: dict[str, Any], named_by: str, rule: str, settings: Any
) -> None:
    factories.account("main")
    configure(settings, **configured)
    (warning,) = warned()
    assert warning.id == f"prx_email_django.{rule}" and warning.level == checks.WARNING and warning.hint
    assert f"There is no account “news”, which {named_by} names; there are “main”" in warning.msg
    health, reason = judge(outbox_status(), max_age=SECOND)
    assert health is Health.BROKEN and named_by in reason and "“main”" in reason and "from_preset" in reason
    assert named_by in run("outbox_status")
    with pytest.raises(SystemExit) as ended:
        run("outbox_status", "--check")
    assert ended.value.code == 2

    made = factories.account("news", is_active=False)
    (warning,) = warned()
    assert "is switched off" in warning.msg and named_by in warning.msg
    Account.objects.filter(pk=made.pk).update(is_active=True)
    assert warned() == []
    assert judge(outbox_status(), max_age=SECOND) == (Health.WELL, "well")


def test_a_mailer_that_finds_no_account_is_missed_before_mail_is_lost(settings: Any) -> None:
    if django.VERSION < (6, 1):  # deprecated since
        configure(settings, EMAIL_BACKEND=BACKEND)
        assert warned() == [], "Django's own EMAIL_HOST is the account"
        settings.PRX_EMAIL = {**MEMORY, "ACCOUNTS": {"shop": "smtp+clear://localhost:1025"}}
        (warning,) = warned()
        assert warning.id == "prx_email_django.W041" and "has no DEFAULT_ACCOUNT" in warning.msg
    configure(settings, MAILERS={"default": {"BACKEND": BACKEND}})
    (warning,) = warned()
    assert warning.id == "prx_email_django.W041" and "has no DEFAULT_ACCOUNT" in warning.msg
    assert judge(outbox_status(), max_age=SECOND)[0] is Health.BROKEN
    settings.PRX_EMAIL = {**MEMORY, "ACCOUNT_ROUTER": f"{__name__}.router"}
    assert warned() == [], "a router may name an account for every message"
    settings.PRX_EMAIL = MEMORY
    settings.MAILERS = {"default": {"BACKEND": f"{__name__}.OwnChoice"}, "smtp": {"BACKEND": "x.y"}, "odd": None}
    assert warned() == []


def test_a_project_without_the_tables_is_migrated_without_an_error(settings: Any, monkeypatch: Any) -> None:
    configure(settings, **DEFAULT)
    monkeypatch.setattr(Account._meta, "db_table", "not_migrated_yet")
    assert warned() == []
    assert checks.run_checks(tags=[checks.Tags.database]) == [], "without --database nothing is read"


def error_of(call: Any, *args: Any, **options: Any) -> AccountUnavailable:
    with pytest.raises(AccountUnavailable) as raised:
        call(*args, **options)
    return raised.value


@pytest.mark.parametrize("call", [prx.enqueue, pytest.param(prx.send, marks=pytest.mark.django_db(transaction=True))])
def test_the_error_names_the_accounts_that_there_are(call: Any, settings: Any) -> None:
    configure(settings)
    values = {"to": "ann@example.org", "subject": "Hello", "body_text": "Hi."}
    assert "there is no account yet: declare an account in PRX_EMAIL" in str(error_of(call, account="news", **values))
    for number in range(7):
        factories.account(f"n{number}")
    error = error_of(call, account="news", **values)
    assert error.code == "account_not_found"
    assert str(error).startswith(
        "there is no account “news”; there are “n0”, “n1”, “n2”, “n3”, “n4”, …; declare an account in"
    )
    error = error_of(call, account=None, **values)
    assert error.code == "no_default_account" and "DEFAULT_ACCOUNT" in str(error) and "“n0”" in str(error)
    configure(settings, **DEFAULT)
    assert 'which PRX_EMAIL["DEFAULT_ACCOUNT"] names' in str(error_of(call, account=None, **values))


def test_the_error_says_whether_mailer_router_or_default_named_the_account(settings: Any, caplog: Any) -> None:
    configure(settings, PRX_EMAIL={**MEMORY, "ACCOUNT_ROUTER": f"{__name__}.router", "DEFAULT_ACCOUNT": "x"})
    backend = OutboxEmailBackend(account="by-option")
    assert "which the option “account” of the email backend names" in str(
        error_of(backend.send_messages, [make_email()])
    )
    error = error_of(OutboxEmailBackend().send_messages, [make_email()])
    assert '“by-router”, which PRX_EMAIL["ACCOUNT_ROUTER"]' in str(error)
    assert OutboxEmailBackend(fail_silently=True).send_messages([make_email()]) == 0
    assert "by-router" in caplog.text, "the log says what was lost, and why"
