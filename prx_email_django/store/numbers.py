"""Numbers of delivery attempts: 1, 2, 3 … by message."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Max

from prx_email_django.models import DeliveryAttempt


def next_numbers(message_ids: Sequence[int]) -> dict[int, int]:
    """The number of the next attempt of each message."""
    rows = DeliveryAttempt.objects.filter(message_id__in=message_ids).order_by().values("message_id")
    last = {row["message_id"]: row["last"] for row in rows.annotate(last=Max("number"))}
    return {pk: last.get(pk, 0) + 1 for pk in message_ids}
