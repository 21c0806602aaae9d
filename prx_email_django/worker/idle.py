"""Connections that a loop keeps open from one drain to the next, for a few seconds: at most one of each account.

Such a connection keeps its slot, since the server counts it.  So that nobody waits for an idle one: it is kept only
while another slot of its account is free, it ends by itself after ``IDLE_FOR``, whatever the calling thread waits for,
and before it is used the server must answer on it.  The slot's lease is longer than all of this by far.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from time import monotonic

from prx_email_django.conf.references import SecretAbsent
from prx_email_django.limits.pauses import known_state
from prx_email_django.limits.slots import SLOT_LEASE, Slot, accounts_with_free_slot, release_slots, renew_slots
from prx_email_django.models import Account
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.rules.clock import Clock
from prx_email_django.store.absence import unwritten
from prx_email_django.transports.base import ConnectionSettings, IdleSession
from prx_email_django.worker.network import Network
from prx_email_django.worker.token_keeper import connection_settings

#: Seconds for which a connection without work stays open.  RFC 5321 §4.5.3.2.7 gives clients five minutes; servers
#: under load give ten seconds (Postfix, ``smtpd_timeout``).
IDLE_FOR = 5.0
#: A slot is renewed before its connection rests if less than this is left of its lease, in seconds.
RENEW_BELOW = SLOT_LEASE.total_seconds() * 2 / 3
#: Seconds for QUIT when the loop ends; the session's own limit is shorter.
QUIT_WITHIN = 3.0


class IdleConnection:
    """One connection without work; its methods are called on the network's thread."""

    def __init__(self, session: IdleSession, *, slot: Slot) -> None:
        self.session = session
        self.slot = slot
        #: Set when the connection is closed.
        self.closed = threading.Event()
        self._until = monotonic() + IDLE_FOR
        self._is_taken = False
        self._ending: asyncio.Task[None] | None = None

    def fits(self, settings: ConnectionSettings) -> bool:
        """Whether a new connection would be the same: nothing that it logs in with, or is limited by, has changed."""
        return replace(settings, window=0) == replace(self.session.settings, window=0)

    def begin(self) -> None:
        """Close it when its time is over, or the server closes it."""
        asyncio.get_running_loop().call_later(max(0.0, self._until - monotonic()), self.end)
        self.session.ended.add_done_callback(lambda _: self.end())

    def end(self) -> None:
        """Send QUIT, and close; nothing happens to a connection that is in use again."""
        if not self._is_taken and self._ending is None:
            self._ending = asyncio.ensure_future(self._quit())

    async def _quit(self) -> None:
        try:
            await self.session.quit()
        finally:
            self.closed.set()

    async def take(self, settings: ConnectionSettings) -> IdleSession | None:
        """The session, if the server still answers on it; None: it is closed."""
        if self._ending is not None:
            await asyncio.wait({self._ending})
            return None
        self._is_taken = True
        return self.session if await self.session.resume(settings) else None

    def abort(self) -> None:
        """Close at once."""
        if not self._is_taken:
            self.session.abort()


