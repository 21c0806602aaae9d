"""A view for load balancers and uptime monitors: 200 if mail is sent in time, else 503; it costs three statements.

::

    from prx_email_django.contrib.health import health

    urlpatterns = [path("health/outbox/", health)]
    urlpatterns = [path("health/outbox/", health, {"max_age": "30m"})]

The answer names no account, no address and no host, so it may be public.  ``outbox_status --check`` says more.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import Error
from django.db.models import Min, Subquery
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache

from prx_email_django.conf import parse_duration
from prx_email_django.models import Account, OutboxMessage, OutboxState, Worker
from prx_email_django.models.conditions import IS_WAITING, SENDING
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import is_copy


@never_cache
def health(request: HttpRequest, max_age: str | float | timedelta = "10m") -> JsonResponse:
    """Answer with ``status`` (``ok``, ``late``, ``broken``), and for how many seconds what has been waiting.

    ``late``: a message has been due, or has belonged to a lost worker, for longer than ``max_age`` (a duration).
    ``broken``: the database cannot be used, or belongs to another ``INSTANCE``.
    """
    try:
        found = _facts()
    except Error:
        return JsonResponse({"status": "broken"}, status=503)
    if found.pop("is_copy"):
        return JsonResponse({"status": "broken", **found}, status=503)
    oldest = max(found["oldest_due_seconds"] or 0, found["oldest_expired_lease_seconds"] or 0)
    if oldest > parse_duration(max_age).total_seconds():
        return JsonResponse({"status": "late", **found}, status=503)
    return JsonResponse({"status": "ok", **found})


def _facts() -> dict[str, Any]:
    newest = Worker.objects.order_by("-last_seen_at").values("last_seen_at")[:1]
    leases = OutboxMessage.objects.filter(SENDING).order_by("claim_expires_at").values("claim_expires_at")[:1]
    # Whoever drains makes this row: where it is missing, no worker was ever seen.
    state = OutboxState.objects.filter(pk=1).annotate(seen=Subquery(newest), lease=Subquery(leases)).first()
    queued = OutboxMessage.objects.filter(IS_WAITING, account_id__in=Account.objects.values("pk"))
    oldest = queued.aggregate(oldest=Min("next_attempt_at"))["oldest"]
    seen, lease = (state.seen, state.lease) if state is not None else (None, None)
    now = clock_for(None).running
    return {
        "is_copy": state is not None and is_copy(state),
        "oldest_due_seconds": _age(oldest, now) if oldest and oldest <= now else None,
        "oldest_expired_lease_seconds": _age(lease, now) if lease and lease <= now else None,
        "worker_seen_seconds": _age(seen, now) if seen else None,
    }


def _age(moment: datetime, now: datetime) -> float:
    return max(0.0, round((now - moment).total_seconds(), 1))
