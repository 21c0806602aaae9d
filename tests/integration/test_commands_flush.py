"""``flush_outbox``, once and in a loop, against a real server."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import OperationalError, connections
from django.db.models import ProtectedError
from django.db.models.signals import pre_delete
from django.test import override_settings

import prx_email_django as prx
from prx_email_django import api, tasks
from prx_email_django.management._loop import Stop, add_reports
from prx_email_django.management.commands import flush_outbox
from prx_email_django.models import Account, OutboxMessage, OutboxState
from prx_email_django.results import DrainReport
from tests.integration.face_rows import new_account, run
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account(server: SmtpServer) -> Account:
    return new_account(email="app@example.org", port=server.port)


def queue(account: Account, count: int = 1, **fields: Any) -> list[OutboxMessage]:
    messages = [{"to": f"p{n}@example.org", "subject": f"n {n}", "body_text": "text", **fields} for n in range(count)]
    return prx.enqueue_many(messages, account=account)


def test_due_messages_are_sent_and_the_summary_counts_them(server: SmtpServer, account: Account) -> None:
    server.refuse("p1@example.org")
    queue(account, 3)
    assert run("flush_outbox").startswith("3 claimed, 2 sent, 1 failed in ")
    assert sorted(server.recipients) == ["p0@example.org", "p2@example.org"]


def test_a_program_reads_the_summary(server: SmtpServer, account: Account) -> None:
    queue(account, 2)
    output = json.loads(run("flush_outbox", "--json"))
    assert (output["claimed"], output["sent"], output["deferred"]) == (2, 2, 0)
    assert output["seconds"] >= 0


def test_a_dry_run_sends_nothing_and_says_what_prevents_sending(server: SmtpServer, account: Account) -> None:
    queue(account, 2)
    assert run("flush_outbox", "--dry-run") == "2 due\n  main: 2 due, may send"
    prx.pause_outbox(account, reason="moving")
    output = json.loads(run("flush_outbox", "--dry-run", "--json"))
    assert output == {"due": 2, "accounts": {"main": {"due": 2, "why": "paused until a person resumes it: moving"}}}
    assert server.connections == 0
    assert OutboxMessage.objects.filter(status="pending").count() == 2


def test_a_run_that_sends_nothing_says_what_prevented_it(server: SmtpServer, account: Account) -> None:
    """ "0 sent" alone would read as an empty outbox."""
    queue(account, 2)
    prx.pause_outbox(account, reason="moving")
    output = run("flush_outbox")
    assert output.startswith("0 sent in ")
    assert output.endswith("\n  main: 2 due, paused until a person resumes it: moving")
    prx.resume_outbox(account)
    assert "main" not in run("flush_outbox")


def test_only_the_accounts_that_are_named_send(server: SmtpServer, account: Account) -> None:
    bulk = new_account("bulk", email="bulk@example.org", port=server.port)
    queue(account)
    queue(bulk)
    assert run("flush_outbox", "--account", "bulk", "--dry-run") == "1 due\n  bulk: 1 due, may send"
    run("flush_outbox", account="bulk")
    assert OutboxMessage.objects.get(status="sent").account == bulk


def test_a_limit_is_kept(server: SmtpServer, account: Account) -> None:
    queue(account, 5)
    assert run("flush_outbox", "--limit", 2).startswith("2 claimed, 2 sent")
    assert run("flush_outbox", "--loop", "--limit", 3, "--time-budget", "100s").startswith("3 claimed, 3 sent")
    assert len(server.messages) == 5


def test_a_spent_time_budget_starts_nothing(server: SmtpServer, account: Account) -> None:
    queue(account)
    assert run("flush_outbox", time_budget=0.0001).startswith("0 sent")
    assert run("flush_outbox", "--time-budget", "100").startswith("1 claimed, 1 sent")


@pytest.mark.parametrize("loop", [(), ("--loop",)])
def test_a_copied_database_sends_nothing_and_says_what_to_do(
    server: SmtpServer, account: Account, loop: tuple[str, ...]
) -> None:
    queue(account)
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": "production"})
    with (
        override_settings(PRX_EMAIL={"INSTANCE": "staging"}),
        pytest.raises(CommandError, match="outbox_adopt.*wrong_instance"),
    ):
        run("flush_outbox", *loop)
    assert server.connections == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(("--account", "nobody"), "There is no account"), (("--limit", "-1"), "limit"), (("--time-budget", "x"), "'x'")],
)
def test_a_wrong_argument_sends_nothing(
    server: SmtpServer, account: Account, arguments: tuple[str, ...], complaint: str
) -> None:
    queue(account)
    with pytest.raises(CommandError, match=complaint):
        run("flush_outbox", *arguments)
    assert server.connections == 0


class Terminal(io.StringIO):
    """Standard error that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "arguments", "shown"),
    [(Terminal, (), True), (Terminal, ("--no-progress",), False), (io.StringIO, (), False)],
)
def test_a_log_is_not_filled_with_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch,
    server: SmtpServer,
    account: Account,
    stream: type[io.StringIO],
    arguments: tuple[str, ...],
    shown: bool,
) -> None:
    queue(account, 3)
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    run("flush_outbox", *arguments)
    assert ("messages" in screen.getvalue()) is shown
    assert ("/3 " in screen.getvalue()) is shown
    assert len(server.messages) == 3


