"""The table of transitions is what the store does: every documented move happens on a real row, and no other does.

A verb that moves a status that the table does not name would leave operators with a page that is wrong, and a status
that the next verb does not expect.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from prx_email_django import store
from prx_email_django.errors import RetryRejected
from prx_email_django.models import OutboxMessage, RefusedMessage
from prx_email_django.rules.erasure import ErasedAddress
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.states import TRANSITIONS
from prx_email_django.store.claimed import Claim, ClaimedRecipient
from prx_email_django.store.draft import Draft
from prx_email_django.store.insert import insert_claimed
from prx_email_django.store.lease import Lease
from prx_email_django.store.sent_elsewhere import SentElsewhere, insert_sent
from tests.support.factories import NOW, SECOND, account, at, finish, fresh, lapse, lose, make_due, message, take_one

#: Where ids jump ahead (``adopt``), MariaDB ends the transaction: these tests have none around them.
pytestmark = pytest.mark.django_db(transaction=True)

A, B = "a@x.org", "b@x.org"
Row: TypeAlias = OutboxMessage
Call: TypeAlias = Callable[[OutboxMessage], Any]


# Rows: every status, in each form that the verbs tell apart


def pending(row: Row) -> Row:
    return row


def pending_again(row: Row) -> Row:
    """Somebody wrote the status by hand while a worker was sending."""
    take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).update(status="pending", claim_expires_at=None)
    return row


def sending(row: Row) -> Row:
    take_one(row)
    return row


def sending_after_a_failure(row: Row) -> Row:
    return sending(waiting(row))


def sending_and_accepted_late(row: Row) -> Row:
    """A late acceptance has answered every recipient meanwhile."""
    stale = take_one(row)
    lose(stale)
    take_one(make_due(row))
    finish(stale, Ending.ACCEPTED)
    return row


def waiting(row: Row) -> Row:
    finish(take_one(row), Ending.TEMPORARY)
    return make_due(row)


def at_rest(row: Row) -> Row:
    finish(take_one(row), Ending.PERMANENT)
    return row


def in_doubt(row: Row) -> Row:
    lose(take_one(row))
    return make_due(row)


def in_doubt_for_one(row: Row) -> Row:
    finish(take_one(row), Ending.UNKNOWN, {B: Answer.DEFERRED})
    return make_due(row)


def accepted_by_one(row: Row) -> Row:
    finish(take_one(row), Ending.ACCEPTED, {A: Answer.DEFERRED})
    return make_due(row)


def sent(row: Row) -> Row:
    finish(take_one(row), Ending.ACCEPTED)
    return row


FORMS = (
    pending,
    pending_again,
    sending,
    sending_after_a_failure,
    sending_and_accepted_late,
    waiting,
    at_rest,
    in_doubt,
    in_doubt_for_one,
    accepted_by_one,
    sent,
)


# Verbs: each performed in every way that may decide where it leads


def worker_of(row: Row, *, is_late: bool = False) -> Claim:
    """A worker that believes it has the message, with the row's last token, or with one that was lost long ago."""
    row = fresh(row)
    lease = Lease(180 * SECOND)
    if row.claim_token is not None and not is_late:
        lease.token = row.claim_token
    rows = row.recipients.order_by("pk").values_list(*ClaimedRecipient._fields)
    return Claim(message=row, lease=lease, recipients=[ClaimedRecipient(*values) for values in rows])


def finalize(ending: Ending, *, is_late: bool) -> Call:
    return lambda row: finish(worker_of(row, is_late=is_late), ending)


def settle(row: Row) -> None:
    claim = worker_of(row)
    if not claim.open_addresses:
        store.finalize.settle(claim, clock=at())


def recover(row: Row) -> None:
    lapse([row])
    store.recover.recover(clock=at())


def requeue(*, force: bool) -> Call:
    return lambda row: store.operations.requeue([row.pk], clock=at(NOW + SECOND), force=force)


def retry(*, force: bool) -> Call:
    def call(row: Row) -> None:
        with contextlib.suppress(RetryRejected):
            store.operations.claim_one(row.pk, clock=at(), force=force)

    return call


ENDINGS = (Ending.ACCEPTED, Ending.TEMPORARY, Ending.PERMANENT, Ending.UNKNOWN)


def reinstate(row: Row) -> None:
    """The refusal of a message that had never been tried is undone."""
    refused = RefusedMessage.objects.create(account=row.account, message=row, key="k", refused_at=NOW)
    store.reinstate.reinstate([refused], clock=at())


VERBS: dict[str, list[Call]] = {
    "claim": [lambda row: store.claims.claim(row.account_id, limit=9, hold_limit=9, clock=at())],
    "finalize": [*(finalize(ending, is_late=False) for ending in ENDINGS), settle],
    "release": [lambda row: store.claims.release([worker_of(row)])],
    "recover": [recover],
    "expire": [lambda row: store.recover.expire([worker_of(row)], clock=at())],
    "late result": [finalize(ending, is_late=True) for ending in ENDINGS],
    "reinstate": [reinstate],
    "cancel": [lambda row: store.operations.cancel([row.pk], clock=at())],
    "requeue": [requeue(force=False), requeue(force=True)],
    "retry": [retry(force=False), retry(force=True)],
    "confirm": [lambda row: store.operations.confirm([row.pk], clock=at())],
    "erase": [lambda row: store.erase.erase_messages(ErasedAddress((A,)), clock=at())],
    "adopt": [lambda row: store.adopt.adopt("copy", clock=at())],
}


def columns(row: Row) -> dict[str, Any]:
    return {**OutboxMessage.objects.filter(pk=row.pk).values().get(), "updated_at": None}


def moves(verb: str) -> set[tuple[str, str]]:
    """Status before and after, of every row that the verb changed."""
    found: set[tuple[str, str]] = set()
    for form, call in itertools.product(FORMS, VERBS[verb]):
        row = form(message(account(name=f"{form.__name__} {len(found)} {call}"), to=[A, B]))
        before = columns(row)
        if verb == "finalize" and before["status"] != "sending":
            continue  # the claim is lost: that is a late result
        call(row)
        after = columns(row)
        if after != before:
            found.add((before["status"], after["status"]))
    return found


def test_a_message_enters_as_the_table_says() -> None:
    assert {message(account()).status} == TRANSITIONS["enqueue"].targets
    draft = Draft(account=account(name="send"), due_at=NOW, fields={"to": [A]}, recipients=(("to", A),))
    claim = insert_claimed(draft, clock=at())
    assert isinstance(claim, Claim)
    assert {fresh(claim.message).status} == TRANSITIONS["send"].targets
    facts = SentElsewhere(by="another program", created_at=NOW, sent_at=NOW)
    sent_there, _ = insert_sent(replace(draft, idempotency_key="there"), facts, clock=at())
    assert {fresh(sent_there).status} == TRANSITIONS["import"].targets
    assert VERBS.keys() | {"enqueue", "send", "import"} == TRANSITIONS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_moves_a_message_only_as_the_table_says(verb: str) -> None:
    seen = moves(verb)
    kept = {(source, target) for source, target in TRANSITIONS[verb].moves if source == target}
    assert kept <= seen, "what the table lets stay is changed all the same"
    changed = {(source, target) for source, target in seen if source != target}
    assert changed == TRANSITIONS[verb].moves - kept
