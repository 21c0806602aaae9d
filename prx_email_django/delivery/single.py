"""One message now, because somebody waits for it: the engine of the drain with a single claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from django.db.models import Q

from prx_email_django.clock import Clock
from prx_email_django.conf import outbox_settings
from prx_email_django.delivery.account import LIMITED, AccountRun, pause_reason
from prx_email_django.delivery.engine import Engine
from prx_email_django.delivery.jobs import Held
from prx_email_django.delivery.lanes import Lane, Mailbox, Result
from prx_email_django.delivery.login import transport
from prx_email_django.delivery.network import Network
from prx_email_django.delivery.recorder import Recorder
from prx_email_django.limits import Slot, give_back, release_slots, take_permits
from prx_email_django.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.results import FailureMode
from prx_email_django.states import ErrorCode
from prx_email_django.store import Claim, Finished, Lease, Recorded, claim_ids, load_claims
from prx_email_django.transports.base import ConnectError, SessionEnd

TOO_LATE = "not done within SEND_DEADLINE"


class SingleRun(AccountRun):
    """Sends one claimed message; the account's trouble is a known failure of it, since somebody waits for an answer."""

    def __init__(self, claim: Claim, slot: Slot, *, deadline: float, **shared: object) -> None:
        super().__init__(claim.message.account, **shared)  # type: ignore[arg-type]
        #: When SEND_DEADLINE has passed, on the monotonic clock.
        self.deadline = deadline
        self.is_past = False
        #: It passed before the body was written: the attempt has failed.
        self.is_late = False
        self.claim = claim
        self.claims[claim.id] = claim
        self.given_slot: Slot | None = slot
        self.most_lanes = 1
        self.permitted = False
        self.is_limited = False
        self.exhausted = True

    @property
    def waits(self) -> bool:
        """Whether its body has not been written yet."""
        return self.claim.id in self.claims

    def advance(self) -> None:
        """One step, unless the deadline has passed meanwhile."""
        super().advance()
        if not self.is_past and monotonic() >= self.deadline:
            self.is_past = True
            self.expire()

    def wake_in(self) -> float | None:
        """As for a drain, and at the deadline."""
        earlier = super().wake_in()
        left = max(0.0, self.deadline - monotonic())
        return earlier if self.is_past or (earlier is not None and earlier < left) else left

    def _claim_more(self) -> None:
        """Permits, once the connection stands; without one the message is given back."""
        if not self._greeted or self.permitted or not self.waits:
            return
        self.permitted = True
        permits = take_permits(self.account, 1, clock=self.clock)
        if permits.count:
            self._admit_recipients([self.claim], permits)
        if not self.unrendered:
            if permits.count and self.waits:
                give_back(permits, 1, clock=self.clock)
                self._release([Held(self.claim)])
            elif self.waits:
                self._release([Held(self.claim)])
            self.is_limited = True
            self.no_more = True

    def _acquire(self) -> Slot | None:
        slot, self.given_slot = self.given_slot, None
        return slot or super()._acquire()

    def after_recording(self, recorded: Sequence[Recorded]) -> None:
        """Recipients that did not fit go on at once, under the same Message-ID."""
        if self.is_past or not any(one.progress for one in recorded):
            return
        lease = Lease(outbox_settings().lease)
        due = Q(next_attempt_at__lte=self.clock.now)
        if not claim_ids([self.claim.id], guard=due, lease=lease, clock=self.clock):
            return  # a drain has it already, or a person has cancelled it
        self.claim = load_claims([self.claim.id], lease=lease)[0]
        self.claims[self.claim.id] = self.claim
        self.permitted = False

    def results(self, results: Sequence[Result]) -> None:
        """An untouched message was still an attempt that somebody waits for, unless the lease was lost."""
        super().results([self._told(one) for one in results if not self._may_go_on(one)])
        self.exhausted = True  # whatever a drain would look for now, there is this one message only

    def _may_go_on(self, one: Result) -> bool:
        """Whether its permit ended a moment before MAIL: then it takes another one."""
        untouched = one.outcome.ending is Ending.UNTOUCHED and not (one.job.mail_written or one.outcome.error)
        if self.is_late or not untouched or not self.claim.lease.holds():
            return False
        self.recorder.release_permits(one.job.permits)
        self.permitted = False
        return True

    def _told(self, one: Result) -> Result:
        outcome = one.outcome
        if outcome.ending is not Ending.UNTOUCHED or not self.claim.lease.holds():
            return one
        if not one.job.mail_written:
            self.recorder.release_permits(one.job.permits)
        code, text = (ErrorCode.TIMEOUT, TOO_LATE) if self.is_late else (outcome.error_code, outcome.error)
        text = text or "the connection ended before the message was sent"
        told = replace(outcome, ending=Ending.TEMPORARY, error_code=code or ErrorCode.NETWORK, error=text)
        return replace(one, outcome=told)

    def connect_failed(self, lane: Lane, error: ConnectError) -> None:
        """No connection: a known failure, and one of the account's."""
        self._drop(lane)
        if error.trouble is Trouble.AUTH and self.tokens.renew(lane.token):
            return
        self.connect_refused(error)

    def connect_cancelled(self, lane: Lane) -> None:
        """The deadline has passed before the connection stood: the account's trouble too."""
        super().connect_cancelled(lane)
        self._fail(Outcome(Ending.TEMPORARY, error_code=ErrorCode.TIMEOUT, error=TOO_LATE, phase=Phase.CONNECT))
        self.trouble(Trouble.CONNECTION, f"connection failed ({TOO_LATE})")

    def connect_refused(self, error: ConnectError) -> None:
        """The attempt has failed before it touched the server's mail."""
        self._fail(
            Outcome(
                Ending.TEMPORARY,
                trouble=error.trouble,
                error_code=error.error_code,
                error=str(error),
                phase=error.phase,
                smtp_code=error.smtp_code,
                enhanced=error.enhanced,
                peer=error.peer,
            )
        )
        self.trouble(error.trouble, pause_reason(error))

    def ended(self, lane: Lane, end: SessionEnd) -> None:
        """The connection is over: a message that it never took fails, unless another connection may take it."""
        super().ended(lane, end)
        if self.waits and (self.is_late or not end.reconnect):
            code, text = (ErrorCode.TIMEOUT, TOO_LATE) if self.is_late else (end.error_code, end.error)
            text = text or "the connection ended before the message was sent"
            self._fail(Outcome(Ending.TEMPORARY, error_code=code or ErrorCode.NETWORK, error=text))

    def stop(self, reason: str) -> None:
        """Trouble with the account stops nothing here: the message has failed already, or is on its way."""
        self.stop_reason = self.stop_reason or reason
        if reason == LIMITED and self.waits:  # its connection is gone, and others hold the rest
            self._release([*self.pool.withdraw(), *self.unrendered] or [Held(self.claim)])
            self.unrendered.clear()
            self.is_limited = True

    def expire(self) -> None:
        """SEND_DEADLINE has passed: what has not reached its body fails; a body on its way is waited for."""
        if not self.waits or not all(job.cancel() for lane in self.lanes for job in list(lane.taken.values())):
            return
        self.is_late = True
        self._cancel_opening()
        self.abort()
        self.tokens.abandon()
        if not self.lanes:
            self._fail(Outcome(Ending.TEMPORARY, error_code=ErrorCode.TIMEOUT, error=TOO_LATE))

    def _fail(self, outcome: Outcome) -> None:
        self.no_more, self._retry_at = True, 0.0
        if self.claims.pop(self.claim.id, None) is None:
            return
        for one in (*self.pool.withdraw(), *self.unrendered):
            self.recorder.release_permits(one.permits)
        self.unrendered.clear()
        now = self.clock.now
        self.recorder.finished([Finished(self.claim, outcome, {}, started_at=now, finished_at=now)])


