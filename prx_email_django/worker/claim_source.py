"""Where an account's claims come from: the contract, and its first user, the due messages of a drain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Outcome
from prx_email_django.store.claimed import Claim, split_expired
from prx_email_django.store.claims import ClaimBatch, begin_claim, claim, claim_message
from prx_email_django.store.cursor import ClaimCursor
from prx_email_django.store.due import first_claimable
from prx_email_django.store.lease import Lease
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.outgoing import ClaimedMessage

#: Seconds for which an account waits whose connections claimed nothing: the first time, doubled up to the longest.
FIRST_REST, LONGEST_REST = 1.0, 30.0


class ClaimSource(Protocol):
    """Where the claims of one account come from: all due messages (a drain), or one message (``send``)."""

    #: A caller waits for one attempt: after trouble no further connection is tried.
    tries_once: bool
    #: The caller's deadline has passed before the body was written, and the words for that.
    time_is_over: bool
    late_reason: str
    #: Claim this message only: a probe of a suspected account.
    only: int | None

    def has_due(self) -> bool:
        """Whether there is something to claim."""

    def budget(self, wanted: int) -> int:
        """How many of the wanted messages may be claimed."""

    def claim(self, *, limit: int, hold_limit: int, noted: set[Lease]) -> ClaimBatch:
        """Claim up to ``limit`` messages, at most ``hold_limit`` of those that must not be sent twice.

        ``noted`` gets the lease before the statement.
        """

    def begin_claim(self, *, limit: int, hold_limit: int, noted: set[Lease]) -> Callable[[], ClaimBatch] | None:
        """Begin what ``claim`` does: the function waits for it; None: nothing was begun, ``claim`` does it."""

    def split_expired(self, claims: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
        """Claims that may be sent, and those that are too old."""

    def keeps(self, message: ClaimedMessage) -> bool:
        """Whether an untouched message is kept for its caller; False: it is released."""

    def go_on(self) -> None:
        """A message was accepted for some of its recipients: its row is due now, for the rest."""

    def fail(self, outcome: Outcome) -> None:
        """Note why no attempt could be made, for a caller who waits."""


class EmptyHanded:
    """Accounts whose last connection claimed nothing: the message that it came for was held by others.

    Such an account waits 1 s, then 2 s, 4 s, … for the same message, unless another message comes first.  Kept for the
    process: a loop begins a new drain each second, and each would cost a login.  A drain whose caller gives the time
    waits for nothing (``ReadyAccounts``): these are seconds of the machine's clock.
    """

    def __init__(self) -> None:
        #: By account: the message for which a connection is opened, the last wait, and until when it lasts for which.
        self._expected: dict[int, int] = {}
        self._rests: dict[int, float] = {}
        self._waits: dict[int, tuple[int, float]] = {}

    def expect(self, account_id: int, first: int) -> None:
        """Note which message a claim would get first."""
        self._expected[account_id] = first

    def waits(self, account_id: int) -> bool:
        """Whether the account still waits for the message that is expected."""
        lost, until = self._waits.get(account_id, (0, 0.0))
        return self._expected.get(account_id) == lost and monotonic() < until

    def note(self, account_id: int, *, claimed: bool) -> None:
        """Note how a connection ended that asked for claims."""
        if claimed:
            self._rests.pop(account_id, None)
            self._waits.pop(account_id, None)
            return
        expected = self._expected.get(account_id, 0)
        if expected != self._waits.get(account_id, (0, 0.0))[0]:
            self._rests.pop(account_id, None)  # who lost a race for one message after another need not wait ever longer
        rest = min(2 * self._rests.get(account_id, FIRST_REST / 2), LONGEST_REST)
        self._rests[account_id] = rest
        self._waits[account_id] = (expected, monotonic() + rest)


empty_handed = EmptyHanded()


class DueMessages:
    """The ``ClaimSource`` of a drain: the due messages of one account."""

    tries_once = False
    time_is_over = False
    late_reason = ""

    def __init__(self, current: CurrentAccount, *, clock: Clock, budget: Callable[[int], int]) -> None:
        self._current = current
        self._clock = clock
        self.budget = budget
        self._claimed = False
        self._cursor = ClaimCursor()
        #: Only this message is claimed: a probe.  None: whatever is due.
        self.only: int | None = None

    def has_due(self) -> bool:
        """Whether the account has a due message, by the claim's index."""
        return self.only is not None or first_claimable(self._current.account.pk, clock=self._clock) is not None

    def claim(self, *, limit: int, hold_limit: int, noted: set[Lease]) -> ClaimBatch:
        """Claim due messages, best rank first."""
        account = self._current.account
        if self.only is not None:
            probe = claim_message(self.only, account_id=account.pk, clock=self._clock, noted=noted)
            batch = ClaimBatch([] if probe is None else [probe])
        else:
            batch = claim(
                account.pk, limit=limit, hold_limit=hold_limit, clock=self._clock, cursor=self._cursor, noted=noted
            )
        return self._noted(batch)

    def begin_claim(self, *, limit: int, hold_limit: int, noted: set[Lease]) -> Callable[[], ClaimBatch] | None:
        """Begin to claim due messages, best rank first; not a probe."""
        if self.only is not None:
            return None
        account = self._current.account
        begun = begin_claim(
            account.pk, limit=limit, hold_limit=hold_limit, clock=self._clock, cursor=self._cursor, noted=noted
        )
        return None if begun is None else lambda: self._noted(begun())

    def _noted(self, batch: ClaimBatch) -> ClaimBatch:
        self._claimed = self._claimed or bool(batch.claims)
        if not batch.stopped_at_hold:
            empty_handed.note(self._current.account.pk, claimed=self._claimed)
        return batch

    def split_expired(self, claims: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
        """Claims that may be sent, and those that are too old."""
        return split_expired(claims, clock=self._clock)

    def keeps(self, message: ClaimedMessage) -> bool:
        """Return False: no caller waits for a single message."""
        return False

    def go_on(self) -> None:
        """Do nothing: the row is due now, and the next claim finds it."""

    def fail(self, outcome: Outcome) -> None:
        """Do nothing: no caller waits for a single message."""
