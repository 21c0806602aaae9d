"""Real servers: they take addresses in the form in which this app writes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.rules.outcomes import Answer, Ending
from tests.servers import messages
from tests.servers.messages import Server

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(("server", "name"), [("postfix_server", "PLAIN after STARTTLS"), ("exim_server", "STARTTLS")])
def test_dots_that_carriers_gave_out_are_taken_quoted(request: pytest.FixtureRequest, server: str, name: str) -> None:
    """Both take them unquoted too, but only the quoted form is an address of RFC 5321, which other servers demand."""
    found: Server = request.getfixturevalue(server)
    given = ["ok-a..b@example.org", "ok-c.@example.org", "ok-d@example.org"]
    recipients = tuple(split_mailbox(address).addr_spec for address in given)
    [outgoing] = messages.outgoing_messages("carriers", count=1)
    outcomes, _ = messages.send(found.settings[name], [replace(outgoing, recipients=recipients)])
    assert outcomes[0].ending is Ending.ACCEPTED, outcomes[0]
    assert {answer.answer for answer in outcomes[0].recipients.values()} == {Answer.ACCEPTED}
