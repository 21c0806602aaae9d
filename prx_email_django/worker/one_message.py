"""The ``ClaimSource`` of one attempt that a caller waits for: one message, and what its caller is told of it."""

from __future__ import annotations

from collections.abc import Sequence

from prx_email_django.models import Account
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome, Phase
from prx_email_django.states import ErrorCode
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.claimed import Claim
from prx_email_django.store.claims import ClaimBatch, claim_message
from prx_email_django.store.lease import Lease
from prx_email_django.worker.current import is_stopped
from prx_email_django.worker.outgoing import ClaimedMessage

TOO_LATE = "not done within SEND_DEADLINE"
#: The connection ended, and no reply said why.
CUT_SHORT = "the connection ended before the message was sent"


class OneMessage:
    """The ``ClaimSource`` of one message that its caller has claimed."""

    tries_once = True
    #: The caller's message is the only one anyhow.
    only: int | None = None
    late_reason = TOO_LATE

    def __init__(self, claim: Claim, account: Account, *, clock: Clock, heeds_pause: bool) -> None:
        self.account = account
        #: A person did not ask for this attempt: the rest of a message waits for the end of a pause.
        self.heeds_pause = heeds_pause
        self.claim_now = claim
        self.clock = clock
        self.time_is_over = False
        #: Recipients that did not fit may still go on.
        self.may_go_on = True
        #: It came back untouched.
        self.returned: ClaimedMessage | None = None
        #: It came back untouched, and was released because its lease was about to end.
        self.was_released = False
        self._waits = True
        self._has_more = False
        self._failure: Outcome | None = None

    def has_due(self) -> bool:
        """Whether the message waits for its permits, or its row is due for the rest of its recipients."""
        return self._waits or self._has_more

    def budget(self, wanted: int) -> int:
        """Return at most one."""
        return min(wanted, 1)

    def claim(self, *, limit: int, hold_limit: int, noted: set[Lease]) -> ClaimBatch:
        """The caller's claim; later its row again, for recipients that did not fit."""
        if self._waits:
            self._waits = False
            return ClaimBatch([self.claim_now], is_last=True)
        if not self._has_more:
            return ClaimBatch([])  # it was released, and the caller asked for one attempt
        self._has_more = False
        if self.heeds_pause and is_stopped(self.account.pk, now=self.clock.now):
            return ClaimBatch([])
        rest = claim_message(self.claim_now.id, account_id=self.account.pk, clock=self.clock, noted=noted)
        if rest is None:
            return ClaimBatch([])  # a drain has it already, or a person has cancelled or moved it
        self.claim_now = rest
        return ClaimBatch([rest], is_last=True)

    def begin_claim(self, *, limit: int, hold_limit: int, noted: set[Lease]) -> None:
        """Begin nothing: the message is claimed already."""

    def split_expired(self, claims: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
        """Return all claims: the caller checked the age, or a person asked for the attempt."""
        return list(claims), []

    def keeps(self, message: ClaimedMessage) -> bool:
        """Keep an untouched message, since its caller waits for a result, unless its lease was lost."""
        if not message.claim.has_time_left():
            self.was_released = True
            return False
        again = message.permit_ended or (message.connection is not None and message.connection.token_ended)
        if again and not self.time_is_over:
            self._waits = True  # it takes other permits, and another connection
            return True
        if message.outcome.ahead_refused and not self.time_is_over:
            self._waits = True  # only our own pipelining failed: once more without it, in the same attempt
            return True
        self.returned = message
        if message.connection is not None:
            self.fail(message.outcome)
        return True

    def go_on(self) -> None:
        """Go on with the recipients that did not fit, under the same Message-ID."""
        self._has_more = self.may_go_on

    def give_up_rest(self) -> None:
        """Leave the recipients that did not fit to a drain: the caller's deadline has passed."""
        self.may_go_on = self._has_more = False

    def fail(self, outcome: Outcome) -> None:
        """Note the reason; the first one counts."""
        self._failure = self._failure or outcome

    @property
    def is_unresolved(self) -> bool:
        """Whether the claim has neither a result nor been released."""
        return self._waits or self.returned is not None

    def failure(self) -> FinishedAttempt:
        """The failure to record: for a caller who waits, trouble of the account is a failure of the message."""
        message = self.returned or ClaimedMessage(self.claim_now, clock=self.clock)
        found = self._failure or Outcome(Ending.TEMPORARY, phase=Phase.AUTH if self.time_is_over else "")
        code, text = found.error_code or ErrorCode.NETWORK, found.error or CUT_SHORT
        if self.time_is_over:
            code = ErrorCode.TIMEOUT
            text = text if text.startswith(TOO_LATE) else TOO_LATE  # with what the opening had waited for
        message.outcome = found
        return message.attempt(ending=Ending.TEMPORARY, error_code=code, error=text)
