"""Whatever names, addresses and headers a message of Django has: its header is whole, and names nobody else."""

from __future__ import annotations

import email.policy
import re
from contextlib import suppress
from email import message_from_bytes
from typing import Any

from django.core.mail import EmailMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from prx_email_django.django_mail.source import render_email
from prx_email_django.mime.addresses import quoted, split_mailbox
from prx_email_django.mime.rendering import render
from tests.unit.mime_contents import mail

PIECES = [
    "a",
    "Ann",
    "größe",
    "😀",
    "=?utf-8?q?=2C_x=40y=2Ez?=",
    "=?utf-8?b?w7Y=?=",
    "=?x?q?a?=",
    ",",
    " ",
    '"',
    "(",
    ")",
]
PIECES += [
    "<",
    ">",
    "@",
    ";",
    ":",
    "\\",
    "x" * 90,
    "w " * 40,
    "{",
    "<https://e.com/x>",
    "(X-Evil: yes)",
    "'",
    "=",
    "\u202e",
]
texts = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
specs = st.builds(
    "{}@{}".format,
    st.sampled_from(["ann", "b..c", "b.", '"a b"', "o'neil+x"]),
    st.sampled_from(["example.org", "straße.example", "under_score.example", "[127.0.0.1]", "x" * 60 + ".example"]),
)


def _is_one(mailbox: str) -> bool:
    try:
        split_mailbox(mailbox)
    except ValueError:
        return False
    return True


mailboxes = st.one_of(
    specs,
    st.builds(lambda name, spec: f"{quoted(name)} <{spec}>", texts, specs),
    st.builds(lambda name, spec: f"{name} <{spec}>", texts, specs),
    st.builds(lambda spec, comment: f"{spec} ({comment})", specs, texts),
).filter(_is_one)
NAMES = [
    "X-A",
    "List-Unsubscribe",
    "References",
    "List-Id",
    "Sender",
    "Errors-To",
    "X-SMTPAPI",
    "Keywords",
    "Resent-To",
]
headers = st.dictionaries(st.sampled_from(NAMES), st.one_of(texts, mailboxes), max_size=2)


@given(texts, mailboxes, *[st.lists(mailboxes, max_size=2)] * 3, headers)
@settings(max_examples=150, deadline=None)
def test_a_header_is_whole_and_names_nobody_else(
    subject: str, sender: str, to: list[str], cc: list[str], reply_to: list[str], own: dict[str, str]
) -> None:
    message = EmailMessage(subject, "Hi.", sender, to, cc=cc, reply_to=reply_to, headers=own)
    try:
        wire = render(mail(raw=render_email(message).raw))
    except (AttributeError, IndexError, ValueError):  # refused, or the standard library's parser fails
        return
    head, _, body = wire.partition(b"\r\n\r\n")
    names = [name.lower() for name in re.findall(rb"(?m)^([^ \t:\r\n]+)", head)]
    made = {"subject", "from", "to", "cc", "reply-to", "date", "message-id", "mime-version", *map(str.lower, own)}
    made |= {"content-type", "content-transfer-encoding"}
    assert {name.decode() for name in names} <= made
    assert len(set(names)) == len(names)
    assert body == b"Hi.\r\n"
    assert max(map(len, head.split(b"\r\n"))) <= 998
    assert all(len(word) <= 75 for word in re.findall(rb"=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=", head))
    for name, given_addresses in (("From", [sender]), ("To", to), ("Cc", cc), ("Reply-To", reply_to)):
        assert _count(wire, name) <= len(given_addresses), (name, given_addresses)


def _count(wire: bytes, name: str) -> int:
    """The addresses that Python reads in a field."""
    parsed: Any = message_from_bytes(wire, policy=email.policy.default)
    with suppress(AttributeError):  # of a comment behind an address literal
        return len(parsed[name].addresses) if name in parsed else 0
    return 0
