"""Real servers as they come: nothing is lost, doubled or damaged at any level of pipelining."""

from __future__ import annotations

import pytest

from tests.servers import letters
from tests.servers.messages import Server

pytestmark = pytest.mark.servers

POSTFIX = ["PLAIN after STARTTLS", "LOGIN in implicit TLS", "XOAUTH2 after STARTTLS"]
EXIM = ["STARTTLS", "implicit TLS"]
NPM = ["PLAIN after STARTTLS", "PLAIN in implicit TLS", "XOAUTH2 after STARTTLS"]


@pytest.fixture(params=["off", "envelope", "full"])
def level(request: pytest.FixtureRequest) -> str:
    """Every level of pipelining."""
    return str(request.param)


def one_connection(server: Server, way: str, level: str) -> None:
    """More than two hundred letters, some recipients refused and some deferred, on a single connection."""
    run = f"{way.replace(' ', '-').lower()}-{level}"
    outgoing_messages = letters.outgoing_messages(run)
    outcomes, ends = letters.send(letters.at_level(server.logins[way], level), outgoing_messages)
    letters.check_outcomes(outgoing_messages, outcomes)
    assert [(end.completed, end.error) for end in ends] == [(letters.COUNT - 2, "")]
    server.mailbox.check(letters.good_addresses(outgoing_messages), run)


def many_refusals(server: Server, way: str, level: str) -> None:
    """A refused recipient in every letter: connections are given up in time, and no letter pays for another's."""
    run = f"troubled-{level}"
    outgoing_messages = letters.troubled_parcels(run)
    outcomes, ends = letters.send(letters.at_level(server.logins[way], level), outgoing_messages)
    letters.check_outcomes(outgoing_messages, outcomes)
    assert all(end.reconnect and not end.error for end in ends[:-1]) and not ends[-1].error
    assert len(ends) > 1
    server.mailbox.check(letters.good_addresses(outgoing_messages), run)


@pytest.mark.parametrize("way", POSTFIX)
def test_postfix_gets_each_letter_once_and_whole(postfix_server: Server, way: str, level: str) -> None:
    one_connection(postfix_server, way, level)


def test_postfix_hangs_up_on_no_letter_for_the_refusals_of_others(postfix_server: Server, level: str) -> None:
    many_refusals(postfix_server, POSTFIX[0], level)


@pytest.mark.parametrize("way", EXIM)
def test_exim_gets_each_letter_once_and_whole(exim_server: Server, way: str, level: str) -> None:
    one_connection(exim_server, way, level)


def test_exim_hangs_up_on_no_letter_for_the_refusals_of_others(exim_server: Server, level: str) -> None:
    many_refusals(exim_server, EXIM[0], level)


@pytest.mark.npm
@pytest.mark.parametrize("way", NPM)
def test_npm_smtp_server_gets_each_letter_once_and_whole(npm_server: Server, way: str, level: str) -> None:
    one_connection(npm_server, way, level)


@pytest.mark.npm
def test_npm_smtp_server_hangs_up_on_no_letter_for_the_refusals_of_others(npm_server: Server, level: str) -> None:
    many_refusals(npm_server, NPM[0], level)
