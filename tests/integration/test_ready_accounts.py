"""Which accounts a drain begins to work on, while it works on others."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from prx_email_django.store.outbox import outbox_and_clock
from prx_email_django.worker.current import CurrentOutbox
from prx_email_django.worker.ready_accounts import ReadyAccounts
from tests.support.factories import account, backlog

pytestmark = pytest.mark.django_db


def test_accounts_that_are_worked_on_are_not_looked_at_again() -> None:
    """Two statements for each of them, once a second, were a quarter of what a drain of 200 accounts asked."""
    first, second = account("first"), account("second")
    for owner in (first, second):
        backlog(owner, 1)
    outbox, clock = outbox_and_clock(None)
    ready = ReadyAccounts(CurrentOutbox(outbox), named=None, clock=clock, idle=None)

    def look(running: set[int]) -> tuple[list[int], int]:
        with CaptureQueriesContext(connection) as statements:
            found = [current.account.pk for current in ready.look(running=running)]
        return found, len(statements)

    (both, all_asked), (other, half_asked), (nobody, least) = look(set()), look({first.pk}), look({first.pk, second.pk})
    assert (both, other, nobody) == ([first.pk, second.pk], [second.pk], [])
    assert all_asked - half_asked == half_asked - least > 0
