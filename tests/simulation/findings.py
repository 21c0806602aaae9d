"""The end of a schedule, as the invariants judge it: rows, attempts, committed changes, and copies."""

from __future__ import annotations

from collections import Counter

from prx_email_django.models import DeliveryAttempt, OutboxMessage, PauseRecord, Recipient
from tests.simulation import audit
from tests.simulation.schedule import Schedule
from tests.simulation.server import Copy

#: Processes of people who operate the outbox.
PEOPLE = ("person", "clerk", "purge")


class Findings:
    """The end of a schedule."""

    def __init__(
        self, schedule: Schedule, rows: dict[int, OutboxMessage], attempts: dict[int, list[DeliveryAttempt]]
    ) -> None:
        self.schedule = schedule
        self.known = schedule.known
        self.rows = rows
        self.attempts = attempts
        self.changes = audit.changes()
        #: The change by which each message went that a person erased, purged or deleted.
        self.deleted = {
            change.message: change for change in self.changes if change.is_deletion and change.actor in PEOPLE
        }
        self.copies: dict[int, list[Copy]] = {pk: [] for pk in rows}
        self._claims: dict[tuple[int, str], list[audit.Change]] = {}
        for change in self.changes:
            if change.is_claim:
                self._claims.setdefault((change.message, change.actor), []).append(change)
        #: Nothing stood still: what should be noticed by the next renewal is.
        self.is_prompt = not schedule.kinds & {"sleep", "delays", "freezes", "absence", "read_only"}
        self.strangers: list[Copy] = []
        for server in schedule.servers.values():
            for copy in server.copies:
                self.copies.get(copy.message, self.strangers).append(copy)
        #: The server of each account.
        self.servers = {
            account.pk: server for account, server in zip(schedule.accounts, schedule.servers.values(), strict=False)
        }
        #: A late result took the row of its lost attempt; its worker may have been killed before it could say so.
        recovered = Counter(change.message for change in self.changes if change.is_recovery)
        lost = {pk: sum(attempt.outcome == "lost" for attempt in attempts[pk]) for pk in rows}
        self.late = self.known.late | {pk for pk in rows if recovered[pk] > lost[pk]}
        #: Accounts that were found refusing: their messages were given back the counters of before.  Where a person
        #: has paused the account already, it has no record.
        self.refusing = {pause.account_id for pause in PauseRecord.objects.filter(code="refusing")}
        before: dict[int, audit.Change] = {}
        for change in self.changes:
            if change.message in before and change.retries < before[change.message].retries:
                self.refusing.add(change.account)
            before[change.message] = change
        self.recipients: dict[int, list[Recipient]] = {pk: [] for pk in rows}
        for recipient in Recipient.objects.order_by("pk"):
            self.recipients[recipient.message_id].append(recipient)

    def claims_of(self, copy: Copy) -> list[audit.Change]:
        """The claims that its worker had taken of a copy's message when the server read MAIL, the newest first."""
        taken = self._claims.get((copy.message, copy.client), [])
        return [change for change in reversed(taken) if change.at <= copy.mail_at]

    def claim_of(self, copy: Copy) -> audit.Change | None:
        """The claim under which a copy was sent, unless a person wrote its status by hand."""
        return next(iter(self.claims_of(copy)), None)

    def is_of_claim_before(self, copy: Copy, at: float) -> bool:
        """Whether a copy may have been sent under a claim that its worker had at this instant."""
        return any(change.at <= at for change in self._claims.get((copy.message, copy.client), []))
