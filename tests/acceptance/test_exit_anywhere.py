"""SystemExit at any line of a claim or of what records a result: what the worker knows is in the table afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any, Self

import pytest
from django.db import connection, transaction

import prx_email_django as prx
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.store import claims, cursor, db
from prx_email_django.store.absence import unwritten
from prx_email_django.worker import claim_source, prefetch
from tests.support.factories import account_on, backlog, fresh
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

GONE = "gone@example.org"
#: Where Django's transaction and ours are.
TRANSACTIONS = (transaction.__file__, db.__file__)
#: Where a worker claims.
CLAIMING = (claims.__file__, cursor.__file__, claim_source.__file__, prefetch.__file__)


class ExitAtLine:
    """Raises SystemExit before a line of this thread is run: the n-th of the functions that ``wants`` picks out."""

    def __init__(self, number: int, wants: Callable[[FrameType], bool]) -> None:
        self.number = number
        self.wants = wants
        self.raised = False

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter_function)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _enter_function(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return None if self.raised or not self.wants(frame) else self._before_line

    def _before_line(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line" and not self.raised:
            self.number -= 1
            if self.number == 0:
                self.raised = True
                raise SystemExit("timed out")
        return self._before_line


def transaction_of_result(frame: FrameType) -> bool:
    """The beginning and the end of the transaction in which a result with a refusal is recorded."""
    if frame.f_code.co_name not in ("__enter__", "__exit__") or frame.f_code.co_filename not in TRANSACTIONS:
        return False
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename in TRANSACTIONS and caller.f_code.co_name != "attempt":
        caller = caller.f_back
    return caller is not None and caller.f_code.co_name == "_record_one"


def test_system_exit_where_a_transaction_begins_or_ends_loses_no_result() -> None:
    """Django went on as if a transaction were open, in which everything was written, and which nobody committed."""
    with SmtpServer() as server:
        server.refuse(GONE)
        account = account_on(server, max_connections=1)
        for line in count(1):
            (row,) = backlog(account, 1, cc=GONE)
            with ExitAtLine(line, transaction_of_result) as exit_at:
                try:
                    prx.drain()
                except SystemExit:
                    assert exit_at.raised
            assert not connection.in_atomic_block
            if not exit_at.raised:
                break
            connection.close()  # what is in an open transaction only is gone
            assert unwritten.wait_until_written(PATIENCE)
            row.refresh_from_db()
            assert (row.status, set(row.refused_recipients)) == ("sent", {GONE}), f"line {line}"
            assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
        assert line > 10, "a transaction begins and ends with several lines"
        assert len(server.messages) == line
        assert list(DeliveryAttempt.objects.values_list("outcome", flat=True)) == ["sent"] * line


def reading_a_claim(frame: FrameType) -> bool:
    """Between the claim's statement and the place where the worker keeps its claims."""
    return frame.f_code.co_name in ("claim", "_claim", "passed", "note") and frame.f_code.co_filename in CLAIMING


def test_system_exit_where_a_claim_is_read_releases_what_was_claimed() -> None:
    """It stayed claimed until its lease ended, and a message with ``hold`` came to rest: it may have been delivered."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        for line in count(1):
            rows = backlog(account, 2, on_unknown="hold")
            with ExitAtLine(line, reading_a_claim) as exit_at:
                try:
                    prx.drain()
                except SystemExit:
                    assert exit_at.raised
            if server.messages:
                break
            assert unwritten.wait_until_written(PATIENCE)
            assert {fresh(row).status for row in rows} == {"pending"}, f"line {line}"
            assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
            OutboxMessage.objects.all().delete()
        assert line > 20, "a claim takes several lines"
