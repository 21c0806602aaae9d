"""The permits of one account within a drain: taken before a claim, and again for messages whose permits have ended."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from time import monotonic

from prx_email_django.limits.rate_windows import Permits, give_back, take_permits, take_recipients
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.rules.rates import LONGEST_LIFE, parse_rate_limits
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.outgoing import ClaimedMessage

#: A limit that is free again after so many seconds does not end the account's work, nor does a limit per second.
SHORT_LIMIT = 1.1
#: Where other workers were faster each time, permits are asked for again after this many seconds: from, to.
ASK_AGAIN = (0.2, 1.0)
#: Permits must be good for so many times the time that it took lately to take them and to use them.
LIFE_MARGIN = 1.5
#: After each round that was faster, this part of the longest time remains.
LIFE_REMAINS = 0.5


class AccountPermits:
    """What the limits of one account allow now."""

    def __init__(self, current: CurrentAccount, *, clock: Clock, tries_once: bool) -> None:
        self.current = current
        self.clock = clock
        self.tries_once = tries_once
        #: A limit is reached: nothing more is claimed, what is claimed goes on.
        self.limited_by: Obstacle | None = None
        #: Nothing is claimed before this instant of the monotonic clock: a limit per second is used up.
        self._wait_until = 0.0
        #: How long permits must be good: from asking for them until the messages are in the ready queue, in seconds.
        self._life = 0.0
        #: When the permits that are being used were asked for, on the monotonic clock.
        self._asked_at: float | None = None

    def take(self, wanted: int) -> Permits:
        """Take up to ``wanted`` permits for messages that are not claimed yet."""
        self._asked_at = monotonic()
        permits = take_permits(self.current.account, wanted, clock=self.clock, life=self._life)
        if permits.count <= 0:
            self._asked_at = None
            if wanted <= 0:  # the drain may claim no more
                self.limited_by = Obstacle.no_permit()
            else:
                self.limit(permits.obstacle)
        return permits

    def take_recipients(self, counts: Sequence[int]) -> tuple[Permits, int]:
        """Take permits for the recipients of the first messages of ``counts``, and tell how many messages that are."""
        return take_recipients(self.current.account, counts, clock=self.clock, life=self._life)

    def used(self) -> None:
        """Learn how long permits must be good: the messages for which they were taken are in the ready queue."""
        if self._asked_at is not None:
            # A commit of a slow database may take longer than a permit is good for: then none would ever be used.
            took = LIFE_MARGIN * (monotonic() - self._asked_at)
            self._life, self._asked_at = min(max(took, LIFE_REMAINS * self._life), LONGEST_LIFE), None

    def take_others(self, messages: Sequence[ClaimedMessage]) -> int:
        """Take permits for claimed messages, in order; returns the number of messages that have them now."""
        self._asked_at = monotonic()
        permits = take_permits(self.current.account, len(messages), clock=self.clock, life=self._life)
        single = permits.part(1)
        counts = [message.claim.envelope_size for message in messages[: permits.count]]
        recipients, fitting = self.take_recipients(counts)
        self._asked_at = self._asked_at if fitting else None
        give_back(permits, permits.count - fitting, clock=self.clock)
        for message, count in zip(messages[:fitting], counts[:fitting], strict=True):
            message.take_other_permits((single, recipients.part(count)))
        if fitting < len(messages):
            self.limit((recipients if fitting < len(counts) else permits).obstacle)
        return fitting

    def may_be_renewed(self, message: ClaimedMessage) -> bool:
        """Whether a claimed message only needs new permits, of a limit per second."""
        if not message.permit_ended or self.tries_once or not message.claim.has_time_left():
            return False
        return any(limit.is_short for limit in parse_rate_limits(self.current.account.rate_limits))

    def limit(self, obstacle: Obstacle | None) -> None:
        """Claim nothing more; a limit per second is waited for, since a drain that ends would have to log in again.

        Without an obstacle no limit is reached: other workers were faster each time, and this one asks again later.
        """
        obstacle = obstacle or Obstacle.no_permit()
        reached = obstacle.reached
        seconds = (reached.free_at - self.clock.running).total_seconds() if reached else math.inf
        if obstacle.kind is ObstacleKind.NO_PERMIT:
            seconds = random.uniform(*ASK_AGAIN)  # noqa: S311  (spread, not secrecy)
        is_short = seconds <= SHORT_LIMIT or (reached is not None and reached.is_short)
        if self.tries_once or not is_short:
            self.limited_by = obstacle
        else:
            self._wait_until = monotonic() + max(seconds, 0.0)

    def wake_in(self) -> float | None:
        """Seconds until a short limit is free again; None: nothing waits for one."""
        left = self._wait_until - monotonic()
        return left if left > 0 else None
