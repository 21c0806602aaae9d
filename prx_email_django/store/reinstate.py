"""reinstate: messages that were refused because of their account are due again, with the counters of before."""

from __future__ import annotations

from collections.abc import Iterable

from prx_email_django.models import OutboxMessage, Recipient, RefusedMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.states import TRANSITIONS, ErrorCode, RecipientResult
from prx_email_django.store.db import atomic, retried

_REFUSED = (ErrorCode.PROVIDER, ErrorCode.RECIPIENTS_REFUSED)


def reinstate(refused: Iterable[RefusedMessage], *, clock: Clock) -> int:
    """Undo these refusals, the newest first; return how many of the messages were at rest.

    A message that somebody has changed since (it was cancelled, retried, claimed) stays as it is.  The error stays too:
    it says what happened.
    """
    return sum(_reinstate_one(row, clock=clock) for row in sorted(refused, key=lambda row: -row.pk))


@retried
def _reinstate_one(row: RefusedMessage, *, clock: Clock) -> int:
    with atomic():
        unchanged = OutboxMessage.objects.filter(
            pk=row.message_id,
            status__in=TRANSITIONS["reinstate"].sources,
            retries=row.retries + 1,
            attempts=row.attempts + 1,
            last_error_code__in=_REFUSED,
        )
        was_at_rest = unchanged.filter(next_attempt_at__isnull=True).exists()
        changed = unchanged.update(
            retries=row.retries,
            attempts=row.attempts,
            next_attempt_at=row.next_attempt_at or clock.now,
            updated_at=clock.now,
        )
        if changed and row.recipients:
            refused = Recipient.objects.filter(pk__in=row.recipients, result=RecipientResult.REFUSED)
            refused.update(result=RecipientResult.IMPLIED)
        RefusedMessage.objects.filter(pk=row.pk).update(is_reinstated=True)
    return int(bool(changed) and was_at_rest)
