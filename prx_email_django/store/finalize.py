"""finalize: record how the attempts at claimed messages ended, in groups."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from django.db import Error

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.models.history import close_gaps
from prx_email_django.rules import policy
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.rules.recipients import settled_status
from prx_email_django.rules.sent import message_id_number, sent_columns
from prx_email_django.rules.text import MAX_TEXT
from prx_email_django.states import Status
from prx_email_django.store.attempts import (
    FinishedAttempt,
    RecordedAttempt,
    attempt_columns,
    becomes_sent,
    merged,
    recorded,
    update_instance,
    verdict_columns,
    write_last_answers,
    write_recipients,
)
from prx_email_django.store.claimed import Claim, counters_of
from prx_email_django.store.db import atomic, retried, rules
from prx_email_django.store.late_results import record_late, recorded_before
from prx_email_django.store.sensitive import erase_sent
from prx_email_django.store.sent_group import begin_to_record, record_sent, takes_all_claims

#: What a verdict needs of a row as it is now.
_JUDGED = ("retries", "attempts", "message_number", "provider_message_id", "on_unknown")


@dataclass(frozen=True, slots=True)
class Part:
    """What one transaction of a group has recorded."""

    #: Accepted for all recipients, while the claim was ours: nothing else is to be told of them.
    sent: Sequence[FinishedAttempt] = ()
    others: Sequence[RecordedAttempt] = ()

    def recorded_sent(self) -> list[RecordedAttempt]:
        """What was written of ``sent``."""
        return [recorded(finished, Status.SENT) for finished in self.sent]


def finalize(group: Sequence[FinishedAttempt], *, clock: Clock) -> list[RecordedAttempt]:
    """Record a group of attempts; a result whose claim was lost is recorded too."""
    return [
        attempt for part in finalize_in_parts(group, clock=clock) for attempt in (*part.recorded_sent(), *part.others)
    ]


def finalize_in_parts(group: Sequence[FinishedAttempt], *, clock: Clock) -> Iterator[Part]:
    """``finalize``, one transaction after the other: an error in a later one takes nothing from what is recorded."""
    plain = [finished for finished in group if finished.is_plain]
    others = [finished for finished in group if not finished.is_plain] if len(plain) < len(group) else []
    for part in [plain] if takes_all_claims() and plain else _by_claim(plain):
        now = clock.now
        sent, lost = _divided(part, _record_sent(part, now=now))
        others += lost
        _update_sent(sent, now=now)
        yield Part(sent=sent)
    yield from _one_by_one(others, clock=clock)


def begin_group(group: Sequence[FinishedAttempt], *, clock: Clock) -> Callable[[], Iterator[Part]] | None:
    """Begin to record a group: the function waits for the database, and does what ``finalize_in_parts`` does then.

    None: nothing was begun, since the database or the group needs more than one statement.
    """
    for finished in group:
        if not finished.is_plain or not finished.claim.is_unanswered:
            return None
    now = clock.now
    written = begin_to_record(group, now=now)
    return None if written is None else partial(_finish_group, group, written, clock=clock, now=now)


def _finish_group(
    group: Sequence[FinishedAttempt], written: Callable[[], set[int]], *, clock: Clock, now: datetime
) -> Iterator[Part]:
    try:
        ours = written()
    except Error:
        # It may have been executed, and only its answer was lost: as for each second try.
        yield from finalize_in_parts(group, clock=clock)
        return
    sent, lost = _divided(group, ours)
    _update_sent(sent, now=now)
    yield Part(sent=sent)
    yield from _one_by_one(lost, clock=clock)


def _one_by_one(group: Iterable[FinishedAttempt], *, clock: Clock) -> Iterator[Part]:
    for finished in group:
        yield Part(others=[_record_one(finished, clock=clock, tries=[])])


def _divided(
    group: Sequence[FinishedAttempt], ours: Collection[int]
) -> tuple[Sequence[FinishedAttempt], list[FinishedAttempt]]:
    """Those of the group whose ids are ``ours``, and the others."""
    if len(ours) == len(group):
        return group, []
    sent = [finished for finished in group if finished.claim.id in ours]
    return sent, [finished for finished in group if finished.claim.id not in ours]


def _by_claim(group: Iterable[FinishedAttempt]) -> Iterable[list[FinishedAttempt]]:
    by_token: dict[uuid.UUID, list[FinishedAttempt]] = {}
    for finished in group:
        by_token.setdefault(finished.claim.lease.token, []).append(finished)
    return by_token.values()


@retried
def _record_sent(group: Sequence[FinishedAttempt], *, now: datetime) -> set[int]:
    if not [finished for finished in group if not finished.claim.is_unanswered]:
        return record_sent(group, now=now)
    with atomic():
        ours = record_sent(group, now=now)
        write_last_answers(finished for finished in group if finished.claim.id in ours)
    return ours


def _update_sent(group: Sequence[FinishedAttempt], *, now: datetime) -> None:
    """Give the instances of accepted messages the columns that their rows have now."""
    same = sent_columns((), number=0, message_id="", now=now)
    for finished in group:
        claim = finished.claim
        row = vars(claim.message)
        number = message_id_number(row["message_number"], row["retries"])
        row.update(same)
        row["message_number"], row["provider_message_id"] = number, claim.header_message_id
        row["provider_response"] = finished.outcome.response[:MAX_TEXT]


@retried
def _record_one(finished: FinishedAttempt, *, clock: Clock, tries: list[bool]) -> RecordedAttempt:
    """Record one result with doubt in it; ``tries``: whether earlier tries found the claim lost.

    The row and its recipients are read again: a late result of an earlier claim may have changed them since the claim.
    """
    message, said = finished.claim.message, finished.outcome
    row = OutboxMessage.objects.filter(pk=message.pk)
    ours = row.filter(status=Status.SENDING, claim_token=finished.claim.lease.token)
    with atomic():
        # A write first: it takes the row's lock on every engine, and its count says whose the message is.
        if not ours.update(updated_at=clock.now):
            if (written := recorded_before(finished)) is not None:
                return replace(written, late=any(tries))
            tries.append(True)
            return record_late(finished, clock=clock)
        current = row.only(*_JUDGED).get()
        recipients = list(Recipient.objects.filter(message_id=message.pk).order_by("id"))
        results = merged(recipients, finished.answers)
        verdict = policy.judge(said, counters_of(current), results, now=clock.now, rules=rules())
        refused = write_recipients(recipients, results, finished.answers, status=verdict.status)
        accepted_id = current.provider_message_id or message.message_id
        values = verdict_columns(verdict, recipients, message_id=accepted_id, now=clock.now)
        if said.ending is Ending.ACCEPTED:
            values |= {"provider_message_id": accepted_id, "provider_response": said.response[:MAX_TEXT]}
        if not ours.update(**values):
            raise AssertionError("the row was locked")  # pragma: no cover
        DeliveryAttempt.objects.bulk_create([DeliveryAttempt(**attempt_columns(finished, verdict.outcome))])
        if verdict.status is Status.SENT:
            erase_sent([message])
    update_instance(message, {"provider_message_id": current.provider_message_id} | values)
    return recorded(
        finished,
        verdict.status,
        error_code=message.last_error_code,
        error=message.last_error,
        next_attempt_at=verdict.next_attempt_at,
        refused=refused,
        progress=verdict.progress,
    )


@retried
def settle(claim: Claim, *, clock: Clock) -> list[RecordedAttempt]:
    """Finalize a claimed message with nothing left to send: a late acceptance settled its last recipient."""
    message, now = claim.message, clock.now
    status = settled_status(recipient.result for recipient in claim.recipients)
    if status is Status.SENT:
        values = becomes_sent(message, claim.recipients, now=now)
    else:
        values = {"status": status, "next_attempt_at": None, "claim_expires_at": None, "updated_at": now}
    ours = OutboxMessage.objects.filter(pk=claim.id, claim_token=claim.lease.token)
    with atomic():
        if not ours.filter(status=Status.SENDING).update(**values) and not ours.filter(status=status).exists():
            return []  # not ours, and not written by an earlier try whose answer was lost
        close_gaps(ours)
        erase_sent([message])
    update_instance(message, values)
    ending = Ending.ACCEPTED if status is Status.SENT else Ending.PERMANENT
    return [recorded(FinishedAttempt(claim, Outcome(ending), {}, started_at=now, finished_at=now), status)]
