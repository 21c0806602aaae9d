"""Pace: what an account's worker does when the server says that it sends too fast, or over too many connections."""

from __future__ import annotations

from time import monotonic

from prx_email_django.limits.pace import note_no_wait, note_wait
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.rates import LONGEST_WAIT, next_wait
from prx_email_django.worker.connections import Connections
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.queues import ReadyQueue


class Pace:
    """The waits of one account; no message and no retry pays for them."""

    def __init__(self, current: CurrentAccount, *, ready: ReadyQueue, connections: Connections, clock: Clock) -> None:
        self.current = current
        self.ready = ready
        self.connections = connections
        self.clock = clock
        #: The longest wait has passed and the server accepts nothing: the drain need not stay for the next one.
        self.is_hopeless = False
        self._last = current.state.slow_seconds
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
