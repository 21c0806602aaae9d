"""The lease of a claim: as long as ``LEASE`` says (180 s), fenced by a token new with every claim; and its release.

A worker renews it (``claims.renew``) at least every 20 seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.db.models import Case, Q, QuerySet, Value, When

from prx_email_django.models import OutboxMessage
from prx_email_django.models.history import close_gaps
from prx_email_django.rules.clock import uptime
from prx_email_django.states import WAITING, Status
from prx_email_django.store.absence import may_pass, unwritten
from prx_email_django.store.db import atomic, fresh_connection, retried


class Lease:
    """The right to send the messages of one claim, until ``deadline`` on the clock of ``uptime()``."""

    def __init__(self, length: timedelta) -> None:
        self.token = uuid.uuid4()
        self.length = length.total_seconds()
        # Read before the statement, so that it ends here no later than in the database.
        self.deadline = uptime() + self.length
        #: A claim was asked for under this token; it may have been granted and the answer lost.
        self.was_asked = False

    def has_time_left(self, now: float | None = None) -> bool:
        """Whether at least a third of the lease remains; with less, no work may start.

        ``now``: this moment of ``uptime()``, where the caller has read it.
        """
        return self.deadline - (uptime() if now is None else now) >= self.length / 3


def begin_again(lease: Lease) -> None:
    """Release what an earlier try of the same claim took: its answer was lost."""
    if lease.was_asked:
        release_lease(lease)
    lease.was_asked = True


@contextmanager
def released_on_absence(lease: Lease) -> Iterator[None]:
    """Release what was claimed under the lease if the claim breaks off: nobody would know that it was claimed.

    The database went away, or a ``SystemExit`` ended the call.
    """
    try:
        yield
    except BaseException as error:
        is_ended = not isinstance(error, Exception)
        if is_ended:
            fresh_connection()
        if is_ended or may_pass(error):
            unwritten.write([partial(release_lease, lease)])
        raise


@retried
def release_lease(lease: Lease) -> int:
    """Release every message that is claimed under the lease, untouched."""
    # By their ids: there is no index of the tokens.  The order makes SQLite take the index of the leases' ends.
    claimed = OutboxMessage.objects.filter(claim_expires_at__isnull=False, claim_token=lease.token)
    ids = list(claimed.order_by("claim_expires_at").values_list("pk", flat=True))
    return release_rows(OutboxMessage.objects.filter(pk__in=ids, claim_token=lease.token)) if ids else 0


def release_rows(rows: QuerySet[OutboxMessage]) -> int:
    """Release these rows; a claim that was released leaves the row as it was before.

    The attempt's number is free again.  A late result has taken the next one meanwhile where a person wrote the status
    of the claimed message by hand: the attempts are numbered anew, before anybody else can claim the message.
    """
    was_failed = Q(next_attempt_at__isnull=True) | ~Q(last_error_code="") | Q(attempts__gt=0)
    status = Case(When(was_failed, then=Value(Status.FAILED.value)), default=Value(Status.PENDING.value))
    with atomic():
        released = rows.filter(status=Status.SENDING).update(status=status, claim_expires_at=None)
        if released:
            close_gaps(rows.filter(status__in=WAITING))
    return released
