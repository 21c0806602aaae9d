"""How an account connects: its settings as plain values, and the access token that it needs first."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from datetime import datetime

from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.pauses import account_state
from prx_email_django.limits.token_refresh import access_token, drop_token, may_refresh, store_token, take_refresh_lease
from prx_email_django.models import Account, AccountState
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.oauth.fetch import fetch_token
from prx_email_django.oauth.token import Token, TokenRefused
from prx_email_django.oauth.token_request import token_request
from prx_email_django.rules.clock import Clock
from prx_email_django.transports.base import ConnectionSettings, TlsFiles, Transport
from prx_email_django.transports.console import ConsoleTransport
from prx_email_django.transports.found import FoundOut
from prx_email_django.transports.memory import shared as memory
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.network import Network

#: Seconds for fetching a token.
TOKEN_TIMEOUT = 20.0


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
    """
    settings = outbox_settings()
    pipelining = account.pipelining
    if state.stepwise_until is not None and state.stepwise_until > now:
        pipelining = "off"
    elif pipelining in ("auto", "full") and state.envelope_until is not None and state.envelope_until > now:
        pipelining = "envelope"
    return ConnectionSettings(
        host=account.host,
        port=account.port,
        security=account.security,
        auth_method=account.auth_method,
        auth_mechanism=account.auth_mechanism,
        user=account.user,
        password=account.password,
        token=token,
        pipelining=pipelining,
        found=found or FoundOut(),
        max_messages=account.max_messages_per_connection,
        timeout=settings.smtp_timeout.total_seconds(),
        tls_files=TlsFiles(
            shared_ca_file=str(settings.tls_ca_file or ""),
            ca_file=account.tls_ca_file,
            cert_file=account.tls_cert_file,
            key_file=account.tls_key_file,
        ),
        cleartext_hosts=settings.cleartext_hosts,
    )


class TokenKeeper:
    """The access token of one account within one drain: fetched by one worker at a time, stored for all.

    A refresh goes: ``current`` finds no fresh token, takes the refresh lease, starts ``oauth.fetch`` on the network,
    and stores what comes back (``limits.token_refresh``) when it is asked again.
    """

    def __init__(self, current: CurrentAccount, *, clock: Clock, network: Network) -> None:
        self._current = current
        self.clock = clock
        self.network = network
        #: A fresh token was asked for after a refusal; this is done once in a drain.
        self.renewed = False
        self.refused = ""
        #: The refresh lease that we hold, and the token that is being fetched under it.
        self._fetching: tuple[uuid.UUID, Future[Token]] | None = None

    @property
    def account(self) -> Account:
        """The account as it was read last."""
        return self._current.account

    @property
    def needed(self) -> bool:
        """Whether this account logs in with a token at all."""
        return self.account.auth_method == "xoauth2"

    @sensitive_variables("token")
    def current(self, *, done: Callable[[], None]) -> str | None:
        """The token, or None: it is being fetched, here (``done`` is called from the network) or elsewhere.

        Raises:
            TokenRefused: none is to be had.
        """
        if self._fetching is not None:
            lease, future = self._fetching
            if not future.done():
                return None
            self._fetching = None
            self._keep(lease, future)
        state = account_state(self.account)
        token = access_token(self.account, state, clock=self.clock)
        if token and token != self.refused:
            return token
        if not may_refresh(self.account):
            if token:
                return token
            raise TokenRefused("the account has no usable access token", permanent=True, code="configuration")
        free = take_refresh_lease(self.account, clock=self.clock)
        return None if free is None else self._current_under(free, done)

    @sensitive_variables("token")
    def _current_under(self, lease: uuid.UUID, done: Callable[[], None]) -> str | None:
        """Look again under the lease: another worker may have stored a token, and a new refresh token, a moment ago."""
        state = account_state(self.account)
        token = access_token(self.account, state, clock=self.clock)
        if token and token != self.refused:
            drop_token(self.account, "", lease=lease)
            return token
        self._fetch(lease, state, done)
        return None

    def discard(self, refused: str) -> bool:
        """Forget a token that the server refused; True: a fresh token may be tried (once in a drain)."""
        if not self.needed or not may_refresh(self.account) or self.renewed:
            return False
        self.renewed, self.refused = True, refused
        drop_token(self.account, refused)
        return True

    def is_settled(self) -> bool:
        """Whether no token is being fetched here; a token that has arrived is stored.

        It is stored although nothing waits for it: a provider that rotates refresh tokens has revoked the old one.
        An error of the request is ignored.
        """
        if self._fetching is None:
            return True
        lease, future = self._fetching
        if not future.done():
            return False
        self._fetching = None
        with contextlib.suppress(TokenRefused):
            self._keep(lease, future)
        return True

    def abandon(self) -> None:
        """Nobody waits any more: store what has come, else let another worker fetch."""
        if not self.is_settled() and self._fetching is not None:
            drop_token(self.account, "", lease=self._fetching[0])
            self._fetching = None

    def _fetch(self, lease: uuid.UUID, state: AccountState, done: Callable[[], None]) -> None:
        try:
            request = token_request(self.account, refresh_token=state.refresh_token)
        except (TokenRefused, DecryptionFailed):
            drop_token(self.account, "", lease=lease)
            raise
        future = self.network.start(fetch_token(request, timeout=TOKEN_TIMEOUT))
        self._fetching = (lease, future)
        future.add_done_callback(lambda _: done())

    def _keep(self, lease: uuid.UUID, future: Future[Token]) -> None:
        try:
            token = future.result()
        except CancelledError:
            drop_token(self.account, "", lease=lease)
            return
        except TokenRefused:
            drop_token(self.account, "", lease=lease)
            raise
        store_token(
            self.account,
            lease,
            access=token.access_token,
            expires_at=token.expires_at,
            refresh=token.refresh_token,
        )
        self.refused = ""
