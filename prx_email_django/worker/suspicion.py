"""Suspicion: what an account's worker does when one message after another is refused in the same words.

The account may be suspended, or the messages may be bad.  One message tells, as unlike the refused ones as can be:
if it is accepted, the messages are judged one by one again; if it is refused likewise, or no such message is due, the
account pauses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from prx_email_django.limits.refusals import (
    TRAITS,
    examples,
    forgive,
    most_unlike,
    note_acceptance,
    note_refusals,
    refusal_row,
    reinstate_refused,
    traits_of,
)
from prx_email_django.models import AccountState, OutboxMessage, RefusedMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.rules.pauses import is_paused
from prx_email_django.rules.refusals import RefusalRow, refusal_of, unlikeness
from prx_email_django.store.attempts import RecordedAttempt
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.queues import ReadyQueue

#: Probes whose outcome says nothing about the account (a dead address) before it pauses all the same.
PROBES = 3


class Next(Enum):
    """What follows from a group of results."""

    GO_ON = "go_on"
    #: Give back what is claimed, and try one message that is unlike the refused ones.
    PROBE = "probe"
    #: The account refuses all messages: pause it.
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Before:
    """A message before its result is recorded."""

    retries: int
    attempts: int
    next_attempt_at: datetime | None

    @classmethod
    def of(cls, message: ClaimedMessage) -> Before:
        """The columns to which the message returns if the refusal was the account's."""
        row = message.claim.message
        return cls(row.retries, row.attempts, row.next_attempt_at)


@dataclass(slots=True)
class _Group:
    """The results of one group: the refusals after the last acceptance."""

    refused: list[tuple[ClaimedMessage, RefusedMessage]] = field(default_factory=list)
    accepted: set[int] = field(default_factory=set)
    #: Refused, whatever the words.
    judged: set[int] = field(default_factory=set)


