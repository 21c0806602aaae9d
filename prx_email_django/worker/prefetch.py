"""What is claimed for one account within a drain: permits, claims, how far ahead, rendering, giving back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from prx_email_django.limits.pauses import account_state
from prx_email_django.limits.windows import Permits, give_back, take_permits, take_recipients
from prx_email_django.models import Account
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.rules.pauses import is_paused
from prx_email_django.rules.rates import recipients_ceiling
from prx_email_django.states import ErrorCode
from prx_email_django.store.claims import Claim, claim, has_due, split_expired
from prx_email_django.store.outbox import outbox_state
from prx_email_django.worker.connection import Pool
from prx_email_django.worker.outgoing import Held, Job, prepare
from prx_email_django.worker.recorder import Recorder

#: Seconds for which nobody looks again whether a person has paused or switched off the account.
LOOK_AGAIN = 1.0
#: Octets that may be rendered ahead; one message more than that, however large, never waits for room.
RENDER_AHEAD = 4 * 1024 * 1024


class Intake:
    """Claims for the lanes of one account, as far ahead as they need and limits allow, and renders into its pool."""

    def __init__(
        self,
        account: Account,
        *,
        clock: Clock,
        recorder: Recorder,
        budget: Callable[[int], int] = lambda wanted: wanted,
    ) -> None:
        self.account = account
        self.clock = clock
        self.recorder = recorder
        #: How many more messages the drain may claim, of those wanted.
        self.budget = budget
        self.pool = Pool(account.max_connections)
        #: Claimed, and no result recorded yet.
        self.claims: dict[int, Claim] = {}
        #: Of these, what is not rendered yet.
        self.unrendered: deque[Held] = deque()
        #: One message only until a transaction has been completed: the last thing known is trouble.
        self.probing = False
        #: Another worker's pause has come and gone since the last transaction; the next one tells that it is over.
        self.after_pause = False
        #: The last claim found less than it asked for.
        self.exhausted = False
        #: The last claim stopped at a message that waits for a free connection.
        self.held = False
        #: A limit is reached: nothing more is claimed, what is claimed goes on.
        self.no_more = False
        self.lookahead = 4 * account.max_connections
        self._found_some = False
        self._look_again_at = 0.0
        self._completed = 0
        self._claiming_since = 0.0

    # Whether there is more

    def may_find_some(self) -> bool:
        """Whether a connection is worth opening: not only to find the queue empty."""
        if not self.exhausted and not self.no_more:
            self.exhausted = not has_due(self.account.pk, clock=self.clock)
        return not (self.exhausted or self.no_more)

    def wants_connection(self, beside: int) -> bool:
        """Whether one more than these would have something to do."""
        return len(self.claims) > beside or self.held

    def look_again(self) -> None:
        """Something may have become due, or has been given back."""
        self.exhausted = False

    def go_on(self) -> None:
        """A message was accepted for some of its recipients: its row is due now, for the rest."""
        self.look_again()

    def is_empty(self) -> bool:
        """Whether nothing more is to be claimed."""
        return self.exhausted or self.no_more

    def looks_once_more(self) -> bool:
        """Whether an empty queue is asked once more: it gave something before.

        Zero rows under SKIP LOCKED does not mean empty, and more may have come meanwhile.
        """
        if self.no_more or not self._found_some:
            return False
        self.exhausted = self._found_some = False
        return True

    # Claiming

    def claim_more(self, connections: int) -> bool:
        """Permits, then claims, for so many open connections; False: the account is paused, nothing more may go."""
        if not connections or self.is_empty() or (self.held and not self._free(connections)):
            return True
        wanted = self._wanted()
        if wanted <= 0:
            return True
        if not self._may_claim():
            return False
        permits = take_permits(self.account, self.budget(wanted), clock=self.clock)
        if permits.count > 0:
            self._claim(permits, hold_limit=self._free(connections))
        else:
            self.no_more = True
        return True

    def note_completed(self) -> None:
        """A transaction has been completed: what claims ahead are measured by."""
        self._completed += 1

    def _wanted(self) -> int:
        if self.probing:
            return 0 if self.claims else 1
        ahead = len(self.pool.ready) + len(self.unrendered)
        if ahead < self.account.max_connections and self._completed and not self.held:
            self._look_further()
        return self.lookahead - ahead if ahead <= self.lookahead // 4 else 0

    def _look_further(self) -> None:
        """A lane starves: claim twice as far ahead, at most one second's measured rate."""
        seconds = max(monotonic() - self._claiming_since, 0.05)
        self.lookahead = max(4 * self.account.max_connections, min(2 * self.lookahead, int(self._completed / seconds)))

    def _free(self, connections: int) -> int:
        return max(0, connections - self.pool.in_flight - len(self.pool.ready) - len(self.unrendered))

    def _may_claim(self) -> bool:
        """Whether account and outbox are still active and not paused: a person may have acted a second ago."""
        if monotonic() < self._look_again_at:
            return True
        self._look_again_at = monotonic() + LOOK_AGAIN
        now = self.clock.now
        state = account_state(self.account)
        if is_paused(outbox_state(), now=now) or is_paused(state, now=now):
            return False
        self.after_pause = state.pause_count > 0
        return bool(Account.objects.filter(pk=self.account.pk, is_active=True).exists())

    def _claim(self, permits: Permits, *, hold_limit: int) -> None:
        # Not since the first result: those come in groups, and the first group would seem to have taken no time.
        self._claiming_since = self._claiming_since or monotonic()
        taken = claim(self.account.pk, limit=permits.count, hold_limit=hold_limit, clock=self.clock)
        self.held = taken.held
        self._found_some = bool(taken.claims)
        self.exhausted = len(taken.claims) < permits.count and not taken.held
        give_back(permits, permits.count - len(taken.claims), clock=self.clock)
        self.recorder.counts.claimed += len(taken.claims)
        self._admit(taken.claims, permits)

    def _admit(self, claims: Sequence[Claim], permits: Permits) -> None:
        single = Permits(permits.account_id, 1, permits.what, permits.buckets, permits.ends_at)
        open_ones: list[Claim] = []
        for one in claims:
            if one.recipients and not one.open_addresses:
                self.recorder.settle(one)
                give_back(single, 1, clock=self.clock)
            else:
                open_ones.append(one)
        fresh, old = split_expired(open_ones, clock=self.clock)
        if old:
            self.recorder.expire(old)
            give_back(permits, len(old), clock=self.clock)
        self.admit_recipients(self._within_ceiling(fresh, single), single)

    def _within_ceiling(self, claims: Sequence[Claim], single: Permits) -> list[Claim]:
        """Those above a limit that was lowered since rest: they would never go, and hold up the others."""
        ceiling = recipients_ceiling(self.account.rate_limits)
        within = [one for one in claims if ceiling is None or len(one.open_addresses) <= ceiling]
        for one in claims:
            if ceiling is not None and len(one.open_addresses) > ceiling:
                text = f"the message has more recipients than the account's limit ({ceiling})"
                self.recorder.broken(one, Outcome(Ending.PERMANENT, error_code=ErrorCode.CONTENT, error=text))
                give_back(single, 1, clock=self.clock)
        return within

    def admit_recipients(self, claims: Sequence[Claim], single: Permits) -> None:
        """Take the permits of their recipients; ``single`` was taken for each of them.  What exceeds is given back."""
        counts = [len(one.open_addresses) for one in claims]
        recipients, fitting = take_recipients(self.account, counts, clock=self.clock)
        for one, count in zip(claims[:fitting], counts[:fitting], strict=True):
            of_one = Permits(recipients.account_id, count, recipients.what, recipients.buckets, recipients.ends_at)
            self.claims[one.id] = one
            self.unrendered.append(Held(one, (single, of_one)))
        if fitting < len(claims):
            self.release([Held(one, (single,)) for one in claims[fitting:]])
            self.no_more = True

    # Rendering and giving back

    def render(self) -> bool:
        """Render ahead; whether the pool has something new."""
        jobs: list[Job] = []
        octets = self.pool.ready_bytes
        while self.unrendered and (octets < RENDER_AHEAD or not (self.pool.ready or jobs)):
            held = self.unrendered.popleft()
            prepared = prepare(held, clock=self.clock)
            if isinstance(prepared, Outcome):
                self.claims.pop(held.id, None)
                self.recorder.release_permits(held.permits)
                self.recorder.broken(held.claim, prepared)
                continue
            octets += len(prepared.outgoing.body)
            jobs.append(prepared)
        self.pool.push(jobs)
        return bool(jobs)

    def withdraw(self) -> list[Held]:
        """Take back what no connection has taken; it stays claimed."""
        waiting: list[Held] = [*self.pool.withdraw(), *self.unrendered]
        self.unrendered.clear()
        return waiting

    def release(self, helds: Iterable[Held]) -> None:
        """Give messages and permits back untouched."""
        given_back = list(helds)
        for one in given_back:
            self.claims.pop(one.id, None)
        self.recorder.release(given_back)

    def leave(self, on_its_way: Collection[int]) -> None:
        """The network is closed: give back all but these, which are left to their leases."""
        waiting = {one.id: one for one in self.withdraw()}
        self.release([waiting.get(pk) or Held(one) for pk, one in self.claims.items() if pk not in on_its_way])
