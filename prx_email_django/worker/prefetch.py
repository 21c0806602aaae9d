"""Claims of one account within a drain: claiming and releasing; how far ahead: ``lookahead``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from prx_email_django.limits.rate_windows import Permits, give_back
from prx_email_django.models import OutboxMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.store.claimed import Claim
from prx_email_django.store.claims import ClaimBatch
from prx_email_django.store.lease import Lease, release_lease
from prx_email_django.worker.admission import Admission
from prx_email_django.worker.claim_source import ClaimSource
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.double_claims import DoubleClaims
from prx_email_django.worker.lookahead import Lookahead
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.permits import AccountPermits
from prx_email_django.worker.queues import ReadyQueue
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.render_ahead import RenderAhead
from prx_email_django.worker.under_way import Work


class ClaimPrefetch:
    """Claims for the connections of one account, as far ahead as they need and as limits allow."""

    def __init__(self, current: CurrentAccount, *, source: ClaimSource, clock: Clock, recorder: Recorder) -> None:
        self.current = current
        self.source = source
        self.clock = clock
        self.recorder = recorder
        self.permits = AccountPermits(current, clock=clock, tries_once=source.tries_once)
        self.ready = ReadyQueue(current.account.max_connections)
        #: Claimed, and no result recorded yet.
        self.claims: dict[int, Claim] = {}
        self.doubles = DoubleClaims(self.claims, clock=clock)
        self.admission = Admission(
            current, claims=self.claims, source=source, clock=clock, recorder=recorder, permits=self.permits
        )
        #: Leases under which something may be claimed that is not among the claims yet.
        self._noted: set[Lease] = set()
        #: Claims whose fate the admission decides at this moment.
        self._unadmitted: list[Claim] = []
        #: Of the claims, what is not rendered yet.
        self.unrendered: deque[ClaimedMessage] = deque()
        self.rendering = RenderAhead(
            self.unrendered, self.ready, recorder=recorder, permits=self.permits, forget=self.forget
        )
        #: Of the claims, what waits for new permits: those that it had ended before its MAIL.
        self.without_permits: list[ClaimedMessage] = []
        #: Does the rest of a claim once it has its result; None: each claim is waited for.
        self.follow: Callable[[Work], None] | None = None
        #: Asked before a claim is begun.
        self.may_begin: Callable[[], bool] = lambda: True
        #: A claim is under way.
        self.is_claiming = False
        #: After trouble: one message only, until a transaction has been completed.
        self.probing = False
        #: Another worker's pause began and ended since the last transaction: the next transaction clears it.
        self.after_pause = False
        #: The last claim found less than it asked for.
        self.exhausted = False
        #: The last claim stopped at a message with ``on_unknown`` ``hold``, which needs a free connection.
        self.stopped_at_hold = False
        self.lookahead = Lookahead(current)
        #: The source was asked a moment ago, and has due messages.
        self._known_due = True
        self._found_some = False

    # Whether there is more

    def may_find_some(self) -> bool:
        """Whether a connection is worth opening: something is due."""
        if not self.is_empty() and not self._known_due:
            self.exhausted = not self.source.has_due()
        self._known_due = False
        return not self.is_empty()

    def wanted_connections(self, *, open_now: int, most: int) -> int:
        """How many more connections would have something to do, besides those that are open; at most ``most`` in all.

        Where nothing more is to be claimed, only for what no connection has taken.  Not for a message with ``hold``
        where a limit is reached: while it waited for a permit, connections were opened without end.
        """
        wanted = len(self.claims) - open_now
        if self.is_empty():
            wanted = min(wanted, self._ahead())
        elif self.stopped_at_hold:
            wanted = most - open_now
        return max(0, min(wanted, most - open_now))

    def look_again(self) -> None:
        """Ask the source again: something may have become due, or was released."""
        self.exhausted = False

    def is_empty(self) -> bool:
        """Whether nothing more is to be claimed."""
        return self.exhausted or self.permits.limited_by is not None

    def looks_once_more(self) -> bool:
        """Whether an empty queue, which gave something before, has more.

        Zero rows under SKIP LOCKED does not mean empty, and more may have come meanwhile.
        """
        if self.permits.limited_by is not None or not self._found_some:
            return False
        self._found_some = False
        self.exhausted = not self.source.has_due()
        return not self.exhausted

    # Claiming

    def would_claim(self) -> bool:
        """Whether more is to be claimed, if permits and connections allow it."""
        return not (self.is_claiming or self.is_empty() or self.lookahead.is_enough(self._ahead(), self.unrendered))

    def claim_more(self, connections: int) -> bool:
        """Take permits, then claims, for so many open connections; False: the account is paused."""
        if self.is_claiming or self.permits.wake_in() is not None:
            return True
        if connections and self.without_permits:
            if not self.current.may_send(self.clock.now):
                return False
            self._take_other_permits()
        if (
            not connections
            or self.without_permits
            or self.is_empty()
            or (self.stopped_at_hold and not self._free(connections))
        ):
            return True
        wanted = self._wanted()
        if wanted <= 0:
            return True
        if not self.current.may_send(self.clock.now):
            return False
        self.after_pause = self.current.heeds_pause and self.current.state.pause_count > 0
        permits = self.permits.take(self.source.budget(wanted))
        if permits.count > 0:
            self._claim(permits, hold_limit=self._free(connections))
        return True

    def keep(self, messages: Sequence[ClaimedMessage]) -> list[ClaimedMessage]:
        """Keep the messages that only need new permits of a limit per second; returns the others.

        Such permits may be good for 50 ms only.  A slow database needs longer for a release and a new claim, so that
        messages would be claimed and released without end; a message that stays claimed needs nothing but the permits.
        """
        kept = [message for message in messages if self.permits.may_be_renewed(message)]
        self.recorder.release_permits(permit for message in kept for permit in message.permits)
        for message in kept:
            message.take_other_permits()
        self.without_permits += kept
        return [message for message in messages if message not in kept]

    def _take_other_permits(self) -> None:
        """Take permits for messages that are claimed and rendered; the others wait, or are released if that is long."""
        waiting = self.without_permits
        fitting = self.permits.take_others(waiting)
        self.unrendered.extendleft(reversed(waiting[:fitting]))
        self.without_permits = waiting[fitting:]
        if self.permits.limited_by:
            self.release(self.without_permits)
            self.without_permits = []

    def _wanted(self) -> int:
        if self.probing:
            return 0 if self.claims else 1
        self._look_further()
        ahead = self._ahead()
        return 0 if self.lookahead.is_enough(ahead, self.unrendered) else self.lookahead.wanted(ahead)

    def _look_further(self) -> None:
        if not (self.probing or self.stopped_at_hold):
            self.lookahead.look_further(self._ahead())

    def _ahead(self) -> int:
        """Messages that are claimed, and that no connection has taken."""
        return len(self.ready.ready) + len(self.unrendered)

    def _free(self, connections: int) -> int:
        return max(0, connections - self.ready.in_flight - len(self.ready.ready) - len(self.unrendered))

    def _claim(self, permits: Permits, *, hold_limit: int) -> None:
        self.lookahead.begin()
        begun = None
        if self.follow is not None and self.may_begin():
            begun = self.source.begin_claim(limit=permits.count, hold_limit=hold_limit, noted=self._noted)
        if self.follow is None or begun is None:
            self._take(self.source.claim(limit=permits.count, hold_limit=hold_limit, noted=self._noted), permits)
            return
        self.is_claiming = True
        self.follow(partial(self._finish_claim, begun, permits))

    def _finish_claim(self, begun: Callable[[], ClaimBatch], permits: Permits) -> None:
        self.is_claiming = False
        self._take(begun(), permits)

    def _take(self, batch: ClaimBatch, permits: Permits) -> None:
        """Take over what a claim under these permits took."""
        self._look_further()  # a connection may have had nothing to do meanwhile
        self._take_over(batch.claims)
        claims = self.doubles.keep_back(batch.claims, waiting=self.waiting(), permits=permits.part(1))
        # At once: whatever goes wrong from here on, ``leave`` and ``fail`` release them.
        self.claims.update({claim.id: claim for claim in claims})
        self._unadmitted = claims
        self._noted.clear()
        self.stopped_at_hold = batch.stopped_at_hold
        self.lookahead.note_claim(batch)
        self._found_some = bool(claims)
        self.exhausted = batch.is_last or (len(batch.claims) < permits.count and not batch.has_more)
        give_back(permits, permits.count - len(batch.claims), clock=self.clock)
        self.recorder.counts["claimed"] += len(batch.claims)
        admitted, unfitting = self.admission.admit(claims, permits)
        self.lookahead.note_unrendered(admitted, before=self.unrendered)
        self.unrendered += admitted
        self._unadmitted = []
        self.release(unfitting)

    def _take_over(self, claims: Iterable[Claim]) -> None:
        """Make them messages of this account: their rows may name another one by now, but the results come back here.

        Without the descriptor, which asks the host's database routers for each.
        """
        account, name = self.current.account, OutboxMessage._meta.get_field("account").cache_name
        for claim in claims:
            row = vars(claim.message)
            row["account_id"], row["_state"].fields_cache[name] = account.pk, account

    def held(self) -> list[Claim]:
        """All claims whose leases are to be renewed: also those that wait for the result of an older claim."""
        return [*self.claims.values(), *self.doubles.claims()]

    def forget(self, message: ClaimedMessage) -> None:
        """Forget a claim whose result is recorded, or that was released; a double that waited for this is released."""
        if self.claims.get(message.id) is not message.claim:
            return
        del self.claims[message.id]
        if (double := self.doubles.pop(message.id)) is not None:
            self.recorder.release([double])
            self.look_again()

    # Giving back

    def has_waiting(self) -> bool:
        """Whether a connection has something to take, now or once it is rendered."""
        return bool(self.ready.ready or self.unrendered)

    def waiting(self) -> list[ClaimedMessage]:
        """Messages that no connection has taken; one that is being taken at this moment may be missing."""
        return [*self.unrendered, *self.without_permits, *list(self.ready.ready)]

    def withdraw(self) -> list[ClaimedMessage]:
        """Take the messages back that no connection has taken; they stay claimed."""
        waiting = [*self.ready.withdraw(), *self.unrendered, *self.without_permits]
        self.unrendered.clear()
        self.without_permits.clear()
        return waiting

    def release(self, messages: Iterable[ClaimedMessage]) -> None:
        """Release messages untouched, and their permits."""
        released = list(messages)
        try:
            self.recorder.release(released)
        except Exception:
            self.unrendered += released  # ``fail`` and ``leave`` find them there
            raise
        for message in released:
            self.forget(message)

    def give_up(self) -> list[Callable[[], object]]:
        """Forget all claims; returns what releases those that no connection has taken."""
        left = {claim.id: ClaimedMessage(claim, clock=self.clock) for claim in self._unadmitted}
        left = {pk: message for pk, message in left.items() if pk in self.claims}
        left |= {message.id: message for message in self.withdraw()}
        leases, self._noted, self._unadmitted = self._noted, set(), []
        self.claims.clear()
        return [partial(self.recorder.release, left.values()), *(partial(release_lease, lease) for lease in leases)]

    def leave(self, on_its_way: Collection[int]) -> None:
        """Release all messages but these, which are left to their leases; the network is closed.

        May run again: until the database has it, everything is kept.
        """
        self.unrendered.extend(self.withdraw())
        waiting = {message.id: message for message in self.unrendered}
        self.release(
            waiting.get(pk) or ClaimedMessage(claim, clock=self.clock)
            for pk, claim in self.claims.items()
            if pk not in on_its_way
        )
        for lease in self._noted:
            release_lease(lease)