class Suspicion:
    """The row of refusals of one account, as its worker sees it."""

    def __init__(self, current: CurrentAccount, *, ready: ReadyQueue, clock: Clock, tries_once: bool) -> None:
        self.current = current
        self.ready = ready
        self.clock = clock
        self.tries_once = tries_once
        #: The server's words of the last refusal.
        self.words = ""
        #: The message that is tried now; None: none is chosen yet.
        self.probe: int | None = current.early_probe
        self._tried: set[int] = set()
        #: Refusals that have been noted; the network has heard at least as many.
        self._noted = 0
        self._row = refusal_row(current.state, clock=clock)
        self._keys = self._row.suspicious() or frozenset(() if self.probe is None else ("",))
        # One message at a time goes while there is a suspicion, so the queue needs no bound of its own.
        ready.refusals = RefusalRow(0) if self._keys else self._row

    @property
    def is_active(self) -> bool:
        """Whether the account is suspected, so that one message at a time is tried."""
        return bool(self._keys)

    @property
    def is_after_pause(self) -> bool:
        """Whether the account was paused as ``refusing``, and nothing has been accepted since."""
        state = self.current.state
        return state.pause_count > 0 and state.pause_code == Trouble.REFUSING

    def choose(self) -> int | None:
        """Choose the next probe; None: nothing unlike is due."""
        if self.probe is None:
            account = self.current.account
            pk, score = most_unlike(account, self._examples(), clock=self.clock, but=self._tried)
            self.probe = pk if score > 0 else None
        return self.probe

    def missed(self) -> None:
        """The chosen message could not be claimed: somebody else has it."""
        if self.probe is not None:
            self._tried.add(self.probe)
            self.probe = None

    def note(
        self, messages: Sequence[ClaimedMessage], before: dict[int, Before], recorded: Sequence[RecordedAttempt]
    ) -> Next:
        """Note the results of a group that has been recorded, and say what follows."""
        group = self._group(messages, before, recorded)
        if group.accepted:
            self._accepted(group)
        if not group.refused:
            return self._after_probe(group) if self.is_active else Next.GO_ON
        suspected, self.words = self._keys, group.refused[-1][0].outcome.error
        rows = [row for _, row in group.refused]
        state = note_refusals(self.current.account, rows, after_success=bool(group.accepted))
        self.current.look_again()
        self._row = refusal_row(state, clock=self.clock)
        self._keys = suspected or self._row.suspicious()
        if _is_refusing(state, now=self.clock.now) and self._row.counting():
            return Next.PAUSE  # another worker has found out, or this was a probe during the pause
        if not self.is_active:
            if self._noted == self.ready.refused:  # else the network knows more
                self.ready.refusals = self._row
            return Next.GO_ON
        if self.tries_once:
            return self._after_single(group)
        if not suspected:
            return Next.PROBE
        return self._after_probe(group)

    def paused(self) -> list[OutboxMessage]:
        """The account is paused: undo what its refusals did to messages; return those that had been put at rest."""
        keys = self._row.counting() | self._keys
        return reinstate_refused(self.current.account, keys, clock=self.clock) if keys else []

    def let_probe_pass(self) -> None:
        """Nothing of the account is on its way any more: one message may go."""
        self.ready.refusals = RefusalRow(0)

    def _accepted(self, group: _Group) -> None:
        account = self.current.account
        if self._keys and not self._is_unhelpful(group):
            forgive(account, self._keys, clock=self.clock)
            self.current.look_again()
        if self.current.state.refused_in_a_row or self._row or self._keys:
            note_acceptance(account)
            self.current.look_again()
            self.current.look()
        self._keys, self.probe, self.current.early_probe, self._tried = frozenset(), None, None, set()
        self._row = refusal_row(self.current.state, clock=self.clock)
        self.ready.refusals = self._row

    def _is_unhelpful(self, group: _Group) -> bool:
        """Whether the acceptance does not show that the messages were the cause: the account may be open again."""
        if self.tries_once:
            return not any(self._is_unlike(pk) for pk in group.accepted)
        return self.probe not in group.accepted or (self.is_after_pause and self.current.early_probe is None)

    def _after_probe(self, group: _Group) -> Next:
        """What follows while the account is suspected."""
        refused = {message.id: row.key for message, row in group.refused}
        if self.current.early_probe is not None and self.probe in group.judged:
            return Next.PAUSE
        if self.is_after_pause and refused:
            return Next.PAUSE
        if self.probe is None or self.probe not in group.judged:
            return Next.GO_ON  # what was on its way when the suspicion arose
        if refused.get(self.probe) in self._keys:
            return Next.PAUSE
        self.missed()
        return Next.PAUSE if len(self._tried) >= PROBES else Next.GO_ON

    def _after_single(self, group: _Group) -> Next:
        """What follows for a caller's one message: a drain tries an unlike one, if one is due."""
        if any(self._is_unlike(message.id) for message, row in group.refused if row.key in self._keys):
            return Next.PAUSE
        _, score = most_unlike(self.current.account, self._examples(), clock=self.clock)
        return Next.GO_ON if score else Next.PAUSE

    def _is_unlike(self, pk: int) -> bool:
        others = [traits_of(other) for other in examples(self.current.account, self._keys, but=pk)]
        message = OutboxMessage.objects.filter(pk=pk).only(*TRAITS).first()
        return message is not None and unlikeness(traits_of(message), others) > 0

    def _examples(self) -> list[OutboxMessage]:
        return examples(self.current.account, self._keys)

    def _group(
        self, messages: Sequence[ClaimedMessage], before: dict[int, Before], recorded: Sequence[RecordedAttempt]
    ) -> _Group:
        group = _Group()
        late = {attempt.message.id for attempt in recorded if attempt.late}
        newly_refused = {attempt.message.id: attempt.refused for attempt in recorded if attempt.refused}
        for message in messages:
            outcome = message.outcome
            if outcome.ending is Ending.ACCEPTED:
                group.refused.clear()
                group.accepted.add(message.id)
                continue
            if outcome.ending in (Ending.TEMPORARY, Ending.PERMANENT):
                group.judged.add(message.id)
            refusal = refusal_of(outcome)
            self._noted += refusal is not None
            if refusal is None or message.id in late:
                continue
            was, addresses = before[message.id], newly_refused.get(message.id, {})
            recipients = [found.pk for found in message.claim.recipients if found.address in addresses]
            row = RefusedMessage(
                account_id=self.current.account.pk,
                message_id=message.id,
                key=refusal.key,
                domains=sorted(refusal.domains),
                is_bare=refusal.is_bare,
                retries=was.retries,
                attempts=was.attempts,
                next_attempt_at=was.next_attempt_at,
                recipients=recipients,
                refused_at=self.clock.now,
            )
            group.refused.append((message, row))
        return group


def _is_refusing(state: AccountState, *, now: datetime) -> bool:
    return state.pause_code == Trouble.REFUSING and is_paused(state, now=now)
