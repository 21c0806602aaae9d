"""What two callers at once must not do: cross a limit that was lowered, or fail for the other's sake."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.limits import slots
from prx_email_django.limits.slots import acquire_slot, release_slots
from prx_email_django.models import Account, ConnectionSlot, Content, OutboxMessage
from prx_email_django.transports.memory import shared
from tests.support.factories import MEMORY, account, at, in_threads, letter

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> Any:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


def test_a_lowered_max_is_not_crossed_while_a_high_slot_is_held() -> None:
    owner = account(max_connections=3)
    held = [acquire_slot(owner, noted=set(), clock=at(None)) for _ in range(3)]
    release_slots([one for one in held[:2] if one])  # number 3 is still open
    Account.objects.filter(pk=owner.pk).update(max_connections=2)
    owner.refresh_from_db()
    inside, go = threading.Event(), threading.Event()

    def first() -> Any:
        with transaction.atomic():
            slot = acquire_slot(owner, noted=set(), clock=at(None))
            inside.set()
            go.wait(20)
        return slot

    def second() -> Any:
        inside.wait(20)
        threading.Timer(1.0, go.set).start()
        return acquire_slot(owner, noted=set(), clock=at(None))

    got = in_threads(first, second)
    live = ConnectionSlot.objects.filter(account=owner, token__isnull=False).count()
    assert live <= 2, (live, got)


def test_the_same_without_any_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both count before either takes: two plain calls of ``acquire_slot`` on every engine."""
    owner = account(max_connections=3)
    held = [acquire_slot(owner, noted=set(), clock=at(None)) for _ in range(3)]
    release_slots([one for one in held[:2] if one])
    owner.max_connections = 2
    both = threading.Barrier(2)
    real, met = slots._take, threading.local()

    def take(*args: Any, **kwargs: Any) -> bool:
        if not getattr(met, "once", False):
            met.once = True
            both.wait(20)
        return real(*args, **kwargs)

    monkeypatch.setattr(slots, "_take", take)
    in_threads(
        lambda: acquire_slot(owner, noted=set(), clock=at(None)),
        lambda: acquire_slot(owner, noted=set(), clock=at(None)),
    )
    live = ConnectionSlot.objects.filter(account=owner, token__isnull=False).count()
    assert live <= 2, live


def test_two_enqueue_many_with_the_same_keys_in_opposite_order() -> None:
    owner = account()

    def many(keys: list[str]) -> Any:
        return lambda: prx.enqueue_many(
            [{"to": "a@x.org", "subject": "s", "body_text": "b", "idempotency_key": key} for key in keys], account=owner
        )

    wrong = []
    for n in range(15):
        keys = [f"{n}-{i}" for i in range(40)]
        wrong += [one for one in in_threads(many(keys), many(keys[::-1])) if isinstance(one, Exception)]
    assert not wrong, wrong[:2]


def test_the_same_key_while_its_first_caller_rolls_back() -> None:
    owner = account()
    inside, go = threading.Event(), threading.Event()

    def first() -> Any:
        class Undo(Exception):
            pass

        try:
            with transaction.atomic():
                prx.enqueue(**letter(owner, idempotency_key="k"))
                inside.set()
                go.wait(20)
                raise Undo
        except Undo:
            return None

    def other() -> Any:
        inside.wait(20)
        threading.Timer(1.0, go.set).start()
        return prx.enqueue(**letter(owner, idempotency_key="k")).pk

    got = in_threads(first, other, other, other, other)
    wrong = [one for one in got if isinstance(one, Exception)]
    assert OutboxMessage.objects.count() == 1
    assert not wrong, wrong


def test_the_same_for_send_when_paused() -> None:
    owner = account()
    prx.pause_outbox(owner, reason="r")
    inside, go = threading.Event(), threading.Event()

    def first() -> Any:
        class Undo(Exception):
            pass

        try:
            with transaction.atomic():
                prx.enqueue(**letter(owner, idempotency_key="k"))
                inside.set()
                go.wait(20)
                raise Undo
        except Undo:
            return None

    def other() -> Any:
        inside.wait(20)
        threading.Timer(1.0, go.set).start()
        return prx.send(**letter(owner, idempotency_key="k")).outbox_id

    got = in_threads(first, other, other, other, other)
    wrong = [one for one in got if isinstance(one, Exception)]
    assert not wrong, wrong


def test_content_is_not_purged_under_an_enqueue_with_an_old_now() -> None:
    """Stored 49 h ago and left without a message; the caller says that it is 30 h ago, the purge says nothing."""
    owner, now = account(), store.db.clock_for(None).now
    part = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"hello")
    prx.enqueue(**letter(owner, attachment=part))
    Content.objects.update(stored_at=now - timedelta(hours=49))
    OutboxMessage.objects.all().delete()
    inside, done = threading.Event(), threading.Event()

    def caller() -> int:
        with transaction.atomic():
            row = prx.enqueue(**letter(owner, attachment=part, now=now - timedelta(hours=30)))
            inside.set()
            done.wait(2)  # a purge that waits for this transaction's lock has begun by then
        return row.pk

    def purger() -> int:
        assert inside.wait(20)
        report = store.purge.purge(clock=store.db.clock_for(None))
        done.set()
        return report.content

    got = in_threads(caller, purger)
    assert not [one for one in got if isinstance(one, Exception)], got
    assert got[1] == 1
    assert OutboxMessage.objects.get(pk=got[0]).attachments.get().open().read() == b"hello"
