"""reinstate: messages that were refused because of their account are due again, with the counters of before."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prx_email_django.models import OutboxMessage, Recipient, RefusedMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.states import TRANSITIONS, ErrorCode, RecipientResult
from prx_email_django.store.db import atomic, in_parts, retried

_REFUSED = (ErrorCode.PROVIDER, ErrorCode.RECIPIENTS_REFUSED)


def reinstate(refused: Iterable[RefusedMessage], *, clock: Clock) -> list[OutboxMessage]:
    """Undo these refusals, the newest first; return the messages that were at rest and are due again.

    A message that somebody has changed since (it was cancelled, retried, claimed) stays as it is.  The error stays too:
    it says what happened.
    """
    rows = sorted(refused, key=lambda row: -row.pk)
    ids = {row.message_id for row in rows if _reinstate_one(row, clock=clock, tries=[])}
    return _read(ids) if ids else []


@retried
def _read(ids: Collection[int]) -> list[OutboxMessage]:
    return list(OutboxMessage.objects.filter(pk__in=ids).order_by("pk"))


@retried
def _reinstate_one(row: RefusedMessage, *, clock: Clock, tries: list[bool]) -> bool:
    """Undo one refusal; True if its message was at rest.  ``tries``: what earlier tries found."""
    if tries and RefusedMessage.objects.filter(pk=row.pk, is_reinstated=True).exists():
        return tries[-1]  # only the answer was lost
    with atomic():
        unchanged = OutboxMessage.objects.filter(
            pk=row.message_id,
            status__in=TRANSITIONS["reinstate"].sources,
            retries=row.retries + 1,
            attempts=row.attempts + 1,
            last_error_code__in=_REFUSED,
        )
        was_at_rest = unchanged.filter(next_attempt_at__isnull=True).exists()
        tries.append(was_at_rest)
        changed = unchanged.update(
            retries=row.retries,
            attempts=row.attempts,
            next_attempt_at=row.next_attempt_at or clock.now,
            updated_at=clock.now,
        )
        for keys in in_parts(row.recipients if changed else []):
            refused = Recipient.objects.filter(pk__in=keys, result=RecipientResult.REFUSED)
            refused.update(result=RecipientResult.IMPLIED)
        RefusedMessage.objects.filter(pk=row.pk).update(is_reinstated=True)
    return bool(changed) and was_at_rest
