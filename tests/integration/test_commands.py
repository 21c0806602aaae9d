"""The commands that change messages and accounts: what they change, and what they do not change."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, load_command_class
from django.db import ProgrammingError
from django.test import override_settings
from django.utils.translation import override

from prx_email_django.checks.project import check_transport
from prx_email_django.management._common import plain_errors
from prx_email_django.models import Account, InboundMessage, OutboxMessage, OutboxState
from tests.integration.face_rows import HOUR, at_rest, message, new_account, run

pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    return new_account()


def due(row: OutboxMessage) -> bool:
    row.refresh_from_db()
    return row.next_attempt_at is not None and row.next_attempt_at <= datetime.now(UTC)


def test_requeue_makes_named_messages_due_and_prints_what_it_refused(account: Account) -> None:
    rests, waits = at_rest(account), message(account, status="failed")
    sent = message(account, status="sent", sent_at=datetime.now(UTC), next_attempt_at=None)
    pending = message(account)
    output = run("requeue_outbox", rests.pk, waits.pk, sent.pk, pending.pk, 999_999)
    assert output == "requeued 2; refused: 1 not_found, 1 sent, 1 waiting"
    assert due(rests)
    assert due(waits)
    assert not due(pending)


@override_settings(PRX_EMAIL={"TRANSPORT": "memory", "WAKE": ""})
def test_a_project_in_japanese_reads_its_commands_in_japanese_and_machines_read_english(account: Account) -> None:
    rests = at_rest(account)
    with override("ja"):
        said = run("requeue_outbox", rests.pk, 999_999)
        with pytest.raises(CommandError, match="アカウント「nobody」はありません。"):
            run("outbox_pause", "nobody", reason="x")
        status, figures = run("outbox_status"), json.loads(run("outbox_status", "--json"))
        help_text = load_command_class("prx_email_django", "outbox_pause").create_parser("manage.py", "x").format_help()
        hints = [message.hint for message in check_transport()]
    assert said == "送信待ちに戻しました: 1 件、対象外: 1 not_found"
    assert re.search("送信待ち +1", status)
    assert {"due", "waiting", "at_rest"} <= figures.keys()
    assert "アカウントまたは送信箱全体を一時停止します。" in help_text.replace("\n", "")
    assert hints == ['"smtp" を設定してください。']


def test_requeue_by_filters_changes_only_messages_that_match_all(account: Account) -> None:
    other = new_account("bulk")
    chosen = at_rest(account, tag="invoice")
    others = [
        at_rest(other, tag="invoice"),
        at_rest(account, tag="news"),
        at_rest(account, tag="invoice", last_error_code="tls"),
        at_rest(account, tag="invoice", created_at=datetime.now(UTC) - 3 * HOUR),
        message(account, tag="invoice", last_error_code="provider"),
    ]
    filters = ("--account", "main", "--tag", "invoice", "--error-code", "provider", "--since", "2h")
    assert run("requeue_outbox", *filters, "--dry-run") == "would requeue 1"
    assert not due(chosen)
    assert run("requeue_outbox", *filters) == "requeued 1"
    assert due(chosen)
    assert not any(map(due, others))


def test_since_reads_an_instant_too(account: Account) -> None:
    at_rest(account)
    assert run("requeue_outbox", "--since", "2026-01-01T00:00:00+00:00", "--dry-run") == "would requeue 1"
    assert run("requeue_outbox", "--since", "2999-01-01", "--dry-run") == "would requeue 0"
    assert run("requeue_outbox", since="2h", dry_run=True) == "would requeue 1"
    assert run("requeue_outbox", since=datetime.now(UTC), dry_run=True) == "would requeue 0"


@pytest.mark.parametrize("code", ["cancelled", "adopted", "expired"])
def test_requeue_by_filters_revives_what_was_set_aside_only_if_its_code_is_given(account: Account, code: str) -> None:
    """``requeue_outbox --account main`` in an adopted copy of a database mailed everybody."""
    aside, other = at_rest(account), at_rest(account)
    OutboxMessage.objects.filter(pk=aside.pk).update(last_error_code=code)
    said = "left out 1 that was cancelled, adopted or expired: --error-code selects it"
    assert run("requeue_outbox", "--account", account.name, "--dry-run") == f"would requeue 1\n{said}"
    assert run("requeue_outbox", "--account", account.name) == f"requeued 1\n{said}"
    assert not OutboxMessage.objects.filter(pk=aside.pk, next_attempt_at__isnull=False).exists()
    assert OutboxMessage.objects.filter(pk=other.pk, next_attempt_at__isnull=False).exists()
    assert run("requeue_outbox", "--error-code", code, "--dry-run") == "would requeue 1"
    assert run("requeue_outbox", "--error-code", code) == "requeued 1"
    OutboxMessage.objects.filter(pk=aside.pk).update(next_attempt_at=None)
    assert run("requeue_outbox", aside.pk) == "requeued 1"


@pytest.mark.parametrize("command", ["requeue_outbox", "cancel_outbox"])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Select messages"),
        ((1, "--tag", "x"), "either ids or filters"),
        (("--account", "nobody"), "There is no account “nobody”"),
        (("--since", "yesterday"), "'yesterday'"),
        (("--since", "2"), "'2' must"),
        (("--since", "2026-13-01"), "'2026-13-01'"),
        (("--since", "2026-13-01T00:00"), "month must be"),
        (("--error-code", "bad"), "bad"),
    ],
)
def test_a_wrong_argument_changes_nothing(
    account: Account, command: str, arguments: tuple[Any, ...], complaint: str
) -> None:
    rows = [at_rest(account), message(account)]
    with pytest.raises(CommandError, match=complaint):
        run(command, *arguments)
    assert [OutboxMessage.objects.get(pk=row.pk).status for row in rows] == ["failed", "pending"]
    assert not any(map(due, rows))


def test_an_instant_that_cannot_be_read_is_no_traceback(account: Account) -> None:
    with pytest.raises(CommandError, match="yesterday"):
        run("cancel_outbox", since="yesterday")


def test_cancel_stops_what_waits_and_nothing_else(account: Account) -> None:
    waits, rests = message(account, tag="invoice"), at_rest(account, tag="invoice")
    busy = message(
        account,
        tag="invoice",
        status="sending",
        claim_token=uuid.uuid4(),
        claim_expires_at=datetime.now(UTC) + HOUR,
    )
    assert run("cancel_outbox", waits.pk, "--dry-run") == "would cancel 1"
    assert run("cancel_outbox", "--tag", "invoice") == "cancelled 1"
    assert run("cancel_outbox", waits.pk, rests.pk, busy.pk) == "cancelled 0; refused: 2 at_rest, 1 sending"
    waits.refresh_from_db()
    assert (waits.status, waits.last_error_code, waits.next_attempt_at) == ("failed", "cancelled", None)


def test_a_pause_is_set_with_its_reason_and_ended(account: Account) -> None:
    assert run("outbox_pause", "main", "--reason", "moving house") == "paused main"
    assert (account.pause_reason, account.paused_until) == ("moving house", None)
    assert run("outbox_resume", "main") == "resumed main"
    assert account.pause_reason == ""
    assert run("outbox_resume", "main") == "main was not paused"


def test_a_pause_may_end_by_itself(account: Account) -> None:
    output = run("outbox_pause", "main", "--reason", "moving", "--until", "2h")
    assert output.startswith("paused main until 20")
    assert account.paused_until is not None
    assert abs(account.paused_until - datetime.now(UTC) - 2 * HOUR) < timedelta(minutes=1)
    run("outbox_pause", "main", reason="moving", until="2999-01-01T12:00:00+00:00")
    assert account.paused_until == datetime(2999, 1, 1, 12, tzinfo=UTC)


def test_everything_is_paused_and_resumed() -> None:
    assert run("outbox_pause", "--reason", "holidays") == "paused everything"
    assert OutboxState.objects.get().pause_reason == "holidays"
    assert run("outbox_resume") == "resumed everything"
    assert OutboxState.objects.get().pause_reason == ""
    assert run("outbox_resume") == "everything was not paused"


def test_a_pause_that_has_ended_before_it_began_is_refused(account: Account) -> None:
    """After "paused main until 2020" a person would leave although sending continues."""
    with pytest.raises(CommandError, match="must be in the future"):
        run("outbox_pause", "main", "--reason", "moving", "--until", "2020-01-01T00:00:00+00:00")
    assert account.pause_reason == ""


def test_an_unreadable_instant_is_refused_with_both_formats() -> None:
    with pytest.raises(CommandError, match="ISO 8601.*or a duration before now"):
        run("requeue_outbox", "--since", "yesterday")
    with pytest.raises(CommandError, match="ISO 8601.*or a duration from now"):
        run("outbox_pause", "--reason", "x", "--until", "soon")


@pytest.mark.parametrize("arguments", [("outbox_pause", "nobody", "--reason", "x"), ("outbox_resume", "nobody")])
def test_an_unknown_account_pauses_nothing(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="There is no account “nobody”"):
        run(*arguments)
    assert not OutboxState.objects.exclude(pause_reason="").exists()


def test_a_pause_without_a_reason_is_refused() -> None:
    with pytest.raises(CommandError, match="invalid_option"):
        run("outbox_pause", reason=" ")


@pytest.fixture
def copy(account: Account) -> Iterator[list[OutboxMessage]]:
    """The unsent messages of a database that belongs to “production”, in an installation named “staging”."""
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": "production"})
    with override_settings(PRX_EMAIL={"INSTANCE": "staging"}):
        yield [message(account), at_rest(account)]


def is_untouched(rows: list[OutboxMessage]) -> bool:
    """Whether nothing was adopted."""
    assert OutboxState.objects.get().instance != "staging"
    return not OutboxMessage.objects.filter(last_error_code="adopted").exists() and bool(rows)


@pytest.mark.django_db(transaction=True)  # MariaDB commits when ids jump
def test_adoption_puts_everything_unsent_at_rest(copy: list[OutboxMessage]) -> None:
    before, after = run("outbox_adopt", "--yes").splitlines()
    assert before.startswith("this database belongs to the instance “production” and will belong to the instance")
    assert before.endswith("“staging”; every unsent message (2) is put at rest, and the next ids increase by 1000000")
    assert after == "put 2 at rest; this database now belongs to the instance “staging”"
    for row in copy:
        row.refresh_from_db()
        assert (row.status, row.next_attempt_at, row.last_error_code) == ("failed", None, "adopted")
    assert OutboxState.objects.get().instance == "staging"
    with pytest.raises(CommandError, match="so nothing was copied"):
        run("outbox_adopt", "--yes")


def test_a_dry_run_of_an_adoption_says_how_many_it_would_put_at_rest(copy: list[OutboxMessage]) -> None:
    OutboxMessage.objects.filter(pk=copy[1].pk).update(last_error_code="adopted")
    assert "every unsent message (1) is put at rest" in run("outbox_adopt", "--dry-run")
    OutboxMessage.objects.filter(pk=copy[1].pk).update(last_error_code="provider")
    assert is_untouched(copy)


@pytest.mark.parametrize(("stored", "ours"), [("", ""), ("", "staging"), ("staging", "staging")])
@pytest.mark.parametrize("options", [("--yes",), ("--dry-run",), ()])
def test_a_database_that_was_not_copied_is_not_adopted(
    account: Account, stored: str, ours: str, options: tuple[str, ...]
) -> None:
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": stored})
    rows = [message(account), at_rest(account)]
    with (
        override_settings(PRX_EMAIL={"INSTANCE": ours}),
        pytest.raises(CommandError, match="Nothing was adopted: this database"),
    ):
        run("outbox_adopt", *options)
    assert not OutboxMessage.objects.filter(last_error_code="adopted").exists()
    assert due_dates(rows) == [row.next_attempt_at for row in rows]


def due_dates(rows: list[OutboxMessage]) -> list[datetime | None]:
    """When the messages are due, by the database."""
    return [OutboxMessage.objects.get(pk=row.pk).next_attempt_at for row in rows]


class Terminal(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("said", ["", "\n", "no\n", "y\n"])
def test_an_adoption_asks_on_a_terminal(copy: list[OutboxMessage], monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(said))
    with pytest.raises(CommandError, match=r"^Nothing was adopted\.$"):
        run("outbox_adopt")
    assert is_untouched(copy)


@pytest.mark.django_db(transaction=True)
def test_an_adoption_goes_on_after_yes(copy: list[OutboxMessage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    assert "put 2 at rest" in run("outbox_adopt")


def test_an_adoption_without_a_terminal_needs_yes(copy: list[OutboxMessage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    with pytest.raises(CommandError, match="Give --yes"):
        run("outbox_adopt")
    assert is_untouched(copy)


@pytest.mark.parametrize(
    "said",
    [
        "no such table: prx_email_django_outboxstate",
        'relation "prx_email_django_outboxstate" does not exist\nLINE 1: SELECT',
        "(1146, \"Table 'shop.prx_email_django_outboxstate' doesn't exist\")",
    ],
)
def test_a_database_without_tables_names_migrate(said: str) -> None:
    with pytest.raises(CommandError, match="manage.py migrate"), plain_errors():
        raise ProgrammingError(said)


def old(row: OutboxMessage) -> OutboxMessage:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    fields: dict[str, Any] = {"created_at": long_ago, "updated_at": long_ago}
    if row.status == "sent":
        fields["sent_at"] = long_ago
    OutboxMessage.objects.filter(pk=row.pk).update(**fields)
    return row


def test_purge_never_deletes_what_may_still_be_sent(account: Account) -> None:
    now = datetime.now(UTC)
    kept = [
        old(message(account)),
        old(message(account, status="failed")),
        message(account, status="sent", sent_at=now, next_attempt_at=None),
    ]
    old(message(account, status="sent", sent_at=now, next_attempt_at=None))
    old(at_rest(account))
    output = "1 sent, 1 failed, 0 inbound, 0 stripped, 0 content"
    assert run("purge_outbox", "--dry-run") == f"would purge {output}"
    assert OutboxMessage.objects.count() == 5
    assert run("purge_outbox") == f"purged {output}"
    assert set(OutboxMessage.objects.values_list("pk", flat=True)) == {row.pk for row in kept}


def test_purge_continues_until_nothing_is_left(account: Account) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=91)
    InboundMessage.objects.bulk_create(
        InboundMessage(
            account=account, message_id=f"<{n}@x>", message_id_hash=str(n), sender="a@x", received_at=long_ago
        )
        for n in range(1100)
    )
    assert run("purge_outbox") == "purged 0 sent, 0 failed, 1100 inbound, 0 stripped, 0 content"


@pytest.mark.parametrize(("age", "left"), [("3h", 1), ("1h", 0), ("3600s", 0), (timedelta(hours=3), 1)])
def test_purge_at_an_age_of_ones_own(account: Account, age: object, left: int) -> None:
    row = at_rest(account)
    two_hours_ago = datetime.now(UTC) - 2 * HOUR
    OutboxMessage.objects.filter(pk=row.pk).update(created_at=two_hours_ago, updated_at=two_hours_ago)
    run("purge_outbox", older_than=age)
    assert OutboxMessage.objects.count() == left


def test_an_age_that_cannot_be_read_purges_nothing(account: Account) -> None:
    old(at_rest(account))
    for options in ({"older_than": "soon"}, {"older_than": "-3d"}):
        with pytest.raises(CommandError):
            run("purge_outbox", **options)
    for number in ("3", "3.5", " 3 ", "1e2", "-3", "nan", 3, 0, 3.5):
        with pytest.raises(CommandError, match="must have a unit: "):
            run("purge_outbox", older_than=number)
    with pytest.raises(CommandError, match="'3' must have a unit: 3s, 3m, 3h or 3d"):
        run("purge_outbox", "--older-than", "3")
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("name", ["requeue_outbox", "cancel_outbox", "dismiss_outbox"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_an_id_that_no_column_can_hold_is_an_id_that_is_not_found(name: str, *, dry_run: bool) -> None:
    said = run(name, "--", str(10**20), str(-(10**20))) if not dry_run else run(name, str(10**20), "--dry-run")
    assert " 0" in said if dry_run else said.endswith(" 0; refused: 2 not_found")
