"""Real servers: messages of the outbox arrive as those of Django's own SMTP backend do, and signatures stay good."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import dkim
import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import OutboxMessage
from tests.integration.backend_messages import MESSAGES, make_email
from tests.integration.backend_odd_messages import ONLY_OURS
from tests.integration.test_backend_wire import parsed, tree
from tests.integration.test_dkim_wire import Signing, signing  # noqa: F401 - a fixture
from tests.integration.test_signed_wire import (  # noqa: F401 - one is a fixture
    EIGHT_BITS,
    SEVEN_BITS,
    composed,
    signed_entity,
    signer,
    with_footer,
)
from tests.servers.daemons import wait_until
from tests.servers.messages import Server, delivered_to
from tests.servers.private_ca import PrivateCA
from tests.servers.test_drain import account

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]

#: Fields that the way adds, or that each message has its own of.
OF_THE_WAY = {
    *("received", "return-path", "delivered-to", "x-original-to", "envelope-to", "delivery-date"),
    *("message-id", "date"),
}


#: Exim takes no sender at an address literal or without a domain.  Django encodes the address of a receipt, and Postfix
#: completes what it takes for a local part.
DIFFERENT = {"an_address_literal", "mailboxes_of_this_machine", "receipts"}


@pytest.fixture(
    params=[("postfix_server", "PLAIN after STARTTLS"), ("exim_server", "STARTTLS")], ids=["postfix", "exim"]
)
def server(request: pytest.FixtureRequest, ca: PrivateCA) -> Iterator[tuple[Server, str]]:
    """A server with the account "main" on it, and the name of its settings."""
    fixture, name = request.param
    found: Server = request.getfixturevalue(fixture)
    with override_settings(PRX_EMAIL={"TLS_CA_FILE": str(ca.file), "DEFAULT_ACCOUNT": "main", "WAKE": ""}):
        account("main", found.settings[name])
        yield found, name


def to_one(message: EmailMessage, address: str) -> EmailMessage:
    """The message, delivered to this address alone; its header stays."""
    message.recipients = lambda: [address]  # type: ignore[method-assign]
    return message


def by_smtp(messages: list[EmailMessage], server: Server, name: str, ca: PrivateCA) -> None:
    """Send by Django's own backend."""
    settings = server.settings[name]
    alias: dict[str, Any] = {"alias": "reference"} if hasattr(mail, "mailers") else {}
    backend = smtp.EmailBackend(
        host=settings.host,
        port=settings.port,
        username=settings.user,
        password=settings.password,
        use_tls=True,
        **alias,
    )
    backend.ssl_context = ssl.create_default_context(cafile=str(ca.file))
    assert backend.send_messages(messages) == len(messages)


def by_outbox(messages: list[EmailMessage]) -> None:
    assert OutboxEmailBackend().send_messages(messages) == len(messages)
    prx.drain()
    assert not OutboxMessage.objects.exclude(status="sent").values_list("last_error", flat=True)


def arrived(server: Server, run: str, count: int) -> Mapping[str, bytes]:
    """The messages of a run with CRLF, by the part of their address that is theirs."""

    def found() -> dict[str, bytes]:
        by_address = {delivered_to(message): message for message in server.mailbox.messages()}
        return {
            address.removeprefix(f"ok-{run}-").partition("@")[0]: message.replace(b"\r\n", b"\n").replace(
                b"\n", b"\r\n"
            )
            for address, message in by_address.items()
            if address.startswith(f"ok-{run}-")
        }

    wait_until(lambda: len(found()) >= count, what=run, log=server.mailbox.log)
    return found()


def test_what_arrives_is_what_django_delivers(server: tuple[Server, str], ca: PrivateCA) -> None:
    found, name = server
    names = sorted(set(MESSAGES) - ONLY_OURS - DIFFERENT)
    by_smtp([to_one(MESSAGES[key](), f"ok-django-{key}@example.org".lower()) for key in names], found, name, ca)
    by_outbox([to_one(MESSAGES[key](), f"ok-outbox-{key}@example.org".lower()) for key in names])
    expected, ours = (arrived(found, run, len(names)) for run in ("django", "outbox"))
    assert set(expected) == set(ours) == {key.lower() for key in names}
    for key, message in ours.items():
        assert tree(parsed(message), OF_THE_WAY) == tree(parsed(expected[key]), OF_THE_WAY), key


@pytest.mark.parametrize("content", [SEVEN_BITS, EIGHT_BITS], ids=["7bit", "8bit"])
def test_a_signature_is_good_in_the_mailbox(content: bytes, signer: Any, server: tuple[Server, str]) -> None:  # noqa: F811
    found, _ = server
    entity = signed_entity(signer, content)
    forwarded: EmailMessage = make_email("Größe", "Süß\n")
    forwarded.attach("fwd.eml", b"Subject: x\r\nMIME-Version: 1.0\r\n" + entity, "message/rfc822")
    messages = {"whole": composed(entity), "beside": composed(with_footer(entity)), "forwarded": forwarded}
    run = f"signed-{type(signer).__name__}-{content is EIGHT_BITS}".lower()
    by_outbox([to_one(message, f"ok-{run}-{place}@example.org") for place, message in messages.items()])
    for data in arrived(found, run, len(messages)).values():
        start = data.index(b"Content-Type: multipart/signed")
        end = data.index(b"--sig--\r\n", start) + len(b"--sig--\r\n")
        assert data[start:end] == entity
        signer.verify(data[start:end])


def test_dkim_is_good_in_the_mailbox(server: tuple[Server, str], signing: Signing, ca: PrivateCA) -> None:  # noqa: F811
    found, _ = server
    settings = {"TLS_CA_FILE": str(ca.file), "DEFAULT_ACCOUNT": "main", "WAKE": ""}
    names = sorted(set(MESSAGES) - ONLY_OURS - DIFFERENT)[::4] + ["one_click", "non_ascii_everywhere"]
    with override_settings(PRX_EMAIL={**settings, "TRANSFORM_MIME": f"{signing.module}.sign"}):
        by_outbox([to_one(MESSAGES[key](), f"ok-dkim-{key}@example.org".lower()) for key in names])
    for key, data in arrived(found, "dkim", len(set(names))).items():
        assert dkim.verify(data, dnsfunc=lambda name, **_: signing.records.get(name)), key
