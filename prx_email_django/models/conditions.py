"""Conditions on rows of ``OutboxMessage``; the index ``prx_message_failed`` serves those of failed rows."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Q

from prx_email_django.states import WAITING, ErrorCode, Status

FAILED = Q(status=Status.FAILED)
AT_REST = FAILED & Q(next_attempt_at__isnull=True)
#: Has a next attempt: the rows of the claim's index.
QUEUED = Q(claim_rank__isnull=False, next_attempt_at__isnull=False)
#: Waits for an attempt.
IS_WAITING = QUEUED & Q(status__in=WAITING)
SENDING = Q(status=Status.SENDING, claim_expires_at__isnull=False)
#: A message that was attempted and released is failed, so a pending message has no attempts.
MAY_HAVE_BEEN_DELIVERED = (FAILED | SENDING) & Q(attempts__gt=F("retries"))
#: Codes of messages at rest with which nobody has to do anything: a person put them at rest.
SETTLED_CODES = frozenset({ErrorCode.CANCELLED, ErrorCode.ADOPTED})
#: Put at rest on purpose, or for their age: whoever makes many messages due leaves them, unless told otherwise.
SET_ASIDE_CODES = (ErrorCode.CANCELLED, ErrorCode.ADOPTED, ErrorCode.EXPIRED)
SET_ASIDE = FAILED & Q(last_error_code__in=SET_ASIDE_CODES)
#: At rest, and no person has decided what becomes of the message.  (All other codes are named: an index serves them.)
NEEDS_PERSON = AT_REST & Q(
    dismissed_at__isnull=True,
    last_error_code__in=["", *(code.value for code in ErrorCode if code not in SETTLED_CODES)],
)
#: May have been delivered, and no person has decided about it.
IN_DOUBT = FAILED & MAY_HAVE_BEEN_DELIVERED & Q(dismissed_at__isnull=True) & ~Q(last_error_code__in=SETTLED_CODES)


def claim_has_run_out(now: datetime) -> Q:
    """The condition of ``OutboxMessage.claim_has_run_out``."""
    return Q(status=Status.SENDING, claim_expires_at__lte=now)
