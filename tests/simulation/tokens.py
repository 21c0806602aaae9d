"""A simulated token server: it issues access tokens that end, may rotate refresh tokens, and misbehaves."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import timedelta

from prx_email_django.oauth.token import Token, TokenRefused
from prx_email_django.oauth.token_request import TokenRequest
from tests.simulation.world import World

#: Seconds for which an access token is good; None: the server does not say.
LIFETIMES = (2.0, 8.0, 3600.0, None)
#: Kinds of trouble by which an answer of the token server is lost, or comes to nobody.
LOSES_ANSWERS = frozenset({"kills", "signals", "absence", "read_only", "conflicts", "operators", "freezes", "sleep"})
#: Seconds after which a token of which nobody says it ends.
ENDS_AFTER = 20.0


@dataclass
class Fetch:
    """One request for a token."""

    #: The account that asked, and its process.
    account: str
    client: str
    #: On the clock of uptime; ``ends``: the answer was written.
    begins: float
    ends: float = float("inf")
    #: The token that was issued.
    token: str = ""


class TokenServer:
    """The token server of all accounts of one schedule."""

    def __init__(
        self,
        world: World,
        *,
        rate: float = 0.0,
        lifetime: float | None = None,
        rotates: bool = False,
        is_strict: bool = False,
    ) -> None:
        """``rotates``: a refresh token is good for one request; ``is_strict``: its second use is refused."""
        self.world = world
        self.rate = rate
        self.rotates = rotates
        self.is_strict = is_strict
        self.lifetime = lifetime
        self.fetches: list[Fetch] = []
        #: Access token -> when it ends, on the clock of uptime.
        self._ends: dict[str, float] = {}
        #: Access tokens that a mail server has refused, and when it did so first.
        self.refused: dict[str, float] = {}
        #: Account -> the refresh token that is good now.
        self._refresh: dict[str, str] = {}
        #: What was asked with a refresh token that had been used before.
        self.used_again: list[Fetch] = []

    def issue_refresh_token(self, account: str) -> str:
        """A new refresh token, in place of the account's last one."""
        self._refresh[account] = token = f"refresh-{account}-{next(self.world.numbers)}"
        return token

    def post(self, request: TokenRequest, *, timeout: float) -> Token:
        """``oauth.token_server.post``: the client id is the account's name.

        Raises:
            TokenRefused: there is no token.
        """
        world, account = self.world, request.client_id
        fetch = Fetch(account, world.me.name, world.uptime())
        self.fetches.append(fetch)
        try:
            world.sleep(world.random.choice([0.02, 0.2, 2.0]))
            self._misbehave(timeout)
            return self._grant(request, fetch)
        finally:
            fetch.ends = world.uptime()
            world.tell(f"has asked for a token of {account}: {fetch.token or 'refused'}")

    def _misbehave(self, timeout: float) -> None:
        random = self.world.random
        if random.random() >= self.rate:
            return
        if random.random() < 0.3:
            self.world.meet("hang", "token")
            self.world.sleep(timeout)
            raise TokenRefused("the token server did not answer in time", permanent=False, code="timeout")
        self.world.meet("unavailable", "token")
        wait = random.choice([None, timedelta(seconds=2)])
        raise TokenRefused("the token server refused", permanent=False, code="server_error", retry_after=wait)

    def _grant(self, request: TokenRequest, fetch: Fetch) -> Token:
        account = request.client_id
        if request.refresh_token != self._refresh[account] and self.rotates:
            self.used_again.append(fetch)
            if self.is_strict:
                raise TokenRefused("the token server refused: invalid_grant", permanent=True, code="invalid_grant")
        fetch.token = f"token-{account}-{next(self.world.numbers)}"
        self._ends[fetch.token] = self.world.uptime() + (self.lifetime or ENDS_AFTER)
        return Token(
            access_token=fetch.token,
            lifetime=None if self.lifetime is None else timedelta(seconds=self.lifetime),
            refresh_token=self.issue_refresh_token(account) if self.rotates else None,
        )

    # What mail servers ask

    def accepts(self, token: str) -> bool:
        """Whether an access token is good now; one that is not is refused from now on."""
        is_good = self.world.uptime() < self._ends.get(token, 0.0)
        if not is_good:
            self.refuse(token)
        return is_good

    def refuse(self, token: str) -> None:
        """Note that a mail server refuses a token."""
        self.refused.setdefault(token, self.world.uptime())

    def revoke(self) -> None:
        """End every access token: somebody has changed the mailbox's password."""
        self.world.meet("revoked", "token")
        self.world.story.append((self.world.uptime() - 1000.0, "tokens", "all are revoked"))
        self._ends.clear()


def token_of(command: str) -> str:
    """The access token of an AUTH XOAUTH2."""
    response = base64.b64decode(command.split()[-1]).decode()
    return response.split("auth=Bearer ", 1)[1].rstrip("\x01")
