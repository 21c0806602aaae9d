"""A refused password is not tried again and again, and no worker changes a pause that a person set."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest
from django.db import connections, transaction
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage
from prx_email_django.limits.pauses import account_state, note_failure, note_success
from prx_email_django.models import Account, AccountState, OutboxState, PauseRecord
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.pauses import in_force, is_paused
from tests.support.factories import NOW, SECOND, account, at, message
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.django_db


def fail(owner: Account, trouble: Trouble, now: datetime = NOW) -> datetime | None:
    return note_failure(owner, trouble, "as the test says", clock=at(now))


def paused(owner: Account, now: datetime = NOW) -> bool:
    return is_paused(account_state(owner), now=now)


@pytest.mark.parametrize("reason", ["", "maintenance"])
@pytest.mark.parametrize("until", [None, NOW - SECOND, NOW, NOW + SECOND])
def test_the_database_and_python_never_disagree_about_a_pause(reason: str, until: datetime | None) -> None:
    owner = account()
    AccountState.objects.create(account=owner, pause_reason=reason, paused_until=until)
    OutboxState.objects.update_or_create(pk=1, defaults={"pause_reason": reason, "paused_until": until})
    for rows in (AccountState.objects.filter(account=owner), OutboxState.objects.all()):
        expected = is_paused(rows.get(), now=NOW)
        assert rows.filter(in_force(NOW)).exists() is expected
        assert rows.exclude(in_force(NOW)).exists() is not expected


@pytest.mark.parametrize("trouble", [Trouble.AUTH, Trouble.TLS, Trouble.QUOTA])
def test_a_failure_that_a_retry_cannot_repair_pauses_at_once(trouble: Trouble) -> None:
    owner = account()
    assert fail(owner, trouble) == NOW + 30 * SECOND
    assert paused(owner)
    assert not paused(owner, NOW + 30 * SECOND)
    assert owner.pause_reason == "as the test says"


def test_three_failed_connections_in_a_row_pause_and_a_success_resets_the_count() -> None:
    owner = account()
    assert fail(owner, Trouble.CONNECTION) is fail(owner, Trouble.CONNECTION) is None
    note_success(owner, begun_at=NOW)
    assert fail(owner, Trouble.CONNECTION) is fail(owner, Trouble.CONNECTION) is None
    assert fail(owner, Trouble.CONNECTION) == NOW + 30 * SECOND


def test_pauses_grow_until_a_success() -> None:
    owner, now, lengths = account(), NOW, []
    for _ in range(9):
        until = fail(owner, Trouble.AUTH, now)
        assert until is not None
        lengths.append((until - now).total_seconds())
        now = until
    assert lengths == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    note_success(owner, begun_at=now)
    assert fail(owner, Trouble.AUTH, now) == now + 30 * SECOND


def test_an_older_success_undoes_no_newer_pause() -> None:
    owner = account()
    fail(owner, Trouble.AUTH, NOW)
    note_success(owner, begun_at=NOW - SECOND)
    assert paused(owner)
    assert account_state(owner).pause_count == 1
    note_success(owner, begun_at=NOW + SECOND)
    assert not paused(owner)
    assert account_state(owner).pause_count == 0


def test_one_episode_seen_by_several_workers_counts_once() -> None:
    owner = account()
    assert fail(owner, Trouble.AUTH) is not None
    assert fail(owner, Trouble.AUTH, NOW + SECOND) is None
    assert account_state(owner).pause_count == 1


def test_no_worker_ends_a_persons_pause() -> None:
    owner = account()
    prx.pause_outbox(owner, reason="holiday")
    assert fail(owner, Trouble.AUTH) is None
    note_success(owner, begun_at=NOW + timedelta(days=400))
    assert (owner.pause_reason, owner.paused_until) == ("holiday", None)
    assert paused(owner, NOW + timedelta(days=999))
    prx.resume_outbox(owner)
    assert not paused(owner)


def test_a_persons_pause_replaces_a_workers_pause_and_ends_at_its_date() -> None:
    owner = account()
    fail(owner, Trouble.AUTH)
    until = NOW + timedelta(days=2)
    prx.pause_outbox(owner.name, reason="moving house", until=until)
    assert (owner.pause_reason, owner.paused_until) == ("moving house", until)
    assert not paused(owner, until)
    assert fail(owner, Trouble.AUTH, until) is not None, "a pause that has ended does not prevent a new one"


def test_a_person_who_resumes_an_account_resets_its_failures() -> None:
    owner = account()
    fail(owner, Trouble.CONNECTION)
    fail(owner, Trouble.AUTH)
    prx.resume_outbox(owner.pk)
    state = account_state(owner)
    assert (state.pause_reason, state.connection_failures, state.pause_count) == ("", 0, 0)


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_pause_needs_a_reason(reason: str) -> None:
    with pytest.raises(InvalidMessage):
        prx.pause_outbox(reason=reason)


def test_changed_credentials_end_a_workers_pause_and_never_a_persons() -> None:
    owner = account(auth_method="password", user="u", password="old", security="tls")
    fail(owner, Trouble.AUTH)
    owner.display_name = "Anybody"
    owner.save()
    assert paused(owner), "the display name is not a credential"
    owner.password = "new"
    owner.save()
    assert not paused(owner)
    prx.pause_outbox(owner, reason="holiday")
    owner.password = "newer"
    owner.save()
    assert paused(owner)


@pytest.mark.django_db(transaction=True)
def test_a_pause_does_not_wait_for_a_callers_open_transaction() -> None:
    """A pause in the row of the account waited until MariaDB gave error 1205, and every enqueue waited with it."""
    owner = account()
    account_state(owner)
    if connections[outbox_alias()].vendor == "sqlite":  # one writer at a time, for all rows
        with transaction.atomic():
            message(owner)
            assert fail(owner, Trouble.AUTH) is not None
        return
    opened, done = threading.Event(), threading.Event()

    def caller() -> None:
        try:
            with transaction.atomic(using=outbox_alias()):
                message(owner)
                opened.set()
                done.wait(PATIENCE)
        finally:
            connections[outbox_alias()].close()

    worker = threading.Thread(target=caller)
    worker.start()
    assert opened.wait(PATIENCE)
    if connections[outbox_alias()].vendor == "mysql":
        with connections[outbox_alias()].cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 3")
    assert fail(owner, Trouble.AUTH) is not None
    assert message(owner).pk
    done.set()
    worker.join(PATIENCE)
    assert AccountState.objects.get().pause_code == "auth"


# The history


def history(owner: Account | None) -> list[tuple[str, str, str, datetime, datetime | None, str]]:
    """Records of an account, or of everything, the oldest first."""
    rows = PauseRecord.objects.filter(account=owner).order_by("pk")
    return [(row.code, row.reason, row.by, row.begun_at, row.ended_at, row.ended_by) for row in rows]


def test_the_history_has_the_pauses_of_workers_and_their_ends() -> None:
    owner = account()
    fail(owner, Trouble.AUTH)
    again = NOW + 31 * SECOND
    fail(owner, Trouble.AUTH, again)
    first = ("auth", "as the test says", "worker", NOW)
    assert history(owner) == [(*first, None, "")], "one trouble, tried again in vain, is one pause"
    fail(owner, Trouble.TLS, again + 100 * SECOND)
    note_success(owner, begun_at=again + 200 * SECOND)
    assert history(owner) == [
        (*first, again + 100 * SECOND, "worker"),
        ("tls", "as the test says", "worker", again + 100 * SECOND, again + 200 * SECOND, "worker"),
    ]


@pytest.mark.parametrize("of", ["account", "everything"])
def test_the_history_has_the_pauses_of_persons_and_their_ends(of: str) -> None:
    owner = account() if of == "account" else None
    prx.pause_outbox(owner, reason="maintenance", by="keiko")
    prx.pause_outbox(owner, reason="still", by="bob")
    prx.resume_outbox(owner, by="ann")
    prx.resume_outbox(owner, by="ann")
    (code, reason, by, begun_at, ended_at, ended_by), second = history(owner)
    assert (code, reason, by, ended_by) == ("person", "maintenance", "keiko", "bob")
    assert (*second[:3], second[5]) == ("person", "still", "bob", "ann")
    assert begun_at <= (ended_at or begun_at) == second[3] <= (second[4] or NOW)
    others = PauseRecord.objects.exclude(account=owner)
    assert not others.exists()


def test_a_person_takes_over_a_workers_pause_and_changed_credentials_end_it() -> None:
    owner = account(auth_method="password", user="app", password="old", security="tls", port=465)
    fail(owner, Trouble.AUTH)
    owner.password = "new"
    owner.save()
    ((*_, ended_at, ended_by),) = history(owner)
    assert ended_at is not None
    assert ended_by == ""


@pytest.mark.parametrize("of", ["account", "everything"])
def test_a_pause_whose_time_is_over_ended_at_that_time(of: str, settings: object) -> None:
    owner = account()
    paused_one = owner if of == "account" else None
    prx.pause_outbox(paused_one, reason="lunch", until=timezone.now() + 3600 * SECOND, by="keiko")
    record = PauseRecord.objects.get()
    prx.drain(now=timezone.now() + 7200 * SECOND)
    record.refresh_from_db()
    assert (record.ended_at, record.ended_by) == (record.until, "")
