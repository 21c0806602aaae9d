"""How many messages a drain claims ahead: a killed worker delays them, and no other worker can send them."""

from __future__ import annotations

import pytest

import prx_email_django as prx
from prx_email_django.worker import lookahead
from tests.support.factories import account_on, backlog
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
