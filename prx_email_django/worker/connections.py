"""The connections of one account within a drain: slots, tokens, logins, lanes, and when the next try may be made."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

from prx_email_django.limits.pauses import account_state
from prx_email_django.limits.slots import Slot, acquire_slot, acquire_slot_heeding_pause, release_slots
from prx_email_django.models import Account, AccountState
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.oauth.values import TokenRefused
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.rules.text import cut
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectError, ConnectionSettings, Transport
from prx_email_django.worker.connection import Lane, Mailbox, Pool
from prx_email_django.worker.network import Network
from prx_email_django.worker.tokens import TokenKeeper, login_for

if TYPE_CHECKING:
    from prx_email_django.worker.account import AccountRun

#: Seconds for which nobody looks again whether a person has changed the account.
LOOK_UP_AFTER = 1.0
#: Seconds between two looks at a token that another worker is fetching.
TOKEN_POLL = 0.25


class Connecting:
    """Opens the lanes of one account, each with a slot; used on the calling thread only."""

    def __init__(  # noqa: PLR0913  (what a lane needs, and what its login does)
        self, account: Account, *, pool: Pool, clock: Clock, network: Network, mailbox: Mailbox, transport: Transport
    ) -> None:
        self.account = account
        self.pool = pool
        self.clock = clock
        self.network = network
        self.mailbox = mailbox
        self.transport = transport
        self.tokens = TokenKeeper(account, clock=clock, network=network)
        self.lanes: set[Lane] = set()
        #: Lanes whose connection has greeted and not ended.
        self.greeted = 0
        #: No more lanes than this: the account's own limit, or what slots and server were found to allow.
        self.most_lanes = account.max_connections
        #: False: somebody waits for one message, and a pause is ignored.
        self.heeds_pause = True
        #: When the next connection may be tried, on the monotonic clock; 0: at once.
        self.retry_at = 0.0
        #: What workers know of the account.
        self.state = account_state(account)
        self._look_up_at = 0.0
        #: Every slot that is ours; one without a lane waits for the next connection.
        self._slots: set[Slot] = set()
        #: Slots that were asked for: ours too, where the drain ended while one was being taken.
        self._noted: set[Slot] = set()

    # When to try

    def retry_in(self, seconds: float) -> None:
        """Try no connection before that."""
        self.retry_at = monotonic() + seconds

    def look_at_clock(self) -> None:
        """End a wait whose time has come."""
        if self.retry_at and monotonic() >= self.retry_at:
            self.retry_at = 0.0

    def wake_in(self) -> float | None:
        """Seconds until a wait ends; None: there is none."""
        return max(0.0, self.retry_at - monotonic()) if self.retry_at else None

    # Opening

    def login(self) -> ConnectionSettings | None:
        """What the next connection logs in with; None: its token is being fetched, here or elsewhere.

        Raises:
            ConnectError: without it, no connection can even be tried.
        """
        try:
            state = self._look_up()
            token = self._token()
            return None if token is None else login_for(self.account, state, token=token, now=self.clock.now)
        except TokenRefused as error:
            trouble = Trouble.AUTH if error.permanent else Trouble.CONNECTION
            raise _unable(f"no access token: {error}", trouble) from error
        except DecryptionFailed as error:
            raise _unable(cut(str(error)), Trouble.AUTH) from error

    def open(self, login: ConnectionSettings, run: AccountRun) -> bool:
        """Open one more connection, whose lane tells ``run`` what becomes of it; False: there is no slot for it."""
        slot = self._slot()
        if slot is None:
            self.most_lanes = len(self.lanes) or self.most_lanes
            return False
        lane = Lane(run, self.pool, slot, self.mailbox)
        lane.token = login.token
        self.lanes.add(lane)
        self.network.start(lane.live(self.transport, login))
        return True

    def look_up_again(self) -> None:
        """Something has been learned: the very next connection must heed it."""
        self._look_up_at = 0.0

    def _look_up(self) -> AccountState:
        """What is known of the account now: with old credentials a person's mended ones would be paused again."""
        if monotonic() >= self._look_up_at:
            self._look_up_at = monotonic() + LOOK_UP_AFTER
            self.account.refresh_from_db()
            self.state = account_state(self.account)
        return self.state

    def _token(self) -> str | None:
        if not self.tokens.needed:
            return ""
        token = self.tokens.current(done=self.mailbox.wake)
        if token is None:
            self.retry_in(TOKEN_POLL)
        return token

    # Slots

    def keep(self, slot: Slot) -> None:
        """Take over a slot that the caller has acquired, for the next connection."""
        self._slots.add(slot)

    def _slot(self) -> Slot | None:
        for slot in self._spare():
            if slot.holds() and slot.number <= self.account.max_connections:
                return slot
            self._give_back([slot])
        acquire = acquire_slot_heeding_pause if self.heeds_pause else acquire_slot
        fresh = acquire(self.account, noted=self._noted, clock=self.clock)
        if fresh is not None:
            self._slots.add(fresh)
        return fresh

    def _spare(self) -> set[Slot]:
        return self._slots.difference(lane.slot for lane in self.lanes)

    def _give_back(self, slots: Iterable[Slot]) -> None:
        given_back = list(slots)
        if given_back:
            release_slots(given_back)
            self._slots.difference_update(given_back)
            self._noted.difference_update(given_back)

    # Closing

    def goes_on(self, lane: Lane, error: ConnectError) -> bool:
        """Whether the account goes on although a lane got no connection: with a fresh token, or those that stand."""
        refused = error.trouble is Trouble.AUTH and error.smtp_code  # not: the server offers no mechanism for it
        if refused and self.tokens.renew(lane.token):
            return True
        if self.greeted and error.trouble is Trouble.CONNECTION:
            # The server takes no further connection beside those that it has.
            self.most_lanes = max(1, len(self.lanes) - 1)
            return True
        return False

    def drop(self, lane: Lane) -> None:
        """A lane has no connection any more: its slot is free for anybody."""
        self.lanes.discard(lane)
        self._give_back([lane.slot])

    def retire(self, lane: Lane) -> None:
        """A connection has ended in good order: its slot stays for the one that takes its place."""
        self.lanes.discard(lane)

    def give_up_opening(self) -> None:
        """Connections that do not stand yet are not needed any more."""
        for lane in self.lanes:
            if lane.session is None:
                self.network.call(lane.give_up)

    def abort(self) -> None:
        """Cut all connections at once."""
        for lane in self.lanes:
            if lane.session is not None:
                self.network.call(lane.session.abort)

    def release_spare(self) -> None:
        """Give back the slots that no connection has."""
        self._give_back(self._spare())

    def leave(self) -> None:
        """The network is closed: give back everything that others may wait for."""
        try:
            self.tokens.abandon()
        finally:
            self._give_back(self._slots | self._noted)


def _unable(text: str, trouble: Trouble) -> ConnectError:
    return ConnectError(text, phase=Phase.AUTH, trouble=trouble, error_code=ErrorCode.AUTH)


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
