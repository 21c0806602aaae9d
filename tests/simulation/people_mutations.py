"""Rules about people who act while messages are being sent, broken on purpose (``mutations`` says how)."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from prx_email_django.api import operations as api_operations
from prx_email_django.limits import pauses
from prx_email_django.models import OutboxMessage
from prx_email_django.results import ChangeReport
from prx_email_django.states import Status
from prx_email_django.store import claims, erase, operations, purge
from prx_email_django.worker import current, one_message
from prx_email_django.worker.prefetch import ClaimPrefetch
from tests.simulation.breaking import put, replace_everywhere


def moved_messages_lose_their_results() -> None:
    """The result of a message goes to the worker of the account that its row names by then."""
    put(ClaimPrefetch, "_take_over", lambda self, claims: None)


def moved_messages_stay() -> None:
    """The rest of a message goes over the account that had the beginning."""
    take = claims._take_one

    def any_account(message_id: int, *, account_id: int, **options: Any) -> None:
        row = OutboxMessage.objects.filter(pk=message_id).values_list("account_id", flat=True)
        take(message_id, account_id=row.first() or account_id, **options)

    replace_everywhere(take, any_account, claims)


def the_rest_heeds_no_pause() -> None:
    """Who sends at once goes on with the rest of the message although a person has paused meanwhile."""
    replace_everywhere(current.is_stopped, lambda account_id, *, now: False, one_message)


def resuming_wakes_what_rests() -> None:
    """Whoever resumes an account gets everything tried again."""
    resume = pauses.resume_by_person

    def eager(account: Any, *, by: str, clock: Any) -> None:
        resume(account, by=by, clock=clock)
        at_rest = OutboxMessage.objects.filter(account=account, status=Status.FAILED, next_attempt_at=None)
        at_rest.update(next_attempt_at=clock.now)

    replace_everywhere(resume, eager, api_operations)


def cancelled_while_they_are_sent() -> None:
    """Cancelling takes a message out of the hands of the worker that sends it."""

    def cancel(rows: Any, *, clock: Any) -> ChangeReport:
        found = OutboxMessage.objects.filter(pk__in=rows).exclude(status=Status.SENT)
        fields = {"status": Status.FAILED, "last_error_code": "cancelled", "next_attempt_at": None}
        return ChangeReport(changed=found.update(**fields, claim_expires_at=None), refused={})

    replace_everywhere(operations.cancel, cancel, api_operations)


def purged_while_they_wait() -> None:
    """A purge deletes every old message that is not sent."""
    before = purge._failed_before

    def unsent(now: Any, age: Any) -> QuerySet[OutboxMessage]:
        return before(now, age) if age is None else OutboxMessage.objects.exclude(status=Status.SENT)

    put(purge, "_failed_before", unsent)


def erased_while_they_are_sent() -> None:
    """An erasure deletes a message that is being sent."""
    plan = erase.plan_for

    def bold(message: OutboxMessage, *args: Any) -> erase.Plan:
        if message.status == Status.SENDING:
            message.status = Status.PENDING
        return plan(message, *args)

    replace_everywhere(plan, bold, erase)


MUTATIONS = (
    (moved_messages_lose_their_results, "clerks", "KeyError", "680020"),
    (moved_messages_stay, "clerks", "and went over", "680126"),
    (the_rest_heeds_no_pause, "clerks", "stopped since", "680658"),
    (resuming_wakes_what_rests, "people", "although it was at rest", "680014"),
    (cancelled_while_they_are_sent, "clerks", "before the lease of", "680042"),
    (purged_while_they_wait, "clerks", "it was purged, and not over", "680017"),
    (erased_while_they_are_sent, "clerks", "it was being sent by", "680019"),
)
