"""An account that the server refuses word by word: few messages pay for it, and none is at rest afterwards."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command

import prx_email_django as prx
from prx_email_django import signals
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import Account, AccountState, OutboxMessage, RefusedMessage
from prx_email_django.store import db
from tests.acceptance.drainer import drainers
from tests.support.factories import account_on, backlog, mail
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

SUSPENDED = "554 Message rejected: Sending suspended for this account"
COUNT = 200


def newsletter(owner: Account, count: int, **fields: Any) -> list[OutboxMessage]:
    """Messages of one kind, to addresses at many domains."""
    mails = [
        {"to": f"p{n}@d{n % 7}.example", "subject": "November news", "body_text": "text", "tag": "news", **fields}
        for n in range(count)
    ]
    return prx.enqueue_many(mails, account=owner)


def end_pause(owner: Account) -> None:
    """Let the account's pause end now."""
    AccountState.objects.filter(pk=owner.pk).update(paused_until=db.database_now() - timedelta(seconds=1))


def at_rest() -> int:
    return OutboxMessage.objects.filter(status="failed", next_attempt_at=None).count()


def assert_refusing(owner: Account, words: str, *, waiting: int = COUNT) -> None:
    """The account is paused with the server's words, and every message is due as it was before."""
    assert (owner.pause_code, owner.pause_reason) == ("refusing", words)
    assert owner.paused_until is not None
    rows = OutboxMessage.objects.filter(next_attempt_at__lte=db.database_now(), retries=0, attempts=0)
    assert rows.filter(status__in=("pending", "failed")).count() == waiting
    assert at_rest() == 0


def test_who_was_told_of_a_failure_is_told_that_the_message_is_due_again(server: SmtpServer) -> None:
    heard: dict[int, list[str]] = {}

    def failed(message: OutboxMessage, **_: Any) -> None:
        heard.setdefault(message.pk, []).append("failed")

    def deferred(message: OutboxMessage, next_attempt_at: Any, **_: Any) -> None:
        heard.setdefault(message.pk, []).append("deferred")
        assert next_attempt_at == message.next_attempt_at
        assert next_attempt_at is not None

    signals.message_failed.connect(failed)
    signals.message_deferred.connect(deferred)
    try:
        server.on("final", reply=SUSPENDED)
        newsletter(account_on(server), 50)
        report = prx.drain()
    finally:
        signals.message_failed.disconnect(failed)
        signals.message_deferred.disconnect(deferred)
    assert heard, "some were put at rest before the account was suspected"
    assert set(map(tuple, heard.values())) == {("failed", "deferred")}
    assert (report.failed, report.deferred) == (0, len(heard))


def refused(server: SmtpServer) -> int:
    return len(server.lines("MAIL"))


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("final", SUSPENDED),
        ("final", "451 4.7.1 Message deferred, your account is under review"),
        ("data", "554 5.7.1 Your account has been blocked"),
        ("mail", SUSPENDED),
        ("mail", "450 4.7.1 Sender suspended"),
        ("rcpt", "550 5.7.1 Sending disabled for this account"),
        ("rcpt", SUSPENDED),
        ("rcpt", "450 Your account is on hold"),
        ("final", "554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message"),
        ("mail", "550 5.2.1 Mailbox disabled"),
        ("rcpt", "552 Your account has been suspended. Please contact us to reactivate"),
    ],
)
def test_a_suspended_account_costs_few_messages_and_none_is_at_rest(server: SmtpServer, stage: str, reply: str) -> None:
    owner = account_on(server)
    newsletter(owner, COUNT)
    server.on(stage, reply=reply)
    prx.drain()
    assert refused(server) <= 11
    assert_refusing(owner, reply)


def test_words_that_differ_from_message_to_message_are_the_same_refusal(server: SmtpServer) -> None:
    owner = account_on(server)
    newsletter(owner, COUNT)
    for number in range(40):
        server.on("final", reply=f"554 5.7.0 [{number}f3a.x] <p{number}@d.example> rejected by policy", nth=number + 1)
    prx.drain()
    assert refused(server) <= 11
    assert owner.pause_code == "refusing" and at_rest() == 0


@pytest.mark.parametrize("pipelining", ["off", "envelope", "full"])
@pytest.mark.parametrize("connections", [1, 5])
def test_every_level_and_number_of_connections(server: SmtpServer, pipelining: str, connections: int) -> None:
    owner = account_on(server, max_connections=connections, pipelining=pipelining)
    newsletter(owner, COUNT)
    server.on("final", reply=SUSPENDED)
    prx.drain()
    assert refused(server) <= 11 + (connections > 1) * connections
    assert_refusing(owner, SUSPENDED)


