"""One account within a drain: connections, permits, claims, and what to do when something is wrong with it.

Order: slot, connection, permits, claim.  Everything here runs on the calling thread; what lanes tell is heard in
``advance``, after the results that they left before have been recorded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from django.db import DatabaseError

from prx_email_django.clock import Clock
from prx_email_django.delivery.announce import announce_pause
from prx_email_django.delivery.jobs import Held, Job, prepare
from prx_email_django.delivery.lanes import Lane, Mailbox, Pool, Result
from prx_email_django.delivery.login import TokenKeeper, login_for
from prx_email_django.delivery.network import Network
from prx_email_django.delivery.recorder import Recorder, is_touched
from prx_email_django.fields import DecryptionFailed
from prx_email_django.limits import (
    Permits,
    Slot,
    account_state,
    acquire_slot,
    give_back,
    is_paused,
    note_failure,
    note_overlap_lost,
    note_size,
    note_success,
    release_slots,
    take_permits,
    take_recipients,
)
from prx_email_django.models import Account, AccountState
from prx_email_django.oauth import TokenRefused
from prx_email_django.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.store import Claim, Recorded, claim, has_due, outbox_state, split_expired
from prx_email_django.store import is_paused as is_outbox_paused
from prx_email_django.transports.base import ConnectError, Login, Session, SessionEnd, Transport

logger = logging.getLogger("prx_email_django")

#: Seconds between two tries to connect: three in a row without success pause the account.
RECONNECT_AFTER = 1.0
#: Seconds for which nobody looks again whether a person has paused or switched off the account.
LOOK_AGAIN = 1.0
#: Seconds between two looks at a token that another worker is fetching.
TOKEN_POLL = 0.25
#: Why an account's run has stopped: every connection is taken elsewhere, or something unexpected happened.
LIMITED, FAILED = "limited", "failed"
#: Octets that may be rendered ahead; one message more than that, however large, never waits for room.
RENDER_AHEAD = 4 * 1024 * 1024


class AccountRun:
    """Drives one account until nothing of it can go now."""

    def __init__(  # noqa: PLR0913  (what a drain shares with its accounts)
        self,
        account: Account,
        *,
        clock: Clock,
        network: Network,
        mailbox: Mailbox,
        recorder: Recorder,
        transport: Transport,
        budget: Callable[[int], int] = lambda wanted: wanted,
    ) -> None:
        self.account = account
        self.clock = clock
        self.network = network
        self.mailbox = mailbox
        self.recorder = recorder
        self.transport = transport
        #: How many more messages the drain may claim, of those wanted.
        self.budget = budget
        self.pool = Pool(account.max_connections)
        self.tokens = TokenKeeper(account, clock=clock, network=network)
        self.lanes: set[Lane] = set()
        self.claims: dict[int, Claim] = {}
        self.unrendered: deque[Held] = deque()
        #: What lanes have told (network appends), and what of it is due to be heard.
        self.news: deque[Callable[[], None]] = deque()
        self._heard: deque[Callable[[], None]] = deque()
        self.lookahead = 4 * account.max_connections
        self.most_lanes = account.max_connections
        #: The last claim found less than it asked for.
        self.exhausted = False
        #: The last claim stopped at a message that waits for a free connection.
        self.held = False
        #: A limit is reached: nothing more is claimed, what is claimed goes on.
        self.no_more = False
        self._found_some = False
        #: Why nothing more is claimed: ``paused``, ``limited``, ``stopped``; empty while it goes on.
        self.stop_reason = ""
        self.finished = False
        self._greeted = 0
        self._retry_at = 0.0
        self._failed_at = -RECONNECT_AFTER
        self._first_at = 0.0
        self._look_again_at = 0.0
        self._completed = 0
        self._state = state = account_state(account)
        self._look_up_at = 0.0
        #: Slots of connections that were retired in good order.
        self._spare: list[Slot] = []
        #: One message only until a transaction has been completed: the last thing known is trouble.
        self.probing = state.pause_count > 0 or state.connection_failures > 0
        self._troubled = self.probing
        self._size = state.size_limit

    # What the drain's loop calls

    def collect(self) -> bool:
        """Take note of what lanes have told; whether there is any: then the results that they left come first."""
        while self.news:
            self._heard.append(self.news.popleft())
        return bool(self._heard)

    def advance(self) -> None:
        """One step: listen, connect, claim, render, close; never waits."""
        while self._heard:
            self._heard.popleft()()
        if self._retry_at and monotonic() >= self._retry_at:
            self._retry_at = 0.0
        if self.finished:
            return
        if not self.stop_reason:
            self._claim_more()
        if not self.stop_reason:
            self._connect_more()
        self._render()
        self._finish_if_idle()

    def wake_in(self) -> float | None:
        """Seconds after which ``advance`` has something to do by itself; None: only an event can bring that."""
        return max(0.0, self._retry_at - monotonic()) if self._retry_at and not self.finished else None

    def stop(self, reason: str) -> None:
        """Claim nothing more, give back what no connection has taken, let the rest end."""
        self.stop_reason = self.stop_reason or reason
        self._retry_at = 0.0
        given_back: list[Held] = [*self.pool.withdraw(), *self.unrendered]
        self.unrendered.clear()
        self._release(given_back)
        self._cancel_opening()
        self._release_spare()

    def abort(self) -> None:
        """Cut all connections at once."""
        for lane in self.lanes:
            if lane.session is not None:
                self.network.call(lane.session.abort)

    def leave(self, doubtful: Collection[int] = ()) -> None:
        """The network is closed: give back slots and what no connection took; ``doubtful`` is left to its lease."""
        waiting = {one.id: one for one in (*self.pool.withdraw(), *self.unrendered)}
        self.unrendered.clear()
        on_its_way = {job.id for lane in self.lanes for job in lane.taken.values()}.union(doubtful)
        untaken = [waiting.get(pk) or Held(claim) for pk, claim in self.claims.items() if pk not in on_its_way]
        try:
            self._release(untaken)
            self.tokens.abandon()
        finally:
            release_slots([*(lane.slot for lane in self.lanes), *self._spare])

    def fail(self) -> None:
        """Something unexpected: cut the connections, hear them out; what is not recorded is left to its lease."""
        if self.stop_reason == FAILED:
            self.finished = True
        self.stop_reason, self._retry_at = FAILED, 0.0
        untaken: list[Held] = [*self.pool.withdraw(), *self.unrendered]
        self.unrendered.clear()
        self.claims.clear()
        self._cancel_opening()
        self.abort()
        try:
            self.recorder.release(untaken)
        except DatabaseError:
            logger.exception("account %s: its messages could not be given back; leases will tell", self.account)

    def results(self, results: Sequence[Result]) -> None:
        """Record what came back for this account."""
        touched = [one for one in results if is_touched(one.outcome)]
        recorded = self.recorder.results(touched)
        self.pool.recorded += sum(one.outcome.ending is Ending.ACCEPTED for one in results)
        for one in results:
            self.claims.pop(one.job.id, None)
        self.recorder.release(one.job for one in results if not is_touched(one.outcome))
        if any(not is_touched(one.outcome) for one in results):
            self.exhausted = False
        self._learn(results)
        self.after_recording(recorded)
        self.network.call(self.pool.kick)

    def after_recording(self, recorded: Sequence[Recorded]) -> None:
        """A partial acceptance goes on at once: its row is due now."""
        if any(one.progress for one in recorded):
            self.exhausted = False

    # What lanes tell

    def opened(self, lane: Lane, session: Session) -> None:
        """A connection has greeted."""
        self._greeted += 1
        if session.size_limit != self._size:
            self._size = session.size_limit
            note_size(self.account, session.size_limit)

    def connect_cancelled(self, lane: Lane) -> None:
        """A connection is not needed any more."""
        self._drop(lane)

    def connect_failed(self, lane: Lane, error: ConnectError) -> None:
        """No connection: the account's trouble, whatever the message."""
        self._drop(lane)
        if error.trouble is Trouble.AUTH and self.tokens.renew(lane.token):
            return
        if self._greeted and error.trouble is Trouble.CONNECTION:
            # The server takes no further connection beside those that it has.
            self.most_lanes = max(1, len(self.lanes))
            return
        self.trouble(error.trouble, pause_reason(error))

    def ended(self, lane: Lane, end: SessionEnd) -> None:
        """A connection is over."""
        self._greeted -= 1
        if end.trouble is Trouble.NONE and end.reconnect and not self.stop_reason:
            self.lanes.discard(lane)
            self._spare.append(lane.slot)  # for the connection that takes its place
        else:
            self._drop(lane)
        if end.overlap_lost:
            logger.warning("account %s: an overlapped write was lost, envelope pipelining for a week", self.account)
            note_overlap_lost(self.account, clock=self.clock)
        if end.trouble is not Trouble.NONE and not lane.trouble_noted:
            self.trouble(end.trouble, end.error)

    def trouble(self, trouble: Trouble, reason: str) -> None:
        """Count it, pause the account where the policy says so, or try again in a second.

        Connections that fail within a second of each other are one failure: a server that restarts drops them all.
        """
        if trouble is Trouble.CONNECTION:
            if monotonic() < self._failed_at + RECONNECT_AFTER:
                return
            self._failed_at = monotonic()
        self._troubled = True
        until = note_failure(self.account, trouble, reason, clock=self.clock)
        if until is not None:
            announce_pause(self.account, reason=reason, until=until)
        if until is not None or trouble is not Trouble.CONNECTION or self._is_paused():
            self.stop("paused")
        else:
            self._retry_at = monotonic() + RECONNECT_AFTER

    # Connecting

    def _connect_more(self) -> None:
        while not self.finished and not self.stop_reason and self._wants_lane():
            if self._retry_at or not self._open_lane():
                return

    def _wants_lane(self) -> bool:
        if not self.lanes:
            return self._has_work() or self._may_find_some()
        if self.probing or not self._greeted or len(self.lanes) >= self.most_lanes:
            return False
        return len(self.claims) > len(self.lanes) or self.held

    def _may_find_some(self) -> bool:
        """Whether a connection is worth opening: not only to find the queue empty."""
        if not self.exhausted and not self.no_more:
            self.exhausted = not has_due(self.account.pk, clock=self.clock)
        return not (self.exhausted or self.no_more)

    def _open_lane(self) -> bool:
        login = self._login()
        if login is None:
            return False
        slot = self._acquire()
        if slot is None:
            if self.lanes:
                self.most_lanes = len(self.lanes)
            else:
                self.stop(LIMITED)
            return False
        lane = Lane(self, self.pool, slot, self.mailbox)
        lane.token = login.token
        self.lanes.add(lane)
        self.network.start(lane.live(self.transport, login))
        return True

    def _acquire(self) -> Slot | None:
        while self._spare:
            slot = self._spare.pop()
            if slot.holds():
                return slot
            release_slots([slot])
        return acquire_slot(self.account, clock=self.clock)

    def _login(self) -> Login | None:
        try:
            state = self._look_up()
            token = ""
            if self.tokens.needed:
                fresh = self.tokens.current(done=self.mailbox.wake)
                if fresh is None:
                    self._retry_at = monotonic() + TOKEN_POLL
                    return None
                token = fresh
            return login_for(self.account, state, token=token, now=self.clock.now)
        except TokenRefused as error:
            self.connect_refused(
                ConnectError(
                    f"no access token: {error}",
                    phase=Phase.AUTH,
                    trouble=Trouble.AUTH if error.permanent else Trouble.CONNECTION,
                    error_code=ErrorCode.AUTH,
                )
            )
        except DecryptionFailed as error:
            self.connect_refused(
                ConnectError(str(error)[:160], phase=Phase.AUTH, trouble=Trouble.AUTH, error_code=ErrorCode.AUTH)
            )
        return None

    def _look_up(self) -> AccountState:
        """What is known of the account now: with old credentials a person's mended ones would be paused again."""
        if monotonic() >= self._look_up_at:
            self._look_up_at = monotonic() + LOOK_AGAIN
            self.account.refresh_from_db()
            self._state = account_state(self.account)
        return self._state

    def connect_refused(self, error: ConnectError) -> None:
        """It could not even be tried to connect."""
        self.trouble(error.trouble, pause_reason(error))

    def _cancel_opening(self) -> None:
        for lane in self.lanes:
            if lane.session is None:
                self.network.call(lane.give_up)

    def _drop(self, lane: Lane) -> None:
        self.lanes.discard(lane)
        release_slots([lane.slot])

    # Claiming and rendering

    def _claim_more(self) -> None:
        if not self._greeted or self.exhausted or self.no_more or (self.held and not self._free_lanes()):
            return
        wanted = self._wanted()
        if wanted <= 0:
            return
        if not self._may_claim():
            self.stop("paused")
            return
        wanted = self.budget(wanted)
        permits = take_permits(self.account, wanted, clock=self.clock)
        if permits.count <= 0:
            self.no_more = True
            return
        taken = claim(self.account.pk, limit=permits.count, hold_limit=self._free_lanes(), clock=self.clock)
        self.held = taken.held
        self._found_some = bool(taken.claims)
        self.exhausted = len(taken.claims) < permits.count and not taken.held
        give_back(permits, permits.count - len(taken.claims), clock=self.clock)
        self.recorder.counts.claimed += len(taken.claims)
        self._admit(taken.claims, permits)

    def _may_claim(self) -> bool:
        """Whether account and outbox are still active and not paused: a person may have acted a second ago."""
        if monotonic() < self._look_again_at:
            return True
        self._look_again_at = monotonic() + LOOK_AGAIN
        if is_outbox_paused(outbox_state(), now=self.clock.now) or self._is_paused():
            return False
        return bool(Account.objects.filter(pk=self.account.pk, is_active=True).exists())

    def _wanted(self) -> int:
        if self.probing:
            return 0 if self.claims else 1
        ahead = len(self.pool.ready) + len(self.unrendered)
        if ahead < self.account.max_connections and self._completed and not self.held:
            self._look_further()
        return self.lookahead - ahead if ahead <= self.lookahead // 4 else 0

    def _look_further(self) -> None:
        """A lane starves: claim twice as far ahead, at most one second's measured rate."""
        seconds = max(monotonic() - self._first_at, 0.05)
        self.lookahead = max(4 * self.account.max_connections, min(2 * self.lookahead, int(self._completed / seconds)))

    def _free_lanes(self) -> int:
        return max(0, self._greeted - self.pool.in_flight - len(self.pool.ready) - len(self.unrendered))

    def _admit(self, claims: Sequence[Claim], permits: Permits) -> None:
        single = Permits(permits.account_id, 1, permits.what, permits.buckets, permits.ends_at)
        fresh, old = split_expired(claims, clock=self.clock)
        if old:
            self.recorder.expire(old)
            give_back(permits, len(old), clock=self.clock)
        open_ones: list[Claim] = []
        for one in fresh:
            if one.recipients and not one.addressed:
                self.recorder.settle(one)
                give_back(single, 1, clock=self.clock)
            else:
                open_ones.append(one)
        self._admit_recipients(open_ones, single)

    def _admit_recipients(self, claims: Sequence[Claim], single: Permits) -> None:
        counts = [len(one.addressed) for one in claims]
        recipients, fitting = take_recipients(self.account, counts, clock=self.clock)
        for one, count in zip(claims[:fitting], counts[:fitting], strict=True):
            of_one = Permits(recipients.account_id, count, recipients.what, recipients.buckets, recipients.ends_at)
            self.claims[one.id] = one
            self.unrendered.append(Held(one, (single, of_one)))
        if fitting < len(claims):
            self._release([Held(one, (single,)) for one in claims[fitting:]])
            self.no_more = True

    def _render(self) -> None:
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
            octets += len(prepared.parcel.body)
            jobs.append(prepared)
        if jobs:
            self.pool.push(jobs)
            self.network.call(self.pool.kick)

    def _release(self, helds: Iterable[Held]) -> None:
        given_back = list(helds)
        for one in given_back:
            self.claims.pop(one.id, None)
        self.recorder.release(given_back)

    # Learning and ending

    def _learn(self, results: Sequence[Result]) -> None:
        for one in results:
            outcome = one.outcome
            if outcome.trouble is not Trouble.NONE:
                one.lane.trouble_noted = True
                self.trouble(outcome.trouble, outcome.error)
            elif is_completed(outcome):
                self._completed += 1
                self._first_at = self._first_at or monotonic()
                if self._troubled:
                    note_success(self.account)
                    self._troubled = self.probing = False
                    self.exhausted = False

    def _is_paused(self) -> bool:
        return is_paused(account_state(self.account), now=self.clock.now)

    def _has_work(self) -> bool:
        return bool(self.claims)

    def _finish_if_idle(self) -> None:
        if self._has_work() or not (self.stop_reason or self.exhausted or self.no_more):
            return
        if self._found_some and not (self.stop_reason or self.no_more):
            # Zero rows under SKIP LOCKED does not mean empty, and more may have come meanwhile: look once more.
            self.exhausted = self._found_some = False
            self.mailbox.wake()
            return
        if not self.pool.closing:
            self.pool.closing = True
            self._cancel_opening()
            self.network.call(self.pool.kick)
        if not self.lanes and self.tokens.is_settled():
            self._release_spare()
            self.finished = True

    def _release_spare(self) -> None:
        spare, self._spare = self._spare, []
        if spare:
            release_slots(spare)


def is_completed(outcome: Outcome) -> bool:
    """Whether the server went through a transaction with us, whatever it said."""
    return outcome.ending in (Ending.ACCEPTED, Ending.TEMPORARY, Ending.PERMANENT) and bool(
        outcome.smtp_code or outcome.ending is Ending.ACCEPTED
    )


def pause_reason(error: ConnectError) -> str:
    """A sentence for the person who reads why an account is paused."""
    words = {
        Trouble.AUTH: "authentication refused",
        Trouble.TLS: "TLS failed",
        Trouble.CONNECTION: "connection failed",
        Trouble.QUOTA: "quota used up",
        Trouble.NONE: "",
    }
    word, text = words[error.trouble], str(error)
    return text if text.startswith(word) else f"{word} ({text})"
