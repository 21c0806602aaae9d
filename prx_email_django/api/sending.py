"""send, retry_outbox and drain: the functions that speak SMTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError
from django.db.models import Q

from prx_email_django.api.answers import PAUSED, answer, why_given_back, why_no_connection, why_paused
from prx_email_django.api.guards import check_outside_transaction
from prx_email_django.api.wake import wake_on_commit
from prx_email_django.compose.accounts import AccountRef, resolve_account
from prx_email_django.compose.attachments import Attachments, OneAttachment
from prx_email_django.compose.message import Addresses, MessageArguments, compose
from prx_email_django.compose.validation import check_instant
from prx_email_django.conf import outbox_settings, parse_duration
from prx_email_django.errors import InvalidMessage
from prx_email_django.limits.pauses import account_state, is_paused
from prx_email_django.limits.slots import Slot, acquire_slot, acquire_slot_heeding_pause, release_slots
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import DrainReport, FailureMode, SendResult
from prx_email_django.rules.clock import Clock
from prx_email_django.store.claims import Claim, Lease, claim_ids, load_claims
from prx_email_django.store.db import atomic, clock_for, fresh_connection, retried
from prx_email_django.store.insert import Draft, insert
from prx_email_django.store.operations import check_retry, claim_one, requeue
from prx_email_django.store.outbox import check_instance, outbox_state
from prx_email_django.store.outbox import is_paused as is_outbox_paused
from prx_email_django.worker.account import LIMITED
from prx_email_django.worker.drain import Drain
from prx_email_django.worker.single import deliver, give_up, simulate

logger = logging.getLogger("prx_email_django")


def send(
    *,
    account: AccountRef,
    to: Addresses,
    subject: str,
    body_text: str,
    body_html: str = "",
    cc: Addresses = (),
    bcc: Addresses = (),
    reply_to: Addresses = (),
    headers: Mapping[str, str] | None = None,
    attachment: OneAttachment | None = None,
    attachments: Attachments = (),
    from_email: str | None = None,
    envelope_from: str | None = None,
    idempotency_key: str | None = None,
    priority: int = 0,
    expires_at: datetime | None = None,
    on_unknown: str | None = None,
    tag: str = "",
    metadata: Any = None,
    now: datetime | None = None,
    failure_mode: FailureMode | str | None = None,
) -> SendResult:
    """Write the message and make one attempt now; arguments as for ``enqueue``.

    The result is ``sent`` or ``failed`` (it is then tried again by a drain where ``next_attempt_at`` is set).  Where no
    attempt can be made now, it does not wait: the message stays pending, with code ``limited`` or ``paused``.
    ``SEND_DEADLINE`` bounds everything before the body; ``failure_mode`` fails the attempt without touching the
    network.

    Raises:
        SendInsideTransaction: use ``enqueue`` inside ``atomic()``.
        WrongInstance: this is a copied database.
        InvalidMessage, AttachmentRejected, AccountUnavailable: nothing has been written.
    """
    message = MessageArguments(
        to=to,
        subject=subject,
        body_text=body_text,
        body_html=body_html,
        cc=cc,
        bcc=bcc,
        reply_to=reply_to,
        headers=headers,
        attachment=attachment,
        attachments=attachments,
        from_email=from_email,
        envelope_from=envelope_from,
        idempotency_key=idempotency_key,
        priority=priority,
        expires_at=expires_at,
        on_unknown=on_unknown,
        tag=tag,
        metadata=metadata,
        now=now,
    )
    check_outside_transaction("send")
    return send_message(message, account=account, now=now, failure_mode=failure_mode)


def send_message(
    message: MessageArguments, *, account: AccountRef, now: datetime | None, failure_mode: FailureMode | str | None
) -> SendResult:
    """``send``, once its arguments are in one value."""
    mode = _mode(failure_mode)
    found = resolve_account(account)
    check_instant("now", now)
    clock = clock_for(now)
    draft = compose(message, account=found, now=clock.now)
    check_instance()
    if mode is not None:
        claim, row = _insert_claimed(draft, clock=clock)
        if claim is not None and not give_up(claim, clock=clock):
            simulate(claim, mode, clock=clock)
        return answer(row.pk)
    if _is_paused(found, clock=clock):
        return _left_pending(draft, PAUSED, why_paused(found, clock=clock), clock=clock)
    return _with_slot(found, lambda slot: _send_with(slot, draft, clock=clock), heed_pause=True, clock=clock)


def _with_slot(
    account: Account, attempt: Callable[[Slot | None], SendResult], *, heed_pause: bool, clock: Clock
) -> SendResult:
    """Make an attempt with a slot, or without one where all are taken; whatever ends it, the slot is given back."""
    noted: set[Slot] = set()
    try:
        acquire = acquire_slot_heeding_pause if heed_pause else acquire_slot
        return attempt(acquire(account, noted=noted, clock=clock))
    except BaseException as error:
        try:
            if not isinstance(error, Exception):
                fresh_connection()
            release_slots(noted)  # once more does no harm: each has a token of its own
        except DatabaseError:
            logger.exception("account %s: a slot could not be given back; its lease will tell", account)
        raise


def _send_with(slot: Slot | None, draft: Draft, *, clock: Clock) -> SendResult:
    if slot is None:
        why = why_no_connection(draft.account, heed_pause=True, clock=clock)
        return _left_pending(draft, LIMITED, why, clock=clock)
    claim, row = _insert_claimed(draft, clock=clock)
    if claim is None or give_up(claim, clock=clock):
        release_slots([slot])
        return answer(row.pk)
    code = deliver(claim, slot, clock=clock)
    if not code:
        return answer(row.pk)
    wake_on_commit()
    return answer(row.pk, code=code, error=why_given_back(draft.account, clock=clock))


@retried
def _insert_claimed(draft: Draft, *, clock: Clock) -> tuple[Claim | None, OutboxMessage]:
    """Insert and claim in one transaction, so that no drain takes the row between; a known key is not claimed."""
    lease = Lease(outbox_settings().lease)
    with atomic():
        row, is_new = insert(draft, clock=clock)
        if not is_new:
            return None, row
        claim_ids([row.pk], guard=Q(), lease=lease, clock=clock)
    return load_claims([row.pk], lease=lease)[0], row


def _left_pending(draft: Draft, code: str, error: str, *, clock: Clock) -> SendResult:
    row, is_new = insert(draft, clock=clock)
    wake_on_commit()
    return answer(row.pk, code=code if is_new else "", error=error)


def _is_paused(account: Account, *, clock: Clock) -> bool:
    return is_outbox_paused(outbox_state(), now=clock.now) or is_paused(account_state(account), now=clock.now)


def retry_outbox(
    outbox_id: int, *, now: datetime | None = None, force: bool = False, failure_mode: FailureMode | str | None = None
) -> SendResult:
    """Make one attempt at a message now, because somebody asked; a pause is ignored.

    A message at rest needs no ``force``; one that is not due yet does.  Without a free connection or permit it is
    requeued, and the result has its status and the code ``limited``.

    Raises:
        RetryRejected: ``not_found``, ``not_retriable`` (sent or being sent), ``retry_not_due``.
        SendInsideTransaction: use ``requeue_outbox`` inside ``atomic()``.
        WrongInstance, AccountUnavailable: nothing has been changed.
    """
    check_outside_transaction("retry_outbox")
    mode = _mode(failure_mode)
    check_instant("now", now)
    clock = clock_for(now)
    check_instance()
    message = check_retry(_row(outbox_id), outbox_id, clock=clock, force=force)
    account, outbox_id = resolve_account(message.account), message.pk  # a form's id is text
    if mode is not None:
        simulate(claim_one(outbox_id, clock=clock, force=force), mode, clock=clock)
        return answer(outbox_id)
    return _with_slot(
        account, lambda slot: _retry_with(slot, message, force=force, clock=clock), heed_pause=False, clock=clock
    )


def _row(outbox_id: int) -> OutboxMessage | None:
    try:
        return OutboxMessage.objects.select_related("account").filter(pk=outbox_id).first()
    except (TypeError, ValueError):  # what no id can be is the id of nothing
        return None


def _retry_with(slot: Slot | None, message: OutboxMessage, *, force: bool, clock: Clock) -> SendResult:
    if slot is None:
        why = why_no_connection(message.account, heed_pause=False, clock=clock)
        return _requeued(message.pk, why, clock=clock)
    if deliver(claim_one(message.pk, clock=clock, force=force), slot, clock=clock):
        return _requeued(message.pk, why_given_back(message.account, clock=clock), clock=clock)
    return answer(message.pk)


def _requeued(outbox_id: int, error: str, *, clock: Clock) -> SendResult:
    changed = requeue([outbox_id], clock=clock, force=True).changed
    wake_on_commit()
    return answer(outbox_id, code=LIMITED if changed else "", error=error)


def drain(
    *,
    limit: int | None = None,
    now: datetime | None = None,
    accounts: AccountRef | Iterable[AccountRef] | None = None,
    time_budget: float | str | timedelta | None = None,
    wait: bool = False,
    progress: Callable[[DrainReport], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> DrainReport:
    """Send everything that is due, as far as limits and pauses allow, and return what was done.

    Safe to run any number of times at once, on any number of machines.

    Args:
        limit: at most so many messages.
        accounts: only these.
        time_budget: a duration after which nothing new is started; what is in flight is finished.
        wait: within the time budget, wait for messages that become due.
        progress: called with the counts so far.
        stop: asked often; True ends the drain as the time budget does.

    Raises:
        SendInsideTransaction, WrongInstance, AccountUnavailable.
    """
    check_outside_transaction("drain")
    check_instant("now", now)
    if limit is not None and limit < 0:
        raise InvalidMessage("limit: must not be negative", code="invalid_option")
    clock = clock_for(now)
    check_instance()
    return Drain(
        clock=clock,
        limit=limit,
        accounts=_accounts(accounts),
        time_budget=_seconds(time_budget),
        wait=wait,
        progress=progress,
        stop=stop,
    ).run()


def _accounts(accounts: AccountRef | Iterable[AccountRef] | None) -> list[Account] | None:
    if accounts is None:
        return None
    many = [accounts] if isinstance(accounts, (Account, int, str)) else list(accounts)
    return [resolve_account(one, active=False) for one in many]


def _seconds(time_budget: float | str | timedelta | None) -> float | None:
    try:
        return None if time_budget is None else parse_duration(time_budget).total_seconds()
    except ValueError as error:
        raise InvalidMessage(f"time_budget: {error}", code="invalid_option") from error


def _mode(mode: FailureMode | str | None) -> FailureMode | None:
    if mode is None:
        return None
    try:
        return FailureMode(mode)
    except ValueError as error:
        known = ", ".join(one.value for one in FailureMode)
        raise InvalidMessage(f"failure_mode: write one of {known}", code="invalid_option") from error
