"""adopt and INSTANCE: a copied database mails nobody, and no Message-ID is ever used twice.

MariaDB ends the transaction where ids jump ahead: these tests have none around them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django import api, store
from prx_email_django.errors import WrongInstance
from prx_email_django.models import DeliveryAttempt, OutboxMessage, OutboxState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.transports.memory import shared
from tests.support.factories import MEMORY, NOW, account, at, finish, fresh, mail, message, results, take, take_one

pytestmark = pytest.mark.django_db(transaction=True)


def instance(settings: Any, name: str) -> None:
    settings.PRX_EMAIL = {**MEMORY, "INSTANCE": name}


def test_everything_unsent_rests_and_what_is_sent_stays(settings: Any) -> None:
    instance(settings, "copy")
    owner = account()
    done = message(owner)
    finish(take_one(done), Ending.ACCEPTED)
    partial = message(owner, to=["a@x.org", "b@x.org"])
    finish(take_one(partial), Ending.ACCEPTED, {"b@x.org": Answer.DEFERRED})
    rested = message(owner)
    finish(take_one(rested), Ending.PERMANENT)
    on_its_way = message(owner)
    claim = take_one(on_its_way)
    waiting = message(owner, send_at=NOW + timedelta(days=1))
    assert api.adopt_outbox(now=NOW) == 4
    assert fresh(done).status == "sent"
    for row in (partial, rested, on_its_way, waiting):
        assert (fresh(row).is_at_rest, fresh(row).last_error_code) == (True, "adopted")
    assert results(partial)["a@x.org"] == "accepted"
    assert results(on_its_way) == {"ann@example.org": "unknown"}
    assert fresh(on_its_way).may_have_been_delivered
    assert DeliveryAttempt.objects.get(message=on_its_way).claim_token == claim.lease.token
    assert OutboxState.objects.get().instance == "copy"
    assert not store.due.first_claimable(owner.pk, clock=at(NOW + timedelta(days=400)))


def test_a_claim_of_the_life_before_writes_nothing(settings: Any) -> None:
    instance(settings, "copy")
    row = message(account())
    claim = take_one(row)
    api.adopt_outbox(now=NOW)
    finish(claim, Ending.TEMPORARY)
    assert store.claims.release([claim]) == 0
    assert fresh(row).is_at_rest


def test_a_late_acceptance_counts_after_adoption_too(settings: Any) -> None:
    instance(settings, "copy")
    row = message(account())
    claim = take_one(row)
    api.adopt_outbox(now=NOW)
    finish(claim, Ending.ACCEPTED)
    assert (fresh(row).status, fresh(row).next_attempt_at) == ("sent", None)


def test_ids_jump_ahead_so_that_no_message_id_is_used_twice(settings: Any) -> None:
    instance(settings, "copy")
    owner = account()
    first = message(owner)
    # The newest rows are gone already: their Message-IDs are in mailboxes all the same.
    last = message(owner)
    OutboxMessage.objects.filter(pk=last.pk).delete()
    api.adopt_outbox()
    third = message(owner)
    assert third.pk >= last.pk + 1_000_000
    api.adopt_outbox()
    assert message(owner).pk >= third.pk + 1_000_000
    assert fresh(first).is_at_rest


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the other databases move ids by one statement")
def test_ids_are_not_used_again_where_the_jump_is_cut_short(settings: Any) -> None:
    instance(settings, "copy")
    used = message(account())
    OutboxMessage.objects.filter(pk=used.pk).delete()

    def cut(execute: Any, sql: str, *rest: Any) -> Any:
        if "sqlite_sequence" in sql and not sql.startswith("SELECT"):
            counted.append(sql)
            if len(counted) > allowed:
                raise RuntimeError("the process is killed")
        return execute(sql, *rest)

    for allowed in (0, 1):
        counted: list[str] = []
        with connection.execute_wrapper(cut), suppress(RuntimeError):
            api.adopt_outbox(now=NOW)
        assert counted
        assert message(account(f"other {allowed}")).pk > used.pk


def test_ids_jump_in_an_empty_outbox_too(settings: Any) -> None:
    instance(settings, "copy")
    owner = account()
    gone = message(owner)
    OutboxMessage.objects.all().delete()
    assert api.adopt_outbox() == 0
    assert message(owner).pk >= gone.pk + 1_000_000


def test_the_first_value_that_is_not_empty_is_kept(settings: Any) -> None:
    instance(settings, "")
    owner = account()
    assert prx.send(**mail(owner)).status == "sent"
    instance(settings, "production")
    prx.drain()
    assert OutboxState.objects.get().instance == "production"
    assert prx.send(**mail(owner)).status == "sent"


CALLS: dict[str, Callable[[OutboxMessage], object]] = {
    "drain": lambda row: prx.drain(),
    "send": lambda row: prx.send(**mail(row.account)),
    "simulated send": lambda row: prx.send(**mail(row.account), failure_mode="network"),
    "retry": lambda row: prx.retry_outbox(row.pk),
    "reply": lambda row: prx.reply(account=row.account, in_reply_to_message_id="<1@x.org>", body_text="yes"),
}


def test_a_copy_opens_no_connection_and_changes_no_row(settings: Any) -> None:
    shared.reset()
    instance(settings, "production")
    owner = account()
    prx.record_inbound(owner, b"From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\nhello")
    prx.drain()
    row = message(owner)
    for other in ("", "staging", "Production"):
        instance(settings, other)
        for name, call in CALLS.items():
            with CaptureQueriesContext(connections[outbox_alias()]) as queries, pytest.raises(WrongInstance):
                call(row)
            statements = [query["sql"].lstrip() for query in queries]
            assert not [sql for sql in statements if sql.startswith(("UPDATE", "INSERT", "DELETE"))], name
    assert shared.opened == []


def test_the_other_verbs_work_in_a_copy_and_adoption_puts_their_rows_at_rest(settings: Any) -> None:
    instance(settings, "production")
    owner = account()
    prx.drain()
    instance(settings, "staging")
    row = message(owner)
    assert prx.cancel_outbox([row.pk]).changed == 1
    assert prx.requeue_outbox([row.pk]).changed == 1
    prx.pause_outbox(reason="copy")
    prx.resume_outbox()
    assert api.adopt_outbox() == 1
    shared.reset()
    assert prx.drain().claimed == 0
    assert prx.send(**mail(owner)).status == "sent"
    assert len(shared.delivered) == 1
    instance(settings, "production")
    with pytest.raises(WrongInstance):
        prx.drain()


@pytest.mark.parametrize("step", ["_rest_sending", "_rest_waiting", "_jump_ids", "outbox_state"])
def test_an_adoption_that_was_cut_short_sends_nothing_and_can_be_made_again(
    step: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new instance is stored last: before that the database still belongs to the old one."""
    instance(settings, "production")
    owner = account()
    shared.reset()
    prx.drain()
    rows = [message(owner) for _ in range(3)]
    take(owner, limit=1)
    instance(settings, "copy")

    def killed(*args: object, **kwargs: object) -> None:
        raise SystemExit(1)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["prx_email_django.store.adopt"], step, killed)
        with pytest.raises(SystemExit):
            api.adopt_outbox(now=NOW)
    assert OutboxState.objects.get().instance == "production"
    with pytest.raises(WrongInstance):
        prx.drain()
    api.adopt_outbox(now=NOW)
    assert OutboxState.objects.get().instance == "copy"
    for row in rows:
        assert (fresh(row).is_at_rest, fresh(row).last_error_code) == (True, "adopted")
    assert message(owner).pk >= rows[-1].pk + 1_000_000
    assert prx.drain(now=NOW).sent == 1, "the message that was queued after the adoption"
    assert len(shared.delivered) == 1
