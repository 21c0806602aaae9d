"""A drain delivers messages unchanged: over TLS, many, large, redirected, signed."""

from __future__ import annotations

from collections import Counter
from email import message_from_bytes, policy
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.store.claims import TEXT_LIMIT
from prx_email_django.worker.render_ahead import RENDER_AHEAD
from tests.acceptance.drainer import Drainer
from tests.support.factories import account_on, backlog
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


def sign(data: bytes, message: OutboxMessage) -> bytes:
    """A function that a project names in TRANSFORM_MIME."""
    return f"X-Signed: message {message.pk}\r\n".encode() + data


def refuse_to_sign(data: bytes, message: OutboxMessage) -> bytes:
    if "bad" in message.subject:
        raise ValueError("no key")
    return data


def test_a_redirected_message_does_not_reach_its_real_recipients(settings: Any) -> None:
    settings.PRX_EMAIL = {"REDIRECT_TO": ["stage@example.net", "qa@example.net"], "REDIRECT_EXCEPT": ["*@ours.example"]}
    with SmtpServer() as server:
        account = account_on(server)
        row = prx.enqueue(
            account=account,
            to=["Ann <ann@example.org>", "boss@ours.example"],
            cc="cc@example.org",
            bcc=["bcc@example.org", "ann@example.org"],
            subject="Hello",
            body_text="text",
        )
        assert prx.drain().sent == 1
        (received,) = server.messages
        assert sorted(received.recipients) == ["boss@ours.example", "qa@example.net", "stage@example.net"]
        assert not [line for line in server.lines("RCPT") if "example.org" in line]
        parsed = message_from_bytes(received.data, policy=policy.default)
        assert sorted(str(parsed["X-Original-To"]).split(", ")) == [
            "ann@example.org",
            "bcc@example.org",
            "cc@example.org",
        ]
        assert "bcc" not in {name.lower() for name in parsed}
        row.refresh_from_db()
        assert row.status == "sent"
        assert not row.recipients.exclude(result="").exists()


def test_results_of_a_redirected_message_are_recorded_at_its_real_recipients(settings: Any) -> None:
    settings.PRX_EMAIL = {"REDIRECT_TO": "stage@example.net"}
    with SmtpServer() as server:
        server.refuse("stage@example.net", "550 5.1.1 nobody here")
        account = account_on(server)
        everybody = {"to": "ann@example.org", "cc": "cc@example.org", "bcc": "bcc@example.org"}
        row = prx.enqueue(account=account, subject="Hello", body_text="text", **everybody)
        assert prx.drain().failed == 1
        row.refresh_from_db()
        assert (row.status, row.next_attempt_at) == ("failed", None)
        assert set(row.refused_recipients) == set(everybody.values())
        deferred = server.defer("stage@example.net")
        again = prx.retry_outbox(row.pk)
        assert (again.status, again.error_code) == ("failed", "provider")
        assert {recipient.result for recipient in row.recipients.all()} == {""}, "reopened, and still open"
        deferred.times = 0
        server.clear()
        assert prx.retry_outbox(row.pk, force=True).status == "sent"
        assert server.recipients == ["stage@example.net"]


def test_transformed_bytes_are_sent_and_shown(settings: Any) -> None:
    settings.PRX_EMAIL = {"TRANSFORM_MIME": f"{__name__}.sign"}
    with SmtpServer() as server:
        account = account_on(server)
        row = prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="text")
        prx.drain()
        parsed = message_from_bytes(server.messages[0].data, policy=policy.default)
        assert parsed["X-Signed"] == f"message {row.pk}" == row.as_email()["X-Signed"]


def test_a_message_that_cannot_be_transformed_fails_alone(settings: Any) -> None:
    settings.PRX_EMAIL = {"TRANSFORM_MIME": f"{__name__}.refuse_to_sign"}
    with SmtpServer() as server:
        account = account_on(server)
        mails = [
            {"to": f"p{n}@example.org", "subject": "bad" if n == 3 else "good", "body_text": "x"} for n in range(8)
        ]
        prx.enqueue_many(mails, account=account)
        report = prx.drain()
        assert (report.sent, report.failed) == (7, 1)
        bad = OutboxMessage.objects.get(subject="bad")
        assert (bad.status, bad.next_attempt_at, bad.last_error_code) == ("failed", None, "content")
        assert "ValueError" in bad.last_error


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_private_authority_is_trusted_where_it_is_named_and_nowhere_else(settings: Any, tls: str) -> None:
    with SmtpServer(tls=tls, users={"ann": "secret"}) as server:
        account = account_on(server, auth_method="password", user="ann", password="secret")
        row = prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="text")
        prx.drain()
        row.refresh_from_db()
        assert (row.status, row.attempts) == ("pending", 0)
        assert account.pause_reason.startswith("TLS failed")
        assert not server.auth_attempts, "no password without a trusted server"
        prx.resume_outbox(account)
        settings.PRX_EMAIL = {"TLS_CA_FILE": server.ca_file}
        assert prx.drain().sent == 1
        assert "TLS" in DeliveryAttempt.objects.get().peer