def test_several_workers(server: SmtpServer) -> None:
    owner = account_on(server, max_connections=4)
    newsletter(owner, COUNT)
    server.on("final", reply=SUSPENDED)
    with drainers(2) as running:
        for drainer in running:
            drainer.report()
    assert refused(server) <= 30
    assert_refusing(owner, SUSPENDED)


@pytest.mark.parametrize("limit", [1, 3])
def test_many_short_drains(server: SmtpServer, limit: int) -> None:
    owner = account_on(server)
    newsletter(owner, COUNT)
    server.on("final", reply=SUSPENDED)
    for _ in range(30):
        prx.drain(limit=limit)
    assert refused(server) <= 11
    assert_refusing(owner, SUSPENDED)


def test_one_send_after_another(server: SmtpServer) -> None:
    owner = account_on(server)
    server.on("final", reply=SUSPENDED)
    results = [prx.send(**mail(owner, to=f"p{n}@d{n}.example")) for n in range(20)]
    assert refused(server) <= 12
    assert results[-1].error_code == "paused"
    assert_refusing(owner, SUSPENDED, waiting=20)


def test_all_go_after_the_account_is_opened_again(server: SmtpServer) -> None:
    owner = account_on(server)
    rows = newsletter(owner, 60)
    rule = server.on("final", reply=SUSPENDED)
    prx.drain()
    before = refused(server)
    end_pause(owner)
    prx.drain()
    assert refused(server) == before + 1, "each probe is one message"
    assert account_state(owner).pause_count == 2
    assert_refusing(owner, SUSPENDED, waiting=60)
    rule.times = 0
    end_pause(owner)
    assert prx.drain().sent == 60
    assert (owner.pause_code, owner.pause_reason, account_state(owner).refused_in_a_row) == ("", "", 0)
    assert not RefusedMessage.objects.exists()
    assert {row.pk for row in rows} == set(OutboxMessage.objects.filter(status="sent").values_list("pk", flat=True))
    rule.times = None
    newsletter(owner, 60)
    prx.drain()
    assert owner.pause_code == "refusing" and at_rest() == 0, "it is suspended once more, within the hour"


def test_a_person_who_resumes_lets_all_be_tried_again(server: SmtpServer) -> None:
    owner = account_on(server)
    newsletter(owner, 60)
    rule = server.on("final", reply=SUSPENDED)
    prx.drain()
    rule.times = 0
    prx.resume_outbox(owner)
    assert prx.drain().sent == 60


def reject_spam(server: SmtpServer) -> None:
    """Refuse the newsletter's recipients by its sender, as a filter does."""
    server.on("mail", address="news@example.com", reply="554 5.7.1 Message rejected as spam")


def test_a_newsletter_refused_as_spam_holds_up_nothing_else(server: SmtpServer) -> None:
    owner = account_on(server)
    reject_spam(server)
    newsletter(owner, 40, from_email="news@example.com")
    for number in range(30):
        prx.enqueue(**mail(owner, to=f"u{number}@mail.example", subject=f"Reset {number}"))
    assert prx.drain().sent == 30
    assert owner.pause_code == ""
    assert at_rest() == 40, "it is judged one by one"
    assert account_state(owner).forgiven_refusals
    newsletter(owner, 40, from_email="news@example.com")
    prx.drain()
    assert (owner.pause_code, at_rest()) == ("", 80), "no suspicion for an hour"


def test_the_refused_newsletter_is_suspected_again_after_an_hour(server: SmtpServer) -> None:
    owner = account_on(server)
    reject_spam(server)
    newsletter(owner, 40, from_email="news@example.com")
    backlog(owner, 1)
    prx.drain()
    state = account_state(owner)
    state.forgiven_refusals = {
        key: (db.database_now() - timedelta(seconds=1)).isoformat() for key in state.forgiven_refusals
    }
    state.save()
    newsletter(owner, 40, from_email="news@example.com")
    prx.drain()
    assert owner.pause_code == "refusing"


def test_an_unlike_message_that_is_queued_meanwhile_is_a_probe_at_once(server: SmtpServer) -> None:
    owner = account_on(server)
    reject_spam(server)
    newsletter(owner, 40, from_email="news@example.com")
    prx.drain()
    assert owner.pause_code == "refusing"
    newsletter(owner, 5, from_email="news@example.com")
    before = refused(server)
    prx.drain()
    assert refused(server) == before, "more of the same is no probe"
    reset = prx.send(**mail(owner, subject="Reset your password", tag="reset"))
    assert reset.error_code == "paused"
    prx.drain()
    assert OutboxMessage.objects.get(pk=reset.outbox_id).status == "sent"
    assert owner.pause_code == ""
    assert at_rest() == 45


