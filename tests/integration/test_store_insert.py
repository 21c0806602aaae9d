"""enqueue: one message for each key, whatever happens at the same moment, and nothing without the caller's commit."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import Attachment, Content, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Ending
from tests.support.factories import MEMORY, NOW, SECOND, account, finish, fresh, in_threads, mail, message, take_one
from tests.support.patience import PATIENCE


@pytest.mark.django_db
def test_a_queued_message_is_pending_and_due_at_its_time() -> None:
    owner = account()
    row = message(owner)
    assert (row.status, row.next_attempt_at, row.due_since) == ("pending", NOW, NOW)
    later = message(owner, send_at=NOW + SECOND)
    assert (later.next_attempt_at, later.due_since) == (NOW + SECOND, NOW + SECOND)
    assert (row.retries, row.attempts, row.message_number, row.claim_token) == (0, 0, None, None)


@pytest.mark.django_db
def test_an_address_is_in_the_envelope_once_however_often_it_is_given() -> None:
    row = message(account(), to=["a@x.org", "A <a@x.org>"], cc="a@x.org", bcc=["b@x.org", "a@x.org"])
    assert sorted(row.recipients.values_list("kind", "address")) == [("bcc", "b@x.org"), ("to", "a@x.org")]


@pytest.mark.django_db
def test_a_key_returns_the_first_message_whatever_became_of_it() -> None:
    owner = account()
    row = message(owner, idempotency_key="order-1")
    again = message(owner, idempotency_key="order-1", subject="Another", to="bob@example.org")
    assert (again.pk, again.subject, Recipient.objects.count()) == (row.pk, "Hello", 1)
    finish(take_one(row), Ending.ACCEPTED)
    assert message(owner, idempotency_key="order-1").pk == row.pk
    assert fresh(row).status == "sent"


@pytest.mark.django_db
def test_keys_that_differ_in_case_or_accent_alone_are_two_keys() -> None:
    """Tried: in MariaDB a text column swallowed ``order-abC`` for ``order-Abc``."""
    owner = account()
    keys = ["order-Abc", "order-abC", "commande-é", "commande-e", "order-Abc ", "Straße", "Strasse"]
    assert len({message(owner, idempotency_key=key).pk for key in keys}) == len(keys)
    assert {message(owner, idempotency_key=key).idempotency_key for key in keys} == set(keys)


@pytest.mark.django_db
def test_a_key_belongs_to_its_account() -> None:
    first, second = account("first"), account("second")
    assert message(first, idempotency_key="k").pk != message(second, idempotency_key="k").pk
    assert message(first).pk != message(first).pk, "no key, no sameness"


@pytest.mark.django_db
def test_a_key_is_honoured_within_one_bulk_call() -> None:
    owner = account()
    texts = [{"to": "a@x.org", "subject": "s", "body_text": "t", "idempotency_key": key} for key in ("a", "b", "a")]
    rows = prx.enqueue_many(texts, account=owner)
    assert rows[0].pk == rows[2].pk != rows[1].pk
    assert OutboxMessage.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "k" * 256, "a\nb", "\ud800"])
def test_a_key_that_cannot_be_kept_is_refused_at_the_call(key: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        message(account(), idempotency_key=key)
    assert refused.value.code == "invalid_option"


@pytest.mark.django_db
@pytest.mark.parametrize("tag", ["t" * 101, "a\rb", "\udfff"])
def test_a_tag_that_cannot_be_kept_is_refused_at_the_call(tag: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        message(account(), tag=tag)
    assert refused.value.code == "invalid_option"


@pytest.mark.django_db
def test_a_rolled_back_transaction_leaves_nothing_and_its_key_free() -> None:
    owner = account()
    part = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"x")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        message(owner, idempotency_key="k", attachment=part)
        raise ZeroDivisionError
    for model in (OutboxMessage, Recipient, Attachment, Content):
        assert not model.objects.exists()
    assert message(owner, idempotency_key="k").pk


@pytest.mark.django_db
def test_a_known_key_inside_a_transaction_leaves_it_usable() -> None:
    """A conflict that is not handled in a savepoint breaks the caller's whole transaction in PostgreSQL."""
    owner = account()
    with transaction.atomic():
        first = message(owner, idempotency_key="k")
        assert message(owner, idempotency_key="k").pk == first.pk
        message(owner)
    assert OutboxMessage.objects.count() == 2


