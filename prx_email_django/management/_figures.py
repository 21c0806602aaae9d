"""The lines of ``outbox_status``: the whole outbox, and one account."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.management.color import Style
from django.utils import timezone

from prx_email_django.management._common import age
from prx_email_django.status.advice import advice
from prx_email_django.status.figures import judge

DEFAULT_MAX_AGE = "10m"


def outbox_lines(figures: dict[str, Any], style: Style) -> Iterator[str]:
    """Yield the figures, a line for each account, and what a person must know."""
    oldest = figures["oldest_due_seconds"]
    lines = {
        "due": f"{figures['due']}" if oldest is None else f"{figures['due']}, the oldest for {_span(oldest)}",
        **{key: figures[key] for key in ("waiting", "sending", "at_rest", "unknown", "expired_leases")},
        "last_drain": _ago(figures["last_drain_at"], figures["at"]),
    }
    for key, value in lines.items():
        yield f"{key.replace('_', ' '):<16}{value}"
    for account in figures["accounts"]:
        yield from account_lines(account, indent="  ")
    for found in figures["unusable_accounts"]:
        yield style.ERROR(found["problem"])
    if not figures["accounts"]:
        yield 'There is no account. Declare an account in PRX_EMAIL["ACCOUNTS"], or add it in the admin.'
    if figures["paused"]:
        yield style.WARNING(_paused_line(figures["paused"]))
    if not figures["instance_matches"]:
        yield style.ERROR(judge(figures, max_age=age(DEFAULT_MAX_AGE))[1])


def account_lines(figures: dict[str, Any], *, indent: str = "") -> Iterator[str]:
    """Yield why the account waits, and what a person may do about it."""
    yield f"{figures['name']}: {figures['due']} due, {figures['waiting']} waiting; {figures['why']}"
    if hint := advice(figures["why"]):
        yield f"{indent}{hint}"


def _paused_line(paused: dict[str, Any]) -> str:
    until = f"until {paused['until']}" if paused["until"] else "until a person resumes it"
    return f"everything is paused {until}: {paused['reason']}"


def _ago(moment: str | None, now: str) -> str:
    if moment is None:
        return "never"
    then = datetime.fromisoformat(moment)
    passed = _span((datetime.fromisoformat(now) - then).total_seconds())
    return f"{timezone.localtime(then):%Y-%m-%d %H:%M:%S}, {passed} ago"


def _span(seconds: float) -> str:
    """Return a duration in one suitable unit: 95 s, 4 min, 30 h, 3 days."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