class IdleConnections:
    """The idle connections of one loop, and the network that all its drains use; for the calling thread."""

    def __init__(self) -> None:
        self._network: Network | None = None
        #: At most one of each account.
        self._idle: dict[int, IdleConnection] = {}
        #: Those that are being closed: their slots are still held.
        self._ending: list[IdleConnection] = []
        #: When the loop begins the next drain, whether or not somebody asks for it, on the monotonic clock.
        self.look_at = math.inf
        #: The loop has one account, as of the last time that it read all.
        self.is_alone = False
        #: When the loop reads all accounts again, due or not, on the monotonic clock.
        self.read_all_at = 0.0
        #: When the loop recovers the messages of lost workers again.
        self.recover_at = 0.0

    def accounts(self) -> set[int]:
        """The accounts with an idle connection, by primary key."""
        return set(self._idle)

    def keeps(self, account: Account) -> bool:
        """Whether the account has an idle connection that is open, and no limit that a look before it might find."""
        idle = self._idle.get(account.pk)
        return idle is not None and not idle.closed.is_set() and not account.rate_limits

    def network(self) -> Network:
        """The running network; a new one after an error has ended it."""
        if self._network is None or not self._network.is_running:
            self._network = Network()
            self._network.start_thread()
        return self._network

    def put(self, account_id: int, idle: IdleConnection, *, clock: Clock) -> None:
        """Keep a connection, which has a slot."""
        before, self._idle[account_id] = self._idle.get(account_id), idle
        self._end([before] if before else [])
        self.network().call(idle.begin)
        if idle.slot.remaining() < RENEW_BELOW:
            renew_slots([idle.slot], clock=clock)

    def find(self, account: Account, settings: ConnectionSettings) -> IdleConnection | None:
        """The account's idle connection, which the caller removes by ``forget`` once it has its slot.

        One that does not fit any more is closed.
        """
        idle = self._idle.get(account.pk)
        if idle is None:
            return None
        if idle.fits(settings) and idle.slot.has_time_left() and idle.slot.number <= account.max_connections:
            return idle
        self._drop([account.pk])
        return None

    def forget(self, account_id: int) -> None:
        """The connection is in use again; its slot belongs to the caller."""
        self._idle.pop(account_id, None)

    # Closing

    def review(self, accounts: Iterable[Account], *, needed: Collection[int], clock: Clock) -> None:
        """Close the connections of other accounts than these, which may send, and those that do not fit any more.

        Also where all slots of an account are taken: another worker may want this one.  Not the connections that are
        ``needed`` now (accounts, by primary key); ``find`` looks at them.
        """
        self.release_closed()
        unused = self._idle.keys() - set(needed)
        if not unused:
            return
        found = {account.pk: account for account in accounts if account.pk in unused}
        free = accounts_with_free_slot(found.values(), clock=clock)
        self._drop([pk for pk in unused if pk not in free or not self._is_unchanged(found[pk], clock)])

    def _is_unchanged(self, account: Account, clock: Clock) -> bool:
        idle = self._idle[account.pk]
        try:
            token = idle.session.settings.token
            return idle.fits(connection_settings(account, known_state(account), token=token, now=clock.now))
        except (DecryptionFailed, SecretAbsent):
            return False

    def release_closed(self) -> None:
        """Release the slots of connections that have been closed."""
        ended = [pk for pk, idle in self._idle.items() if idle.closed.is_set()]
        self._drop(ended)
        if closed := [idle for idle in self._ending if idle.closed.is_set()]:
            release_slots([idle.slot for idle in closed])
            self._ending = [idle for idle in self._ending if idle not in closed]

    def _drop(self, accounts: Iterable[int]) -> None:
        for pk in accounts:
            self._end([self._idle[pk]])
            del self._idle[pk]

    def _end(self, idle: Iterable[IdleConnection]) -> None:
        for connection in idle:
            self._ending.append(connection)
            self._call(connection.end)

    def cut(self) -> None:
        """Cut all connections; ``leave`` follows."""
        for idle in self._held():
            self._call(idle.abort)

    def close(self) -> None:
        """Send QUIT on all connections, and leave."""
        for idle in self._held():
            self._call(idle.end)
        until = monotonic() + QUIT_WITHIN
        try:
            for idle in self._held():
                idle.closed.wait(max(0.0, until - monotonic()))
        finally:
            self.leave()

    def _call(self, function: Callable[[], object]) -> None:
        if self._network is not None:
            self._network.call(function)

    def _held(self) -> list[IdleConnection]:
        return [*self._idle.values(), *self._ending]

    def leave(self) -> None:
        """End the network, and give the slots back once the database can be used."""
        if self._network is not None:
            self._network.close()
        if held := self._held():
            unwritten.write([partial(release_slots, [idle.slot for idle in held])])
        self._idle.clear()
        self._ending.clear()


_kept: ContextVar[IdleConnections | None] = ContextVar("idle_connections", default=None)


def idle_connections() -> IdleConnections | None:
    """The idle connections of the loop that this drain belongs to; None: it keeps nothing."""
    return _kept.get()


@contextmanager
def keeping_connections() -> Iterator[IdleConnections]:
    """Let the drains of this block use one network, and keep connections from one to the next."""
    idle = IdleConnections()
    token = _kept.set(idle)
    try:
        yield idle
    finally:
        _kept.reset(token)
        idle.close()
