"""purge: nothing that may still be sent is ever deleted, and no content that a message needs."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django import api, store
from prx_email_django.models import Attachment, Content, ContentChunk, DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.models.content import CHUNK_SIZE
from prx_email_django.rules.outcomes import Ending
from tests.support.factories import NOW, SECOND, account, at, finish, fresh, lose, message, take, take_one

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
LATER = NOW + 1000 * DAY


def test_a_message_that_may_be_sent_is_never_purged() -> None:
    owner = account()
    message(owner, send_at=NOW + 2000 * DAY)
    deferred, doubtful = message(owner, priority=2), message(owner, priority=1)
    finish(take(owner, limit=1)[0], Ending.TEMPORARY)
    lose(take(owner, limit=1)[0])
    message(owner, priority=5)
    take(owner, limit=1)
    assert {fresh(deferred).status, fresh(doubtful).status} == {"failed"}
    report = api.purge_outbox(older_than=SECOND, now=LATER)
    assert report.total == 0
    assert OutboxMessage.objects.count() == 4


@pytest.mark.parametrize(("days", "left"), [(89, 1), (91, 0)])
def test_sent_messages_go_after_their_retention(days: int, left: int) -> None:
    row = message(account())
    finish(take_one(row), Ending.ACCEPTED)
    report = api.purge_outbox(now=NOW + days * DAY)
    assert (report.sent, OutboxMessage.objects.count()) == (1 - left, left)
    assert Recipient.objects.count() == DeliveryAttempt.objects.count() == left


@pytest.mark.parametrize(("days", "left"), [(364, 1), (366, 0)])
def test_messages_at_rest_go_after_theirs(days: int, left: int) -> None:
    row = message(account())
    finish(take_one(row), Ending.PERMANENT)
    assert api.purge_outbox(now=NOW + days * DAY).failed == 1 - left


def test_retention_counts_from_when_it_came_to_rest() -> None:
    row = message(account())
    finish(take_one(row, now=NOW + 300 * DAY), Ending.ACCEPTED, now=NOW + 300 * DAY)
    assert api.purge_outbox(now=NOW + 310 * DAY).sent == 0


def test_none_keeps_for_ever(settings: Any) -> None:
    settings.PRX_EMAIL = {"RETENTION": {"sent": None, "failed": None}}
    row = message(account())
    finish(take_one(row), Ending.ACCEPTED)
    assert api.purge_outbox(now=LATER).total == 0


def test_older_than_nothing_means_all_that_is_done() -> None:
    row = message(account())
    finish(take_one(row), Ending.ACCEPTED)
    assert api.purge_outbox(older_than=timedelta(0), now=NOW + SECOND).sent == 1


def test_a_dry_run_counts_and_deletes_nothing() -> None:
    row = message(account())
    finish(take_one(row), Ending.ACCEPTED)
    assert api.purge_outbox(dry_run=True, now=LATER).sent == 1
    assert OutboxMessage.objects.exists()


def test_a_batch_is_bounded() -> None:
    owner = account()
    for _ in range(5):
        message(owner)
    for claim in take(owner):
        finish(claim, Ending.ACCEPTED)
    assert store.purge.purge(clock=at(LATER), batch=2).sent == 2
    assert OutboxMessage.objects.count() == 3


def attached(owner: Any, content: bytes = b"x" * 2000, **fields: Any) -> OutboxMessage:
    part = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=content)
    return message(owner, attachment=part, **fields)


def test_content_is_one_copy_a_day_and_goes_two_days_after_its_last_message() -> None:
    owner, now = account(), store.db.clock_for(None).now
    first, _ = attached(owner, now=now), attached(owner, now=now)
    assert Content.objects.count() == 1
    later = attached(owner, now=now + 25 * timedelta(hours=1))
    assert Content.objects.count() == 2, "a copy older than a day is not used again"
    OutboxMessage.objects.exclude(pk=later.pk).delete()
    assert store.purge.purge(clock=at(now + timedelta(hours=47))).content == 0
    assert store.purge.purge(clock=at(now + timedelta(hours=49))).content == 1
    assert Attachment.objects.get().open().read() == b"x" * 2000
    assert not OutboxMessage.objects.filter(pk=first.pk).exists()
    assert store.purge.purge(clock=at(now + 1000 * DAY)).content == 0, "a message still needs it"
    assert ContentChunk.objects.count() == 1


@pytest.mark.parametrize(("stored", "given", "copies"), [(23, 22, 1), (23, 0, 1), (25, 24, 2), (49, 30, 2)])
def test_a_copy_older_than_a_day_is_not_used_again_whatever_now_is_given(stored: int, given: int, copies: int) -> None:
    """Hours ago, in real time: a purge goes by that, and what it may take needs a day's distance."""
    owner, now = account(), store.db.clock_for(None).now
    attached(owner, now=now - timedelta(hours=stored))
    attached(owner, now=now - timedelta(hours=given))
    assert Content.objects.count() == copies


def test_large_content_is_kept_in_chunks() -> None:
    content = bytes(range(256)) * 5000
    attached(account(), content)
    assert ContentChunk.objects.count() == -(-len(content) // CHUNK_SIZE) == 2
    assert Attachment.objects.get().open().read() == content


def test_bodies_of_sent_messages_go_alone_where_the_setting_says_so(settings: Any) -> None:
    settings.PRX_EMAIL = {"RETENTION": {"content": "30d"}}
    owner = account()
    row = attached(owner)
    finish(take_one(row), Ending.ACCEPTED)
    waiting = attached(owner, send_at=NOW + 2000 * DAY)
    report = store.purge.purge(clock=at(NOW + 31 * DAY))
    assert (report.stripped, report.sent) == (1, 0)
    assert (fresh(row).body_text, fresh(row).subject) == ("", "Hello")
    assert fresh(waiting).body_text == "Hi Ann."
    assert store.purge.purge(clock=at(NOW + 32 * DAY)).stripped == 0
    assert waiting.attachments.get().open().read() == b"x" * 2000


def test_inbound_messages_go_after_their_retention() -> None:
    prx.record_inbound(account(), b"From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\nhello")
    assert api.purge_outbox(now=LATER).inbound == 1


def test_purging_is_asked_for_at_most_once_an_hour() -> None:
    store.outbox.outbox_state()
    assert store.outbox.claim_purge(clock=at())
    assert not store.outbox.claim_purge(clock=at(NOW + timedelta(minutes=59)))
    assert store.outbox.claim_purge(clock=at(NOW + timedelta(minutes=61)))


def test_a_row_requeued_while_it_was_being_purged_is_kept() -> None:
    """The ids were read before a person's wish: the guard is judged once more under the lock."""
    module = sys.modules["prx_email_django.store.purge"]
    row = message(account())
    finish(take_one(row), Ending.PERMANENT)
    old = module._failed_before(LATER, DAY)
    assert list(old) == [row]
    store.operations.requeue([row.pk], clock=at())
    assert module._delete([row.pk], module._failed_before(LATER, DAY)) == 0
    assert fresh(row).next_attempt_at == NOW


def test_an_idle_worker_purges_more_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account()
    for _ in range(5):
        finish(take_one(message(owner)), Ending.ACCEPTED)
    assert store.purge.purge.__kwdefaults__ is not None
    monkeypatch.setitem(store.purge.purge.__kwdefaults__, "batch", 2)
    assert store.purge.purge_idle(clock=store.db.clock_for(LATER)).sent == 5
