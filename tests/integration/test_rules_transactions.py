"""Operations work inside a transaction, calls that speak SMTP refuse one; a drain is woken once, after the commit."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction

import prx_email_django as prx
from prx_email_django import api, store
from prx_email_django.api import wake
from prx_email_django.errors import SendInsideTransaction
from prx_email_django.models import OutboxMessage, OutboxState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Ending
from prx_email_django.signals import message_sent
from prx_email_django.store import db as base
from prx_email_django.transports.memory import shared
from tests.support.factories import NOW, account, finish, fresh, mail, message, take_one

WOKEN: list[int] = []
HERE = "tests.integration.test_rules_transactions"


def wake_up() -> None:
    """``WAKE`` of these tests: notes how many messages it could see."""
    WOKEN.append(OutboxMessage.objects.count())


def no_wake_up() -> None:
    """A ``WAKE`` whose broker is away."""
    WOKEN.append(-1)
    raise ConnectionError("the broker is away")


@pytest.fixture(autouse=True)
def _memory(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The caller waits for the wake-up: on a busy machine a tenth of a second is short for a new session.
    monkeypatch.setattr(wake, "PATIENCE", 0.95 * wake.DEADLINE)
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": f"{HERE}.wake_up"}
    shared.reset()
    WOKEN.clear()
    yield
    shared.reset()


SPEAKERS: dict[str, Callable[[OutboxMessage], object]] = {
    "send": lambda row: prx.send(**mail(row.account)),
    "reply": lambda row: prx.reply(account=row.account, in_reply_to_message_id="<1@x.org>", body_text="yes"),
    "retry_outbox": lambda row: prx.retry_outbox(row.pk, force=True),
    "drain": lambda row: prx.drain(),
}


def prepared() -> OutboxMessage:
    owner = account()
    prx.record_inbound(owner, b"From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\nhello")
    return api.enqueue(**mail(owner))


@pytest.mark.django_db(transaction=True)
def test_what_speaks_smtp_refuses_an_open_transaction() -> None:
    row = prepared()
    for name, call in SPEAKERS.items():
        with transaction.atomic():
            with pytest.raises(SendInsideTransaction) as refused:
                call(row)
            assert refused.value.code == "inside_transaction", name
            with transaction.atomic(), pytest.raises(SendInsideTransaction):
                call(row)
    assert shared.opened == []
    assert fresh(row).status == "pending"


@pytest.mark.django_db(transaction=True)
def test_what_speaks_smtp_refuses_a_connection_without_autocommit() -> None:
    row = prepared()
    transaction.set_autocommit(False)
    try:
        for call in SPEAKERS.values():
            with pytest.raises(SendInsideTransaction):
                call(row)
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@pytest.mark.django_db
@pytest.mark.parametrize("name", list(SPEAKERS))
def test_the_wrapper_of_a_test_case_does_not_count(name: str) -> None:
    row = prepared()
    SPEAKERS[name](row)
    assert len(shared.delivered) == 1
    with transaction.atomic(), pytest.raises(SendInsideTransaction):
        SPEAKERS[name](row)


@pytest.mark.django_db(transaction=True)
def test_queueing_works_on_a_connection_without_autocommit() -> None:
    owner = account()
    transaction.set_autocommit(False)
    try:
        row = message(owner, idempotency_key="k")
        assert message(owner, idempotency_key="k").pk == row.pk
        prx.requeue_outbox([row.pk], force=True)
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert fresh(row).status == "pending"


@pytest.mark.django_db(transaction=True)
def test_operations_work_inside_a_transaction() -> None:
    owner = account()
    rested = message(owner)
    finish(take_one(rested), Ending.PERMANENT)
    with transaction.atomic():
        prx.pause_outbox(owner, reason="a")
        prx.pause_outbox(reason="b")
        prx.resume_outbox()
        prx.resume_outbox(owner)
        assert prx.requeue_outbox([rested.pk]).changed == 1
        assert prx.cancel_outbox([rested.pk]).changed == 1
        assert prx.enqueue_many([{"to": "a@x.org", "subject": "s", "body_text": "t"}], account=owner)


# Waking


@pytest.mark.django_db(transaction=True)
def test_many_messages_are_one_wake_up_after_the_commit() -> None:
    owner = account()
    with transaction.atomic():
        for _ in range(5):
            message(owner)
        assert WOKEN == [], "inside, nobody would see them"
    assert WOKEN == [5]
    message(owner)
    assert WOKEN == [5], "a wake-up is on its way"
    prx.drain()
    message(owner)
    assert WOKEN == [5, 7], "the drain has cleared it"


@pytest.mark.django_db(transaction=True)
def test_a_wake_up_that_no_drain_answered_is_sent_again_after_a_minute() -> None:
    owner = account()
    message(owner)
    ago = base.database_now() - timedelta(seconds=50)
    OutboxState.objects.update(wake_requested_at=ago)
    message(owner)
    assert len(WOKEN) == 1
    OutboxState.objects.update(wake_requested_at=ago - timedelta(seconds=15))
    message(owner)
    assert len(WOKEN) == 2


@pytest.mark.django_db(transaction=True)
def test_nothing_is_woken_for_what_was_rolled_back() -> None:
    owner = account()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        message(owner)
        raise ZeroDivisionError
    assert WOKEN == []


@pytest.mark.django_db(transaction=True)
def test_a_savepoint_rolled_back_takes_no_others_wake_up_with_it() -> None:
    owner = account()
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            message(owner)
            raise ZeroDivisionError
        message(owner)
    assert WOKEN == [1]
    WOKEN.clear()
    OutboxState.objects.update(wake_requested_at=None)
    with transaction.atomic():
        message(owner)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            message(owner)
            raise ZeroDivisionError
    assert WOKEN == [2]


@pytest.mark.django_db(transaction=True)
def test_callers_do_not_wait_for_each_other_to_ask_for_a_drain() -> None:
    """Tried: with the wake row written inside the transaction, every caller waited for the slowest."""
    owner = account()
    store.outbox.outbox_state()
    with transaction.atomic():
        message(owner)
        before = OutboxState.objects.get().wake_requested_at
    assert before is None
    assert OutboxState.objects.get().wake_requested_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_wake_up_that_fails_never_reaches_the_caller(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": f"{HERE}.no_wake_up"}
    row = message(account())
    assert (WOKEN, fresh(row).status) == ([-1], "pending")
    assert "wake-up failed" in caplog.text
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": "tests.no_such_module.f"}
    OutboxState.objects.update(wake_requested_at=None)
    assert message(row.account).pk


@pytest.mark.django_db(transaction=True)
def test_a_message_that_is_not_due_wakes_no_drain_and_a_person_does() -> None:
    owner = account()
    row = message(owner, send_at=NOW + timedelta(days=1))
    assert WOKEN == []
    prx.cancel_outbox([row.pk])
    assert WOKEN == []
    prx.requeue_outbox([row.pk])
    assert WOKEN == [1]
    OutboxState.objects.update(wake_requested_at=None)
    prx.resume_outbox()
    assert WOKEN == [1, 1]


@pytest.mark.django_db(transaction=True)
def test_a_send_that_could_not_be_made_wakes_a_drain() -> None:
    owner = account(max_connections=1)
    prx.pause_outbox(owner, reason="holiday")
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code, result.retries) == ("pending", "paused", 0)
    assert result.next_attempt_at is not None
    assert WOKEN == [1]


# Async functions


@pytest.mark.django_db(transaction=True)
def test_the_async_functions_do_the_same_and_leave_no_connection_open() -> None:
    owner = account()
    prx.record_inbound(owner, b"From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\nhello")
    connections[outbox_alias()].close()

    async def closed(call: Awaitable[Any]) -> Any:
        result = await call
        # The thread of the async functions: Django's for synchronous code.
        opened = await sync_to_async(lambda: connections[outbox_alias()].connection)()
        assert opened is None, "its connection is open"
        return result

    async def all_of_them() -> list[Any]:
        queued = await closed(api.aenqueue(**mail(owner)))
        sent = await closed(api.asend(**mail(owner)))
        replied = await closed(api.areply(account=owner, in_reply_to_message_id="<1@x.org>", body_text="yes"))
        failed = await closed(api.asend(**mail(owner), failure_mode="provider_permanent"))
        retried = await closed(api.aretry_outbox(failed.outbox_id))
        report = await closed(api.adrain())
        return [queued.status, sent.status, replied.status, retried.status, report.sent]

    assert asyncio.run(all_of_them()) == ["pending", "sent", "sent", "sent", 1]
    assert len(shared.delivered) == 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("speaker", SPEAKERS)
def test_a_thread_with_a_running_event_loop_is_told_what_to_await(
    speaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = prepared()

    async def call() -> object:
        return SPEAKERS[speaker](row)

    async def call_and_close() -> None:
        SPEAKERS[speaker](row)
        connections[outbox_alias()].close()  # under an event loop Django opens another connection

    with pytest.raises(SynchronousOnlyOperation, match=rf"await a{speaker}\("):
        asyncio.run(call())
    assert OutboxMessage.objects.count() == 1
    assert (fresh(row).status, shared.delivered) == ("pending", [])
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Django's setting for notebooks
    asyncio.run(call_and_close())
    assert len(shared.delivered) == 1


@pytest.mark.parametrize("name", ["send", "enqueue", "reply", "retry_outbox", "drain"])
def test_an_async_function_takes_the_arguments_of_its_function(name: str) -> None:
    function, async_function = getattr(api, name), getattr(api, f"a{name}")
    assert inspect.signature(async_function) == inspect.signature(function)
    assert get_type_hints(async_function) == get_type_hints(function)
    assert inspect.iscoroutinefunction(async_function)
    assert (async_function.__name__, async_function.__module__) == (f"a{name}", "prx_email_django.api.aio")
    assert pickle.loads(pickle.dumps(async_function)) is async_function
    with pytest.raises(TypeError, match="no_such_argument"):
        asyncio.run(async_function(no_such_argument=1))


def test_send_and_enqueue_show_the_parameters_that_they_take() -> None:
    sending, queueing = (inspect.signature(function).parameters for function in (api.send, api.enqueue))
    assert list(sending)[:4] == ["account", "to", "subject", "body_text"]
    assert set(sending) ^ set(queueing) == {"failure_mode", "send_at"}
    assert not {"in_reply_to", "references"} & set(queueing)
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in (*sending.values(), *queueing.values())
    )
    assert (sending["priority"].default, sending["cc"].default, queueing["send_at"].default) == (0, (), None)
    for function, parameters in ((api.send, sending), (api.enqueue, queueing)):
        assert set(get_type_hints(function)) == {*parameters, "return"}


@pytest.mark.parametrize("name", ["send", "enqueue"])
def test_a_misspelt_or_missing_argument_is_named_with_its_function(name: str) -> None:
    given = {"account": 1, "to": "ann@example.com", "subject": "Hello", "body_text": "text"}
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'references'$"):
        getattr(api, name)(**given, references="<1@example.com>")
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing 1 required .* 'to'$"):
        getattr(api, name)(**{key: value for key, value in given.items() if key != "to"})


@pytest.mark.django_db
def test_signals_are_sent_inside_a_test_case_too() -> None:
    """``on_commit`` never fires there, so signals must not wait for it."""
    heard: list[int] = []

    def receiver(message: OutboxMessage, **_: Any) -> None:
        heard.append(message.pk)
        raise RuntimeError("a receiver never disturbs delivery")

    message_sent.connect(receiver)
    try:
        row = message(account())
        assert prx.drain(now=NOW).sent == 1
    finally:
        message_sent.disconnect(receiver)
    assert heard == [row.pk]
