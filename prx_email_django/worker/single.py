"""One attempt at one message now, because a caller waits for it: the worker of the drain with a single claim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic

from django.db import Error

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.slots import Slot, release_slots
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import FailureMode
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.states import ErrorCode, Status
from prx_email_django.store.absence import may_pass, unwritten
from prx_email_django.store.claimed import Claim, split_expired
from prx_email_django.store.lease import release_lease
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.loop import WorkerLoop
from prx_email_django.worker.network import Network
from prx_email_django.worker.one_message import OneMessage
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.token_keeper import transport
from prx_email_django.worker.trouble import LIMITED


class SingleSend:
    """One attempt: the loop of a drain over one message, and the caller's deadline."""

    def __init__(  # noqa: PLR0913  (what one attempt needs)
        self,
        claim: Claim,
        account: Account,
        slot: Slot,
        *,
        clock: Clock,
        network: Network,
        recorder: Recorder,
        heeds_pause: bool,
        seconds: float | None,
    ) -> None:
        self.source = OneMessage(claim, account, clock=clock, heeds_pause=heeds_pause)
        self.recorder = recorder
        results = ResultQueue()
        self.loop = WorkerLoop(clock=clock, results=results, recorder=self.recorder)
        self.loop.waits_for_results_only = True
        self.worker = AccountWorker(
            CurrentAccount(account, outbox=None),
            source=self.source,
            clock=clock,
            network=network,
            results=results,
            recorder=self.recorder,
            transport=transport(),
        )
        self.worker.connections.keep(slot)
        self.loop.add(self.worker)
        #: When SEND_DEADLINE passes, on the monotonic clock.
        self.deadline = monotonic() + outbox_settings().send_deadline.total_seconds()
        #: The caller has a time of its own, which ends also a body: its outcome is unknown then.
        self.cuts_body = seconds is not None
        if seconds is not None:
            self.deadline = min(self.deadline, monotonic() + seconds)
        self._is_past = False

    def run(self) -> Obstacle | None:
        """Make the attempt; returns why none could be made.

        Raises:
            Error: the database was away, and the outcome is not in it; the process writes it when it is back.
        """
        try:
            self.loop.run(is_over=self._is_over, tick=self._heed_deadline, wake_in=self._wake_in)
            with self.loop.waiting():
                return self._settle()
        except BaseException as error:
            self.loop.leave()
            if self.source.is_unresolved:
                unwritten.write([self._release])
            if self._is_recorded and may_pass(error):
                return None  # before, or just now; only slots, or the rest of the recipients, may be left
            raise

    @property
    def _is_recorded(self) -> bool:
        """Whether the attempt's result is in the table."""
        if self.worker.prefetch.claims or self.source.is_unresolved:
            return False
        return self.source.claim_now.message.status != Status.SENDING

    def _is_over(self) -> bool:
        """Whether the caller has waited long enough for the database; what has not reached its body is cut then."""
        if not self.worker.prefetch.claims and not self.source.is_unresolved:
            return True
        if monotonic() < self.deadline:
            return False
        messages = self.worker.unreported()
        if messages and all(message.cancel() for message in messages):
            self.worker.abort()
        return True

    def _release(self) -> None:
        self.recorder.release([ClaimedMessage(self.source.claim_now, clock=self.worker.clock)])

    def _settle(self) -> Obstacle | None:
        """Release a message without a result if a limit was reached, else record its failure."""
        if self.source.was_released:
            return Obstacle(ObstacleKind.LEASE_ENDED)
        worker = self.worker
        limited_by = worker.prefetch.permits.limited_by
        if limited_by is None and worker.stop_reason == LIMITED:
            limited_by = worker.connections.obstacle or Obstacle(ObstacleKind.CONNECTION_LOST)
        if self.source.is_unresolved and limited_by is not None:
            self._release()
        elif self.source.is_unresolved:
            self.recorder.finished([self.source.failure()])
        return limited_by

    def _wake_in(self) -> float:
        return 1.0 if self._is_past else max(0.0, self.deadline - monotonic())

    def _heed_deadline(self) -> None:
        """After SEND_DEADLINE, end an attempt that has not reached its body; wait for a body that is being written."""
        if self._is_past or monotonic() < self.deadline:
            return
        worker = self.worker
        messages = worker.unreported()
        if worker.prefetch.claims and not messages:
            return  # a connection takes or reports it at this moment: the next turn finds it
        self._is_past = True
        self.source.give_up_rest()
        # Cancelled before all else, wherever it waits: a connection may take it at any moment, and write its body.
        if not all(message.cancel() for message in messages):
            if self.cuts_body:
                worker.stop("deadline")
                worker.abort()
            return  # its body is being written
        # Without a claim it has its result: neither a missing reply nor a connection for the rest matters.
        self.source.time_is_over = bool(worker.prefetch.claims) or self.source.is_unresolved
        worker.stop("deadline")
        worker.abort()
        worker.connections.tokens.abandon()


