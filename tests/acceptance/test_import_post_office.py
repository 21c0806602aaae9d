"""A project leaves django-post_office (from PyPI): every waiting message is sent once, or named with the reason."""

from __future__ import annotations

import base64
import email
import email.policy
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from tests.acceptance.test_one_line_switch import shape
from tests.acceptance.workers import finish
from tests.support.factories import account_on
from tests.support.peer_project import run
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)
DRIVER = "tests.support.peer_post_office"


@pytest.fixture
def server(settings: Any) -> Iterator[SmtpServer]:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main"}
    with SmtpServer() as running:
        account_on(running)
        account_on(running, name="bulk")
        yield running


def parsed(raw: bytes) -> Any:
    return email.message_from_bytes(raw, policy=email.policy.default)


def about(lines: list[str], pk: int) -> str:
    return next((line for line in lines if line.startswith(f"post_office {pk}: ")), "")


def test_every_waiting_message_arrives_once_or_is_named(server: SmtpServer, tmp_path: Path) -> None:
    told = run(f"{DRIVER}:moved", port=server.port, media=tmp_path)
    count = len(told["waiting"])
    assert told["dry"][-4] == f"nothing is changed; it would be: imported {count}, refused 5"
    assert told["killed"] == 0, "a message would be in both queues"
    assert told["first"][-4] == f"imported {count}, refused 5"
    for name, reason in {
        "broken": "TemplateSyntaxError: Invalid block tag on line 1: 'nonsense'",
        "lost": "FileNotFoundError",
        "nobody": "it has no recipient",
        "comma": "Invalid address",
        "newsletter": "no account is named “newsletter”",
    }.items():
        assert re.search(f"refused: .*{re.escape(reason)}", about(told["first"], told["refused"][name])), told["first"]
    assert told["first"][-3:] == [
        "left in django-post_office: 1 expired: post_office does not send them either",
        "left in django-post_office: 1 failed: --failed imports them",
        "left in django-post_office: 1 without a status: sent with priority “now” and not finished, so they may have "
        "been sent",
    ]
    assert told["second"][-4] == "imported 0, refused 5"
    assert told["third"][-4] == "imported 0, already here 1, refused 5"
    assert told["failed"][-3] == "imported 1, refused 5"
    by_old_worker = {message.recipients[-1] for message in server.messages}
    # Before Django 6.1 it sends to half an address, too.
    assert by_old_worker - {"Ann <ann@example.org"} == {"newsletter@example.org"}, "it has only what was refused"
    server.messages.clear()
    moved = [told["statuses"][name] for name in (*told["waiting"], "failed")]
    assert moved == [None] * len(moved), "post_office could send them again"
    assert [re.sub(r"\d+", "N", text) for text in told["logs"]] == ["moved to prx_email_django as message N"]

    prx.drain()
    ids = {row.metadata["imported_id"]: row for row in OutboxMessage.objects.all()}
    rows = {name: ids[pk] for name, pk in told["waiting"].items()}
    unsent = {name: row for name, row in rows.items() if row.status != "sent"}
    assert set(unsent) == {"scheduled", "again"}, [(row, row.status, row.last_error) for row in unsent.values()]
    assert rows["scheduled"].next_attempt_at == datetime.fromisoformat(told["scheduled"])
    assert {name: rows[name].priority for name in ("low", "plain", "high", "now")} == {
        "low": -5, "plain": 0, "high": 5, "now": 10,
    }  # fmt: skip
    assert rows["expiring"].expires_at - rows["expiring"].created_at > timedelta(hours=23)
    assert rows["bulk"].account.name == "bulk"
    finish()
    assert all_as_expected(server, told["expected"], extra={"failed@example.org"})
    assert rows["known"].message_id == "<known.1@shop.example.com>"


def all_as_expected(server: SmtpServer, expected: dict[str, Any], *, extra: set[str]) -> bool:
    """Each message arrived once, as the other package would have sent it."""
    arrived = [
        (sorted(set(message.recipients)), repr(shape(parsed(message.data))))
        for message in server.messages
        if not extra & set(message.recipients)
    ]
    wanted = [
        (
            sorted({address.rpartition("<")[2].rstrip(">") for address in mail["recipients"]}),
            repr(shape(parsed(base64.b64decode(mail["raw"])))),
        )
        for mail in expected.values()
    ]
    assert sorted(arrived) == sorted(wanted)
    return True


@pytest.mark.engine_free
def test_an_import_is_refused_while_the_old_worker_sends(server: SmtpServer, tmp_path: Path) -> None:
    refused, *after = run(f"{DRIVER}:while_it_sends", port=server.port, media=tmp_path)
    assert refused.startswith("send_queued_mail of django-post_office is running: stop it")
    assert after == ["imported 0"]
    prx.drain()
    assert sorted(server.recipients) == ["one@example.org", "two@example.org"]


@pytest.mark.engine_free
def test_mail_can_go_back_and_history_comes_along(server: SmtpServer, tmp_path: Path) -> None:
    told = run(f"{DRIVER}:there_and_back", port=server.port, media=tmp_path)
    assert told["there"] == ["imported 2"]
    kept, numbers = told["back"]
    assert kept.startswith(f"post_office {told['perhaps']}: kept here: message ")
    assert kept.endswith(" may have been delivered, to some recipients at least")
    assert (numbers, told["status"]) == ("given back 1, kept here 1", 2)
    assert told["dry"] == [kept, f"nothing is changed; it would be: {numbers}"]
    assert told["again"] == ["imported 1"]
    assert told["history"] == [
        "imported 1",
        "left in django-post_office: 1 older than RETENTION keeps sent messages",
    ]
    assert told["history again"][0] == "imported 0, already here 1"
    statuses = sorted(OutboxMessage.objects.values_list("status", "last_error_code"))
    assert statuses == [("failed", "cancelled"), ("pending", ""), ("pending", ""), ("sent", "")]
    sent = OutboxMessage.objects.get(status="sent")
    assert (sent.subject, sent.provider_message_id) == ("about done", "<done.1@shop.example.com>")
    assert sorted(sent.recipients.values_list("kind", "address")) == [
        ("cc", "cc@example.org"),
        ("to", "done@example.org"),
    ]
    assert DeliveryAttempt.objects.get().worker == "django-post_office"
    finish()
    assert sorted(server.recipients) == ["perhaps@example.org", "undecided@example.org"]


def test_post_office_stays_in_front_with_its_templates(server: SmtpServer, tmp_path: Path) -> None:
    """Its worker has five threads, each with a connection to the database of its own."""
    outbox = "prx_email_django.backends.OutboxEmailBackend"
    told = run(f"{DRIVER}:in_front", port=server.port, media=tmp_path, WORKER_BACKEND=outbox, POST_OFFICE_THREADS="5")
    assert told == {"before the worker": 0, "by the worker": 12, "at once": ["Hello kept"], "statuses": [0]}
    prx.drain()
    assert sorted(server.recipients) == sorted(
        ["kept@example.org", *(f"w{number}@example.org" for number in range(12))]
    )