def deliver(claim: Claim, slot: Slot, *, clock: Clock) -> str:
    """Make one attempt at a claimed message; returns ``limited`` where no permit was to be had, else an empty string.

    Its row tells what came of it.
    """
    mailbox = Mailbox(1)
    recorder = Recorder(clock)
    recorder.names[claim.message.account_id] = claim.message.account.name
    engine = Engine(clock=clock, mailbox=mailbox, recorder=recorder)
    deadline = monotonic() + outbox_settings().send_deadline.total_seconds()
    with Network() as network:
        run = SingleRun(
            claim,
            slot,
            deadline=deadline,
            clock=clock,
            network=network,
            mailbox=mailbox,
            recorder=recorder,
            transport=transport(),
        )
        engine.runs.append(run)
        try:
            engine.run(should_stop=lambda: "")
        except BaseException:
            engine.leave()
            raise
        finally:
            if run.given_slot is not None:
                release_slots([run.given_slot])
    return LIMITED if run.is_limited else ""


def simulate(claim: Claim, mode: FailureMode, *, clock: Clock) -> Recorded:
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
    recorder = Recorder(clock)
    recorder.names[claim.message.account_id] = claim.message.account.name
    now = clock.now
    return recorder.finished([Finished(claim, outcomes[mode], {}, started_at=now, finished_at=now)])[0]
