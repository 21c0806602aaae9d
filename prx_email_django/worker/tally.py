"""Counts what was recorded, by account and hour, until it is written (``HourlyCount``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

from prx_email_django.models import OutboxMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending
from prx_email_django.states import Status
from prx_email_django.store.absence import unwritten
from prx_email_django.store.activity import add_hourly
from prx_email_django.store.attempts import RecordedAttempt

#: Account and hour -> fields of ``HourlyCount``, and what is added to them.
_Amounts: TypeAlias = defaultdict[tuple[int, datetime], defaultdict[str, float]]

_NO_WAIT = timedelta()


def _none() -> _Amounts:
    return defaultdict(lambda: defaultdict(float))


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


class HourlyTally:
    """What one drain or one send did since its counts were written last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._amounts: _Amounts = _none()

    def note(self, recorded: Collection[RecordedAttempt]) -> None:
        """Count what was recorded."""
        if not recorded:
            return
        now = self._clock.now
        hour = _hour(now)
        for attempt in recorded:
            amounts = self._amounts[attempt.message.account_id, hour]
            if attempt.status is Status.SENT and attempt.is_news:
                self._add_sent([attempt.message], now)
            elif attempt.comes_to_rest:
                amounts["failed"] += 1
            if attempt.refused:
                amounts["refused_recipients"] += len(attempt.refused)
            if attempt.outcome.ending is Ending.UNKNOWN:
                amounts["unknown"] += 1

    def note_sent(self, messages: Iterable[OutboxMessage]) -> None:
        """Count messages that were simply accepted."""
        self._add_sent(messages, self._clock.now)

    def _add_sent(self, messages: Iterable[OutboxMessage], now: datetime) -> None:
        by_account: defaultdict[int, list[timedelta]] = defaultdict(list)
        for message in messages:
            row = vars(message)
            by_account[row["account_id"]].append(now - row["due_since"])
        for account_id, waits in by_account.items():
            amounts = self._amounts[account_id, _hour(now)]
            amounts["sent"] += len(waits)
            amounts["seconds"] += sum([max(wait, _NO_WAIT) for wait in waits], _NO_WAIT).total_seconds()

    def reinstated(self, messages: Iterable[OutboxMessage]) -> None:
        """Take back messages that were counted as failed: the account was the cause, and they are due again."""
        for message in messages:
            self._amounts[message.account_id, _hour(self._clock.now)]["failed"] -= 1

    def write(self) -> None:
        """Write the counts; if the database is away, a thread writes them when it is back."""
        noted, self._amounts = self._amounts, _none()
        unwritten.write(
            partial(add_hourly, account_id, hour, {name: amount for name, amount in amounts.items() if amount})
            for (account_id, hour), amounts in sorted(noted.items())
            if any(amounts.values())
        )
