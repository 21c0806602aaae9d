"""Writes results in groups, releases, recoveries and expiries; counts and announces them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prx_email_django.limits.rate_windows import Permits, give_back, joined
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.results import DrainReport
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Outcome
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.store.attempts import FinishedAttempt, RecordedAttempt
from prx_email_django.store.claimed import Claim
from prx_email_django.store.claims import release
from prx_email_django.store.finalize import Part, begin_group, finalize_in_parts, settle
from prx_email_django.store.recover import expire, recover
from prx_email_django.worker.events import announce, announce_reinstated, tells_sent
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.tally import HourlyTally


class Recorder:
    """Writes the results of a drain by ``store``; counts and announces what was written."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        #: The fields of the drain's report.
        self.counts: Counter[str] = Counter()
        self.names: dict[int, str] = {}
        self.tally = HourlyTally(clock)

    def report(self, seconds: float) -> DrainReport:
        """What was done until now, in so many seconds."""
        return DrainReport(**self.counts, seconds=seconds)

    def recover(self) -> None:
        """Recover the messages of lost workers."""
        recorded = recover(clock=self.clock)
        self.counts["recovered"] += len(recorded)
        self._tell(recorded)

    def expire(self, claims: Sequence[Claim]) -> None:
        """Put messages that are too old at rest."""
        recorded = expire(claims, clock=self.clock)
        for attempt in recorded:
            self.counts["sent" if attempt.status is Status.SENT else "expired"] += 1
        self._tell(recorded)

    def finished(self, group: Sequence[FinishedAttempt]) -> list[RecordedAttempt]:
        """Record finished attempts, in one group; what is recorded is counted and announced at once.

        Returns what was recorded, but not of messages that were simply accepted.
        """
        return self._noted(finalize_in_parts(group, clock=self.clock))

    def begin(self, group: Sequence[FinishedAttempt]) -> Callable[[], list[RecordedAttempt]] | None:
        """Begin to record a group: the function waits for the database, and does the rest of ``finished``.

        None: nothing was begun.
        """
        parts = begin_group(group, clock=self.clock)
        return None if parts is None else lambda: self._noted(parts())

    def _noted(self, parts: Iterable[Part]) -> list[RecordedAttempt]:
        recorded: list[RecordedAttempt] = []
        for part in parts:
            self._note_sent(part)
            self._announce(part.others)
            recorded += part.others
        return recorded

    def settle(self, claim: Claim) -> None:
        """Record a message that has no open recipient."""
        self._announce(settle(claim, clock=self.clock))

    def rescue(self, message: ClaimedMessage) -> None:
        """Record one result of a group that failed midway, unless the group recorded it."""
        claim = message.claim
        known = DeliveryAttempt.objects.filter(message_id=claim.id, claim_token=claim.lease.token)
        if not message.is_touched:
            ours = OutboxMessage.objects.filter(pk=claim.id, status=Status.SENDING, claim_token=claim.lease.token)
            if ours.exists():  # else it was released before, its permits too
                self.release([message])
        elif not known.exclude(outcome=AttemptOutcome.LOST).exists():
            self.finished([message.attempt()])

    def failed(self, claim: Claim, outcome: Outcome) -> None:
        """Record a failure without a connection."""
        now = self.clock.now
        self.finished([FinishedAttempt(claim, outcome, {}, started_at=now, finished_at=now)])

    def reinstated(self, messages: Sequence[OutboxMessage]) -> None:
        """Count and announce messages that were put at rest, and are due again since the account was the cause."""
        self.tally.reinstated(messages)
        self.counts["failed"] = max(0, self.counts["failed"] - len(messages))
        self.counts["deferred"] += len(messages)
        announce_reinstated(messages)

    def release(self, messages: Iterable[ClaimedMessage]) -> None:
        """Release messages untouched, and the permits of those whose MAIL was never written.

        A message that was taken from this worker is counted too: nothing of it was sent here, so ``limit`` has room for
        another message.
        """
        released = list(messages)
        if not released:
            return
        release([message.claim for message in released])
        self.counts["released"] += len(released)
        self.release_permits(permit for message in released if not message.mail_written for permit in message.permits)

    def release_permits(self, permits: Iterable[Permits]) -> None:
        """Return permits under which nothing was written."""
        for permit in joined(permits):
            give_back(permit, permit.count, clock=self.clock)

    def _note_sent(self, part: Part) -> None:
        """Count and announce messages that were simply accepted, which are nearly all."""
        if part.sent:
            self.counts["sent"] += len(part.sent)
            self.tally.note_sent([finished.claim.message for finished in part.sent])
            if tells_sent():
                announce(part.recorded_sent(), names=self.names)

    def _announce(self, recorded: Sequence[RecordedAttempt]) -> None:
        for attempt in recorded:
            self._count(attempt)
        self._tell(recorded)

    def _tell(self, recorded: Sequence[RecordedAttempt]) -> None:
        self.tally.note(recorded)
        announce(recorded, names=self.names)

    def _count(self, attempt: RecordedAttempt) -> None:
        if attempt.late or attempt.progress:
            return
        if attempt.status is Status.SENT:
            self.counts["sent"] += 1
        elif attempt.next_attempt_at is None:
            self.counts["failed"] += 1
        else:
            self.counts["deferred"] += 1