def test_large_attachments_arrive_whole() -> None:
    content = b"%PDF" + bytes(range(256)) * 78_125
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        large = prx.AttachmentInput("large.pdf", "application/pdf", content=content)
        backlog(account, 3, attachment=large)
        assert prx.drain().sent == 3
        for received in server.messages:
            (part,) = message_from_bytes(received.data, policy=policy.default).iter_attachments()
            assert part.get_content() == content


def test_recipients_that_do_not_fit_are_served_in_the_same_drain_without_a_failure() -> None:
    with SmtpServer() as server:
        everybody = [f"p{number}@example.org" for number in range(7)]
        for nth in (3, 4, 5, 6, 7, 10, 11, 12):
            server.on("rcpt", nth=nth, reply="452 4.5.3 too many recipients")
        row = prx.enqueue(account=account_on(server), to=everybody, subject="n", body_text="x")
        report = prx.drain()
        assert (report.sent, report.deferred, report.failed) == (1, 0, 0)
        row.refresh_from_db()
        assert (row.status, row.retries, row.attempts, row.last_error_code) == ("sent", 0, 0, "")
        assert sorted(server.recipients) == everybody
        assert len(server.messages) == 3
        assert len({received.data for received in server.messages}) == 1, "one Message-ID, one message"


def test_delivered_message_does_not_rest_as_failed() -> None:
    """One recipient is refused with words about the whole session; the server accepts the other one."""
    with SmtpServer() as server:
        server.refuse("trap@example.org", "550 5.7.1 too many messages in this session")
        account = account_on(server)
        prx.enqueue(account=account, to=["trap@example.org", "bob@example.org"], subject="s", body_text="b")
        prx.drain()
        row = OutboxMessage.objects.get()
        results = dict(Recipient.objects.values_list("address", "result"))
        delivered = [received.recipients for received in server.messages]
        at_rest = row.next_attempt_at is None and row.status == "failed"
        assert not (delivered and at_rest), (row.last_error, results, delivered)


def memory_of_drain(count: int) -> int:
    """Bytes that a drain of so many messages takes at most, in a process of its own."""
    with Drainer(collect=False) as drainer:
        report = drainer.report()
    assert report["sent"] == count
    return int(report["kib_peak"] - report["kib_before"]) * 1024


def test_a_queue_of_large_messages_takes_bounded_memory() -> None:
    size, connections, count = 10_000_000, 3, 24
    encoded = size * 78 // 57  # base64, in lines of 76 characters
    # One body being sent on each connection, small bodies ahead, and one being rendered: content, lines, whole body.
    bound = connections * encoded + RENDER_AHEAD + (size + 2 * encoded)
    rest = 8_000_000  # rows, statements, memory that the allocator keeps
    assert bound + rest < count * size / 2, "twice that much would not be noticed"
    with SmtpServer() as server:
        account = account_on(server, max_connections=connections)
        large = prx.AttachmentInput("large.pdf", "application/pdf", content=b"%PDF" + bytes(size))
        backlog(account, count, attachment=large)
        taken = memory_of_drain(count)
        assert taken < bound + rest, f"{taken / 1e6:.0f} MB, at most {(bound + rest) / 1e6:.0f}"
        server.messages.clear()


def test_a_queue_of_large_texts_takes_bounded_memory() -> None:
    size, connections, count = 1_000_000, 3, 90
    # What is claimed ahead and what a claim brings, which the driver holds twice; small bodies ahead, one being
    # rendered; one body on each connection.
    bound = 3 * (TEXT_LIMIT + size) + (RENDER_AHEAD + 2 * size) + connections * size
    rest = 8_000_000  # rows, statements, memory that the allocator keeps
    assert bound + rest < count * size / 2, "twice that much would not be noticed"
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=connections), count, body_text="a line of 25 characters.\n" * 40_000)
        taken = memory_of_drain(count)
        assert taken < bound + rest, f"{taken / 1e6:.0f} MB, at most {(bound + rest) / 1e6:.0f}"
        server.messages.clear()


def test_a_backlog_of_three_thousand_goes_out_once_each() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=8)
        backlog(account, 3000)
        report = prx.drain()
        assert (report.claimed, report.sent, report.released) == (3000, 3000, 0)
        assert Counter(server.recipients) == Counter({f"p{n}@example.org": 1 for n in range(3000)})
        assert len({message_from_bytes(received.data)["Message-ID"] for received in server.messages}) == 3000
        assert server.max_open_connections <= 8
        assert OutboxMessage.objects.filter(status="sent", attempts=0).count() == 3000
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
