"""No line above 998 bytes leaves (RFC 5322 §2.1.1): what can be written in shorter lines is, the rest is refused."""

from __future__ import annotations

import email
import email.utils
from collections.abc import Callable
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any, cast

import pytest
from django.core.mail import EmailMessage

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import OutboxMessage
from tests.integration.backend_messages import make_email
from tests.support import wire
from tests.support.smtp_server import SmtpServer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:.*MIMEBase"),  # Django 6 advises against it
]


catcher, server = wire.catcher, wire.server


def with_file(content_type: str) -> EmailMessage:
    made = make_email()
    made.attach("a.bin", b"content", content_type)
    return made


def with_part(part: MIMEBase) -> EmailMessage:
    made = make_email()
    made.attach(part)
    return made


def part(payload: str, encoding: str, **parameters: str) -> MIMEBase:
    made = MIMEBase("application", "x-odd", **parameters)
    made.set_payload(payload)
    made["Content-Transfer-Encoding"] = encoding
    return made


def signed(line: str) -> EmailMessage:
    made = MIMEMultipart("signed", protocol="application/pgp-signature")
    made.attach(MIMEText(line))
    made.attach(part("signature", "7bit"))
    return with_part(made)


def with_id(content_id: str) -> EmailMessage:
    made = part("content", "7bit")
    made["Content-ID"] = content_id
    return with_part(made)


PARAMETERS = ";".join(f"p{number}=value{number}" for number in range(150))
SENT: dict[str, Callable[[], EmailMessage]] = {
    "many_parameters_without_blanks": lambda: with_file(f"application/x-odd;{PARAMETERS}"),
    "a_long_parameter": lambda: with_file(f'application/x-odd; p="{"a" * 1200}"; q=1'),
    "a_long_parameter_of_words": lambda: with_file(f'application/x-odd; p="{"a; b " * 300}"'),
    "a_long_parameter_of_a_part": lambda: with_part(part("content", "7bit", p="a" * 1200)),
    "a_long_name_of_a_part": lambda: with_part(part("content", "7bit", name="a" * 1200)),
    "base64_on_one_line": lambda: with_part(part("QUJD" * 400, "base64")),
    "broken_base64_on_one_line": lambda: with_part(part("QUJD" * 400 + "=X", "base64")),
    "an_unknown_encoding_on_one_line": lambda: with_part(part("x" * 1200, "x-odd")),
}
REFUSED: dict[str, Callable[[], EmailMessage]] = {
    "a_type": lambda: with_file("application/x-" + "a" * 1000),
    "a_line_of_a_signed_part": lambda: signed("x" * 1200),
    "an_alternative": lambda: _alternative("text/x-" + "a" * 1000),
}


def _alternative(content_type: str) -> EmailMessage:
    made = make_email()
    made.attach_alternative("content", content_type)
    return made


def parameters(found: Message) -> dict[str, str]:
    """The parameters of the type; the standard library reads line ends between folded lines as text."""
    values = {name: email.utils.collapse_rfc2231_value(value) for name, value in found.get_params() or ()}
    return {name: " ".join(value.split()) for name, value in values.items()}


@pytest.mark.parametrize("name", SENT)
def test_what_shorter_lines_can_carry_is_sent(name: str, server: SmtpServer) -> None:
    message = SENT[name]()
    assert OutboxEmailBackend().send_messages([message]) == 1
    assert prx.drain().sent == 1
    data = server.messages.pop().data
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert data.isascii()
    made: Any = message.message()
    [wanted, found] = [cast(Any, email.message_from_bytes(raw).get_payload(1)) for raw in (made.as_bytes(), data)]
    assert found.get_payload(decode=True) == wanted.get_payload(decode=True)
    if name != "an_unknown_encoding_on_one_line":  # a file (RFC 2045 §6.4)
        assert found.get_content_type() == wanted.get_content_type()
        assert parameters(found) == parameters(wanted)


@pytest.mark.parametrize("name", REFUSED)
def test_what_they_cannot_carry_is_refused_at_the_call(name: str, server: SmtpServer) -> None:
    with pytest.raises(InvalidMessage, match="998") as refused:
        OutboxEmailBackend().send_messages([REFUSED[name]()])
    assert refused.value.code == "invalid_header"
    assert isinstance(refused.value, ValueError)
    assert not OutboxMessage.objects.exists()


def test_a_signed_line_of_998_is_sent_as_it_is(server: SmtpServer) -> None:
    assert OutboxEmailBackend().send_messages([signed("x" * 998)]) == 1
    assert prx.drain().sent == 1
    assert b"\r\n" + b"x" * 998 + b"\r\n" in server.messages.pop().data


def test_a_content_id_is_never_above_a_line(server: SmtpServer) -> None:
    """Python writes it anew on some versions, so it is refused or short."""
    try:
        OutboxEmailBackend().send_messages([with_id(f"<{'i' * 1200}@example.com>")])
    except InvalidMessage as error:
        assert error.code == "invalid_header"
        return
    assert prx.drain().sent == 1
    assert max(map(len, server.messages.pop().data.split(b"\r\n"))) <= 998
