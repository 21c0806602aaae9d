"""A project leaves django-mailer (from PyPI): every waiting message is sent once, or named with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

import prx_email_django as prx
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from tests.acceptance.test_import_post_office import all_as_expected
from tests.support.factories import account_on
from tests.support.peer_project import run
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)
DRIVER = "tests.support.peer_mailer"


@pytest.fixture
def server(settings: Any) -> Iterator[SmtpServer]:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main"}
    with SmtpServer() as running:
        account_on(running)
        yield running


def test_every_waiting_message_arrives_once_or_is_named(server: SmtpServer, tmp_path: Path) -> None:
    told = run(f"{DRIVER}:moved", port=server.port, media=tmp_path)
    count = len(told["waiting"])
    assert told["dry"][-2] == f"nothing is changed; it would be: imported {count}, refused 3"
    assert told["first"] == [
        f"mailer {told['waiting']['partly']}: imported: 1 of 2 recipients left out, because they are on the don't-send "
        "list",
        f"mailer {told['refused']['unreadable']}: refused: django-mailer cannot read its message_data either, and "
        "discards the message when it meets it",
        f"mailer {told['refused']['unwanted']}: refused: every recipient is on the don't-send list",
        f"mailer {told['refused']['nobody']}: refused: it has no recipient",
        f"imported {count}, refused 3",
        "left in django-mailer: 1 deferred, and tried MAILER_EMAIL_MAX_RETRIES times: --failed imports them",
    ]
    assert told["second"][-2] == "imported 0, refused 3"
    assert told["there"] == sorted([*told["refused"].values(), told["rest"]]), "the others are out of its queue"
    assert told["failed"][-1] == "imported 1, refused 3"
    assert told["logs"] == ["2"] * (count + 1), "each one is logged as don't send"

    prx.drain()
    ids = {row.metadata["imported_id"]: row for row in OutboxMessage.objects.all()}
    rows = {name: ids[pk] for name, pk in told["waiting"].items()}
    assert {name: rows[name].priority for name in ("low", "plain", "high", "deferred")} == {
        "low": -5, "plain": 0, "high": 5, "deferred": 0,
    }  # fmt: skip
    assert {row.status for row in rows.values()} == {"sent"}
    assert all_as_expected(server, told["expected"], extra={"given.up@example.org"})
    assert rows["known"].provider_message_id == "<k.1@shop.example>"


def test_the_old_worker_and_an_import_never_send_the_same_message(server: SmtpServer, tmp_path: Path) -> None:
    told = run(f"{DRIVER}:while_it_sends", port=server.port, media=tmp_path)
    if connection.features.has_select_for_update:
        assert told["meanwhile"][0].endswith(
            "being sent by the old package: a worker is sending it; run this again later"
        )
        assert told["meanwhile"][1] == "imported 2, being sent by the old package 1"
    else:
        assert told["meanwhile"][0].startswith("a worker of django-mailer holds its lock file")
    assert told["after"] == ["imported 0"]
    prx.drain()
    assert sorted(server.recipients) == ["one@example.org", "three@example.org", "two@example.org"]


@pytest.mark.engine_free
def test_mail_can_go_back_and_history_comes_along(server: SmtpServer, tmp_path: Path) -> None:
    told = run(f"{DRIVER}:there_and_back", port=server.port, media=tmp_path)
    assert (told["there"], told["back"]) == (["imported 1"], ["given back 1"])
    assert (told["row"], told["again"]) == ([1], ["imported 1"])
    assert told["history"][0].endswith("refused: its content was not kept (MAILER_EMAIL_LOG_MESSAGE_DATA)")
    assert told["history"][1:] == [
        "imported 1, refused 1",
        "left in django-mailer: 1 older than RETENTION keeps sent messages",
    ]
    sent = OutboxMessage.objects.get(status="sent")
    assert (sent.subject, sent.provider_message_id) == ("about done", "<done@x>")
    assert DeliveryAttempt.objects.get().worker == "django-mailer"
    prx.drain()
    assert server.recipients == ["undecided@example.org"]
