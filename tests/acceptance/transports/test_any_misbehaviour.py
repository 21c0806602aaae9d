"""Whatever a server does at any step: no message is lost, and none that it accepted is reported as not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import ListFeed, outgoing_messages, settings_for
from tests.support.smtp_server import SmtpServer

UNTIMED = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
MESSAGES = 8
# A server that omits one reply and goes on is not here: then nobody can know which command a reply belongs to.
ANYWHERE: list[dict[str, Any]] = [
    {"reply": "451 4.3.0 later"},
    {"reply": "550 5.7.1 never"},
    {"reply": "421 4.3.0 closing"},
    {"reply": "451 4.4.5 session over"},
    {"reply": "550 5.4.5 daily limit"},
    {"reply": "503 5.5.1 out of step"},
    {"drop": True},
    {"reset": True},
    {"raw": b"junk\r\n"},
    {"raw": b"354 what\r\n"},
]
AT_THE_END: list[dict[str, Any]] = [
    {"drop": True, "accept": True},
    {"reset": True, "accept": True},
    {"raw": b"junk\r\n", "accept": True},
    {"raw": b"250 ok\r\n250 ok\r\n", "accept": True},
    {"raw": b"250 ok\r\n", "accept": True, "drop": True},
]
RULES = st.one_of(
    st.tuples(st.sampled_from(["mail", "rcpt", "data", "rset", "final"]), st.sampled_from(ANYWHERE)),
    st.tuples(st.just("final"), st.sampled_from(AT_THE_END)),
)


@pytest.fixture(scope="module")
def wild() -> Iterator[SmtpServer]:
    """One server for all examples."""
    with SmtpServer() as server:
        yield server


async def send_all(feed: ListFeed, settings: ConnectionSettings) -> None:
    """Open sessions until the feed is empty."""
    while feed.left:
        before = len(feed.taken)
        session = await SmtpTransport().open(settings)
        await session.run(feed)
        feed.check()
        assert len(feed.taken) > before, "a session that takes nothing would go on for ever"


@settings(max_examples=150, suppress_health_check=UNTIMED)
@given(
    level=st.sampled_from(["off", "envelope", "full", "auto"]),
    rules=st.lists(st.tuples(RULES, st.integers(1, 2 * MESSAGES)), max_size=4),
)
def test_every_message_is_reported_as_the_server_had_it(
    wild: SmtpServer, level: str, rules: list[tuple[tuple[str, dict[str, Any]], int]]
) -> None:
    wild.clear()
    wild.messages.clear()
    for (stage, options), nth in rules:
        wild.on(stage, nth=nth, **options)
    feed = ListFeed(outgoing_messages(MESSAGES))
    asyncio.run(send_all(feed, settings_for(wild, pipelining=level)))
    assert wild.wait_closed()
    delivered = [int(address.partition("@")[0][1:]) for address in wild.recipients]
    assert len(set(delivered)) == len(delivered)
    endings = {number: outcome.ending for number, outcome in feed.outcomes.items()}
    assert set(endings) == set(range(1, MESSAGES + 1))
    accepted = {number for number, ending in endings.items() if ending is Ending.ACCEPTED}
    unknown = {number for number, ending in endings.items() if ending is Ending.UNKNOWN}
    assert accepted <= set(delivered) <= accepted | unknown