def test_probes_during_a_pause_are_bounded(server: SmtpServer) -> None:
    owner = account_on(server)
    newsletter(owner, 40)
    server.on("final", reply=SUSPENDED)
    prx.drain()
    before, until = refused(server), owner.paused_until
    words = ("apple", "pear", "plum", "fig", "grape", "lemon", "lime", "melon", "kiwi", "date", "peach", "olive")
    for word in words:
        prx.enqueue(**mail(owner, subject=word, tag=word))
        prx.drain()
    assert before < refused(server) <= before + 10
    assert owner.paused_until == until, "a probe that fails does not change the pause"
    assert_refusing(owner, SUSPENDED, waiting=40 + len(words))


@pytest.mark.parametrize(
    ("reply", "domains"),
    [
        ("550 5.1.1 user unknown", 5),
        ("550 5.2.1 mailbox disabled", 5),
        ("550 No such user here", 3),
        ("550 rejected", 1),
        ("550 rejected", 2),
    ],
)
def test_dead_addresses_are_no_trouble_of_the_account(server: SmtpServer, reply: str, domains: int) -> None:
    owner = account_on(server)
    for number in range(40):
        prx.enqueue(**mail(owner, to=f"p{number}@d{number % domains}.example"))
    server.on("rcpt", reply=reply)
    prx.drain()
    assert (owner.pause_code, at_rest(), refused(server)) == ("", 40, 40)


def test_the_setting_switches_it_off(server: SmtpServer, settings: Any) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "REFUSALS_IN_A_ROW": 0}
    owner = account_on(server)
    newsletter(owner, 40)
    server.on("final", reply=SUSPENDED)
    prx.drain()
    assert (owner.pause_code, at_rest()) == ("", 40)


def health(owner: Account, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and figures of ``outbox_status --check``."""
    out = io.StringIO()
    code = 0
    try:
        call_command("outbox_status", "--check", "--json", *arguments, stdout=out)
    except SystemExit as ended:
        code = int(ended.code or 0)
    figures = json.loads(out.getvalue())
    return code, next(account for account in figures["accounts"] if account["name"] == owner.name)


@pytest.mark.parametrize("limit", [0, 10])
def test_a_monitor_is_told_of_an_account_whose_last_outcomes_were_refusals(
    server: SmtpServer, settings: Any, limit: int
) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "REFUSALS_IN_A_ROW": limit}
    owner, other = account_on(server), account_on(server, name="other")
    newsletter(owner, 40)
    assert health(owner)[0] == 0
    rule = server.on("final", reply=SUSPENDED)
    prx.drain()
    code, figures = health(owner)
    assert (code, figures["pause_code"]) == (1, "refusing" if limit else "")
    assert figures["refused_in_a_row"] >= 10
    assert health(owner, "--account", "main")[0] == 1
    assert health(other, "--account", "other")[0] == 0
    rule.times = 0
    prx.resume_outbox(owner)
    backlog(owner, 1)
    prx.drain()
    code, figures = health(owner)
    assert (code, figures["refused_in_a_row"], figures["pause_code"]) == (0, 0, "")


def test_dead_addresses_worry_no_monitor(server: SmtpServer) -> None:
    owner = account_on(server)
    backlog(owner, 40)
    server.on("rcpt", reply="550 rejected")
    prx.drain()
    assert at_rest() == 40
    assert health(owner)[0] == 0


def test_a_message_that_a_person_cancelled_meanwhile_stays_cancelled(server: SmtpServer) -> None:
    owner = account_on(server, max_connections=1)
    rows = newsletter(owner, 9)
    server.on("final", reply="451 4.7.1 later")
    prx.drain()
    prx.cancel_outbox(rows[0].pk)
    newsletter(owner, 9)
    prx.drain()
    assert owner.pause_code == "refusing"
    assert list(OutboxMessage.objects.filter(next_attempt_at=None).values_list("pk", "last_error_code")) == [
        (rows[0].pk, "cancelled")
    ]


def test_refused_recipients_are_open_again(server: SmtpServer) -> None:
    owner = account_on(server)
    rows = newsletter(owner, 40, to=["ann@a.example", "bob@b.example"])
    server.on("rcpt", reply="550 5.7.1 account blocked")
    prx.drain()
    assert owner.pause_code == "refusing"
    assert set(rows[0].recipients.values_list("result", flat=True)) == {""}
    server.clear()
    prx.resume_outbox(owner)
    assert prx.drain().sent == 40


def test_a_persons_pause_says_so(server: SmtpServer) -> None:
    owner = account_on(server)
    prx.pause_outbox(owner, reason="holiday")
    assert (owner.pause_code, owner.pause_reason) == ("person", "holiday")
    prx.resume_outbox(owner)
    assert owner.pause_code == ""
