"""Writes what comes back: results in groups, releases, and what they say about accounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from prx_email_django.limits.windows import Permits, give_back
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.results import DrainReport
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.store.claims import Claim, release
from prx_email_django.store.finalize import finalize, settle
from prx_email_django.store.recover import expire, recover
from prx_email_django.store.results import FinishedAttempt, RecordedAttempt
from prx_email_django.worker.connection import Result
from prx_email_django.worker.events import announce
from prx_email_django.worker.outgoing import Held, Job


@dataclass(slots=True)
class Counts:
    """The drain's report, while it is being made."""

    claimed: int = 0
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    recovered: int = 0
    released: int = 0
    expired: int = 0

    def report(self, seconds: float) -> DrainReport:
        """The finished report."""
        return DrainReport(**asdict(self), seconds=seconds)


class Recorder:
    """The only way from a drain to ``store``'s results; counts and announces what it wrote."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.counts = Counts()
        self.names: dict[int, str] = {}

    def recover(self) -> None:
        """Take back what lost workers held."""
        recorded = recover(clock=self.clock)
        self.counts.recovered += len(recorded)
        announce(recorded, names=self.names)

    def expire(self, claims: Sequence[Claim]) -> None:
        """Bring to rest what is too old."""
        recorded = expire(claims, clock=self.clock)
        self.counts.expired += len(recorded)
        announce(recorded, names=self.names)

    def results(self, results: Iterable[Result]) -> list[RecordedAttempt]:
        """Record outcomes that touched their messages."""
        return self.finished([finished(one.job, one.outcome, clock=self.clock) for one in results])

    def finished(self, group: Sequence[FinishedAttempt]) -> list[RecordedAttempt]:
        """Record attempts, in one group."""
        recorded = finalize(group, clock=self.clock) if group else []
        self._tell(recorded)
        return recorded

    def settle(self, claim: Claim) -> None:
        """Record a message of which nothing is left to send."""
        self._tell(settle(claim, clock=self.clock))

    def rescue(self, result: Result) -> None:
        """Record one result of a group that failed midway, unless it was recorded before that."""
        claim = result.job.claim
        known = DeliveryAttempt.objects.filter(message_id=claim.id, claim_token=claim.lease.token)
        if not is_touched(result.outcome):
            ours = OutboxMessage.objects.filter(pk=claim.id, status=Status.SENDING, claim_token=claim.lease.token)
            if ours.exists():  # else it was released before, its permits too
                self.release([result.job])
        elif not known.exclude(outcome=AttemptOutcome.LOST).exists():
            self.results([result])

    def broken(self, claim: Claim, outcome: Outcome) -> None:
        """Record a message that could not be rendered."""
        now = self.clock.now
        self.finished([FinishedAttempt(claim, outcome, {}, started_at=now, finished_at=now)])

    def release(self, helds: Iterable[Held]) -> None:
        """Give messages back untouched, and the permits of those whose MAIL was never written."""
        given_back = list(helds)
        if not given_back:
            return
        self.counts.released += release([one.claim for one in given_back])
        for one in given_back:
            if not one.mail_written:
                self.release_permits(one.permits)

    def release_permits(self, permits: Iterable[Permits]) -> None:
        """Give back permits under which nothing was written."""
        for one in permits:
            give_back(one, one.count, clock=self.clock)

    def _tell(self, recorded: Sequence[RecordedAttempt]) -> None:
        for one in recorded:
            self._count(one)
        announce(recorded, names=self.names)

    def _count(self, one: RecordedAttempt) -> None:
        if one.late or one.progress:
            return
        if one.status is Status.SENT:
            self.counts.sent += 1
        elif one.next_attempt_at is None:
            self.counts.failed += 1
        else:
            self.counts.deferred += 1


def finished(job: Job, outcome: Outcome, *, clock: Clock) -> FinishedAttempt:
    """A job's outcome, told of the real recipients."""
    now = clock.now
    return FinishedAttempt(
        claim=job.claim,
        outcome=outcome,
        answers=job.route.results(outcome.recipients),
        started_at=job.started_at or now,
        finished_at=now,
    )


def is_touched(outcome: Outcome) -> bool:
    """Whether the attempt says something about its message."""
    return outcome.ending is not Ending.UNTOUCHED
