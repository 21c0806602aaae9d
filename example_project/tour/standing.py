"""How the accounts stand at the end."""

from __future__ import annotations

from django.db.models import Count, Q

from prx_email_django.models import Account, OutboxMessage
from prx_email_django.status.figures import account_reason


def counters() -> list[tuple[str, int, int, int, str]]:
    """For each account: messages sent, waiting and at rest, and whether it may send."""
    is_sent, is_at_rest = Q(status="sent"), Q(status="failed", next_attempt_at=None)
    counts = {
        row["account_id"]: row
        for row in OutboxMessage.objects.values("account_id").annotate(
            sent=Count("pk", filter=is_sent),
            at_rest=Count("pk", filter=is_at_rest),
            waiting=Count("pk", filter=~is_sent & ~is_at_rest),
        )
    }
    return [
        (one.name, counts[one.pk]["sent"], counts[one.pk]["waiting"], counts[one.pk]["at_rest"], account_reason(one))
        for one in Account.objects.filter(pk__in=counts)
    ]
