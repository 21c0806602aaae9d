"""How an account connects: its settings as plain values, and the access token that it needs first."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from datetime import datetime

from django.db import Error
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.references import resolve
from prx_email_django.limits.pauses import account_state
from prx_email_django.limits.token_refresh import (
    access_token,
    drop_token,
    end_refresh_lease,
    may_refresh,
    take_refresh_lease,
)
from prx_email_django.models import Account, AccountState
from prx_email_django.models.declared import timeout_of
from prx_email_django.oauth.fetch import TokenFetch
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.oauth.token_request import token_request
from prx_email_django.rules.clock import Clock
from prx_email_django.store.db import clock_for
from prx_email_django.transports.base import ConnectionSettings, TlsFiles, Transport
from prx_email_django.transports.console import ConsoleTransport
from prx_email_django.transports.found import FoundOut
from prx_email_django.transports.memory import shared as memory
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.refresh import Refresh, keep_later

#: Seconds for fetching a token.
TOKEN_TIMEOUT = 20.0
#: Requests for a token within a drain, after which the account pauses if no message could be sent with any.
MAX_REQUESTS = 5


def transport() -> Transport:
    """The transport that the settings name."""
    name = outbox_settings().transport
    if name == "memory":
        return memory
    return ConsoleTransport() if name == "console" else SmtpTransport()


@sensitive_variables("token")
def connection_settings(
    account: Account, state: AccountState, *, token: str, now: datetime, found: FoundOut | None = None
) -> ConnectionSettings:
    """Plain values for the transport; ``found`` is what the account's other connections share with this one.

    Raises:
        DecryptionFailed: a secret cannot be decrypted with the keys in force.
        SecretAbsent: the password is a reference that names nothing here.
    """
    settings = outbox_settings()
    pipelining, max_in_flight = _written_ahead(account, state, now=now)
    return ConnectionSettings(
        host=account.host,
        port=account.port,
        security=account.security,
        auth_method=account.auth_method,
        auth_mechanism=account.auth_mechanism,
        user=account.user,
        password=resolve(account.password),
        token=token,
        pipelining=pipelining,
        max_in_flight=max_in_flight,
        window=state.window,
        found=found or FoundOut(),
        max_messages=account.max_messages_per_connection,
        timeout=timeout_of(account) or settings.smtp_timeout.total_seconds(),
        tls_files=TlsFiles(
            shared_ca_file=str(settings.tls_ca_file or ""),
            ca_file=account.tls_ca_file,
            cert_file=account.tls_cert_file,
            key_file=account.tls_key_file,
        ),
        account_hosts=settings.account_hosts,
        cleartext_hosts=settings.cleartext_hosts,
    )


def _written_ahead(account: Account, state: AccountState, *, now: datetime) -> tuple[str, int]:
    """The level of pipelining, and the messages in flight (0: no BDAT), without what the server did not bear lately."""

    def is_without(until: datetime | None) -> bool:
        return until is not None and until > now

    if is_without(state.stepwise_until):
        return "off", 0
    max_in_flight = 1 if is_without(state.window_until) else account.max_in_flight
    if is_without(state.no_chunking_until):
        max_in_flight = 0
    if account.pipelining in ("auto", "chunked", "full") and is_without(state.envelope_until):
        return "envelope", 0
    return account.pipelining, max_in_flight


class TokenKeeper:
    """The access token of one account within one drain: fetched by one worker at a time, stored for all.

    A refresh goes: ``current`` finds no fresh token, takes the refresh lease, starts ``oauth.fetch``, and stores what
    comes back (``limits.token_refresh``) when it is asked again.  ``refused``, ``logged_in`` and ``completed`` tell
    what the mail server made of a token: a refused token is replaced once, until a token has proved good again.
    """

    def __init__(self, current: CurrentAccount, *, clock: Clock) -> None:
        self._current = current
        # Tokens end in real time, whatever the time of the call is.
        self._given = clock if clock.given is None else None
        #: Tokens that the mail server refused in this drain.
        self._refused: set[str] = set()
        #: A token was replaced because a login, or a session after its login, was refused.
        self._replaced_at_login = self._replaced_in_session = False
        #: Requests since a message was accepted or refused in the session of the present token.
        self._requests = 0
        #: The token that was handed out last.
        self._last = ""
        self._fetching: Refresh | None = None

    @property
    def account(self) -> Account:
        """The account as it was read last."""
        return self._current.account

    @property
    def needed(self) -> bool:
        """Whether this account logs in with a token at all."""
        return self.account.auth_method == "xoauth2"

    @property
    def _clock(self) -> Clock:
        if self._given is None:
            self._given = clock_for(None)
        return self._given

    @sensitive_variables("token")
    def current(self, *, done: Callable[[], None]) -> str | None:
        """The token, or None: it is being fetched, here (``done`` is called when it has come) or elsewhere.

        Raises:
            TokenRefused: none is to be had.
            SecretAbsent: a secret that is needed for it is a reference that names nothing here.
        """
        token = self._fresh_token(done)
        self._last = token or self._last
        return token

    @sensitive_variables("token")
    def _fresh_token(self, done: Callable[[], None]) -> str | None:
        if self._fetching is not None:
            if not self._fetching.is_over:
                return None
            if token := self._keep():
                return token  # it is used once, whatever its expiry says
        state = account_state(self.account)
        if token := access_token(self.account, state, clock=self._clock, refused=self._refused):
            return token
        if not may_refresh(self.account):
            raise TokenRefused("the account has no usable access token", permanent=True, code="configuration")
        lease = take_refresh_lease(self.account, clock=self._clock)
        if lease is None:
            return None
        return self._current_under(lease, done, took_over=state.refresh_lease is not None)

    @sensitive_variables("token")
    def _current_under(self, lease: uuid.UUID, done: Callable[[], None], *, took_over: bool) -> str | None:
        """Look again under the lease: another worker may have stored a token, and a new refresh token, a moment ago."""
        try:
            state = account_state(self.account)
            if token := access_token(self.account, state, clock=self._clock, refused=self._refused):
                end_refresh_lease(self.account.pk, lease)
                return token
            if self._requests >= MAX_REQUESTS:
                message = f"{self._requests} requests for a token, and no message could be sent"
                raise TokenRefused(message, permanent=True, code="useless")
            request = token_request(self.account, refresh_token=state.refresh_token)
        except Exception:
            end_refresh_lease(self.account.pk, lease)
            raise
        self._requests += 1
        self._fetching = Refresh(
            self.account.pk,
            lease=lease,
            took_over=took_over,
            version=state.token_version,
            clock=self._clock,
            fetch=TokenFetch(request, timeout=TOKEN_TIMEOUT, done=done),
        )
        return None

    @sensitive_variables("token")
    def _keep(self) -> str:
        """Store the token that has come; empty: look again, since another worker has stored a newer one.

        Raises:
            TokenRefused: there is no token, or only one that the mail server has refused.
        """
        refresh = self._fetching
        if refresh is None:
            return ""
        if not refresh.is_answered:
            self._leave_behind()
        token = refresh.keep()  # an error of the database leaves it to be stored later
        self._fetching = None
        if token in self._refused:
            message = "the mail server refuses the token, and the same token was issued again"
            raise TokenRefused(message, permanent=True, code="useless")
        return token

    # What the mail server says

    def refused(self, token: str, *, logged_in: bool) -> bool:
        """Forget a token that the server refused; True: a fresh token may be tried.

        ``logged_in``: the server refused it in a session whose login had worked.
        """
        if not self.needed or not may_refresh(self.account):
            return False
        if token in self._refused:
            return True  # another connection has said so already
        if self._replaced_in_session if logged_in else self._replaced_at_login:
            return False
        if logged_in:
            self._replaced_in_session = True
        else:
            self._replaced_at_login = True
        self._refused.add(token)
        drop_token(self.account, token)
        return True

    def logged_in(self, token: str) -> None:
        """Note a login that worked: the next refused login is another refusal."""
        if token == self._last:
            self._replaced_at_login = False

    def completed(self, token: str) -> None:
        """Note a whole transaction in a session that logged in with this token."""
        if token == self._last:
            self._replaced_at_login = self._replaced_in_session = False
            self._requests = 0

    # The end

    def is_settled(self) -> bool:
        """Whether no token is being fetched here; a token that has arrived is stored.

        It is stored although nothing waits for it: a provider that rotates refresh tokens has revoked the old one.
        An error of the request is ignored.
        """
        if self._fetching is not None:
            if not self._fetching.is_over:
                return False
            with contextlib.suppress(TokenRefused):
                self._keep()
        return True

    def abandon(self) -> None:
        """Nobody waits any more: store what has come, and leave to a thread what has not, or cannot be stored now."""
        try:
            settled = self.is_settled()
        except Error:  # the database is away
            settled = False
        if not settled:
            self._leave_behind()

    def _leave_behind(self) -> None:
        refresh, self._fetching = self._fetching, None
        if refresh is not None:
            keep_later(refresh)
