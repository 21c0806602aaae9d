"""One account within a drain: what the loop asks of it, what its lanes tell, and what to do when something is wrong.

Order: slot, connection, permits, claim.  Everything here runs on the calling thread; what lanes tell is heard in
``advance``, after the results that they left before have been recorded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from time import monotonic

from django.db import DatabaseError

from prx_email_django.limits.pauses import (
    account_state,
    note_failure,
    note_overlap_lost,
    note_size,
    note_success,
)
from prx_email_django.models import Account
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome, Trouble
from prx_email_django.rules.pauses import is_paused
from prx_email_django.transports.base import ConnectError, Session, SessionEnd, Transport
from prx_email_django.worker.connection import Lane, Mailbox, Result
from prx_email_django.worker.connections import Connecting, pause_reason
from prx_email_django.worker.events import announce_pause
from prx_email_django.worker.network import Network
from prx_email_django.worker.prefetch import Intake
from prx_email_django.worker.recorder import Recorder, is_touched

logger = logging.getLogger("prx_email_django")

#: Seconds between two tries to connect: three in a row without success pause the account.
RECONNECT_AFTER = 1.0
#: Why an account's run has stopped: every connection is taken elsewhere, or something unexpected happened.
LIMITED, FAILED = "limited", "failed"


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
        intake: Intake | None = None,
    ) -> None:
        self.account = account
        self.clock = clock
        self.network = network
        self.mailbox = mailbox
        self.recorder = recorder
        self.intake = intake or Intake(account, clock=clock, recorder=recorder, budget=budget)
        self.pool = self.intake.pool
        self.connecting = Connecting(
            account, pool=self.pool, clock=clock, network=network, mailbox=mailbox, transport=transport
        )
        #: What lanes have told (network appends), and what of it is due to be heard.
        self.news: deque[Callable[[], None]] = deque()
        self._heard: deque[Callable[[], None]] = deque()
        #: Why nothing more is claimed: ``paused``, ``limited``, ``stopped``; empty while it goes on.
        self.stop_reason = ""
        self.finished = False
        state = self.connecting.state
        self.intake.probing = self._troubled = state.pause_count > 0 or state.connection_failures > 0
        self._size = state.size_limit
        self._failed_at = -RECONNECT_AFTER

    # What the drain's loop calls

    def collect(self) -> bool:
        """Take note of what lanes have told; whether there is any: then the results that they left come first."""
        while self.news:
            self._heard.append(self.news.popleft())
        return bool(self._heard)

    def advance(self) -> None:
        """One step: listen, claim, connect, render, close; never waits."""
        while self._heard:
            self._heard.popleft()()
        self.connecting.look_at_clock()
        if self.finished:
            return
        if not self.stop_reason and not self.intake.claim_more(self.connecting.greeted):
            self.stop("paused")
        if not self.stop_reason:
            self._connect_more()
        if self.intake.render():
            self._wake_lanes()
        self._finish_if_idle()

    def wake_in(self) -> float | None:
        """Seconds after which ``advance`` has something to do by itself; None: only an event can bring that."""
        return None if self.finished else self.connecting.wake_in()

    def stop(self, reason: str) -> None:
        """Claim nothing more, give back what no connection has taken, let the rest end."""
        self.stop_reason = self.stop_reason or reason
        self.connecting.retry_at = 0.0
        self.intake.release(self.intake.withdraw())
        self.connecting.give_up_opening()
        self.connecting.release_spare()

    def abort(self) -> None:
        """Cut all connections at once."""
        self.connecting.abort()

    def leave(self, doubtful: Collection[int] = ()) -> None:
        """The network is closed: give back slots and what no connection took; ``doubtful`` is left to its lease."""
        taken = {job.id for lane in self.connecting.lanes for job in lane.taken.values()}
        try:
            self.intake.leave(taken.union(doubtful))
        finally:
            self.connecting.leave()

    def fail(self) -> None:
        """Something unexpected: cut the connections, hear them out; what is not recorded is left to its lease."""
        if self.stop_reason == FAILED:
            self.finished = True
        self.stop_reason, self.connecting.retry_at = FAILED, 0.0
        untaken = self.intake.withdraw()
        self.intake.claims.clear()
        self.connecting.give_up_opening()
        self.connecting.abort()
        try:
            self.recorder.release(untaken)
        except DatabaseError:
            logger.exception("account %s: its messages could not be given back; leases will tell", self.account)

    def results(self, results: Sequence[Result]) -> None:
        """Record what came back for this account."""
        untouched = [one.job for one in results if not is_touched(one.outcome)]
        recorded = self.recorder.results(one for one in results if is_touched(one.outcome))
        self.pool.recorded += sum(one.outcome.ending is Ending.ACCEPTED for one in results)
        for one in results:
            self.intake.claims.pop(one.job.id, None)
        self.recorder.release(untouched)
        if untouched:
            self.intake.look_again()
        self._learn(results)
        if any(one.progress for one in recorded):
            self.intake.go_on()
        self._wake_lanes()

    def _wake_lanes(self) -> None:
        """Lanes that wait look again; the others will before they do."""
        if self.pool.waiting:
            self.network.call(self.pool.kick)

    # What lanes tell

    def opened(self, lane: Lane, session: Session) -> None:
        """A connection has greeted."""
        self.connecting.greeted += 1
        if session.size_limit != self._size:
            self._size = session.size_limit
            note_size(self.account, session.size_limit)

    def connect_cancelled(self, lane: Lane, reached: ConnectError | None) -> None:
        """A connection is not needed any more; ``reached`` tells how far it had come."""
        self.connecting.drop(lane)

    def connect_failed(self, lane: Lane, error: ConnectError) -> None:
        """No connection."""
        try:
            if not self.connecting.goes_on(lane, error):
                self.connect_refused(error)
        except Exception:
            self.connecting.retire(lane)  # nobody waits for a dead lane; the run's end gives its slot back
            raise
        self.connecting.drop(lane)  # a pause first: whoever takes the slot must know of it

    def connect_refused(self, error: ConnectError) -> None:
        """No connection is to be had: the account's trouble, whatever the message."""
        self.trouble(error.trouble, pause_reason(error))

    def ended(self, lane: Lane, end: SessionEnd) -> None:
        """A connection is over."""
        self.connecting.greeted -= 1
        try:
            if end.overlap_lost:
                logger.warning("account %s: an overlapped write was lost, envelope pipelining for a week", self.account)
                note_overlap_lost(self.account, clock=self.clock)
                self.connecting.look_up_again()
            if end.trouble is not Trouble.NONE and not lane.trouble_noted:
                self.trouble(end.trouble, end.error)
        except Exception:
            self.connecting.retire(lane)  # nobody waits for a dead lane; the run's end gives its slot back
            raise
        if end.trouble is Trouble.NONE and end.reconnect and not self.stop_reason:
            self.connecting.retire(lane)
        else:
            self.connecting.drop(lane)  # a pause first: whoever takes the slot must know of it

    # Trouble, and what is learned

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
            self.connecting.retry_in(RECONNECT_AFTER)

    def _is_paused(self) -> bool:
        return is_paused(account_state(self.account), now=self.clock.now)

    def _learn(self, results: Sequence[Result]) -> None:
        for one in results:
            outcome = one.outcome
            if outcome.trouble is not Trouble.NONE:
                one.lane.trouble_noted = True
                self.trouble(outcome.trouble, outcome.error)
            elif is_completed(outcome):
                self.intake.note_completed()
                if self._troubled or self.intake.after_pause:
                    note_success(self.account)
                    self._troubled = self.intake.probing = self.intake.after_pause = False
                    self.intake.look_again()

    # Connecting and ending

    def _connect_more(self) -> None:
        while not self.stop_reason and self._wants_lane():
            if self.connecting.retry_at or not self._open_lane():
                return

    def _wants_lane(self) -> bool:
        """One to begin with; the others once it has greeted, where there is work for them."""
        lanes = len(self.connecting.lanes)
        if not lanes:
            return bool(self.intake.claims) or self.intake.may_find_some()
        if self.intake.probing or not self.connecting.greeted or lanes >= self.connecting.most_lanes:
            return False
        return self.intake.wants_connection(beside=lanes)

    def _open_lane(self) -> bool:
        try:
            login = self.connecting.login()
        except ConnectError as error:
            self.connect_refused(error)
            return False
        if login is None:
            return False
        if self.connecting.open(login, self):
            return True
        if not self.connecting.lanes:
            self.stop(LIMITED)
        return False

    def _finish_if_idle(self) -> None:
        if self.intake.claims or not (self.stop_reason or self.intake.is_empty()):
            return
        if not self.stop_reason and self.intake.looks_once_more():
            self.mailbox.wake()
            return
        if not self.pool.closing:
            self.pool.closing = True
            self.connecting.give_up_opening()
            self.network.call(self.pool.kick)
        if not self.connecting.lanes and self.connecting.tokens.is_settled():
            self.connecting.release_spare()
            self.finished = True


def is_completed(outcome: Outcome) -> bool:
    """Whether the server went through a transaction with us, whatever it said."""
    if outcome.ending is Ending.ACCEPTED:
        return True
    answered = outcome.mail_written and outcome.smtp_code  # one that is too large has a code and was never written
    return bool(answered) and outcome.ending in (Ending.TEMPORARY, Ending.PERMANENT)
