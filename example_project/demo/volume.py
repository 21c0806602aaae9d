"""Steps with more than one account at work: a server that is down, and many messages."""

from __future__ import annotations

from collections import Counter
from io import StringIO

from django.core.management import call_command

import prx_email_django as prx
from example_project.catcher.process import Catcher
from example_project.demo.steps import DemoContext, Step, StepResult, expect
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.status.figures import outbox_status

BACKLOG = 1000


def find_server_down(context: DemoContext) -> StepResult:
    """The server of one account does not answer; the other accounts continue."""
    for day in ("Monday", "Tuesday"):
        prx.enqueue(account="reports", to="staff@shop.example", subject=f"Report of {day}", body_text="Numbers.\n")
    prx.enqueue(account="orders", to="ann@example.org", subject="Your order has arrived", body_text="Really.\n")
    expect("sent by the drain", prx.drain().sent, 1)
    waiting = OutboxMessage.objects.filter(account__name="reports", status="pending", attempts=0)
    expect("reports that wait without an attempt", waiting.count(), 2)
    account = Account.objects.get(name="reports")
    expect("paused", "connection failed" in account.pause_reason, True)
    (reason,) = (found["why"] for found in outbox_status()["accounts"] if found["name"] == account.name)
    with Catcher(context.var, starttls=context.ports["reports"]):
        call_command("outbox_resume", "reports", stdout=StringIO())
        expect("sent after resuming", prx.drain().sent, 2)
    return StepResult(
        "paused, then sent",
        (
            "The account “orders” still sent its message; 2 messages of the account “reports” wait.",
            f"State of the account “reports”: “{reason}”.",
            "The server was started, and “manage.py outbox_resume reports” ended the pause.",
            "Then a drain sent both messages.",
        ),
    )


def send_backlog(context: DemoContext) -> StepResult:
    """Send as fast as the example's mail server can receive."""
    messages = (
        {"to": f"reader{number}@example.org", "subject": "The autumn list", "body_text": f"Dear reader {number},\n"}
        for number in range(BACKLOG)
    )
    prx.enqueue_many(messages, account="newsletter")
    report = prx.drain()
    expect("sent", report.sent, BACKLOG)
    arrived = Counter(
        header["X-Envelope-To"]
        for _, header in context.inbox.headers(BACKLOG)
        if header["Subject"] == "The autumn list"
    )
    expect("readers with a message", len(arrived), BACKLOG)
    expect("most copies for one reader", max(arrived.values()), 1)
    connections = Account.objects.get(name="newsletter").max_connections
    return StepResult(
        "sent",
        (
            f"{report.sent} messages in {report.seconds:.1f} s: {report.sent / report.seconds:.0f} messages a second",
            f"over {connections} connections to the example's mail server.",
            f"{len(arrived)} messages are in the inbox, no message twice.",
        ),
    )


STEPS = (
    Step("Send while the server of one account is down", find_server_down),
    Step(f"Send {BACKLOG} newsletters", send_backlog),
)
