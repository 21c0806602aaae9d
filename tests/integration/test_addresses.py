"""Addresses that people have, from the call to the server."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from django.core.mail import EmailMessage

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import InboundMessage, OutboxMessage, Recipient
from prx_email_django.transports.memory import shared
from tests.support.factories import account

pytestmark = pytest.mark.django_db(transaction=True)

#: As given, and as it leaves.
CARRIERS = [("b..c@docomo.ne.jp", '"b..c"@docomo.ne.jp'), ("Bo <b.@docomo.ne.jp>", '"b."@docomo.ne.jp')]
ADDRESSES = [
    *CARRIERS,
    ("ann@example.org (Ann)", "ann@example.org"),
    ("Ann <ann@build_host.example>", "ann@build_host.example"),
    ("b@stra\u00dfe.example", "b@xn--strae-oqa.example"),
    ("B\u00e9a (Sales) <b@stra\u00dfe.example>", "b@xn--strae-oqa.example"),
]


@pytest.fixture(autouse=True)
def memory(settings: object) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TRANSPORT": "memory", "DEFAULT_ACCOUNT": "main"}  # type: ignore[attr-defined]
    shared.reset()
    account("main")


def _emails(*given: str) -> list[EmailMessage]:
    return [EmailMessage("s", "b", "me@example.org", [address], reply_to=[address]) for address in given]


@pytest.mark.parametrize(("given", "written"), CARRIERS)
def test_an_address_of_a_carrier_is_queued_with_its_batch(given: str, written: str) -> None:
    batch = _emails("ann@example.org", given, "bob@example.org")
    assert OutboxEmailBackend().send_messages(batch) == 3
    assert list(Recipient.objects.order_by("pk").values_list("address", flat=True)) == [
        "ann@example.org",
        written,
        "bob@example.org",
    ]


@pytest.mark.parametrize("way", ["backend", "function"])
@pytest.mark.parametrize(("given", "written"), ADDRESSES)
def test_header_and_envelope_name_the_same_address(given: str, written: str, way: str) -> None:
    if way == "backend":
        OutboxEmailBackend().send_messages(_emails(given))
    else:
        prx.enqueue(account="main", to=given, reply_to=given, subject="s", body_text="b", from_email="me@example.org")
    assert prx.drain().sent == 1
    [delivered] = shared.delivered
    assert delivered.recipients == (written,)
    for name in ("To", "Reply-To"):
        [address] = delivered.message[name].addresses
        assert address.addr_spec.replace('"', "") == written.replace('"', "")
        assert written in str(message_from_bytes(delivered.body)[name])


@pytest.mark.parametrize("kind", ["bytes", "compat32", "default"])
@pytest.mark.parametrize("name", ["From", "Reply-To"])
@pytest.mark.parametrize(
    ("written", "answered"),
    [
        ("MAILER-DAEMON@mx.example.org (Mail Delivery System)", ["MAILER-DAEMON@mx.example.org"]),
        ("Team: a@x.org, Bo <b@x.org>;, nobody", ["a@x.org", "b@x.org"]),
        ("b..c@docomo.ne.jp (((b)))", ['"b..c"@docomo.ne.jp']),
        ("=?utf-8?q?A=0D=0AB?= <ann@a_b.example>", ["ann@a_b.example"]),
    ],
)
def test_received_mail_is_recorded_and_answered(kind: str, name: str, written: str, answered: list[str]) -> None:
    sender = b"" if name == "From" else b"From: undisclosed:;\r\n"
    raw = b"Message-ID: <1@x.org>\r\n" + sender + f"{name}: {written}\r\nSubject: Hi\r\n\r\nbody".encode()
    compat32, modern = message_from_bytes(raw), message_from_bytes(raw, policy=policy.default)
    record = prx.record_inbound("main", {"bytes": raw, "compat32": compat32, "default": modern}[kind])
    assert ("1 that is no address" in record.left_out) == ("nobody" in written)
    assert InboundMessage.objects.get().left_out == record.left_out
    result = prx.reply(account="main", in_reply_to_message_id="<1@x.org>", body_text="Hello")
    assert result.status == OutboxMessage.Status.SENT
    [delivered] = shared.delivered
    assert list(delivered.recipients) == (answered if name == "Reply-To" else answered[:1])
