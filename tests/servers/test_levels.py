"""Real servers: no message is lost, sent twice or damaged at any pipelining level."""

from __future__ import annotations

import pytest

from tests.servers import messages
from tests.servers.messages import Server

pytestmark = pytest.mark.servers

POSTFIX = ["PLAIN after STARTTLS", "LOGIN in implicit TLS", "XOAUTH2 after STARTTLS"]
EXIM = ["STARTTLS", "implicit TLS"]
NPM = ["PLAIN after STARTTLS", "PLAIN in implicit TLS", "XOAUTH2 after STARTTLS"]


@pytest.fixture(params=["off", "envelope", "full", "chunked"])
def level(request: pytest.FixtureRequest) -> str:
    """Every level of pipelining."""
    return str(request.param)


def one_connection(server: Server, name: str, level: str, *, offers_chunking: bool = True) -> None:
    """Send more than two hundred messages, some with refused or deferred recipients, over one connection."""
    run = f"{name.replace(' ', '-').lower()}-{level}"
    outgoing_messages = messages.outgoing_messages(run)
    settings = messages.at_level(server.settings[name], level)
    outcomes, ends = messages.send(settings, outgoing_messages)
    messages.check_outcomes(outgoing_messages, outcomes)
    assert [end.error for end in ends] == [""]
    server.mailbox.check(messages.good_addresses(outgoing_messages), run)
    if level == "chunked" and offers_chunking:
        assert settings.found.window.size == 16, "no window: the messages went by DATA"


def many_refusals(server: Server, name: str, level: str) -> None:
    """Send messages with a refused recipient each: connections are replaced in time, and no other recipient fails."""
    run = f"refusals-{level}"
    outgoing_messages = messages.messages_with_refusals(run)
    outcomes, ends = messages.send(messages.at_level(server.settings[name], level), outgoing_messages)
    messages.check_outcomes(outgoing_messages, outcomes)
    assert all(end.reconnect and not end.error for end in ends[:-1]) and not ends[-1].error
    assert len(ends) > 1
    server.mailbox.check(messages.good_addresses(outgoing_messages), run)


@pytest.mark.parametrize("name", POSTFIX)
def test_postfix_gets_each_message_once_and_whole(postfix_server: Server, name: str, level: str) -> None:
    one_connection(postfix_server, name, level)


def test_postfix_loses_no_message_by_the_refusals_of_others(postfix_server: Server, level: str) -> None:
    many_refusals(postfix_server, POSTFIX[0], level)


@pytest.mark.parametrize("name", EXIM)
def test_exim_gets_each_message_once_and_whole(exim_server: Server, name: str, level: str) -> None:
    one_connection(exim_server, name, level)


def test_exim_loses_no_message_by_the_refusals_of_others(exim_server: Server, level: str) -> None:
    many_refusals(exim_server, EXIM[0], level)


@pytest.mark.npm
@pytest.mark.parametrize("name", NPM)
def test_npm_smtp_server_gets_each_message_once_and_whole(npm_server: Server, name: str, level: str) -> None:
    one_connection(npm_server, name, level, offers_chunking=False)


@pytest.mark.npm
def test_npm_smtp_server_loses_no_message_by_the_refusals_of_others(npm_server: Server, level: str) -> None:
    many_refusals(npm_server, NPM[0], level)
