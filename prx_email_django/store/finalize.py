"""finalize: what came of claimed messages, in groups."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules import policy
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.rules.text import MAX_TEXT
from prx_email_django.states import AttemptOutcome, RecipientResult, Status
from prx_email_django.store.claims import Claim
from prx_email_django.store.db import atomic, retried, rules
from prx_email_django.store.late_results import record_late
from prx_email_django.store.results import (
    FinishedAttempt,
    RecordedAttempt,
    attempt_columns,
    columns,
    merged,
    recorded,
    write_last_answers,
    write_recipients,
)
from prx_email_django.store.sent_group import record_sent


def finalize(group: Sequence[FinishedAttempt], *, clock: Clock) -> list[RecordedAttempt]:
    """Record a group; a result whose claim was lost is never thrown away."""
    by_token: dict[uuid.UUID, list[FinishedAttempt]] = {}
    others: list[FinishedAttempt] = []
    for one in group:
        if one.is_plain:
            by_token.setdefault(one.claim.lease.token, []).append(one)
        else:
            others.append(one)
    written: list[RecordedAttempt] = []
    for plain in by_token.values():
        ours = _record_sent(plain, clock=clock)
        written += [_sent(one) for one in plain if one.claim.id in ours]
        others += [one for one in plain if one.claim.id not in ours]
    written += [_record_one(one, clock=clock) for one in others]
    return written


@retried
def _record_sent(group: Sequence[FinishedAttempt], *, clock: Clock) -> set[int]:
    attempts = [attempt_columns(one, AttemptOutcome.SENT) for one in group]
    responses = [one.outcome.response[:MAX_TEXT] for one in group]
    token = group[0].claim.lease.token
    if not any(recipient.code or recipient.text for one in group for recipient in one.claim.recipients):
        return record_sent(attempts, responses, token=token, now=clock.now)
    with atomic():
        ours = record_sent(attempts, responses, token=token, now=clock.now)
        write_last_answers(one for one in group if one.claim.id in ours)
    return ours


def _sent(one: FinishedAttempt) -> RecordedAttempt:
    message = one.claim.message
    header = message.message_id
    message.status, message.sent_at, message.next_attempt_at = Status.SENT, one.finished_at, None
    message.provider_message_id = header
    message.message_number = message.retries if message.message_number is None else message.message_number
    message.provider_response = one.outcome.response[:MAX_TEXT]
    message.claim_expires_at, message.last_error, message.last_error_code = None, "", ""
    return recorded(one, Status.SENT)


@retried
def _record_one(one: FinishedAttempt, *, clock: Clock) -> RecordedAttempt:
    """One result with doubt in it: recipients are read again, since a late acceptance may have marked some."""
    row = OutboxMessage.objects.filter(pk=one.claim.id)
    ours = row.filter(status=Status.SENDING, claim_token=one.claim.lease.token)
    with atomic():
        # A write first: it takes the row's lock on every engine and tells whose the message is.
        if not ours.update(updated_at=clock.now):
            return record_late(one, clock=clock)
        recipients = list(Recipient.objects.filter(message_id=one.claim.id).order_by("id"))
        results = merged(recipients, one.answers)
        verdict = policy.judge(one.outcome, one.claim.counters, results, now=clock.now, rules=rules())
        refused = write_recipients(recipients, results, one.answers, status=verdict.status)
        if not ours.update(**columns(one.claim.message, verdict, outcome=one.outcome, now=clock.now)):
            raise AssertionError("the row was locked")  # pragma: no cover
        DeliveryAttempt.objects.bulk_create([DeliveryAttempt(**attempt_columns(one, verdict.outcome))])
    one.claim.message.refresh_from_db()
    return recorded(
        one,
        verdict.status,
        error_code=verdict.error_code,
        error=verdict.error[:MAX_TEXT],
        next_attempt_at=verdict.next_attempt_at,
        refused=refused,
        progress=verdict.progress,
    )


@retried
def settle(claim: Claim, *, clock: Clock) -> list[RecordedAttempt]:
    """A claimed message whose recipients were all answered meanwhile (a late acceptance): nothing is left to send."""
    results = [one.result or RecipientResult.IMPLIED for one in claim.recipients]
    status = policy.settled_status(results)
    sent_at = {"sent_at": clock.now} if status is Status.SENT else {}
    ours = OutboxMessage.objects.filter(pk=claim.id, status=Status.SENDING, claim_token=claim.lease.token)
    if not ours.update(status=status, next_attempt_at=None, claim_expires_at=None, updated_at=clock.now, **sent_at):
        return []
    claim.message.refresh_from_db()
    ending = Ending.ACCEPTED if status is Status.SENT else Ending.PERMANENT
    now = clock.now
    return [recorded(FinishedAttempt(claim, Outcome(ending), {}, started_at=now, finished_at=now), status)]
