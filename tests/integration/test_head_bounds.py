"""A message whose header no server takes is refused at the call, by every way in, and nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.test import override_settings

from prx_email_django import api
from prx_email_django.errors import AttachmentRejected, InvalidMessage
from prx_email_django.mime.addresses import MAX_MAILBOX
from prx_email_django.mime.headers import MAX_HEAD, MAX_HEADER
from prx_email_django.models import OutboxMessage
from tests.support.factories import account, mail

pytestmark = pytest.mark.django_db

LONG_NAME = f"{'A' * 1_000_000} <ann@example.org>"
CROWD = [f"person-{number}@example.org" for number in range(100_000)]
HEADERS = {f"X-{number}": "x" * 1000 for number in range(20_000)}

TOO_LONG: dict[str, tuple[dict[str, Any], str]] = {
    "name in to": ({"to": LONG_NAME}, "message_too_large"),
    "name in cc": ({"cc": [LONG_NAME]}, "message_too_large"),
    "name in reply_to": ({"reply_to": [LONG_NAME]}, "message_too_large"),
    "name in bcc": ({"bcc": [LONG_NAME]}, "invalid_address"),
    "name in from_email": ({"from_email": LONG_NAME}, "invalid_address"),
    "name beyond ASCII": ({"to": f"{'ü' * 2000} <ann@example.org>"}, "invalid_address"),
    "crowd in to": ({"to": CROWD}, "message_too_large"),
    "crowd in cc": ({"cc": CROWD}, "message_too_large"),
    "crowd in reply_to": ({"reply_to": CROWD}, "message_too_large"),
    "headers": ({"headers": HEADERS}, "message_too_large"),
    "one header": ({"headers": {"X-A": "x" * (MAX_HEADER + 1)}}, "invalid_header"),
    "subject": ({"subject": "x " * MAX_HEADER}, "invalid_option"),
    "everything a little": (
        {"to": CROWD[:3000], "cc": CROWD[:3000], "headers": {f"X-{n}": "x" * 1000 for n in range(120)}},
        "message_too_large",
    ),
}


@pytest.mark.parametrize("case", TOO_LONG)
@pytest.mark.parametrize("verb", ["enqueue", "send", "enqueue_many"])
@override_settings(PRX_EMAIL={"TRANSPORT": "memory", "WAKE": ""})
def test_a_head_that_no_server_takes_is_refused_at_the_call(case: str, verb: str) -> None:
    owner = account()
    fields, code = TOO_LONG[case]
    given = {**mail(owner), **fields}
    with pytest.raises(InvalidMessage) as refused:
        if verb == "enqueue_many":
            del given["account"]
            api.enqueue_many([given], account=owner)
        else:
            getattr(api, verb)(**given)
    assert refused.value.code == code
    assert len(str(refused.value)) < 300
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"to": CROWD},
        {"cc": CROWD},
        {"to": [LONG_NAME]},
        {"from_email": LONG_NAME},
        {"headers": HEADERS},
        {"subject": "x " * MAX_HEAD},
        {"to": ["(" * 200_000]},
    ],
    ids=["to", "cc", "name in to", "name in from_email", "headers", "subject", "comments"],
)
def test_the_email_backend_refuses_it_too(fields: dict[str, Any]) -> None:
    email = EmailMessage(**{"body": "text", "to": ["ann@example.org"], "from_email": "app@example.com", **fields})
    # Of comments in comments, Django 5.2 and 6.0 say it themselves.
    with pytest.raises((ValueError, InvalidMessage) if fields.get("to") == ["(" * 200_000] else InvalidMessage):
        api.enqueue_many([email], account=account())
    assert not OutboxMessage.objects.exists()


class Overridden(EmailMessage):
    """A message whose ``message()`` adds what its attributes do not say."""

    def message(self, *args: Any, **kwargs: Any) -> Any:
        made = super().message(*args, **kwargs)
        for name, value in list(HEADERS.items())[:1000]:
            made[name] = value
        return made


def test_a_head_that_message_makes_is_bounded() -> None:
    email = Overridden("s", "text", "app@example.com", ["ann@example.org"])
    with pytest.raises(InvalidMessage) as refused:
        api.enqueue_many([email], account=account())
    assert refused.value.code == "message_too_large"


def test_what_servers_take_is_queued() -> None:
    owner = account()
    name = "A" * (MAX_MAILBOX - len(" <ann@example.org>"))
    api.enqueue(**mail(owner, to=[f"{name} <ann@example.org>", *CROWD[:5000]], bcc=CROWD[5000:8000]))
    email = EmailMessage("s", "text", "app@example.com", CROWD[:5000], headers={"X-A": "x" * 900})
    api.enqueue_many([email], account=owner)
    assert OutboxMessage.objects.count() == 2
    assert all(row.as_bytes() for row in OutboxMessage.objects.all())


@override_settings(PRX_EMAIL={"REDIRECT_TO": "staging@example.org", "WAKE": ""})
def test_the_header_that_names_replaced_recipients_is_bounded() -> None:
    row = api.enqueue(**mail(account(), bcc=CROWD[:8000]))
    named = str(row.as_email()["X-Original-To"])
    assert named.startswith("ann@example.org, person-0@example.org, ")
    assert named.endswith(" more")
    assert len(named) <= MAX_HEADER
    assert int(named.split()[-2]) + named.count("@") == 8001


def test_a_content_type_longer_than_its_column_is_refused_on_every_database() -> None:
    attachment = ("a.txt", b"x", f'text/plain; name="{"a" * 300}"')
    with pytest.raises(AttachmentRejected) as refused:
        api.enqueue(**mail(account(), attachment=attachment))
    assert refused.value.code == "attachment_type_not_allowed"


def test_a_header_name_that_fills_a_line_is_refused_by_the_backend_too() -> None:
    """No name can be folded: it would leave on a line that servers cut or refuse."""
    accepted = EmailMessage("s", "b", "f@example.org", ["a@example.org"], headers={"X" * 990: "v"})
    message = api.enqueue_many([accepted], account=account())[0]
    assert max(map(len, message.rendered().splitlines())) <= 998
    refused = EmailMessage("s", "b", "f@example.org", ["a@example.org"], headers={"X" * 997: ""})
    with pytest.raises(InvalidMessage) as caught:
        api.enqueue_many([refused], account=account("other"))
    assert caught.value.code == "invalid_header"
