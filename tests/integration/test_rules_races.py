"""Two callers at once must not exceed a lowered limit, and neither may fail because of the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.limits import slots
from prx_email_django.limits.slots import release_slots
from prx_email_django.models import Account, ConnectionSlot, Content, OutboxMessage
from prx_email_django.transports.memory import shared
from tests.support.factories import MEMORY, account, at, in_threads, mail
from tests.support.patience import PATIENCE
from tests.support.slots import acquire_slot

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> Any:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


def test_a_lowered_maximum_is_not_exceeded_while_a_high_slot_is_in_use() -> None:
    owner = account(max_connections=3)
    acquired = [acquire_slot(owner, noted=set(), clock=at(None)) for _ in range(3)]
    release_slots([slot for slot in acquired[:2] if slot])  # number 3 is still open
    Account.objects.filter(pk=owner.pk).update(max_connections=2)
    owner.refresh_from_db()
    inside, go = threading.Event(), threading.Event()

    def first() -> Any:
        with transaction.atomic():
            slot = acquire_slot(owner, noted=set(), clock=at(None))
            inside.set()
            go.wait(PATIENCE)
        return slot

    def second() -> Any:
        inside.wait(PATIENCE)
        threading.Timer(1.0, go.set).start()
        return acquire_slot(owner, noted=set(), clock=at(None))

    got = in_threads(first, second)
    live = ConnectionSlot.objects.filter(account=owner, token__isnull=False).count()
    assert live <= 2, (live, got)


def test_a_lowered_maximum_is_not_exceeded_outside_transactions_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both count before either takes: two plain calls on every engine."""
    owner = account(max_connections=3)
    acquired = [acquire_slot(owner, noted=set(), clock=at(None)) for _ in range(3)]
    release_slots([slot for slot in acquired[:2] if slot])
    owner.max_connections = 2
    both = threading.Barrier(2)
    real, met = slots._take, threading.local()

    def take(*args: Any, **kwargs: Any) -> list[slots.Slot]:
        if not getattr(met, "once", False):
            met.once = True
            both.wait(PATIENCE)
        return real(*args, **kwargs)

    monkeypatch.setattr(slots, "_take", take)
    in_threads(
        lambda: acquire_slot(owner, noted=set(), clock=at(None)),
        lambda: acquire_slot(owner, noted=set(), clock=at(None)),
    )
    live = ConnectionSlot.objects.filter(account=owner, token__isnull=False).count()
    assert live <= 2, live


def test_two_enqueue_many_with_the_same_keys_in_opposite_order_do_not_fail() -> None:
    owner = account()

    def many(keys: list[str]) -> Any:
        return lambda: prx.enqueue_many(
            [{"to": "a@x.org", "subject": "s", "body_text": "b", "idempotency_key": key} for key in keys], account=owner
        )

    wrong = []
    for n in range(15):
        keys = [f"{n}-{i}" for i in range(40)]
        wrong += [error for error in in_threads(many(keys), many(keys[::-1])) if isinstance(error, Exception)]
    assert not wrong, wrong[:2]


def _while_the_first_caller_rolls_back(owner: Account, call: Callable[[], Any]) -> list[Any]:
    """Let four callers wait for a key whose first caller rolls back; return what each of them got."""
    inside, go = threading.Event(), threading.Event()

    def first() -> Any:
        class Undo(Exception):
            pass

        try:
            with transaction.atomic():
                prx.enqueue(**mail(owner, idempotency_key="k"))
                inside.set()
                go.wait(PATIENCE)
                raise Undo
        except Undo:
            return None

    def other() -> Any:
        inside.wait(PATIENCE)
        threading.Timer(1.0, go.set).start()
        return call()

    return in_threads(first, other, other, other, other)


def test_a_key_whose_first_caller_rolls_back_is_queued_by_another() -> None:
    owner = account()
    got = _while_the_first_caller_rolls_back(owner, lambda: prx.enqueue(**mail(owner, idempotency_key="k")).pk)
    wrong = [result for result in got if isinstance(result, Exception)]
    assert OutboxMessage.objects.count() == 1
    assert not wrong, wrong


def test_a_send_on_a_paused_account_survives_the_rollback_of_its_keys_first_caller() -> None:
    owner = account()
    prx.pause_outbox(owner, reason="r")
    got = _while_the_first_caller_rolls_back(owner, lambda: prx.send(**mail(owner, idempotency_key="k")).outbox_id)
    wrong = [result for result in got if isinstance(result, Exception)]
    assert not wrong, wrong


def test_content_is_not_purged_under_an_enqueue_with_an_old_now() -> None:
    """The content was stored 49 h ago and no message uses it; the caller's ``now`` is 30 h ago, the purge has none."""
    owner, now = account(), store.db.clock_for(None).now
    part = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"hello")
    prx.enqueue(**mail(owner, attachment=part))
    Content.objects.update(stored_at=now - timedelta(hours=49))
    OutboxMessage.objects.all().delete()
    inside, done = threading.Event(), threading.Event()

    def caller() -> int:
        with transaction.atomic():
            row = prx.enqueue(**mail(owner, attachment=part, now=now - timedelta(hours=30)))
            inside.set()
            done.wait(2)  # a purge that waits for this transaction's lock has begun by then
        return row.pk

    def purger() -> int:
        assert inside.wait(PATIENCE)
        report = store.purge.purge(clock=store.db.clock_for(None))
        done.set()
        return report.content

    got = in_threads(caller, purger)
    assert not [result for result in got if isinstance(result, Exception)], got
    assert got[1] == 1
    assert OutboxMessage.objects.get(pk=got[0]).attachments.get().open().read() == b"hello"
