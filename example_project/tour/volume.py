"""Steps: a server that is down, and a lot of mail."""

from __future__ import annotations

from collections import Counter
from io import StringIO

from django.core.management import call_command

import prx_email_django as prx
from example_project.catcher.process import Catcher
from example_project.tour.telling import Scene, Step, Told, expect
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.status.figures import account_reason

BACKLOG = 1000


def dead_server(scene: Scene) -> Told:
    """One account's server does not answer; the others go on."""
    for day in ("Monday", "Tuesday"):
        prx.enqueue(account="reports", to="staff@shop.example", subject=f"Report of {day}", body_text="Numbers.\n")
    prx.enqueue(account="orders", to="ann@example.org", subject="Your parcel has arrived", body_text="Really.\n")
    expect("sent by the drain", prx.drain().sent, 1)
    waiting = OutboxMessage.objects.filter(account__name="reports", status="pending", attempts=0)
    expect("reports that wait, untouched", waiting.count(), 2)
    account = Account.objects.get(name="reports")
    expect("paused", "connection failed" in account.pause_reason, True)
    why = account_reason(account)
    with Catcher(scene.var, starttls=scene.ports["reports"]):
        call_command("outbox_resume", "reports", stdout=StringIO())
        expect("sent after resuming", prx.drain().sent, 2)
    return Told(
        "paused, then sent",
        (
            "other accounts go on, 2 reports wait untouched",
            f"account “reports”: {why}",
            "its server comes up, and manage.py outbox_resume",
            "a drain sends both reports",
        ),
    )


def backlog(scene: Scene) -> Told:
    """As many as the little server can take."""
    letters = (
        {"to": f"reader{number}@example.org", "subject": "The autumn list", "body_text": f"Dear reader {number},\n"}
        for number in range(BACKLOG)
    )
    prx.enqueue_many(letters, account="newsletter")
    report = prx.drain()
    expect("sent", report.sent, BACKLOG)
    arrived = Counter(
        header["X-Envelope-To"] for _, header in scene.inbox.headers(BACKLOG) if header["Subject"] == "The autumn list"
    )
    expect("readers who got it", len(arrived), BACKLOG)
    expect("most copies of any", max(arrived.values()), 1)
    connections = Account.objects.get(name="newsletter").max_connections
    return Told(
        "sent",
        (
            f"{report.sent} sent in {report.seconds:.1f} s: {report.sent / report.seconds:.0f} messages a second,",
            f"over {connections} connections, to the example's own server",
            f"{len(arrived)} in the inbox, none of them twice",
        ),
    )


STEPS = (
    Step("Meet a server that is down", dead_server),
    Step(f"Send {BACKLOG} newsletters", backlog),
)
