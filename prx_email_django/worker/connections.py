"""The connections of one account in a drain: settings, tokens and the time of the next try; slots: ``held_slots``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from django.utils.translation import override

from prx_email_django.conf.references import SecretAbsent
from prx_email_django.limits.slots import Slot, accounts_with_free_slot
from prx_email_django.models import Account
from prx_email_django.models.account_validation import connection_problem
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle
from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.rules.text import clean
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectError, ConnectionSettings, IdleSession, Transport
from prx_email_django.worker.connection import Connection, Listener
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.held_slots import HeldSlots
from prx_email_django.worker.idle import IdleConnection, IdleConnections
from prx_email_django.worker.network import Network
from prx_email_django.worker.queues import ReadyQueue, ResultQueue
from prx_email_django.worker.token_keeper import TokenKeeper, connection_settings

#: Seconds between two looks at a token that another worker is fetching.
TOKEN_POLL = 0.25
#: How every reason begins that is about fetching a token.
NO_TOKEN = "no access token"  # noqa: S105  (words, no secret)
#: How every reason begins that is about a reference which names nothing.
NO_SECRET = "no secret"  # noqa: S105  (words, no secret)


class Connections:
    """Opens the connections of one account, each with a slot; used on the calling thread only."""

    def __init__(  # noqa: PLR0913  (what a connection needs, and what opens it)
        self,
        current: CurrentAccount,
        *,
        ready: ReadyQueue,
        clock: Clock,
        network: Network,
        results: ResultQueue,
        transport: Transport,
        idle: IdleConnections | None = None,
    ) -> None:
        self.current = current
        self.ready = ready
        self.clock = clock
        self.network = network
        self.results = results
        self.transport = transport
        #: Where a loop keeps connections; None: nothing is kept.
        self.idle = idle
        #: What its connections find out about the server together.
        self.found = ready.found
        self.tokens = TokenKeeper(current, clock=clock)
        #: Connections that have greeted and not ended.
        self.greeted = 0
        #: No more connections than this: the account's own limit, or what slots and server were found to allow.
        self.most = current.account.max_connections
        #: Why the last connection got no slot.
        self.obstacle: Obstacle | None = None
        #: When the next connection may be tried, on the monotonic clock; 0: at once.
        self.retry_at = 0.0
        #: The account, as it was read when nothing was found that keeps it from connecting.
        self._usable: Account | None = None
        self._all: set[Connection] = set()
        self._slots = HeldSlots(current, clock=clock)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._all)

    def taken_ids(self) -> set[int]:
        """Messages that a connection has taken and not reported, by primary key."""
        return {message.id for connection in self._all for message in connection.taken}

    # When to try

    def retry_in(self, seconds: float) -> None:
        """Try no connection for so many seconds."""
        self.retry_at = monotonic() + seconds

    def look_at_clock(self) -> None:
        """End a wait whose time has passed."""
        if self.retry_at and monotonic() >= self.retry_at:
            self.retry_at = 0.0

    def wake_in(self) -> float | None:
        """Seconds until a wait ends; None: there is none."""
        return max(0.0, self.retry_at - monotonic()) if self.retry_at else None

    # Opening

    def settings(self) -> ConnectionSettings | None:
        """What the next connection connects and logs in with; None: its token is being fetched, here or elsewhere.

        Raises:
            ConnectError: without it, no connection can even be tried.
        """
        try:
            self.current.look()
            self._require_usable(self.current.account)
            token = self._token()
            if token is None:
                return None
            return connection_settings(
                self.current.account, self.current.state, token=token, found=self.found, now=self.clock.now
            )
        except TokenRefused as error:
            # Without a time of its own a temporary error counts as a failed connection.
            certain = error.permanent or error.retry_after is not None or error.code == "timeout"
            trouble = Trouble.TOKEN if certain else Trouble.CONNECTION
            raise _unable(f"{NO_TOKEN}: {error}", trouble, retry_after=error.retry_after) from error
        except DecryptionFailed as error:
            raise _unable(str(error), Trouble.CONFIGURATION, ErrorCode.CONFIGURATION) from error
        except SecretAbsent as error:
            trouble = Trouble.TOKEN if self.tokens.needed else Trouble.AUTH
            raise _unable(f"{NO_SECRET}: {error}", trouble) from error

    def _require_usable(self, account: Account) -> None:
        if account is self._usable:
            return
        with override(None):  # stored in English, whatever language this process or a request has
            problem = connection_problem(account)
        if problem:
            raise _unable(problem, Trouble.CONFIGURATION, ErrorCode.CONFIGURATION)
        self._usable = account

    def open(self, settings: ConnectionSettings, listener: Listener, *, wanted: int) -> bool:
        """Open one more connection, whose events go to ``listener``; False: there is no slot for it.

        ``wanted``: how many the caller is about to open; their slots are taken together.
        """
        kept = self._take_kept(settings)
        slot = kept.slot if kept is not None else self._slots.take(wanted, used=self._used_slots())
        if isinstance(slot, Obstacle):
            self.obstacle, self.most = slot, len(self) or self.most
            return False
        connection = Connection(slot, ready=self.ready, results=self.results, listener=listener, idle=kept)
        connection.account, connection.token = self.current.account, settings.token
        self._all.add(connection)
        self.network.start(connection.run(self.transport, settings))
        return True

    def _take_kept(self, settings: ConnectionSettings) -> IdleConnection | None:
        """The connection that the loop has kept, which goes on as a new one does: after a look whether it is alive."""
        if self.idle is None:
            return None
        kept = self.idle.find(self.current.account, settings)
        if kept is not None:  # the slot stands in one of the two places at any moment
            self._slots.add(kept.slot)
            self.idle.forget(self.current.account.pk)
        return kept

    def _token(self) -> str | None:
        if not self.tokens.needed:
            return ""
        token = self.tokens.current(done=self.results.wake)
        if token is None:
            self.retry_in(TOKEN_POLL)
        return token

    def keep(self, slot: Slot) -> None:
        """Take over a slot that the caller has acquired, for the one connection that it needs."""
        self._slots.add(slot)
        self.most = 1

    def _used_slots(self) -> list[Slot]:
        return [connection.slot for connection in self._all]

    # Closing

    def goes_on(self, connection: Connection, error: ConnectError) -> bool:
        """Whether the account goes on although an opening failed.

        It was corrected meanwhile, a fresh token may be tried, or its other connections go on.
        """
        if self.is_corrected(connection):
            return True
        refused = error.trouble is Trouble.AUTH and error.smtp_code >= 500  # not: no mechanism for it, or throttled
        if refused and self.tokens.refused(connection.token, logged_in=False):
            return True
        throttled = error.trouble is Trouble.AUTH and 400 <= error.smtp_code < 500
        if self.greeted and (throttled or error.trouble is Trouble.CONNECTION):
            # The server accepts no further connection.
            self.most = max(1, len(self) - 1)
            return True
        return False

    def is_corrected(self, connection: Connection) -> bool:
        """Whether a person has changed what it logged in with: its trouble says nothing of the account any more."""
        self.current.look_again()
        self.current.look()
        return connection.account is not None and not self.current.account.logs_in_as(connection.account)

    def drop(self, connection: Connection) -> None:
        """Forget a closed connection; ``release_dropped`` releases its slot."""
        self._all.discard(connection)
        self._slots.drop(connection.slot)

    def release_dropped(self) -> None:
        """Release the slots of the connections that were dropped."""
        self._slots.release_dropped()

    def may_keep_one(self) -> bool:
        """Whether the loop may keep one connection: another slot stays free, and the server is not short of them."""
        if self.idle is None or not self.greeted or self.most < self.current.account.max_connections:
            return False
        return bool(accounts_with_free_slot([self.current.account], clock=self.clock, closing=len(self._slots) - 1))

    def rest(self, connection: Connection, session: IdleSession) -> None:
        """Leave an idle connection, with its slot, to the loop."""
        if self.idle is not None:
            kept = IdleConnection(session, slot=connection.slot)
            self.idle.put(self.current.account.pk, kept, clock=self.clock)
        self._all.discard(connection)
        self._slots.give_away(connection.slot)

    def retire(self, connection: Connection) -> None:
        """Forget a connection that ended in good order, and keep its slot for the next connection."""
        self._all.discard(connection)

    @contextmanager
    def retired_on_error(self, connection: Connection) -> Iterator[None]:
        """Forget a connection whose event cannot be handled: nothing waits for it, and ``leave`` releases its slot."""
        try:
            yield
        except Exception:
            self.retire(connection)
            raise

    def give_up_opening(self) -> None:
        """Give up the connections that are not open yet."""
        for connection in self._all:
            if connection.session is None:
                self.network.call(connection.give_up)

    def abort(self) -> None:
        """Cut all connections at once."""
        for connection in self._all:
            if connection.session is not None:
                self.network.call(connection.session.abort)

    def release_spare(self) -> None:
        """Release the slots that no connection has, also those that may have been taken although it raised."""
        self._slots.release_spare(used=self._used_slots())

    def leave(self) -> None:
        """Release everything that other workers may wait for, after the network was closed."""
        try:
            self.tokens.abandon()
        finally:
            self._slots.release_all()


def _unable(
    text: str, trouble: Trouble, code: ErrorCode = ErrorCode.AUTH, *, retry_after: timedelta | None = None
) -> ConnectError:
    phase = Phase.CONNECT if trouble is Trouble.CONFIGURATION else Phase.AUTH
    return ConnectError(clean(text), phase=phase, trouble=trouble, error_code=code, retry_after=retry_after)


def pause_reason(error: ConnectError) -> str:
    """A sentence for the person who reads why an account is paused."""
    words = {
        Trouble.AUTH: "authentication refused",
        Trouble.CONFIGURATION: "this account cannot work",
        Trouble.TLS: "TLS failed",
        Trouble.CONNECTION: "connection failed",
        Trouble.TOKEN: NO_TOKEN,
        Trouble.QUOTA: "quota used up",
        Trouble.REFUSING: "the server refuses all messages",
        Trouble.RATE: "too fast",
        Trouble.CROWDED: "too many connections",
        Trouble.NONE: "",
    }
    word, text = words[error.trouble], str(error)
    return text if text.startswith((word, NO_TOKEN, NO_SECRET)) else f"{word} ({text})"
