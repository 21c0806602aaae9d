"""Refusals in a row of an account, in rows that all workers and all later drains share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from django.db import IntegrityError
from django.db.models import F

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import Account, AccountState, OutboxMessage, RefusedMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.refusals import UNLIKE_IN_KIND, Refusal, RefusalRow, Traits, unlikeness
from prx_email_django.store.db import atomic, retried
from prx_email_django.store.due import due_unlike
from prx_email_django.store.reinstate import reinstate

#: How long the same refusal raises no suspicion after an unlike message was accepted.
FORGIVEN_FOR = timedelta(hours=1)
#: Examples of refused messages with which a probe is compared.
EXAMPLES = 100
#: The columns by which messages are told apart.
TRAITS = ("tag", "from_email", "envelope_from", "subject", "to", "cc", "bcc")


def traits_of(message: OutboxMessage) -> Traits:
    """The traits of a message that was read with the columns of ``TRAITS``."""
    return Traits.of(
        tag=message.tag,
        sender=message.envelope_from or message.from_email,
        recipients=[*message.to, *message.cc, *message.bcc],
        subject=message.subject,
    )


def forgiven(state: AccountState, *, now: datetime) -> frozenset[str]:
    """The kinds of refusal that raise no suspicion now."""
    return frozenset(key for key, until in state.forgiven_refusals.items() if datetime.fromisoformat(until) > now)


def refusal_row(state: AccountState, *, clock: Clock) -> RefusalRow:
    """The row of refusals as all workers know it; no query where there is none."""
    limit = outbox_settings().refusals_in_a_row
    rows: Iterable[RefusedMessage] = ()
    if limit and state.refused_in_a_row:
        rows = RefusedMessage.objects.filter(account_id=state.pk).only("key", "domains", "is_bare")
    known = (Refusal(row.key, frozenset(row.domains), row.is_bare) for row in rows)
    return RefusalRow(limit, known, forgiven=forgiven(state, now=clock.now))


def note_refusals(account: Account, refused: Sequence[RefusedMessage], *, after_success: bool) -> AccountState:
    """Add refused messages to the row, which begins anew ``after_success``; return the state as it is now."""
    try:
        _add_refusals(account, refused, after_success=after_success, tries=[])
    except IntegrityError:
        # Somebody has deleted a message since its result was recorded: a receiver of its signal, a person.
        there = OutboxMessage.objects.in_bulk([row.message_id for row in refused])
        if len(left := [row for row in refused if row.message_id in there]) == len(refused):
            raise
        return note_refusals(account, left, after_success=after_success)
    state = account_state(account)
    state.refresh_from_db()
    return state


@retried
def _add_refusals(
    account: Account, refused: Sequence[RefusedMessage], *, after_success: bool, tries: list[int]
) -> None:
    account_state(account)
    rows = AccountState.objects.filter(account_id=account.pk)
    tries.append(1)
    for row in refused:
        row.pk = None  # an earlier try may have set it
    if len(tries) > 1 and refused:
        last = refused[-1]
        if RefusedMessage.objects.filter(message_id=last.message_id, refused_at=last.refused_at).exists():
            return  # only the answer was lost
    with atomic():
        # A write first: it takes the lock of the account's state on every engine.
        rows.update(refused_in_a_row=len(refused) if after_success else F("refused_in_a_row") + len(refused))
        if after_success:
            RefusedMessage.objects.filter(account_id=account.pk).delete()
        if outbox_settings().refusals_in_a_row:
            RefusedMessage.objects.bulk_create(refused)


@retried
def note_acceptance(account: Account) -> None:
    """End the row: a message was accepted."""
    rows = AccountState.objects.filter(account_id=account.pk, refused_in_a_row__gt=0)
    with atomic():
        if rows.update(refused_in_a_row=0):
            RefusedMessage.objects.filter(account_id=account.pk).delete()


@retried
def forgive(account: Account, keys: Collection[str], *, clock: Clock) -> None:
    """Let these refusals raise no suspicion for an hour: an unlike message was accepted."""
    rows = AccountState.objects.filter(account_id=account.pk)
    with atomic():
        rows.update(refused_in_a_row=F("refused_in_a_row"))
        state = rows.get()
        kept = {key: state.forgiven_refusals[key] for key in forgiven(state, now=clock.now)}
        until = (clock.now + FORGIVEN_FOR).isoformat()
        rows.update(forgiven_refusals={**kept, **dict.fromkeys(keys, until)})


def reinstate_refused(account: Account, keys: Collection[str], *, clock: Clock) -> list[OutboxMessage]:
    """Make the messages of these refusals due again; return those that were at rest.  The rows stay as examples."""
    rows = RefusedMessage.objects.filter(account_id=account.pk, is_reinstated=False, key__in=keys)
    return reinstate(rows, clock=clock)


def examples(account: Account, keys: Collection[str] = (), *, but: int | None = None) -> list[OutboxMessage]:
    """Refused messages of these kinds (none given: of all), the newest first, without the message ``but``."""
    rows = RefusedMessage.objects.filter(account_id=account.pk).exclude(message_id=but)
    if keys:
        rows = rows.filter(key__in=keys)
    ids = list(rows.order_by("-pk").values_list("message_id", flat=True)[:EXAMPLES])
    return list(OutboxMessage.objects.filter(pk__in=ids).only(*TRAITS))


def most_unlike(
    account: Account,
    refused: Collection[OutboxMessage],
    *,
    clock: Clock,
    since: datetime | None = None,
    but: Collection[int] = (),
) -> tuple[int, int]:
    """The due message that is most unlike the refused ones, and how unlike it is (0: none is unlike).

    ``since``: only messages that were queued or became due from then on; ``but``: without these.
    """
    known = [traits_of(message) for message in refused]
    found = due_unlike(account.pk, refused, columns=TRAITS, clock=clock, since=since)
    scores = [(unlikeness(traits_of(message), known), message.pk) for message in found if message.pk not in but]
    score, pk = max(scores, default=(0, 0), key=lambda scored: scored[0])
    return pk, score


def early_probe(account: Account, state: AccountState, *, clock: Clock) -> int | None:
    """A message that may be tried although the account is paused as ``refusing``; None: there is none.

    It was queued since, and is unlike everything that was refused in more than its domain.  In one pause there are no
    more such probes than refusals that it took to suspect the account.
    """
    since, limit = state.paused_at, outbox_settings().refusals_in_a_row
    if state.pause_code != Trouble.REFUSING or since is None or not limit:
        return None
    if RefusedMessage.objects.filter(account_id=account.pk, refused_at__gt=since).count() >= limit:
        return None
    pk, score = most_unlike(account, examples(account), clock=clock, since=since)
    return pk if score >= UNLIKE_IN_KIND else None
