"""What the outbox counts by the hour, and how it knows that a worker lives."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import Sum
from django.utils import timezone

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import HourlyCount, OutboxMessage, PauseRecord, Worker
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.status.figures import outbox_status
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.db import worker_name
from prx_email_django.store.purge import purge_activity
from prx_email_django.worker.heartbeat import LOOP, Heartbeat, working_as
from prx_email_django.worker.recorder import Recorder
from tests.support.factories import (
    MEMORY,
    NOW,
    SECOND,
    account,
    at,
    backlog,
    lapse,
    lose,
    mail,
    message,
    outcome,
    take_one,
)

pytestmark = pytest.mark.django_db

A, B = "a@x.org", "b@x.org"
COUNTS = ("sent", "failed", "refused_recipients", "unknown")


def counted() -> tuple[int, ...]:
    sums = HourlyCount.objects.aggregate(*(Sum(name, default=0) for name in COUNTS))
    return tuple(sums[f"{name}__sum"] for name in COUNTS)


def record(claim: Any, ending: Ending, answers: dict[str, Answer] | None = None) -> None:
    """As a drain records the end of an attempt, 30 s after the message was due."""
    recorder = Recorder(at(NOW + 30 * SECOND))
    said = outcome(ending, claim, answers)
    recorder.finished([FinishedAttempt(claim, said, said.recipients, started_at=NOW, finished_at=NOW)])
    recorder.tally.write()


@pytest.mark.parametrize(
    ("ending", "answers", "counts"),
    [
        (Ending.ACCEPTED, {}, (1, 0, 0, 0)),
        (Ending.ACCEPTED, {B: Answer.REFUSED}, (1, 0, 1, 0)),
        (Ending.ACCEPTED, {B: Answer.DEFERRED}, (0, 0, 0, 0)),
        (Ending.TEMPORARY, {}, (0, 0, 0, 0)),
        (Ending.PERMANENT, {}, (0, 1, 0, 0)),
        (Ending.UNKNOWN, {}, (0, 0, 0, 1)),
    ],
)
def test_each_outcome_is_counted_once(ending: Ending, answers: dict[str, Answer], counts: tuple[int, ...]) -> None:
    record(take_one(message(account(), to=[A, B])), ending, answers)
    assert counted() == counts
    assert sum(row.seconds for row in HourlyCount.objects.all()) == 30 * counts[0]


def test_lost_workers_count_as_unknown_and_a_late_acceptance_as_sent_once() -> None:
    stale = take_one(message(account(), to=A))
    lapse([stale])
    recorder = Recorder(at())
    recorder.recover()
    recorder.tally.write()
    assert counted() == (0, 0, 0, 1)
    record(stale, Ending.ACCEPTED)
    assert counted() == (1, 0, 0, 1)
    again = take_one(message(account("other"), to=A))
    lose(again)
    OutboxMessage.objects.filter(pk=again.id).update(status="sent", sent_at=NOW, next_attempt_at=None)
    record(again, Ending.ACCEPTED)
    assert counted() == (1, 0, 0, 1), "it was sent already"


def test_an_expired_message_counts_as_failed() -> None:
    claim = take_one(message(account(), expires_at=NOW + SECOND))
    recorder = Recorder(at())
    recorder.expire([claim])
    recorder.tally.write()
    assert counted() == (0, 1, 0, 0)


def test_counts_and_worker_are_right_when_a_drain_has_returned(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    owner = account()
    backlog(owner, 5)
    assert prx.drain().sent == 5
    worker = Worker.objects.get()
    assert (worker.name, worker.kind, worker.state, worker.sent) == (worker_name(), "drain", "idle", 5)
    assert (timezone.now() - worker.last_seen_at).total_seconds() < 60
    backlog(owner, 2)
    assert prx.drain().sent == 2
    assert prx.send(**mail(owner)).status == "sent"
    assert counted() == (8, 0, 0, 0)
    assert (HourlyCount.objects.get().worker, Worker.objects.get().sent) == (worker_name(), 7)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["loop", "command", "task"])
def test_a_worker_says_what_it_is(kind: str, settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    backlog(account(), 1)
    if kind == "task":
        from prx_email_django.tasks import drain_due

        assert drain_due() == 1
    else:
        options = {"loop": True, "limit": 1} if kind == "loop" else {}
        call_command("flush_outbox", no_progress=True, stdout=StringIO(), **options)
    assert (Worker.objects.get().kind, Worker.objects.get().sent) == (kind, 1)


def test_the_status_tells_hours_workers_and_who_needs_a_person(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    owner, other = account("shop"), account("bulk")
    backlog(owner, 3)
    prx.drain()
    rows = backlog(other, 3)
    at_rest = {"status": "failed", "next_attempt_at": None, "last_error_code": "provider"}
    OutboxMessage.objects.filter(pk__in=[row.pk for row in rows]).update(**at_rest)
    prx.dismiss_outbox(rows[0].pk)
    figures = json.loads(json.dumps(outbox_status()))
    assert (figures["at_rest"], figures["needs_person"]) == (3, 2)
    by_name = {row["name"]: row for row in figures["accounts"]}
    assert (by_name["bulk"]["at_rest"], by_name["bulk"]["needs_person"]) == (3, 2)
    assert (by_name["shop"]["sent_last_hour"], by_name["shop"]["failed_last_hour"]) == (3, 0)
    assert [(row["account"], row["sent"], row["failed"]) for row in figures["hours"]] == [("shop", 3, 0)]
    (worker,) = figures["workers"]
    assert set(worker) == {"name", "kind", "state", "started_at", "last_seen_at", "sent"}


def test_the_last_hour_takes_its_part_of_the_clock_hour_before() -> None:
    owner = account()
    for hours, sent in ((0, 10), (1, 40), (2, 100)):
        HourlyCount.objects.create(account=owner, hour=NOW - timedelta(hours=hours), worker="w:1", sent=sent)
    figures = outbox_status(now=NOW + timedelta(minutes=15))
    assert figures["accounts"][0]["sent_last_hour"] == 10 + 40 * 3 / 4


def test_old_activity_is_purged_and_open_pauses_stay() -> None:
    owner, now = account(), NOW
    account_state(owner)
    for days in (1, 34, 36):
        HourlyCount.objects.create(account=owner, hour=now - timedelta(days=days), worker="w:1")
        Worker.objects.create(
            name=f"w:{days}", kind="loop", started_at=now, last_seen_at=now - timedelta(days=days, seconds=-1)
        )
    old = now - timedelta(days=400)
    PauseRecord.objects.create(account=owner, begun_at=old, ended_at=old)
    PauseRecord.objects.create(account=owner, begun_at=old)
    purge_activity(clock=store.db.clock_for(now))
    assert (Worker.objects.count(), PauseRecord.objects.count()) == (1, 1)


def test_old_hours_become_one_row_and_their_sum_stays() -> None:
    owner, other = account(), account("other")
    for days in (1, 36, 37):
        for whose in (owner, other):
            HourlyCount.objects.create(account=whose, hour=NOW - timedelta(days=days), worker="w:1", sent=days)
    for later in (0, 20):
        purge_activity(clock=store.db.clock_for(NOW + timedelta(days=later)))
        assert HourlyCount.objects.count() == 4
    purge_activity(clock=store.db.clock_for(NOW + timedelta(days=40)))
    rows = HourlyCount.objects.order_by("account").values_list("account", "sent")
    assert list(rows) == [(owner.pk, 1 + 36 + 37), (other.pk, 1 + 36 + 37)]


def test_a_loop_that_said_that_it_works_says_that_it_has_ended() -> None:
    """Ended within ten seconds of that, it would look killed for ever."""
    with working_as(LOOP):
        heartbeat = Heartbeat(at(NOW - timedelta(days=1)))
        assert heartbeat.beat(5)
        heartbeat.end(5)
        assert (Worker.objects.get().state, Worker.objects.get().sent) == ("idle", 5)
    assert (Worker.objects.get().state, Worker.objects.get().sent) == ("ended", 5)