def deliver(  # noqa: PLR0913  (what one attempt needs)
    claim: Claim,
    account: Account,
    slot: Slot,
    *,
    clock: Clock,
    heeds_pause: bool = True,
    seconds: float | None = None,
) -> tuple[OutboxMessage, Obstacle | None]:
    """Make one attempt at a claimed message; returns the message as it stands, and why no attempt could be made.

    ``account`` has its runtime state (``limits.pauses.with_state``).  The slot is released.
    ``heeds_pause``: recipients that did not fit wait for the end of a pause that has begun since.
    ``seconds``: at most so many for the whole attempt, its body included.
    """
    if claim.recipients and not claim.open_addresses:  # a late acceptance answered them all
        with recorder_for(account, clock=clock) as recorder:
            recorder.settle(claim)
        unwritten.write([partial(release_slots, [slot])])
        return claim.message, None
    with ExitStack() as stack:
        try:
            network = stack.enter_context(Network())
        except Exception:  # the system gives no thread or no file
            unwritten.write([partial(release_lease, claim.lease)])
            raise
        recorder = stack.enter_context(recorder_for(account, clock=clock))
        single = SingleSend(
            claim,
            account,
            slot,
            clock=clock,
            network=network,
            recorder=recorder,
            heeds_pause=heeds_pause,
            seconds=seconds,
        )
        obstacle = single.run()
    message = single.source.claim_now.message
    if message.status != Status.SENT:  # a drain may have the rest of it, or all of it, by now
        try:
            message.refresh_from_db()
        except OutboxMessage.DoesNotExist:  # a receiver of its signal, or a person, has deleted it
            if message.status == Status.SENDING:
                raise  # before a result was recorded
        except Error as error:
            if not may_pass(error) or message.status == Status.SENDING:
                raise
    return message, obstacle


def expire_now(claim: Claim, account: Account, *, clock: Clock) -> bool:
    """Bring a claimed message to rest where it has expired already; whether it had."""
    _, expired = split_expired([claim], clock=clock)
    if expired:
        with recorder_for(account, clock=clock) as recorder:
            recorder.expire(expired)
    return bool(expired)


def simulate(claim: Claim, account: Account, mode: FailureMode, *, clock: Clock) -> None:
    """Fail a claimed message as named, without network, slot or permit."""
    outcomes = {
        FailureMode.NETWORK: Outcome(Ending.TEMPORARY, error_code=ErrorCode.NETWORK, error="simulated network failure"),
        FailureMode.PROVIDER: Outcome(
            Ending.TEMPORARY, error_code=ErrorCode.PROVIDER, error="451 simulated temporary refusal", smtp_code=451
        ),
        FailureMode.PROVIDER_PERMANENT: Outcome(
            Ending.PERMANENT, error_code=ErrorCode.PROVIDER, error="550 simulated refusal", smtp_code=550
        ),
    }
    with recorder_for(account, clock=clock) as recorder:
        recorder.failed(claim, outcomes[mode])


@contextmanager
def recorder_for(account: Account, *, clock: Clock) -> Iterator[Recorder]:
    """A recorder that knows the account's name, for its log lines; what it counted is written at the end."""
    recorder = Recorder(clock)
    recorder.names[account.pk] = account.name
    try:
        yield recorder
    finally:
        recorder.tally.write()
