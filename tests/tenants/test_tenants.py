"""django-tenants: an outbox in each tenant's schema, or one in the shared schema (``OUTBOX``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django_tenants.utils import schema_context, tenant_context

import prx_email_django as prx
from prx_email_django.models import Account, OutboxMessage
from tests.support.documents import blocks
from tests.support.smtp_server import SmtpServer
from tests.tenants.customers.models import Customer

in_each_schema = pytest.mark.skipif(settings.OUTBOX != "tenants", reason="the outbox is in the shared schema")
in_one_schema = pytest.mark.skipif(settings.OUTBOX != "shared", reason="each schema has an outbox")
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def django_db_setup(django_db_blocker: Any) -> Iterator[None]:
    """A database with the schemas ``seven`` and ``eight``."""
    with django_db_blocker.unblock():
        connection.creation.create_test_db(verbosity=0)
        for name in ("seven", "eight"):
            Customer.objects.create(schema_name=name)
        yield
        connection.creation.destroy_test_db(settings.DATABASES["default"]["NAME"], verbosity=0)


@pytest.fixture(scope="module")
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as started:
        yield started


@pytest.fixture(autouse=True)
def _keep_tenants(monkeypatch: pytest.MonkeyPatch, server: SmtpServer) -> Iterator[None]:
    """The tenants stay; their mail does not.  pytest-django would empty the tables of the tenants themselves."""
    server.messages.clear()
    yield
    for schema in ("seven", "eight") if settings.OUTBOX == "tenants" else ("public",):
        with schema_context(schema):
            OutboxMessage.objects.all().delete()
            Account.objects.all().delete()


@pytest.fixture
def _django_db_helper(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """In the place of pytest-django's own, which empties every table of the database."""
    with django_db_blocker.unblock():
        yield


def make_account(server: SmtpServer, **fields: Any) -> Account:
    values = {"name": "main", "host": server.host, "port": server.port, "security": "none", "auth_method": "none"}
    account: Account = Account.objects.create(**values | {"email": "shop@example.com"} | fields)
    return account


def enqueue(text: str) -> OutboxMessage:
    return prx.enqueue(account="main", to="ann@example.org", subject=text, body_text="Hi.")


def ids(server: SmtpServer) -> list[str]:
    lines = [line for message in server.messages for line in message.data.decode().split("\r\n")]
    return [line.removeprefix("Message-ID: ") for line in lines if line.startswith("Message-ID: ")]


@in_each_schema
def test_each_schema_sends_its_own_mail_under_ids_of_its_own(server: SmtpServer) -> None:
    numbers = {}
    for tenant in Customer.objects.order_by("schema_name"):
        with tenant_context(tenant):
            make_account(server, email=f"shop@{tenant.schema_name}.example")
            numbers[tenant.schema_name] = enqueue(tenant.schema_name).pk
    for tenant in Customer.objects.order_by("schema_name"):
        with tenant_context(tenant):
            assert prx.drain().sent == 1
            assert OutboxMessage.objects.get().provider_message_id in ids(server)
    assert ids(server) == [f"<outbox-{numbers[name]}-0@{name}.mail.example.com>" for name in ("eight", "seven")]
    assert [message.sender for message in server.messages] == ["shop@eight.example", "shop@seven.example"]


@in_each_schema
def test_an_account_of_one_schema_is_never_taken_for_that_of_another(server: SmtpServer) -> None:
    with transaction.atomic():  # both rows have the same name, key, place and transaction
        for name in ("seven", "eight"):
            with schema_context(name):
                make_account(server, pk=1_000_000, email=f"shop@{name}.example")
    for name in ("seven", "eight", "seven"):
        with schema_context(name):
            enqueue(name)
            result = prx.send(account="main", to="ann@example.org", subject=name, body_text="Hi.")
            assert result.status == "sent"
            assert server.messages[-1].sender == f"shop@{name}.example"
            assert prx.drain().sent == 1
            assert server.messages[-1].sender == f"shop@{name}.example"


@in_each_schema
def test_mail_of_a_schema_that_is_rolled_back_is_never_sent(server: SmtpServer) -> None:
    with schema_context("seven"):
        make_account(server)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            enqueue("never")
            _ = 1 / 0
        assert prx.drain().sent == 0


@in_each_schema
def test_the_commands_run_in_the_schema_that_tenant_command_names(server: SmtpServer) -> None:
    for name in ("seven", "eight"):
        with schema_context(name):
            make_account(server)
            enqueue(name)
    call_command("tenant_command", "flush_outbox", schema="seven")
    assert len(server.messages) == 1
    call_command("all_tenants_command", "flush_outbox", "--no-public")
    assert len(server.messages) == 2


@in_each_schema
def test_the_drain_that_is_shown_sends_the_mail_of_every_schema(server: SmtpServer) -> None:
    for name in ("seven", "eight"):
        with schema_context(name):
            make_account(server)
            enqueue(name)
    (shown,) = (block for block in blocks("docs/how-to/tenants.md") if "tenant_context" in block.text)
    exec(compile(shown.text, str(shown), "exec"), {})
    assert len(server.messages) == 2


@in_each_schema
def test_accounts_of_the_settings_are_made_in_the_schema_that_uses_them(server: SmtpServer, settings: Any) -> None:
    url = f"smtp+clear://{server.host}:{server.port}?email=shop@example.com"
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "ACCOUNTS": {"main": url}, "DEFAULT_ACCOUNT": "main"}
    for name in ("seven", "eight"):
        with schema_context(name), transaction.atomic():
            prx.enqueue(to="ann@example.org", subject=name, body_text="Hi.")
        with schema_context(name):
            assert Account.objects.get().name == "main"
            assert prx.drain().sent == 1


@in_one_schema
def test_one_drain_sends_the_mail_of_all_schemas(server: SmtpServer) -> None:
    make_account(server)
    numbers = []
    for name in ("seven", "eight"):
        with schema_context(name), transaction.atomic():
            numbers.append(enqueue(name).pk)
    with schema_context("seven"):
        assert OutboxMessage.objects.count() == 2
    assert prx.drain().sent == 2
    assert len(set(numbers)) == len(set(ids(server))) == 2


@in_one_schema
def test_mail_that_a_tenant_sends_at_once_is_in_the_shared_outbox(server: SmtpServer) -> None:
    make_account(server)
    with schema_context("seven"):
        assert prx.send(account="main", to="ann@example.org", subject="now", body_text="Hi.").status == "sent"
    assert OutboxMessage.objects.get().status == "sent"
