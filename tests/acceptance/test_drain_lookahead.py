"""How far a drain claims ahead: what a kill loses and what another worker waits for."""

from __future__ import annotations

import pytest

import prx_email_django as prx
from prx_email_django.worker import prefetch
from tests.support.factories import account, backlog
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


class Pace:
    """Lets the only connection run dry in every step of the drain, and tells the intake that the step took so long.

    A step sends four messages: more may not be accepted and unrecorded.
    """

    def __init__(self, server: SmtpServer, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self.passed = 0.0
        self.claimed = 0
        #: Messages of each claim, and what was sent in a second until then.
        self.claims: list[tuple[int, float]] = []

    def monotonic(self) -> float:
        """No time passes but what is told: a machine that stands still would lower the measured rate."""
        return 1000.0 + self.passed

    def __call__(self, report: prx.DrainReport) -> None:
        if report.claimed > self.claimed:
            rate = report.sent / self.passed if self.passed else 0.0
            self.claims.append((report.claimed - self.claimed, rate))
            self.claimed = report.claimed
        assert self.server.wait_for(min(report.claimed, report.sent + 4))
        self.passed += self.seconds


@pytest.mark.parametrize(("seconds", "grows"), [(2.0, False), (0.05, True)])
def test_claims_ahead_double_while_a_lane_starves_and_are_at_most_a_seconds_measured_rate(
    seconds: float, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmtpServer() as server:
        owner = account(host=server.host, port=server.port, max_connections=1, pipelining="off")
        backlog(owner, 90)
        pace = Pace(server, seconds)
        monkeypatch.setattr(prefetch, "monotonic", pace.monotonic)
        assert prx.drain(progress=pace).sent == 90
        assert pace.claims[0][0] == 4, "four for each connection to begin with"
        assert all(count <= max(4, rate) for count, rate in pace.claims), pace.claims
        assert (max(count for count, _ in pace.claims) > 4) is grows, pace.claims
