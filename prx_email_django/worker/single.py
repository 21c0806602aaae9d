"""One message now, because somebody waits for it: the engine of the drain with a single claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from django.db.models import Q

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.slots import Slot, release_slots
from prx_email_django.limits.windows import take_permits
from prx_email_django.results import FailureMode
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.store.claims import Claim, Lease, claim_ids, load_claims, split_expired
from prx_email_django.store.results import FinishedAttempt, RecordedAttempt
from prx_email_django.transports.base import ConnectError, SessionEnd
from prx_email_django.worker.account import LIMITED, AccountRun
from prx_email_django.worker.connection import Lane, Mailbox, Result
from prx_email_django.worker.connections import pause_reason
from prx_email_django.worker.loop import Engine
from prx_email_django.worker.network import Network
from prx_email_django.worker.outgoing import Held
from prx_email_django.worker.prefetch import Intake
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.tokens import transport

TOO_LATE = "not done within SEND_DEADLINE"
#: Nobody knows more: the connection went, and no reply told why.
CUT_SHORT = "the connection ended before the message was sent"


class SingleIntake(Intake):
    """One message, claimed by the caller: permits for it once the connection stands, and nothing else ever."""

    def __init__(self, claim: Claim, *, clock: Clock, recorder: Recorder) -> None:
        super().__init__(claim.message.account, clock=clock, recorder=recorder)
        self.claim = claim
        self.claims[claim.id] = claim
        self.exhausted = True
        #: Permits have been asked for.
        self.permitted = False
        #: It was given back, since no permit or no connection was to be had.
        self.is_limited = False
        #: Recipients that did not fit may still go on.
        self.may_go_on = True

    @property
    def waits(self) -> bool:
        """Whether no result of it is recorded yet."""
        return self.claim.id in self.claims

    def look_again(self) -> None:
        """Whatever a drain would look for now: there is this one message only."""

    def claim_more(self, connections: int) -> bool:
        """Permits, once the connection stands; without one the message is given back."""
        if not connections or self.permitted or not self.waits:
            return True
        self.permitted = True
        permits = take_permits(self.account, 1, clock=self.clock)
        if permits.count:
            self.admit_recipients([self.claim], permits)
        else:
            self.release([Held(self.claim)])
        if not self.unrendered:
            self.is_limited = self.no_more = True
        return True

    def permit_again(self, held: Held) -> None:
        """Its permits ended before MAIL: return them, and take others."""
        self.recorder.release_permits(held.permits)
        self.permitted = False

    def go_on(self) -> None:
        """Recipients that did not fit go on at once, under the same Message-ID."""
        if not self.may_go_on:
            return
        lease = Lease(outbox_settings().lease)
        due = Q(next_attempt_at__lte=self.clock.now)
        if not claim_ids([self.claim.id], guard=due, lease=lease, clock=self.clock):
            return  # a drain has it already, or a person has cancelled it
        self.claim = load_claims([self.claim.id], lease=lease)[0]
        self.claims[self.claim.id] = self.claim
        self.permitted = False

    def turn_back(self) -> None:
        """No connection is to be had: give it back untouched."""
        if self.waits:
            self.release(self.withdraw() or [Held(self.claim)])
            self.is_limited = True

    def fail(self, outcome: Outcome) -> None:
        """It failed before any connection took it; nothing happens if its result is recorded already."""
        self.no_more = True
        if self.claims.pop(self.claim.id, None) is None:
            return
        for one in self.withdraw():
            self.recorder.release_permits(one.permits)
        self.recorder.broken(self.claim, outcome)


class SingleRun(AccountRun):
    """Sends one claimed message; the account's trouble is a known failure of it, since somebody waits for an answer."""

    intake: SingleIntake

    def __init__(
        self, intake: SingleIntake, slot: Slot, *, deadline: float, network: Network, mailbox: Mailbox
    ) -> None:
        super().__init__(
            intake.account,
            clock=intake.clock,
            network=network,
            mailbox=mailbox,
            recorder=intake.recorder,
            transport=transport(),
            intake=intake,
        )
        self.connecting.keep(slot)
        self.connecting.most_lanes = 1
        self.connecting.heeds_pause = False
        #: When SEND_DEADLINE has passed, on the monotonic clock.
        self.deadline = deadline
        self.is_past = False
        #: It passed before the body was written: the attempt has failed.
        self.is_late = False

    def advance(self) -> None:
        """One step, unless the deadline has passed meanwhile."""
        super().advance()
        if not self.is_past and monotonic() >= self.deadline:
            self.is_past, self.intake.may_go_on = True, False
            self.expire()

    def wake_in(self) -> float | None:
        """As for a drain, and at the deadline."""
        earlier = super().wake_in()
        left = max(0.0, self.deadline - monotonic())
        return earlier if self.is_past or (earlier is not None and earlier < left) else left

    def stop(self, reason: str) -> None:
        """Trouble with the account stops nothing here: the message has failed already, or is on its way."""
        self.stop_reason = self.stop_reason or reason
        if reason == LIMITED:  # its connection is gone, and others hold the rest
            self.intake.turn_back()

    def expire(self) -> None:
        """SEND_DEADLINE has passed: what has not reached its body fails; a body on its way is waited for."""
        if not self.intake.waits:
            self.connecting.abort()  # it is decided: whatever its connection still waits for is nobody's matter
            return
        taken = [job for lane in self.connecting.lanes for job in list(lane.taken.values())]
        if not all(job.cancel() for job in taken):
            return
        self.is_late = True
        self.connecting.give_up_opening()
        self.connecting.abort()
        self.connecting.tokens.abandon()
        if not self.connecting.lanes:  # its token has not come
            self._fail(self._temporary(phase=Phase.AUTH))

    def results(self, results: Sequence[Result]) -> None:
        """An untouched message was still an attempt that somebody waits for, unless the lease was lost."""
        super().results([self._told(one) for one in results if not self._may_go_on(one)])

    def connect_cancelled(self, lane: Lane, reached: ConnectError | None) -> None:
        """The deadline has passed before the connection stood: the account's trouble too."""
        phase, peer = (reached.phase, reached.peer) if reached else (Phase.CONNECT, "")
        self._fail(Outcome(Ending.TEMPORARY, error_code=ErrorCode.TIMEOUT, error=TOO_LATE, phase=phase, peer=peer))
        self.trouble(Trouble.CONNECTION, f"connection failed ({TOO_LATE})")
        super().connect_cancelled(lane, reached)  # a pause first: whoever takes the slot must know of it

    def connect_refused(self, error: ConnectError) -> None:
        """No connection: a known failure of the message, and one of the account's."""
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
        if self.intake.waits and (self.is_late or not end.reconnect):
            peer = lane.session.peer if lane.session else ""
            self._fail(self._temporary(end.error_code, end.error, phase=Phase.MAIL, peer=peer))

    def _may_go_on(self, one: Result) -> bool:
        """Whether its permit ended a moment before MAIL: then it takes another one."""
        untouched = one.outcome.ending is Ending.UNTOUCHED and not (one.job.mail_written or one.outcome.error)
        if self.is_late or not untouched or not self.intake.claim.lease.holds():
            return False
        self.intake.permit_again(one.job)
        return True

    def _told(self, one: Result) -> Result:
        outcome = one.outcome
        if outcome.ending is not Ending.UNTOUCHED or not self.intake.claim.lease.holds():
            return one
        if not one.job.mail_written:
            self.recorder.release_permits(one.job.permits)
        told = self._temporary(outcome.error_code, outcome.error)
        return replace(one, outcome=replace(outcome, ending=told.ending, error_code=told.error_code, error=told.error))

    def _temporary(self, error_code: str = "", error: str = "", *, phase: str = "", peer: str = "") -> Outcome:
        """What an attempt without a reply came to: the deadline's failure, once that has passed before the body."""
        if self.is_late:
            error_code, error = ErrorCode.TIMEOUT, TOO_LATE
        return Outcome(
            Ending.TEMPORARY,
            error_code=error_code or ErrorCode.NETWORK,
            error=error or CUT_SHORT,
            phase=phase,
            peer=peer,
        )

    def _fail(self, outcome: Outcome) -> None:
        self.connecting.retry_at = 0.0
        self.intake.fail(outcome)


