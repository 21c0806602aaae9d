"""No address adds a parameter to MAIL or RCPT."""

from __future__ import annotations

import pytest

from prx_email_django.django_mail.envelope import envelope_address
from prx_email_django.transports.smtp.commands import Extensions, UnsupportedMessage, envelope, path
from tests.support.outgoing_messages import outgoing

ALL = Extensions(pipelining=True, eight_bit=True, utf8=True)


@pytest.mark.parametrize(
    "address",
    [
        '"a"@example.org> NOTIFY=NEVER ORCPT=<x',
        "bob@example.org\uff1e\u3000NOTIFY\uff1dNEVER",
        '"a b"@example.org\uff1e\u3000NOTIFY\uff1dNEVER',
    ],
)
def test_no_address_adds_a_parameter(address: str) -> None:
    with pytest.raises(UnsupportedMessage):
        path(address)


def test_lone_surrogate_is_refused_as_an_unsupported_message() -> None:
    with pytest.raises(UnsupportedMessage):
        envelope(outgoing(1, "b\udc80b@example.org"), ALL)


def test_address_given_to_the_email_backend_adds_no_parameter() -> None:
    """From the argument of Django's email backend to RCPT."""
    given = '"a b"@ex_a.org\uff1eNOTIFY'
    try:
        address = envelope_address("to", given)
        (_, rcpt, _) = envelope(outgoing(1, address), ALL)
    except (ValueError, UnsupportedMessage):
        return
    assert rcpt.count(b">") == 1, rcpt
