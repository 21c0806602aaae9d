"""How far ahead of its connections an account claims: in messages, in texts that are in memory, and in one claim."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import monotonic

from prx_email_django.store.claims import TEXT_LIMIT, ClaimBatch, is_one_statement
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.outgoing import ClaimedMessage

#: Messages of one claim per connection, where it is one statement and where it is several.  Meanwhile no result is
#: recorded, and no more than four results per connection may wait: a long claim makes the connections wait, but several
#: statements for few messages cost more.
IN_ONE_STATEMENT, IN_SEVERAL = 8, 32


class Lookahead:
    """Decides how many messages the next claim takes.

    Four messages for each connection are claimed ahead; twice as many whenever a connection has nothing to do, up to
    what was sent in one second.
    """

    def __init__(self, current: CurrentAccount) -> None:
        self._current = current
        self._messages = 4 * self._connections
        self._completed = 0
        self._claiming_since = 0.0
        #: The last claim took few messages, since their texts are large: how many; None: it did not.
        self._cut_at: int | None = None
        self._goes_on = False
        #: Characters of the longest text among the unrendered messages, or more.
        self._longest_text = 0

    @property
    def _connections(self) -> int:
        return self._current.account.max_connections

    def note_completed(self) -> None:
        """Count a completed transaction; the rate of these limits how far ahead to claim."""
        self._completed += 1

    def begin(self) -> None:
        """Note that claiming begins: the rate counts from the first claim.

        Not from the first result: those come in groups, and the first group would seem to have taken no time.
        """
        self._claiming_since = self._claiming_since or monotonic()

    def note_claim(self, batch: ClaimBatch) -> None:
        """Note how a claim ended."""
        self._goes_on = batch.has_more and not batch.stopped_at_hold
        self._cut_at = max(1, len(batch.claims)) if self._goes_on else None

    def note_unrendered(self, more: Sequence[ClaimedMessage], *, before: Collection[ClaimedMessage]) -> None:
        """Note that these messages wait to be rendered, besides those that wait already."""
        longest = self._longest_text if before else 0
        self._longest_text = max([longest, *[message.text_size for message in more]])

    def goes_on(self) -> bool:
        """Whether the last claim left messages that nobody else calls for; asked once after each claim."""
        goes_on, self._goes_on = self._goes_on, False
        return goes_on

    def is_enough(self, ahead: int, unrendered: Collection[ClaimedMessage]) -> bool:
        """Whether enough is claimed: so many messages that no connection has taken, among them the unrendered ones."""
        if ahead > self._messages // 4:
            return True
        if len(unrendered) * self._longest_text < TEXT_LIMIT:
            return False  # nearly always, and without adding up
        return sum([message.text_size for message in unrendered]) >= TEXT_LIMIT

    def look_further(self, ahead: int) -> None:
        """Claim twice as far ahead if a connection has nothing to do; at most one second's measured rate."""
        if ahead < self._connections and self._completed:
            seconds = max(monotonic() - self._claiming_since, 0.05)
            self._messages = max(4 * self._connections, min(2 * self._messages, int(self._completed / seconds)))

    def wanted(self, ahead: int) -> int:
        """How many messages the next claim asks for."""
        at_once = IN_ONE_STATEMENT if is_one_statement() else IN_SEVERAL
        wanted = min(self._messages - ahead, at_once * self._connections)
        # What a claim asks for, and does not take, nobody else gets meanwhile: permits, and on MariaDB rows.
        return wanted if self._cut_at is None else min(wanted, 2 * self._cut_at)
