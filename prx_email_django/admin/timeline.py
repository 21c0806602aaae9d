"""What happened to one message, in order: queued, attempts, what a person decided, and what comes next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.admin.models import LogEntry
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from prx_email_django.admin.columns import ago, message_state, what_happened
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.status.overview import span

#: An action of the admin is logged so long after it at most: a batch changes all its rows before it writes the log.
LOGGED_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Event:
    """One line: its instant, a label in the colour of ``state``, and a text; an attempt has more to show."""

    at: datetime
    state: str
    label: str
    text: SafeString | str = ""
    attempt: DeliveryAttempt | None = None
    #: Time since the event before, in words; the relative time, with the exact time on hover.
    after: str = ""
    when: SafeString | str = ""

    @property
    def seconds(self) -> str:
        """Duration of the attempt."""
        if self.attempt is None:
            return ""
        return f"{(self.attempt.finished_at - self.attempt.started_at).total_seconds():.2f} s"


def timeline(
    message: OutboxMessage, attempts: Sequence[DeliveryAttempt], actions: Sequence[LogEntry] = (), *, now: datetime
) -> list[Event]:
    """Return the events of a message, the earliest first; ``attempts`` and the ``actions`` of persons in any order."""
    events = [*_past(message, actions), *map(_attempted, attempts), *_acted(actions)]
    # What comes next stands last, also where it was due before the last attempt began.
    return list(_spaced([*sorted(events, key=lambda event: event.at), *_next(message, now)], now))


def _past(message: OutboxMessage, actions: Sequence[LogEntry]) -> Iterator[Event]:
    yield Event(message.created_at, "pending", _("queued"))
    if message.status == Status.SENT and message.is_confirmed and message.sent_at is not None:
        # An earlier reply of the server was about other recipients.
        yield Event(message.sent_at, "sent", _("confirmed by a person"))
    elif message.status == Status.SENT and message.sent_at is not None:
        yield Event(message.sent_at, "sent", _("sent"), message.provider_response)
    dismissed = message.dismissed_at
    # The log of the admin says the same with the name of the person; a command leaves none.
    if dismissed is not None and not any(abs(action.action_time - dismissed) < LOGGED_WITHIN for action in actions):
        yield Event(dismissed, "rest", _("dismissed"))


def _acted(actions: Iterable[LogEntry]) -> Iterator[Event]:
    for action in actions:
        if done := action.get_change_message():
            by = _("by %(person)s") % {"person": action.user.get_username()}
            yield Event(action.action_time, "person", done.removesuffix(".").removesuffix("。"), by)


def _attempted(attempt: DeliveryAttempt) -> Event:
    known = attempt.outcome in AttemptOutcome.values
    label = str(AttemptOutcome(attempt.outcome).label) if known else attempt.outcome
    return Event(attempt.started_at, attempt.outcome, label, what_happened(attempt), attempt)


def _next(message: OutboxMessage, now: datetime) -> Iterator[Event]:
    if message.status == Status.SENDING and message.claim_expires_at is not None:
        state, label = message_state(message, now=now)
        yield Event(message.claim_expires_at, state, label, _("until this time the message belongs to its worker"))
    elif message.is_waiting and message.next_attempt_at is not None:
        label = _("next attempt") if message.next_attempt_at > now else _("due now")
        yield Event(message.next_attempt_at, "deferred", label)
        if message.expires_at is not None:
            yield Event(message.expires_at, "rest", _("expires"), _("not sent after this time"))


def _spaced(events: Iterable[Event], now: datetime) -> Iterator[Event]:
    before: datetime | None = None
    for event in events:
        gap = 0.0 if before is None else (event.at - before).total_seconds()
        after = _("%(time)s later") % {"time": span(gap)} if gap >= 1 else ""
        yield Event(event.at, event.state, event.label, event.text, event.attempt, after, ago(event.at, now))
        before = event.at
