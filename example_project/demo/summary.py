"""The end of the demo, on one screen: what became of all mail, what went wrong on the way, and where to look next."""

from __future__ import annotations

from pathlib import Path

from rich.panel import Panel
from rich.table import Table

from example_project.demo.steps import DemoContext, expect
from example_project.output import console, print_pairs
from example_project.prepare import ADMIN, ADMIN_PASSWORD
from prx_email_django.models import OutboxMessage
from prx_email_django.models.conditions import NEEDS_PERSON

#: What went wrong in the steps, and what became of the mail: each step has proved its line.
TROUBLES = (
    ("The payment failed", "No order, and no receipt."),
    ("One of three recipients is unknown", "The two others got the message."),
    ("A mailbox was busy", "It was sent two seconds later."),
    ("The connection broke before the answer", "No second copy; a person looked."),
    ("The mail server was down", "Its mail was sent later."),
)


def print_summary(context: DemoContext) -> None:
    """Count all mail, compare it with the inbox, and print one screen: 80 columns, 24 lines."""
    sent = OutboxMessage.objects.filter(status="sent").count()
    waiting = OutboxMessage.objects.filter(next_attempt_at__isnull=False).count()
    arrived = len(context.inbox.names())
    expect("messages in the inbox", arrived, sent)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row(f"{OutboxMessage.objects.count()}", "messages were written to the database, each before it was sent.")
    table.add_row(f"{arrived}", "messages are in the inbox of the mail server, each of them once.")
    table.add_row(f"{waiting}", "messages wait.")
    table.add_row(f"{OutboxMessage.objects.filter(NEEDS_PERSON).count()}", "messages need a person.")
    console.print(Panel(table, title="What became of the mail", title_align="left"))
    troubles = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for trouble, end in TROUBLES:
        troubles.add_row(trouble, end)
    console.print(Panel(troubles, title="What went wrong on the way, and how it ended", title_align="left"))
    console.print("What to do next:")
    print_pairs(
        {
            "make serve": "opens a small shop: order a book, let its mail provider fail,",
            "": f"see what the operator sees (user {ADMIN}, password {ADMIN_PASSWORD})",
            "read": f"{_short(context.var / 'inbox')} and {_short(context.var / 'outbox.log')}",
        }
    )
    console.print()


def _short(path: Path) -> str:
    """Return a path relative to the current folder if possible."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
