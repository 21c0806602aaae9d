"""The end of the demo: counts per account, and where to look next."""

from __future__ import annotations

from pathlib import Path

from django.db.models import Count, Q
from rich.table import Table

from example_project.demo.steps import DemoContext, expect
from example_project.output import console, print_pairs
from example_project.prepare import ADMIN, ADMIN_PASSWORD
from prx_email_django.models import Account
from prx_email_django.status.figures import account_reason


def print_summary(context: DemoContext) -> None:
    """Print the counts of every account, compare them with the inbox, and print where to look next."""
    accounts = _accounts_with_counts()
    table = Table("Account")
    for name in ("Sent", "Waiting", "At rest"):
        table.add_column(name, justify="right")
    table.add_column("State")
    for account in accounts:
        counts = (account.sent, account.waiting, account.at_rest)
        table.add_row(account.name, *map(str, counts), account_reason(account))
    console.print("The outbox after the last step:", style="bold")
    console.print(table)
    arrived = len(context.inbox.names())
    expect("messages in the inbox", arrived, sum(account.sent for account in accounts))
    console.print(f"All {arrived} sent messages are in the inbox of the example's mail server, each exactly once.")
    console.print()
    console.print("What to look at now:")
    print_pairs(
        {
            "make serve": f"starts a shop and the admin with these messages (user {ADMIN}, password {ADMIN_PASSWORD})",
            "inbox": f"{_short(context.var / 'inbox')}, one file for each message",
            "log": _short(context.var / "outbox.log"),
        }
    )
    console.print()


def _accounts_with_counts() -> list[Account]:
    is_sent = Q(messages__status="sent")
    is_at_rest = Q(messages__status="failed", messages__next_attempt_at=None)
    counted = Account.objects.annotate(
        sent=Count("messages", filter=is_sent),
        at_rest=Count("messages", filter=is_at_rest),
        waiting=Count("messages", filter=Q(messages__next_attempt_at__isnull=False)),
    )
    return list(counted.order_by("pk"))


def _short(path: Path) -> str:
    """Return a path relative to the current folder if possible."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