def deliver(claim: Claim, slot: Slot, *, clock: Clock) -> str:
    """Make one attempt at a claimed message; returns ``limited`` where no permit was to be had, else an empty string.

    Its row tells what came of it.
    """
    mailbox = Mailbox(1)
    recorder = Recorder(clock)
    recorder.names[claim.message.account_id] = claim.message.account.name
    if claim.recipients and not claim.open_addresses:  # a late acceptance answered them all
        recorder.settle(claim)
        release_slots([slot])
        return ""
    engine = Engine(clock=clock, mailbox=mailbox, recorder=recorder)
    intake = SingleIntake(claim, clock=clock, recorder=recorder)
    deadline = monotonic() + outbox_settings().send_deadline.total_seconds()
    with Network() as network:
        engine.runs.append(SingleRun(intake, slot, deadline=deadline, network=network, mailbox=mailbox))
        try:
            engine.run(should_stop=lambda: "")
        except BaseException:
            engine.leave()
            raise
    return LIMITED if intake.is_limited else ""


def give_up(claim: Claim, *, clock: Clock) -> bool:
    """Bring a claimed message to rest where it has expired already; whether it had."""
    _, old = split_expired([claim], clock=clock)
    if old:
        recorder = Recorder(clock)
        recorder.names[claim.message.account_id] = claim.message.account.name
        recorder.expire(old)
    return bool(old)


def simulate(claim: Claim, mode: FailureMode, *, clock: Clock) -> RecordedAttempt:
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
    return recorder.finished([FinishedAttempt(claim, outcomes[mode], {}, started_at=now, finished_at=now)])[0]
