"""``outbox_status``: a person reads why something waits, a monitor reads the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.utils import timezone
from django.utils.translation import override

import prx_email_django as prx
from prx_email_django.management._common import columns
from prx_email_django.models import Account, OutboxMessage, OutboxState
from prx_email_django.rules.outcomes import Answer, Ending, Phase
from tests.integration.face_rows import at_rest, message, new_account, run
from tests.support import factories
from tests.support.factories import MEMORY
from tests.support.patience import PATIENCE

MINUTE = timedelta(minutes=1)


@pytest.fixture
def account() -> Account:
    return new_account()


def check(*arguments: object, **options: Any) -> tuple[int, str]:
    """Return exit code and output of ``outbox_status --check``."""
    try:
        output = run("outbox_status", "--check", *arguments, **options)
    except SystemExit as end:
        return int(str(end.code)), ""
    return 0, output


@pytest.mark.django_db
def test_a_person_sees_figures_and_reasons(account: Account) -> None:
    message(account, next_attempt_at=datetime.now(UTC) - MINUTE)
    at_rest(account)
    run("outbox_pause", "main", "--reason", "moving")
    output = run("outbox_status")
    assert "due             1, the oldest for 60 s" in output
    assert "at rest         1" in output
    assert "last drain      never" in output
    assert "main: 1 due, 0 waiting; paused until a person resumes it: moving" in output


@pytest.mark.django_db
def test_the_figures_stand_in_one_column_in_japanese_too(account: Account) -> None:
    with override("ja"):
        lines = run("outbox_status").splitlines()[:7]
    assert len({columns(line[: line.rindex("  ") + 2]) for line in lines if "  " in line}) == 1
    assert all("  " in line for line in lines), lines


@pytest.mark.django_db
def test_a_person_reads_spans_and_the_pause_of_everything() -> None:
    assert "There is no account." in run("outbox_status")
    run("outbox_pause", "--reason", "holidays", "--until", "2999-01-01T12:00:00+00:00")
    OutboxState.objects.update(last_drain_at=datetime.now(UTC) - 4 * MINUTE)
    output = run("outbox_status", no_color=True)
    assert re.search(r"^last drain      \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, 4 min ago$", output, re.MULTILINE)
    assert "everything is paused until 2999-01-01T12:00:00+00:00: holidays" in output


@pytest.mark.django_db
def test_one_message_says_why_it_waits(account: Account) -> None:
    row = at_rest(account, last_error="550 no such user")
    sentence = "at rest: refused by the server (550 no such user), until a person retries it"
    assert run("outbox_status", row.pk).splitlines()[0] == f"{row.pk} failed: {sentence}"
    output = json.loads(run("outbox_status", row.pk, "--json"))
    assert (output["version"], output["id"], output["why"]) == (1, row.pk, sentence)
    assert (output["retries"], output["last_error_code"], output["next_attempt_at"]) == (1, "provider", None)


@pytest.fixture
def tried(settings: Any) -> OutboxMessage:
    """One recipient is refused, one deferred, and the outcome of the second attempt is unknown."""
    settings.PRX_EMAIL = MEMORY
    row = factories.message(factories.account(), to=["a@x.org", "b@x.org"], subject="Größe", tag="order")
    OutboxMessage.objects.filter(pk=row.pk).update(subject="Größe\x1b[2J")
    answers = {"a@x.org": Answer.REFUSED, "b@x.org": Answer.DEFERRED}
    factories.finish(factories.take_one(row), Ending.TEMPORARY, answers, error="450 4.2.1 later", phase=Phase.RCPT)
    later = factories.NOW + timedelta(hours=1)
    factories.finish(factories.take_one(row, now=later), Ending.UNKNOWN, now=later, error="lost", phase=Phase.BODY)
    return row


@pytest.mark.django_db
def test_one_message_shows_what_it_is_to_whom_and_what_was_tried(tried: OutboxMessage) -> None:
    with timezone.override("Europe/Berlin"):
        output = run("outbox_status", tried.pk)
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "\x1b" not in output
    assert "subject Größe [2J" in lines
    assert "account main" in lines
    assert "tag order" in lines
    assert "recipients to a@x.org refused: no such user" in lines
    assert "to b@x.org unknown: later" in lines
    assert "attempts 1 2026-01-05 13:00:00 CET failed provider (rcpt): 450 4.2.1 later" in lines
    assert "2 2026-01-05 14:00:00 CET unknown unknown_outcome (body): lost" in lines
    assert "queued at 2026-01-05 13:00:00 CET" in lines
    assert any(line.startswith("next attempt at 2026-01-05 14:") and line.endswith(" CET") for line in lines)
    assert not any(line.startswith("sent at") for line in lines)


@pytest.mark.django_db
def test_one_message_with_many_recipients_stays_on_a_page(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    row = factories.message(factories.account(), to=[f"p{number}@x.org" for number in range(50)])
    prx.drain(now=factories.NOW)
    output = run("outbox_status", row.pk)
    assert output.count("@x.org  accepted\n") == 20
    assert "and 30 more" in output
    assert "sent at" in output
    assert f"<outbox-{row.pk}-0@prx-email.local>" in output


@pytest.mark.django_db
def test_the_json_of_one_message_keeps_its_shape(tried: OutboxMessage) -> None:
    assert list(json.loads(run("outbox_status", tried.pk, "--json"))) == [
        "version",
        "id",
        "account",
        "status",
        "next_attempt_at",
        "retries",
        "attempts",
        "last_error_code",
        "last_error",
        "why",
    ]


@pytest.mark.django_db
def test_one_account_says_why_it_waits(account: Account) -> None:
    new_account("bulk")
    message(account)
    assert run("outbox_status", "--account", "main") == "main: 0 due, 1 waiting; may send"
    output = json.loads(run("outbox_status", "--account", "main", "--json"))
    assert (output["version"], output["name"], output["waiting"]) == (1, "main", 1)


@pytest.mark.django_db
def test_one_account_says_what_may_help_and_not_only_what_is_wrong(account: Account) -> None:
    run("outbox_pause", "main", "--reason", "TLS failed (TLS: WRONG_VERSION_NUMBER)")
    assert "choose STARTTLS" in run("outbox_status", "--account", "main")


@pytest.mark.django_db
def test_a_program_reads_json() -> None:
    output = json.loads(run("outbox_status", "--json"))
    assert output["version"] == 1
    assert output["due"] == 0


@pytest.mark.django_db
@pytest.mark.parametrize("arguments", [("outbox_status", 7), ("outbox_status", "--account", "nobody")])
def test_what_is_not_there_is_an_error(arguments: tuple[object, ...]) -> None:
    with pytest.raises(CommandError, match="There is no"):
        run(*arguments)


@pytest.mark.django_db
@pytest.mark.parametrize("arguments", [("--account", "main"), ("--check",)])
def test_questions_that_do_not_go_together_are_refused(account: Account, arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="cannot be combined"):
        run("outbox_status", message(account).pk, *arguments)


@pytest.mark.django_db
def test_the_exit_code_is_0_while_all_is_well(account: Account) -> None:
    message(account, next_attempt_at=datetime.now(UTC) - 9 * MINUTE)
    assert check() == (0, "well")
    assert json.loads(check("--json")[1])["health"] == "well"


@pytest.mark.django_db
def test_the_exit_code_is_1_when_mail_is_late(account: Account) -> None:
    message(account, next_attempt_at=datetime.now(UTC) - 11 * MINUTE)
    assert check()[0] == 1
    assert check("--json")[0] == 1
    assert check("--max-age", "12m")[0] == 0
    assert check(max_age="10s")[0] == 1
    assert check(max_age=timedelta(hours=1))[0] == 0


@pytest.mark.django_db
def test_one_accounts_delay_is_not_anothers(account: Account) -> None:
    new_account("bulk")
    message(account, next_attempt_at=datetime.now(UTC) - 11 * MINUTE)
    assert check("--account", "main")[0] == 1
    assert check("--account", "bulk")[0] == 0


@pytest.mark.django_db
def test_the_exit_code_is_2_for_a_copied_database(account: Account) -> None:
    OutboxState.objects.create(pk=1, instance="production")
    message(account, next_attempt_at=datetime.now(UTC) - 11 * MINUTE)
    with override_settings(PRX_EMAIL={"INSTANCE": "staging"}):
        assert check()[0] == 2
        assert "run outbox_adopt" in run("outbox_status", no_color=True)


@pytest.mark.django_db
@override_settings(PRX_EMAIL={"LEASE": "for ever"})
def test_the_exit_code_is_2_for_settings_that_cannot_be_used() -> None:
    assert check()[0] == 2
    with pytest.raises(CommandError, match="LEASE"):
        call_command("outbox_status")


@pytest.mark.django_db
def test_a_limit_that_cannot_be_read_is_no_verdict() -> None:
    with pytest.raises(CommandError, match="soon"):
        check(max_age="soon")
    with pytest.raises(CommandError, match="'10' must have a unit"):
        check("--max-age", "10")


def test_the_exit_code_is_2_for_an_unreachable_database(tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE": "sqlite", "DATABASE_NAME": str(tmp_path / "nothing.sqlite3")}
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "django",
        "outbox_status",
        "--check",
        "--settings",
        "tests.settings",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("broken: ")
    assert "Traceback" not in done.stderr


def test_a_reader_who_stops_reading_gets_no_traceback(tmp_path: Path) -> None:
    """As ``outbox_status | head`` does."""
    environment = {**os.environ, "DATABASE": "sqlite", "DATABASE_NAME": str(tmp_path / "nothing.sqlite3")}
    command = [sys.executable, "-m", "django", "outbox_status", "--check", "--settings", "tests.settings"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as closed:
        done = subprocess.run(
            command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.django_db
def test_looking_changes_nothing(account: Account) -> None:
    row = message(account)
    before = OutboxMessage.objects.values().get(pk=row.pk)
    run("outbox_status")
    run("outbox_status", row.pk)
    assert OutboxMessage.objects.values().get(pk=row.pk) == before
    assert not OutboxState.objects.exists()
