"""The database is lost at any statement of a call: the caller learns what the table says, and nothing is copied."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from django.db import OperationalError, connection

import prx_email_django as prx
from prx_email_django.models import ConnectionSlot, OutboxMessage
from prx_email_django.store.absence import unwritten
from tests.acceptance.workers import finish
from tests.support.factories import account_on, backlog, mail
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


class LostStatement:
    """The n-th statement fails as if the session had ended; ``answer``: it took effect, only its answer was lost."""

    def __init__(self, number: int, *, answer: bool) -> None:
        self.number = number
        self.answer = answer
        self.lost = ""

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        self.number -= 1
        if self.number != 0:
            return execute(sql, params, many, context)
        self.lost = sql
        if self.answer:
            execute(sql, params, many, context)
        raise OperationalError(2013, "the connection was lost")


#: No answer of SQLite can be lost: it runs in this process.
WAYS = [False] if connection.vendor == "sqlite" else [False, True]


@pytest.mark.parametrize("answer", WAYS, ids=lambda answer: "answer" if answer else "statement")
@pytest.mark.parametrize("verb", ["send", "retry_outbox"])
def test_a_database_that_is_lost_at_any_statement_copies_nothing(verb: str, answer: bool) -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        for number in count(1):
            before = len(server.messages)
            rows = [] if verb == "send" else backlog(account, 1)
            lost = LostStatement(number, answer=answer)
            result = None
            with connection.execute_wrapper(lost):
                try:
                    result = prx.retry_outbox(rows[0].pk) if rows else prx.send(**mail(account))
                except OperationalError as error:
                    assert lost.lost, error
            if not lost.lost:
                break
            assert unwritten.wait_until_written(PATIENCE)
            assert not OutboxMessage.objects.filter(status="sending").exists(), f"still claimed after {lost.lost}"
            sent = OutboxMessage.objects.filter(status="sent").count()
            assert sent == len(server.messages) - before, f"{sent} after {lost.lost}"
            assert result is not None or not sent, f"{verb} raised although the message was sent: {lost.lost}"
            assert not ConnectionSlot.objects.filter(token__isnull=False).exists(), lost.lost
            finish()
            assert OutboxMessage.objects.filter(status="sent").count() == len(server.messages) - before
            OutboxMessage.objects.all().delete()
        assert number > 5, "it takes several statements"