def test_a_loop_sends_what_is_queued_meanwhile(server: SmtpServer, account: Account) -> None:
    queue(account)

    def later() -> None:
        try:
            assert server.wait_for(1)
            queue(account)
        finally:
            connections.close_all()

    other = threading.Thread(target=later)
    other.start()
    output = json.loads(run("flush_outbox", "--loop", "--limit", 2, "--time-budget", "100", "--json"))
    other.join()
    assert (output["claimed"], output["sent"]) == (2, 2)


def test_a_loop_outlives_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: SmtpServer, account: Account
) -> None:
    queue(account)
    drain, calls = api.drain, []

    def flaky(**options: Any) -> DrainReport:
        calls.append(options)
        if len(calls) == 1:
            raise OperationalError("server closed the connection\nDETAIL: of ann@example.org")
        return drain(**options)

    monkeypatch.setattr(api, "drain", flaky)
    assert run("flush_outbox", "--loop", "--limit", 1, "--time-budget", "100").startswith("1 claimed, 1 sent")
    assert "the database cannot be used, next try in 2 s: server closed the connection" in caplog.text
    assert "ann@example.org" not in caplog.text


def test_a_loop_counts_what_is_written_after_a_drain_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process writes the result while the next drain runs; the limit is reached by both together."""
    later: list[Any] = []

    def flaky(**options: Any) -> DrainReport:
        progress = options["progress"]
        if not later:
            later.append(progress)
            progress(DrainReport(claimed=3))
            raise OperationalError("server closed the connection")
        later[0](DrainReport(claimed=3, sent=1, released=2))
        return DrainReport(claimed=options["limit"], sent=options["limit"])

    monkeypatch.setattr(api, "drain", flaky)
    found = json.loads(run("flush_outbox", "--loop", "--limit", 4, "--time-budget", "100", "--json"))
    assert (found["claimed"] - found["released"], found["sent"]) == (4, 4)


def test_a_loop_waits_for_tables_that_it_has_used(
    monkeypatch: pytest.MonkeyPatch, server: SmtpServer, account: Account
) -> None:
    """They are being restored; a loop that begins without them says that a migration is missing."""
    queue(account)
    drain, results = api.drain, [DrainReport(), OperationalError("no such table: prx_email_django_outboxmessage")]

    def drains(**options: Any) -> DrainReport:
        if not results:
            return drain(**options)
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(api, "drain", drains)
    assert run("flush_outbox", "--loop", "--limit", 1, "--time-budget", "100").startswith("1 claimed, 1 sent")
    results.append(OperationalError("no such table: prx_email_django_outboxmessage"))
    with pytest.raises(CommandError, match="migrate"):
        run("flush_outbox", "--loop", "--time-budget", "100")


def test_without_a_loop_a_database_that_is_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**options: Any) -> DrainReport:
        raise OperationalError("no route to host")

    monkeypatch.setattr(api, "drain", away)
    with pytest.raises(CommandError, match="The database cannot be used: no route to host"):
        run("flush_outbox")


def test_an_idle_loop_purges(monkeypatch: pytest.MonkeyPatch, server: SmtpServer, account: Account) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=91)
    queue(account)
    run("flush_outbox")
    OutboxMessage.objects.update(sent_at=long_ago, created_at=long_ago)

    def purge_and_end() -> None:
        tasks.purge_if_time()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(flush_outbox, "purge_if_time", purge_and_end)
    run("flush_outbox", "--loop", "--time-budget", "100")
    assert not OutboxMessage.objects.exists()
    assert OutboxState.objects.get().last_purge_at is not None


def test_a_row_that_the_host_keeps_ends_no_loop(
    caplog: pytest.LogCaptureFixture, server: SmtpServer, account: Account
) -> None:
    """A foreign key of the host with ``PROTECT``, or a receiver that refuses."""
    long_ago = datetime.now(UTC) - timedelta(days=91)
    queue(account)
    run("flush_outbox")
    OutboxMessage.objects.update(sent_at=long_ago, created_at=long_ago)

    def keep(instance: OutboxMessage, **_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ProtectedError(instance.subject, {instance})

    pre_delete.connect(keep, sender=OutboxMessage)
    try:
        run("flush_outbox", "--loop", "--time-budget", "100")  # ends well
    finally:
        pre_delete.disconnect(keep, sender=OutboxMessage)
    assert "nothing more could be purged: ProtectedError" in caplog.text
    assert "n 0" not in caplog.text


def test_a_worker_that_cannot_write_its_heartbeat_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="heartbeat"):
        run("flush_outbox", "--loop", "--heartbeat", tmp_path / "no" / "beat")


def test_the_heart_beats_while_a_server_is_slow(server: SmtpServer, account: Account, tmp_path: Path) -> None:
    queue(account)
    beat = tmp_path / "beat"
    stalled = server.on("final", stall=True)

    def work() -> None:
        try:
            run("flush_outbox", "--heartbeat", beat)
        finally:
            connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    assert stalled.reached.wait(PATIENCE)
    beat.unlink()
    beaten = threading.Event()

    def watch() -> None:
        while not beat.exists() and worker.is_alive():
            beaten.wait(0.05)
        beaten.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert beaten.wait(PATIENCE)
    assert worker.is_alive()
    server.release(stalled)
    worker.join(PATIENCE)
    watcher.join(PATIENCE)
    assert beat.exists()
    assert len(server.messages) == 1


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop = Stop()
    with stop.on_signals():
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.timeout(PATIENCE, method="thread")
def test_a_signal_at_any_line_of_a_wait_ends_the_wait() -> None:
    """The handler set an event on which the same thread waited: it took a lock that its own wait held."""
    for line in count(1):
        stop, left = Stop(), [line]

        def at_line(frame: FrameType, event: str, argument: object, left: list[int] = left) -> Any:
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    signal.raise_signal(signal.SIGTERM)
            return at_line

        before = sys.gettrace()
        with stop.on_signals():
            sys.settrace(at_line)
            try:
                stop.wait(0.002)
            finally:
                sys.settrace(before)
            assert stop() == (left[0] <= 0)
        if left[0] > 0:
            break
    assert line > 5, "a wait has several lines"


def test_a_second_interrupt_ends_at_once() -> None:
    with Stop().on_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_reports_add_up() -> None:
    first, second = DrainReport(claimed=1, sent=1, seconds=0.5), DrainReport(claimed=2, failed=2, seconds=1)
    assert add_reports(first, second) == DrainReport(claimed=3, sent=1, failed=2, seconds=1.5)
