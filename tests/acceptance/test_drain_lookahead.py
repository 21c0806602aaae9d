"""How many messages a drain claims ahead: a killed worker delays them, and no other worker can send them."""

from __future__ import annotations

from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.store.claims import ClaimBatch
from prx_email_django.worker import lookahead
from prx_email_django.worker.claim_source import DueMessages
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.prefetch import ClaimPrefetch
from prx_email_django.worker.recorder import Recorder
from tests.support.factories import account, account_on, at, backlog
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


class Pace:
    """Makes the only connection idle in every step of the drain, and each step last ``seconds`` for the lookahead.

    A step sends four messages: at most four may be accepted by the server and not yet recorded.
    """

    def __init__(self, server: SmtpServer, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self.passed = 0.0
        self.claimed = 0
        #: For each claim: its number of messages, and the messages sent per second until then.
        self.claims: list[tuple[int, float]] = []

    def monotonic(self) -> float:
        """A clock that runs only by the steps: a busy machine would lower the measured rate."""
        return 1000.0 + self.passed

    def __call__(self, report: prx.DrainReport) -> None:
        if report.claimed > self.claimed:
            rate = report.sent / self.passed if self.passed else 0.0
            self.claims.append((report.claimed - self.claimed, rate))
            self.claimed = report.claimed
        assert self.server.wait_for(min(report.claimed, report.sent + 4))
        self.passed += self.seconds


@pytest.mark.parametrize(("seconds", "grows"), [(2.0, False), (0.05, True)])
def test_claims_ahead_double_while_a_connection_is_idle_and_are_at_most_a_seconds_measured_rate(
    seconds: float, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1, pipelining="off")
        backlog(owner, 90)
        pace = Pace(server, seconds)
        monkeypatch.setattr(lookahead, "monotonic", pace.monotonic)
        assert prx.drain(progress=pace).sent == 90
        assert pace.claims[0][0] == 4, "four for each connection to begin with"
        assert all(count <= max(4, rate) for count, rate in pace.claims), pace.claims
        assert (max(count for count, _ in pace.claims) > 4) is grows, pace.claims


def test_a_connection_that_becomes_idle_during_a_claim_doubles_what_is_claimed_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Claims came too late again and again, since the connections still had work whenever one began."""
    monkeypatch.setattr(lookahead, "monotonic", lambda: 1000.0)
    owner, clock = account(max_connections=8), at(None)
    backlog(owner, 120)
    current = CurrentAccount(owner, outbox=None)
    source = DueMessages(current, clock=clock, budget=lambda wanted: wanted)
    prefetch = ClaimPrefetch(current, source=source, clock=clock, recorder=Recorder(clock))
    claim, asked = source.claim, list[int]()

    def send(count: int) -> None:
        for _ in range(count):
            prefetch.ready.ready.popleft()
            prefetch.lookahead.note_completed()

    def while_connections_send_all(*, limit: int, **options: Any) -> ClaimBatch:
        asked.append(limit)
        send(len(prefetch.ready.ready))
        return claim(limit=limit, **options)

    monkeypatch.setattr(source, "claim", while_connections_send_all)
    for sent in (24, 16, 0):
        prefetch.claim_more(8)
        prefetch.rendering.render()
        send(sent)
    assert asked == [32, 64 - 32 - 8, 64 - 8], "eight were left when the later claims began, one for each connection"
