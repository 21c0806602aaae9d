"""Text that the database cannot hold: a stranger's is replaced and the fact is recorded; a caller's is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connections, transaction
from django.test import override_settings

from prx_email_django import api, store
from prx_email_django.checks.database import check_character_set
from prx_email_django.errors import AccountUnavailable, InvalidMessage, ReplyRejected
from prx_email_django.limits import pauses, slots
from prx_email_django.models import Account, AccountState, DeliveryAttempt, InboundMessage, OutboxMessage, Recipient
from prx_email_django.rules.outcomes import Answer, Ending, RecipientOutcome, Trouble
from prx_email_django.store.attempts import FinishedAttempt
from tests import settings
from tests.support.factories import (
    NOW,
    account,
    account_on,
    at,
    backlog,
    finish,
    fresh,
    lose,
    mail,
    message,
    outcome,
    take,
    take_one,
)
from tests.support.narrow_database import ALIAS, KINDS, narrow_database
from tests.support.smtp_server import SmtpServer

#: What a server, a certificate or a sender may say; each text is longer than its column in characters.
WORDS = {
    "emoji": "250 queued \N{ROCKET}" * 30,
    "cyrillic": "550 отказано " * 30,
    "nul": "250 a\x00b " * 60,
    "surrogate": "250 \udce4\ud83d " * 60,
    "noncharacter": "250 \ufffe\uffff\ufeff\U0010ffff" * 30,
    "latin": "250 größer " * 40,
}


@pytest.fixture(scope="module", params=sorted(KINDS[settings.DATABASE]))
def kind(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[str]:
    with django_db_blocker.unblock(), narrow_database(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _unblocked(kind: str, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield
        for model in (OutboxMessage, InboundMessage, Account):
            model.objects.all().delete()


@pytest.mark.parametrize("words", sorted(WORDS))
@pytest.mark.parametrize("ending", [Ending.ACCEPTED, Ending.TEMPORARY, Ending.PERMANENT, Ending.UNKNOWN])
def test_an_outcome_is_recorded_once_whatever_the_server_says(words: str, ending: Ending) -> None:
    said = WORDS[words]
    row = message(account())
    finish(take_one(row), ending, error=said, response=said, peer=said, enhanced=said)
    now = fresh(row)
    assert now.status == ("sent" if ending is Ending.ACCEPTED else "failed")
    attempt = DeliveryAttempt.objects.get()
    assert attempt.outcome == {"accepted": "sent", "unknown": "unknown"}.get(ending, "failed")
    assert "\x00" not in f"{attempt.peer}{attempt.error}{now.provider_response}{now.last_error}"


@pytest.mark.parametrize("words", sorted(WORDS))
def test_an_outcome_in_doubt_and_a_recipients_answer_are_recorded(words: str) -> None:
    said = WORDS[words]
    row = message(account(), to=["a@x.org", "b@x.org"])
    claim = take_one(row)
    answers = {
        "a@x.org": RecipientOutcome(Answer.ACCEPTED, 250, "2.1.5", said),
        "b@x.org": RecipientOutcome(Answer.REFUSED, 550, "5.1.1", said),
    }
    attempt = FinishedAttempt(claim, outcome(Ending.ACCEPTED, claim), answers, started_at=NOW, finished_at=NOW)
    store.finalize.finalize([attempt], clock=at(NOW))
    assert fresh(row).status == "sent"
    assert set(Recipient.objects.values_list("address", "result")) == {("a@x.org", ""), ("b@x.org", "refused")}
    assert DeliveryAttempt.objects.count() == 1


@pytest.mark.parametrize("words", sorted(WORDS))
def test_a_late_result_is_recorded(words: str) -> None:
    row = message(account())
    claim = take_one(row)
    lose(claim)
    assert finish(claim, Ending.ACCEPTED, response=WORDS[words], peer=WORDS[words]).late
    assert fresh(row).status == "sent"
    assert DeliveryAttempt.objects.get().outcome == "sent"


def test_the_others_of_a_group_are_recorded_with_it() -> None:
    owner = account()
    rows = [message(owner) for _ in WORDS]
    claims = {claim.id: claim for claim in take(owner)}
    attempts = []
    for row, said in zip(rows, WORDS.values(), strict=True):
        accepted = outcome(Ending.ACCEPTED, claims[row.pk], response=said, peer=said)
        attempts.append(FinishedAttempt(claims[row.pk], accepted, accepted.recipients, started_at=NOW, finished_at=NOW))
    recorded = store.finalize.finalize(attempts, clock=at(NOW))
    assert len(recorded) == len(rows) == DeliveryAttempt.objects.count()
    assert {fresh(row).status for row in rows} == {"sent"}


@pytest.mark.parametrize("words", sorted(WORDS))
def test_a_pause_and_a_slot_are_recorded(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account()
    monkeypatch.setattr("socket.gethostname", lambda: WORDS[words])
    assert pauses.note_failure(owner, Trouble.AUTH, WORDS[words], clock=at(NOW)) is not None
    assert AccountState.objects.get().pause_code == "auth"
    assert slots.acquire_slots(owner, 1, noted=set(), clock=at(NOW))
    row = message(owner)
    finish(take_one(row), Ending.ACCEPTED)
    assert fresh(row).status == "sent"


def _inbound(**fields: str) -> bytes:
    given = {"Message-ID": "<1@far.example>", "From": "ann@far.example", **fields}
    return "".join(f"{name}: {value}\r\n" for name, value in given.items()).encode("utf-8", "surrogateescape") + b"\r\n"


@pytest.mark.parametrize("words", sorted(WORDS))
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in the caller's transaction"])
def test_received_mail_is_recorded(words: str, inside: bool) -> None:
    said = WORDS[words].encode("utf-8", "replace").decode().replace("\x00", "\x01")
    raw = _inbound(
        Subject=said, From=f'"{said[:30]}" <ann@far.example>', **{"Reply-To": f'"{said[:30]}" <b@far.example>'}
    )
    owner = account()
    if inside:
        with transaction.atomic(using=ALIAS):
            record = api.record_inbound(owner, raw)
            assert OutboxMessage.objects.count() == 0  # the caller's transaction still works
    else:
        record = api.record_inbound(owner, raw)
    stored = InboundMessage.objects.get(pk=record.pk)
    assert stored.sender.endswith("<ann@far.example>")
    assert stored.reply_to[0].endswith("<b@far.example>")
    assert api.record_inbound(owner, raw).pk == record.pk


def test_a_senders_address_never_becomes_somebody_elses() -> None:
    owner = account()
    api.record_inbound(owner, _inbound(From="a\N{ROCKET}b@far.example"))
    stored = InboundMessage.objects.get()
    assert stored.sender in {"a\N{ROCKET}b@far.example", "a b@far.example"}
    assert "?" not in stored.sender


CANNOT_HOLD = {"latin1", "utf8mb3", "latin1_client", "utf8mb3_client"}


@pytest.mark.parametrize("field", ["subject", "body_text", "body_html", "from_email"])
@pytest.mark.parametrize("verb", ["enqueue", "send", "enqueue_many"])
def test_a_callers_text_is_stored_as_it_is_or_refused_at_the_call(kind: str, field: str, verb: str) -> None:
    owner = account()
    text = "Grüße \N{ROCKET}" + (" <app@example.com>" if field == "from_email" else "")
    given = {**mail(owner), field: text}
    try:
        if verb == "enqueue_many":
            del given["account"]
            api.enqueue_many([given], account=owner)
        else:
            getattr(api, verb)(**given)
    except InvalidMessage as error:
        assert error.code == "invalid_option"
        assert "character set" in str(error)
        assert kind in CANNOT_HOLD
        assert not OutboxMessage.objects.exists()
    else:
        assert getattr(OutboxMessage.objects.get(), field) == text
        assert kind not in CANNOT_HOLD


def test_a_refused_text_leaves_the_callers_transaction_usable(kind: str) -> None:
    owner = account()
    with transaction.atomic(using=ALIAS):
        for text in ("\N{ROCKET}", "plain"):
            try:
                api.enqueue(**mail(owner, subject=text))
            except InvalidMessage:
                assert text == "\N{ROCKET}"
    assert OutboxMessage.objects.filter(subject="plain").exists()


def test_a_message_of_the_email_backend_is_queued_and_sent_as_it_is() -> None:
    owner = account()
    email = EmailMessage("Grüße \N{ROCKET}", "Text \N{ROCKET}", "app@example.com", ["Zoë \N{ROCKET} <ann@example.org>"])
    (row,) = api.enqueue_many([email], account=owner)
    assert OutboxMessage.objects.get(pk=row.pk).as_email()["Subject"] == "Grüße \N{ROCKET}"
    assert api.drain(accounts=[owner]).sent == 1


def test_connections_are_of_the_narrow_database() -> None:
    assert store.db.outbox_alias() == ALIAS
    assert connections[ALIAS].vendor in {"sqlite", "postgresql", "mysql"}


def test_a_check_names_what_does_not_hold_every_character(kind: str) -> None:
    found = check_character_set(databases=[ALIAS])
    assert check_character_set(databases=["default"]) == []
    if kind in {"utf8", "client_in_latin1"}:
        assert found == []
        return
    (warning,) = found
    assert warning.id == "prx_email_django.W022"
    assert warning.hint
    if kind in {"latin1", "latin1_client", "utf8mb3"} and connections[ALIAS].vendor == "mysql":
        assert "prx_email_django_outboxmessage, " in warning.msg
        assert "django_migrations" not in warning.msg
    elif kind == "utf8mb3_client":
        assert "utf8mb3" in warning.msg
        assert "prx_email_django_outboxmessage" not in warning.msg


#: Stage of the conversation -> messages that the drain sends, of three: the first of them is answered so.
ANSWERED = {"greeting": 0, "ehlo": 0, "mail": 2, "rcpt": 2, "data": 2, "final": 2}
RAW_WORDS = {
    "emoji": "words \N{ROCKET} слова".encode(),
    "not UTF-8": b"words \xff\xfe\xf0\x9f",
    "nul": b"words \x00 \x00",
    "long": "größer \N{ROCKET}".encode() * 400,
}


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (stage, words)
        for stage in (*ANSWERED, "accepted")
        for words in (RAW_WORDS if stage in {"final", "accepted"} else ("emoji", "nul"))
    ],
)
def test_a_drain_goes_on_whatever_a_server_says_in_whatever_phase(stage: str, words: str) -> None:
    with override_settings(PRX_EMAIL={"TRANSPORT": "smtp", "WAKE": ""}), SmtpServer(pipelining=False) as server:
        owner = account_on(server, max_connections=1)
        rows = backlog(owner, 3)
        if stage == "accepted":
            server.on("final", raw=b"250 " + RAW_WORDS[words] + b"\r\n", accept=True)
        else:
            server.on(stage, raw=b"451 " + RAW_WORDS[words] + b"\r\n", nth=1)
        report = api.drain()
        delivered = len(server.messages)
    assert report.sent == OutboxMessage.objects.filter(status="sent").count()
    assert report.sent == delivered
    if stage == "accepted":
        assert report.sent == len(rows) == DeliveryAttempt.objects.filter(outcome="sent").count()
    elif ANSWERED[stage]:
        assert report.sent == ANSWERED[stage]
        assert DeliveryAttempt.objects.filter(outcome="failed").count() == 1
    else:
        assert OutboxMessage.objects.filter(attempts__gt=0).count() == 0
    assert not OutboxMessage.objects.filter(status="sending").exists()


@pytest.mark.parametrize("name", ["\N{ROCKET}", "größer", "a\x00b", "\ud800", "x" * 400])
def test_a_name_that_the_database_cannot_hold_is_nobodys(name: str) -> None:
    owner = account()
    with transaction.atomic(using=ALIAS):
        with pytest.raises(AccountUnavailable):
            api.enqueue(**{**mail(owner), "account": name})
        assert not OutboxMessage.objects.exists()  # the caller's transaction still works
    with pytest.raises(ReplyRejected):
        api.reply(account=owner, in_reply_to_message_id=name, body_text="text")
