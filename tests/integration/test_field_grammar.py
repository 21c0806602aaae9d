"""Fields with a grammar leave as programs can read them, and what no line can carry is refused at the call."""

from __future__ import annotations

import email.policy
import re
from email import message_from_bytes
from typing import Any

import django
import pytest
from django.core.mail import EmailMultiAlternatives

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.models import OutboxMessage
from tests.integration.backend_messages import make_email
from tests.support import wire
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


catcher, server = wire.catcher, wire.server


def sent(server: SmtpServer, **fields: Any) -> bytes:
    return wire.sent(make_email(**fields), server).data


def value_of(data: bytes, name: str) -> str:
    """The value as it left, unfolded."""
    return str(message_from_bytes(data)[name]).replace("\r\n", "").strip()


LISTS = {
    "List-Unsubscribe": ("<https://e.com/größe> (für alle)", "<https://e.com/gr%C3%B6%C3%9Fe> (für alle)"),
    "List-Help": (
        "Hilfe für alle <mailto:a@e.com>, <https://e.com>",
        "Hilfe für alle <mailto:a@e.com>, <https://e.com>",
    ),
    "List-Post": ("NO (größe)", "NO (größe)"),
    "List-Id": ("Größe<news.größe.example>", "Größe <news.xn--gre-6ka8i.example>"),
    "List-ID": ('"Größe, für Sie" <news.example.com>', "Größe, für Sie <news.example.com>"),
    "List-Owner": ("(für) ü <mailto:a@e.com>(ß)", "(für) ü <mailto:a@e.com>(ß)"),
    "List-Subscribe": ('"Ö" "Ä" <https://e.com>', "ÖÄ <https://e.com>"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_field_beyond_ascii_keeps_what_programs_read(name: str, server: SmtpServer) -> None:
    given, meant = LISTS[name]
    value = value_of(sent(server, headers={name: given}), name)
    assert value.isascii()
    assert decode_words(value) == meant
    assert re.findall("<[^<>]*>", value) == re.findall("<[^<>]*>", meant)
    for word in re.findall(r"[^\s>]*=\?\S*", value):
        assert re.fullmatch(r"\(?=\?[^?]+\?b\?[^?]{1,63}\?=\)?", word)


def test_a_list_id_of_a_function_does_too(server: SmtpServer) -> None:
    headers = {"List-Id": "Größe <news.example.com>", "Disposition-Notification-To": "Größe <app@example.com>"}
    prx.enqueue(account="main", to="ann@example.org", subject="Hello", body_text="Hi.", headers=headers)
    assert prx.drain().sent == 1
    data = server.messages.pop().data
    assert value_of(data, "List-Id") == "=?utf-8?b?R3LDtsOfZQ==?= <news.example.com>"
    assert value_of(data, "Disposition-Notification-To") == "=?utf-8?b?R3LDtsOfZQ==?= <app@example.com>"


@pytest.mark.parametrize(
    "name", ["Disposition-Notification-To", "Return-Receipt-To", "Errors-To", "Mail-Followup-To", "Mail-Reply-To"]
)
def test_an_address_in_a_field_that_django_does_not_know_stays_one(name: str, server: SmtpServer) -> None:
    data = sent(server, headers={name: '"Größe, für Sie" <app@exämple.com>, b@example.com'})
    assert value_of(data, name) == "=?utf-8?b?R3LDtsOfZSwgZsO8ciBTaWU=?= <app@xn--exmple-cua.com>, b@example.com"
    assert value_of(sent(server, headers={name: "größe"}), name).startswith("=?utf-8?")


LONG = "x" * 1100
TOO_LONG = {
    "Received": f"from {LONG} by x; Mon, 05 Jan 2026 12:00:00 +0100",
    "DKIM-Signature": f"v=1; b={LONG}",
    "Authentication-Results": LONG,
    "List-Id": f"<{LONG}>",
    "Sender": f"{LONG}@example.com",
    "To": f"{LONG}@example.com",
    "Date": LONG,
    "Auto-Submitted": LONG,
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_word_that_no_line_can_carry_is_refused_at_the_call(name: str, server: SmtpServer) -> None:
    """RFC 5322 §2.1.1; encoded words would hide it from the programs that read it (RFC 2047 §5)."""
    with pytest.raises(InvalidMessage, match=f"{name} must fit on a line of 998") as refused:
        OutboxEmailBackend().send_messages([make_email(headers={name: TOO_LONG[name]})])
    assert refused.value.code == "invalid_header"
    with pytest.raises(InvalidMessage):
        prx.enqueue(to="ann@example.org", subject="Hello", body_text="Hi.", headers={name: TOO_LONG[name]})
    assert not OutboxMessage.objects.exists()


def test_a_long_word_of_an_unstructured_field_is_encoded(server: SmtpServer) -> None:
    data = sent(server, headers={"X-Note": f"a {LONG}"})
    assert decode_words(value_of(data, "X-Note")) == f"a {LONG}"
    assert max(map(len, data.split(b"\r\n"))) <= 998


#: A line end, which only the words' reader decodes.
WORD = "=?utf-8?q?a=0D=0AX-Evil:_b?="


@pytest.mark.parametrize("name", ["Subject", "X-Note", "List-Unsubscribe", "References", "List-Id", "Auto-Submitted"])
@pytest.mark.parametrize("before", ["", "<https://e.com/a> ", "<a@e.com> "])
def test_an_encoded_word_with_a_line_end_is_carried_as_it_is(name: str, before: str, server: SmtpServer) -> None:
    given = before + WORD
    data = sent(server, **({"subject": given} if name == "Subject" else {"headers": {name: given}}))
    value = value_of(data, name)
    if name in {"Subject", "X-Note"}:  # Django 6 writes the words of texts anew
        assert decode_words(value) == decode_words(given)
        assert "\n" not in value
    else:
        assert value == given
    assert message_from_bytes(data)["X-Evil"] is None


@pytest.mark.parametrize("domain", ["example.org", "straße.example", "docomo.ne.jp"])
def test_an_encoded_word_with_a_line_end_as_a_name_too(domain: str, server: SmtpServer) -> None:
    fields = {"to": [f"{WORD} <ann@{domain}>"], "reply_to": [f"{WORD} <ann@{domain}>"]}
    if django.VERSION >= (6, 0):  # Django refuses such an address itself
        with pytest.raises(ValueError):
            make_email(**fields).message()
        return
    data = sent(server, **fields)
    for name in ("To", "Reply-To"):
        value = value_of(data, name)
        assert decode_words(value).startswith("a\r\nX-Evil: b <ann@")
        assert value.partition("@")[2].strip(">") == domain.replace("straße", "xn--strae-oqa")
    assert message_from_bytes(data)["X-Evil"] is None


@pytest.mark.parametrize("where", ["subject", "X-Note", *(["to"] if django.VERSION < (6, 0) else [])])
def test_no_encoded_word_with_a_control_character_is_too_long(where: str, server: SmtpServer) -> None:
    text = "ü\x01\x02 " + "größe " * 40
    fields = {"subject": {"subject": text}, "to": {"to": [f"{text}<ann@example.org>"]}}
    data = sent(server, **fields.get(where, {"headers": {where: text}}))
    value = value_of(data, where)
    assert max(map(len, re.findall(r"=\?[^?]+\?[bq]\?[^?]*\?=", value))) <= 75
    assert max(map(len, data.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 78
    assert decode_words(value).partition("<ann")[0].strip() == text.strip()


class Resent(EmailMultiAlternatives):
    """Sends a received message on."""

    raw = b""
    kind: Any = email.policy.default

    def message(self, **kwargs: Any) -> Any:
        """The received message as the standard library reads it."""
        return message_from_bytes(self.raw, policy=self.kind)


RECEIVED = b"From : Zoe <zoe@example.net>\r\nTo: ann@example.org\r\nSubject: Offer\r\n\r\nhi\r\n"


@pytest.mark.parametrize("kind", ["compat32", "default"])
@pytest.mark.parametrize(
    "raw",
    [
        RECEIVED,
        b"Received: by x; 1\r\n" + RECEIVED,
        b"From: a@example.com\r\nContent-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n%b--b--\r\n" % RECEIVED,
    ],
)
def test_a_from_with_a_blank_before_its_colon_is_sent_on(raw: bytes, kind: str, server: SmtpServer) -> None:
    message = Resent("", "", "app@example.com", ["ann@example.org"])
    message.raw, message.kind = raw, getattr(email.policy, kind)
    assert OutboxEmailBackend().send_messages([message]) == 1
    assert prx.drain().sent == 1
    data = server.messages.pop().data
    assert data.count(b"From : Zoe <zoe@example.net>\r\n") == 1
    assert b"Subject: Offer\r\n" in data and b"hi\r\n" in data


@pytest.mark.parametrize("kind", ["compat32", "default"])
@pytest.mark.parametrize(
    "charset",
    ["charset=idna", "charset=undefined", 'charset="\x00"', "charset*0*=utf-8''%00; charset*1=x", "charset=hex"],
)
def test_a_part_whose_charset_python_cannot_use_is_sent_on(charset: str, kind: str, server: SmtpServer) -> None:
    message = Resent("", "", "app@example.com", ["ann@example.org"])
    message.raw = f"Subject: Offer\r\nContent-Type: text/plain; {charset}\r\n\r\ngröße\r\n".encode()
    message.kind = getattr(email.policy, kind)
    assert OutboxEmailBackend().send_messages([message]) == 1
    assert prx.drain().sent == 1
    assert message_from_bytes(server.messages.pop().data).get_payload(decode=True) == "größe\r\n".encode()


@pytest.mark.parametrize("field", ["to", "reply_to", "cc", "Sender", "Resent-From"])
@pytest.mark.parametrize(
    "value",
    [
        f"ann@example.org ({'x' * 80})(X-Evil: yes)",
        f"ann@example.org ()({'x' * 90})(,)",
        f"Ann({'x' * 90})(X-Evil: yes) <ann@example.org>",
    ],
)
def test_a_comment_begins_no_line(field: str, value: str, server: SmtpServer) -> None:
    """Python's newer email package folds in front of a comment where no blank is."""
    given: dict[str, Any] = {field: [value]} if field.islower() else {"headers": {field: value}}
    data = sent(server, **given)
    head = data.partition(b"\r\n\r\n")[0]
    names = re.findall(rb"(?m)^([^ \t:\r\n]+)", head)
    assert not [name for name in names if not re.fullmatch(rb"[A-Z][\w-]+", name)]
    assert max(map(len, head.split(b"\r\n"))) < 200
    assert value_of(data, field.replace("_", "-")).replace(" ", "") == value.replace(" ", "")
