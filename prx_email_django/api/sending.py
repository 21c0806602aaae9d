"""send, retry_outbox and drain: the functions that speak SMTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from prx_email_django.api.answers import LIMITED, PAUSED, answer, pause_sentence
from prx_email_django.api.arguments import with_parameters_of
from prx_email_django.api.guards import check_may_send
from prx_email_django.api.keys import MessageRef, message_key
from prx_email_django.api.wake import wake_on_commit
from prx_email_django.compose.accounts import AccountRef, account_to_send, resolve_account
from prx_email_django.compose.message import MessageArguments, compose
from prx_email_django.compose.validation import as_text, check_instant
from prx_email_django.conf import parse_duration
from prx_email_django.errors import InvalidMessage, RetryRejected
from prx_email_django.limits.pauses import known_state
from prx_email_django.limits.slots import Slot, release_slots, slot_or_obstacle
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import DrainReport, FailureMode, SendResult
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle
from prx_email_django.rules.words import words as _
from prx_email_django.states import WAITING
from prx_email_django.status.reasons import obstacle_sentence
from prx_email_django.store.absence import unwritten
from prx_email_django.store.claimed import Claim
from prx_email_django.store.db import fresh_connection
from prx_email_django.store.draft import Draft
from prx_email_django.store.insert import insert, insert_claimed
from prx_email_django.store.operations import check_retry, claim_one, requeue
from prx_email_django.store.outbox import outbox_and_clock
from prx_email_django.worker.drain import Drain
from prx_email_django.worker.single import deliver, expire_now, simulate


@dataclass(slots=True, kw_only=True)
class SendArguments(MessageArguments):
    """The parameters of ``send``."""

    failure_mode: FailureMode | str | None = None


@with_parameters_of(SendArguments)
def send(arguments: SendArguments) -> SendResult:
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
    check_may_send("send")
    return send_message(arguments)


def send_message(arguments: SendArguments) -> SendResult:
    """Do the work of ``send`` and ``reply``."""
    mode = _mode(arguments.failure_mode)
    check_instant("now", arguments.now)
    outbox, clock = outbox_and_clock(arguments.now)
    found = account_to_send(arguments.account, clock=clock)
    draft = compose(arguments, account=found, now=clock.now, largest=known_state(found).size_limit)
    if mode is not None:
        return _simulated(draft, mode, clock=clock)
    if paused := pause_sentence(found, outbox, clock=clock):
        return _left_pending(draft, PAUSED, paused, clock=clock)
    return _with_slot(found, lambda slot: _send_with(slot, draft, clock=clock), heed_pause=True, clock=clock)


def _simulated(draft: Draft, mode: FailureMode, *, clock: Clock) -> SendResult:
    claim = insert_claimed(draft, clock=clock)
    if not isinstance(claim, Claim):
        return answer(claim)
    if not expire_now(claim, draft.account, clock=clock):
        simulate(claim, draft.account, mode, clock=clock)
    return answer(claim.message)


def _with_slot(
    account: Account, attempt: Callable[[Slot | Obstacle], SendResult], *, heed_pause: bool, clock: Clock
) -> SendResult:
    """Call ``attempt`` with a slot or the reason why there is none; the slot is released whatever happens."""
    noted: set[Slot] = set()
    try:
        heeding = known_state(account) if heed_pause else None
        return attempt(slot_or_obstacle(account, noted=noted, clock=clock, heeding=heeding))
    except BaseException as error:
        if not isinstance(error, Exception):
            fresh_connection()
        unwritten.write([partial(release_slots, noted)])  # once more does no harm: each has a token of its own
        raise


def _send_with(slot: Slot | Obstacle, draft: Draft, *, clock: Clock) -> SendResult:
    if isinstance(slot, Obstacle):
        return _left_pending(draft, LIMITED, obstacle_sentence(slot, now=clock.running), clock=clock)
    claim = insert_claimed(draft, clock=clock)
    if not isinstance(claim, Claim):
        unwritten.write([partial(release_slots, [slot])])  # the result stands, whatever happens to the database
        return answer(claim)
    if expire_now(claim, draft.account, clock=clock):
        unwritten.write([partial(release_slots, [slot])])  # the result stands, whatever happens to the database
        return answer(claim.message)
    message, obstacle = deliver(claim, draft.account, slot, clock=clock)
    if obstacle is None:
        return answer(message)
    wake_on_commit()
    is_left = message.status in WAITING
    return answer(message, code=LIMITED if is_left else "", error=obstacle_sentence(obstacle, now=clock.running))


def _left_pending(draft: Draft, code: str, error: str, *, clock: Clock) -> SendResult:
    row, is_new = insert(draft, clock=clock)
    wake_on_commit()
    return answer(row, code=code if is_new else "", error=error)


def retry_outbox(
    outbox_id: MessageRef,
    *,
    now: datetime | None = None,
    force: bool = False,
    failure_mode: FailureMode | str | None = None,
) -> SendResult:
    """Make one attempt at a message now, because a person asked; a pause is ignored.

    A message at rest needs no ``force``, a message that is not due yet does.  Without a free connection or permit it is
    requeued, and the result has its status and the code ``limited``.

    Raises:
        RetryRejected: ``not_found``, ``not_retriable`` (sent or being sent), ``retry_not_due``.
        SendInsideTransaction: use ``requeue_outbox`` inside ``atomic()``.
        WrongInstance, AccountUnavailable: nothing has been changed.
    """
    return retry_within(None, message_key(outbox_id), now=now, force=force, failure_mode=failure_mode)


def retry_within(
    seconds: float | None,
    outbox_id: int,
    *,
    now: datetime | None = None,
    force: bool = False,
    failure_mode: FailureMode | str | None = None,
) -> SendResult:
    """Do the work of ``retry_outbox``; ``seconds`` (None: as ``SEND_DEADLINE`` says) bound the body too."""
    check_may_send("retry_outbox")
    mode = _mode(failure_mode)
    check_instant("now", now)
    _, clock = outbox_and_clock(now)
    message = check_retry(_row(outbox_id), outbox_id, clock=clock, force=force)
    account = account_to_send(message.account_id, clock=clock)
    if mode is not None:
        claim = claim_one(message.pk, clock=clock, force=force, account_id=account.pk)
        simulate(claim, account, mode, clock=clock)
        return answer(claim.message)

    def attempt(slot: Slot | Obstacle) -> SendResult:
        if isinstance(slot, Obstacle):
            return _requeued(message, slot, clock=clock)
        claim = claim_one(message.pk, clock=clock, force=force, account_id=account.pk)
        row, obstacle = deliver(claim, account, slot, clock=clock, heeds_pause=False, seconds=seconds)
        return answer(row) if obstacle is None else _requeued(message, obstacle, clock=clock)

    return _with_slot(account, attempt, heed_pause=False, clock=clock)


def _row(outbox_id: int) -> OutboxMessage | None:
    try:
        return OutboxMessage.objects.filter(pk=outbox_id).first()
    except (TypeError, ValueError):  # no message has such an id
        return None


def _requeued(message: OutboxMessage, obstacle: Obstacle, *, clock: Clock) -> SendResult:
    changed = requeue([message.pk], clock=clock, force=True).changed
    wake_on_commit()
    row = _row(message.pk)
    if row is None:
        raise RetryRejected(f"there is no message {message.pk}", code="not_found")  # deleted meanwhile
    return answer(row, code=LIMITED if changed else "", error=obstacle_sentence(obstacle, now=clock.running))


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
        progress: called with the counts so far; after a drain that raised, again, when all is written (another thread).
        stop: asked often; True ends the drain as the time budget does.

    Raises:
        SendInsideTransaction, WrongInstance, AccountUnavailable.
    """
    check_may_send("drain")
    check_instant("now", now)
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidMessage(_("limit: must be an integer, 0 or more"), code="invalid_option")
    outbox, clock = outbox_and_clock(now)
    return Drain(
        clock=clock,
        outbox=outbox,
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
    given = as_text(accounts)
    many = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]
    return [resolve_account(account, active=False) for account in many]


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
        known = ", ".join(mode.value for mode in FailureMode)
        raise InvalidMessage(f"failure_mode must be one of {known}", code="invalid_option") from error