@pytest.mark.django_db
def test_a_bulk_call_is_all_or_nothing() -> None:
    owner = account()
    good = {"to": "a@x.org", "subject": "s", "body_text": "t"}
    with pytest.raises(InvalidMessage) as refused:
        prx.enqueue_many([good, {**good, "to": ""}], account=owner)
    assert refused.value.__notes__ == ["enqueue_many: message 1, counted from 0; none of them has been queued"]
    assert not OutboxMessage.objects.exists()
    rows = prx.enqueue_many([{**good, "subject": str(n)} for n in range(1203)], account=owner)
    assert [row.subject for row in rows] == [str(n) for n in range(1203)]
    assert Recipient.objects.count() == OutboxMessage.objects.count() == 1203


@pytest.mark.django_db
def test_an_account_with_messages_cannot_be_deleted_under_them() -> None:
    owner = account()
    message(owner)
    with pytest.raises(Exception, match="protected"):
        owner.delete()


# At the same moment


@pytest.mark.django_db(transaction=True)
def test_the_same_key_at_the_same_moment_makes_one_message() -> None:
    owner = account()
    for number in range(10):
        key = f"order-{number}"
        rows = in_threads(*[lambda key=key: message(owner, idempotency_key=key)] * 4)
        assert len({row.pk for row in rows}) == 1, rows
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 10


@pytest.mark.django_db(transaction=True)
def test_the_same_key_in_two_transactions_of_which_one_is_rolled_back_is_not_lost() -> None:
    owner = account()
    inserted, waiting = threading.Event(), threading.Event()

    def rolled_back() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            message(owner, idempotency_key="k", subject="rolled back")
            inserted.set()
            waiting.wait(PATIENCE)
            raise ZeroDivisionError

    def kept() -> OutboxMessage:
        assert inserted.wait(PATIENCE)
        waiting.set()
        return message(owner, idempotency_key="k", subject="kept")

    _, row = in_threads(rolled_back, kept)
    assert fresh(row).subject == "kept"


@pytest.mark.django_db(transaction=True)
def test_a_send_with_a_known_key_starts_no_attempt(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    owner = account()
    queued = message(owner, idempotency_key="a", send_at=NOW + timedelta(days=9000))
    result = prx.send(**mail(owner, idempotency_key="a"))
    assert (result.outbox_id, result.status, result.error_code) == (queued.pk, "pending", "")
    sent = prx.send(**mail(owner, idempotency_key="b"))
    again = prx.send(**mail(owner, idempotency_key="b"))
    assert (again.outbox_id, again.status) == (sent.outbox_id, "sent")
    assert again.provider_message_id == sent.provider_message_id
    failed = prx.send(**mail(owner, idempotency_key="c"), failure_mode="provider_permanent")
    again = prx.send(**mail(owner, idempotency_key="c"))
    assert (again.status, again.error_code, again.retries) == ("failed", "provider", 1)
    assert failed.outbox_id == again.outbox_id
    sending = message(owner, idempotency_key="d")
    take_one(sending)
    assert prx.send(**mail(owner, idempotency_key="d")).status == "sending"
    assert OutboxMessage.objects.count() == 4


@pytest.mark.django_db(transaction=True)
def test_two_sends_with_one_key_at_the_same_moment_send_once(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    owner = account(max_connections=4)
    found = in_threads(*[lambda: prx.send(**mail(owner, idempotency_key="k"))] * 3)
    assert len({result.outbox_id for result in found}) == 1, found
    assert OutboxMessage.objects.get().delivery_attempts.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_files_in_opposite_order_never_make_two_callers_wait_for_each_other() -> None:
    """Tried: with a unique hash, two callers with p,q and q,p deadlocked."""
    owner = account()
    files = [
        prx.AttachmentInput(filename=name, content_type="text/plain", content=name.encode() * 900) for name in "pq"
    ]
    barrier = threading.Barrier(2)

    def both(order: list[Any]) -> int:
        with transaction.atomic():
            message(owner, attachment=order[0])
            if connections[outbox_alias()].vendor != "sqlite":  # it has one writer at a time
                barrier.wait(PATIENCE)
            return message(owner, attachment=order[1]).pk

    found = in_threads(lambda: both(files), lambda: both(files[::-1]))
    assert all(isinstance(count, int) for count in found), found
    assert [attachment.open().read() for attachment in Attachment.objects.order_by("filename", "pk")] == [
        b"p" * 900, b"p" * 900, b"q" * 900, b"q" * 900
    ]  # fmt: skip
