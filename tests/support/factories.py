"""Rows, claims and outcomes for tests of the store: its verbs at the fixed instant ``NOW``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import connections

from prx_email_django import api, store
from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Answer, Ending, Outcome, RecipientOutcome
from prx_email_django.status.facts import account_facts
from prx_email_django.status.reasons import account_sentence
from prx_email_django.store.attempts import FinishedAttempt, RecordedAttempt
from prx_email_django.store.claimed import Claim
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from tests.support.smtp_server import SmtpServer

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MEMORY: dict[str, Any] = {"TRANSPORT": "memory", "WAKE": ""}

_SAID = {
    Answer.ACCEPTED: RecipientOutcome(Answer.ACCEPTED, 250, "2.1.5", "ok"),
    Answer.REFUSED: RecipientOutcome(Answer.REFUSED, 550, "5.1.1", "no such user"),
    Answer.DEFERRED: RecipientOutcome(Answer.DEFERRED, 450, "4.2.1", "later"),
    Answer.TOO_MANY: RecipientOutcome(Answer.TOO_MANY, 452, "4.5.3", "too many"),
    Answer.UNKNOWN: RecipientOutcome(Answer.UNKNOWN),
    Answer.OPEN: RecipientOutcome(Answer.OPEN),
}
_USUAL = {Ending.ACCEPTED: Answer.ACCEPTED, Ending.UNKNOWN: Answer.UNKNOWN}


def account(name: str = "main", **fields: Any) -> Account:
    """An account without authentication, on a port of loopback where nobody listens."""
    values = {"email": "app@example.com", "host": "127.0.0.1", "port": 9, "security": "none", "auth_method": "none"}
    made: Account = Account.objects.create(name=name, **{**values, **fields})
    return made


def account_on(server: SmtpServer, name: str = "main", **fields: Any) -> Account:
    """An account without authentication on this server; with TLS if the server has TLS."""
    security = {None: "none", "starttls": "starttls", "implicit": "tls"}[server.tls]
    host = "localhost" if server.tls else server.host
    return account(name, **{"host": host, "port": server.port, "security": security, **fields})


def mail(owner: Account, **fields: Any) -> dict[str, Any]:
    """Arguments of ``enqueue`` and ``send``."""
    return {"account": owner, "to": "ann@example.org", "subject": "Hello", "body_text": "Hi Ann.", **fields}


def message(owner: Account, *, now: datetime | None = NOW, **fields: Any) -> OutboxMessage:
    """A queued message, due at ``now``."""
    return api.enqueue(**mail(owner, now=now, **fields))


def backlog(owner: Account, count: int, **fields: Any) -> list[OutboxMessage]:
    """Messages to ``p0@…``, ``p1@…`` and so on, due in real time."""
    mails = [{"to": f"p{n}@example.org", "subject": f"n {n}", "body_text": "text", **fields} for n in range(count)]
    return api.enqueue_many(mails, account=owner)


def account_reason(owner: Account, *, now: datetime | None = None) -> str:
    """The sentence that says why an account sends nothing."""
    running = at(now).running
    return account_sentence(account_facts([owner], now=running)[owner.pk], now=running)


def at(now: datetime | None = NOW) -> Clock:
    """The clock of one call."""
    return store.db.clock_for(now)


def take(owner: Account, *, limit: int = 10, hold_limit: int = 10, now: datetime = NOW) -> list[Claim]:
    """Claim the due messages of an account."""
    return store.claims.claim(owner.pk, limit=limit, hold_limit=hold_limit, clock=at(now)).claims


def take_one(row: OutboxMessage, *, now: datetime = NOW) -> Claim:
    """Claim this message; no other may be due."""
    (claim,) = take(row.account, now=now)
    assert claim.id == row.pk
    return claim


def outcome(ending: Ending, claim: Claim, answers: Mapping[str, Answer] | None = None, **fields: Any) -> Outcome:
    """An outcome in which every addressed recipient got the usual answer, except those of ``answers``."""
    usual = _USUAL.get(ending, Answer.OPEN)
    said = {address: _SAID[(answers or {}).get(address, usual)] for address in claim.open_addresses}
    if ending is Ending.ACCEPTED:
        fields.setdefault("response", "250 2.0.0 queued as 1")
    elif ending is not Ending.UNTOUCHED:
        fields.setdefault("error_code", "unknown_outcome" if ending is Ending.UNKNOWN else "provider")
        fields.setdefault("error", "as the test says")
    return Outcome(ending, recipients=said, mail_written=True, **fields)


def finish(
    claim: Claim, ending: Ending, answers: Mapping[str, Answer] | None = None, *, now: datetime = NOW, **fields: Any
) -> RecordedAttempt:
    """Finalize one claim; another worker may have its message by now."""
    said = outcome(ending, claim, answers, **fields)
    attempt = FinishedAttempt(claim, said, said.recipients, started_at=now, finished_at=now)
    (recorded,) = store.finalize.finalize([attempt], clock=at(now))
    return recorded


def lapse(rows: Iterable[OutboxMessage | Claim]) -> None:
    """Let the leases of these messages run out before ``NOW``."""
    ids = [row.id for row in rows]
    OutboxMessage.objects.filter(pk__in=ids, status="sending").update(claim_expires_at=NOW - SECOND)


def lose(claim: Claim, *, now: datetime = NOW) -> None:
    """Lose the worker of this claim, and recover its message."""
    lapse([claim])
    assert [attempt.message.pk for attempt in store.recover.recover(clock=at(now))] == [claim.id]


def make_due(row: OutboxMessage, *, now: datetime = NOW) -> OutboxMessage:
    """Make the message due at ``now`` by a plain UPDATE, as a person may do."""
    OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=now)
    row.refresh_from_db()
    return row


def fresh(row: OutboxMessage | Claim) -> OutboxMessage:
    """The row as it is now."""
    found: OutboxMessage = OutboxMessage.objects.get(pk=row.id)
    return found


def results(row: OutboxMessage | Claim) -> dict[str, str]:
    """Address -> result, as stored."""
    return dict(Recipient.objects.filter(message_id=row.id).values_list("address", "result"))


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at once, each on a connection of its own; exceptions are results too."""
    found: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(number: int) -> None:
        try:
            start.wait(PATIENCE)
            found[number] = calls[number]()
        except Exception as error:  # noqa: BLE001  (it is returned as the result)
            found[number] = error
        finally:
            connections[outbox_alias()].close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it waits for ever"
    return found


def double_messages(times: int) -> None:
    """Double the messages so many times by the database itself: the quickest way to a large table."""
    connection = connections[outbox_alias()]
    table = connection.ops.quote_name(OutboxMessage._meta.db_table)
    fields = [field for field in OutboxMessage._meta.concrete_fields if not (field.primary_key or field.generated)]
    columns = ", ".join(connection.ops.quote_name(field.column) for field in fields)
    with connection.cursor() as cursor:
        for _ in range(times):
            cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}")
