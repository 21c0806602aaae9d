"""What an account's worker does about trouble of the account: it slows down, tries again in a second, or pauses.

No message and no retry pays for such trouble.
"""

from __future__ import annotations

import math
from datetime import timedelta
from time import monotonic
from typing import Protocol

from prx_email_django.limits.pace import note_no_wait, note_wait
from prx_email_django.limits.pauses import note_failure, note_success
from prx_email_django.rules.clock import uptime
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.rates import LONGEST_WAIT, next_wait
from prx_email_django.worker.connections import Connections
from prx_email_django.worker.events import announce_pause
from prx_email_django.worker.outgoing import ClaimedMessage

#: Seconds between two tries to connect: three in a row without success pause the account.
RECONNECT_AFTER = 1.0
#: Why an account's work has stopped: the server allows no more now, or every connection is taken elsewhere.
LIMITED = "limited"


class Work(Protocol):
    """The work of an account, as far as trouble can end it."""

    #: Why nothing more is claimed: ``paused``, ``limited``, ``stopped``, ``failed``; empty while the account goes on.
    stop_reason: str

    def stop(self, reason: str) -> None:
        """Claim nothing more, release the messages that no connection has taken, and let the others end."""


class Pace:
    """The waits of one account whose server says that it sends too fast, or over too many connections."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.current, self.ready, self.clock = connections.current, connections.ready, connections.clock
        #: The longest wait has passed and the server accepts nothing: the drain need not stay for the next one.
        self.is_hopeless = False
        self._last = self.current.state.slow_seconds
        self._until = 0.0

    def throttled(self, trouble: Trouble) -> None:
        """Give one connection up, or wait: for a second, twice as long each time that nothing was accepted between."""
        if trouble is Trouble.CROWDED and len(self.connections) > 1:
            self.connections.most = max(1, min(self.connections.most, len(self.connections)) - 1)
            return
        if monotonic() < self._until:
            return  # written before the wait began
        self.is_hopeless = self._last >= LONGEST_WAIT
        self._last = next_wait(self._last)
        self.ready.hold_until = self._until = monotonic() + self._last
        self.connections.retry_in(self._last)
        note_wait(self.current.account, self._last, clock=self.clock)
        self.current.look_again()

    def accepted(self) -> None:
        """A message was accepted."""
        if self._last:
            self._last, self.is_hopeless = 0, False
            note_no_wait(self.current.account)
            self.current.look_again()

    def wake_in(self) -> float | None:
        """Seconds until the wait ends; None: there is none."""
        return max(0.0, self.ready.hold_until - monotonic()) if self.ready.hold_until else None

    def is_over(self) -> bool:
        """Whether a wait has just ended, so that the connections must look again."""
        if not self.ready.hold_until or monotonic() < self.ready.hold_until:
            return False
        self.ready.hold_until = 0.0
        return True


class Troubles:
    """The trouble of one account: what the server has said since the last success, and the pauses that follow."""

    def __init__(self, connections: Connections, *, work: Work, tries_once: bool) -> None:
        self.connections = connections
        self.current, self.clock = connections.current, connections.clock
        self.work = work
        self.tries_once = tries_once
        state = self.current.state
        #: The account was paused, or has failed to connect, and nothing was accepted since.
        self.needs_probe = state.pause_count > 0 or state.connection_failures > 0
        #: There was trouble since the last success.
        self.are_known = self.needs_probe or bool(state.last_trouble)
        self._failed_at = -RECONNECT_AFTER
        #: When this worker paused the account, on the clock of ``uptime()``.
        self._paused_at = -math.inf

    def note(self, trouble: Trouble, reason: str, *, at_least: timedelta | None = None) -> None:
        """Count the trouble, and pause the account if the policy says so; else try again in a second.

        Connections that fail within a second of each other count as one failure: a restarting server drops all of them.
        """
        if trouble is Trouble.CONNECTION:
            if monotonic() < self._failed_at + RECONNECT_AFTER:
                return
            self._failed_at = monotonic()
        self.are_known = True
        account = self.current.account
        until = note_failure(account, trouble, reason, clock=self.clock, at_least=at_least)
        if until is not None:
            self._paused_at = uptime()
            announce_pause(account, reason=reason, until=until)
        if until is not None or trouble is not Trouble.CONNECTION or self.tries_once or self._is_paused():
            self.work.stop("paused")
        else:
            self.connections.retry_in(RECONNECT_AFTER)

    def end_by(self, message: ClaimedMessage) -> bool:
        """End the trouble by a completed transaction; False: it was begun before the pause, so it proves nothing."""
        if message.mail_at <= self._paused_at:
            return False
        note_success(self.current.account, begun_at=message.started_at or self.clock.now)
        self.current.look_again()  # the pause is over: the other connections may open
        self.are_known = False
        return True

    def _is_paused(self) -> bool:
        self.current.look_again()
        return self.current.is_account_paused(self.clock.now)
