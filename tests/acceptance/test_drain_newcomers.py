"""An account that waits for its server delays no other account, also none that had no mail when the drain began."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

import prx_email_django as prx
from tests.support.factories import account_on
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


def test_mail_for_an_idle_account_is_sent_while_another_account_waits_for_a_final_reply() -> None:
    with SmtpServer() as slow, SmtpServer() as quick:
        stalled = slow.on("final", stall=True)
        account_on(slow, "slow")
        account_on(quick, "quick")
        prx.enqueue(account="slow", to="a@example.org", subject="s", body_text="b")
        reports: list[prx.DrainReport] = []

        def run() -> None:
            try:
                reports.append(prx.drain())
            finally:
                connection.close()

        drain = threading.Thread(target=run)
        drain.start()
        try:
            assert stalled.reached.wait(60)
            prx.enqueue(account="quick", to="b@example.org", subject="s", body_text="b")
            assert quick.wait_for(1)
        finally:
            slow.release(stalled)
            drain.join(60)
        assert reports[0].sent == 2


@pytest.mark.parametrize(
    ("limits", "to"), [("1/hour", ["a@example.org"]), ("3 recipients/hour", ["a@example.org", "b@example.org"])]
)
def test_an_account_at_its_limit_opens_no_connection(limits: str, to: list[str]) -> None:
    with SmtpServer() as server:
        account_on(server, "limited", rate_limits=limits)
        for _ in range(2):
            prx.enqueue(account="limited", to=to, subject="s", body_text="b")
        assert prx.drain().sent == 1
        assert prx.drain().claimed == 0
        assert (len(server.messages), server.connections) == (1, 1)
