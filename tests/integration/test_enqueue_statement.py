"""Queueing in few statements: the same rows, errors and promises as in many, and nothing outdated is used."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.api import wake
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import AccountUnavailable, InvalidMessage
from prx_email_django.models import Account, AccountState, OutboxMessage, OutboxState
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import begin_drain, outbox_state, wake_requested
from prx_email_django.worker import ready_accounts
from tests.support.factories import account, mail
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

IS_POSTGRES = connection.vendor == "postgresql"
#: SQLite writes two tables by a statement each.
ONE = 2 if connection.vendor == "sqlite" else 1
needs_two_connections = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")


@pytest.fixture(autouse=True)
def _a_busy_machine_costs_no_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that takes long is followed by another one, which asks for a drain."""
    monkeypatch.setattr(wake, "LOOKS_FOR", 60.0)


def statements(call: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        call()
    borders = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    # PostgreSQL's savepoint and its statement are one text.
    return [query["sql"] for query in captured if ";" in query["sql"] or not query["sql"].startswith(borders)]


def elsewhere(call: Callable[[], object]) -> None:
    """Call in a thread with a connection of its own; it must not wait."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for another transaction"
    assert not errors, errors


def email(owner: Account, **headers: str) -> EmailMessage:
    message = EmailMessage("Hello", "Hi.", "shop@example.com", ["ann@example.org"], headers=headers)
    message.outbox_account = owner.name  # type: ignore[attr-defined]
    return message


def without_account(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "account"}


def test_a_message_costs_few_statements() -> None:
    owner, other = account(), account("other")
    outbox_state()
    prx.enqueue(**mail(owner.name))
    assert len(made := statements(lambda: prx.enqueue(**mail(owner.name)))) <= ONE, made
    assert len(made := statements(lambda: prx.enqueue(**mail(other)))) <= ONE, made
    key = {"idempotency_key": "order-1"}
    assert len(made := statements(lambda: prx.enqueue(**mail(owner.name, **key)))) <= ONE + (not IS_POSTGRES), made
    with transaction.atomic():
        inside = statements(lambda: prx.enqueue(**mail(owner.name)))
    assert len(inside) <= ONE, inside


def test_an_email_and_many_messages_cost_few_statements() -> None:
    owner = account()
    outbox_state()
    backend = OutboxEmailBackend()
    backend.send_messages([email(owner)])
    sent = email(owner)
    assert len(made := statements(lambda: backend.send_messages([sent]))) == ONE, made
    assert OutboxMessage.objects.get(pk=sent.outbox_id).as_email()["Subject"] == "Hello"  # type: ignore[attr-defined]
    given = [without_account(mail(owner))] * 500
    assert len(made := statements(lambda: prx.enqueue_many(given, account=owner))) <= (3 if IS_POSTGRES else 5), made
    assert len(set(OutboxMessage.objects.values_list("recipients__address", "pk"))) == 502


@pytest.mark.parametrize("way", ["at first", "prepared", "in a transaction"])
def test_every_message_of_a_list_keeps_its_own_values(way: str) -> None:
    bulk, other = account(name="bulk"), account(name="other", email="other@example.com")
    later = timezone.now() + timedelta(hours=1)
    options: list[dict[str, Any]] = [
        {"metadata": {"is": 1}},
        {"metadata": {"is": True}},
        {"metadata": []},
        {"metadata": "null", "tag": 'a, "b" \\ c'},
        {"tag": "NULL", "subject": "NULL", "body_text": '{"é", \\\\"}\n'},
        {"to": ["b@example.com", "a@example.com"], "cc": "c@example.com", "bcc": "a@example.com"},
        {"send_at": later, "expires_at": later + timedelta(hours=1), "priority": -3, "is_sensitive": True},
        {"headers": {"X-One": "1"}, "on_unknown": "hold", "envelope_from": "<>"},
        {"body_text": "", "body_html": "<p>\\u12 \u2028 'x' %s {}</p>"},
    ]
    rendered = EmailMessage("S", "T", "f@example.com", ["e@example.com"], headers={"X-Two": "2"})
    rendered.outbox_account = other  # type: ignore[attr-defined]
    plain = EmailMessage("S", "T", "f@example.com", ["e@example.com"])
    if way == "prepared":  # the statement before shows that the connection can prepare
        prx.enqueue(**mail(bulk)).delete()
    with transaction.atomic() if way == "in a transaction" else nullcontext():
        written = prx.enqueue_many(
            [rendered, *(without_account(mail(bulk)) | given for given in options), plain], account=bulk
        )

    names = [field.attname for field in OutboxMessage._meta.concrete_fields]
    stored = OutboxMessage.objects.order_by("pk")
    assert [vars(row).get(name) for row in written for name in names] == [
        getattr(row, name) for row in stored for name in names
    ]
    assert [row.account_id for row in stored] == [other.pk, *[bulk.pk] * 10]
    assert [repr(row.metadata) for row in stored[1:5]] == ["{'is': 1}", "{'is': True}", "[]", "'null'"]
    assert (stored[5].tag, stored[5].body_text) == ("NULL", options[4]["body_text"])
    assert list(stored[6].recipients.values_list("kind", "address")) == [
        ("to", "b@example.com"),
        ("to", "a@example.com"),
        ("cc", "c@example.com"),
    ]
    assert [row.raw_id is not None for row in stored] == [True] + [False] * 10
    assert stored[9].body_html == options[8]["body_html"]


def test_values_that_only_python_holds_for_equal_stay_different() -> None:
    owner = account()
    given = [without_account(mail(owner, metadata={"is": value})) for value in (1, True, 1.0)]
    prx.enqueue_many(given, account=owner)
    stored = OutboxMessage.objects.order_by("pk").values_list("metadata", flat=True)
    assert [repr(metadata) for metadata in stored[:2]] == ["{'is': 1}", "{'is': True}"]


def test_the_returned_message_is_what_the_database_holds() -> None:
    owner = account()
    options = {"tag": "news", "priority": 3, "headers": {"X-A": "b"}, "metadata": {"n": [1, {"é": None}]}}
    rows = [prx.enqueue(**mail(owner, cc=["B <b@x.org>"], **options)), prx.enqueue(**mail(owner.name))]
    rows += prx.enqueue_many(
        [{name: value for name, value in mail(owner, **options).items() if name != "account"}], account=owner
    )
    for row in rows:
        held = OutboxMessage.objects.get(pk=row.pk)
        for field in OutboxMessage._meta.concrete_fields:
            assert getattr(row, field.attname) == getattr(held, field.attname), field.name
        assert row.account == owner


@pytest.mark.parametrize("given", [{}, {"expires_at": timezone.now() + timedelta(days=1)}])
def test_a_message_that_is_due_at_once_has_one_instant(given: dict[str, Any]) -> None:
    account("known")
    message = prx.enqueue(**mail("known", **given))
    for row in (message, OutboxMessage.objects.get()):
        assert row.created_at == row.updated_at == row.due_since == row.next_attempt_at


def test_an_account_that_has_changed_is_not_used_as_it_was_known() -> None:
    owner = account("known", email="old@example.com")
    prx.enqueue(**mail("known"))
    Account.objects.filter(pk=owner.pk).update(email="new@example.com")
    assert prx.enqueue(**mail("known")).from_email == "new@example.com"
    Account.objects.filter(pk=owner.pk).update(rate_limits="1 recipients/day")
    with pytest.raises(InvalidMessage, match="at most 1 recipients"):
        prx.enqueue(**mail("known", to=["a@x.org", "b@x.org"]))
    AccountState.objects.update_or_create(account=owner, defaults={"size_limit": 100})
    with pytest.raises(InvalidMessage) as refused:
        prx.enqueue(**mail("known", body_text="x" * 200))
    assert refused.value.code == "message_too_large"
    Account.objects.filter(pk=owner.pk).update(is_active=False)
    with pytest.raises(AccountUnavailable):
        prx.enqueue(**mail("known"))
    Account.objects.filter(pk=owner.pk).update(is_active=True, name="renamed")
    with pytest.raises(AccountUnavailable):
        prx.enqueue(**mail("known"))
    assert OutboxMessage.objects.count() == 2


def test_after_a_change_of_the_account_a_message_costs_few_statements_again() -> None:
    owner = account("known")
    outbox_state()
    prx.enqueue(**mail("known"))
    Account.objects.filter(pk=owner.pk).update(email="new@example.com")
    prx.enqueue(**mail("known"))
    prx.enqueue(**mail("known"))
    assert len(made := statements(lambda: prx.enqueue(**mail("known")))) == ONE, made


def test_a_rolled_back_change_of_an_account_is_forgotten() -> None:
    owner = account("known", email="old@example.com")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Account.objects.filter(pk=owner.pk).update(email="new@example.com")
        assert prx.enqueue(**mail("known")).from_email == "new@example.com"
        raise ZeroDivisionError
    assert prx.enqueue(**mail("known")).from_email == "old@example.com"


def test_a_text_that_the_database_refuses_leaves_the_callers_transaction_usable() -> None:
    owner = account()
    with transaction.atomic():
        with pytest.raises(InvalidMessage):
            prx.enqueue(**mail(owner, subject="a lone surrogate \udc80"))
        with pytest.raises(InvalidMessage):
            prx.enqueue(**mail(owner, metadata={"n": "\x00"}))
        prx.enqueue(**mail(owner, body_text=r"no NUL: \u0000"))
    assert OutboxMessage.objects.count() == 1


@needs_two_connections
def test_open_transactions_do_not_hold_up_each_others_messages() -> None:
    owner = account()
    outbox_state()
    with transaction.atomic():
        prx.enqueue(**mail(owner))
        elsewhere(lambda: prx.enqueue(**mail(owner.name)))
        assert OutboxState.objects.select_for_update().get(pk=1)  # as a pause of everything does
        elsewhere(lambda: prx.enqueue(**mail(owner.name)))
    assert OutboxMessage.objects.count() == 3


def test_a_statement_that_took_long_asks_again_after_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account()
    outbox_state()
    prx.enqueue(**mail(owner))
    assert not [sql for sql in statements(lambda: prx.enqueue(**mail(owner))) if "wake_requested_at" in sql[:60]]
    monkeypatch.setattr(wake, "LOOKS_FOR", 0.0)
    assert [sql for sql in statements(lambda: prx.enqueue(**mail(owner))) if "wake_requested_at" in sql[:60]]


def test_every_message_that_is_due_asks_for_a_drain_and_no_other_does() -> None:
    owner = account()
    clock = clock_for(None)
    for more, asks in (({}, True), ({"send_at": clock.now.replace(year=2999)}, False)):
        begin_drain(clock=clock)
        prx.enqueue(**mail(owner, **more))
        assert wake_requested() is asks
    begin_drain(clock=clock)
    with transaction.atomic():
        prx.enqueue(**mail(owner))
        assert not wake_requested()
    assert wake_requested()
    OutboxState.objects.all().delete()  # it is made where it is missing
    prx.enqueue(**mail(owner))
    assert wake_requested()


def test_a_drain_that_was_asked_for_finds_what_is_committed_a_moment_after_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message whose statement found the wake-up noted, and is committed after the drain's look, would wait."""
    owner = account()
    OutboxState.objects.update_or_create(pk=1, defaults={"wake_requested_at": clock_for(None).now})
    real, found = ready_accounts.first_claimable, []

    def look(*args: Any, **options: Any) -> int | None:
        found.append(head := real(*args, **options))
        if len(found) == 1:
            with transaction.atomic():
                prx.enqueue(**mail(owner))
                connection.run_on_commit.clear()  # it asks for nothing
        return head

    monkeypatch.setattr(ready_accounts, "first_claimable", look)
    assert prx.drain().sent == 1
    assert found[0] is None


def many(count: int, *, size: int = 10, bad: int = -1) -> Iterator[dict[str, Any]]:
    for number in range(count):
        text = "" if number == bad else f"{number} " + "x" * size
        yield {"to": f"c{number}@example.org", "subject": "Hello", "body_text": text}


def test_a_long_list_is_queued_in_bounded_memory() -> None:
    """The content of three thousand messages takes 60 MB; a thousand of them are held at a time."""
    owner = account()
    tracemalloc.start()
    try:
        rows = prx.enqueue_many(many(3000, size=20_000), account=owner)
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 160 * 10**6
        del rows[:1000]
        kept = tracemalloc.get_traced_memory()[0]
        assert kept < 12 * 10**6
    finally:
        tracemalloc.stop()
    assert rows[-1].body_text.startswith("2999 ")


def test_an_error_in_a_long_list_leaves_nothing_behind() -> None:
    owner = account()
    first = email(owner)
    with pytest.raises(InvalidMessage) as refused:
        prx.enqueue_many([first, *many(1500, bad=1200)], account=owner)
    assert "message 1201" in str(refused.value.__notes__)
    assert not OutboxMessage.objects.exists()
    assert getattr(first, "outbox_id", None) is None


@pytest.mark.parametrize("is_known", [False, True], ids=["first statement", "later statement"])
def test_a_message_may_have_more_recipients_than_a_statement_parameters(is_known: bool) -> None:
    """PostgreSQL's driver takes 65 535 parameters, and a recipient would need two."""
    owner = account()
    connection.close()
    if is_known:
        prx.enqueue(**mail(owner))
    many = [f"guest{number}@example.org" for number in range(33_000)]
    row = prx.enqueue(**mail(owner), bcc=many, idempotency_key="all")
    assert row.recipients.count() == 33_001
    assert prx.enqueue(**mail(owner), bcc=many, idempotency_key="all").pk == row.pk
